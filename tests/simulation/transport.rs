//! The queue and the bus between the nodes, with what the weather does to messages.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use main_webserver::{
    domain::{Change, Id, id::Task},
    error::TransportError,
    live::{EventBus, Interest, InterestListener, Listener, Topic},
    queue::{Taken, TaskQueue},
    store::tasks::Hint,
};

use super::{
    node::Node,
    world::{State, World},
};

pub struct SimQueue(pub Arc<Node>);

fn away() -> TransportError {
    TransportError("the queue is away".to_owned())
}

fn push(world: &World, state: &mut State, hint: Hint) {
    state.queue.push(hint);
    state
        .waiting
        .insert((hint.priority.rank(), hint.task.uuid()));
    state.oracle.announced(hint);
    world.arrived.notify_one();
}

impl SimQueue {
    fn is_away(&self) -> bool {
        let at = self.0.world.elapsed();
        let mut state = self.0.world.state();
        let rate = state.weather.queue_fails;
        if state.strikes(rate) {
            state.count("fault queue fails");
            return true;
        }
        state.queue_away_until > at
    }

    fn take(&self, max: usize) -> Vec<Id<Task>> {
        let world = &self.0.world;
        let mut state = world.state();
        let state = &mut *state;
        let mut taken = Vec::new();
        while taken.len() < max
            && let Some(task) = state.queue.pop()
        {
            let first = state.waiting.first().map(|(priority, _)| *priority);
            let place = first.map(|priority| (priority, task.uuid()));
            if !place.is_some_and(|place| state.waiting.remove(&place)) {
                state
                    .oracle
                    .fail(format!("{task} was taken before a more urgent hint"));
            }
            taken.push(task);
        }
        if !state.queue.is_empty() {
            world.arrived.notify_one();
        }
        state
            .trace
            .note(world.elapsed(), self.0.number, "next", || {
                format!("{taken:?}")
            });
        taken
    }
}

#[async_trait]
impl TaskQueue for SimQueue {
    async fn announce(&self, hints: &[Hint]) -> Result<(), TransportError> {
        let node = &self.0;
        node.gate().await;
        let latency = node.world.state().latency();
        node.world.nap(latency).await;
        if self.is_away() {
            return Err(away());
        }
        for hint in hints {
            let mut state = node.world.state();
            let (lost, twice, late) = (
                state.weather.hint_lost,
                state.weather.hint_twice,
                state.weather.hint_late,
            );
            if state.strikes(lost) {
                state.count("fault hint lost");
                continue;
            }
            if state.strikes(twice) {
                state.count("fault hint twice");
                let longest = state.among(&[100, 800, 4_000]);
                let pause = Duration::from_millis(1 + state.below(longest));
                deliver_later(node, *hint, pause);
            }
            if state.strikes(late) {
                state.count("fault hint late");
                let pause = Duration::from_millis(1 + state.below(6_000));
                deliver_later(node, *hint, pause);
            } else {
                push(&node.world, &mut state, *hint);
            }
        }
        node.world
            .note(node.number, "announce", || format!("{hints:?}"));
        node.gate().await;
        Ok(())
    }

    async fn backlog(&self) -> Result<usize, TransportError> {
        self.0.gate().await;
        if self.is_away() {
            return Err(away());
        }
        Ok(self.0.world.state().queue.len())
    }

    async fn next(&self, max: usize, wait: Duration) -> Result<Taken, TransportError> {
        let node = &self.0;
        node.gate().await;
        if self.is_away() {
            return Err(away());
        }
        let mut taken = self.take(max);
        if taken.is_empty() {
            let _ = tokio::time::timeout(wait, node.world.arrived.notified()).await;
            node.gate().await;
            if self.is_away() {
                return Err(away());
            }
            taken = self.take(max);
        }
        let latency = node.world.state().latency();
        node.world.nap(latency).await;
        node.gate().await;
        Ok(taken.into())
    }
}

/// A message on a long way; it arrives whatever becomes of its sender.
fn deliver_later(node: &Arc<Node>, hint: Hint, pause: Duration) {
    let world = Arc::clone(&node.world);
    tokio::spawn(async move {
        world.nap(pause).await;
        push(&world, &mut world.state(), hint);
    });
}

/// One node's way to all of them.
pub struct SimBus {
    pub node: Arc<Node>,
    pub nodes: Arc<std::sync::Mutex<Vec<Arc<Node>>>>,
}

#[async_trait]
impl EventBus for SimBus {
    async fn publish(&self, changes: &[Change]) -> Result<(), TransportError> {
        self.node.gate().await;
        let latency = self.node.world.state().latency();
        self.node.world.nap(latency).await;
        let fails = {
            let mut state = self.node.world.state();
            let rate = state.weather.bus_fails;
            let fails = state.strikes(rate);
            if fails {
                state.count("fault bus fails");
            }
            fails
        };
        if fails {
            return Err(TransportError("the bus is away".to_owned()));
        }
        let nodes = self
            .nodes
            .lock()
            .map(|nodes| nodes.clone())
            .unwrap_or_default();
        for node in nodes.iter().filter(|node| node.is_alive()) {
            let is_lost = {
                let mut state = self.node.world.state();
                let rate = state.weather.bus_lost;
                let is_lost = state.strikes(rate);
                if is_lost {
                    state.count("fault bus message lost");
                }
                is_lost
            };
            if !is_lost {
                node.bus.publish(changes).await?;
            }
        }
        Ok(())
    }

    fn listen(&self, topic: Topic) -> Listener {
        self.node.bus.listen(topic)
    }

    fn listen_to(&self, interest: Interest) -> InterestListener {
        self.node.bus.listen_to(interest)
    }

    async fn ping(&self) -> Result<(), TransportError> {
        Ok(())
    }
}
