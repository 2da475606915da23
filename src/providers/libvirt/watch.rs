//! What happens to machines.
//!
//! `virsh event` tells of starts and ends as long as it runs, and what this process does itself is told at once. That a
//! guest is up is no event of libvirt's: for this, how each machine is gets compared with how it was.

use std::{collections::BTreeMap, process::Stdio, sync::Arc, time::Duration};

use futures_util::{StreamExt as _, stream, stream::BoxStream};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader, Lines},
    process::{Child, ChildStdout},
    sync::broadcast,
};

use super::{host::Host, look::id_of};
use crate::{
    domain::{Id, id::VirtualMachine},
    providers::{Happened, Status, program::moment},
};

/// How often they are compared.
const LOOK: Duration = Duration::from_secs(2);

type Seen = BTreeMap<Id<VirtualMachine>, (i32, Status)>;

struct Watch {
    host: Arc<Host>,
    own: broadcast::Receiver<Happened<VirtualMachine>>,
    lines: Lines<BufReader<ChildStdout>>,
    /// Ends with this.
    _virsh: Child,
    before: Option<Seen>,
    due: Vec<Id<VirtualMachine>>,
}

/// What happens from now on, until the connection ends.
pub(super) fn events(host: Arc<Host>) -> BoxStream<'static, Happened<VirtualMachine>> {
    let own = host.told();
    let mut command = host
        .virsh
        .command(&["event", "--event", "lifecycle", "--loop"]);
    let spawned = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
    let begun = spawned.and_then(|mut virsh| {
        let told = virsh.stdout.take();
        let told = told.ok_or_else(|| std::io::Error::other("it says nothing"))?;
        Ok((virsh, BufReader::new(told).lines()))
    });
    let (virsh, lines) = match begun {
        Ok(begun) => begun,
        Err(error) => {
            tracing::warn!(%error, "virsh cannot be run");
            return stream::empty().boxed();
        }
    };
    let watch = Watch {
        host,
        own,
        lines,
        _virsh: virsh,
        before: None,
        due: Vec::new(),
    };
    stream::unfold(watch, async |mut watch| {
        let id = watch.next().await?;
        Some((Happened { id }, watch))
    })
    .boxed()
}

impl Watch {
    async fn next(&mut self) -> Option<Id<VirtualMachine>> {
        loop {
            if let Some(id) = self.due.pop() {
                return Some(id);
            }
            tokio::select! {
                line = self.lines.next_line() => {
                    let line = line.ok().flatten()?;
                    self.due.extend(id_in(&line));
                }
                own = self.own.recv() => match own {
                    Ok(happened) => self.due.push(happened.id),
                    Err(broadcast::error::RecvError::Lagged(_)) => {}
                    Err(broadcast::error::RecvError::Closed) => return None,
                },
                () = moment(if self.before.is_some() { LOOK } else { Duration::ZERO }) => {
                    self.compare().await;
                }
            }
        }
    }

    async fn compare(&mut self) {
        // What cannot be seen now is compared later.
        let Ok(all) = self.host.all().await else {
            self.before.get_or_insert_default();
            return;
        };
        let seen = all
            .into_iter()
            .map(|instance| (instance.id, (instance.generation, instance.status)));
        let now: Seen = seen.collect();
        if let Some(before) = self.before.replace(now.clone()) {
            let other = now.iter().filter(|(id, seen)| before.get(id) != Some(seen));
            let gone = before.iter().filter(|(id, _)| !now.contains_key(id));
            self.due.extend(other.chain(gone).map(|(id, _)| *id));
        }
    }
}

/// The machine a line such as `event 'lifecycle' for domain 'main-…': Started Booted` is about.
fn id_in(line: &str) -> Option<Id<VirtualMachine>> {
    let (_, rest) = line.split_once("for domain '")?;
    id_of(rest.split_once('\'')?.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_about_the_machine_it_names() {
        let id: Id<VirtualMachine> = Id::new(uuid::Uuid::from_u128(7));
        let line = format!("event 'lifecycle' for domain 'main-{id}': Crashed Panicked");
        assert_eq!(id_in(&line), Some(id));
        assert_eq!(
            id_in("event 'lifecycle' for domain 'other': Started Booted"),
            None
        );
        assert_eq!(id_in("event loop interrupted"), None);
    }
}
