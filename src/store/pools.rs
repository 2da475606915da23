//! How many containers of an app are kept running for nobody yet, region by region.

use sea_orm::{
    ActiveValue::Set, ConnectionTrait, QueryOrder as _, QuerySelect as _, entity::prelude::*,
};

use super::{Tx, scoped::Scoped, source::statement};
use crate::{
    domain::{
        Change, ChangeKind, Id, Table,
        id::{App, Pool, Region},
        policy::Resource,
    },
    error::StoreError,
};

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "warm_pool")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: Uuid,
    pub app_id: Uuid,
    pub region_id: Uuid,
    pub size: i32,
    pub version: i64,
    pub created_at: DateTimeUtc,
    pub updated_at: DateTimeUtc,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}
impl ActiveModelBehavior for ActiveModel {}

impl Scoped for Entity {
    const RESOURCE: Resource = Resource::Pool;
    fn owner() -> Option<Column> {
        None
    }
}

impl Model {
    pub const fn id(&self) -> Id<Pool> {
        Id::new(self.id)
    }

    const fn change(&self) -> Change {
        Change {
            table: Table::Pool,
            id: self.id,
            version: self.version,
            owner: None,
            kind: ChangeKind::Updated,
        }
    }
}

fn of(app: Id<App>, region: Id<Region>) -> Select<Entity> {
    Entity::find()
        .filter(Column::AppId.eq(app.uuid()))
        .filter(Column::RegionId.eq(region.uuid()))
}

/// Makes the pool of an app in a region, or gives it another size.
pub async fn put(
    tx: &mut Tx<'_>,
    app: Id<App>,
    region: Id<Region>,
    size: i32,
) -> Result<Model, StoreError> {
    let now = tx.now();
    let known = of(app, region).lock_exclusive().one(tx).await?;
    let row = if let Some(known) = known {
        let row = ActiveModel {
            id: Set(known.id),
            size: Set(size),
            version: Set(known.version + 1),
            updated_at: Set(now),
            ..Default::default()
        };
        row.update(tx).await?
    } else {
        let row = ActiveModel {
            id: Set(tx.new_id::<Pool>().uuid()),
            app_id: Set(app.uuid()),
            region_id: Set(region.uuid()),
            size: Set(size),
            version: Set(1),
            created_at: Set(now),
            updated_at: Set(now),
        };
        row.insert(tx).await?
    };
    tx.changed(row.change());
    Ok(row)
}

/// The pool of an app in a region.
pub async fn unscoped_of(
    db: &impl ConnectionTrait,
    app: Id<App>,
    region: Id<Region>,
) -> Result<Option<Model>, StoreError> {
    Ok(of(app, region).one(db).await?)
}

/// The row, locked by this transaction: those who fill it take turns.
pub async fn lock(tx: &Tx<'_>, id: Id<Pool>) -> Result<Option<Model>, StoreError> {
    let row = Entity::find_by_id(id.uuid()).lock_exclusive();
    Ok(row.one(tx).await?)
}

/// Those that have not as many containers as they should.
pub async fn unscoped_unfilled(db: &impl ConnectionTrait) -> Result<Vec<Model>, StoreError> {
    const UNFILLED: &str = "SELECT p.id FROM warm_pool AS p WHERE p.size <> (SELECT COUNT(*) FROM container AS c \
        WHERE c.owner_id IS NULL AND c.app_id = p.app_id AND c.region_id = p.region_id \
          AND c.state NOT IN ('deleting', 'deleted', 'failed')) ORDER BY p.id LIMIT 1000";
    let rows = db
        .query_all_raw(statement(db, UNFILLED.to_owned(), []))
        .await?;
    let ids: Vec<Uuid> = rows
        .iter()
        .map(|row| row.try_get("", "id"))
        .collect::<Result<_, _>>()?;
    Ok(Entity::find()
        .filter(Column::Id.is_in(ids))
        .order_by_asc(Column::Id)
        .all(db)
        .await?)
}
