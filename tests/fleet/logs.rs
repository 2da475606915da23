//! Reading what containers write: the last of it, and more as it comes.

use serde_json::{Value, json};

use super::life::running;
use crate::harness::{Ground, QUICK, World, socket::Socket};
use main_webserver::{app::Role, domain::Id};

async fn lines(socket: &mut Socket, count: usize) -> Vec<Value> {
    let mut all = Vec::new();
    while all.len() < count {
        let frame = socket.next().await.unwrap();
        let portion = frame["data"]["containerLogAdded"].as_array().unwrap();
        all.extend(portion.iter().cloned());
    }
    all
}

fn messages(lines: &[Value]) -> Vec<&str> {
    lines
        .iter()
        .map(|line| line["message"].as_str().unwrap())
        .collect()
}

#[tokio::test]
async fn a_log_is_read_from_its_end_and_as_it_grows() {
    let world = World::on(Ground::new().await, QUICK, &[Role::WebAndWorker]).await;
    let ada = world.person("ada").await;
    let container = running(&ada).await;
    let id = Id::parse(&container).unwrap();
    let last = async |count: usize| {
        let query =
            format!("{{ containerLogs(id: \"{container}\", last: {count}) {{ message }} }}");
        let lines = ada.ask(&query).await.ok("/containerLogs");
        lines
            .as_array()
            .unwrap()
            .iter()
            .map(|line| line["message"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(last(10).await, ["up", "ready"]);
    assert_eq!(last(1).await, ["ready"]);
    let mut socket = ada.socket().await;
    socket
        .subscribe(&format!(
            "subscription {{ containerLogAdded(id: \"{container}\") {{ cursor message isError }} }}"
        ))
        .await;
    assert_eq!(messages(&lines(&mut socket, 2).await), ["up", "ready"]);
    for number in 0..1200 {
        world.engine.write(id, &format!("line {number}"));
        // Some are read one by one, and some are more than are read at once.
        if number < 50 {
            crate::harness::nap(5).await;
        }
    }
    let more = lines(&mut socket, 1200).await;
    let right: Vec<String> = (0..1200).map(|number| format!("line {number}")).collect();
    assert_eq!(messages(&more), right, "every line once, in order");
    // Somebody who lost the connection goes on after the last line they have.
    let cursor = more[1189]["cursor"].as_str().unwrap();
    let mut again = ada.socket().await;
    again.subscribe(&format!("subscription {{ containerLogAdded(id: \"{container}\", after: \"{cursor}\") {{ message }} }}")).await;
    assert_eq!(messages(&lines(&mut again, 10).await), right[1190..]);
    // Nobody else reads it.
    let bob = world.person("bob").await;
    let theirs = format!("{{ containerLogs(id: \"{container}\") {{ message }} }}");
    assert_eq!(bob.ask(&theirs).await.code(), "NOT_FOUND");
    for (wrong, field) in [("last: 0", "last"), ("last: 501", "last")] {
        let reply = ada
            .ask(&format!(
                "{{ containerLogs(id: \"{container}\", {wrong}) {{ message }} }}"
            ))
            .await;
        assert_eq!(
            (reply.code(), reply.field()),
            ("BAD_USER_INPUT", Some(field))
        );
    }
    let mut wrong = ada.socket().await;
    wrong
        .subscribe(&format!(
            "subscription {{ containerLogAdded(id: \"{container}\", after: \"x\") {{ message }} }}"
        ))
        .await;
    let refused = wrong.hear().await.unwrap().to_string();
    assert!(refused.contains("BAD_USER_INPUT"), "{refused}");
    // A restarted one goes on.
    super::life::act(&ada, "restartContainer", &container, "")
        .await
        .ok("/restartContainer");
    assert_eq!(messages(&lines(&mut socket, 2).await), ["up", "ready"]);
    assert_eq!(json!(last(2).await), json!(["up", "ready"]));
    world.stop().await;
}
