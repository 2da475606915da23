//! What hosts are told to do, and what came of it.

use sea_orm::{
    ActiveValue::Set, ConnectionTrait, QueryOrder as _, QuerySelect as _, entity::prelude::*,
};

use super::Tx;
use crate::{
    domain::{
        Id, Table,
        id::{Host, HostCommand, Task},
        machine::named,
    },
    error::StoreError,
};

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "host_command")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: Uuid,
    pub host_id: Uuid,
    pub task_id: Uuid,
    pub command: String,
    pub argument: Option<String>,
    pub state: String,
    pub output: Option<String>,
    pub created_at: DateTimeUtc,
    pub finished_at: Option<DateTimeUtc>,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}
impl ActiveModelBehavior for ActiveModel {}

/// How far a command has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CommandState {
    Pending,
    Succeeded,
    Failed,
}

named!(CommandState {
    Pending = "pending",
    Succeeded = "succeeded",
    Failed = "failed",
});

impl Model {
    pub const fn id(&self) -> Id<HostCommand> {
        Id::new(self.id)
    }

    pub fn state(&self) -> Result<CommandState, StoreError> {
        CommandState::parse(&self.state).ok_or(StoreError::Unreadable {
            column: "host_command.state",
        })
    }
}

/// The commands a task has given.
pub async fn of_task(db: &impl ConnectionTrait, task: Id<Task>) -> Result<Vec<Model>, StoreError> {
    Ok(Entity::find()
        .filter(Column::TaskId.eq(task.uuid()))
        .order_by_asc(Column::Id)
        .all(db)
        .await?)
}

/// Gives a command to each of `hosts` in the name of a task.
pub async fn insert(
    tx: &mut Tx<'_>,
    task: Id<Task>,
    hosts: &[Id<Host>],
    command: &str,
    argument: Option<&str>,
) -> Result<(), StoreError> {
    for host in hosts {
        let row = ActiveModel {
            id: Set(tx.new_id::<HostCommand>().uuid()),
            host_id: Set(host.uuid()),
            task_id: Set(task.uuid()),
            command: Set(command.to_owned()),
            argument: Set(argument.map(str::to_owned)),
            state: Set(CommandState::Pending.as_str().to_owned()),
            output: Set(None),
            created_at: Set(tx.now()),
            finished_at: Set(None),
        };
        let row = row.insert(tx).await?;
        tx.touched(Table::HostCommand, row.host_id, None);
    }
    Ok(())
}

/// What a host has been told and has not done.
pub async fn unscoped_pending(
    db: &impl ConnectionTrait,
    host: Id<Host>,
) -> Result<Vec<Model>, StoreError> {
    Ok(Entity::find()
        .filter(Column::HostId.eq(host.uuid()))
        .filter(Column::State.eq(CommandState::Pending.as_str()))
        .order_by_asc(Column::Id)
        .limit(100)
        .all(db)
        .await?)
}

/// Records what came of a host's own command; `None` when it has no such one, or has told already.
pub async fn finish(
    tx: &mut Tx<'_>,
    host: Id<Host>,
    id: Id<HostCommand>,
    state: CommandState,
    output: Option<String>,
) -> Result<Option<Model>, StoreError> {
    let patch = ActiveModel {
        state: Set(state.as_str().to_owned()),
        output: Set(output),
        finished_at: Set(Some(tx.now())),
        ..Default::default()
    };
    let changed = Entity::update_many()
        .set(patch)
        .filter(Column::Id.eq(id.uuid()))
        .filter(Column::HostId.eq(host.uuid()))
        .filter(Column::State.eq(CommandState::Pending.as_str()))
        .exec_with_returning(tx)
        .await?;
    Ok(changed.into_iter().next())
}
