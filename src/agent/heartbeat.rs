//! Signs of life.

use std::{
    convert::Infallible,
    sync::{
        PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use serde_json::json;
use tokio::sync::Notify;

use super::{
    Agent, VERSION,
    client::{CallError, Client},
    machine,
    operations::{HEARTBEAT, Heard},
};

/// Pause after a heartbeat the server could not take.
const AGAIN: Duration = Duration::from_secs(1);
/// Longest wait for the answer to the last one.
const FAREWELL: Duration = Duration::from_secs(5);

impl Agent {
    /// Gives signs of life as often as the server asks for them; `was_heard` says whether it took any.
    pub(super) async fn beat_on(
        &self,
        client: &Client,
        must_report: &Notify,
        was_heard: &AtomicBool,
    ) -> CallError {
        let beat_on = async {
            loop {
                let pause = match self.beat(client, false).await {
                    Ok(heard) => {
                        was_heard.store(true, Ordering::Relaxed);
                        self.introduce(&heard);
                        self.commands.take(heard.commands);
                        if heard.report_all {
                            must_report.notify_one();
                        }
                        Duration::from_secs(heard.interval_seconds.max(1))
                    }
                    Err(error) if error.may_pass() => {
                        tracing::warn!(%error, "the server does not take a heartbeat for now");
                        AGAIN
                    }
                    Err(error) => return Err(error),
                };
                self.clock.sleep(pause).await;
            }
        };
        let end: Result<Infallible, CallError> = beat_on.await;
        match end {
            Ok(never) => match never {},
            Err(error) => error,
        }
    }

    /// Tells that the machine goes away.
    pub(super) async fn say_farewell(&self, client: &Client) {
        let last = tokio::time::timeout(FAREWELL, self.beat(client, true)).await;
        match last {
            Ok(Ok(heard)) => {
                tracing::info!(
                    status = heard.host.status,
                    "the server knows that this host goes away"
                );
            }
            Ok(Err(error)) => {
                tracing::warn!(%error, "the server does not know that this host goes away");
            }
            Err(_) => tracing::warn!("the server may not know that this host goes away"),
        }
    }

    fn introduce(&self, heard: &Heard) {
        if !self.is_introduced.swap(true, Ordering::Relaxed) {
            (self.say)(&format!(
                "  host      {}, {}",
                heard.host.id, heard.host.status
            ));
        }
    }

    /// One that counts, whatever the clock was at an earlier start.
    async fn beat(&self, client: &Client, is_dying: bool) -> Result<Heard, CallError> {
        let heard = self.beat_once(client, is_dying).await?;
        if heard.accepted {
            return Ok(heard);
        }
        self.beats
            .fetch_max(heard.host.heartbeat, Ordering::Relaxed);
        self.beat_once(client, is_dying).await
    }

    async fn beat_once(&self, client: &Client, is_dying: bool) -> Result<Heard, CallError> {
        let unknown = |error: std::io::Error| {
            tracing::debug!(%error, "the machine does not say how it is");
            0
        };
        let cpu_used_millis = {
            let mut gauge = self.gauge.lock().unwrap_or_else(PoisonError::into_inner);
            gauge.cpu_used_millis().unwrap_or_else(unknown)
        };
        let input = json!({
            "number": self.beats.fetch_add(1, Ordering::Relaxed) + 1,
            "cpuUsedMillis": cpu_used_millis,
            "memoryAvailableBytes": machine::memory_available_bytes().unwrap_or_else(unknown),
            "containers": self.count.load(Ordering::Relaxed),
            "dying": is_dying,
            "agentVersion": VERSION,
        });
        client.call(HEARTBEAT, input).await
    }
}
