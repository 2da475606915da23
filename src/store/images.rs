//! What virtual machines start from.

use sea_orm::{ActiveValue::Set, ConnectionTrait, entity::prelude::*};

use super::{Tx, apps::Ports, scoped::Scoped};
use crate::{
    domain::{Change, ChangeKind, Id, Table, id::Image, policy::Resource},
    error::StoreError,
};

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "image")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: Uuid,
    pub slug: String,
    pub name: String,
    pub description: String,
    /// In the engine's folder of images.
    pub disk: Option<String>,
    pub kernel: Option<String>,
    pub initrd: Option<String>,
    pub command_line: String,
    /// What its serial console says once it is up.
    pub ready_text: Option<String>,
    pub ports: Ports,
    /// What a machine has that asks for nothing else.
    pub cpus: i16,
    pub memory_bytes: i64,
    pub disk_bytes: i64,
    pub active: bool,
    pub version: i64,
    pub created_at: DateTimeUtc,
    pub updated_at: DateTimeUtc,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}
impl ActiveModelBehavior for ActiveModel {}

impl Scoped for Entity {
    const RESOURCE: Resource = Resource::Image;
    fn owner() -> Option<Column> {
        None
    }
}

impl Model {
    pub const fn id(&self) -> Id<Image> {
        Id::new(self.id)
    }

    const fn change(&self) -> Change {
        Change {
            table: Table::Image,
            id: self.id,
            version: self.version,
            owner: None,
            kind: ChangeKind::Updated,
        }
    }
}

/// Adds what `image` says, or changes the one with its slug; its id, version and times are set here.
pub async fn put(tx: &mut Tx<'_>, mut image: ActiveModel, slug: &str) -> Result<Model, StoreError> {
    let now = tx.now();
    image.updated_at = Set(now);
    let known = Entity::find().filter(Column::Slug.eq(slug)).one(tx).await?;
    let row = match known {
        None => {
            image.id = Set(tx.new_id::<Image>().uuid());
            image.slug = Set(slug.to_owned());
            image.version = Set(1);
            image.created_at = Set(now);
            image.insert(tx).await?
        }
        Some(known) => {
            image.version = Set(known.version + 1);
            let changed = Entity::update_many()
                .set(image)
                .filter(Column::Id.eq(known.id))
                .filter(Column::Version.eq(known.version))
                .exec_with_returning(tx)
                .await?;
            changed.into_iter().next().ok_or(StoreError::Stale)?
        }
    };
    tx.changed(row.change());
    Ok(row)
}

/// The row itself.
pub async fn unscoped_by_id(
    db: &impl ConnectionTrait,
    id: Id<Image>,
) -> Result<Option<Model>, StoreError> {
    Ok(Entity::find_by_id(id.uuid()).one(db).await?)
}
