//! What is declared of an entity: its fields once, with who sees them and what a list may do by them.
//!
//! Everything else follows from it: the object type, its filter, its orders, its connection, its aggregates, its place
//! under `node`, and the access policy of all of them.

use std::borrow::Cow;

use async_graphql::{
    InputType, OutputType, Value,
    registry::{MetaInputValue, Registry},
    resolver_utils::EnumType,
};

use super::{
    cell::{Cell, Storage},
    row::{Row, Shown},
};
use crate::domain::policy::{Resource, Viewer};

/// An entity people can list.
pub struct Noun {
    /// The name of its type.
    pub name: &'static str,
    pub doc: &'static str,
    pub table: &'static str,
    /// Whose rows somebody reaches is the policy's answer for this.
    pub resource: Resource,
    /// The column with the owner; `None` for what nobody owns.
    pub owner: Option<&'static str>,
    /// The column with the host it is on; `None` for what is on none.
    pub host: Option<&'static str>,
    /// The column that says whether lists have the row.
    pub listed: Option<&'static str>,
    pub fields: &'static [Field],
    pub links: &'static [Link],
    pub many: &'static [Many],
}

/// Who sees a field. For everybody else it is null, and no list can be filtered or ordered by it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Audience {
    /// Whoever sees the row.
    Everyone,
    /// Administrators.
    Admins,
}

impl Audience {
    pub const fn has(self, viewer: Viewer) -> bool {
        match self {
            Self::Everyone => true,
            Self::Admins => matches!(viewer, Viewer::Admin { .. } | Viewer::System),
        }
    }
}

/// A field that is made from columns of its row.
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a question of its own"
)]
pub struct Field {
    pub name: &'static str,
    pub doc: &'static str,
    pub columns: &'static [(&'static str, Storage)],
    pub kind: Kind,
    pub is_nullable: bool,
    pub audience: Audience,
    pub is_filtered: bool,
    /// The column a list is ordered by; not the field's own where another one says the same and has the index.
    pub order: Option<(&'static str, Storage)>,
    /// Whether aggregates have its sum, average and bounds, or for a time its bounds.
    pub is_measured: bool,
    /// Whether aggregates can be grouped by it.
    pub is_grouped: bool,
}

/// What a field's value is.
pub enum Kind {
    /// An id with this prefix.
    Id(&'static str),
    Text,
    Int,
    Bool,
    Time,
    Json,
    /// One of an enum's names, kept in lower case.
    Word(Words),
    /// Anything made from the columns by a function.
    Made(Made),
}

/// An enum's type.
#[derive(Clone, Copy)]
pub struct Words {
    pub name: fn() -> Cow<'static, str>,
    pub register: fn(&mut Registry) -> String,
    pub has: fn(&str) -> bool,
    /// The number each name is kept as, when it is not kept as a word.
    pub ranks: &'static [(i64, &'static str)],
}

/// The words of `T`.
pub const fn words<T: EnumType + InputType>() -> Words {
    Words {
        name: <T as InputType>::type_name,
        register: T::create_type_info,
        has: |name| T::parse(Some(Value::Enum(async_graphql::Name::new(name)))).is_ok(),
        ranks: &[],
    }
}

#[derive(Clone, Copy)]
pub struct Made {
    /// The type as the schema writes it, registered.
    pub register: fn(&mut Registry) -> String,
    pub make: fn(&[Cell]) -> Value,
}

/// What `make` makes, as a `T`.
pub const fn made<T: OutputType>(make: fn(&[Cell]) -> Value) -> Kind {
    Kind::Made(Made {
        register: T::create_type_info,
        make,
    })
}

/// A field whose value is the kind's plain one.
pub const fn field(
    name: &'static str,
    columns: &'static [(&'static str, Storage)],
    kind: Kind,
    doc: &'static str,
) -> Field {
    Field {
        name,
        doc,
        columns,
        kind,
        is_nullable: false,
        audience: Audience::Everyone,
        is_filtered: false,
        order: None,
        is_measured: false,
        is_grouped: false,
    }
}

/// The id of a row, with the prefix of its kind.
pub const fn id(prefix: &'static str) -> Field {
    field("id", &[("id", Storage::Uuid)], Kind::Id(prefix), "Its id.").filtered()
}

/// The version of a row that counts its changes.
pub const fn version() -> Field {
    field(
        "version",
        &[("version", Storage::Big)],
        Kind::Int,
        "Grows by one with every change.",
    )
}

/// When a row came to be; lists are ordered by it by means of the ids.
pub const fn created_at(doc: &'static str) -> Field {
    let columns = &[("created_at", Storage::Time)];
    field("createdAt", columns, Kind::Time, doc)
        .filtered()
        .ordered_by_id()
}

/// When a row changed last.
pub const fn updated_at() -> Field {
    let columns = &[("updated_at", Storage::Time)];
    field("updatedAt", columns, Kind::Time, "When it changed last.")
        .filtered()
        .ordered()
}

impl Field {
    #[must_use]
    pub const fn nullable(mut self) -> Self {
        self.is_nullable = true;
        self
    }
    /// Only administrators see it.
    #[must_use]
    pub const fn for_admins(mut self) -> Self {
        self.audience = Audience::Admins;
        self.is_nullable = true;
        self
    }
    #[must_use]
    pub const fn filtered(mut self) -> Self {
        self.is_filtered = true;
        self
    }
    #[must_use]
    pub const fn ordered(mut self) -> Self {
        self.order = Some(self.columns[0]);
        self
    }
    /// Ordered by the ids, which are made in order of time.
    #[must_use]
    pub const fn ordered_by_id(mut self) -> Self {
        self.order = Some(("id", Storage::Uuid));
        self
    }
    #[must_use]
    pub const fn measured(mut self) -> Self {
        self.is_measured = true;
        self
    }
    #[must_use]
    pub const fn grouped(mut self) -> Self {
        self.is_grouped = true;
        self
    }

    /// The name in the enums of orders and groups: `createdAt` is `CREATED_AT`.
    pub fn constant(&self) -> String {
        constant(self.name)
    }

    /// The column of a field that has one.
    pub const fn column(&self) -> &'static str {
        self.columns[0].0
    }
    pub const fn storage(&self) -> Storage {
        self.columns[0].1
    }
}

pub fn constant(name: &str) -> String {
    let mut constant = String::with_capacity(name.len() + 4);
    for letter in name.chars() {
        if letter.is_ascii_uppercase() {
            constant.push('_');
        }
        constant.push(letter.to_ascii_uppercase());
    }
    constant
}

/// A row of another entity that a row points at.
pub struct Link {
    pub name: &'static str,
    pub doc: &'static str,
    /// The column with the other's id.
    pub column: &'static str,
    pub noun: fn() -> &'static Noun,
    pub is_filtered: bool,
    pub register: fn(&mut Registry) -> String,
    pub register_filter: fn(&mut Registry) -> String,
    pub resolve: super::row::ResolveLink,
}

/// A link to an `E`; null when there is none or it is out of the viewer's reach.
pub const fn link<E: Shown>(name: &'static str, column: &'static str, doc: &'static str) -> Link {
    Link {
        name,
        doc,
        column,
        noun: E::noun,
        is_filtered: false,
        register: <Option<Row<E>> as OutputType>::create_type_info,
        register_filter: <Option<super::filter::Filter<E>> as InputType>::create_type_info,
        resolve: super::row::resolve_link::<E>,
    }
}

impl Link {
    /// Lists can be filtered by what it points at.
    #[must_use]
    pub const fn filtered(mut self) -> Self {
        self.is_filtered = true;
        self
    }
}

/// Rows of another entity that point at a row: a list of their own below each.
pub struct Many {
    pub name: &'static str,
    pub doc: &'static str,
    /// The others' column with the row's id.
    pub column: &'static str,
    pub noun: fn() -> &'static Noun,
    pub register: fn(&mut Registry) -> String,
    pub arguments: fn(&mut Registry) -> [MetaInputValue; 6],
    pub resolve: super::lists::ResolveMany,
}

/// The `E`s whose `column` has the row's id, as far as the viewer reaches them.
pub const fn many<E: Shown>(name: &'static str, column: &'static str, doc: &'static str) -> Many {
    Many {
        name,
        doc,
        column,
        noun: E::noun,
        register: <super::connection::Connection<E> as OutputType>::create_type_info,
        arguments: super::lists::list_arguments::<E>,
        resolve: super::lists::resolve_many::<E>,
    }
}

impl Noun {
    pub fn field(&'static self, name: &str) -> Option<&'static Field> {
        self.fields.iter().find(|field| field.name == name)
    }

    pub fn link(&'static self, name: &str) -> Option<&'static Link> {
        self.links.iter().find(|link| link.name == name)
    }

    pub fn many(&'static self, name: &str) -> Option<&'static Many> {
        self.many.iter().find(|many| many.name == name)
    }

    /// The columns of a record: those of the fields, then those of the links.
    pub fn columns(&'static self) -> impl Iterator<Item = (&'static str, Storage)> {
        let fields = self.fields.iter().flat_map(|field| field.columns.iter());
        let links = self.links.iter().map(|link| (link.column, Storage::Uuid));
        fields.copied().chain(links)
    }

    /// Where the cells of a field begin in a record.
    pub fn place(&'static self, name: &str) -> Option<usize> {
        let mut at = 0;
        for field in self.fields {
            if field.name == name {
                return Some(at);
            }
            at += field.columns.len();
        }
        let link = self.links.iter().position(|link| link.name == name)?;
        Some(at + link)
    }
}
