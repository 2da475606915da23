//! What happens to machines.
//!
//! QEMU tells its events to one client of a monitor, and any worker of the host may ask, be killed, or have started the
//! machine: so nobody listens, and how each machine is gets compared with how it was. What this process does itself is
//! told at once.

use std::{collections::BTreeMap, time::Duration};

use futures_util::{StreamExt as _, stream, stream::BoxStream};
use tokio_stream::wrappers::BroadcastStream;

use super::{
    folder::machines,
    host::Shared,
    program::{blocking, file_error, moment},
};
use crate::{
    domain::{Id, id::VirtualMachine},
    providers::{Happened, ProviderError, Status},
};

/// How often they are compared.
const LOOK: Duration = Duration::from_millis(500);
/// How many are looked at at a time.
pub(super) const AT_ONCE: usize = 16;

/// What is worth telling when it changes: the generation, the number of its start, how it is.
type Seen = BTreeMap<Id<VirtualMachine>, (i32, u32, Status)>;

pub(super) fn events(host: Shared) -> BoxStream<'static, Happened<VirtualMachine>> {
    let own = BroadcastStream::new(host.told()).filter_map(async |event| event.ok());
    let compared = stream::unfold(
        (host, None),
        async |(host, before): (Shared, Option<Seen>)| {
            loop {
                if before.is_some() {
                    moment(LOOK).await;
                }
                // What cannot be seen now is compared later.
                let Ok(now) = survey(&host).await else {
                    moment(LOOK).await;
                    continue;
                };
                let changed = before.as_ref().map_or_else(Vec::new, |before| {
                    changes(before, &now).map(|id| Happened { id }).collect()
                });
                return Some((stream::iter(changed), (host, Some(now))));
            }
        },
    );
    stream::select(own, compared.flatten()).boxed()
}

fn changes(before: &Seen, now: &Seen) -> impl Iterator<Item = Id<VirtualMachine>> {
    let other = now
        .iter()
        .filter(|(id, seen)| before.get(id) != Some(seen))
        .map(|(id, _)| *id);
    let gone = before.keys().filter(|id| !now.contains_key(id)).copied();
    other.chain(gone)
}

async fn survey(host: &Shared) -> Result<Seen, ProviderError> {
    let root = host.root().await?.clone();
    let places = blocking(move || machines(&root).map_err(file_error("the directory"))).await?;
    let looks = stream::iter(places).map(|place| async move {
        let look = host.look(&place, None).await.ok().flatten()?;
        let record = look.record;
        Some((place.id, (record.generation, record.starts, look.status)))
    });
    let found = looks.buffer_unordered(AT_ONCE);
    Ok(found.filter_map(std::future::ready).collect::<Seen>().await)
}
