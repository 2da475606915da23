//! What a simulated instance has written.

use chrono::{DateTime, Utc};
use futures_util::{StreamExt as _, stream, stream::BoxStream};
use tokio::sync::watch;

use crate::providers::{Line, Start};

/// The lines; those who follow them end with it.
#[derive(Default)]
pub(super) struct Written(watch::Sender<Vec<Line>>);

impl Written {
    pub(super) fn write(&self, at: DateTime<Utc>, line: &str) {
        self.0.send_modify(|lines| {
            let last = lines.last().map_or(0, |line| line.mark);
            let time = at.timestamp_nanos_opt().unwrap_or_default();
            lines.push(Line {
                mark: time.max(last + 1),
                at: Some(at),
                is_error: false,
                text: line.to_owned(),
            });
        });
    }

    pub(super) fn last(&self, lines: u32) -> Vec<String> {
        let all = self.0.borrow();
        let last = &all[all.len().saturating_sub(lines as usize)..];
        last.iter().map(|line| line.text.clone()).collect()
    }

    pub(super) fn follow(&self, start: Start) -> BoxStream<'static, Line> {
        let written = self.0.subscribe();
        let from = {
            let all = written.borrow();
            match start {
                Start::Last(lines) => all.len().saturating_sub(lines as usize),
                Start::After(mark) => all.partition_point(|line| line.mark <= mark),
            }
        };
        let portions = stream::unfold((written, from), async |(mut written, from)| {
            loop {
                let new = written.borrow_and_update()[from..].to_vec();
                if !new.is_empty() {
                    let read = from + new.len();
                    return Some((stream::iter(new), (written, read)));
                }
                written.changed().await.ok()?;
            }
        });
        portions.flatten().boxed()
    }
}
