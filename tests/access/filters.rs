//! Every test of every filter, with the values of somebody else's rows: no list and no count tells another user of them.
//!
//! What is right is known from the administrator's answer: of the rows that fit, those in reach.

use std::collections::BTreeMap;

use main_webserver::graphql::list::noun::{Field, Kind, Link, Noun};
use serde_json::{Value, json};

use super::{
    lists::{Rows, WAYS, Way, entries, refusal},
    printed::Printed,
    scene::{Asking, Scene},
};

/// Lists of one operation: twice as many fields at the top when each is selected twice.
const PACK: usize = 14;

/// The value as it is written in a query; one of the field's kind where the row has none.
fn literal(noun: &Noun, field: &Field, value: &Value) -> String {
    match (&field.kind, value) {
        (Kind::Word(_), Value::String(word)) => word.clone(),
        (_, value) if !value.is_null() => value.to_string(),
        (Kind::Id(prefix), _) => format!("\"{prefix}_{:032x}\"", 1),
        (Kind::Int, _) => "1".to_owned(),
        (Kind::Bool, _) => "true".to_owned(),
        (Kind::Time, _) => "\"2024-01-01T00:00:00Z\"".to_owned(),
        (Kind::Text, _) => "\"a\"".to_owned(),
        _ => panic!("{}.{} has no value to compare with", noun.name, field.name),
    }
}

/// Every test of a field, with the row's value.
fn tests(printed: &Printed, noun: &'static Noun, field: &Field, row: &Value) -> Vec<String> {
    let value = literal(noun, field, &row[field.name]);
    let filter = &printed.inputs[&format!("{}Filter", noun.name)][field.name].of;
    let mut all = Vec::new();
    for test in printed.inputs[filter].keys() {
        let text = value.trim_matches('"');
        let half = text.chars().count() / 2;
        let (head, tail): (String, String) = (
            text.chars().take(half).collect(),
            text.chars().skip(half).collect(),
        );
        let given = match test.as_str() {
            "isNull" => {
                all.push(format!("{{{}: {{isNull: true}}}}", field.name));
                "false".to_owned()
            }
            "in" | "notIn" => format!("[{value}]"),
            "prefix" => format!("\"{head}\""),
            "like" => format!("\"%{tail}\""),
            "ilike" => format!("\"%{}%\"", head.to_uppercase()),
            _ => value.clone(),
        };
        all.push(format!("{{{}: {{{test}: {given}}}}}", field.name));
    }
    all
}

/// The filters of an entity: of its own fields, and of those of the rows it points at, as they are and turned round.
fn filters(
    printed: &Printed,
    rows: &Rows,
    scene: &Scene,
    noun: &'static Noun,
) -> Vec<(String, Across)> {
    let of = |noun: &'static Noun, who: &Asking| -> Vec<String> {
        let asked = noun
            .fields
            .iter()
            .filter(|field| field.is_filtered && field.audience.has(who.viewer));
        asked
            .flat_map(|field| tests(printed, noun, field, rows.chosen(scene, noun)))
            .collect()
    };
    let own = of(noun, &scene.owner).into_iter();
    let mut all: Vec<(String, Across)> = own.map(|filter| (filter, None)).collect();
    for link in noun.links.iter().filter(|link| link.is_filtered) {
        for filter in of((link.noun)(), &scene.owner) {
            let (it, not) = (
                format!("{{{}: {filter}}}", link.name),
                format!("{{not: {{{}: {filter}}}}}", link.name),
            );
            all.extend([(not, Some((link, true))), (it, Some((link, false)))]);
        }
    }
    all
}

/// The link a filter goes across, and whether it is turned round.
type Across = Option<(&'static Link, bool)>;

/// The rows somebody has to be shown: those in reach that fit, and what is not in reach below them is as if it were not there.
fn right(
    rows: &Rows,
    who: &Asking,
    noun: &'static Noun,
    fit: &[Value],
    across: Across,
) -> Vec<Value> {
    let fits = |row: &&Value| {
        let fits = fit.contains(&row["id"]);
        let Some((link, is_turned)) = across else {
            return fits;
        };
        match &row[link.name]["id"] {
            Value::Null => fits,
            there if rows.reaches(who, (link.noun)(), there) => fits,
            _ => is_turned,
        }
    };
    let all = rows.of(noun).iter();
    let seen = all.filter(|row| rows.reaches(who, noun, &row["id"]));
    seen.filter(fits).map(|row| row["id"].clone()).collect()
}

fn ids(value: &Value) -> Vec<Value> {
    let rows = value["nodes"].as_array();
    rows.into_iter()
        .flatten()
        .map(|row| row["id"].clone())
        .collect()
}

/// Every filter with every value, for everybody and in every way: so many that they are asked in four parts.
mod no_filter_tells_of_rows_that_are_out_of_reach {
    #[tokio::test]
    async fn in_the_first_part() {
        super::ask_a_part(0).await;
    }

    #[tokio::test]
    async fn in_the_second_part() {
        super::ask_a_part(1).await;
    }

    #[tokio::test]
    async fn in_the_third_part() {
        super::ask_a_part(2).await;
    }

    #[tokio::test]
    async fn in_the_fourth_part() {
        super::ask_a_part(3).await;
    }
}

/// The packs of filters whose number has this remainder.
async fn ask_a_part(part: usize) {
    let printed = Printed::read();
    let scene = Scene::set().await;
    let rows = Rows::read(&scene, &printed).await;
    let (mut asked, mut wrong) = (0, Vec::new());
    for (entry, noun) in entries() {
        let filters = filters(&printed, &rows, &scene, noun);
        for pack in filters.chunks(PACK).skip(part).step_by(4) {
            let fields = |list: &str, first: &str, below: &str| -> Vec<(String, String, String)> {
                let each = pack.iter().enumerate();
                let field = |(at, (filter, _)): (usize, &(String, Across))| {
                    (
                        format!("q{at}"),
                        format!("{list}({first}filter: {filter})"),
                        below.to_owned(),
                    )
                };
                each.map(field).collect()
            };
            let lists = fields(entry.list, "first: 100, ", "totalCount nodes { id } ");
            let counts = fields(&format!("{}Aggregate", entry.list), "", "count ");
            let all = Way::Compiled.ask(&scene.admin, &lists).await;
            let texts: Vec<&String> = pack.iter().map(|(filter, _)| filter).collect();
            assert!(all.get("errors").is_none(), "{texts:?}: {all}");
            for who in scene.viewers() {
                let mut answers: Vec<(String, Value)> = Vec::new();
                for way in WAYS {
                    answers.push((format!("{way:?}"), way.ask(who, &lists).await));
                }
                answers.push(("counted".to_owned(), Way::Compiled.ask(who, &counts).await));
                if let Some(refusal) = refusal(who, noun) {
                    for (way, answer) in answers {
                        if answer["errors"] != refusal {
                            wrong.push(format!("{} by {}, {way}: {answer}", entry.list, who.name));
                        }
                    }
                    continue;
                }
                for (at, (filter, across)) in pack.iter().enumerate() {
                    let key = format!("q{at}");
                    let fit = ids(&all["data"][&key]);
                    let right = right(&rows, who, noun, &fit, *across);
                    for (way, answer) in &answers {
                        asked += 1;
                        let found = &answer["data"][&key];
                        let is_right = match way.as_str() {
                            "counted" => found[0]["count"] == right.len(),
                            _ => ids(found) == right && found["totalCount"] == right.len(),
                        };
                        if !is_right {
                            wrong.push(format!(
                                "{}({filter}) by {}, {way}: {found} is not {right:?} {}",
                                entry.list, who.name, answer["errors"]
                            ));
                        }
                    }
                }
            }
        }
    }
    assert!(asked > 1000, "only {asked} filters x viewers x ways");
    assert!(
        wrong.is_empty(),
        "{} wrong: {:#?}",
        wrong.len(),
        &wrong[..wrong.len().min(20)]
    );
    scene.world.stop().await;
}

/// Asked one by one for the other user's e-mail, as somebody would who wants to find it out.
#[tokio::test]
async fn the_e_mail_of_somebody_else_cannot_be_guessed_letter_by_letter() {
    let scene = Scene::set().await;
    for (list, own) in [
        ("containers", 1),
        ("tasks", 4),
        ("sessions", 1),
        ("archivedTasks", 1),
    ] {
        for (filter, count) in [
            ("{owner: {email: {prefix: \"a\"}}}", 0),
            ("{owner: {email: {prefix: \"z\"}}}", own),
            ("{not: {owner: {email: {prefix: \"a\"}}}}", own),
            ("{not: {owner: {email: {neq: \"ada@example.com\"}}}}", 0),
            (
                "{or: [{owner: {email: {like: \"ada%\"}}}, {owner: {email: {ilike: \"ADA%\"}}}]}",
                0,
            ),
        ] {
            let query = format!(
                "{{ {list}(filter: {filter}) {{ totalCount }} {list}Aggregate(filter: {filter}) {{ count }} }}"
            );
            let reply = scene.other.person.ask(&query).await;
            assert_eq!(reply.ok(&format!("/{list}/totalCount")), count, "{query}");
            assert_eq!(
                reply.ok(&format!("/{list}Aggregate/0/count")),
                count,
                "{query}"
            );
        }
    }
    scene.world.stop().await;
}

/// Counts, bounds and sums are those of the rows in reach.
#[tokio::test]
async fn measures_are_those_of_what_is_in_reach() {
    let scene = Scene::set().await;
    let rows = Rows::read(&scene, &Printed::read()).await;
    let mut wrong = Vec::new();
    for (entry, noun) in entries() {
        let list = format!("{}Aggregate", entry.list);
        for who in scene
            .viewers()
            .into_iter()
            .filter(|who| refusal(who, noun).is_none())
        {
            let seen = rows.all_seen_by(who, noun, rows.of(noun));
            for field in noun.fields.iter().filter(|field| field.is_measured) {
                let (below, right) = measured(field, &seen);
                let query = format!("{{ {list} {{ count {} {{ {below} }} }} }}", field.name);
                let found = who.person.ask(&query).await.ok(&format!("/{list}/0"));
                if found["count"] != seen.len() || found[field.name] != right {
                    wrong.push(format!("{query} by {}: {found} is not {right}", who.name));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    scene.world.stop().await;
}

fn measured(field: &Field, seen: &[Value]) -> (&'static str, Value) {
    let values = seen.iter().map(|row| &row[field.name]);
    if matches!(field.kind, Kind::Time) {
        let mut texts: Vec<&str> = values.filter_map(Value::as_str).collect();
        texts.sort_unstable_by_key(|text| chrono::DateTime::parse_from_rfc3339(text).unwrap());
        let bounds = json!({ "min": texts.first(), "max": texts.last() });
        return ("min max", bounds);
    }
    let numbers: Vec<i64> = values.filter_map(Value::as_i64).collect();
    let sum = (!numbers.is_empty()).then(|| numbers.iter().sum::<i64>());
    let all = json!({ "min": numbers.iter().min(), "max": numbers.iter().max(), "sum": sum });
    ("min max sum", all)
}

#[tokio::test]
async fn groups_are_those_of_what_is_in_reach() {
    let scene = Scene::set().await;
    let rows = Rows::read(&scene, &Printed::read()).await;
    let mut wrong = Vec::new();
    for (entry, noun) in entries() {
        let list = format!("{}Aggregate", entry.list);
        for who in scene
            .viewers()
            .into_iter()
            .filter(|who| refusal(who, noun).is_none())
        {
            let seen = rows.all_seen_by(who, noun, rows.of(noun));
            for field in noun.fields.iter().filter(|field| field.is_grouped) {
                let is_time = matches!(field.kind, Kind::Time);
                let every = if is_time { ", every: MONTH" } else { "" };
                let by = format!("groupBy: [{{field: {}{every}}}]", field.constant());
                let query = format!("{{ {list}({by}) {{ count group {{ {} }} }} }}", field.name);
                let found = who.person.ask(&query).await.ok(&format!("/{list}"));
                // A time's group is its month.
                let key = |value: &Value| match value.as_str() {
                    Some(text) if is_time => text[..7].to_owned(),
                    _ => value.to_string(),
                };
                let groups = found.as_array().unwrap().iter();
                let groups: BTreeMap<String, u64> = groups
                    .map(|row| {
                        (
                            key(&row["group"][field.name]),
                            row["count"].as_u64().unwrap(),
                        )
                    })
                    .collect();
                let mut right: BTreeMap<String, u64> = BTreeMap::new();
                for row in &seen {
                    *right.entry(key(&row[field.name])).or_default() += 1;
                }
                if groups != right {
                    wrong.push(format!(
                        "{query} by {}: {groups:?} is not {right:?}",
                        who.name
                    ));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    scene.world.stop().await;
}
