//! The meters of this process and the depths of the queue, for Prometheus.

use std::{sync::Arc, time::Duration};

use poem::{
    Response, handler,
    http::{StatusCode, header},
    web::Data,
};

use super::Web;
use crate::{
    error::StoreError,
    store::{statistics, workers},
    telemetry::meters::{DepthLabels, MEDIA_TYPE},
};

/// A worker nobody has heard of for so long is not counted: when the last has gone, none is left to forget it.
const LIVING: Duration = Duration::from_secs(60);

/// OpenMetrics text. While the database is away the depths are missing and the rest stands.
#[handler]
pub async fn text(web: Data<&Arc<Web>>) -> Response {
    let counted = count(&web).await;
    if let Err(error) = &counted {
        tracing::debug!(%error, "the depths are not known now");
        web.meters.depth.clear();
    }
    web.meters.database_up.set(i64::from(counted.is_ok()));
    let transport = web.bus.ping().await;
    web.meters.transport_up.set(i64::from(transport.is_ok()));
    for pool in web.store.pools() {
        web.meters.connected(pool.name, "idle", pool.idle);
        web.meters.connected(pool.name, "busy", pool.busy);
        web.meters.connected(pool.name, "most", pool.most);
    }
    let shared_runs = i64::try_from(web.api.shared_runs()).unwrap_or(i64::MAX);
    web.meters.shared_runs.set(shared_runs);
    match web.meters.text() {
        Ok(text) => Response::builder()
            .header(header::CONTENT_TYPE, MEDIA_TYPE)
            .body(text),
        Err(error) => {
            tracing::error!(%error, "the meters could not be written");
            Response::builder()
                .status(StatusCode::INTERNAL_SERVER_ERROR)
                .finish()
        }
    }
}

async fn count(web: &Web) -> Result<(), StoreError> {
    let (statistics, workers) = tokio::try_join!(
        statistics::latest(&web.store),
        workers::count(&web.store, LIVING)
    )?;
    web.meters.depth.clear();
    for depth in statistics.depths {
        let labels = DepthLabels {
            kind: depth.kind,
            state: depth.state,
        };
        web.meters.depth.get_or_create(&labels).set(depth.count);
    }
    web.meters
        .workers
        .set(i64::try_from(workers).unwrap_or(i64::MAX));
    Ok(())
}
