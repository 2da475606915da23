//! Brings each change to those it concerns: one listener on the bus, however many watch.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{EventBus, Heard, Topic};
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
        [Self::Row(change.table, change.id), Self::All(change.table)]
            .into_iter()
            .chain(owner)
    }
}

type Waiting = HashMap<Interest, HashMap<u64, Arc<Notify>>>;

#[derive(Default)]
struct Board {
    waiting: Waiting,
    next: u64,
}

/// The changes of a bus by whom they concern.
#[derive(Clone, Default)]
pub struct Router(Arc<Mutex<Board>>);

impl Router {
    /// Listens from now on, until `stop`.
    pub fn start(bus: &dyn EventBus, stop: CancellationToken) -> Self {
        let router = Self::default();
        let (mut listener, routing) = (bus.listen(Topic::Changes), router.clone());
        tokio::spawn(async move {
            loop {
                let heard = tokio::select! {
                    biased;
                    () = stop.cancelled() => return,
                    heard = listener.next() => heard,
                };
                match heard {
                    None => return,
                    Some(Heard::Change(change)) => routing.tell(&change),
                    Some(Heard::Gap) => routing.tell_everybody(),
                }
            }
        });
        router
    }

    fn board(&self) -> MutexGuard<'_, Board> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, change: &Change) {
        let board = self.board();
        for interest in Interest::of(change) {
            for notify in board
                .waiting
                .get(&interest)
                .into_iter()
                .flat_map(HashMap::values)
            {
                notify.notify_one();
            }
        }
    }

    /// What was missed may concern anybody.
    fn tell_everybody(&self) {
        for each in self.board().waiting.values() {
            each.values().for_each(|notify| notify.notify_one());
        }
    }

    /// Hears of these from now on, until it is dropped.
    pub fn watch(&self, interests: Vec<Interest>) -> Watcher {
        let notify = Arc::new(Notify::new());
        let mut board = self.board();
        let number = board.next;
        board.next += 1;
        for interest in &interests {
            let each = board.waiting.entry(*interest).or_default();
            each.insert(number, Arc::clone(&notify));
        }
        drop(board);
        Watcher {
            router: self.clone(),
            interests,
            number,
            notify,
        }
    }

    /// How many interests are watched.
    pub fn watched(&self) -> usize {
        self.board().waiting.len()
    }
}

/// One who watches.
pub struct Watcher {
    router: Router,
    interests: Vec<Interest>,
    number: u64,
    notify: Arc<Notify>,
}

impl Watcher {
    /// Waits for a change since the last call; those that came meanwhile are one.
    pub async fn changed(&self) {
        self.notify.notified().await;
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        let mut board = self.router.board();
        for interest in &self.interests {
            if let Some(each) = board.waiting.get_mut(interest) {
                each.remove(&self.number);
                if each.is_empty() {
                    board.waiting.remove(interest);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{domain::ChangeKind, live::MemoryBus};

    fn change(id: u128, owner: u128) -> Change {
        Change {
            table: Table::Container,
            id: Uuid::from_u128(id),
            version: 1,
            owner: Some(Uuid::from_u128(owner)),
            kind: ChangeKind::Updated,
        }
    }

    async fn hears(watcher: &Watcher) -> bool {
        tokio::time::timeout(Duration::from_millis(200), watcher.changed())
            .await
            .is_ok()
    }

    #[tokio::test]
    async fn a_change_reaches_those_it_concerns_and_nobody_is_kept() {
        let bus = MemoryBus::default();
        let router = Router::start(&bus, CancellationToken::new());
        let row = router.watch(vec![Interest::Row(Table::Container, Uuid::from_u128(1))]);
        let owner = router.watch(vec![Interest::Owner(Table::Container, Uuid::from_u128(9))]);
        let other = router.watch(vec![Interest::Owner(Table::Container, Uuid::from_u128(8))]);
        let all = router.watch(vec![Interest::All(Table::Container)]);
        let tasks = router.watch(vec![Interest::All(Table::Task)]);
        bus.publish(&[change(1, 9), change(2, 9)]).await.unwrap();
        assert!(hears(&row).await && hears(&owner).await && hears(&all).await);
        assert!(!hears(&owner).await, "two changes at once are one");
        assert!(!hears(&other).await && !hears(&tasks).await);
        assert_eq!(router.watched(), 5);
        drop((row, owner, other, all, tasks));
        assert_eq!(router.watched(), 0);
    }
}
