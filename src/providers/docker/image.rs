//! Fetching images.

use std::{collections::BTreeMap, time::Duration};

use bollard::query_parameters::CreateImageOptionsBuilder;
use futures_util::{Stream, StreamExt as _, stream};

use super::{NAME, answer::classify};
use crate::providers::{Prepared, ProviderError};

/// Longest silence of a pull.
const SILENCE: Duration = Duration::from_secs(120);

/// Pulls `image`, telling percents of the bytes known so far.
pub(super) fn pull<'a>(
    engine: &'a bollard::Docker,
    image: &'a str,
) -> impl Stream<Item = Result<Prepared, ProviderError>> + 'a {
    let (name, tag) = split_tag(image);
    let options = CreateImageOptionsBuilder::new()
        .from_image(name)
        .tag(tag)
        .build();
    let mut layers: BTreeMap<String, (i64, i64)> = BTreeMap::new();
    let steps =
        tokio_stream::StreamExt::timeout(engine.create_image(Some(options), None, None), SILENCE);
    let told = steps.map(move |step| {
        let step = step.map_err(|_| ProviderError::TimedOut {
            engine: NAME,
            after: SILENCE,
        })?;
        let step = step.map_err(|error| classify(error, Some(image)))?;
        if let (Some(id), Some(detail)) = (step.id, step.progress_detail)
            && let (Some(done), Some(all)) = (detail.current, detail.total)
        {
            layers.insert(id, (done, all));
        }
        let (done, all) = layers
            .values()
            .fold((0, 0), |sum, layer| (sum.0 + layer.0, sum.1 + layer.1));
        Ok(Prepared::Pulling(
            u8::try_from(100 * done / all.max(1))
                .unwrap_or(100)
                .min(100),
        ))
    });
    told.chain(stream::once(std::future::ready(Ok(Prepared::Present))))
}

/// `name:tag`, with `latest` for none; a digest stays with the name.
fn split_tag(image: &str) -> (&str, &str) {
    match image.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') && !image.contains('@') => (name, tag),
        _ if image.contains('@') => (image, ""),
        _ => (image, "latest"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_is_told_from_a_port_and_a_digest() {
        assert_eq!(split_tag("busybox"), ("busybox", "latest"));
        assert_eq!(split_tag("busybox:1.37"), ("busybox", "1.37"));
        assert_eq!(split_tag("host:5000/app"), ("host:5000/app", "latest"));
        assert_eq!(split_tag("host:5000/app:2"), ("host:5000/app", "2"));
        assert_eq!(split_tag("app@sha256:00"), ("app@sha256:00", ""));
    }
}
