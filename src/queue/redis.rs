//! The queue between processes: one Redis list a priority. Works with Redis 6.2 and later.

use std::time::Duration;

use async_trait::async_trait;
use fred::{
    clients::{Client, Pool},
    error::ErrorKind,
    interfaces::ListInterface as _,
};
use futures_util::future;

use super::TaskQueue;
use crate::{
    config::Secret,
    domain::{Id, id::Task, task::Priority},
    error::TransportError,
};

/// Pushes by pipeline, takes by a blocking pop and what else is there.
pub struct RedisQueue {
    commands: Pool,
    blocking: Client,
    lists: [String; Priority::ALL.len()],
}

impl RedisQueue {
    pub async fn new(url: &Secret, prefix: &str, commands: Pool) -> Result<Self, TransportError> {
        let list = |priority: Priority| format!("{prefix}:tasks:{}", priority.rank());
        Ok(Self {
            commands,
            blocking: crate::redis::blocking(url).await?,
            lists: Priority::ALL.map(list),
        })
    }
}

#[async_trait]
impl TaskQueue for RedisQueue {
    async fn announce(&self, tasks: &[(Id<Task>, Priority)]) -> Result<(), TransportError> {
        let client = crate::redis::now_or_never(self.commands.next());
        let pushes = self
            .lists
            .iter()
            .zip(Priority::ALL)
            .filter_map(|(list, priority)| {
                let ids: Vec<String> = tasks
                    .iter()
                    .filter(|(_, p)| *p == priority)
                    .map(|(id, _)| id.to_string())
                    .collect();
                // Sent together, without waiting for each other's answers.
                (!ids.is_empty()).then(|| client.rpush::<i64, _, _>(list.as_str(), ids))
            });
        future::try_join_all(pushes).await?;
        Ok(())
    }

    async fn backlog(&self) -> Result<usize, TransportError> {
        let client = crate::redis::now_or_never(self.commands.next());
        let lengths = self
            .lists
            .iter()
            .map(|list| client.llen::<usize, _>(list.as_str()));
        Ok(future::try_join_all(lengths).await?.into_iter().sum())
    }

    async fn next(&self, max: usize, wait: Duration) -> Result<Vec<Id<Task>>, TransportError> {
        let client = crate::redis::now_or_never(&self.blocking);
        let pop =
            client.blpop::<Option<(String, String)>, _>(self.lists.to_vec(), wait.as_secs_f64());
        // The server ends the wait; the second bound is for one that is frozen or unreachable.
        let first = match tokio::time::timeout(wait + Duration::from_secs(2), pop).await {
            Err(_) => {
                return Err(TransportError(
                    "Redis: no answer to a blocking pop".to_owned(),
                ));
            }
            Ok(Err(error)) if *error.kind() == ErrorKind::Timeout => None,
            Ok(popped) => popped?,
        };
        let Some((_, first)) = first else {
            return Ok(Vec::new());
        };
        let mut taken = vec![first];
        for list in &self.lists {
            if taken.len() < max {
                let more: Option<Vec<String>> = self
                    .commands
                    .next()
                    .lpop(list.as_str(), Some(max - taken.len()))
                    .await
                    .unwrap_or_default();
                taken.extend(more.unwrap_or_default());
            }
        }
        // What is not an id of ours is not worth a look.
        Ok(taken.iter().filter_map(|id| Id::parse(id)).collect())
    }
}
