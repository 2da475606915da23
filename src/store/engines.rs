//! How the engines are, by the last look at each.

use sea_orm::{ActiveValue::Set, ConnectionTrait, QuerySelect as _, entity::prelude::*};

use super::{Store, scoped::Scoped};
use crate::{
    domain::{Id, Table, id::Engine, machine::named, policy::Resource},
    error::StoreError,
};

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "engine")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: Uuid,
    pub provider: String,
    /// Empty for the worker's own.
    pub endpoint: String,
    pub state: String,
    pub engine_version: Option<String>,
    pub problem: Option<String>,
    /// Looks in a row that failed.
    pub failures: i32,
    pub instances: i32,
    /// What the last look found wrong, and what is done about it.
    pub findings: Json,
    /// When it came into its state.
    pub since: DateTimeUtc,
    pub looked_at: DateTimeUtc,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}
impl ActiveModelBehavior for ActiveModel {}

impl Scoped for Entity {
    const RESOURCE: Resource = Resource::Engine;
    fn owner() -> Option<Column> {
        None
    }
}

/// How an engine is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EngineState {
    /// It answers.
    Up,
    /// It does not; nothing is concluded from what it does not say.
    Down,
}

named!(EngineState { Up = "up", Down = "down" });

/// What a look at an engine gave.
pub struct Look {
    pub state: EngineState,
    pub version: Option<String>,
    pub problem: Option<String>,
    pub instances: usize,
    pub findings: Json,
}

/// Records a look; the row.
pub async fn record(
    store: &Store,
    provider: &str,
    endpoint: Option<&str>,
    look: Look,
) -> Result<Model, StoreError> {
    let mut tx = store.begin().await?;
    let now = tx.now();
    let endpoint = endpoint.unwrap_or_default();
    let known = Entity::find()
        .filter(Column::Provider.eq(provider))
        .filter(Column::Endpoint.eq(endpoint))
        .lock_exclusive()
        .one(&tx)
        .await?;
    let is_same = known
        .as_ref()
        .is_some_and(|known| known.state == look.state.as_str());
    let failures = match look.state {
        EngineState::Up => 0,
        EngineState::Down => known.as_ref().map_or(0, |known| known.failures) + 1,
    };
    let mut row = ActiveModel {
        state: Set(look.state.as_str().to_owned()),
        problem: Set(look.problem),
        failures: Set(failures),
        looked_at: Set(now),
        ..Default::default()
    };
    if !is_same {
        row.since = Set(now);
    }
    if look.state == EngineState::Up {
        row.engine_version = Set(look.version);
        row.instances = Set(i32::try_from(look.instances).unwrap_or(i32::MAX));
        row.findings = Set(look.findings);
    }
    let shown = |row: &Model| (row.state.clone(), row.instances, row.findings.clone());
    let (row, is_news) = if let Some(known) = known {
        row.id = Set(known.id);
        let row = row.update(&tx).await?;
        let is_news = shown(&row) != shown(&known);
        (row, is_news)
    } else {
        row.id = Set(tx.new_id::<Engine>().uuid());
        row.provider = Set(provider.to_owned());
        row.endpoint = Set(endpoint.to_owned());
        if look.state == EngineState::Down {
            row.engine_version = Set(None);
            row.instances = Set(0);
            row.findings = Set(Json::Array(Vec::new()));
        }
        (row.insert(&tx).await?, true)
    };
    if is_news {
        tx.touched(Table::Engine, row.id, None);
    }
    tx.commit().await?;
    Ok(row)
}

/// Those of these kinds that nobody has looked at since `before`.
pub async fn unscoped_unseen(
    db: &impl ConnectionTrait,
    kinds: &[&str],
    before: DateTimeUtc,
) -> Result<Vec<Model>, StoreError> {
    let unseen = Entity::find()
        .filter(Column::Provider.is_in(kinds.iter().copied()))
        .filter(Column::LookedAt.lt(before))
        .limit(1000);
    Ok(unseen.all(db).await?)
}

impl Model {
    pub const fn id(&self) -> Id<Engine> {
        Id::new(self.id)
    }
}
