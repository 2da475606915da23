//! The laws, each by itself. A guest may take some seconds to come up, so each asks for few.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use futures_util::StreamExt as _;
use main_webserver::{
    domain::{Id, id::VirtualMachine},
    providers::{ConsoleKind, Guest, Image, Instance, ProviderError, Start, Status},
};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio_util::sync::CancellationToken;

use super::{READY, Stage};
use crate::harness::{HTTP, until_within};

/// How long a guest may take to come up or to go down, on a busy machine that translates it.
const BOOT: Duration = Duration::from_secs(60);
/// What a machine that is removed gets to end by itself.
const NO_GRACE: Duration = Duration::ZERO;

impl Stage {
    pub async fn ensure(&self, guest: &Guest) -> Instance<VirtualMachine> {
        let go = CancellationToken::new();
        self.engine.ensure(guest, &go).await.unwrap()
    }

    pub async fn up(&self, guest: &Guest) -> Instance<VirtualMachine> {
        self.ensure(guest).await;
        self.is(guest.id, Status::Ready).await
    }

    pub async fn is(&self, id: Id<VirtualMachine>, status: Status) -> Instance<VirtualMachine> {
        until_within(BOOT, &format!("it is {status:?}"), async || {
            let found = self.engine.inspect(id).await.unwrap();
            found.filter(|found| found.status == status)
        })
        .await
    }

    pub async fn power_off(&self, id: Id<VirtualMachine>) {
        self.engine.power_off(id).await.unwrap();
        self.is(id, Status::Off).await;
    }

    pub async fn remove(&self, id: Id<VirtualMachine>) {
        self.engine.remove(id, NO_GRACE).await.unwrap();
        assert!(self.engine.inspect(id).await.unwrap().is_none());
        assert_eq!(self.inside.remains().await, Vec::<String>::new());
    }

    pub async fn refusal(&self, guest: &Guest) -> ProviderError {
        let go = CancellationToken::new();
        let error = self.engine.ensure(guest, &go).await.unwrap_err();
        assert!(self.engine.inspect(guest.id).await.unwrap().is_none());
        assert_eq!(self.inside.remains().await, Vec::<String>::new());
        error
    }
}

pub async fn a_machine_comes_up_once_and_leaves_nothing(stage: &Stage) {
    assert!(!stage.engine.ping().await.unwrap().is_empty());
    let guest = stage.guest();
    let first = stage.ensure(&guest).await;
    assert!(matches!(first.status, Status::Starting | Status::Ready));
    let ready = stage.is(guest.id, Status::Ready).await;
    let second = stage.ensure(&guest).await;
    assert_eq!(
        (&first.handle, &first.ports, 1),
        (&second.handle, &second.ports, ready.generation)
    );
    let given = stage.inside.given(guest.id).await;
    assert_eq!((given.cpus, given.disk_bytes), (1, guest.disk_bytes));
    let page = HTTP
        .get(format!("http://127.0.0.1:{}/", ready.ports[&8080]))
        .send()
        .await
        .unwrap();
    assert!(page.text().await.unwrap().contains("guest-a"));
    let listed = stage.engine.list().await.unwrap();
    let ours: Vec<_> = listed
        .iter()
        .map(|instance| (instance.id, instance.deployment.as_deref()))
        .collect();
    assert_eq!(ours, [(guest.id, Some("conformance"))]);
    let usage = stage.engine.usage(guest.id).await.unwrap().unwrap();
    assert!(
        usage.cpu_micros > 0 && usage.memory_bytes > 1 << 20,
        "{usage:?}"
    );
    stage
        .engine
        .remove(guest.id, Duration::from_secs(20))
        .await
        .unwrap();
    stage.remove(guest.id).await;
    assert_eq!(stage.engine.usage(guest.id).await.unwrap(), None);
    assert!(stage.engine.list().await.unwrap().is_empty());
}

pub async fn an_ended_guest_starts_with_what_it_is_to_have_now(stage: &Stage) {
    let mut guest = stage.guest();
    stage.up(&guest).await;
    let first = stage.inside.given(guest.id).await;
    stage.inside.write_disk(guest.id, "kept").await;
    stage.power_off(guest.id).await;
    let rested = stage.engine.usage(guest.id).await.unwrap().unwrap();
    assert_eq!((rested.cpu_micros, rested.memory_bytes), (0, 0));
    // Once more, and again: what is off stays so.
    stage.power_off(guest.id).await;
    stage.engine.kill(guest.id).await.unwrap();
    stage.is(guest.id, Status::Off).await;

    (guest.cpus, guest.memory_bytes, guest.disk_bytes) = (2, 192 << 20, 64 << 20);
    stage.up(&guest).await;
    let larger = stage.inside.given(guest.id).await;
    assert_eq!((larger.cpus, larger.disk_bytes), (2, 64 << 20));
    assert!(larger.memory_bytes >= first.memory_bytes + (48 << 20));
    assert_eq!(stage.inside.read_disk(guest.id).await, "kept");
    stage.engine.kill(guest.id).await.unwrap();
    stage.is(guest.id, Status::Off).await;

    (guest.cpus, guest.disk_bytes) = (1, 16 << 20);
    stage.up(&guest).await;
    let smaller = stage.inside.given(guest.id).await;
    assert_eq!((smaller.cpus, smaller.disk_bytes), (1, 64 << 20));
    assert_eq!(stage.inside.read_disk(guest.id).await, "kept");
    stage.remove(guest.id).await;
}

pub async fn a_snapshot_gives_back_what_it_kept(stage: &Stage) {
    let (guest, engine) = (stage.guest(), &stage.engine);
    let [running, off] = [(); 2].map(|()| stage.entropy.id(chrono::DateTime::UNIX_EPOCH));
    stage.up(&guest).await;
    stage.inside.write_disk(guest.id, "one").await;
    engine.snapshot(guest.id, running).await.unwrap();
    stage.inside.write_disk(guest.id, "two").await;
    // The second call changes nothing.
    engine.snapshot(guest.id, running).await.unwrap();
    let refused = engine.restore(guest.id, running).await.unwrap_err();
    assert_eq!(refused.code(), "ENGINE_REJECTED", "{refused}");
    stage.engine.kill(guest.id).await.unwrap();
    stage.is(guest.id, Status::Off).await;
    engine.snapshot(guest.id, off).await.unwrap();
    engine.restore(guest.id, running).await.unwrap();
    engine.restore(guest.id, running).await.unwrap();
    stage.up(&guest).await;
    assert_eq!(stage.inside.read_disk(guest.id).await, "one");
    // Forgotten while it runs, and again.
    engine.forget(guest.id, running).await.unwrap();
    engine.forget(guest.id, running).await.unwrap();
    stage.engine.kill(guest.id).await.unwrap();
    stage.is(guest.id, Status::Off).await;
    let refused = engine.restore(guest.id, running).await.unwrap_err();
    assert_eq!(refused.code(), "ENGINE_REJECTED", "{refused}");
    engine.restore(guest.id, off).await.unwrap();
    engine.forget(guest.id, off).await.unwrap();
    engine.forget(guest.id, off).await.unwrap();
    stage.up(&guest).await;
    assert_eq!(stage.inside.read_disk(guest.id).await, "two");
    stage.remove(guest.id).await;
}

pub async fn what_is_no_image_is_its_own_error_and_leaves_nothing(stage: &Stage) {
    assert_eq!(stage.engine.check(&stage.image).await.unwrap(), 0);
    for image in [&stage.missing, &stage.corrupt] {
        let checked = stage.engine.check(image).await.unwrap_err();
        let guest = Guest {
            image: Image::clone(image),
            ..stage.guest()
        };
        let refused = stage.refusal(&guest).await;
        for error in [checked, refused] {
            assert_eq!(
                (error.code(), error.is_retryable()),
                ("NO_SUCH_IMAGE", false),
                "{error}"
            );
        }
    }
}

pub async fn a_crash_is_seen_and_its_disk_is_kept(stage: &Stage) {
    let guest = stage.guest();
    stage.up(&guest).await;
    stage.inside.write_disk(guest.id, "kept").await;
    stage.inside.end(guest.id).await;
    stage.is(guest.id, Status::Exited { code: -1 }).await;
    stage.up(&guest).await;
    assert_eq!(stage.inside.read_disk(guest.id).await, "kept");
    stage.remove(guest.id).await;
}

pub async fn a_guest_that_ignores_its_button_runs_until_it_is_killed(stage: &Stage) {
    let guest = stage.guest();
    stage.up(&guest).await;
    stage.inside.ignore_acpi(guest.id).await;
    stage.engine.power_off(guest.id).await.unwrap();
    stage.engine.power_off(guest.id).await.unwrap();
    let found = stage.engine.inspect(guest.id).await.unwrap().unwrap();
    assert_eq!(found.status, Status::Ready);
    stage.engine.kill(guest.id).await.unwrap();
    stage.is(guest.id, Status::Off).await;
    stage.remove(guest.id).await;
}

pub async fn a_panic_is_seen(stage: &Stage) {
    let guest = stage.guest();
    stage.up(&guest).await;
    stage.inside.panic(guest.id).await;
    stage.is(guest.id, Status::Unhealthy).await;
    // It runs, in a way: it is not started over, and not put to rest by asking.
    assert_eq!(stage.ensure(&guest).await.status, Status::Unhealthy);
    let log = stage.engine.logs(guest.id, 200).await.unwrap().join("\n");
    assert!(log.contains("Kernel panic"), "{log}");
    stage.remove(guest.id).await;
}

pub async fn a_console_answers_and_a_log_is_followed_over_a_restart(stage: &Stage) {
    let (guest, engine) = (stage.guest(), &stage.engine);
    let refused = engine.console(guest.id, ConsoleKind::Serial).await;
    assert_eq!(
        refused.err().map(|error| error.code()),
        Some("ENGINE_REJECTED")
    );
    stage.up(&guest).await;
    let mut vnc = engine.console(guest.id, ConsoleKind::Vnc).await.unwrap();
    let mut hello = [0; 12];
    vnc.read_exact(&mut hello).await.unwrap();
    assert!(hello.starts_with(b"RFB 003."));

    // The first reader starts here and goes on over all that follows.
    let mut whole = engine.follow(guest.id, Start::After(0));
    talk(stage, guest.id, "first").await;
    let mark = loop {
        let line = whole.next().await.unwrap();
        if line.text.contains("first") {
            break line.mark;
        }
    };
    engine.kill(guest.id).await.unwrap();
    stage.is(guest.id, Status::Off).await;
    stage.up(&guest).await;
    talk(stage, guest.id, "second").await;
    let mut after = engine.follow(guest.id, Start::After(mark));
    let read = async |lines: &mut futures_util::stream::BoxStream<'static, _>| {
        let mut read: Vec<main_webserver::providers::Line> = Vec::new();
        while !read.iter().any(|line| line.text.contains("second")) {
            read.push(lines.next().await.unwrap());
        }
        read
    };
    let (went_on, went_back) = (read(&mut whole).await, read(&mut after).await);
    assert_eq!(went_on, went_back);
    assert!(went_on.iter().all(|line| line.mark > mark));
    assert!(went_on.is_sorted_by(|a, b| a.mark < b.mark));
    let starts = went_on.iter().filter(|line| line.text.contains(READY));
    assert_eq!(starts.count(), 1);
    assert!(went_on.iter().all(|line| !line.text.contains('\r')));
    let logged = engine.logs(guest.id, 2).await.unwrap();
    assert_eq!(logged.last(), went_on.last().map(|line| &line.text));
    stage.remove(guest.id).await;
    // With the machine, what follows it ends.
    let end = until_within(BOOT, "the log ends", async || Some(())).await;
    assert_eq!((whole.next().await, end), (None, ()));
}

/// Says something on the serial console and waits for the answer.
async fn talk(stage: &Stage, id: Id<VirtualMachine>, text: &str) {
    let console = stage.engine.console(id, ConsoleKind::Serial).await.unwrap();
    let mut console = BufReader::new(console);
    console
        .get_mut()
        .write_all(format!("echo {text}\n").as_bytes())
        .await
        .unwrap();
    let answer = async {
        let mut line = String::new();
        while !line.contains(&format!("echo {text}")) {
            line.clear();
            assert_ne!(console.read_line(&mut line).await.unwrap(), 0);
        }
    };
    tokio::time::timeout(BOOT, answer).await.unwrap();
}

pub async fn eight_at_once_make_one_machine(stage: &Stage) {
    let guest = stage.guest();
    let attempts = (0..8).map(|_| {
        let (engine, guest) = (Arc::clone(&stage.engine), guest.clone());
        tokio::spawn(async move { engine.ensure(&guest, &CancellationToken::new()).await })
    });
    let mut found = BTreeSet::new();
    for attempt in futures_util::future::join_all(attempts).await {
        let instance = attempt.unwrap().unwrap();
        found.insert((instance.handle, instance.ports));
    }
    assert_eq!(found.len(), 1, "{found:?}");
    let (one, two) = tokio::join!(
        stage.engine.remove(guest.id, Duration::from_secs(1)),
        stage.engine.remove(guest.id, NO_GRACE)
    );
    one.and(two).unwrap();
    stage.remove(guest.id).await;
}

pub async fn events_tell_of_a_machine(stage: &Stage) {
    let guest = stage.guest();
    let mut events = stage.engine.events();
    let mut told = async |what: &str| {
        let next = async {
            while let Some(event) = events.next().await {
                if event.id == guest.id {
                    return;
                }
            }
            panic!("the events have ended");
        };
        let waited = tokio::time::timeout(BOOT, next).await;
        waited.unwrap_or_else(|_| panic!("nothing was told of {what}"));
    };
    // What a test does here is told at once, or after the next look: so each is awaited for itself.
    stage.ensure(&guest).await;
    told("its start").await;
    stage.is(guest.id, Status::Ready).await;
    stage.inside.panic(guest.id).await;
    told("its panic").await;
    stage.engine.kill(guest.id).await.unwrap();
    told("its end").await;
    stage.remove(guest.id).await;
    told("its removal").await;
}

pub async fn a_stop_before_the_start_leaves_nothing(stage: &Stage) {
    let (guest, stopped) = (stage.guest(), CancellationToken::new());
    stopped.cancel();
    let error = stage.engine.ensure(&guest, &stopped).await.unwrap_err();
    assert_eq!(error, ProviderError::Stopped);
    assert!(stage.engine.inspect(guest.id).await.unwrap().is_none());
    assert_eq!(stage.inside.remains().await, Vec::<String>::new());
}

pub async fn a_new_generation_replaces_an_old_one(stage: &Stage) {
    let mut guest = stage.guest();
    let old = stage.ensure(&guest).await;
    guest.generation = 2;
    let new = stage.ensure(&guest).await;
    assert_eq!(new.generation, 2);
    assert_ne!(new.handle, old.handle);
    // What is asked for late does not bring the old one back.
    guest.generation = 1;
    assert_eq!(stage.ensure(&guest).await.generation, 2);
    assert_eq!(stage.engine.list().await.unwrap().len(), 1);
    stage.remove(guest.id).await;
}

pub async fn what_is_not_there_is_ended_and_removed_all_the_same(stage: &Stage) {
    let (id, engine) = (stage.guest().id, &stage.engine);
    let snapshot = stage.entropy.id(chrono::DateTime::UNIX_EPOCH);
    engine.power_off(id).await.unwrap();
    engine.kill(id).await.unwrap();
    engine.forget(id, snapshot).await.unwrap();
    stage.remove(id).await;
    assert_eq!(engine.logs(id, 5).await.unwrap(), Vec::<String>::new());
    assert!(engine.follow(id, Start::After(0)).next().await.is_none());
    for refused in [
        engine.snapshot(id, snapshot).await,
        engine.restore(id, snapshot).await,
    ] {
        assert_eq!(refused.unwrap_err().code(), "ENGINE_REJECTED");
    }
}
