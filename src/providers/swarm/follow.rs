//! A container's log as it grows, through every task that takes the place of another.
//!
//! The log of a service would do this itself, but waits for ever for tasks whose nodes are lost, and never ends.

use std::time::Duration;

use bollard::models::{Task, TaskState};
use futures_util::{StreamExt as _, stream, stream::BoxStream};

use super::{pause, task, tasks_of};
use crate::{
    domain::{Id, id::Container},
    providers::{
        Line, Start,
        docker::{lines_of, read_from},
    },
};

/// Time between two looks for a task in the place of the one that is read.
const LOOK: Duration = Duration::from_secs(1);
/// What a log gets after its task's end, for its last lines to arrive.
const LAST_LINES: Duration = Duration::from_secs(1);

/// The lines from `start` of the task that runs, then each new one, until the container ends or the connection does.
pub(super) fn follow(
    manager: bollard::Docker,
    id: Id<Container>,
    start: Start,
) -> BoxStream<'static, Line> {
    let reader = Reader {
        manager,
        id,
        start,
        read: None,
    };
    stream::unfold(reader, Reader::next).flatten().boxed()
}

#[derive(Clone)]
struct Reader {
    manager: bollard::Docker,
    id: Id<Container>,
    /// Where the reading of the next task's log begins.
    start: Start,
    /// The task read last.
    read: Option<String>,
}

impl Reader {
    /// The log of the next task that has begun to run.
    async fn next(mut self) -> Option<(BoxStream<'static, Line>, Self)> {
        loop {
            let task = self.wanted().await?;
            if self.read != task.id && task::has_started(&task) {
                let log = self.log(task.id.clone()?);
                self.read = task.id;
                self.start = Start::After(0);
                return Some((log, self));
            }
            if task::is_given_up(&task) {
                return None;
            }
            pause(LOOK).await;
        }
    }

    /// The task that counts; `None` when the container is removed or the connection has ended.
    async fn wanted(&self) -> Option<Task> {
        let tasks = tasks_of(&self.manager, self.id).await.ok()?;
        let task = task::newest(tasks.into_iter())?;
        (task.desired_state != Some(TaskState::REMOVE)).then_some(task)
    }

    fn log(&self, task: String) -> BoxStream<'static, Line> {
        let pieces = self.manager.task_logs(&task, Some(read_from(self.start)));
        lines_of(pieces)
            .take_until(self.clone().ended(task))
            .boxed()
    }

    /// Until a task is no longer the one that counts, and its last lines have arrived.
    async fn ended(self, task: String) {
        loop {
            pause(LOOK).await;
            match self.wanted().await {
                Some(now) if now.id.as_ref() == Some(&task) && task::is_alive(&now) => {}
                _ => break,
            }
        }
        pause(LAST_LINES).await;
    }
}
