//! Every declared field of every entity, for everybody and in every way: in lists, in their orders and pages, by id, below
//! links; and what only administrators see.

use main_webserver::graphql::list::noun::Audience;
use serde_json::{Value, json};

use super::{
    lists::{MOST, Rows, WAYS, Way, entries, guarded_filters, refusal, whole},
    printed::Printed,
    scene::{Asking, Scene},
};

#[tokio::test]
async fn a_list_has_what_is_in_reach_and_nothing_else_in_every_way_it_is_answered() {
    let printed = Printed::read();
    let scene = Scene::set().await;
    let rows = Rows::read(&scene, &printed).await;
    let (mut asked, mut wrong) = (0, Vec::new());
    for (entry, noun) in entries() {
        let words = printed.enums[&format!("{}OrderField", noun.name)].iter();
        let keyed = words.flat_map(|word| {
            ["ASC", "DESC"].map(|way| format!(", orderBy: [{{field: {word}, direction: {way}}}]"))
        });
        for order in std::iter::once(String::new()).chain(keyed) {
            let call = format!("{}(first: {MOST}{order})", entry.list);
            let selection = format!(
                "totalCount pageInfo {{ hasNextPage hasPreviousPage startCursor endCursor }} \
                 edges {{ cursor node {{ id }} }} nodes {{ {} }} ",
                whole(&printed, noun)
            );
            let list = [("it".to_owned(), call, selection)];
            // The order of the rows is what the administrator sees; the rest of the test is who sees which.
            let ordered = Way::Resolved.ask(&scene.admin, &list).await;
            let ordered = ordered["data"]["it"]["nodes"].as_array().unwrap().clone();
            for who in scene.viewers() {
                let right = rows.all_seen_by(who, noun, &ordered);
                let mut first: Option<Value> = None;
                for way in WAYS.into_iter().chain([Way::Watched]) {
                    asked += 1;
                    let answer = way.ask(who, &list).await;
                    let it = &answer["data"]["it"];
                    if answer["errors"] != refusal(who, noun).unwrap_or(Value::Null) {
                        wrong.push(format!(
                            "{}{order} by {}, {way:?}: {answer}",
                            entry.list, who.name
                        ));
                    } else if answer.get("errors").is_none() {
                        let is_right = it["nodes"] == json!(right)
                            && it["totalCount"] == right.len()
                            && it["pageInfo"]["hasNextPage"] == false;
                        if !is_right {
                            wrong.push(format!(
                                "{}{order} by {}, {way:?}: {it:#} is not {right:#?}",
                                entry.list, who.name
                            ));
                        }
                    }
                    if *first.get_or_insert_with(|| answer.clone()) != answer {
                        wrong.push(format!(
                            "{}{order} by {}: {way:?} differs: {answer}",
                            entry.list, who.name
                        ));
                    }
                }
                if refusal(who, noun).is_none() {
                    let page = paged(who, entry.list, &order).await;
                    let ids: Vec<&Value> = right.iter().map(|row| &row["id"]).take(3).collect();
                    if json!(page) != json!(ids) {
                        wrong.push(format!(
                            "{}{order} by {}: pages of {page:?}, not {ids:?}",
                            entry.list, who.name
                        ));
                    }
                }
            }
        }
    }
    eprintln!("{asked} lists with all their fields");
    assert!(wrong.is_empty(), "{wrong:#?}");
    scene.world.stop().await;
}

/// The first three rows, a page each.
async fn paged(who: &Asking, list: &str, order: &str) -> Vec<Value> {
    let mut ids = Vec::new();
    let mut after = String::new();
    for _ in 0..3 {
        let query = format!(
            "{{ {list}(first: 1{order}{after}) {{ nodes {{ id }} pageInfo {{ endCursor hasNextPage }} }} }}"
        );
        let page = who.person.ask(&query).await.ok(&format!("/{list}"));
        ids.extend(
            page["nodes"]
                .as_array()
                .unwrap()
                .iter()
                .map(|row| row["id"].clone()),
        );
        if page["pageInfo"]["hasNextPage"] == false {
            break;
        }
        after = format!(", after: {}", page["pageInfo"]["endCursor"]);
    }
    ids
}

#[tokio::test]
async fn a_row_by_its_id_shows_the_same_to_the_same_people() {
    let printed = Printed::read();
    let scene = Scene::set().await;
    let rows = Rows::read(&scene, &printed).await;
    let mut wrong = Vec::new();
    for (entry, noun) in entries() {
        let (row, all) = (rows.chosen(&scene, noun), whole(&printed, noun));
        let id = &row["id"];
        for who in scene.viewers() {
            let right = rows.seen_by(who, noun, row);
            let on = format!("... on {} {{ {all} }}", noun.name);
            for (field, query) in [
                (
                    entry.one,
                    format!("{{ {}(id: {id}) {{ {all} }} }}", entry.one),
                ),
                (
                    entry.one,
                    format!(
                        "{{ {0}(id: {id}) {{ __typename }} {0}(id: {id}) {{ {all} }} }}",
                        entry.one
                    ),
                ),
                ("node", format!("{{ node(id: {id}) {{ {on} }} }}")),
                (
                    "node",
                    format!("{{ node(id: {id}) {{ id }} node(id: {id}) {{ {on} }} }}"),
                ),
                ("nodes", format!("{{ nodes(ids: [{id}]) {{ {on} }} }}")),
                (
                    "nodes",
                    format!("{{ nodes(ids: [{id}]) {{ id }} nodes(ids: [{id}]) {{ {on} }} }}"),
                ),
            ] {
                let reply = who.person.ask(&query).await;
                let found = &reply.0["data"][field];
                let found = if field == "nodes" { &found[0] } else { found };
                let has_code = reply.0.get("errors").is_some();
                if *found != right || has_code != (right.is_null() && field != "nodes") {
                    wrong.push(format!(
                        "{field} of a {} by {}: {} is not {right}",
                        noun.name, who.name, reply.0
                    ));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    scene.world.stop().await;
}

#[tokio::test]
async fn what_only_administrators_see_is_null_for_others_and_tells_them_nothing() {
    let printed = Printed::read();
    let scene = Scene::set().await;
    let rows = Rows::read(&scene, &printed).await;
    let (mut asked, mut wrong) = (0, Vec::new());
    for (entry, noun) in entries() {
        let guarded = noun
            .fields
            .iter()
            .filter(|field| field.audience == Audience::Admins);
        for field in guarded {
            let value = &rows.chosen(&scene, noun)[field.name];
            assert!(
                !value.is_null(),
                "{}.{} has to have a value to hide",
                noun.name,
                field.name
            );
            // So that a new one is looked at: aggregates and orders by such a field are refused to others.
            for (is_offered, argument, word) in [
                (field.order.is_some(), "orderBy", entry.list.to_owned()),
                (
                    field.is_grouped,
                    "groupBy",
                    format!("{}Aggregate", entry.list),
                ),
            ] {
                let below = if argument == "orderBy" {
                    "totalCount"
                } else {
                    "count"
                };
                let query = format!(
                    "{{ {word}({argument}: [{{field: {}}}]) {{ {below} }} }}",
                    field.constant()
                );
                if is_offered && scene.owner.person.ask(&query).await.code() != "FORBIDDEN" {
                    wrong.push(query);
                }
            }
        }
        for filter in guarded_filters(noun) {
            for (call, below) in [
                (entry.list.to_owned(), "totalCount nodes { id }"),
                (format!("{}Aggregate", entry.list), "count"),
            ] {
                let query = format!("{{ {call}(filter: {filter}) {{ {below} }} }}");
                // Twice, so that the document is known when the others come.
                for _ in 0..2 {
                    scene.admin.person.ask(&query).await.ok(&format!("/{call}"));
                }
                for who in [&scene.nobody, &scene.owner, &scene.other, &scene.host] {
                    asked += 1;
                    let refusal = refusal(who, noun).map(|codes| codes[0].clone());
                    let code = refusal.unwrap_or_else(|| json!("FORBIDDEN"));
                    let reply = who.person.ask(&query).await;
                    if reply.0["errors"][0]["extensions"]["code"] != code
                        || !reply.0["data"].is_null()
                    {
                        wrong.push(format!("{query} by {}: {}", who.name, reply.0));
                    }
                }
            }
        }
    }
    eprintln!("{asked} filters by what is hidden");
    assert!(asked > 0 && wrong.is_empty(), "{wrong:#?}");
    scene.world.stop().await;
}

#[tokio::test]
async fn a_task_of_somebody_else_below_ones_own_is_not_shown() {
    let scene = Scene::set().await;
    let query = "{ tasks { nodes { id children { id } steps { name } logs { message } } } }";
    let mine = scene.other.person.ask(query).await;
    assert_eq!(mine.ok("/tasks/nodes/0/children"), json!([]));
    let all = scene
        .admin
        .person
        .ask(query)
        .await
        .ok("/tasks/nodes")
        .to_string();
    assert!(
        all.contains(&format!(
            "\"children\":[{{\"id\":\"{}\"}}]",
            scene.rows["Task"]
        )),
        "{all}"
    );
    assert_eq!(scene.leaks(&mine.0), Vec::<&str>::new());
    scene.world.stop().await;
}
