//! What has come of a fault: what was lost, what was done twice, and how long recovery took.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    time::Duration,
};

use chrono::{DateTime, Utc};
use serde_json::{Value, json};

use super::{
    engine::{Account, Engine},
    load::{Accepted, Client},
    stage::Stage,
};
use crate::harness::{Person, nap};

/// How long everything may take to end. Not a claim about speed: after it, what has not ended counts as lost.
const PATIENT: Duration = Duration::from_secs(90);

/// One row of the matrix.
pub struct Verdict {
    pub tasks: usize,
    pub lost: Vec<String>,
    pub duplicated: Vec<String>,
    pub probe_millis: Option<i64>,
    pub all_millis: Option<i64>,
    /// How many tasks took more than one run.
    pub run_again: usize,
}

impl Verdict {
    /// Waits for the end of everything on the stage and looks at what is there.
    pub async fn on(stage: Stage) -> Self {
        let Stage {
            client,
            load,
            engine,
            ended,
            ground,
            web,
            workers,
            ..
        } = stage;
        let ended = ended.expect("a fault ends");
        let (mut lost, mut accepted) = (Vec::new(), Vec::new());
        for answer in load.done().await {
            match answer {
                Ok(promise) => accepted.push(promise),
                Err(why) => lost.push(format!("a request: {why}")),
            }
        }
        let probe = tokio::time::timeout(PATIENT, ended.probe).await;
        let probe = probe.map_or_else(
            |_| Err("the probe did not end".to_owned()),
            |probe| probe.unwrap(),
        );
        let mut probe_millis = None;
        match probe {
            Ok((promise, took)) => {
                probe_millis = Some(took.num_milliseconds());
                accepted.push(promise);
            }
            Err(why) => lost.push(why),
        }
        all_ended(&client).await;
        let tasks = everything(&client, "tasks", TASK).await;
        let containers = everything(&client, "containers", "id state").await;
        drop((web, workers));
        let accounts = engine.accounts().await;
        let mut verdict = Self {
            tasks: tasks.len(),
            lost,
            duplicated: Vec::new(),
            probe_millis,
            all_millis: None,
            run_again: tasks.values().filter(|task| task["attempt"] != 1).count(),
        };
        verdict.judge_tasks(&accepted, &tasks);
        verdict.judge_containers(&accepted, &containers, &accounts);
        verdict.all_millis = recovery(&accepted, &tasks, ended.at);
        ground.clear().await;
        verdict
    }

    /// Waits for the end of all of somebody's tasks and looks at what there is; recovery is not measured.
    pub async fn of(person: &Person, engine: &Engine, accepted: &[Accepted]) -> Self {
        let (_keeps, seen) = tokio::sync::watch::channel(person.address);
        let client = Client::new(person.clone(), seen);
        all_ended(&client).await;
        let tasks = everything(&client, "tasks", TASK).await;
        let containers = everything(&client, "containers", "id state").await;
        let mut verdict = Self {
            tasks: tasks.len(),
            lost: Vec::new(),
            duplicated: Vec::new(),
            probe_millis: None,
            all_millis: None,
            run_again: tasks.values().filter(|task| task["attempt"] != 1).count(),
        };
        verdict.judge_tasks(accepted, &tasks);
        verdict.judge_containers(accepted, &containers, &engine.accounts().await);
        verdict
    }

    fn judge_tasks(&mut self, accepted: &[Accepted], tasks: &BTreeMap<String, Value>) {
        let promised: BTreeSet<&String> = accepted.iter().map(|promise| &promise.task).collect();
        if promised.len() < accepted.len() {
            self.lost
                .push("two keys were answered with one task".to_owned());
        }
        for id in &promised {
            match tasks.get(*id) {
                None => self
                    .lost
                    .push(format!("{id} was promised and is not there")),
                Some(task) if task["state"] != "SUCCEEDED" => {
                    self.lost.push(format!("not succeeded: {task}"));
                }
                Some(_) => {}
            }
        }
        for (id, task) in tasks {
            if !promised.contains(id) {
                self.duplicated.push(format!("nobody was told of {task}"));
            }
            let said = task["logs"].as_array().unwrap().iter();
            let steps: Vec<&str> = said
                .filter_map(|line| line["message"].as_str())
                .filter(|message| message.starts_with("step "))
                .collect();
            let once: BTreeSet<&str> = steps.iter().copied().collect();
            if once.len() < steps.len() {
                self.duplicated.push(format!("a step twice: {task}"));
            }
        }
    }

    /// Every container that was promised runs, was made once, and no other was made.
    fn judge_containers(
        &mut self,
        accepted: &[Accepted],
        rows: &BTreeMap<String, Value>,
        accounts: &BTreeMap<String, Account>,
    ) {
        let promised = accepted.iter().filter_map(|it| it.container.as_ref());
        let promised: BTreeSet<&String> = promised.collect();
        for id in &promised {
            if rows.get(*id).is_none_or(|row| row["state"] != "RUNNING") {
                self.lost
                    .push(format!("not running: {id} {:?}", rows.get(*id)));
            }
            match accounts.get(*id) {
                None => self.lost.push(format!("{id} is not on the engine")),
                Some(account) => {
                    if account.created > 1 || account.most_at_once > 1 {
                        self.duplicated.push(format!("{id}: {account:?}"));
                    }
                    if account.alive() == 0 || !account.is_running {
                        self.lost.push(format!("{id}: {account:?}"));
                    }
                }
            }
        }
        let known = rows.keys().chain(accounts.keys());
        let strange: BTreeSet<&String> = known.filter(|id| !promised.contains(id)).collect();
        for id in strange {
            self.duplicated.push(format!("nobody was told of {id}"));
        }
    }

    /// Writes the row to where `tests/run.sh` looks for it, and fails when anything was lost or done twice.
    pub fn report(&self, row: &str, fault: &str) {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("chaos");
        fs::create_dir_all(&folder).unwrap();
        let millis = |millis: Option<i64>| millis.map_or("never".to_owned(), |it| it.to_string());
        let line = format!(
            "{fault} | {} | {} | {} | {} | {}\n",
            self.tasks,
            self.lost.len(),
            self.duplicated.len(),
            millis(self.probe_millis),
            millis(self.all_millis),
        );
        fs::write(folder.join(row).with_extension("row"), line).unwrap();
        assert!(self.lost.is_empty(), "lost: {:#?}", self.lost);
        assert!(
            self.duplicated.is_empty(),
            "done twice: {:#?}",
            self.duplicated
        );
    }
}

/// From the end of the fault to the end of the last task that had been accepted by then; 0 when all had ended before.
fn recovery(
    accepted: &[Accepted],
    tasks: &BTreeMap<String, Value>,
    fault: DateTime<Utc>,
) -> Option<i64> {
    let mut longest = 0;
    for promise in accepted.iter().filter(|promise| promise.at <= fault) {
        let finished = tasks.get(&promise.task)?["finishedAt"].as_str()?;
        let finished: DateTime<Utc> = finished.parse().ok()?;
        longest = longest.max((finished - fault).num_milliseconds());
    }
    Some(longest)
}

/// Waits until no task is left to be done, but not for ever.
async fn all_ended(client: &Client) {
    const LEFT: &str =
        "{ tasks(filter: {state: {in: [QUEUED, RUNNING, WAITING]}}) { totalCount } }";
    let wait = async {
        while client.insist(LEFT, json!({})).await.unwrap()["tasks"]["totalCount"] != 0 {
            nap(50).await;
        }
    };
    // What has not ended by then is found by its state.
    let _ = tokio::time::timeout(PATIENT, wait).await;
}

const TASK: &str =
    "id kind state attempt failures error { code message } finishedAt logs { message attempt }";

/// Every node of a connection, by id.
async fn everything(client: &Client, field: &str, fields: &str) -> BTreeMap<String, Value> {
    let query = format!(
        "query($after: String) {{ page: {field}(first: 50, after: $after) {{ \
            nodes {{ {fields} }} pageInfo {{ hasNextPage endCursor }} }} }}"
    );
    let mut found = BTreeMap::new();
    let mut after = Value::Null;
    loop {
        let answer = client.insist(&query, json!({ "after": after })).await;
        let page = answer.unwrap()["page"].clone();
        for node in page["nodes"].as_array().unwrap() {
            found.insert(node["id"].as_str().unwrap().to_owned(), node.clone());
        }
        if page["pageInfo"]["hasNextPage"] != true {
            return found;
        }
        after = page["pageInfo"]["endCursor"].clone();
    }
}
