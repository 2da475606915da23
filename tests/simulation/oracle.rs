//! What has to hold after every change, whatever the model's own rules say: the oracle keeps books of its own.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, TimeDelta, Utc};
use main_webserver::{
    domain::{Machine as _, task::TaskState},
    store::{
        limits::Rate,
        tasks::{Hint, Lease, Model as Row},
    },
};
use uuid::Uuid;

use super::{kinds, model, world::State};

/// What a request has done, as far as its promise tells.
#[derive(Debug)]
pub enum Effect {
    Read,
    /// Moved tasks nobody runs.
    Moved,
    Claimed(Vec<Lease>),
    /// A write of runs, which only their newest may make.
    Wrote(Vec<Lease>),
    Settled(Vec<(Lease, &'static str)>),
    Expired(usize),
    Inserted(Vec<Uuid>),
    /// A request to stop or to try again.
    Asked {
        revives: bool,
    },
}

/// What the oracle remembers of a task.
#[derive(Clone, Debug)]
struct Known {
    state: TaskState,
    version: i64,
    attempt: i32,
    failures: i32,
    holder: Option<Holder>,
    /// The number of the claim after which somebody asked it to stop.
    cancelled_after: Option<u64>,
    /// The machine has forgotten a claim of it, so two runs of one attempt may have met the provider.
    is_marred: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Holder {
    node: usize,
    lease: Lease,
    claim: u64,
}

pub struct Oracle {
    pub violation: Option<String>,
    pub is_clear: bool,
    tasks: BTreeMap<Uuid, Known>,
    claims: u64,
    /// Runs under way, as (node, lease).
    runs: BTreeSet<(usize, Lease)>,
    keys: BTreeSet<(Uuid, String)>,
    turns: Vec<DateTime<Utc>>,
    announced: u64,
    /// Claims at the time the lonely share's hint came.
    heard: Option<u64>,
}

/// The share that has one task among another's many.
pub const LONELY: Uuid = Uuid::from_u128(1_000);
/// Most starts of others between its hint and its own start, in clear weather: what the workers can hold, twice.
const STARTS: u64 = 24;

impl Oracle {
    pub const fn new(is_clear: bool) -> Self {
        Self {
            violation: None,
            is_clear,
            tasks: BTreeMap::new(),
            claims: 0,
            runs: BTreeSet::new(),
            keys: BTreeSet::new(),
            turns: Vec::new(),
            announced: 0,
            heard: None,
        }
    }

    /// Keeps the first violation.
    pub fn fail(&mut self, what: String) {
        self.violation.get_or_insert(what);
    }

    pub fn announced(&mut self, hint: Hint) {
        self.announced += 1;
        if hint.share == LONELY {
            self.heard.get_or_insert(self.claims);
        }
    }

    /// A run begins: no other of the same lease may be under way in the same process.
    pub fn begin_run(&mut self, node: usize, lease: Lease) {
        if !self.runs.insert((node, lease)) {
            self.fail(format!("{lease:?} runs twice at once on node {node}"));
        }
    }

    pub fn end_run(&mut self, node: usize, lease: Lease) {
        self.runs.remove(&(node, lease));
    }

    /// Within any `every` at most `burst` turns are given.
    pub fn reserved(&mut self, at: DateTime<Utc>, rate: Rate) {
        self.turns.push(at);
        let every = TimeDelta::from_std(rate.every).unwrap_or_default();
        let mut latest = self.turns.iter().rev();
        if let Some(earlier) = latest.nth(rate.burst as usize)
            && at < *earlier + every
        {
            self.fail(format!(
                "a turn at {at} comes too soon after one at {earlier}"
            ));
        }
    }

    /// The machine has died: claims that were not on its disk are forgotten.
    pub fn forgotten(&mut self, rows: &[Row]) {
        for row in rows.iter().rev() {
            if let Some(known) = self.tasks.get_mut(&row.id) {
                known.state = model::state(row);
                known.version = row.version;
                known.attempt = row.attempt;
                known.holder = None;
                known.is_marred = true;
            }
        }
    }

    fn claimed(&mut self, node: usize, lease: Lease) -> Result<(), String> {
        self.claims += 1;
        let holder = Holder {
            node,
            lease,
            claim: self.claims,
        };
        let known = self
            .tasks
            .get_mut(&lease.task.uuid())
            .ok_or("an unknown task was claimed")?;
        if known.state != TaskState::Queued {
            return Err(format!("{lease:?} was claimed while {:?}", known.state));
        }
        if lease.attempt != known.attempt + 1 {
            return Err(format!("{lease:?} follows attempt {}", known.attempt));
        }
        known.holder = Some(holder);
        Ok(())
    }

    fn wrote(&self, node: usize, lease: Lease) -> Result<(), String> {
        let known = self.tasks.get(&lease.task.uuid());
        match known.and_then(|known| known.holder) {
            Some(holder) if holder.lease == lease && holder.node == node => Ok(()),
            other => Err(format!(
                "a write of {lease:?} from node {node} was accepted; the newest claim is {other:?}"
            )),
        }
    }
}

/// Checks what `effect` of a request of `node` has left in the database.
pub fn check(state: &mut State, node: usize, now: DateTime<Utc>, effect: Effect) {
    if let Err(violation) = check_effect(state, node, now, effect) {
        state.oracle.fail(violation);
    }
}

fn check_effect(
    state: &mut State,
    node: usize,
    now: DateTime<Utc>,
    effect: Effect,
) -> Result<(), String> {
    let is_revival = matches!(effect, Effect::Asked { revives: true });
    match effect {
        Effect::Read => return Ok(()),
        Effect::Moved | Effect::Asked { .. } => {}
        Effect::Claimed(leases) => {
            for lease in leases {
                state.oracle.claimed(node, lease)?;
                claim_was_due(state, lease, now)?;
            }
        }
        Effect::Wrote(leases) => {
            for lease in leases {
                state.oracle.wrote(node, lease)?;
            }
        }
        Effect::Settled(outcomes) => {
            for (lease, word) in outcomes {
                state.oracle.wrote(node, lease)?;
                settled(state, lease, word)?;
            }
        }
        Effect::Expired(count) => {
            if count > 0 && state.oracle.is_clear {
                return Err(format!("{count} leases ended in clear weather"));
            }
            if count > 0 {
                state.count("effect lease expired");
            }
        }
        Effect::Inserted(ids) => {
            if let Some(lost) = ids.iter().find(|id| !state.db.tasks.contains_key(id)) {
                return Err(format!("task {lost} was accepted and is not there"));
            }
        }
    }
    compare(state, is_revival)
}

/// A claim takes what is due and not paused; with little else waiting, a share's first one comes soon.
fn claim_was_due(state: &mut State, lease: Lease, now: DateTime<Utc>) -> Result<(), String> {
    let row = state
        .db
        .tasks
        .get(&lease.task.uuid())
        .ok_or("a claimed task is gone")?;
    if row.run_at > now || state.db.paused.contains(&row.kind) {
        return Err(format!(
            "{lease:?} was claimed before its time or while paused"
        ));
    }
    let oracle = &mut state.oracle;
    if row.share == LONELY
        && let Some(since) = oracle.heard
        && oracle.is_clear
        && oracle.claims - since > STARTS
    {
        let starts = oracle.claims - since;
        return Err(format!(
            "{starts} of the crowd started before the lonely one"
        ));
    }
    Ok(())
}

/// A run has ended the task for now: what it says must fit what it did and what was asked of it.
fn settled(state: &mut State, lease: Lease, word: &'static str) -> Result<(), String> {
    let id = lease.task.uuid();
    let row = &state.db.tasks[&id];
    let label = format!("{} {word}", row.kind);
    let kind = row.kind.clone();
    let given_up = row.failures >= row.max_attempts + 5;
    let things = state.provider.count(id);
    let known = state
        .oracle
        .tasks
        .get_mut(&id)
        .ok_or("an unknown task has ended")?;
    let claim = known.holder.take().map_or(0, |holder| holder.claim);
    let (is_marred, cancelled_after) = (known.is_marred, known.cancelled_after);
    state.count(&label);
    let is_end = matches!(word, "succeeded" | "failed" | "cancelled");
    if is_end && word != "cancelled" && cancelled_after.is_some_and(|after| claim > after) {
        return Err(format!(
            "{lease:?} {word}, though its run began after the request to stop"
        ));
    }
    if word == "cancelled" && cancelled_after.is_none() {
        return Err(format!("{lease:?} was cancelled and nobody had asked"));
    }
    let expected = match word {
        "succeeded" => kinds::things(&kind),
        "failed" | "cancelled" => 0,
        _ => return Ok(()),
    };
    if things != expected && !is_marred && !given_up {
        return Err(format!(
            "{lease:?} ({kind}) {word} and {things} things are there, not {expected}"
        ));
    }
    Ok(())
}

/// Compares every row with what was known of it.
fn compare(state: &mut State, is_revival: bool) -> Result<(), String> {
    let State {
        db, oracle, trace, ..
    } = state;
    if db.tasks.len() < oracle.tasks.len() {
        return Err("a task is gone".to_owned());
    }
    for row in db.tasks.values() {
        let Some(known) = oracle.tasks.get_mut(&row.id) else {
            if let Some(key) = &row.idempotency_key
                && !oracle.keys.insert((row.share, key.clone()))
            {
                return Err(format!("key {key} has made two tasks"));
            }
            let parent = row.parent_id.and_then(|parent| db.tasks.get(&parent));
            if parent.is_some_and(|parent| parent.cancel_requested_at.is_some()) {
                return Err(format!("{} is a child of one that is to stop", row.id()));
            }
            trace.fold(row.id.as_u64_pair().1);
            oracle.tasks.insert(row.id, Known::of(row));
            continue;
        };
        if known.version == row.version && known.attempt == row.attempt {
            continue;
        }
        trace.fold(row.id.as_u64_pair().1 ^ row.version.unsigned_abs());
        known.follow(row, oracle.claims, is_revival)?;
    }
    Ok(())
}

impl Known {
    fn of(row: &Row) -> Self {
        Self {
            state: model::state(row),
            version: row.version,
            attempt: row.attempt,
            failures: row.failures,
            holder: None,
            cancelled_after: None,
            is_marred: false,
        }
    }

    fn follow(&mut self, row: &Row, claims: u64, is_revival: bool) -> Result<(), String> {
        let state = model::state(row);
        let step = (self.state, state);
        let is_in = |table: &[(TaskState, _, TaskState)]| {
            table.iter().any(|(from, _, to)| (*from, *to) == step)
        };
        let is_legal = self.state == state
            || is_in(TaskState::TABLE)
            || (is_revival && is_in(TaskState::REVIVALS));
        let has_grown = row.version > self.version
            && row.attempt >= self.attempt
            && (row.failures >= self.failures || is_revival);
        if !is_legal || !has_grown {
            return Err(format!("{} went from {self:?} to {row:?}", row.id()));
        }
        if row.cancel_requested_at.is_none() {
            self.cancelled_after = None;
        } else if self.cancelled_after.is_none() {
            self.cancelled_after = Some(claims);
        }
        if state != TaskState::Running {
            self.holder = None;
        }
        self.state = state;
        (self.version, self.attempt, self.failures) = (row.version, row.attempt, row.failures);
        Ok(())
    }
}

/// What has to hold at the end, when there have been no faults for a while.
pub fn check_end(state: &State) -> Result<(), String> {
    for row in state.db.tasks.values() {
        let end = model::state(row);
        if !end.is_terminal() {
            return Err(format!("did not come to an end in time: {row:?}"));
        }
        let known = &state.oracle.tasks[&row.id];
        let expected = if end == TaskState::Succeeded {
            kinds::things(&row.kind)
        } else {
            0
        };
        let things = state.provider.count(row.id);
        let given_up = row.failures >= row.max_attempts + 5;
        if things != expected && !known.is_marred && !given_up {
            return Err(format!(
                "{} has left {things} things, not {expected}: {row:?}",
                row.id()
            ));
        }
        if state.oracle.is_clear && end != kinds::end_in_clear_weather(row) {
            return Err(format!("an unexpected end in clear weather: {row:?}"));
        }
        let steps = state.db.steps.get(&row.id);
        let undone = |step: &model::StepRow| step.compensated_at.is_some();
        if end != TaskState::Succeeded
            && !given_up
            && !steps.is_none_or(|steps| steps.iter().all(undone))
        {
            return Err(format!("a step of {} is not undone", row.id()));
        }
    }
    let versions: i64 = state.db.tasks.values().map(|row| row.version).sum();
    let bound = 4 * versions.unsigned_abs() + 40 * state.db.tasks.len() as u64;
    if state.oracle.announced > bound {
        return Err(format!(
            "{} hints were sent, more than {bound}",
            state.oracle.announced
        ));
    }
    Ok(())
}
