//! Machines outlive the worker that has started them, wherever it was killed.

use std::path::Path;

use main_webserver::{
    domain::{Id, id::VirtualMachine},
    providers::{Engine as _, Guest, Hypervisor as _, Qemu, Status},
};
use tokio_util::sync::CancellationToken;

use super::{BOOT, Inside as _, Real, real, settings, stage, stage_of};
use crate::harness::{nap, required, until_within};

#[tokio::test]
async fn another_worker_finds_what_one_has_started() {
    let real = real();
    let stage = stage_of(real.clone());
    let guest = stage.guest();
    stage.ensure(&guest).await;
    let started = real.directory.processes();
    assert_eq!(started.len(), 1);
    let other = Qemu::at(settings(real.directory.path()));
    let found = other.inspect(guest.id).await.unwrap().unwrap();
    assert!(matches!(found.status, Status::Starting | Status::Ready));
    // As if the worker had been killed before QEMU had written its pid file.
    std::fs::remove_file(real.directory.folder_of(guest.id).join("pid")).unwrap();
    let go = CancellationToken::new();
    let found = other.ensure(&guest, &go).await.unwrap();
    assert_eq!(found.generation, 1);
    assert_eq!(real.directory.processes(), started);
    other.kill(guest.id).await.unwrap();
    assert_eq!(real.directory.processes(), []);
    stage.remove(guest.id).await;
}

#[tokio::test]
async fn a_folder_with_parts_missing_is_removed() {
    let real = real();
    let stage = stage_of(real.clone());
    let guest = stage.guest();
    stage.ensure(&guest).await;
    let folder = real.directory.folder_of(guest.id);
    for file in ["machine.json", "qmp", "pid"] {
        std::fs::remove_file(folder.join(file)).unwrap();
    }
    // It is somebody's machine still, and not made anew by mistake.
    let go = CancellationToken::new();
    assert!(stage.engine.ensure(&guest, &go).await.is_err());
    stage.remove(guest.id).await;
}

/// Where an attempt for [`a_worker_killed_at_any_moment_leaves_nothing_half_made`] is to be made, and of what.
const ATTEMPT: &str = "TEST_QEMU_ATTEMPT";

#[tokio::test]
#[ignore = "the worker that another test kills"]
async fn an_attempt() {
    let told = required(ATTEMPT);
    let (folder, id) = told.split_once(' ').unwrap();
    let guest = Guest {
        id: Id::parse(id).unwrap(),
        ..stage().guest()
    };
    let qemu = Qemu::at(settings(Path::new(folder)));
    qemu.ensure(&guest, &CancellationToken::new())
        .await
        .unwrap();
}

#[tokio::test]
async fn a_worker_killed_at_any_moment_leaves_nothing_half_made() {
    let real = real();
    let stage = stage_of(real.clone());
    let mut stages_seen = std::collections::BTreeSet::new();
    for moment in 0..24 {
        let guest = stage.guest();
        let told = format!("{} {}", real.directory.path().display(), guest.id);
        let mut worker = tokio::process::Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "machines::qemu::workers::an_attempt",
                "--ignored",
            ])
            .env(ATTEMPT, told)
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        // It begins with the directory of the attempt; from there on it takes some three hundred milliseconds.
        until_within(BOOT, "the attempt begins", async || {
            let begun = real
                .remains()
                .await
                .iter()
                .any(|name| name.contains(&guest.id.to_string()));
            (begun || worker.id().is_none()).then_some(())
        })
        .await;
        nap(moment * 15).await;
        let _ = worker.kill().await;
        stages_seen.insert(seen(&real, guest.id));
        let other = Qemu::at(settings(real.directory.path()));
        let go = CancellationToken::new();
        let ensured = other.ensure(&guest, &go).await.unwrap();
        assert!(
            matches!(ensured.status, Status::Starting | Status::Ready),
            "{ensured:?}"
        );
        // Those that begin a daemon may still be there for a moment.
        until_within(BOOT, "one process", async || {
            (real.directory.processes().len() == 1).then_some(())
        })
        .await;
        assert_eq!(other.list().await.unwrap().len(), 1);
        let remains = real.remains().await;
        assert!(
            !remains.iter().any(|name| name.starts_with('.')),
            "{remains:?}"
        );
        stage.remove(guest.id).await;
    }
    // The moments were spread over the whole of it.
    assert!(stages_seen.len() >= 3, "{stages_seen:?}");
}

/// How far an attempt had come when it was killed.
fn seen(real: &Real, id: Id<VirtualMachine>) -> &'static str {
    let record = std::fs::read_to_string(real.directory.folder_of(id).join("machine.json"));
    match record {
        Err(_)
            if real
                .directory
                .machines()
                .join(format!(".making-main-{id}"))
                .exists() =>
        {
            "being made"
        }
        Err(_) => "locked",
        Ok(text) if text.contains("Created") => "made",
        Ok(text) if text.contains("Starting") && real.directory.processes().is_empty() => {
            "about to start"
        }
        Ok(text) if text.contains("Starting") => "started",
        Ok(_) => "done",
    }
}
