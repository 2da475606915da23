//! What people do: they enqueue tasks, cancel, try again, re-order, pause, and make happen what tasks wait for.

use std::{sync::Arc, time::Duration};

use chrono::TimeDelta;
use main_webserver::{
    domain::{Id, Machine as _, id::User, task::Priority},
    store::{
        schedules,
        tasks::{NewTask, TaskInput as _},
    },
};
use uuid::Uuid;

use super::{
    kinds::{Bound, Endless, Family, Flaky, LONG, Limited, Poison, Quick, Slow, Stepped, Waiting},
    model,
    node::Node,
    oracle::{Effect, LONELY},
};

const TOPICS: [&str; 3] = ["boot", "pull", "start"];
const KINDS: [&str; 10] = [
    "quick", "flaky", "stepped", "waiting", "family", "slow", "poison", "endless", "limited",
    "bound",
];

pub struct People(pub Arc<Node>);

impl People {
    fn owner(number: u64) -> Id<User> {
        Id::new(Uuid::from_u128(u128::from(number) + 1))
    }

    /// Some task of some kind.
    fn task(&self) -> NewTask {
        let mut state = self.0.world.state();
        let owner = Some(Self::owner(state.below(3)));
        let kind = state.among(&KINDS);
        let task = match kind {
            "quick" => Quick {}.into_task(owner, None),
            "flaky" => Flaky {
                failures: 1 + i32::try_from(state.below(2)).unwrap_or_default(),
            }
            .into_task(owner, None),
            "stepped" => Stepped {
                dooms: state.below(2) == 0,
            }
            .into_task(owner, None),
            "waiting" => Waiting {
                topic: state.among(&TOPICS).to_owned(),
            }
            .into_task(owner, None),
            "family" => Family { children: 2 }.into_task(owner, None),
            "slow" => Slow {}.into_task(owner, None),
            "poison" => Poison {}.into_task(owner, None),
            "endless" => Endless {}.into_task(owner, None),
            "bound" => Bound {}.into_task(owner, None),
            _ => Limited {}.into_task(owner, None),
        };
        let mut task = task.expect("inputs are plain");
        task.priority = state.among(&Priority::ALL);
        if kind == "poison" {
            task.max_attempts = 2;
        }
        if state.below(5) == 0 {
            let pause = i64::try_from(state.below(3_000)).unwrap_or_default();
            task.run_at = Some(self.0.world.now() + TimeDelta::milliseconds(pause));
        }
        let key = state.below(1_000_000);
        if state.below(2) == 0 {
            task.idempotency_key = Some(format!("key {key}"));
        } else if state.below(6) == 0 {
            task.unique_key = Some(format!("unique {}", key % 2));
        }
        task
    }

    /// Enqueues `tasks`; one whose answer is lost is asked for again when it has a key.
    pub async fn enqueue(&self, tasks: Vec<NewTask>) {
        for _ in 0..4 {
            let asked = tasks.clone();
            let answer = self
                .0
                .call("insert", |state, tx| {
                    let inserted = state.db.insert_batch(tx, asked);
                    let ids: Vec<Uuid> = inserted.iter().map(|(row, _)| row.id).collect();
                    Ok((ids.clone(), Effect::Inserted(ids)))
                })
                .await;
            if answer.is_ok() || tasks.iter().any(|task| task.idempotency_key.is_none()) {
                return;
            }
            self.0.world.nap(Duration::from_millis(200)).await;
        }
    }

    /// Does `count` things, one after the other.
    pub async fn live(&self, count: u64) {
        for _ in 0..count {
            let pause = self.0.world.state().below(500);
            self.0.world.nap(Duration::from_millis(pause)).await;
            let what = self.0.world.state().below(20);
            match what {
                0..=11 => self.enqueue(vec![self.task()]).await,
                12 => {
                    let many = (0..3).map(|_| self.task()).collect();
                    self.enqueue(many).await;
                }
                13 | 14 => self.cancel_some().await,
                15 => self.revive_some().await,
                16 => self.reprioritise_some().await,
                17 => self.pause_some().await,
                _ => {
                    let topic = self.0.world.state().among(&TOPICS);
                    self.fire(topic).await;
                }
            }
        }
    }

    /// Somebody enqueues many tasks at once, and then somebody else a single one.
    pub async fn crowd(&self) {
        let of = |owner: Uuid| {
            Quick {}
                .into_task(Some(Id::new(owner)), None)
                .expect("an input is plain")
        };
        let many = (0..60).map(|_| of(Uuid::from_u128(999))).collect();
        self.enqueue(many).await;
        self.enqueue(vec![of(LONELY)]).await;
    }

    fn some(&self, condition: impl Fn(&model::Row) -> bool) -> Option<Uuid> {
        let mut state = self.0.world.state();
        let ids: Vec<Uuid> = state
            .db
            .tasks
            .values()
            .filter(|row| condition(row))
            .map(|row| row.id)
            .collect();
        (!ids.is_empty()).then(|| state.among(&ids))
    }

    async fn cancel_some(&self) {
        if let Some(task) = self.some(model::is_live) {
            self.cancel(task).await;
        }
    }

    async fn cancel(&self, task: Uuid) {
        let _ = self
            .0
            .call("cancel", |state, tx| {
                state.db.request_cancel(tx, task);
                Ok(((), Effect::Asked { revives: false }))
            })
            .await;
    }

    async fn revive_some(&self) {
        let is_dead = |row: &model::Row| row.state == "failed" || row.state == "cancelled";
        if let Some(task) = self.some(is_dead) {
            let _ = self
                .0
                .call("revive", |state, tx| {
                    state.db.revive(tx, &[task])?;
                    state.count("effect revived");
                    Ok(((), Effect::Asked { revives: true }))
                })
                .await;
        }
    }

    async fn reprioritise_some(&self) {
        if let Some(task) = self.some(|row| row.state == "queued") {
            let priority = self.0.world.state().among(&Priority::ALL);
            let _ = self
                .0
                .call("reprioritise", |state, tx| {
                    if state
                        .db
                        .tasks
                        .get(&task)
                        .is_some_and(|row| !model::state(row).is_terminal())
                    {
                        state.db.reprioritise(tx, task, priority);
                    }
                    Ok(((), Effect::Moved))
                })
                .await;
        }
    }

    async fn pause_some(&self) {
        let kind = self.0.world.state().among(&KINDS);
        let _ = self
            .0
            .call("pause", |state, _| {
                if !state.db.paused.remove(kind) {
                    state.db.paused.insert(kind.to_owned());
                }
                Ok(((), Effect::Read))
            })
            .await;
    }

    /// Makes happen what tasks wait for: first that it can be seen, then a word to those who wait, until it is heard.
    pub async fn fire(&self, topic: &'static str) {
        for _ in 0..20 {
            let told = self
                .0
                .call("fire", |state, tx| {
                    state.fired.insert(topic.to_owned());
                    Ok((state.db.wake(tx, topic), Effect::Moved))
                })
                .await;
            if told.is_ok() {
                return;
            }
            self.0.world.nap(Duration::from_millis(300)).await;
        }
    }

    /// Ends what would not end by itself: nothing recurs or is paused any more.
    pub async fn finish(&self) {
        {
            let now = self.0.world.now();
            let mut state = self.0.world.state();
            let is_late = |due: &schedules::Model| due.next_at + TimeDelta::seconds(4) < now;
            if state.oracle.is_clear && state.db.schedules.values().any(is_late) {
                state
                    .oracle
                    .fail("a schedule was not fired in clear weather".to_owned());
            }
            state.db.paused.clear();
            state.db.schedules.clear();
        }
        for topic in TOPICS {
            self.fire(topic).await;
        }
        let endless: Vec<Uuid> = {
            let state = self.0.world.state();
            let rows = state.db.tasks.values();
            rows.filter(|row| row.kind == "endless" && model::is_live(row))
                .map(|row| row.id)
                .collect()
        };
        for task in endless {
            self.cancel(task).await;
        }
    }

    /// Puts a schedule that fires every few seconds.
    pub fn schedule(&self) {
        let now = self.0.world.now();
        let task = Quick {}.into_task(None, None).expect("an input is plain");
        let schedule = schedules::Model {
            id: Uuid::from_u128(77),
            name: "often".to_owned(),
            template: serde_json::to_value(schedules::Template::from(NewTask {
                deadline: LONG,
                ..task
            }))
            .expect("a template is plain"),
            cron: "*/4 * * * * *".to_owned(),
            time_zone: "UTC".to_owned(),
            enabled: true,
            next_at: now + TimeDelta::seconds(1),
            last_at: None,
            last_task_id: None,
            version: 1,
            created_at: now,
            updated_at: now,
        };
        self.0
            .world
            .state()
            .db
            .schedules
            .insert(schedule.id, schedule);
    }
}
