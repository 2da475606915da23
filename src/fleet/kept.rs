//! What engines hold, containers and virtual machines, as the fleet's keeper sees both.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt::Debug,
    hash::Hash,
    sync::Arc,
};

use async_trait::async_trait;
use chrono::{DateTime, TimeDelta, Utc};
use uuid::Uuid;

use super::{Action, Care, Keeper, Kind, act::ActError};
use crate::{
    domain::{Id, id::Identified},
    error::{AppError, StoreError},
    providers::{Address, Engine, Instance, Providers, Status},
    store::{Store, Tx, tasks},
};

/// How a row stands, as far as it matters to what its engine should have.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Phase {
    /// A task of its own sees to it.
    Underway,
    /// It is to run.
    Running,
    /// It runs, and goes when it has ended.
    Leaving,
    /// Its engine has it, and it does not run.
    Resting,
    /// Nobody can tell.
    Lost,
    /// Its engine should have nothing of it.
    Over,
}

/// What is wanted of an engine for one row.
#[derive(Clone, Debug)]
pub struct Want<T: Identified> {
    pub id: Id<T>,
    pub phase: Phase,
    /// For people.
    pub state: String,
    pub generation: i32,
    pub updated_at: DateTime<Utc>,
    pub host_id: Option<Uuid>,
    pub address: Option<Address>,
    pub node: Option<String>,
    pub ip: Option<String>,
    pub ports: BTreeMap<u16, u16>,
}

/// A sort of things engines hold.
#[async_trait]
pub trait Kept: Identified + Copy + Eq + Ord + Hash + Debug + Send + Sync + 'static {
    type Row: Clone + Debug + Send + Sync;

    /// The engine at an address; `None` for a kind this worker does not know.
    fn engine(providers: &Providers, address: &Address) -> Option<Arc<dyn Engine<Self>>>;

    /// The address of every engine that has, or may get, some.
    async fn addresses(
        store: &Store,
        providers: &Providers,
    ) -> Result<BTreeSet<Address>, StoreError>;

    /// What a row asks of its engine.
    fn want(row: &Self::Row) -> Result<Want<Self>, StoreError>;

    /// What is to be done when the engine has nothing of it; `None` for nothing.
    fn when_missing(phase: Phase) -> Option<Action>;

    /// What is to be done when it is there and is not as it should be; `None` when it is.
    fn when_so(phase: Phase, status: Status) -> Option<(Kind, Action)>;

    /// How long one that no row knows is left on an engine.
    fn grace(care: &Care) -> TimeDelta;

    /// Those an engine has, or should have.
    async fn live_on(store: &Store, address: &Address) -> Result<Vec<Self::Row>, StoreError>;

    /// Those of `ids` that there are.
    async fn by_ids(store: &Store, ids: Vec<Uuid>) -> Result<Vec<Self::Row>, StoreError>;

    /// Those that have been on their way to another state since before `before`.
    async fn underway(store: &Store, before: DateTime<Utc>) -> Result<Vec<Self::Row>, StoreError>;

    /// A row and its tasks that have not ended, locked.
    async fn locked(
        tx: &Tx<'_>,
        id: Id<Self>,
    ) -> Result<Option<(Vec<tasks::Model>, Self::Row)>, StoreError>;

    /// Has it made anew, or started again.
    async fn recreate(tx: &mut Tx<'_>, row: &Self::Row) -> Result<(), AppError>;

    /// Has it removed for good.
    async fn delete(
        tx: &mut Tx<'_>,
        row: &Self::Row,
        live: &[tasks::Model],
    ) -> Result<(), AppError>;

    /// Records how it is; that it is heard of again, when nobody knew.
    async fn update(
        tx: &mut Tx<'_>,
        row: &Self::Row,
        instance: &Instance<Self>,
        nodes: &HashMap<String, Uuid>,
    ) -> Result<(), AppError>;

    /// Records that it has ended in order.
    async fn rest(tx: &mut Tx<'_>, row: &Self::Row) -> Result<(), AppError>;

    /// Adds the task that one on its way has to have.
    async fn enqueue(
        tx: &mut Tx<'_>,
        row: &Self::Row,
        live: &[tasks::Model],
    ) -> Result<(), AppError>;

    /// Records that it has failed, once looked at again, and ends what is left of it; whether it had.
    async fn fail(keeper: &Keeper, address: &Address, id: Id<Self>) -> Result<bool, ActError>;

    /// Ends what runs and should not; what it needs to start again is kept.
    async fn end(keeper: &Keeper, address: &Address, id: Id<Self>) -> Result<(), ActError>;

    /// Does what a look at what an engine has is good for besides: such as writing down what it takes.
    async fn measure(
        _keeper: &Keeper,
        _address: &Address,
        _rows: &[Self::Row],
    ) -> Result<(), StoreError> {
        Ok(())
    }
}
