//! What every engine has to do, whichever it is. The Docker Engine passes it in `docker.rs`, a swarm in `swarm.rs`.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use futures_util::{StreamExt as _, TryStreamExt as _};
use main_webserver::{
    domain::{Entropy, Id, SystemClock, id::Container},
    providers::{Instance, Prepared, Provider, ProviderError, Simulated, Spec, Start, Status},
};
use tokio_util::sync::CancellationToken;

use crate::harness::{HTTP, PATIENCE, QUICK, until};

/// What the suite runs on an engine.
pub struct Images {
    /// Serves HTTP on port 8080 when started with the command.
    pub serving: (&'static str, Vec<String>),
    /// Ends at once with code 1.
    pub exiting: (&'static str, Vec<String>),
    /// Cannot be had.
    pub missing: &'static str,
}

pub fn spec(entropy: &Entropy, image: &(&str, Vec<String>)) -> Spec {
    Spec {
        container: entropy
            .id::<Container>(chrono::DateTime::from_timestamp(TIME.cast_signed(), 0).unwrap()),
        generation: 1,
        deployment: "conformance".to_owned(),
        cluster: None,
        image: image.0.to_owned(),
        command: image.1.clone(),
        env: vec![("CONTAINER_DPI".to_owned(), "96".to_owned())],
        cpu_millis: 100,
        memory_bytes: 32 << 20,
        ports: vec![8080],
        publish_address: [127, 0, 0, 1].into(),
    }
}

/// When the suite's containers were made, for their ids.
const TIME: u64 = 1_700_000_000;

/// The whole suite, each law by itself.
pub async fn conforms(provider: Arc<dyn Provider>, images: &Images) {
    let entropy = Entropy::from_os();
    assert!(!provider.ping().await.unwrap().is_empty());
    ensuring_twice_gives_one_instance_that_answers(&*provider, images, &entropy).await;
    eight_at_once_give_one_instance(&provider, images, &entropy).await;
    removing_what_is_not_there_succeeds(&*provider, &entropy).await;
    a_missing_image_is_its_own_error(&*provider, images, &entropy).await;
    an_instance_that_ends_is_seen_with_its_code(&*provider, images, &entropy).await;
    a_stop_before_the_start_leaves_nothing(&*provider, images, &entropy).await;
    events_tell_of_ours(&*provider, images, &entropy).await;
    assert_eq!(of_this_suite(&*provider).await, []);
}

/// What the engine lists of this suite's containers, told by the time in their ids: others may use the engine too.
async fn of_this_suite(provider: &dyn Provider) -> Vec<Id<Container>> {
    let listed = provider
        .list()
        .await
        .unwrap()
        .into_iter()
        .map(|instance| instance.id);
    listed
        .filter(|id| {
            id.uuid()
                .get_timestamp()
                .is_some_and(|time| time.to_unix().0 == TIME)
        })
        .collect()
}

/// Where its port 8080 answers: on its node, for an engine with several, else on this machine.
pub fn address(instance: &Instance) -> String {
    let host = match instance.node {
        Some(_) => instance.ip.as_deref().unwrap(),
        None => "127.0.0.1",
    };
    format!("http://{host}:{}/", instance.ports[&8080])
}

async fn ready(provider: &dyn Provider, id: Id<Container>) -> Instance {
    until("the instance is ready", async || {
        provider
            .inspect(id)
            .await
            .unwrap()
            .filter(|i| i.status == Status::Ready)
    })
    .await
}

async fn ensuring_twice_gives_one_instance_that_answers(
    provider: &dyn Provider,
    images: &Images,
    entropy: &Entropy,
) {
    let (spec, go) = (spec(entropy, &images.serving), CancellationToken::new());
    let prepared: Vec<Prepared> = provider.prepare(&spec.image).try_collect().await.unwrap();
    assert_eq!(prepared.last(), Some(&Prepared::Present));
    let first = provider.ensure(&spec, &go).await.unwrap();
    let second = provider.ensure(&spec, &go).await.unwrap();
    assert_eq!(
        (first.handle, first.ports),
        (second.handle.clone(), second.ports)
    );
    let found = ready(provider, spec.container).await;
    assert_eq!(found.handle, second.handle);
    let address = address(&found);
    let page = until("its port answers", async || {
        HTTP.get(&address).send().await.ok()
    })
    .await;
    assert_eq!(page.status(), 200);
    assert_eq!(of_this_suite(provider).await, [spec.container]);
    provider
        .remove(spec.container, Duration::from_secs(1))
        .await
        .unwrap();
    assert!(provider.inspect(spec.container).await.unwrap().is_none());
    assert!(HTTP.get(&address).send().await.is_err());
}

async fn eight_at_once_give_one_instance(
    provider: &Arc<dyn Provider>,
    images: &Images,
    entropy: &Entropy,
) {
    let spec = spec(entropy, &images.serving);
    let attempts = (0..8).map(|_| {
        let (provider, spec) = (Arc::clone(provider), spec.clone());
        tokio::spawn(async move { provider.ensure(&spec, &CancellationToken::new()).await })
    });
    let mut handles = BTreeSet::new();
    for attempt in futures_util::future::join_all(attempts).await {
        handles.insert(attempt.unwrap().unwrap().handle);
    }
    assert_eq!(handles.len(), 1);
    // Two removals at once, and one after.
    let (one, two) = tokio::join!(
        provider.remove(spec.container, Duration::from_secs(1)),
        provider.remove(spec.container, Duration::from_secs(1))
    );
    one.and(two).unwrap();
    provider
        .remove(spec.container, Duration::ZERO)
        .await
        .unwrap();
    until("it is gone", async || {
        provider
            .inspect(spec.container)
            .await
            .unwrap()
            .is_none()
            .then_some(())
    })
    .await;
}

async fn removing_what_is_not_there_succeeds(provider: &dyn Provider, entropy: &Entropy) {
    let id = entropy.id(chrono::DateTime::UNIX_EPOCH);
    provider.remove(id, Duration::ZERO).await.unwrap();
    assert!(provider.inspect(id).await.unwrap().is_none());
}

async fn a_missing_image_is_its_own_error(
    provider: &dyn Provider,
    images: &Images,
    entropy: &Entropy,
) {
    let prepared: Result<Vec<Prepared>, _> = provider.prepare(images.missing).try_collect().await;
    match prepared {
        // An engine that cannot ask its registry cannot know that the image is not there.
        Err(error) => assert!(
            matches!(
                error,
                ProviderError::NoSuchImage { .. } | ProviderError::Failed { .. }
            ),
            "{error}"
        ),
        // Machines of their own fetch for themselves, at the start.
        Ok(_) => assert!(provider.nodes().await.unwrap().is_some()),
    }
    let spec = spec(entropy, &(images.missing, Vec::new()));
    let error = provider
        .ensure(&spec, &CancellationToken::new())
        .await
        .unwrap_err();
    assert_eq!(
        (error.code(), error.is_retryable()),
        ("NO_SUCH_IMAGE", false),
        "{error}"
    );
    assert!(provider.inspect(spec.container).await.unwrap().is_none());
}

async fn an_instance_that_ends_is_seen_with_its_code(
    provider: &dyn Provider,
    images: &Images,
    entropy: &Entropy,
) {
    let spec = spec(entropy, &images.exiting);
    provider
        .ensure(&spec, &CancellationToken::new())
        .await
        .unwrap();
    let ended = async || {
        let found = provider.inspect(spec.container).await.unwrap()?;
        matches!(found.status, Status::Exited { code: 1 }).then_some(())
    };
    until("it has ended with code 1", ended).await;
    // A second attempt finds it ended; it does not start it over.
    let again = provider
        .ensure(&spec, &CancellationToken::new())
        .await
        .unwrap();
    assert_eq!(again.status, Status::Exited { code: 1 });
    assert!(!provider.logs(spec.container, 5).await.unwrap().is_empty());
    let first_after = async |start: Start, read: i64| {
        let lines = provider.follow(spec.container, start);
        let mut new = lines
            .filter(|line| std::future::ready(line.mark > read))
            .boxed();
        let first = tokio::time::timeout(PATIENCE, new.next());
        first.await.expect("a line in time").expect("a line")
    };
    let first = first_after(Start::Last(100), 0).await;
    let before = first.mark - 1;
    let again = first_after(Start::After(before), before).await;
    assert_eq!(again, first, "the reading goes on after a mark");
    provider
        .remove(spec.container, Duration::ZERO)
        .await
        .unwrap();
}

async fn a_stop_before_the_start_leaves_nothing(
    provider: &dyn Provider,
    images: &Images,
    entropy: &Entropy,
) {
    let (spec, stopped) = (spec(entropy, &images.serving), CancellationToken::new());
    stopped.cancel();
    assert_eq!(
        provider.ensure(&spec, &stopped).await.unwrap_err(),
        ProviderError::Stopped
    );
    assert!(provider.inspect(spec.container).await.unwrap().is_none());
}

async fn events_tell_of_ours(provider: &dyn Provider, images: &Images, entropy: &Entropy) {
    let spec = spec(entropy, &images.serving);
    let id = spec.container;
    let mut ours = provider
        .events()
        .filter(move |event| std::future::ready(event.id == id))
        .boxed();
    let heard = tokio::spawn(async move { ours.next().await });
    // The stream may need a moment to be connected; what happens before is not told.
    until("an event arrives", async || {
        provider
            .ensure(&spec, &CancellationToken::new())
            .await
            .unwrap();
        provider
            .remove(spec.container, Duration::ZERO)
            .await
            .unwrap();
        heard.is_finished().then_some(())
    })
    .await;
    assert!(heard.await.unwrap().is_some());
}

#[tokio::test]
async fn the_simulated_engine_conforms() {
    let engine = Simulated::new(Arc::new(SystemClock), Arc::new(Entropy::seeded(3)), QUICK);
    let images = Images {
        serving: ("serving/app", Vec::new()),
        exiting: ("exiting/app", Vec::new()),
        missing: "missing/app",
    };
    conforms(Arc::new(engine), &images).await;
}
