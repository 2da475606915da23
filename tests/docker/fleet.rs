//! The fleet on a real Docker Engine: many containers coming and going, and everything that is done behind the service's back.

use std::{collections::BTreeSet, process::Stdio, time::Duration};

use rand::{RngExt as _, SeedableRng as _, rngs::StdRng, seq::IndexedRandom as _};
use serde_json::Value;
use tokio::process::Command;

use super::{add_app, docker, ground, listed};
use crate::{
    fleet::pools::{assign, filled, set_pool},
    harness::{
        ADMIN_PASSWORD, Ground, HTTP, Person, process::Process, required, until, until_within,
    },
};
use main_webserver::domain::Keyring;

fn deployment(ground: &Ground) -> String {
    Keyring::new(ground.setting("SECRET_KEY")).deployment()
}

/// The containers the engine has of a deployment, by the ids in their labels.
async fn on_engine(ground: &Ground) -> BTreeSet<String> {
    let filter = format!("label=main-webserver.deployment={}", deployment(ground));
    let format = "{{.Label \"main-webserver.container\"}}";
    let listed = docker(&["ps", "-a", "--filter", &filter, "--format", format]).await;
    listed.lines().map(str::to_owned).collect()
}

/// All containers that are to be on an engine, as the administrator sees them.
async fn wanted(admin: &Person) -> BTreeSet<String> {
    let mut ids = BTreeSet::new();
    let mut after = String::new();
    loop {
        let query = format!(
            "{{ containers(first: 100{after}, filter: {{state: {{notIn: [DELETED, FAILED]}}}}) {{ nodes {{ id state }} pageInfo {{ hasNextPage endCursor }} }} }}"
        );
        let page = admin.ask(&query).await.ok("/containers");
        for row in page["nodes"].as_array().unwrap() {
            ids.insert(row["id"].as_str().unwrap().to_owned());
        }
        if page["pageInfo"]["hasNextPage"] != true {
            return ids;
        }
        after = format!(", after: {}", page["pageInfo"]["endCursor"]);
    }
}

async fn answers(person: &Person, container: &str) -> String {
    until("its published port answers", async || {
        let row = person.container(container).await;
        let port = row["ports"][0]["published"].as_u64()?;
        let page = HTTP.get(format!("http://127.0.0.1:{port}/")).send();
        page.await.ok()?.text().await.ok()
    })
    .await
}

/// What one of the eight does: gets containers, from the pool or made, and gives some up again, in an order of chance.
async fn churn(person: Person, seed: u64, count: usize) -> Vec<String> {
    let mut rng = StdRng::seed_from_u64(seed);
    let (mut got, mut has) = (0, Vec::new());
    while got < count {
        if !has.is_empty() && rng.random_bool(0.4) {
            let at = rng.random_range(0..has.len());
            let container: String = has.swap_remove(at);
            // Half of them wherever their life stands, even before they run.
            if rng.random_bool(0.5) {
                settled(&person, &container).await;
            }
            person.delete(&container).await.ok("/deleteContainer");
            continue;
        }
        got += 1;
        if rng.random_bool(0.5) {
            let reply = assign(&person, "").await;
            has.push(reply.text("/assignContainer/container/id"));
        } else {
            has.push(person.create("hello").await.container);
        }
    }
    has
}

async fn settled(person: &Person, container: &str) {
    until_within(Duration::from_secs(300), "it runs", async || {
        (person.container(container).await["state"] == "RUNNING").then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_containers_come_and_go_and_nothing_is_left_over() {
    let seed = std::env::var("CHURN_SEED").map_or(7, |seed| seed.parse().unwrap());
    eprintln!("CHURN_SEED={seed}");
    let ground = ground().await.with("RECONCILE_SECONDS", "2");
    let web = Process::start(&ground, "web").await;
    let workers = [
        Process::start(&ground, "worker").await,
        Process::start(&ground, "worker").await,
    ];
    let admin = web.person().log_in("admin@localhost", ADMIN_PASSWORD).await;
    set_pool(&admin, 8).await;
    filled(&admin, 8).await;
    let mut people = Vec::new();
    for name in ["ada", "bob", "cyd", "dan", "eve", "fay", "gus", "hal"] {
        people.push(web.person().sign_up(name).await);
    }
    let began = tokio::time::Instant::now();
    let each = people.iter().zip(seed..);
    let each = each.map(|(person, seed)| tokio::spawn(churn(person.clone(), seed, 25)));
    let mut kept = BTreeSet::new();
    for (has, person) in futures_util::future::join_all(each)
        .await
        .into_iter()
        .zip(&people)
    {
        for container in has.unwrap() {
            settled(person, &container).await;
            assert!(kept.insert(container), "nobody has what another has");
        }
    }
    eprintln!("200 containers in {:.1} s", began.elapsed().as_secs_f64());
    filled(&admin, 8).await;
    // Database, API and engine agree.
    let (on_engine_now, wanted_now) = until_within(
        Duration::from_secs(120),
        "engine and database agree",
        async || {
            let (there, wanted) = (on_engine(&ground).await, wanted(&admin).await);
            (there == wanted).then_some((there, wanted))
        },
    )
    .await;
    assert_eq!(wanted_now.len(), kept.len() + 8);
    assert!(kept.is_subset(&on_engine_now));
    let some: Vec<&String> = kept.iter().collect();
    let some: Vec<&&String> = some.sample(&mut StdRng::seed_from_u64(seed), 5).collect();
    for container in some {
        assert!(
            answers(&admin, container)
                .await
                .contains(container.as_str())
        );
    }
    // Everything goes.
    set_pool(&admin, 0).await;
    for person in &people {
        let mine = person.ask("{ containers(first: 100, filter: {state: {notIn: [DELETING, DELETED, FAILED]}}) { nodes { id } } }");
        for row in mine.await.ok("/containers/nodes").as_array().unwrap() {
            person.delete(row["id"].as_str().unwrap()).await;
        }
    }
    until_within(
        Duration::from_secs(300),
        "the engine is empty",
        async || on_engine(&ground).await.is_empty().then_some(()),
    )
    .await;
    until("the database is, too", async || {
        wanted(&admin).await.is_empty().then_some(())
    })
    .await;
    // No task has failed: one that found its container given up meanwhile has been cancelled.
    let failed = "{ tasks(first: 100, filter: {state: {eq: FAILED}}) { nodes { kind error { code message } } } }";
    assert_eq!(
        admin.ask(failed).await.ok("/tasks/nodes"),
        serde_json::json!([])
    );
    drop((workers, web));
    ground.clear().await;
}

#[tokio::test]
async fn what_is_done_behind_our_back_is_put_right() {
    let ground = ground()
        .await
        .with("RECONCILE_SECONDS", "1")
        .with("ORPHAN_SECONDS", "2");
    let serve = Process::start(&ground, "serve").await;
    let ada = serve.person().sign_up("ada").await;
    let created = ada.create("hello").await;
    ada.container_in(&created.container, "RUNNING").await;
    let name = format!("main-{}", created.container);
    // Removed: it is made anew, and its owner sees it.
    let mut socket = ada.socket().await;
    socket
        .subscribe(&format!(
            "subscription {{ containerUpdated(id: \"{}\") {{ state generation }} }}",
            created.container
        ))
        .await;
    let began = tokio::time::Instant::now();
    docker(&["rm", "-f", &name]).await;
    let again = loop {
        let frame = socket.next().await.unwrap()["data"]["containerUpdated"].clone();
        if frame["generation"] == 2 && frame["state"] == "RUNNING" {
            break frame;
        }
    };
    eprintln!(
        "docker rm -f: running again after {:.2} s, {again}",
        began.elapsed().as_secs_f64()
    );
    assert!(
        answers(&ada, &created.container)
            .await
            .contains(&created.container)
    );
    // Killed: it has failed, with its code.
    docker(&["kill", &name]).await;
    let failed = ada.container_in(&created.container, "FAILED").await;
    assert_eq!(failed["failure"]["code"], "EXITED");
    until("what failed is removed", async || {
        listed(&created.container).await.is_empty().then_some(())
    })
    .await;
    // Made by hand, with our labels: nobody knows it and it is removed; another deployment's stays.
    let by_hand = async |deployment: &str, id: u128| {
        let id = format!("container_{id:032x}");
        let (name, container, of) = (
            format!("main-{id}"),
            format!("main-webserver.container={id}"),
            format!("main-webserver.deployment={deployment}"),
        );
        docker(&[
            "run",
            "-d",
            "--name",
            &name,
            "--label",
            &container,
            "--label",
            &of,
            "busybox:1.37",
            "sleep",
            "600",
        ])
        .await;
        id
    };
    let key: u128 = main_webserver::domain::Entropy::from_os()
        .uuid(chrono::DateTime::UNIX_EPOCH)
        .as_u128();
    let ours = by_hand(&deployment(&ground), key).await;
    let theirs = by_hand("another", key + 1).await;
    let began = tokio::time::Instant::now();
    until("it is removed", async || {
        listed(&ours).await.is_empty().then_some(())
    })
    .await;
    eprintln!(
        "made by hand: removed after {:.2} s of grace 2 s",
        began.elapsed().as_secs_f64()
    );
    assert_eq!(listed(&theirs).await.len(), 1);
    docker(&["rm", "-f", &format!("main-{theirs}")]).await;
    drop(serve);
    ground.clear().await;
}

/// The restored rows say that somebody leads, and that lead has to end first.
const LEAD: Duration = Duration::from_secs(60);

/// Runs a program of PostgreSQL on the test's database.
async fn postgres(ground: &Ground, program: &str, arguments: &[&str]) {
    let path = format!("{}/{program}", required("TEST_POSTGRES_BIN"));
    let status = Command::new(path)
        .args(arguments)
        .args(["-d", ground.setting("DATABASE_URL")])
        .stdout(Stdio::null())
        .status();
    assert!(status.await.unwrap().success(), "{program} {arguments:?}");
}

#[tokio::test]
async fn a_database_restored_from_earlier_and_the_engine_come_together() {
    let ground = ground()
        .await
        .with("RECONCILE_SECONDS", "1")
        .with("ORPHAN_SECONDS", "2");
    let serve = Process::start(&ground, "serve").await;
    let ada = serve.person().sign_up("ada").await;
    let mut made = Vec::new();
    for _ in 0..2 {
        let created = ada.create("hello").await;
        ada.container_in(&created.container, "RUNNING").await;
        made.push(created.container);
    }
    let (stays, removed_since) = (made[0].clone(), made[1].clone());
    let dump = ground.folder().join("dump");
    let dump = dump.to_str().unwrap();
    postgres(&ground, "pg_dump", &["-Fc", "-f", dump]).await;
    ada.delete(&removed_since).await;
    ada.container_in(&removed_since, "DELETED").await;
    let made_since = ada.create("hello").await.container;
    ada.container_in(&made_since, "RUNNING").await;
    assert_eq!(serve.end("-TERM").await.code(), Some(0));
    postgres(&ground, "pg_restore", &["--clean", "--if-exists", dump]).await;
    let began = tokio::time::Instant::now();
    let serve = Process::start(&ground, "serve").await;
    let ada = ada.moved_to(serve.address.unwrap());
    until_within(LEAD, "what was made since is removed", async || {
        listed(&made_since).await.is_empty().then_some(())
    })
    .await;
    until_within(LEAD, "what was removed since is there again", async || {
        (listed(&removed_since).await.len() == 1).then_some(())
    })
    .await;
    for container in [&stays, &removed_since] {
        ada.container_in(container, "RUNNING").await;
        assert!(answers(&ada, container).await.contains(container.as_str()));
    }
    eprintln!(
        "a restored database: together after {:.2} s",
        began.elapsed().as_secs_f64()
    );
    assert_eq!(
        on_engine(&ground).await,
        BTreeSet::from([stays.clone(), removed_since.clone()])
    );
    let admin = serve
        .person()
        .log_in("admin@localhost", ADMIN_PASSWORD)
        .await;
    let audit = admin.ask(
        "{ auditEvents(filter: {action: {prefix: \"reconcile.\"}}) { nodes { action objectId } } }",
    );
    let audit: Value = audit.await.ok("/auditEvents/nodes");
    let has = |action: &str, id: &str| {
        audit
            .as_array()
            .unwrap()
            .iter()
            .any(|row| row["action"] == action && row["objectId"] == id)
    };
    assert!(
        has("reconcile.remove", &made_since) && has("reconcile.recreate", &removed_since),
        "{audit}"
    );
    for container in [&stays, &removed_since] {
        ada.delete(container).await;
        ada.container_in(container, "DELETED").await;
    }
    drop(serve);
    ground.clear().await;
}

#[tokio::test]
async fn what_a_container_writes_is_read_from_its_end_and_as_it_comes() {
    let ground = ground().await;
    let serve = Process::start(&ground, "serve").await;
    let talk =
        "echo one; echo two >&2; n=0; while true; do sleep 1; n=$((n + 1)); echo tick $n; done";
    add_app(&ground, "talks", "busybox:1.37", &["sh", "-c", talk]).await;
    let ada = serve.person().sign_up("ada").await;
    let created = ada.create("talks").await;
    ada.container_in(&created.container, "RUNNING").await;
    let id = &created.container;
    let mut socket = ada.socket().await;
    socket
        .subscribe(&format!(
            "subscription {{ containerLogAdded(id: \"{id}\") {{ message isError at }} }}"
        ))
        .await;
    let mut lines: Vec<Value> = Vec::new();
    while !lines.iter().any(|line| line["message"] == "tick 3") {
        let frame = socket.next().await.unwrap();
        lines.extend_from_slice(frame["data"]["containerLogAdded"].as_array().unwrap());
    }
    let said: BTreeSet<(String, bool)> = lines
        .iter()
        .map(|line| {
            let message = line["message"].as_str().unwrap().to_owned();
            (message, line["isError"] == true)
        })
        .collect();
    let right = [
        ("one", false),
        ("two", true),
        ("tick 1", false),
        ("tick 2", false),
        ("tick 3", false),
    ];
    let right = right.map(|(message, is_error)| (message.to_owned(), is_error));
    assert_eq!(
        (said, lines.len()),
        (BTreeSet::from(right), 5),
        "{lines:#?}"
    );
    let last = format!("{{ containerLogs(id: \"{id}\", last: 1) {{ message }} }}");
    let last = ada.ask(&last).await.text("/containerLogs/0/message");
    assert!(last.starts_with("tick "), "{last}");
    ada.delete(id).await;
    ada.container_in(id, "DELETED").await;
    drop(serve);
    ground.clear().await;
}
