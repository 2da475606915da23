//! Every field at the top, asked for by everybody: what comes of it is what its declaration and the policy say.

use std::collections::BTreeMap;

use main_webserver::{
    domain::policy::Action,
    graphql::access::{Access, Operation, Root, operations},
};
use serde_json::Value;

use super::{
    printed::Printed,
    samples::{About, Hidden, Sample, samples, speaks_for_the_owner},
    scene::{Asking, Scene},
};
use crate::harness::Reply;

#[derive(PartialEq, Debug)]
enum Outcome {
    Reached,
    Empty,
    Refused(String),
}

fn expected(operation: &Operation, about: About, who: &Asking, scene: &Scene) -> Outcome {
    let owner = &scene.owner;
    if let Some(refusal) = operation.access.refusal(who.viewer) {
        return Outcome::Refused(refusal.code().to_owned());
    }
    let action = match operation.access {
        Access::Open => Action::Read,
        Access::Reached(action, _) | Access::Whole(action, _) => action,
        Access::OfHost => Action::Report,
    };
    match about {
        About::Themselves if who.viewer.user().is_none() => Outcome::Empty,
        About::Nothing | About::Themselves => Outcome::Reached,
        About::Row(resource, _)
            if who.reaches(action, resource, owner.viewer.user(), Some(scene.host_id())) =>
        {
            Outcome::Reached
        }
        About::Row(_, Hidden::NotFound) => Outcome::Refused("NOT_FOUND".to_owned()),
        About::Row(_, Hidden::Empty) => Outcome::Empty,
    }
}

/// Whether a value shows a row.
fn shows(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Array(items) => items.iter().any(shows),
        Value::Object(object) => match (object.get("count"), object.get("nodes")) {
            (Some(count), _) => *count != 0,
            (_, Some(nodes)) => {
                let has_rows = shows(nodes);
                assert_eq!(object["totalCount"] != 0, has_rows, "{value}");
                has_rows
            }
            _ => true,
        },
        _ => true,
    }
}

fn outcome(field: &str, reply: &Reply) -> Outcome {
    let value = &reply.0["data"][field];
    if reply.0.get("errors").is_some() {
        assert!(!shows(value), "data beside an error: {}", reply.0);
        return Outcome::Refused(reply.code().to_owned());
    }
    if shows(value) {
        Outcome::Reached
    } else {
        Outcome::Empty
    }
}

async fn ask(scene: &Scene, root: Root, sample: &Sample, who: &Asking, time: usize) -> Reply {
    let text = sample.fill(scene, time).await;
    let field = &sample.field;
    match root {
        Root::Query => who.person.ask(&format!("{{ {field}{text} }}")).await,
        Root::Mutation => {
            let person = if sample.field == "logOut" {
                scene.log_in(who).await
            } else {
                who.person.clone()
            };
            person.ask(&format!("mutation {{ {field}{text} }}")).await
        }
        Root::Subscription => {
            let mut socket = who.person.socket().await;
            socket
                .subscribe(&format!("subscription {{ {field}{text} }}"))
                .await;
            Reply(socket.hear().await.unwrap()["payload"].clone())
        }
    }
}

#[tokio::test]
async fn every_operation_answers_everybody_as_it_is_declared() {
    let printed = Printed::read();
    let operations: BTreeMap<(Root, String), Operation> = operations()
        .into_iter()
        .map(|operation| ((operation.root, operation.name.to_string()), operation))
        .collect();
    let samples: BTreeMap<String, Sample> = samples()
        .into_iter()
        .map(|sample| (sample.field.clone(), sample))
        .collect();
    let scene = Scene::set().await;
    let pause = "mutation { pauseTaskKind(input: {kind: \"demo\"}) { pausedKinds } }";
    scene.admin.person.ask(pause).await.ok("/pauseTaskKind");
    let (mut cells, mut asked, mut wrong) = (0, 0, Vec::new());
    for root in [Root::Query, Root::Mutation, Root::Subscription] {
        for (field, _) in printed.roots(&format!("{root:?}")) {
            let (Some(operation), Some(sample)) = (
                operations.get(&(root, field.to_owned())),
                samples.get(field),
            ) else {
                wrong.push(format!("{root:?}.{field}: no declaration or no sample"));
                continue;
            };
            asked += 1;
            for who in scene.viewers() {
                cells += 1;
                let reply = ask(&scene, root, sample, who, cells).await;
                let (found, right) = (
                    outcome(field, &reply),
                    expected(operation, sample.about, who, &scene),
                );
                if found != right {
                    wrong.push(format!(
                        "{root:?}.{field} by {}: {right:?} expected, {}",
                        who.name, reply.0
                    ));
                }
                let is_stranger = [&scene.nobody, &scene.other]
                    .iter()
                    .any(|it| it.name == who.name);
                let leaks = scene.leaks(&reply.0);
                if is_stranger && !leaks.is_empty() && !speaks_for_the_owner(sample) {
                    wrong.push(format!("{root:?}.{field} by {} shows {leaks:?}", who.name));
                }
            }
        }
    }
    eprintln!(
        "{asked} operations x {} viewers = {cells} cells",
        scene.viewers().len()
    );
    assert!(wrong.is_empty(), "{wrong:#?}");
    scene.world.stop().await;
}
