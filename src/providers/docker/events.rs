//! What happens to containers of ours on an engine.

use std::collections::HashMap;

use bollard::query_parameters::EventsOptionsBuilder;
use futures_util::{StreamExt as _, stream::BoxStream};

use crate::{
    domain::Id,
    providers::{Happened, LABEL},
};

/// Since a time by the engine's clock, in seconds, or from now on; until the connection ends.
pub(super) fn of(engine: &bollard::Docker, since: Option<&str>) -> BoxStream<'static, Happened> {
    let filters = HashMap::from([
        ("type", vec!["container"]),
        ("label", vec![LABEL]),
        // Not the start and end of every health probe.
        ("event", vec!["start", "die", "destroy", "health_status"]),
    ]);
    let mut options = EventsOptionsBuilder::new().filters(&filters);
    if let Some(since) = since {
        options = options.since(since);
    }
    let seen = engine
        .events(Some(options.build()))
        .take_while(|event| std::future::ready(event.is_ok()));
    seen.filter_map(async |event| {
        let actor = event.ok()?.actor?;
        Some(Happened {
            id: Id::parse(actor.attributes?.get(LABEL)?)?,
        })
    })
    .boxed()
}
