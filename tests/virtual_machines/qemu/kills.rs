//! `kill -9` at every step of a create: of the worker, and of QEMU and its tools.
//!
//! Wherever it hits, the machine comes up, or has failed with a reason; one process runs, nothing half made is left, and
//! after its deletion nothing at all.

use main_webserver::store::machines;
use sea_orm::{ColumnTrait as _, EntityTrait as _, QueryFilter as _};
use tokio::time::Instant;

use super::{BOOT, Site, ground_on, reaches};
use crate::harness::{
    Person,
    directory::{Directory, children, kill},
    machines::CreatedMachine,
    process::Process,
    until_within,
};

/// How far a create has come, in the order of its steps.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Step {
    /// Its row is there.
    Requested,
    /// `qemu-img` looks at its image.
    Checking,
    /// `qemu-img` makes its disk, beside its place.
    Making,
    /// Its folder is in its place; QEMU has not been started.
    Made,
    /// A process of QEMU is there, and has not said that it runs.
    Starting,
    /// It has, and the row does not say so yet.
    Started,
    Booting,
    Running,
}

const STEPS: [Step; 8] = [
    Step::Requested,
    Step::Checking,
    Step::Making,
    Step::Made,
    Step::Starting,
    Step::Started,
    Step::Booting,
    Step::Running,
];

impl Step {
    const fn name(self) -> &'static str {
        match self {
            Self::Requested => "REQUESTED is written",
            Self::Checking => "its image is checked",
            Self::Making => "its disk is made",
            Self::Made => "its folder is in place",
            Self::Starting => "QEMU is starting",
            Self::Started => "QEMU has started",
            Self::Booting => "BOOTING",
            Self::Running => "RUNNING",
        }
    }

    /// Whether a create has come to this step, seen from outside; what can be killed then beside the worker `worker`.
    async fn reached(self, site: &Site, worker: i32) -> Option<Vec<i32>> {
        let tool = |words: &[&str]| {
            let all = children(worker).into_iter();
            let found: Vec<i32> = all
                .filter(|(_, line)| words.iter().any(|word| line.starts_with(word)))
                .map(|(pid, _)| pid)
                .collect();
            (!found.is_empty()).then_some(found)
        };
        let machines = || {
            let found = site.directory.pids();
            (!found.is_empty()).then_some(found)
        };
        match self {
            Self::Requested => row(site).await.map(|_| Vec::new()),
            Self::Checking => tool(&["qemu-img info -U", "qemu-img check"]),
            Self::Making => tool(&["qemu-img create"]),
            Self::Made => has_come_to(site, "Created").then(Vec::new),
            Self::Starting => machines(),
            Self::Started => has_come_to(site, "Started").then(machines)?,
            Self::Booting => is_in(site, "booting").await.then(machines)?,
            Self::Running => is_in(site, "running").await.then(machines)?,
        }
    }
}

/// The one row that is not of a machine that is gone.
async fn row(site: &Site) -> Option<machines::Model> {
    machines::Entity::find()
        .filter(machines::Column::State.ne("deleted"))
        .one(site.store.db())
        .await
        .unwrap()
}

async fn is_in(site: &Site, state: &str) -> bool {
    row(site).await.is_some_and(|row| row.state == state)
}

/// Whether the record in the machine's folder says so.
fn has_come_to(site: &Site, phase: &str) -> bool {
    let names = site.directory.files().into_iter();
    let mut records = names
        .filter(|name| name.starts_with("main-"))
        .filter_map(|name| {
            let record = site.directory.machines().join(name).join("machine.json");
            std::fs::read_to_string(record).ok()
        });
    records.any(|text| text.contains(&format!("\"phase\": \"{phase}\"")))
}

/// Asks for a machine, and kills as soon as its create has come to `step`; what the row said then.
async fn killed_at(
    step: Step,
    site: &Site,
    ada: &Person,
    worker: &Process,
    is_workers_end: bool,
) -> (CreatedMachine, String, Instant) {
    let pid = worker.pid();
    let watch = async {
        // As close as can be: there is no moment between the looks.
        let victims = loop {
            if let Some(found) = step.reached(site, pid).await {
                break found;
            }
            tokio::task::yield_now().await;
        };
        if is_workers_end {
            kill(pid);
        } else {
            victims.into_iter().for_each(kill);
        }
        let then = Instant::now();
        let state = row(site).await.map_or_else(String::new, |row| row.state);
        (state, then)
    };
    let watch = tokio::time::timeout(BOOT, watch);
    let (created, watched) = tokio::join!(ada.new_machine("layered"), watch);
    let (state, then) = watched.unwrap_or_else(|_| panic!("never seen: {}", step.name()));
    (created, state, then)
}

/// Waits until a machine is as it is to stay, and then deletes it; a row of the table.
async fn converges(
    who: &str,
    step: Step,
    site: &Site,
    ada: &Person,
    (created, state, then): (CreatedMachine, String, Instant),
) -> String {
    let is_lost = step == Step::Running && who != "worker";
    let outcome = if is_lost { "FAILED" } else { "RUNNING" };
    let processes = usize::from(!is_lost);
    reaches(ada, &created.id, outcome).await;
    let task = until_within(BOOT, "its task has ended", async || {
        let task = ada.task(&created.task).await;
        (task["state"] == "SUCCEEDED").then_some(task)
    })
    .await;
    // Those that begin a daemon may still be there for a moment, and what is half made until the next look.
    until_within(BOOT, "one process and nothing half made", async || {
        let is_whole = site.directory.files() == [format!("main-{}", created.id)];
        (is_whole && site.directory.pids().len() == processes).then_some(())
    })
    .await;
    let took = then.elapsed().as_millis();
    let failure = ada.machine(&created.id).await["failure"]["code"].clone();
    let failure = failure.as_str().unwrap_or_default();
    if is_lost {
        assert_eq!(failure, "EXITED");
    }
    site.leaves_nothing_of(ada, &created.id).await;
    let [attempts, failures] = ["attempt", "failures"].map(|count| task[count].to_string());
    let outcome = format!("{outcome} {failure}");
    format!(
        "{who:8} {:22} {state:13} {outcome:15} {took:>8} {attempts:>9} {failures:>9}",
        step.name()
    )
}

/// The table is what the run of these tests is read for.
#[expect(clippy::print_stdout, reason = "shown by the test's runner")]
fn show(rows: &[String]) {
    println!(
        "{:8} {:22} {:13} {:15} {:>8} {:>9} {:>9}",
        "killed", "when", "the row then", "outcome", "ms", "attempts", "failures"
    );
    for row in rows {
        println!("{row}");
    }
}

async fn site() -> Site {
    let directory = Directory::new();
    let ground = ground_on(&directory).await.with("LEASE_SECONDS", "1");
    Site::of(directory, ground, &["web"]).await
}

#[tokio::test]
async fn a_worker_killed_at_any_step_of_a_create_is_taken_over() {
    let site = site().await;
    let ada = site.person("ada").await;
    let mut rows = Vec::new();
    for step in STEPS {
        let worker = Process::start(&site.ground, "worker").await;
        let hit = killed_at(step, &site, &ada, &worker, true).await;
        worker.kill().await;
        let heir = Process::start(&site.ground, "worker").await;
        rows.push(converges("worker", step, &site, &ada, hit).await);
        heir.kill().await;
    }
    show(&rows);
    site.end().await;
}

#[tokio::test]
async fn qemu_killed_at_any_step_of_a_create_is_run_again_or_told_of() {
    let site = site().await;
    let ada = site.person("ada").await;
    let worker = Process::start(&site.ground, "worker").await;
    let mut rows = Vec::new();
    for step in STEPS {
        let who = match step {
            // There is nothing of QEMU's then.
            Step::Requested | Step::Made => continue,
            Step::Checking | Step::Making => "qemu-img",
            Step::Starting | Step::Started | Step::Booting | Step::Running => "QEMU",
        };
        let hit = killed_at(step, &site, &ada, &worker, false).await;
        rows.push(converges(who, step, &site, &ada, hit).await);
    }
    show(&rows);
    drop(worker);
    site.end().await;
}
