//! What the agent of a host tells of the containers beside it.

use std::collections::BTreeMap;

use sea_orm::{ActiveValue::Set, ColumnTrait as _, QueryFilter as _};

use super::{Services, as_host};
use crate::{
    domain::{
        Id,
        container::{ContainerEvent, ContainerState},
        id::Container,
        policy::{Action, Viewer},
    },
    error::AppError,
    store::{
        Tx,
        containers::{self, ActiveModel, Column, Entity, Model, PortMap},
        scoped::Scoped as _,
        tasks,
    },
    tasks::create_container::{EXITED, request_again, topic},
};

/// How a container is, as its host sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Seen {
    /// It runs, and is healthy if its image has a health check.
    Ready,
    /// It has ended by itself.
    Exited { code: i64 },
    /// Its engine has it no more.
    Gone,
    /// A client is in it.
    Connected,
    /// Its client has left.
    Disconnected,
}

/// A report about one container.
pub struct Report {
    pub id: Id<Container>,
    /// Which time it was made; one about an older time changes nothing.
    pub generation: i32,
    pub seen: Seen,
    pub ip: Option<String>,
    pub ports: Option<BTreeMap<u16, u16>>,
    pub message: Option<String>,
}

impl Services {
    /// Takes a report of the host that asks about a container on it.
    pub async fn report_container(
        &self,
        viewer: Viewer,
        report: Report,
    ) -> Result<Model, AppError> {
        const NONE: AppError = AppError::NotFound { what: "container" };
        as_host(viewer)?;
        let id = report.id;
        let mut tx = self.store.begin().await?;
        let reached = Entity::visible_to(viewer, Action::Report).filter(Column::Id.eq(id.uuid()));
        reached.one(&tx).await?.ok_or(NONE)?;
        let (_, row) = crate::tasks::locked(&tx, id).await?.ok_or(NONE)?;
        let row = if report.generation < row.generation {
            row
        } else {
            apply(&mut tx, row, &report).await?
        };
        tx.commit().await?;
        // Whoever waits for news of it looks.
        tasks::wake(&self.store, &topic(id)).await?;
        Ok(row)
    }

    /// How a client reaches a container.
    pub async fn protocol_info(
        &self,
        viewer: Viewer,
        id: Id<Container>,
    ) -> Result<Model, AppError> {
        let row = self.container(viewer, id).await?;
        match row.state()? {
            ContainerState::Running | ContainerState::Draining => Ok(row),
            state @ (ContainerState::Requested
            | ContainerState::Creating
            | ContainerState::Stopped
            | ContainerState::Deleting
            | ContainerState::Deleted
            | ContainerState::Failed
            | ContainerState::Unknown) => {
                Err(AppError::Illegal(crate::domain::IllegalTransition {
                    from: state.as_str().to_uppercase(),
                    event: "connect".to_owned(),
                }))
            }
        }
    }
}

async fn apply(tx: &mut Tx<'_>, row: Model, report: &Report) -> Result<Model, AppError> {
    use ContainerState as S;
    let state = row.state()?;
    let now = tx.now();
    let row = match (report.seen, state) {
        (Seen::Ready | Seen::Connected, S::Unknown) => {
            let patch = where_it_is(report, <ActiveModel as Default>::default());
            containers::seen_again(tx, &row, patch).await?
        }
        // Not before the task that makes it has recorded what it made.
        (Seen::Ready, S::Creating) if row.handle.is_some() => {
            let patch = ActiveModel {
                running_at: Set(Some(now)),
                ..where_it_is(report, <ActiveModel as Default>::default())
            };
            containers::transition(tx, &row, ContainerEvent::Started, patch).await?
        }
        (Seen::Ready, S::Running | S::Draining) if has_moved(&row, report) => {
            let patch = where_it_is(report, <ActiveModel as Default>::default());
            containers::change(tx, &row, patch).await?
        }
        (Seen::Exited { code }, S::Running | S::Draining | S::Unknown) => {
            let said = report.message.as_deref().map_or_else(String::new, |said| {
                let said: String = said.chars().take(1000).collect();
                format!("; it said last: {}", said.replace('\0', "\u{fffd}"))
            });
            let patch = ActiveModel {
                failure_code: Set(Some(EXITED.to_owned())),
                failure_reason: Set(Some(format!("it ended by itself with code {code}{said}"))),
                ended_at: Set(Some(now)),
                ..<ActiveModel as Default>::default()
            };
            containers::transition(tx, &row, ContainerEvent::Fail, patch).await?
        }
        (Seen::Gone, S::Running) => {
            let (row, _) = request_again(tx, &row, ContainerEvent::Vanish, None).await?;
            row
        }
        (
            Seen::Ready | Seen::Exited { .. } | Seen::Gone | Seen::Connected | Seen::Disconnected,
            S::Requested
            | S::Creating
            | S::Running
            | S::Draining
            | S::Stopped
            | S::Deleting
            | S::Deleted
            | S::Failed
            | S::Unknown,
        ) => row,
    };
    match report.seen {
        Seen::Connected => Ok(containers::pinged(tx, &row, Some(now)).await?),
        // As if it had been seen long ago, so that nobody waits for it.
        Seen::Disconnected => Ok(containers::pinged(tx, &row, row.draining_at).await?),
        Seen::Ready | Seen::Exited { .. } | Seen::Gone => Ok(row),
    }
}

fn where_it_is(report: &Report, mut patch: ActiveModel) -> ActiveModel {
    if let Some(ip) = &report.ip {
        patch.ip = Set(Some(ip.chars().take(64).collect()));
    }
    if let Some(ports) = &report.ports {
        patch.ports = Set(PortMap(ports.clone()));
    }
    patch
}

fn has_moved(row: &Model, report: &Report) -> bool {
    let ports = report.ports.as_ref().is_some_and(|p| *p != row.ports.0);
    let ip = report
        .ip
        .as_ref()
        .is_some_and(|ip| row.ip.as_ref() != Some(ip));
    ports || ip
}
