//! Who listens to what: a change wakes those it concerns and nobody else.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::watch;
use uuid::Uuid;

use super::Heard;
use crate::domain::{Change, Table};

/// What somebody wants to hear of.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Interest {
    /// One row.
    Row(Table, Uuid),
    /// Every row of an owner.
    Owner(Table, Uuid),
    /// Every row.
    All(Table),
}

impl Interest {
    fn of(change: &Change) -> impl Iterator<Item = Self> {
        let owner = change.owner.map(|owner| Self::Owner(change.table, owner));
        let row = Self::Row(change.table, change.id);
        [row, Self::All(change.table)].into_iter().chain(owner)
    }
}

/// What has been told since somebody listens. Only the sum counts, so that no listener is too slow.
#[derive(Clone, Copy, Debug)]
struct Told {
    /// The highest version of all rows.
    version: i64,
    changes: u64,
    gaps: u64,
}

#[derive(Debug)]
struct Listened {
    told: watch::Sender<Told>,
    listeners: usize,
}

/// The interests somebody has.
#[derive(Clone, Debug, Default)]
pub(super) struct Interests(Arc<Mutex<HashMap<Interest, Listened>>>);

impl Interests {
    fn lock(&self) -> MutexGuard<'_, HashMap<Interest, Listened>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn listen(&self, interest: Interest) -> InterestListener {
        let mut interests = self.lock();
        let listened = interests.entry(interest).or_insert_with(|| Listened {
            told: watch::Sender::new(Told {
                version: i64::MIN,
                changes: 0,
                gaps: 0,
            }),
            listeners: 0,
        });
        listened.listeners += 1;
        let told = listened.told.subscribe();
        let seen = *told.borrow();
        InterestListener {
            told,
            seen,
            interest,
            interests: self.clone(),
        }
    }

    pub(super) fn tell(&self, heard: &Heard) {
        let interests = self.lock();
        match heard {
            Heard::Change(change) => {
                for interest in Interest::of(change) {
                    if let Some(listened) = interests.get(&interest) {
                        listened.told.send_modify(|told| {
                            told.version = told.version.max(change.version);
                            told.changes += 1;
                        });
                    }
                }
            }
            // What was missed may concern anybody.
            Heard::Gap => {
                for listened in interests.values() {
                    listened.told.send_modify(|told| told.gaps += 1);
                }
            }
        }
    }
}

/// One listener to what one interest is about.
pub struct InterestListener {
    told: watch::Receiver<Told>,
    seen: Told,
    interest: Interest,
    interests: Interests,
}

impl InterestListener {
    /// Waits until a row is told to be newer than `known`, or something may not have been told; `false` when the bus has
    /// closed. Nothing is lost when the waiting is given up.
    pub async fn newer_than(&mut self, known: i64) -> bool {
        let gaps = self.seen.gaps;
        self.wait(|told| told.version > known || told.gaps > gaps)
            .await
    }

    /// Waits for a change since the last one waited for; those that came meanwhile are one.
    pub async fn changed(&mut self) -> bool {
        let Told { changes, gaps, .. } = self.seen;
        self.wait(|told| told.changes > changes || told.gaps > gaps)
            .await
    }

    /// Takes what has been told until now as waited for.
    pub fn catch_up(&mut self) {
        self.seen = *self.told.borrow_and_update();
    }

    async fn wait(&mut self, is_reason: impl FnMut(&Told) -> bool) -> bool {
        match self.told.wait_for(is_reason).await.map(|told| *told) {
            Ok(told) => {
                self.seen = told;
                true
            }
            Err(_) => false,
        }
    }
}

impl Drop for InterestListener {
    fn drop(&mut self) {
        let mut interests = self.interests.lock();
        if let Entry::Occupied(mut listened) = interests.entry(self.interest) {
            listened.get_mut().listeners -= 1;
            if listened.get().listeners == 0 {
                listened.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::domain::ChangeKind;

    fn change(id: u128, owner: u128) -> Heard {
        Heard::Change(Change {
            table: Table::Container,
            id: Uuid::from_u128(id),
            version: 1,
            owner: Some(Uuid::from_u128(owner)),
            kind: ChangeKind::Updated,
        })
    }

    async fn hears(listener: &mut InterestListener) -> bool {
        tokio::time::timeout(Duration::from_millis(100), listener.changed())
            .await
            .is_ok()
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_reaches_those_it_concerns_and_nobody_is_kept() {
        let interests = Interests::default();
        let mut row = interests.listen(Interest::Row(Table::Container, Uuid::from_u128(1)));
        let mut owner = interests.listen(Interest::Owner(Table::Container, Uuid::from_u128(9)));
        let mut other = interests.listen(Interest::Owner(Table::Container, Uuid::from_u128(8)));
        let mut all = interests.listen(Interest::All(Table::Container));
        let mut tasks = interests.listen(Interest::All(Table::Task));
        interests.tell(&change(1, 9));
        interests.tell(&change(2, 9));
        assert!(hears(&mut row).await && hears(&mut owner).await && hears(&mut all).await);
        assert!(!hears(&mut owner).await, "two changes at once are one");
        assert!(!hears(&mut other).await && !hears(&mut tasks).await);
        interests.tell(&Heard::Gap);
        assert!(hears(&mut other).await && hears(&mut tasks).await);
        drop((row, owner, other, all, tasks));
        assert!(interests.lock().is_empty());
    }
}
