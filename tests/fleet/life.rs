//! What can be done with a container that runs, and what cannot.

use serde_json::{Value, json};

use crate::harness::{Ground, HTTP, Person, QUICK, Reply, World, until};
use main_webserver::app::Role;

pub async fn act(person: &Person, field: &str, container: &str, more: &str) -> Reply {
    let text = format!(
        "mutation {{ {field}(input: {{id: \"{container}\"{more}}}) {{ container {{ id state generation version dpi stun }} {} }} }}",
        if field == "updateContainer" {
            ""
        } else {
            "task { id kind }"
        }
    );
    person.ask(&text).await
}

pub async fn running(person: &Person) -> String {
    let created = person.create("hello").await;
    person.container_in(&created.container, "RUNNING").await;
    created.container
}

fn port(container: &Value) -> u64 {
    container["ports"][0]["published"].as_u64().unwrap()
}

#[tokio::test]
async fn a_restarted_container_is_made_anew_with_what_it_is_to_have_now() {
    let world = World::start().await;
    let ada = world.person("ada").await;
    let container = running(&ada).await;
    let before = ada.container(&container).await;
    let changed = act(
        &ada,
        "updateContainer",
        &container,
        ", dpi: 144, stun: true",
    )
    .await;
    let row = changed.ok("/updateContainer/container");
    assert_eq!(
        (&row["dpi"], &row["stun"], &row["state"]),
        (&json!(144), &json!(true), &json!("RUNNING"))
    );
    let restarted = act(&ada, "restartContainer", &container, "").await;
    let row = restarted.ok("/restartContainer/container");
    assert_eq!(
        (&row["state"], &row["generation"]),
        (&json!("CREATING"), &json!(2))
    );
    let task = restarted.text("/restartContainer/task/id");
    ada.task_in(&task, "SUCCEEDED").await;
    let after = ada.container_in(&container, "RUNNING").await;
    assert_ne!(port(&before), port(&after));
    let page = HTTP
        .get(format!("http://127.0.0.1:{}/", port(&after)))
        .send();
    assert_eq!(page.await.unwrap().status(), 200);
    let info = format!(
        "{{ protocolInfo(id: \"{container}\") {{ address dpi stun generation ports {{ inside published }} }} }}"
    );
    let info = ada.ask(&info).await.ok("/protocolInfo");
    assert_eq!(
        (
            &info["dpi"],
            &info["stun"],
            &info["generation"],
            &info["ports"]
        ),
        (&json!(144), &json!(true), &json!(2), &after["ports"])
    );
    world.stop().await;
}

#[tokio::test]
async fn a_drained_container_stays_while_its_client_does() {
    let world = World::start().await;
    let ada = world.person("ada").await;
    // Nobody was ever in it.
    let empty = running(&ada).await;
    let drained = act(&ada, "drainContainer", &empty, "").await;
    assert_eq!(drained.text("/drainContainer/container/state"), "DRAINING");
    ada.container_in(&empty, "DELETED").await;
    // A client is in it, and stays as long as it may.
    let used = running(&ada).await;
    world.ping(&used).await;
    let drained = act(&ada, "drainContainer", &used, ", patienceSeconds: 2").await;
    let task = drained.text("/drainContainer/task/id");
    ada.task_in(&task, "WAITING").await;
    assert_eq!(ada.container(&used).await["state"], "DRAINING");
    ada.container_in(&used, "DELETED").await;
    assert_eq!(ada.task_in(&task, "SUCCEEDED").await["attempt"], 2);
    world.stop().await;
}

#[tokio::test]
async fn what_a_container_cannot_do_now_names_state_and_event() {
    let world = World::start().await;
    let ada = world.person("ada").await;
    let container = running(&ada).await;
    ada.delete(&container).await;
    ada.container_in(&container, "DELETED").await;
    for (field, more, message) in [
        ("restartContainer", "", "cannot restart while DELETED"),
        ("drainContainer", "", "cannot drain while DELETED"),
        (
            "updateContainer",
            ", dpi: 100",
            "cannot update while DELETED",
        ),
    ] {
        let reply = act(&ada, field, &container, more).await;
        assert_eq!(reply.code(), "ILLEGAL_STATE");
        assert_eq!(reply.0["errors"][0]["message"], message);
    }
    let info = format!("{{ protocolInfo(id: \"{container}\") {{ dpi }} }}");
    let info = ada.ask(&info).await;
    assert_eq!(
        info.0["errors"][0]["message"],
        "cannot connect while DELETED"
    );
    let bob = world.person("bob").await;
    for (field, more) in [
        ("restartContainer", ""),
        ("drainContainer", ""),
        ("updateContainer", ", dpi: 100"),
    ] {
        assert_eq!(act(&bob, field, &container, more).await.code(), "NOT_FOUND");
    }
    let out_of_range = act(&ada, "updateContainer", &container, ", dpi: 1").await;
    assert_eq!(
        (out_of_range.code(), out_of_range.field()),
        ("BAD_USER_INPUT", Some("dpi"))
    );
    world.stop().await;
}

#[tokio::test]
async fn two_deletions_at_once_and_one_during_creation_leave_nothing() {
    let world = World::start().await;
    let ada = world.person("ada").await;
    let container = running(&ada).await;
    let admin = world.admin().await;
    let steer = async |field: &str| {
        let text = format!(
            "mutation {{ {field}(input: {{kind: \"delete_container\"}}) {{ pausedKinds }} }}"
        );
        admin.ask(&text).await.ok(&format!("/{field}"));
    };
    // The first is not over before the second comes.
    steer("pauseTaskKind").await;
    let (one, two) = tokio::join!(ada.delete(&container), ada.delete(&container));
    let task = |reply: &Reply| reply.text("/deleteContainer/task/id");
    assert_eq!(task(&one), task(&two), "they are one");
    steer("resumeTaskKind").await;
    ada.container_in(&container, "DELETED").await;
    let created = ada.create("hello").await;
    ada.delete(&created.container).await;
    ada.container_in(&created.container, "DELETED").await;
    until("the engine is empty", async || {
        use main_webserver::providers::Engine as _;
        world.engine.list().await.unwrap().is_empty().then_some(())
    })
    .await;
    world.stop().await;
}

#[tokio::test]
async fn nobody_has_more_containers_than_one_may() {
    let ground = Ground::new().await.with("CONTAINERS_PER_OWNER", "3");
    let world = World::on(ground, QUICK, &[Role::WebAndWorker]).await;
    let ada = world.person("ada").await;
    let ask = async |field: &str| {
        ada.ask(&format!(
            "mutation {{ {field}(input: {{app: \"hello\", region: \"us-east-1\"}}) {{ container {{ id }} }} }}"
        ))
        .await
    };
    // All at once: they take turns, and three get theirs.
    let asked = futures_util::future::join_all((0..8).map(|_| ask("createContainer"))).await;
    let (got, refused): (Vec<_>, Vec<_>) =
        asked.iter().partition(|reply| reply.0["data"].is_object());
    assert_eq!((got.len(), refused.len()), (3, 5));
    assert!(refused.iter().all(|reply| reply.code() == "QUOTA_EXCEEDED"));
    assert_eq!(ask("assignContainer").await.code(), "QUOTA_EXCEEDED");
    // One that is gone does not count, and somebody else has a quota of their own.
    let gone = got[0].text("/createContainer/container/id");
    ada.container_in(&gone, "RUNNING").await;
    ada.delete(&gone).await;
    ada.container_in(&gone, "DELETED").await;
    ask("createContainer").await.ok("/createContainer");
    world.person("bob").await.create("hello").await;
    world.stop().await;
}

#[tokio::test]
async fn somebodys_container_that_nobody_uses_is_removed() {
    let ground = Ground::new()
        .await
        .with("CONTAINER_IDLE_SECONDS", "30")
        .with("CONTAINER_ABANDONED_SECONDS", "3");
    let world = World::on(ground, QUICK, &[Role::WebAndWorker]).await;
    let ada = world.person("ada").await;
    let (abandoned, used, idle) = (
        running(&ada).await,
        running(&ada).await,
        running(&ada).await,
    );
    world.ping(&used).await;
    world.ping_ago(&idle, 31).await;
    ada.container_in(&idle, "DELETED").await;
    ada.container_in(&abandoned, "DELETED").await;
    assert_eq!(ada.container(&used).await["state"], "RUNNING");
    let admin = world.admin().await;
    let expired = "{ auditEvents(filter: {action: {eq: \"container.expire\"}}) { nodes { actor objectId } } }";
    let expired = admin.ask(expired).await.ok("/auditEvents/nodes");
    assert_eq!(expired.as_array().unwrap().len(), 2);
    assert_eq!(expired[0]["actor"], "system");
    world.stop().await;
}

#[tokio::test]
async fn an_app_has_images_by_release_channel() {
    let world = World::start().await;
    let (ada, admin) = (world.person("ada").await, world.admin().await);
    let put = "mutation { putApp(input: {slug: \"paint\", name: \"Paint\", image: \"paint:1\", images: [{channel: \"beta\", image: \"paint:2\"}], ports: [8080]}) { app { id slug images } } }";
    let app = admin.ask(put).await.ok("/putApp/app");
    assert_eq!(app["images"], json!({ "beta": "paint:2" }));
    let image = async |container: &str| {
        let query = format!("{{ container(id: \"{container}\") {{ image releaseChannel }} }}");
        admin.ask(&query).await.ok("/container")
    };
    let stable = ada.create("paint").await.container;
    assert_eq!(
        image(&stable).await,
        json!({ "image": "paint:1", "releaseChannel": "stable" })
    );
    let id = ada.ask("{ viewer { id } }").await.text("/viewer/id");
    let change = format!(
        "mutation {{ setReleaseChannel(input: {{user: \"{id}\", channel: \"beta\"}}) {{ user {{ releaseChannel }} }} }}"
    );
    assert_eq!(
        admin
            .ask(&change)
            .await
            .text("/setReleaseChannel/user/releaseChannel"),
        "beta"
    );
    let beta = ada.create("paint").await.container;
    assert_eq!(
        image(&beta).await,
        json!({ "image": "paint:2", "releaseChannel": "beta" })
    );
    // A channel without an image of its own has that of everybody.
    let hello = ada.create("hello").await.container;
    assert_eq!(image(&hello).await["image"], "busybox:1.37");
    // What is not on offer any more cannot be asked for; what runs goes on.
    ada.container_in(&beta, "RUNNING").await;
    let off = put.replace("ports: [8080]", "active: false");
    admin.ask(&off).await.ok("/putApp");
    let gone = ada.ask("mutation { createContainer(input: {app: \"paint\", region: \"us-east-1\"}) { task { id } } }").await;
    assert_eq!((gone.code(), gone.field()), ("BAD_USER_INPUT", Some("app")));
    assert_eq!(ada.container(&beta).await["state"], "RUNNING");
    for (wrong, field) in [
        ("slug: \"Paint\", name: \"P\", image: \"p\"", "slug"),
        ("slug: \"p\", name: \"\", image: \"p\"", "name"),
        ("slug: \"p\", name: \"P\", image: \"p q\"", "image"),
        (
            "slug: \"p\", name: \"P\", image: \"p\", ports: [0]",
            "ports",
        ),
        (
            "slug: \"p\", name: \"P\", image: \"p\", cpuMillis: -1",
            "cpuMillis",
        ),
        (
            "slug: \"p\", name: \"P\", image: \"p\", images: [{channel: \"B\", image: \"p\"}]",
            "images",
        ),
    ] {
        let reply = admin
            .ask(&format!(
                "mutation {{ putApp(input: {{{wrong}}}) {{ app {{ id }} }} }}"
            ))
            .await;
        assert_eq!(
            (reply.code(), reply.field()),
            ("BAD_USER_INPUT", Some(field)),
            "{wrong}"
        );
    }
    world.stop().await;
}
