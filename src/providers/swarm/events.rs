//! What happens on a swarm. Its events tell of services and nodes, not of tasks, so those are looked at every second,
//! all of them with one call, and sooner when an event hints at a change.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    time::Duration,
};

use bollard::{
    errors::Error,
    models::{EventMessage, Task, TaskState},
    query_parameters::{EventsOptionsBuilder, ListTasksOptions},
};
use futures_util::{StreamExt as _, stream, stream::BoxStream};
use tokio::time::Instant;

use super::{CALL, pause, task, within};
use crate::{
    domain::{Id, id::Container},
    providers::{Happened, LABEL, instance_name},
};

/// Time between two looks at the tasks.
const POLL: Duration = Duration::from_secs(1);
/// Pause after an event before the look it causes, so that many at once cause one.
const BURST: Duration = Duration::from_millis(100);

/// What counts as a difference: the task, how far it is, whether it is wanted, and its node.
type Known = (Option<String>, TaskState, bool, Option<String>);

/// From now on, until the connection ends.
pub(super) fn events(manager: bollard::Docker) -> BoxStream<'static, Happened> {
    let filters = HashMap::from([("type", vec!["service", "node"])]);
    let options = EventsOptionsBuilder::new().filters(&filters).build();
    let listener = Listener {
        hints: manager.events(Some(options)).boxed(),
        manager,
        known: None,
        told: VecDeque::new(),
        next_look: Instant::now(),
    };
    stream::unfold(listener, Listener::next).boxed()
}

struct Listener {
    manager: bollard::Docker,
    hints: BoxStream<'static, Result<EventMessage, Error>>,
    /// `None` until the first look, which tells nothing.
    known: Option<BTreeMap<Id<Container>, Known>>,
    told: VecDeque<Happened>,
    next_look: Instant,
}

impl Listener {
    async fn next(mut self) -> Option<(Happened, Self)> {
        loop {
            if let Some(happened) = self.told.pop_front() {
                return Some((happened, self));
            }
            let until_look = self.next_look.saturating_duration_since(Instant::now());
            tokio::select! {
                hint = self.hints.next() => {
                    let hint = hint?.ok()?;
                    self.told.extend(named(&hint).map(|id| Happened { id }));
                    self.next_look = self.next_look.min(Instant::now() + BURST);
                }
                () = pause(until_look) => {
                    self.look().await?;
                    self.next_look = Instant::now() + POLL;
                }
            }
        }
    }

    /// Compares the tasks with those of the look before; `None` when the manager does not answer.
    async fn look(&mut self) -> Option<()> {
        let call = self.manager.list_tasks(None::<ListTasksOptions>);
        let now = summary(within(CALL, call).await.ok()?);
        if let Some(before) = &self.known {
            let changed = now.iter().filter(|(id, it)| before.get(id) != Some(it));
            let gone = before.keys().filter(|id| !now.contains_key(id));
            let ids = changed.map(|(id, _)| *id).chain(gone.copied());
            self.told.extend(ids.map(|id| Happened { id }));
        }
        self.known = Some(now);
        Some(())
    }
}

/// The task that counts of each container of ours.
fn summary(tasks: Vec<Task>) -> BTreeMap<Id<Container>, Known> {
    let mut of_container: BTreeMap<Id<Container>, Vec<Task>> = BTreeMap::new();
    for task in tasks {
        if let Some(id) = container_of(&task) {
            of_container.entry(id).or_default().push(task);
        }
    }
    let newest = of_container.into_iter().filter_map(|(id, tasks)| {
        let task = task::newest(tasks.into_iter())?;
        let (state, is_given_up) = (task::state(&task), task::is_given_up(&task));
        Some((id, (task.id, state, is_given_up, task.node_id)))
    });
    newest.collect()
}

fn container_of(task: &Task) -> Option<Id<Container>> {
    let container = task.spec.as_ref()?.container_spec.as_ref()?;
    Id::parse(container.labels.as_ref()?.get(LABEL)?)
}

/// The container whose service an event is about.
fn named(event: &EventMessage) -> Option<Id<Container>> {
    let name = event.actor.as_ref()?.attributes.as_ref()?.get("name")?;
    let (_, id) = name.split_once('-')?;
    let id = Id::parse(id)?;
    (instance_name(id) == *name).then_some(id)
}
