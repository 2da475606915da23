//! What only somebody beside the engine asks of it: which machine it is, what happened since, its images, how it is.

use std::{collections::HashMap, fmt::Write as _};

use bollard::query_parameters::{
    ListContainersOptionsBuilder, ListImagesOptions, PruneImagesOptionsBuilder,
};
use chrono::DateTime;
use futures_util::stream::BoxStream;

use super::{CALL, Docker, PING, events, within};
use crate::providers::{Engine as _, Happened, LABEL, ProviderError};

/// What an engine says of itself.
pub struct About {
    /// Its id in its swarm; `None` when it is in none.
    pub node: Option<String>,
    /// The time by its clock, in seconds with their fraction, as [`Docker::events_since`] takes it.
    pub time: Option<String>,
}

impl Docker {
    /// Which machine it is, and what time it is there.
    pub async fn about(&self) -> Result<About, ProviderError> {
        let info = within(PING, self.engine().await?.info()).await?;
        let node = info.swarm.and_then(|swarm| swarm.node_id);
        let time = info
            .system_time
            .and_then(|time| DateTime::parse_from_rfc3339(&time).ok());
        Ok(About {
            node: node.filter(|id| !id.is_empty()),
            time: time
                .map(|time| format!("{}.{:09}", time.timestamp(), time.timestamp_subsec_nanos())),
        })
    }

    /// What has happened to containers of ours since `time`, and from then on until the connection ends.
    pub async fn events_since(
        &self,
        time: Option<&str>,
    ) -> Result<BoxStream<'static, Happened>, ProviderError> {
        Ok(events::of(self.engine().await?, time))
    }

    /// How many containers it has with our label, whatever their names.
    pub async fn count(&self) -> Result<usize, ProviderError> {
        let filters = HashMap::from([("label", vec![LABEL])]);
        let options = ListContainersOptionsBuilder::new()
            .all(true)
            .filters(&filters)
            .build();
        let found = within(CALL, self.engine().await?.list_containers(Some(options))).await?;
        Ok(found.len())
    }

    /// Removes the images no container uses; what came of it, for people.
    pub async fn prune_images(&self) -> Result<String, ProviderError> {
        let filters = HashMap::from([("dangling", vec!["false"])]);
        let options = PruneImagesOptionsBuilder::new().filters(&filters).build();
        let pruned = within(CALL * 5, self.engine().await?.prune_images(Some(options))).await?;
        let images = pruned.images_deleted.unwrap_or_default();
        // An image is named once more for each of its layers.
        let untagged = images.iter().filter(|image| image.untagged.is_some());
        let freed = mebibytes(pruned.space_reclaimed.unwrap_or_default());
        Ok(format!(
            "{} images removed, {freed} MiB freed",
            untagged.count()
        ))
    }

    /// How it is, for people: its version, what it has, how much room that takes.
    pub async fn diagnose(&self) -> Result<String, ProviderError> {
        let version = self.ping().await?;
        let engine = self.engine().await?;
        let info = within(CALL, engine.info()).await?;
        let images = within(CALL, engine.list_images(None::<ListImagesOptions>)).await?;
        let used = images.iter().map(|image| image.size).sum();
        let ours = self.count().await?;
        let count = |count: Option<i64>| count.unwrap_or_default();
        let text = |text: Option<String>| text.unwrap_or_else(|| "unknown".to_owned());
        let mut lines = format!("{version} on {}", text(info.operating_system));
        let _ = write!(
            lines,
            "\ncontainers: {} running, {} stopped, {} paused; {ours} of this service",
            count(info.containers_running),
            count(info.containers_stopped),
            count(info.containers_paused),
        );
        let _ = write!(
            lines,
            "\nimages: {}, {} MiB with what they share counted each time",
            images.len(),
            mebibytes(used)
        );
        let _ = write!(
            lines,
            "\nstorage: {} in {}",
            text(info.driver),
            text(info.docker_root_dir)
        );
        for warning in info.warnings.unwrap_or_default() {
            let _ = write!(lines, "\n{}", warning.trim());
        }
        Ok(lines)
    }
}

const fn mebibytes(bytes: i64) -> i64 {
    bytes >> 20
}
