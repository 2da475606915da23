//! From a selection set to what has to be read and how it is written: the columns, the joins, and the shape of the answer.
//!
//! Only what is declared can be compiled. A selection with anything else goes the way of resolvers.

use std::{collections::HashMap, sync::Arc};

use async_graphql::{
    Name, Positioned, Value,
    parser::types::{Field as Selected, FragmentDefinition, Selection, SelectionSet},
};

use super::{
    below::Written,
    cell::{self, Cell, Storage},
    connection::Compiled,
    noun::{Audience, Field, Kind, Link, Many, Noun},
    read::{DEFAULT, MOST},
};

pub type Fragments = HashMap<Name, Positioned<FragmentDefinition>>;

/// The selections of an object, those with the same response key together (the GraphQL specification, 6.3.2,
/// `CollectFields`).
pub type Collected<'a> = Vec<(&'a str, Vec<&'a Selected>)>;

/// Collects the fields that apply to the type `name`; `None` when a fragment is missing.
pub fn collect<'a>(
    fragments: &'a Fragments,
    name: &str,
    sets: impl IntoIterator<Item = &'a SelectionSet>,
) -> Option<Collected<'a>> {
    let mut collected = Collected::new();
    for set in sets {
        add(fragments, name, set, &mut collected)?;
    }
    Some(collected)
}

fn add<'a>(
    fragments: &'a Fragments,
    name: &str,
    set: &'a SelectionSet,
    collected: &mut Collected<'a>,
) -> Option<()> {
    let applies = |condition: &str| condition == name || condition == "Node";
    for selection in &set.items {
        match &selection.node {
            Selection::Field(field) => {
                let key = field.node.response_key().node.as_str();
                match collected.iter_mut().find(|(known, _)| *known == key) {
                    Some((_, fields)) => fields.push(&field.node),
                    None => collected.push((key, vec![&field.node])),
                }
            }
            Selection::InlineFragment(fragment) => {
                let condition = fragment.node.type_condition.as_ref();
                if condition.is_none_or(|condition| applies(&condition.node.on.node)) {
                    add(
                        fragments,
                        name,
                        &fragment.node.selection_set.node,
                        collected,
                    )?;
                }
            }
            Selection::FragmentSpread(spread) => {
                let fragment = &fragments.get(&spread.node.fragment_name.node)?.node;
                if applies(&fragment.type_condition.node.on.node) {
                    add(fragments, name, &fragment.selection_set.node, collected)?;
                }
            }
        }
    }
    Some(())
}

/// The sets below fields of the same key.
pub fn sets<'a>(fields: &[&'a Selected]) -> impl Iterator<Item = &'a SelectionSet> + use<'a> {
    let sets: Vec<_> = fields
        .iter()
        .map(|field| &field.selection_set.node)
        .collect();
    sets.into_iter()
}

/// A response key as it stands in the text: quoted, with its colon.
pub fn key_text(key: &str) -> Box<str> {
    format!("\"{key}\":").into()
}

/// What a statement reads: columns of the list's rows and of rows they point at.
#[derive(Default)]
pub struct Columns {
    /// The joined rows, each by a link of the list's rows (0) or of an earlier join (its place + 1).
    pub joins: Vec<(usize, &'static Link)>,
    /// The row (0 for the list's own, a join's place + 1) and the column.
    pub columns: Vec<(usize, &'static str, Storage)>,
    /// Fields that only administrators see, by the places of their columns.
    pub guarded: Vec<usize>,
    /// The lists below the rows.
    pub nested: Vec<Arc<Nested>>,
}

/// A list below each row.
pub struct Nested {
    pub many: &'static Many,
    /// The place of the id of the row it is below.
    pub at: usize,
    pub compiled: Compiled,
    /// As the document has it, its arguments with their variables.
    pub field: Selected,
}

impl Nested {
    /// Most rows below one.
    fn most(&self) -> usize {
        let counts = ["first", "last"];
        let arguments = self.field.arguments.iter();
        let mut asked = arguments.filter(|(name, _)| counts.contains(&name.node.as_str()));
        let most = match asked
            .next()
            .map(|(_, value)| value.node.clone().into_const())
        {
            None => DEFAULT,
            Some(Some(Value::Number(number))) => {
                let number = number
                    .as_u64()
                    .and_then(|number| u16::try_from(number).ok());
                number.unwrap_or(MOST).min(MOST)
            }
            Some(_) => MOST,
        };
        usize::from(most)
    }
}

impl Columns {
    /// Reads the column; its place.
    pub fn read(&mut self, row: usize, column: &'static str, storage: Storage) -> usize {
        self.columns.push((row, column, storage));
        self.columns.len() - 1
    }

    /// About how many cells a row has, with those of the rows below it.
    pub fn cells(&self) -> usize {
        let below = self.nested.iter();
        let below = below.map(|nested| nested.most() * nested.compiled.columns.cells());
        self.columns.len() + 4 + below.sum::<usize>()
    }

    /// The place of a column everybody may see, if it is read already.
    pub fn place(&self, row: usize, column: &str) -> Option<usize> {
        let mut places = self.columns.iter().enumerate().filter_map(|(at, known)| {
            (known.0 == row && known.1 == column && !self.guarded.contains(&at)).then_some(at)
        });
        places.next()
    }

    /// Reads the columns of a field, one after the other; the place of the first.
    fn read_field(&mut self, row: usize, field: &'static Field) -> usize {
        let is_guarded = field.audience != Audience::Everyone;
        if let ([(column, _)], false) = (field.columns, is_guarded)
            && let Some(at) = self.place(row, column)
        {
            return at;
        }
        let first = self.columns.len();
        for (column, storage) in field.columns {
            let at = self.read(row, column, *storage);
            if is_guarded {
                self.guarded.push(at);
            }
        }
        first
    }

    fn join(&mut self, row: usize, link: &'static Link) -> usize {
        let known = self
            .joins
            .iter()
            .position(|(from, known)| *from == row && known.name == link.name);
        known.map_or_else(
            || {
                self.joins.push((row, link));
                self.joins.len()
            },
            |at| at + 1,
        )
    }
}

/// How an object is written from a row.
pub struct Shape(Vec<(Box<str>, What)>);

enum What {
    Typename(&'static str),
    Field(&'static Field, usize),
    /// A part of what a function makes.
    Picked(&'static Field, usize, Vec<Pick>),
    /// The row a link points at, and the place of a column that is null only when there is none.
    Link(Shape, usize),
    /// The list below the row: its place among all of them, and that of the row's id.
    Many(usize, usize),
}

/// A selected part of a value.
struct Pick {
    key: Box<str>,
    name: Name,
    below: Vec<Pick>,
}

impl Shape {
    /// Compiles the selections of a `noun`; `None` when one of them is not declared.
    pub fn compile<'a>(
        fragments: &'a Fragments,
        noun: &'static Noun,
        row: usize,
        selections: impl IntoIterator<Item = &'a SelectionSet>,
        columns: &mut Columns,
    ) -> Option<Self> {
        let mut items = Vec::new();
        for (key, fields) in collect(fragments, noun.name, selections)? {
            let first = fields.first()?;
            let name = first.name.node.as_str();
            let what = if name == "__typename" {
                What::Typename(noun.name)
            } else if let Some(field) = noun.field(name) {
                let at = columns.read_field(row, field);
                let picks = picks(fragments, &fields)?;
                if picks.is_empty() || !matches!(field.kind, Kind::Made(_)) {
                    What::Field(field, at)
                } else {
                    What::Picked(field, at, picks)
                }
            } else if let Some(many) = noun.many(name) {
                let compiled = Compiled::compile(fragments, (many.noun)(), sets(&fields))?;
                let at = columns.place(row, "id");
                let at = at.unwrap_or_else(|| columns.read(row, "id", Storage::Uuid));
                columns.nested.push(Arc::new(Nested {
                    many,
                    at,
                    compiled,
                    field: (*first).clone(),
                }));
                What::Many(columns.nested.len() - 1, at)
            } else {
                let link = noun.link(name)?;
                let there = columns.join(row, link);
                let shape = Self::compile(fragments, (link.noun)(), there, sets(&fields), columns)?;
                let at = shape.presence().or_else(|| columns.place(there, "id"));
                let at = at.unwrap_or_else(|| columns.read(there, "id", Storage::Uuid));
                What::Link(shape, at)
            };
            items.push((key_text(key), what));
        }
        Some(Self(items))
    }

    /// The place of a column that no row is without.
    fn presence(&self) -> Option<usize> {
        self.0.iter().find_map(|(_, what)| match what {
            What::Field(field, at) => {
                let is_kept = matches!(field.kind, Kind::Id(_) | Kind::Text | Kind::Word(_));
                (is_kept && !field.is_nullable).then_some(*at)
            }
            What::Typename(_) | What::Picked(..) | What::Link(..) | What::Many(..) => None,
        })
    }

    /// Writes the object of a row, with the lists below it.
    pub fn write(&self, out: &mut String, cells: &[Cell], below: &[Written<'_>]) {
        out.push('{');
        for (index, (key, what)) in self.0.iter().enumerate() {
            if index > 0 {
                out.push(',');
            }
            out.push_str(key);
            match what {
                What::Typename(name) => cell::write_text(out, name),
                What::Field(field, at) => cell::write(out, field, &cells[*at..]),
                What::Picked(field, at, picks) => {
                    write_picked(out, &cell::value(field, &cells[*at..]), picks);
                }
                What::Link(_, at) if cells[*at] == Cell::Null => out.push_str("null"),
                What::Link(shape, _) => shape.write(out, cells, below),
                What::Many(list, at) => match (below.get(*list), &cells[*at]) {
                    (Some(list), Cell::Uuid(id)) => list.write(out, *id),
                    _ => out.push_str("null"),
                },
            }
        }
        out.push('}');
    }
}

fn picks(fragments: &Fragments, fields: &[&Selected]) -> Option<Vec<Pick>> {
    // The type of a made value has a name the selection need not know: its parts are plain objects.
    let conditions = fields
        .iter()
        .flat_map(|field| &field.selection_set.node.items);
    if conditions
        .clone()
        .any(|item| !matches!(item.node, Selection::Field(_)))
    {
        return None;
    }
    let collected = collect(fragments, "", sets(fields))?;
    let pick = |(key, fields): (&str, Vec<&Selected>)| {
        let name = fields.first()?.name.node.clone();
        (name.as_str() != "__typename").then_some(())?;
        Some(Pick {
            key: key_text(key),
            name,
            below: picks(fragments, &fields)?,
        })
    };
    collected.into_iter().map(pick).collect()
}

fn write_picked(out: &mut String, value: &async_graphql::Value, picks: &[Pick]) {
    use async_graphql::Value;
    match value {
        Value::List(items) => {
            out.push('[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                write_picked(out, item, picks);
            }
            out.push(']');
        }
        Value::Object(object) if !picks.is_empty() => {
            out.push('{');
            for (index, pick) in picks.iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                out.push_str(&pick.key);
                let part = object.get(&pick.name).unwrap_or(&Value::Null);
                write_picked(out, part, &pick.below);
            }
            out.push('}');
        }
        value => cell::write_value(out, value),
    }
}
