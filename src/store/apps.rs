//! The catalogue of what can be started.

use std::collections::BTreeMap;

use sea_orm::{ActiveValue::Set, ConnectionTrait, entity::prelude::*};
use serde::{Deserialize, Serialize};

use super::{Tx, scoped::Scoped};
use crate::{
    domain::{Change, ChangeKind, Id, Table, id::App, policy::Resource},
    error::StoreError,
};

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "app")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: Uuid,
    pub slug: String,
    pub name: String,
    pub category: String,
    pub description: String,
    pub image: String,
    /// The images of release channels that have one of their own.
    pub images: Images,
    pub command: Strings,
    pub ports: Ports,
    pub cpu_millis: i32,
    pub memory_bytes: i64,
    pub active: bool,
    pub version: i64,
    pub created_at: DateTimeUtc,
    pub updated_at: DateTimeUtc,
}

/// A list of words kept as JSON.
#[derive(
    Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, sea_orm::FromJsonQueryResult,
)]
pub struct Strings(pub Vec<String>);

/// Images by release channel, kept as JSON.
#[derive(
    Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, sea_orm::FromJsonQueryResult,
)]
pub struct Images(pub BTreeMap<String, String>);

/// A list of TCP ports kept as JSON.
#[derive(
    Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, sea_orm::FromJsonQueryResult,
)]
pub struct Ports(pub Vec<u16>);

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}
impl ActiveModelBehavior for ActiveModel {}

impl Scoped for Entity {
    const RESOURCE: Resource = Resource::App;
    fn owner() -> Option<Column> {
        None
    }
}

impl Model {
    pub const fn id(&self) -> Id<App> {
        Id::new(self.id)
    }

    /// The image of a release channel; that of everybody where the channel has none.
    pub fn image_of(&self, channel: &str) -> &str {
        self.images.0.get(channel).unwrap_or(&self.image)
    }

    const fn change(&self) -> Change {
        Change {
            table: Table::App,
            id: self.id,
            version: self.version,
            owner: None,
            kind: ChangeKind::Updated,
        }
    }
}

/// An app to put into the catalogue.
pub struct NewApp {
    pub slug: String,
    pub name: String,
    pub category: String,
    pub description: String,
    pub image: String,
    pub images: BTreeMap<String, String>,
    pub command: Vec<String>,
    pub ports: Vec<u16>,
    pub cpu_millis: i32,
    pub memory_bytes: i64,
}

impl NewApp {
    /// The same as a change of a row there is.
    pub fn into_patch(self) -> ActiveModel {
        ActiveModel {
            name: Set(self.name),
            category: Set(self.category),
            description: Set(self.description),
            image: Set(self.image),
            images: Set(Images(self.images)),
            command: Set(Strings(self.command)),
            ports: Set(Ports(self.ports)),
            cpu_millis: Set(self.cpu_millis),
            memory_bytes: Set(self.memory_bytes),
            ..Default::default()
        }
    }
}

pub async fn insert(tx: &mut Tx<'_>, app: NewApp) -> Result<Model, StoreError> {
    let now = tx.now();
    let row = ActiveModel {
        id: Set(tx.new_id::<App>().uuid()),
        slug: Set(app.slug),
        name: Set(app.name),
        category: Set(app.category),
        description: Set(app.description),
        image: Set(app.image),
        images: Set(Images(app.images)),
        command: Set(Strings(app.command)),
        ports: Set(Ports(app.ports)),
        cpu_millis: Set(app.cpu_millis),
        memory_bytes: Set(app.memory_bytes),
        active: Set(true),
        version: Set(1),
        created_at: Set(now),
        updated_at: Set(now),
    };
    let row = row.insert(tx).await?;
    tx.changed(row.change());
    Ok(row)
}

/// Writes `patch`, if nobody changed the row since it was read.
pub async fn change(
    tx: &mut Tx<'_>,
    row: &Model,
    mut patch: ActiveModel,
) -> Result<Model, StoreError> {
    patch.version = Set(row.version + 1);
    patch.updated_at = Set(tx.now());
    let changed = Entity::update_many()
        .set(patch)
        .filter(Column::Id.eq(row.id))
        .filter(Column::Version.eq(row.version))
        .exec_with_returning(tx)
        .await?;
    let row = changed.into_iter().next().ok_or(StoreError::Stale)?;
    tx.changed(row.change());
    Ok(row)
}

/// The app a container was made from, whether it is still offered or not.
pub async fn unscoped_by_id(
    db: &impl ConnectionTrait,
    id: Id<App>,
) -> Result<Option<Model>, StoreError> {
    Ok(Entity::find_by_id(id.uuid()).one(db).await?)
}
