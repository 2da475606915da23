//! Random filters, orders and pages against the model, each answered both ways.

use chrono::TimeDelta;
use main_webserver::{
    app::Role,
    domain::entropy::secret_bytes,
    store::{accounts, apps, containers, regions},
};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng, seq::IndexedRandom as _};
use sea_orm::{
    ActiveModelTrait as _, ActiveValue::Set, ColumnTrait as _, EntityTrait as _, QueryFilter as _,
    QuerySelect as _,
};
use serde_json::{Value, json};
use uuid::Uuid;

use super::model::{Filter, Key, Row, STATES, sort, text};
use crate::harness::{Ground, Person, QUICK, World};

const ROWS: usize = 150;
pub const ROUNDS: usize = 150;

const COMPILED: &str = "query($f: ContainerFilter, $o: [ContainerOrder!], $n: Int, $a: String, $l: Int, $b: String) {
    page: containers(filter: $f, orderBy: $o, first: $n, after: $a, last: $l, before: $b) {
        totalCount pageInfo { hasNextPage hasPreviousPage startCursor endCursor }
        edges { cursor node { ...parts } } nodes { id }
    } }
    fragment parts on Container { __typename id state dpi provider updatedAt runningAt failure { code } ports { inside }
        app { name slug } owner { email } region { name } }";

/// The same twice under one key, which is not compiled.
fn by_resolvers() -> String {
    let page =
        "page: containers(filter: $f, orderBy: $o, first: $n, after: $a, last: $l, before: $b)";
    COMPILED.replacen(page, &format!("{page} {{ nodes {{ id }} }} {page}"), 1)
}

/// A service that leaves rows as they are, though nothing works on them.
pub async fn alone() -> World {
    let ground = Ground::new().await.with("RECONCILE", "off");
    World::on(ground, QUICK, &[Role::WebAndWorker]).await
}

/// Fills the tables; the rows, and the people who own them.
pub async fn world(node: &World, rng: &mut StdRng) -> (Vec<Row>, Vec<Person>) {
    let store = node.store();
    let people = vec![node.person("ada").await, node.person("bob").await];
    let mut owners = Vec::new();
    for name in ["ada", "bob"] {
        let found = accounts::Entity::find()
            .filter(accounts::Column::Name.eq(name))
            .one(store.db())
            .await;
        owners.push(found.unwrap().unwrap().id);
    }
    let regions: Vec<Uuid> = regions::Entity::find()
        .select_only()
        .column(regions::Column::Id)
        .into_tuple()
        .all(store.db())
        .await
        .unwrap();
    let mut apps = Vec::new();
    for number in 0..12 {
        let mut tx = store.begin().await.unwrap();
        let app = apps::NewApp {
            slug: format!("app-{number}"),
            name: text(rng),
            category: "any".to_owned(),
            description: String::new(),
            image: "none".to_owned(),
            images: std::collections::BTreeMap::new(),
            command: Vec::new(),
            ports: Vec::new(),
            cpu_millis: 1,
            memory_bytes: 1,
        };
        apps.push(apps::insert(&mut tx, app).await.unwrap());
        tx.commit().await.unwrap();
    }
    let providers: Vec<String> = (0..6).map(|_| text(rng)).collect();
    let begin = store.now() - TimeDelta::days(1);
    // Few different times, so that there are equals, with fractions of different lengths.
    let fractions = [0, 500_000, 123_456].into_iter().cycle();
    let times: Vec<_> = (0..12)
        .zip(fractions)
        .map(|(at, micros)| begin + TimeDelta::seconds(at / 3) + TimeDelta::microseconds(micros))
        .map(|at| chrono::SubsecRound::trunc_subsecs(at, 6))
        .collect();
    let mut rows = Vec::new();
    for _ in 0..ROWS {
        let app = apps.choose(rng).unwrap();
        let row = Row {
            id: store.new_id::<()>().uuid(),
            app_name: app.name.clone(),
            owner: rng.random_range(0..2),
            state: STATES.choose(rng).unwrap(),
            dpi: rng.random_range(90..110),
            provider: rng
                .random_bool(0.7)
                .then(|| providers.choose(rng).unwrap().clone()),
            updated_at: *times.choose(rng).unwrap(),
            running_at: rng.random_bool(0.6).then(|| *times.choose(rng).unwrap()),
        };
        let model = containers::ActiveModel {
            id: Set(row.id),
            owner_id: Set(Some(owners[row.owner])),
            app_id: Set(app.id),
            region_id: Set(*regions.choose(rng).unwrap()),
            state: Set(row.state.to_lowercase()),
            version: Set(1),
            dpi: Set(row.dpi),
            provider: Set(row.provider.clone()),
            handle: Set(None),
            ip: Set(None),
            ports: Set(containers::PortMap::default()),
            failure_code: Set(None),
            failure_reason: Set(None),
            created_at: Set(begin),
            updated_at: Set(row.updated_at),
            running_at: Set(row.running_at),
            ended_at: Set(None),
            cluster_id: Set(None),
            host_id: Set(None),
            endpoint: Set(None),
            node: Set(None),
            generation: Set(1),
            stun: Set(false),
            release_channel: Set("stable".to_owned()),
            image: Set(None),
            cpu_millis: Set(0),
            memory_bytes: Set(0),
            assigned_at: Set(Some(begin)),
            last_ping_at: Set(None),
            draining_at: Set(None),
        };
        model.insert(store.db()).await.unwrap();
        rows.push(row);
    }
    (rows, people)
}

pub fn id(row: &Row) -> String {
    format!("container_{}", row.id.simple())
}

/// A seed, or the one that is asked for.
pub fn random() -> (u64, StdRng) {
    let seed = std::env::var("LIST_SEED").map_or_else(
        |_| u64::from_le_bytes(secret_bytes()),
        |seed| seed.parse().unwrap(),
    );
    (seed, StdRng::seed_from_u64(seed))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_is_what_the_model_says_by_either_way() {
    let (seed, mut rng) = random();
    let node = alone().await;
    let (rows, mut people) = world(&node, &mut rng).await;
    people.push(node.admin().await);
    let mut not_empty = 0;
    for round in 0..ROUNDS {
        let filter = Filter::random(&mut rng, &rows, 3);
        let keys: Vec<Key> = (0..rng.random_range(0..=3))
            .map(|_| Key::random(&mut rng))
            .collect();
        let viewer = rng.random_range(0..people.len());
        let mut expected: Vec<&Row> = rows
            .iter()
            .filter(|row| (viewer == 2 || row.owner == viewer) && filter.fits(row))
            .collect();
        sort(&mut expected, &keys);
        let expected: Vec<String> = expected.into_iter().map(id).collect();
        not_empty += usize::from(!expected.is_empty());
        let told = format!("LIST_SEED={seed}, round {round}: {filter:?} {keys:?}");
        let size = rng.random_range(7..60);
        let is_backward = rng.random();
        let found = walk(
            &people[viewer],
            &filter,
            &keys,
            size,
            is_backward,
            expected.len(),
            &told,
        )
        .await;
        assert_eq!(found, expected, "{told}");
    }
    assert!(
        not_empty > ROUNDS / 4,
        "most filters were empty: {not_empty}"
    );
    node.stop().await;
}

/// Reads a whole list page by page; the ids in the list's order.
async fn walk(
    viewer: &Person,
    filter: &Filter,
    keys: &[Key],
    size: usize,
    is_backward: bool,
    total: usize,
    told: &str,
) -> Vec<String> {
    let keys: Vec<Value> = keys.iter().map(|key| key.json()).collect();
    let mut found = Vec::new();
    let mut cursor = Value::Null;
    loop {
        let mut asked = json!({"f": filter.json(), "o": keys});
        let (count, place) = if is_backward { ("l", "b") } else { ("n", "a") };
        asked[count] = json!(size);
        asked[place] = cursor;
        let compiled = viewer.send(COMPILED, asked.clone()).await;
        let resolved = viewer.send(&by_resolvers(), asked).await;
        let page = compiled.ok("/page");
        assert_eq!(page, resolved.ok("/page"), "{told}");
        assert_eq!(page["totalCount"], total, "{told}");
        let edges = page["edges"].as_array().unwrap();
        let ids: Vec<String> = edges
            .iter()
            .map(|edge| edge["node"]["id"].as_str().unwrap().to_owned())
            .collect();
        let info = &page["pageInfo"];
        assert_eq!(
            info["startCursor"],
            edges
                .first()
                .map_or(Value::Null, |edge| edge["cursor"].clone())
        );
        assert_eq!(
            info["endCursor"],
            edges
                .last()
                .map_or(Value::Null, |edge| edge["cursor"].clone())
        );
        if is_backward {
            found.splice(0..0, ids);
        } else {
            found.extend(ids);
        }
        let (more, next) = if is_backward {
            ("hasPreviousPage", "startCursor")
        } else {
            ("hasNextPage", "endCursor")
        };
        if info[more] != json!(true) {
            return found;
        }
        assert!(found.len() <= total, "{told}");
        cursor = info[next].clone();
    }
}
