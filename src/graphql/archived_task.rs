//! Tasks in the archive.

use super::{
    account::owner,
    list::{
        cell::Storage::{Json, Text, Time, Uuid},
        noun::{Kind, Noun, field, words},
        row::Shown,
    },
    task::TaskState,
};
use crate::{domain::policy::Resource, store::archive};

static ARCHIVED: Noun = Noun {
    name: "ArchivedTask",
    doc: "A task that ended long ago, as the archive keeps it.",
    table: "task_archive",
    resource: Resource::Task,
    owner: Some("owner_id"),
    host: None,
    listed: None,
    fields: &[
        field(
            "id",
            &[("id", Uuid)],
            Kind::Id("task"),
            "The id it had as a task.",
        )
        .filtered(),
        field(
            "kind",
            &[("kind", Text)],
            Kind::Text,
            "What kind of work it was.",
        )
        .filtered()
        .grouped(),
        field(
            "state",
            &[("state", Text)],
            Kind::Word(words::<TaskState>()),
            "How it ended.",
        )
        .filtered()
        .grouped(),
        field(
            "finishedAt",
            &[("finished_at", Time)],
            Kind::Time,
            "When it ended.",
        )
        .filtered()
        .measured()
        .grouped(),
        field(
            "archivedAt",
            &[("archived_at", Time)],
            Kind::Time,
            "When it went into the archive.",
        )
        .filtered()
        .ordered()
        .measured(),
        field(
            "document",
            &[("document", Json)],
            Kind::Json,
            "All of it: its input, result, error, attempts and log.",
        ),
    ],
    links: &[owner("Who asked for it.")],
    many: &[],
};

impl Shown for archive::Entity {
    fn noun() -> &'static Noun {
        &ARCHIVED
    }
}
