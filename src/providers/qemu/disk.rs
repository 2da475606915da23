//! A machine's disk: a layer above its image's, the snapshots in it, its size.

use std::{path::Path, time::Duration};

use serde_json::{Value, json};

use super::{
    folder::Place,
    program::{DISKS, failed, is_locked, moment, run},
    qmp::{LONG_ANSWER, ask, ask_with},
};
use crate::{
    domain::{Id, id::Snapshot},
    providers::{
        ProviderError,
        image_files::{Disk, LOOK},
    },
};

/// Longest writing of a disk's tables.
const WRITE: Duration = Duration::from_secs(120);
/// How long a killed process may hold on to a disk, and how often that is looked at.
const LETTING_GO: Duration = Duration::from_secs(10);
const AGAIN: Duration = Duration::from_millis(100);
/// The name of the disk inside QEMU.
pub(super) const NODE: &str = "disk";
/// The least an empty disk has.
const SECTOR: u64 = 512;

/// Makes the disk at `path`: above `base`, or an empty one.
pub(super) async fn make(
    path: &Path,
    base: Option<&Disk>,
    bytes: u64,
) -> Result<(), ProviderError> {
    let path = path.display().to_string();
    let mut arguments = vec!["create".to_owned(), "-q".to_owned()];
    let whole = |text: &str| text.to_owned();
    arguments.extend(["-f", "qcow2"].map(whole));
    // A larger base stays as large as it is.
    let bytes = base.map_or(0, |base| base.bytes).max(bytes).max(SECTOR);
    if let Some(base) = base {
        let below = base.path.display().to_string();
        arguments.extend(["-b", &below, "-F", &base.format].map(whole));
    }
    arguments.extend([path, bytes.next_multiple_of(SECTOR).to_string()]);
    run(DISKS, arguments, WRITE).await?.or_error().map(drop)
}

/// Makes the disk of a machine that is off as large as `bytes`; a larger one stays as it is.
pub(super) async fn grow(place: &Place, bytes: u64) -> Result<(), ProviderError> {
    let now = about(place).await?["virtual-size"]
        .as_u64()
        .unwrap_or_default();
    if now >= bytes {
        return Ok(());
    }
    let (path, bytes) = (
        place.disk().display().to_string(),
        bytes.next_multiple_of(SECTOR).to_string(),
    );
    let arguments = ["resize", "-q", "-f", "qcow2", &path, &bytes];
    run(DISKS, arguments, WRITE).await?.or_error().map(drop)
}

/// What is done with a snapshot of a machine that is off.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Deed {
    Keep,
    Apply,
    Forget,
}

/// Whether the disk of a machine that is off has the snapshot.
pub(super) async fn has(place: &Place, snapshot: Id<Snapshot>) -> Result<bool, ProviderError> {
    Ok(is_listed(&about(place).await?["snapshots"], snapshot))
}

pub(super) async fn do_off(
    place: &Place,
    snapshot: Id<Snapshot>,
    deed: Deed,
) -> Result<(), ProviderError> {
    let flag = match deed {
        Deed::Keep => "-c",
        Deed::Apply => "-a",
        Deed::Forget => "-d",
    };
    let (name, path) = (snapshot.to_string(), place.disk().display().to_string());
    let arguments = ["snapshot", "-q", flag, &name, &path];
    run(DISKS, arguments, WRITE).await?.or_error().map(drop)
}

/// The same questions and deeds of one that runs, by its monitor: QEMU has its disk.
pub(super) async fn has_running(
    place: &Place,
    snapshot: Id<Snapshot>,
) -> Result<bool, ProviderError> {
    let nodes = ask(&place.monitor(), "query-named-block-nodes").await?;
    let disk = nodes
        .as_array()
        .and_then(|nodes| nodes.iter().find(|node| node["node-name"] == NODE));
    let disk = disk.ok_or_else(|| failed("it has no disk".to_owned()))?;
    Ok(is_listed(&disk["image"]["snapshots"], snapshot))
}

pub(super) async fn do_running(
    place: &Place,
    snapshot: Id<Snapshot>,
    is_kept: bool,
) -> Result<(), ProviderError> {
    let command = if is_kept {
        "blockdev-snapshot-internal-sync"
    } else {
        "blockdev-snapshot-delete-internal-sync"
    };
    let arguments = json!({ "device": NODE, "name": snapshot.to_string() });
    ask_with(&place.monitor(), command, arguments, LONG_ANSWER)
        .await
        .map(drop)
}

fn is_listed(snapshots: &Value, snapshot: Id<Snapshot>) -> bool {
    let name = snapshot.to_string();
    let listed = snapshots.as_array().into_iter().flatten();
    listed.into_iter().any(|known| known["name"] == *name)
}

/// What the disk of a machine that is off says of itself. All that is done with one begins here, so a process that was
/// killed is waited for here to let go of it.
async fn about(place: &Place) -> Result<Value, ProviderError> {
    let path = place.disk().display().to_string();
    let arguments = ["info", "-f", "qcow2", "--output=json", &path];
    let freed = async {
        loop {
            let output = run(DISKS, arguments, LOOK).await?;
            if output.is_success() || !is_locked(&output.stderr) {
                return output.or_error();
            }
            moment(AGAIN).await;
        }
    };
    let text = tokio::time::timeout(LETTING_GO, freed)
        .await
        .map_err(|_| failed("another process has its disk".to_owned()))??;
    serde_json::from_str(&text)
        .map_err(|error| failed(format!("what qemu-img says of its disk: {error}")))
}
