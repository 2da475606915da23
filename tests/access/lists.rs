//! The ways a list is answered, and what each has to answer: what the administrator sees, without what is not in reach.

use std::{collections::BTreeMap, fmt::Write as _};

use main_webserver::{
    domain::{
        Id,
        id::{Host, User},
        policy::{Action, Scope, Viewer, scope},
    },
    graphql::list::{
        lists::{Entry, LISTS},
        noun::{Audience, Many, Noun},
    },
};
use serde_json::{Value, json};

use super::{
    printed::Printed,
    scene::{Asking, Scene},
};

/// The ways to one answer.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Way {
    /// A text written from the rows of one statement.
    Compiled,
    /// The same without the executor, once a document is known to be valid.
    Ready,
    /// Field by field: two selections under one key cannot be a text.
    Resolved,
    /// The first frame of a subscription, which has one list.
    Watched,
}

pub const WAYS: [Way; 3] = [Way::Compiled, Way::Ready, Way::Resolved];

impl Way {
    /// The operation that selects lists, each with key, field, arguments and selection, in this way.
    pub fn write(self, fields: &[(String, String, String)]) -> String {
        let mut text = String::from(match self {
            // `__typename` at the top keeps the executor in it.
            Self::Compiled | Self::Resolved => "{ __typename ",
            Self::Ready => "{ ",
            Self::Watched => "subscription { ",
        });
        for (key, call, selection) in fields {
            if self == Self::Resolved {
                write!(text, "{key}: {call} {{ __typename }} ").unwrap();
            }
            write!(text, "{key}: {call} {{ __typename {selection}}} ").unwrap();
        }
        text.push('}');
        text
    }

    /// The answer in this way.
    pub async fn ask(self, who: &Asking, fields: &[(String, String, String)]) -> Value {
        let text = self.write(fields);
        if self == Self::Ready {
            who.person.ask(&text).await;
        }
        let mut answer = if self == Self::Watched {
            let mut socket = who.person.socket().await;
            socket.subscribe(&text).await;
            socket.hear().await.unwrap()["payload"].clone()
        } else {
            who.person.ask(&text).await.0
        };
        if let Some(data) = answer["data"].as_object_mut() {
            data.remove("__typename");
        }
        if let Some(errors) = answer.get_mut("errors").and_then(Value::as_array_mut) {
            for error in errors {
                *error = error["extensions"]["code"].clone();
            }
        }
        answer
    }
}

/// More rows than there are, and few enough for all their fields to be within what one request may cost.
pub const MOST: usize = 60;
/// Most rows of a list below a row.
const BELOW: usize = 2;

/// Selects every declared field of an entity, those of the rows it points at and the lists below it too.
pub fn whole(printed: &Printed, noun: &'static Noun) -> String {
    let mut text = plain(printed, noun);
    for many in noun.many {
        let name = many.name;
        write!(
            text,
            "{name}(first: {BELOW}) {{ totalCount nodes {{ id }} }} "
        )
        .unwrap();
    }
    for link in noun.links {
        let there = plain(printed, (link.noun)());
        write!(text, "{} {{ {there}}} ", link.name).unwrap();
    }
    text
}

fn plain(printed: &Printed, noun: &'static Noun) -> String {
    let mut text = String::from("__typename ");
    for field in noun.fields {
        let below = printed.selection(&printed.outputs[noun.name][field.name].of, 1);
        text.push_str(field.name);
        if below.is_empty() {
            text.push(' ');
        } else {
            write!(text, " {{ {below}}} ").unwrap();
        }
    }
    text
}

/// Every row there is, as the administrator sees it.
pub struct Rows(BTreeMap<&'static str, Vec<Value>>);

impl Rows {
    pub async fn read(scene: &Scene, printed: &Printed) -> Self {
        let mut rows = BTreeMap::new();
        for entry in &LISTS {
            let noun = (entry.noun)();
            let call = format!("{}(first: {MOST})", entry.list);
            let fields = [(
                "it".to_owned(),
                call,
                format!("nodes {{ {} }} ", whole(printed, noun)),
            )];
            let answer = Way::Resolved.ask(&scene.admin, &fields).await;
            let nodes = answer["data"]["it"]["nodes"].as_array();
            let nodes = nodes
                .unwrap_or_else(|| panic!("{}: {answer}", entry.list))
                .clone();
            assert!(!nodes.is_empty() && nodes.len() < MOST, "{}", entry.list);
            rows.insert(noun.name, nodes);
        }
        Self(rows)
    }

    pub fn of(&self, noun: &Noun) -> &[Value] {
        &self.0[noun.name]
    }

    /// The row of the scene that a noun's tests are about.
    pub fn chosen(&self, scene: &Scene, noun: &Noun) -> &Value {
        self.find(noun, &scene.rows[noun.name]).unwrap()
    }

    fn find(&self, noun: &Noun, id: &str) -> Option<&Value> {
        self.of(noun).iter().find(|row| row["id"] == id)
    }

    fn owner(&self, noun: &Noun, id: &str) -> Option<Id<User>> {
        let row = self.find(noun, id)?;
        let owner = if noun.owner == Some("id") {
            &row["id"]
        } else {
            &row["owner"]["id"]
        };
        Id::parse(owner.as_str()?)
    }

    fn host(&self, noun: &Noun, id: &str) -> Option<Id<Host>> {
        let row = self.find(noun, id)?;
        let host = match noun.host? {
            "id" => &row["id"],
            _ => &row["host"]["id"],
        };
        Id::parse(host.as_str()?)
    }

    pub fn reaches(&self, who: &Asking, noun: &Noun, id: &Value) -> bool {
        let id = id.as_str().unwrap();
        who.reaches(
            Action::Read,
            noun.resource,
            self.owner(noun, id),
            self.host(noun, id),
        )
    }

    /// The row as somebody sees it; null out of their reach.
    pub fn seen_by(&self, who: &Asking, noun: &'static Noun, row: &Value) -> Value {
        if row.is_null() || !self.reaches(who, noun, &row["id"]) {
            return Value::Null;
        }
        let mut row = row.clone();
        for field in noun
            .fields
            .iter()
            .filter(|field| !field.audience.has(who.viewer))
        {
            row[field.name] = Value::Null;
        }
        for link in noun.links {
            if let Some(there) = row.get(link.name) {
                row[link.name] = self.seen_by(who, (link.noun)(), there);
            }
        }
        for many in noun.many {
            if row.get(many.name).is_some() {
                row[many.name] = self.below(who, many, &row["id"]);
            }
        }
        row
    }

    /// What somebody sees of a list below a row: the newest of those that have its id.
    fn below(&self, who: &Asking, many: &Many, above: &Value) -> Value {
        let noun = (many.noun)();
        let link = noun.links.iter().find(|link| link.column == many.column);
        let field = noun
            .fields
            .iter()
            .find(|field| field.column() == many.column);
        let points_at = |row: &&Value| match (link, field) {
            (Some(link), _) => row[link.name]["id"] == *above,
            (None, Some(field)) => row[field.name] == *above,
            (None, None) => panic!("{}.{} is not shown", noun.name, many.column),
        };
        let all = self.of(noun).iter().filter(points_at);
        let seen = all.filter(|row| self.reaches(who, noun, &row["id"]));
        let mut ids: Vec<&str> = seen.map(|row| row["id"].as_str().unwrap()).collect();
        ids.sort_unstable_by(|a, b| b.cmp(a));
        let nodes: Vec<Value> = ids
            .iter()
            .take(BELOW)
            .map(|id| json!({ "id": id }))
            .collect();
        json!({ "totalCount": ids.len(), "nodes": nodes })
    }

    /// What somebody sees of rows in this order.
    pub fn all_seen_by(&self, who: &Asking, noun: &'static Noun, rows: &[Value]) -> Vec<Value> {
        let seen = rows.iter().map(|row| self.seen_by(who, noun, row));
        seen.filter(|row| !row.is_null()).collect()
    }
}

/// What somebody is told who has to log in before any row of the entity can be shown.
pub fn refusal(who: &Asking, noun: &Noun) -> Option<Value> {
    let scope = scope(who.viewer, Action::Read, noun.resource);
    match who.viewer {
        Viewer::Anonymous if scope == Scope::Nothing => Some(json!(["UNAUTHENTICATED"])),
        Viewer::Host { .. } if scope == Scope::Nothing => Some(json!(["FORBIDDEN"])),
        _ => None,
    }
}

/// Fields only administrators see, of the entity and of those it can be filtered by: as filters.
pub fn guarded_filters(noun: &'static Noun) -> Vec<String> {
    let own = |noun: &'static Noun| {
        let fields = noun
            .fields
            .iter()
            .filter(|field| field.audience == Audience::Admins);
        fields
            .filter(|field| field.is_filtered)
            .map(|field| format!("{{{}: {{isNull: false}}}}", field.name))
    };
    let mut filters: Vec<String> = own(noun).collect();
    for link in noun.links.iter().filter(|link| link.is_filtered) {
        filters.extend(own((link.noun)()).map(|filter| format!("{{{}: {filter}}}", link.name)));
    }
    let nested = filters.iter().flat_map(|filter| {
        [
            format!("{{not: {filter}}}"),
            format!("{{or: [{{}}, {{and: [{filter}]}}]}}"),
        ]
    });
    let nested: Vec<String> = nested.collect();
    filters.extend(nested);
    filters
}

pub fn entries() -> impl Iterator<Item = (&'static Entry, &'static Noun)> {
    LISTS.iter().map(|entry| (entry, (entry.noun)()))
}
