//! What tasks have in other tables, read for all tasks of one moment together.

use std::{collections::HashMap, sync::Arc};

use async_graphql::dataloader::{DataLoader, Loader};

use crate::{
    domain::{Id, id::Task},
    error::{AppError, StoreError},
    store::{
        Store,
        task_logs::{self, Place},
        tasks::{self, Step},
    },
};

/// Most tasks of one statement.
const MOST: usize = 100;

/// Reads the parts of tasks.
pub struct Parts(Store);

pub type PartLoader = DataLoader<Parts>;

pub fn loader(store: Store) -> PartLoader {
    DataLoader::new(Parts(store), tokio::spawn).max_batch_size(MOST)
}

fn shared(error: StoreError) -> Arc<AppError> {
    Arc::new(error.into())
}

/// The finished steps of a task.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct StepsOf(pub Id<Task>);

impl Loader<StepsOf> for Parts {
    type Value = Vec<Step>;
    type Error = Arc<AppError>;

    async fn load(&self, keys: &[StepsOf]) -> Result<HashMap<StepsOf, Vec<Step>>, Self::Error> {
        let found = tasks::steps_of(&self.0, keys.iter().map(|key| key.0)).await;
        let each = found.map_err(shared)?.into_iter();
        Ok(each
            .map(|(id, steps)| (StepsOf(Id::new(id)), steps))
            .collect())
    }
}

/// The first lines of a task after a place.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct LinesOf {
    pub task: Id<Task>,
    pub after: Option<Place>,
    pub first: u64,
}

impl Loader<LinesOf> for Parts {
    type Value = Vec<task_logs::Model>;
    type Error = Arc<AppError>;

    async fn load(
        &self,
        keys: &[LinesOf],
    ) -> Result<HashMap<LinesOf, Vec<task_logs::Model>>, Self::Error> {
        let mut alike: HashMap<(Option<Place>, u64), Vec<Id<Task>>> = HashMap::new();
        for key in keys {
            let tasks = alike.entry((key.after, key.first)).or_default();
            tasks.push(key.task);
        }
        let mut all = HashMap::with_capacity(keys.len());
        for ((after, first), tasks) in alike {
            let found = task_logs::pages(&self.0, &tasks, after, first).await;
            all.extend(found.map_err(shared)?.into_iter().map(|(id, lines)| {
                let task = Id::new(id);
                (LinesOf { task, after, first }, lines)
            }));
        }
        Ok(all)
    }
}
