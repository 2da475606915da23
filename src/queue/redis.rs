//! The queue between processes: one sorted set a priority, in the order of [`super::fair`]. Redis 6.2 and later,
//! alone, behind Sentinel or as a cluster.

use std::time::Duration;

use async_trait::async_trait;
use fred::{
    clients::{Client, Pool},
    error::ErrorKind,
    interfaces::SortedSetsInterface as _,
    types::scripts::Script,
};
use futures_util::future;

use super::{Taken, TaskQueue};
use crate::{
    config::Secret,
    domain::{Id, id::Task, task::Priority},
    error::TransportError,
    store::tasks::Hint,
};

/// Hints of one script call: short enough not to hold up the server.
const CHUNK: usize = 500;

/// `KEYS`: the set and the ends of one priority. `ARGV`: share and task by turns.
///
/// Nobody waiting means that nobody has a claim from before, so the ends start anew.
const ANNOUNCE: &str = "
local head = redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')
local now = 0
if head[2] then now = tonumber(head[2]) else redis.call('DEL', KEYS[2]) end
local ends, seen = {}, {}
for i = 1, #ARGV, 2 do
  local share = ARGV[i]
  local last = ends[share]
  if not last then
    last = tonumber(redis.call('HGET', KEYS[2], share) or 0)
    seen[#seen + 1] = share
  end
  local start = math.max(now, last)
  if redis.call('ZADD', KEYS[1], 'NX', start, ARGV[i + 1]) == 1 then last = start + 1 end
  ends[share] = last
end
for _, share in ipairs(seen) do redis.call('HSET', KEYS[2], share, ends[share]) end
return 0";

/// `KEYS`: the sets, the most urgent first. `ARGV`: how many to take.
const TAKE: &str = "
local taken = {}
for _, key in ipairs(KEYS) do
  local room = tonumber(ARGV[1]) - #taken
  if room <= 0 then break end
  local popped = redis.call('ZPOPMIN', key, room)
  for i = 1, #popped, 2 do taken[#taken + 1] = popped[i] end
end
return taken";

/// `KEYS`: the set of the foretold, then the sets of all priorities. `ARGV`: tasks.
///
/// Only while nobody waits for a turn, so that nobody is passed by. Where no worker takes them they are gone in a second.
const FORETELL: &str = "
if redis.call('EXISTS', unpack(KEYS, 2)) > 0 then return 0 end
for _, task in ipairs(ARGV) do redis.call('ZADD', KEYS[1], 0, task) end
redis.call('EXPIRE', KEYS[1], 1)
return #ARGV";

/// Announces by script, takes what is there, and waits by a blocking pop when nothing is.
pub struct RedisQueue {
    commands: Pool,
    blocking: Client,
    sets: [String; Priority::ALL.len()],
    ends: [String; Priority::ALL.len()],
    /// What an idle worker pops: the foretold, and every priority.
    awaited: Vec<String>,
    foretell: Script,
    announce: Script,
    take: Script,
}

impl RedisQueue {
    pub async fn new(url: &Secret, prefix: &str, commands: Pool) -> Result<Self, TransportError> {
        // The braces keep all keys in one slot of a cluster.
        let key = |what: &str, p: Priority| format!("{{{prefix}}}:{what}:{}", p.rank());
        let sets = Priority::ALL.map(|p| key("hints", p));
        let foretold = format!("{{{prefix}}}:foretold");
        Ok(Self {
            awaited: std::iter::once(foretold).chain(sets.clone()).collect(),
            foretell: Script::from_lua(FORETELL),
            commands,
            blocking: crate::redis::blocking(url).await?,
            sets,
            ends: Priority::ALL.map(|p| key("ends", p)),
            announce: Script::from_lua(ANNOUNCE),
            take: Script::from_lua(TAKE),
        })
    }

    async fn take(&self, max: usize) -> Result<Vec<Id<Task>>, TransportError> {
        let client = crate::redis::now_or_never(self.commands.next());
        let max = i64::try_from(max).unwrap_or(i64::MAX);
        let taken: Vec<String> = self
            .take
            .evalsha_with_reload(&client, self.sets.to_vec(), vec![max])
            .await?;
        // What is not an id of ours is not worth a look.
        Ok(taken.iter().filter_map(|id| Id::parse(id)).collect())
    }
}

#[async_trait]
impl TaskQueue for RedisQueue {
    fn system(&self) -> &'static str {
        "redis"
    }

    async fn announce(&self, hints: &[Hint]) -> Result<(), TransportError> {
        let client = crate::redis::now_or_never(self.commands.next());
        let mut calls = Vec::new();
        for (place, priority) in Priority::ALL.into_iter().enumerate() {
            let lane: Vec<&Hint> = hints.iter().filter(|h| h.priority == priority).collect();
            for chunk in lane.chunks(CHUNK) {
                let keys = vec![self.sets[place].clone(), self.ends[place].clone()];
                let arguments: Vec<String> = chunk
                    .iter()
                    .flat_map(|hint| [hint.share.simple().to_string(), hint.task.to_string()])
                    .collect();
                // Sent together, without waiting for each other's answers.
                calls.push(
                    self.announce
                        .evalsha_with_reload::<i64, _, _>(&client, keys, arguments),
                );
            }
        }
        future::try_join_all(calls).await?;
        Ok(())
    }

    async fn foretell(&self, tasks: &[Id<Task>]) -> Result<bool, TransportError> {
        let client = crate::redis::now_or_never(self.commands.next());
        let tasks: Vec<String> = tasks.iter().map(Id::to_string).collect();
        let told: usize = self
            .foretell
            .evalsha_with_reload(&client, self.awaited.clone(), tasks)
            .await?;
        Ok(told > 0)
    }

    async fn backlog(&self) -> Result<usize, TransportError> {
        let client = crate::redis::now_or_never(self.commands.next());
        let lengths = self
            .sets
            .iter()
            .map(|set| client.zcard::<usize, _>(set.as_str()));
        Ok(future::try_join_all(lengths).await?.into_iter().sum())
    }

    async fn next(&self, max: usize, wait: Duration) -> Result<Taken, TransportError> {
        let taken = self.take(max).await?;
        if !taken.is_empty() || wait.is_zero() {
            return Ok(taken.into());
        }
        let client = crate::redis::now_or_never(&self.blocking);
        let pop = client
            .bzpopmin::<Option<(String, String, f64)>, _>(self.awaited.clone(), wait.as_secs_f64());
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
        let Some((key, first, _)) = first else {
            return Ok(Taken::default());
        };
        Ok(Taken {
            tasks: Id::parse(&first).into_iter().collect(),
            are_foretold: self.awaited.first() == Some(&key),
        })
    }
}
