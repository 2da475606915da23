//! Hosts: how a machine becomes one, and what its agent tells of it.

use chrono::TimeDelta;
use sea_orm::ActiveValue::Set;
use serde_json::json;

use super::{Services, as_host, endpoints::endpoint};
use crate::{
    auth::{HostCredential, SecretToken},
    domain::{
        Id,
        container::ContainerState,
        host::{HostEvent, HostStatus},
        id::{Cluster, HostCommand},
        policy::Viewer,
    },
    error::AppError,
    store::{
        Tx, audit,
        containers::{self, Place},
        host_commands::{self, CommandState},
        hosts::{self, ActiveModel, Model, NewHost},
        registrations, tasks,
    },
    tasks::{clusters::command_topic, drain_host},
};

/// How long a credential counts after it has been replaced, so that an agent that missed the answer is not lost.
const OVERLAP: TimeDelta = TimeDelta::seconds(300);
/// How long a spent token may be spent again by a machine that missed the answer.
const LOST_ANSWER: TimeDelta = TimeDelta::seconds(60);
/// Most bytes kept of what a command said.
const OUTPUT: usize = 16 * 1024;

/// A machine that wants to be a host.
pub struct Registration<'a> {
    pub token: &'a str,
    pub instance_id: &'a str,
    pub instance_type: &'a str,
    pub ip: Option<&'a str>,
    pub endpoint: Option<&'a str>,
    pub cpu_millis: i64,
    pub memory_bytes: i64,
    pub agent_version: Option<&'a str>,
}

/// A sign of life.
pub struct Heartbeat {
    /// Grows with each; one that is not newer than the newest is late and changes nothing.
    pub number: i64,
    pub cpu_used_millis: i64,
    pub memory_available_bytes: i64,
    pub containers: i32,
    /// Whether the machine is going away.
    pub is_dying: bool,
    pub agent_version: Option<String>,
}

/// The answer to a sign of life.
pub struct Heard {
    pub host: Model,
    /// Whether it was newer than all before.
    pub is_newest: bool,
    pub commands: Vec<host_commands::Model>,
    /// Whether it should tell of each of its containers, because nobody knows how they are.
    pub should_report: bool,
}

fn within<'a>(
    field: &'static str,
    text: &'a str,
    lengths: std::ops::RangeInclusive<usize>,
) -> Result<&'a str, AppError> {
    let is_plain = text.chars().all(|c| !c.is_control());
    if lengths.contains(&text.len()) && is_plain {
        return Ok(text);
    }
    Err(AppError::Invalid {
        field,
        reason: format!(
            "{} to {} printable bytes are expected",
            lengths.start(),
            lengths.end()
        ),
    })
}

fn amount(field: &'static str, amount: i64) -> Result<i64, AppError> {
    if (0..=i64::MAX / 1_000_000).contains(&amount) {
        return Ok(amount);
    }
    Err(AppError::Invalid {
        field,
        reason: "it is out of range".to_owned(),
    })
}

/// Whether a token is unspent, or was spent a moment ago by the same machine that has not been heard of since: then the answer
/// was lost.
async fn may_be_spent(
    tx: &Tx<'_>,
    token: &registrations::Model,
    instance: &str,
) -> Result<bool, AppError> {
    let (Some(at), Some(host)) = (token.used_at, token.host_id) else {
        return Ok(token.used_at.is_none());
    };
    let host = hosts::unscoped_by_id(tx, Id::new(host)).await?;
    let is_unheard = host.is_some_and(|host| {
        host.instance_id == instance && host.status().is_ok_and(|s| s == HostStatus::Registered)
    });
    Ok(is_unheard && tx.now() - at < LOST_ANSWER)
}

impl Services {
    /// Makes a machine a host of the token's cluster; its credential is told this once. The token is spent.
    pub async fn register_host(
        &self,
        wanted: Registration<'_>,
    ) -> Result<(Model, String), AppError> {
        const BAD: AppError =
            AppError::Unauthenticated("the registration token is unknown, spent or too old");
        let secret = SecretToken::generate();
        let instance_id = within("instanceId", wanted.instance_id, 1..=128)?.to_owned();
        let instance_type = within("instanceType", wanted.instance_type, 0..=64)?.to_owned();
        let ip = wanted.ip.map(|ip| within("ip", ip, 1..=64)).transpose()?;
        let version = wanted
            .agent_version
            .map(|v| within("agentVersion", v, 1..=32));
        let version = version.transpose()?;
        let endpoint = wanted.endpoint.map(endpoint).transpose()?;
        let mut tx = self.store.begin().await?;
        let token = registrations::lock(&tx, &SecretToken::hash_of(wanted.token)).await?;
        let token = token.ok_or(BAD)?;
        if !may_be_spent(&tx, &token, &instance_id).await? {
            return Err(BAD);
        }
        let cluster: Id<Cluster> = Id::new(token.cluster_id);
        let host = NewHost {
            cluster,
            instance_id,
            instance_type,
            ip: ip.map(str::to_owned),
            endpoint,
            cpu_millis: amount("cpuMillis", wanted.cpu_millis)?,
            memory_bytes: amount("memoryBytes", wanted.memory_bytes)?,
            agent_version: version.map(str::to_owned),
            credential_hash: Some(secret.hash.clone()),
        };
        let host = hosts::register(&mut tx, host).await?;
        registrations::spend(&mut tx, &token, host.id()).await?;
        let detail = json!({ "cluster": cluster.to_string(), "instance": host.instance_id });
        let viewer = Viewer::Host { id: host.id() };
        audit::record(&mut tx, viewer, "host.register", host.id(), detail).await?;
        tx.commit().await?;
        let credential = HostCredential::write(host.id(), &secret.token);
        Ok((host, credential))
    }

    /// Takes a sign of life of the host that asks.
    pub async fn heartbeat(&self, viewer: Viewer, beat: Heartbeat) -> Result<Heard, AppError> {
        let id = as_host(viewer)?;
        let number = amount("number", beat.number)?;
        let mut tx = self.store.begin().await?;
        let row = hosts::lock(&tx, id).await?.ok_or(AppError::Forbidden)?;
        let is_newest = number > row.heartbeat;
        let row = if is_newest {
            let was = row.status()?;
            let patch = ActiveModel {
                heartbeat: Set(number),
                cpu_used_millis: Set(amount("cpuUsedMillis", beat.cpu_used_millis)?),
                memory_available_bytes: Set(amount(
                    "memoryAvailableBytes",
                    beat.memory_available_bytes,
                )?),
                containers: Set(beat.containers.max(0)),
                agent_version: match beat.agent_version {
                    Some(version) => {
                        Set(Some(within("agentVersion", &version, 1..=32)?.to_owned()))
                    }
                    None => sea_orm::ActiveValue::NotSet,
                },
                last_seen_at: Set(Some(tx.now())),
                ..Default::default()
            };
            // What somebody has taken out of service stays so; what was about to go by itself and is there again has changed
            // its mind.
            let event = match was {
                HostStatus::Registered | HostStatus::Stale => Some(HostEvent::Heard),
                HostStatus::Dead if !row.cordoned => Some(HostEvent::Heard),
                HostStatus::Draining if !row.cordoned && !beat.is_dying => {
                    Some(HostEvent::Returned)
                }
                HostStatus::Dead | HostStatus::Healthy | HostStatus::Draining => None,
            };
            let heard = match event {
                Some(event) => hosts::transition(&mut tx, &row, event, patch).await?,
                None => hosts::change(&mut tx, &row, patch).await?,
            };
            if beat.is_dying && heard.status()? == HostStatus::Healthy {
                let (heard, _) =
                    drain_host::request(&mut tx, &heard, self.fleet.get().patience).await?;
                audit::record(&mut tx, viewer, "host.dying", id, json!({})).await?;
                heard
            } else {
                heard
            }
        } else {
            row
        };
        tx.commit().await?;
        let db = self.store.db();
        let unknown = [ContainerState::Unknown];
        let unknown = containers::unscoped_in(db, Place::Host(id), &unknown).await?;
        Ok(Heard {
            host: row,
            is_newest,
            commands: host_commands::unscoped_pending(db, id).await?,
            should_report: !unknown.is_empty(),
        })
    }

    /// Takes what came of a command of the host that asks.
    pub async fn report_command(
        &self,
        viewer: Viewer,
        id: Id<HostCommand>,
        has_succeeded: bool,
        output: Option<String>,
    ) -> Result<(), AppError> {
        let host = as_host(viewer)?;
        let state = if has_succeeded {
            CommandState::Succeeded
        } else {
            CommandState::Failed
        };
        let output = output.map(|mut text| {
            text.truncate(text.floor_char_boundary(OUTPUT));
            text.replace('\0', "\u{fffd}")
        });
        let mut tx = self.store.begin().await?;
        let command = host_commands::finish(&mut tx, host, id, state, output).await?;
        tx.commit().await?;
        let command = command.ok_or(AppError::NotFound { what: "command" })?;
        let topic = command_topic(Id::new(command.task_id));
        tasks::wake(&self.store, &topic).await?;
        Ok(())
    }

    /// What the host that asks has been told and has not done.
    pub async fn host_commands(
        &self,
        viewer: Viewer,
    ) -> Result<Vec<host_commands::Model>, AppError> {
        let host = as_host(viewer)?;
        Ok(host_commands::unscoped_pending(self.store.db(), host).await?)
    }

    /// Another credential for the host that asks; the one it has counts for five minutes more.
    pub async fn rotate_host_credential(&self, viewer: Viewer) -> Result<String, AppError> {
        let id = as_host(viewer)?;
        let secret = SecretToken::generate();
        let mut tx = self.store.begin().await?;
        let row = hosts::lock(&tx, id).await?.ok_or(AppError::Forbidden)?;
        if row.credential_hash.is_none() {
            return Err(AppError::Forbidden);
        }
        hosts::rotate(&mut tx, &row, secret.hash.clone(), OVERLAP).await?;
        audit::record(&mut tx, viewer, "host.rotate", id, json!({})).await?;
        tx.commit().await?;
        Ok(HostCredential::write(id, &secret.token))
    }
}
