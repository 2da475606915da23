//! Who did what to which object, and when. Rows are added and never changed.

use sea_orm::{ActiveValue::Set, entity::prelude::*};

use super::{Tx, scoped::Scoped};
use crate::{
    domain::{
        Id, Table,
        id::{AuditEvent, Identified},
        policy::{Resource, Viewer},
    },
    error::StoreError,
};

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "audit_event")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: Uuid,
    /// What acted: `anonymous`, `user`, `admin`, `host` or `system`.
    pub actor: String,
    pub actor_id: Option<Uuid>,
    pub action: String,
    pub object: String,
    pub object_id: Option<Uuid>,
    pub detail: Json,
    pub at: DateTimeUtc,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}
impl ActiveModelBehavior for ActiveModel {}

impl Scoped for Entity {
    const RESOURCE: Resource = Resource::AuditEvent;
    fn owner() -> Option<Column> {
        None
    }
}

/// Records what `viewer` does to an object, in the transaction that does it.
pub async fn record<T: Identified>(
    tx: &mut Tx<'_>,
    viewer: Viewer,
    action: &str,
    object: Id<T>,
    detail: Json,
) -> Result<(), StoreError> {
    let (actor, actor_id) = match viewer {
        Viewer::Anonymous => ("anonymous", None),
        Viewer::User { id, .. } => ("user", Some(id.uuid())),
        Viewer::Admin { id, .. } => ("admin", Some(id.uuid())),
        Viewer::Host { id } => ("host", Some(id.uuid())),
        Viewer::System => ("system", None),
    };
    let row = ActiveModel {
        id: Set(tx.new_id::<AuditEvent>().uuid()),
        actor: Set(actor.to_owned()),
        actor_id: Set(actor_id),
        action: Set(action.to_owned()),
        object: Set(T::NOUN.to_owned()),
        object_id: Set(Some(object.uuid())),
        detail: Set(detail),
        at: Set(tx.now()),
    };
    let row = row.insert(tx).await?;
    tx.touched(Table::AuditEvent, row.id, None);
    Ok(())
}
