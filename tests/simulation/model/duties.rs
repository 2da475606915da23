//! Schedules, rates, the lead, messages and signs of life.

use std::{collections::BTreeSet, time::Duration};

use chrono::TimeDelta;
use main_webserver::{
    domain::{cadence::Cadence, task::Priority},
    store::{Posted, limits::Rate, schedules, tasks::NewTask},
};
use uuid::Uuid;

use super::{Database, Leader, Time, Tx, is_live};

impl Database {
    /// Makes one task for each schedule whose time has come, however often it has come.
    pub fn fire_schedules(&mut self, tx: &mut Tx) -> Vec<Posted> {
        let now = tx.now;
        let due: BTreeSet<(Time, Uuid)> = self
            .schedules
            .values()
            .filter(|schedule| schedule.enabled && schedule.next_at <= now)
            .map(|schedule| (schedule.next_at, schedule.id))
            .collect();
        let mut told = Vec::new();
        for (at, id) in due {
            let Some(schedule) = self.schedules.get_mut(&id) else {
                continue;
            };
            let (Ok(cadence), Ok(template)) = (
                Cadence::parse(&schedule.cron, &schedule.time_zone),
                schedule.template(),
            ) else {
                continue;
            };
            let next = cadence.next(now);
            schedule.next_at = next.unwrap_or(at);
            schedule.enabled = next.is_some();
            schedule.last_at = Some(at);
            schedule.version += 1;
            let task = NewTask {
                kind: template.kind.into(),
                input_version: template.input_version,
                input: template.input,
                owner: None,
                subject: None,
                parent: None,
                priority: Priority::from_rank(template.rank),
                max_attempts: template.max_attempts,
                run_at: None,
                deadline: Duration::from_secs(template.deadline_seconds),
                idempotency_key: Some(format!(
                    "schedule:{}:{}",
                    id.simple(),
                    at.timestamp_micros()
                )),
                unique_key: None,
                trace: None,
            };
            let mut one = Tx::at(now, &tx.entropy);
            let made = self.insert_all(&mut one, vec![task]);
            if let Some(schedule) = self.schedules.get_mut(&id) {
                schedule.last_task_id = made.first().map(|(row, _)| row.id);
            }
            self.commit(&mut one);
            told.push(one.posted);
        }
        told
    }

    /// Adds a schedule, or puts it in the place of the one with its name.
    pub fn put_schedule(&mut self, tx: &mut Tx, new: schedules::NewSchedule) {
        let earlier = self.schedules.values().find(|old| old.name == new.name);
        let row = schedules::Model {
            id: earlier.map_or_else(|| tx.entropy.uuid(tx.now), |old| old.id),
            version: earlier.map_or(1, |old| old.version + 1),
            created_at: earlier.map_or(tx.now, |old| old.created_at),
            last_at: earlier.and_then(|old| old.last_at),
            last_task_id: earlier.and_then(|old| old.last_task_id),
            updated_at: tx.now,
            name: new.name,
            template: serde_json::to_value(new.template).expect("a template is plain"),
            cron: new.cron,
            time_zone: new.time_zone,
            enabled: new.enabled,
            next_at: new.next_at,
        };
        self.schedules.insert(row.id, row);
        self.commit(tx);
    }

    /// How many tasks of a share have not ended.
    pub fn live_of_share(&self, share: Uuid) -> u64 {
        let of_share = self.tasks.values().filter(|row| row.share == share);
        of_share.filter(|row| is_live(row)).count() as u64
    }

    /// One call of a rate: when it may be made. The row keeps the end of the last one (ITU-T I.371, annex A).
    pub fn reserve(&mut self, now: Time, name: &str, rate: Rate) -> Time {
        let every = TimeDelta::from_std(rate.every).expect("rates are short");
        let ahead = every * i32::try_from(rate.burst.saturating_sub(1)).expect("bursts are small");
        let next = self.limits.get(name).copied();
        let end = next.map_or(now, |next| next.max(now)) + every;
        self.limits.insert(name.to_owned(), end);
        self.unflushed.clear();
        next.map_or(now, |next| (next - ahead).max(now))
    }

    pub fn lead(&mut self, now: Time, job: &str, holder: Uuid, lease: Duration) -> Option<i64> {
        let until = now + lease;
        let term = match self.leaders.get(job) {
            None => 1,
            Some(leader) if leader.holder == holder => leader.term,
            Some(leader) if leader.until < now => leader.term + 1,
            Some(_) => return None,
        };
        let leader = Leader {
            holder,
            term,
            until,
        };
        self.leaders.insert(job.to_owned(), leader);
        self.unflushed.clear();
        Some(term)
    }

    pub fn resign(&mut self, job: &str, holder: Uuid) {
        if let Some(leader) = self.leaders.get_mut(job)
            && leader.holder == holder
        {
            leader.until = Time::UNIX_EPOCH;
            self.unflushed.clear();
        }
    }

    pub fn left_over(&self, before: Time, limit: u64) -> Vec<Posted> {
        self.outbox
            .iter()
            .filter(|(_, (at, _))| *at < before)
            .take(usize::try_from(limit).unwrap_or(usize::MAX))
            .map(|(id, (_, changes))| Posted {
                id: Some(*id),
                changes: changes.clone(),
                ..Posted::default()
            })
            .collect()
    }

    pub fn forget(&mut self, messages: &[Uuid]) {
        for id in messages {
            if self.outbox.remove(id).is_some() {
                self.unflushed.clear();
            }
        }
    }

    pub fn beat(&mut self, now: Time, worker: Uuid) {
        self.workers.insert(worker, now);
        self.unflushed.clear();
    }

    pub fn leave(&mut self, worker: Uuid) {
        if self.workers.remove(&worker).is_some() {
            self.unflushed.clear();
        }
    }
}
