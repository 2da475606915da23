//! The event bus inside one process.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use tokio::sync::{broadcast, watch};
use uuid::Uuid;

use super::{EventBus, Heard, LISTENER_CAPACITY, Listener, Topic};
use crate::{
    domain::{Change, Table},
    error::TransportError,
};

type Row = (Table, Uuid);

/// Tells the listeners of this process.
#[derive(Clone, Debug)]
pub struct MemoryBus {
    changes: broadcast::Sender<Heard>,
    control: broadcast::Sender<Heard>,
    rows: Rows,
}

impl Default for MemoryBus {
    fn default() -> Self {
        Self {
            changes: broadcast::Sender::new(LISTENER_CAPACITY),
            control: broadcast::Sender::new(LISTENER_CAPACITY),
            rows: Rows::default(),
        }
    }
}

impl MemoryBus {
    pub(super) fn tell(&self, topic: Topic, heard: Heard) {
        if topic == Topic::Changes {
            self.rows.tell(&heard);
        }
        // Nobody listening is no fault.
        let _ = self.channel(topic).send(heard);
    }

    const fn channel(&self, topic: Topic) -> &broadcast::Sender<Heard> {
        match topic {
            Topic::Changes => &self.changes,
            Topic::Control => &self.control,
        }
    }
}

#[async_trait]
impl EventBus for MemoryBus {
    async fn publish(&self, changes: &[Change]) -> Result<(), TransportError> {
        for change in changes {
            for topic in Topic::of(change) {
                self.tell(*topic, Heard::Change(change.clone()));
            }
        }
        Ok(())
    }

    fn listen(&self, topic: Topic) -> Listener {
        Listener(self.channel(topic).subscribe())
    }

    fn listen_to(&self, table: Table, id: Uuid) -> RowListener {
        self.rows.listen((table, id))
    }

    async fn ping(&self) -> Result<(), TransportError> {
        Ok(())
    }
}

/// What has been told about a row since somebody listens to it. Only the sum counts, so that no listener is too slow.
#[derive(Clone, Copy, Debug)]
struct Told {
    version: i64,
    gaps: u64,
}

/// A row somebody listens to.
#[derive(Debug)]
struct Listened {
    told: watch::Sender<Told>,
    listeners: usize,
}

/// The rows somebody listens to: a change wakes those who watch that row and nobody else.
#[derive(Clone, Debug, Default)]
struct Rows(Arc<Mutex<HashMap<Row, Listened>>>);

impl Rows {
    fn lock(&self) -> MutexGuard<'_, HashMap<Row, Listened>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn listen(&self, row: Row) -> RowListener {
        let mut rows = self.lock();
        let listened = rows.entry(row).or_insert_with(|| Listened {
            told: watch::Sender::new(Told {
                version: i64::MIN,
                gaps: 0,
            }),
            listeners: 0,
        });
        listened.listeners += 1;
        let told = listened.told.subscribe();
        let gaps = told.borrow().gaps;
        RowListener {
            told,
            gaps,
            row,
            rows: self.clone(),
        }
    }

    fn tell(&self, heard: &Heard) {
        let rows = self.lock();
        match heard {
            Heard::Change(change) => {
                if let Some(row) = rows.get(&(change.table, change.id)) {
                    row.told.send_if_modified(|told| {
                        let is_newer = change.version > told.version;
                        told.version = told.version.max(change.version);
                        is_newer
                    });
                }
            }
            Heard::Gap => {
                for row in rows.values() {
                    row.told.send_modify(|told| told.gaps += 1);
                }
            }
        }
    }
}

/// One listener to the changes of one row.
pub struct RowListener {
    told: watch::Receiver<Told>,
    gaps: u64,
    row: Row,
    rows: Rows,
}

impl RowListener {
    /// Waits until the row is told to be newer than `known`, or something may not have been told; `false` when the bus
    /// has closed. Nothing is lost when the waiting is given up.
    pub async fn newer_than(&mut self, known: i64) -> bool {
        let gaps = self.gaps;
        let told = self
            .told
            .wait_for(|told| told.version > known || told.gaps > gaps);
        match told.await.map(|told| told.gaps) {
            Ok(gaps) => {
                self.gaps = gaps;
                true
            }
            Err(_) => false,
        }
    }
}

impl Drop for RowListener {
    fn drop(&mut self) {
        let mut rows = self.rows.lock();
        if let Entry::Occupied(mut listened) = rows.entry(self.row) {
            listened.get_mut().listeners -= 1;
            if listened.get().listeners == 0 {
                listened.remove();
            }
        }
    }
}
