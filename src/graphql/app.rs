//! The catalogue: apps and regions.

use super::list::{
    cell::{
        Cell,
        Storage::{Big, Bool, Int, Json, Text},
    },
    noun::{self, Kind, Noun, created_at, field, made, many},
    row::{Row, Shown},
};
use crate::{
    domain::policy::Resource,
    store::{apps, containers, machines, regions},
};

/// Something a person can start.
pub type App = Row<apps::Entity>;

static APP: Noun = Noun {
    name: "App",
    doc: "Something a person can start. Lists have those on offer.",
    table: "app",
    resource: Resource::App,
    owner: None,
    host: None,
    listed: Some("active"),
    fields: &[
        noun::id("app"),
        field(
            "slug",
            &[("slug", Text)],
            Kind::Text,
            "The name to ask for it by.",
        )
        .filtered()
        .ordered(),
        field("name", &[("name", Text)], Kind::Text, "The name to show.")
            .filtered()
            .ordered(),
        field(
            "category",
            &[("category", Text)],
            Kind::Text,
            "The shelf it stands on.",
        )
        .filtered()
        .ordered()
        .grouped(),
        field(
            "description",
            &[("description", Text)],
            Kind::Text,
            "What it is, in a sentence or two.",
        ),
        field(
            "image",
            &[("image", Text)],
            Kind::Text,
            "The container image it runs from.",
        )
        .filtered(),
        field(
            "images",
            &[("images", Json)],
            Kind::Json,
            "The images of release channels that have one of their own, by channel.",
        ),
        field(
            "ports",
            &[("ports", Json)],
            made::<Vec<u16>>(|cells| match &cells[0] {
                Cell::Json(ports) => super::list::cell::json_value(ports.clone()),
                _ => async_graphql::Value::List(Vec::new()),
            }),
            "The TCP ports it listens on inside its container.",
        ),
        field(
            "cpuMillis",
            &[("cpu_millis", Int)],
            Kind::Int,
            "Its share of processors, in thousandths of one.",
        )
        .filtered()
        .measured(),
        field(
            "memoryMebibytes",
            &[("memory_bytes", Big)],
            made::<i32>(|cells| match &cells[0] {
                Cell::Int(bytes) => async_graphql::Value::from(bytes / (1024 * 1024)),
                _ => async_graphql::Value::Null,
            }),
            "Its memory, in MiB.",
        ),
        field(
            "active",
            &[("active", Bool)],
            Kind::Bool,
            "Whether it is on offer.",
        ),
        created_at("When it came into the catalogue."),
    ],
    links: &[],
    many: &[many::<containers::Entity>(
        "containers",
        "app_id",
        "The containers that run it.",
    )],
};

impl Shown for apps::Entity {
    fn noun() -> &'static Noun {
        &APP
    }
}

/// A place things run in.
pub type Region = Row<regions::Entity>;

static REGION: Noun = Noun {
    name: "Region",
    doc: "A place things run in.",
    table: "region",
    resource: Resource::Region,
    owner: None,
    host: None,
    listed: None,
    fields: &[
        noun::id("region"),
        field(
            "name",
            &[("name", Text)],
            Kind::Text,
            "The name to ask for it by.",
        )
        .filtered()
        .ordered(),
        field(
            "enabled",
            &[("enabled", Bool)],
            Kind::Bool,
            "Whether it takes new containers now.",
        )
        .filtered(),
        field(
            "provider",
            &[("provider", Text)],
            Kind::Text,
            "Its kind of engine; null for the workers' default. For administrators.",
        )
        .for_admins()
        .filtered(),
    ],
    links: &[],
    many: &[
        many::<containers::Entity>("containers", "region_id", "The containers in it."),
        many::<machines::Entity>(
            "virtualMachines",
            "region_id",
            "The virtual machines in it.",
        ),
    ],
};

impl Shown for regions::Entity {
    fn noun() -> &'static Noun {
        &REGION
    }
}
