//! What clients and hosts report of streaming connections. What they wrote is kept as blobs beside the rows.

use sea_orm::{
    ActiveValue::Set, ConnectionTrait as _, QueryOrder as _, QuerySelect as _, entity::prelude::*,
};

use super::{Store, Tx, scoped::Scoped};
use crate::{
    domain::{
        Change, ChangeKind, Id, Table,
        id::{ConnectionLog, Container, User, VirtualMachine},
        policy::Resource,
    },
    error::StoreError,
};

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "connection_log")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: Uuid,
    pub owner_id: Uuid,
    pub container_id: Option<Uuid>,
    pub machine_id: Option<Uuid>,
    pub client_version: String,
    pub bookmarked: bool,
    /// The name of the client's blob.
    pub client_blob: Option<String>,
    /// Bytes of what is packed in it.
    pub client_bytes: Option<i64>,
    pub server_blob: Option<String>,
    pub server_bytes: Option<i64>,
    pub version: i64,
    pub created_at: DateTimeUtc,
    pub updated_at: DateTimeUtc,
    pub expires_at: DateTimeUtc,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}
impl ActiveModelBehavior for ActiveModel {}

impl Scoped for Entity {
    const RESOURCE: Resource = Resource::ConnectionLog;
    fn owner() -> Option<Column> {
        Some(Column::OwnerId)
    }
}

impl Model {
    pub const fn id(&self) -> Id<ConnectionLog> {
        Id::new(self.id)
    }

    /// The names of its blobs.
    pub fn blobs(&self) -> impl Iterator<Item = &str> {
        [&self.client_blob, &self.server_blob]
            .into_iter()
            .filter_map(|blob| blob.as_deref())
    }

    const fn change(&self) -> Change {
        Change {
            table: Table::ConnectionLog,
            id: self.id,
            version: self.version,
            owner: Some(self.owner_id),
            kind: ChangeKind::Updated,
        }
    }
}

/// Where the blobs are among others.
pub const FOLDER: &str = "connection-logs";

/// The name of a blob of the row `id`, in the place that has that identity.
pub fn blob_name(id: Uuid, side: &str, place: &str, unique: &str) -> String {
    format!("{FOLDER}/{}-{side}-{place}-{unique}.gz", id.simple())
}

/// The row a blob is of and the identity of its place, by its name.
pub fn of_blob(name: &str) -> Option<(Uuid, &str)> {
    let mut parts = name
        .strip_prefix(FOLDER)?
        .strip_prefix('/')?
        .strip_suffix(".gz")?
        .split('-');
    let id = Uuid::try_parse(parts.next()?).ok()?;
    Some((id, parts.nth(1)?))
}

/// A blob that has been written: its name, and the bytes packed in it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Blob {
    pub name: String,
    pub bytes: i64,
}

/// A connection to record.
pub struct New {
    pub id: Id<ConnectionLog>,
    pub owner: Id<User>,
    pub container: Option<Id<Container>>,
    pub machine: Option<Id<VirtualMachine>>,
    pub client_version: String,
    pub bookmarked: bool,
    pub client: Option<Blob>,
    pub expires_at: DateTimeUtc,
}

pub async fn insert(tx: &mut Tx<'_>, new: New) -> Result<Model, StoreError> {
    let now = tx.now();
    let row = ActiveModel {
        id: Set(new.id.uuid()),
        owner_id: Set(new.owner.uuid()),
        container_id: Set(new.container.map(Id::uuid)),
        machine_id: Set(new.machine.map(Id::uuid)),
        client_version: Set(new.client_version),
        bookmarked: Set(new.bookmarked),
        client_bytes: Set(new.client.as_ref().map(|blob| blob.bytes)),
        client_blob: Set(new.client.map(|blob| blob.name)),
        server_blob: Set(None),
        server_bytes: Set(None),
        version: Set(1),
        created_at: Set(now),
        updated_at: Set(now),
        expires_at: Set(new.expires_at),
    };
    let row = row.insert(tx).await?;
    tx.changed(row.change());
    Ok(row)
}

/// The newest record of a container's connections.
pub async fn unscoped_newest_of(
    tx: &Tx<'_>,
    container: Id<Container>,
) -> Result<Option<Model>, StoreError> {
    let newest = Entity::find()
        .filter(Column::ContainerId.eq(container.uuid()))
        .order_by_desc(Column::Id)
        .lock_exclusive();
    Ok(newest.one(tx).await?)
}

/// Adds what the host wrote; the name of the blob whose place it takes.
pub async fn set_server(
    tx: &mut Tx<'_>,
    row: Model,
    blob: Blob,
) -> Result<(Model, Option<String>), StoreError> {
    let before = row.server_blob.clone();
    let changed = ActiveModel {
        id: Set(row.id),
        server_blob: Set(Some(blob.name)),
        server_bytes: Set(Some(blob.bytes)),
        version: Set(row.version + 1),
        updated_at: Set(tx.now()),
        ..Default::default()
    };
    let row = changed.update(tx).await?;
    tx.changed(row.change());
    Ok((row, before))
}

/// Keeps it from expiry, or no longer.
pub async fn set_bookmarked(
    tx: &mut Tx<'_>,
    row: &Model,
    bookmarked: bool,
    expires_at: DateTimeUtc,
) -> Result<Model, StoreError> {
    let changed = ActiveModel {
        id: Set(row.id),
        bookmarked: Set(bookmarked),
        expires_at: Set(expires_at),
        version: Set(row.version + 1),
        updated_at: Set(tx.now()),
        ..Default::default()
    };
    let row = changed.update(tx).await?;
    tx.changed(row.change());
    Ok(row)
}

/// Those whose time is over, the longest over first.
pub async fn expired(store: &Store, limit: u64) -> Result<Vec<Model>, StoreError> {
    let over = Entity::find()
        .filter(Column::Bookmarked.eq(false))
        .filter(Column::ExpiresAt.lt(store.now()))
        .order_by_asc(Column::ExpiresAt)
        .limit(limit);
    Ok(over.all(store.db()).await?)
}

/// Removes one whose blobs are gone, unless it has been bookmarked meanwhile.
pub async fn remove_expired(store: &Store, row: &Model) -> Result<bool, StoreError> {
    let mut tx = store.begin().await?;
    let removed = Entity::delete_many()
        .filter(Column::Id.eq(row.id))
        .filter(Column::Bookmarked.eq(false))
        .exec(&tx)
        .await?;
    let change = Change {
        version: row.version + 1,
        ..row.change()
    };
    tx.changed(change);
    tx.commit().await?;
    Ok(removed.rows_affected == 1)
}

/// The rows behind `after`, in order of their ids.
pub async fn batch_after(store: &Store, after: Uuid, limit: u64) -> Result<Vec<Model>, StoreError> {
    let rows = Entity::find()
        .filter(Column::Id.gt(after))
        .order_by_asc(Column::Id)
        .limit(limit);
    Ok(rows.all(store.db()).await?)
}

/// The one of that id.
pub async fn unscoped_by_id(
    store: &Store,
    id: Id<ConnectionLog>,
) -> Result<Option<Model>, StoreError> {
    Ok(Entity::find_by_id(id.uuid()).one(store.db()).await?)
}

/// Takes the name of a blob that is gone out of its row.
pub async fn forget_blob(store: &Store, row: &Model, blob: &str) -> Result<(), StoreError> {
    let mut tx = store.begin().await?;
    let sql = "UPDATE connection_log SET version = version + 1, \
        client_bytes = CASE WHEN client_blob = $2 THEN NULL ELSE client_bytes END, \
        client_blob = CASE WHEN client_blob = $2 THEN NULL ELSE client_blob END, \
        server_bytes = CASE WHEN server_blob = $2 THEN NULL ELSE server_bytes END, \
        server_blob = CASE WHEN server_blob = $2 THEN NULL ELSE server_blob END WHERE id = $1";
    let values = [row.id.into(), blob.into()];
    tx.execute_raw(super::source::statement(&tx, sql, values))
        .await?;
    let change = Change {
        version: row.version + 1,
        ..row.change()
    };
    tx.changed(change);
    tx.commit().await
}
