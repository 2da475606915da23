//! What is done with clusters as a whole: looked at before their first use, emptied, removed, and told a command.

use std::time::Duration;

use async_trait::async_trait;
use sea_orm::ActiveValue::Set;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{
    Outside,
    create_container::find,
    drain_host::{clear, empty},
    machine,
};
use crate::{
    domain::{
        Id,
        cluster::{ClusterEvent, ClusterStatus},
        host::HostStatus,
        id::{Cluster, Host, Task},
    },
    error::AppError,
    providers::{Address, KINDS, MACHINE_KINDS},
    queue::{GiveUp, Run, TaskError, TaskKind},
    store::{
        Tx,
        clusters::{self, ActiveModel, Model},
        containers::Place,
        host_commands::{self, CommandState},
        hosts,
        tasks::{NewTask, TaskInput},
    },
};

/// The kinds of engines a cluster may have.
pub const ENGINES: [&str; 6] = {
    let ([docker, swarm, simulated], [qemu, libvirt, machines]) = (KINDS, MACHINE_KINDS);
    [docker, swarm, simulated, qemu, libvirt, machines]
};
pub use crate::providers::{has_address, runs_machines};
/// Time between two looks at what is left.
const LOOK: Duration = Duration::from_secs(3);

fn once(mut task: NewTask, kind: &str, cluster: Uuid) -> NewTask {
    task.unique_key = Some(format!("{kind}:{}", cluster.simple()));
    task
}

/// Moves a cluster by `event`; nothing when its life cycle has no such step any more.
async fn moved(
    outside: &Outside,
    run: &Run,
    id: Id<Cluster>,
    event: ClusterEvent,
    patch: ActiveModel,
) -> Result<(), TaskError> {
    let mut tx = run.begin(&outside.store).await?;
    let Some(row) = clusters::lock(&tx, id).await? else {
        return Ok(());
    };
    match clusters::transition(&mut tx, &row, event, patch).await {
        Ok(_) => Ok(tx.commit().await?),
        Err(crate::error::StoreError::Illegal(_)) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Looks whether a cluster's engine can be used.
#[derive(Clone, Serialize, Deserialize)]
pub struct Create {
    pub cluster: Uuid,
}

impl TaskInput for Create {
    const KIND: &'static str = "create_cluster";
}

impl Create {
    pub fn task_of(row: &Model) -> Result<NewTask, AppError> {
        let task = Self { cluster: row.id }.into_task(None, Some(row.id))?;
        Ok(once(task, Self::KIND, row.id))
    }
}

#[derive(Serialize)]
pub struct Output {
    cluster: String,
}

pub struct CreateCluster(pub Outside);

#[async_trait]
impl TaskKind for CreateCluster {
    type Input = Create;
    type Output = Output;

    async fn run(&self, input: Create, run: &Run) -> Result<Output, TaskError> {
        let id = Id::new(input.cluster);
        if let Some(row) = clusters::unscoped_by_id(self.0.store.db(), id).await? {
            // The engines of a cluster's hosts are known when the hosts are.
            if row.endpoint.is_some() {
                let address = Address {
                    provider: row.provider,
                    endpoint: row.endpoint,
                };
                let version = if runs_machines(&address.provider) {
                    machine::find(&self.0, &address)?.ping().await?
                } else {
                    find(&self.0, &address)?.ping().await?
                };
                run.progress(50, &format!("{version} answers")).await?;
            }
            let patch = ActiveModel {
                failure_reason: Set(None),
                ..ActiveModel::default()
            };
            moved(&self.0, run, id, ClusterEvent::Activate, patch).await?;
        }
        Ok(Output {
            cluster: id.to_string(),
        })
    }

    async fn give_up(&self, input: Create, run: &Run, why: &GiveUp) -> Result<(), TaskError> {
        let reason = match why {
            GiveUp::Cancelled => "its creation was cancelled".to_owned(),
            GiveUp::Failed { message, .. } => message.clone(),
        };
        let patch = ActiveModel {
            failure_reason: Set(Some(reason)),
            ..ActiveModel::default()
        };
        let id = Id::new(input.cluster);
        moved(&self.0, run, id, ClusterEvent::Fail, patch).await
    }
}

/// Empties a cluster.
#[derive(Clone, Serialize, Deserialize)]
pub struct Drain {
    pub cluster: Uuid,
    /// Seconds a client may stay at most.
    pub patience: u32,
}

impl TaskInput for Drain {
    const KIND: &'static str = "drain_cluster";
    const DEADLINE: Duration = Duration::from_secs(7 * 86_400);
}

impl Drain {
    pub fn task_of(row: &Model, patience: Duration) -> Result<NewTask, AppError> {
        let input = Self {
            cluster: row.id,
            patience: u32::try_from(patience.as_secs()).unwrap_or(u32::MAX),
        };
        Ok(once(
            input.into_task(None, Some(row.id))?,
            Self::KIND,
            row.id,
        ))
    }
}

pub struct DrainCluster(pub Outside);

#[async_trait]
impl TaskKind for DrainCluster {
    type Input = Drain;
    type Output = Output;

    async fn run(&self, input: Drain, run: &Run) -> Result<Output, TaskError> {
        let id: Id<Cluster> = Id::new(input.cluster);
        let output = Output {
            cluster: id.to_string(),
        };
        let row = clusters::unscoped_by_id(self.0.store.db(), id).await?;
        let is_draining = |row: &Model| row.status().is_ok_and(|s| s == ClusterStatus::Draining);
        if !row.as_ref().is_some_and(is_draining) {
            return Ok(output);
        }
        let patience = Duration::from_secs(input.patience.into());
        match empty(&self.0.store, Place::Cluster(id), patience, run).await? {
            0 => Ok(output),
            left => {
                wait_for(left, run).await?;
                Ok(output)
            }
        }
    }
}

async fn wait_for(left: usize, run: &Run) -> Result<(), TaskError> {
    if run.task.progress < 50 {
        run.progress(50, &format!("{left} containers and machines are leaving"))
            .await?;
    }
    Err(TaskError::Wait {
        until: run.now() + LOOK,
        wake_on: None,
    })
}

/// Removes a cluster with everything in it.
#[derive(Clone, Serialize, Deserialize)]
pub struct Delete {
    pub cluster: Uuid,
}

impl TaskInput for Delete {
    const KIND: &'static str = "delete_cluster";
    const MAX_ATTEMPTS: i32 = 20;
    const DEADLINE: Duration = Duration::from_secs(7 * 86_400);
}

impl Delete {
    pub fn task_of(row: &Model) -> Result<NewTask, AppError> {
        let task = Self { cluster: row.id }.into_task(None, Some(row.id))?;
        Ok(once(task, Self::KIND, row.id))
    }
}

pub struct DeleteCluster(pub Outside);

#[async_trait]
impl TaskKind for DeleteCluster {
    type Input = Delete;
    type Output = Output;

    async fn run(&self, input: Delete, run: &Run) -> Result<Output, TaskError> {
        let id: Id<Cluster> = Id::new(input.cluster);
        let output = Output {
            cluster: id.to_string(),
        };
        let left = clear(&self.0.store, Place::Cluster(id), run).await?;
        if left > 0 {
            wait_for(left, run).await?;
        }
        for host in hosts::unscoped_of_cluster(self.0.store.db(), id).await? {
            if host.status()? != HostStatus::Dead {
                let mut tx = run.begin(&self.0.store).await?;
                let patch = hosts::ActiveModel {
                    credential_hash: Set(None),
                    ..Default::default()
                };
                hosts::transition(&mut tx, &host, crate::domain::host::HostEvent::Lost, patch)
                    .await?;
                tx.commit().await?;
            }
        }
        let patch = ActiveModel::default();
        moved(&self.0, run, id, ClusterEvent::Removed, patch).await?;
        Ok(output)
    }
}

/// Has each host of a cluster do something.
#[derive(Clone, Serialize, Deserialize)]
pub struct Command {
    pub cluster: Uuid,
    pub command: String,
    pub argument: Option<String>,
}

impl TaskInput for Command {
    const KIND: &'static str = "cluster_command";
    const DEADLINE: Duration = Duration::from_secs(900);
}

/// The event a command's task waits for.
pub fn command_topic(task: Id<Task>) -> String {
    format!("commands:{task}")
}

/// What came of it, host by host.
#[derive(Serialize)]
pub struct Results {
    hosts: Vec<HostResult>,
}

#[derive(Serialize)]
struct HostResult {
    host: String,
    succeeded: bool,
    output: Option<String>,
}

pub struct ClusterCommand(pub Outside);

#[async_trait]
impl TaskKind for ClusterCommand {
    type Input = Command;
    type Output = Results;

    async fn run(&self, input: Command, run: &Run) -> Result<Results, TaskError> {
        let task = run.task.id();
        run.expect(&command_topic(task)).await?;
        let given = host_commands::of_task(self.0.store.db(), task).await?;
        if given.is_empty() {
            let mut tx = run.begin(&self.0.store).await?;
            let told = tell(&mut tx, task, &input).await?;
            if told == 0 {
                return Err(TaskError::Permanent {
                    code: "NO_HOSTS",
                    message: "the cluster has no host with an agent that is heard of".to_owned(),
                });
            }
            tx.commit().await?;
            run.progress(10, &format!("{told} hosts are told")).await?;
        }
        let given = host_commands::of_task(self.0.store.db(), task).await?;
        let mut hosts = Vec::with_capacity(given.len());
        for command in given {
            let state = command.state()?;
            if state == CommandState::Pending {
                return Err(TaskError::Wait {
                    until: run.now() + Duration::from_secs(60),
                    wake_on: Some(command_topic(task)),
                });
            }
            hosts.push(HostResult {
                host: Id::<Host>::new(command.host_id).to_string(),
                succeeded: state == CommandState::Succeeded,
                output: command.output,
            });
        }
        let refused = hosts.iter().filter(|result| !result.succeeded).count();
        if refused > 0 {
            let said = hosts.iter().find(|result| !result.succeeded);
            let said = said.and_then(|result| result.output.clone());
            return Err(TaskError::Permanent {
                code: "COMMAND_FAILED",
                message: format!(
                    "{refused} of {} hosts could not do it; one said: {}",
                    hosts.len(),
                    said.unwrap_or_default()
                ),
            });
        }
        Ok(Results { hosts })
    }
}

/// Gives the command to each host of the cluster that is heard of; how many.
async fn tell(tx: &mut Tx<'_>, task: Id<Task>, input: &Command) -> Result<usize, AppError> {
    let hosts = hosts::unscoped_of_cluster(tx, Id::new(input.cluster)).await?;
    let heard: Vec<Id<Host>> = hosts
        .iter()
        .filter(|host| {
            let status = host.status();
            host.credential_hash.is_some()
                && status.is_ok_and(|s| matches!(s, HostStatus::Healthy | HostStatus::Draining))
        })
        .map(hosts::Model::id)
        .collect();
    let argument = input.argument.as_deref();
    host_commands::insert(tx, task, &heard, &input.command, argument).await?;
    Ok(heard.len())
}
