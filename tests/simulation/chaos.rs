//! What strikes the world: the moments of the weather.

use std::{sync::Arc, time::Duration};

use super::{
    cluster::Cluster,
    node::Node,
    weather::{Fault, Weather},
    world::State,
};

/// The database's machine dies and comes back: what it had not flushed is gone, and for a while nobody gets through.
pub fn crash_database(state: &mut State, at: Duration) {
    let lost = state.db.crash();
    state.count("fault DatabaseCrash");
    if !lost.is_empty() {
        state.count("fault claim forgotten");
    }
    state
        .trace
        .note(at, 0, "database crash", || format!("forgets {lost:?}"));
    state.oracle.forgotten(&lost);
    let longest = state.among(&[30, 300, 2_000]);
    let away = Duration::from_millis(1 + state.below(longest));
    state.database_away_until = at + away;
}

impl Cluster {
    /// Faults strike until `end`; then everything is put right.
    pub async fn storm(&mut self, end: Duration) {
        let strokes = self.world.state().weather.strokes.clone();
        while self.world.elapsed() < end && !self.world.is_broken() {
            let pause = 200 + self.world.state().below(2_500);
            self.world.nap(Duration::from_millis(pause)).await;
            if strokes.is_empty() {
                continue;
            }
            let fault = self.world.state().among(&strokes);
            self.strike(fault);
        }
        self.calm();
    }

    fn strike(&mut self, fault: Fault) {
        let workers = self.living();
        let world = Arc::clone(&self.world);
        let (at, mut state) = (world.elapsed(), world.state());
        let node: Option<Arc<Node>> = (!workers.is_empty()).then(|| {
            let place = state.below(workers.len() as u64);
            Arc::clone(&workers[usize::try_from(place).unwrap_or_default()])
        });
        let number = node.as_ref().map_or(0, |node| node.number);
        state
            .trace
            .note(at, number, "strike", || format!("{fault:?}"));
        if fault != Fault::DatabaseCrash {
            state.count(&format!("fault {fault:?}"));
        }
        let soon = Duration::from_millis(300 + state.below(6_000));
        match fault {
            Fault::QueueAway => state.queue_away_until = at + soon,
            Fault::DatabaseAway => state.database_away_until = at + soon,
            Fault::LeaderSplit => state.split_until = at + soon,
            Fault::DatabaseCrash => crash_database(&mut state, at),
            Fault::QueueFlushed => {
                state.queue = main_webserver::queue::FairQueue::default();
                state.waiting.clear();
            }
            Fault::ClockForward | Fault::ClockBack => {
                let micros = i64::try_from(state.below(10_000_000)).unwrap_or_default();
                let back = if fault == Fault::ClockBack {
                    -micros
                } else {
                    micros
                };
                if let Some(node) = node {
                    node.set_skew(back);
                }
            }
            Fault::Freeze => {
                if let Some(node) = node {
                    node.freeze();
                    let thawing = Arc::clone(&world);
                    tokio::spawn(async move {
                        thawing.nap(soon).await;
                        node.thaw();
                    });
                }
            }
            Fault::Crash | Fault::Drain => {
                drop(state);
                if let Some(node) = node {
                    if fault == Fault::Crash {
                        node.crash();
                    } else {
                        node.stop.cancel();
                    }
                    self.start_worker();
                }
            }
        }
    }

    /// The faults stop: clocks go right, everybody answers.
    fn calm(&mut self) {
        {
            let mut state = self.world.state();
            state.weather = Weather::clear();
            let at = self.world.elapsed();
            state.queue_away_until = at;
            state.database_away_until = at;
            state.split_until = at;
            state.trace.note(at, 0, "calm", String::new);
        }
        for node in self.all() {
            node.set_skew(0);
            node.thaw();
        }
    }
}
