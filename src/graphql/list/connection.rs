//! A connection (the Relay cursor connections specification) of rows: as a type, by resolvers, and compiled to text.

use std::{borrow::Cow, marker::PhantomData};

use async_graphql::{
    ContainerType, Context, ContextSelectionSet, ObjectType, OutputType, Positioned, ServerResult,
    Value,
    connection::PageInfo,
    parser::types::{Field as Selected, SelectionSet},
    registry::{MetaTypeId, Registry},
    resolver_utils::{resolve_container, resolve_list},
};

use super::{
    below::Written,
    cell::{self, Cell},
    noun::Noun,
    read::Rows,
    row::{Row, Shown, object, output_field},
    select::{Columns, Fragments, Shape, collect, key_text, sets},
};

/// A page of `E`s for the resolvers.
pub struct Connection<E> {
    edges: Vec<Edge<E>>,
    page_info: (bool, bool),
    total: Option<i64>,
}

/// A row with its place.
pub struct Edge<E> {
    cursor: String,
    node: Row<E>,
    entity: PhantomData<fn() -> E>,
}

impl<E: Shown> Connection<E> {
    /// Takes rows that were read with [`super::row::record_columns`].
    pub fn of(rows: &Rows<'_>) -> Self {
        let edges = rows.each().map(|row| Edge {
            cursor: rows.cursor(row),
            node: Row::from_cells(row.iter().cloned().map(Cell::into_owned).collect()),
            entity: PhantomData,
        });
        Self {
            edges: edges.collect(),
            page_info: (rows.has_previous, rows.has_next),
            total: rows.total,
        }
    }

    fn page_info(&self) -> PageInfo {
        let (has_previous_page, has_next_page) = self.page_info;
        PageInfo {
            has_previous_page,
            has_next_page,
            start_cursor: self.edges.first().map(|edge| edge.cursor.clone()),
            end_cursor: self.edges.last().map(|edge| edge.cursor.clone()),
        }
    }
}

impl<E: Shown> OutputType for Edge<E> {
    fn type_name() -> Cow<'static, str> {
        format!("{}Edge", E::noun().name).into()
    }

    fn create_type_info(registry: &mut Registry) -> String {
        registry.create_output_type::<Self, _>(MetaTypeId::Object, |registry| {
            let node = Row::<E>::create_type_info(registry);
            let fields = [
                output_field("cursor", "String!", "Its place in the list.", []),
                output_field("node", node, "The row.", []),
            ];
            let doc = format!("A `{}` with its place in a list.", E::noun().name);
            object(Self::type_name().into_owned(), doc, fields)
        })
    }

    async fn resolve(
        &self,
        ctx: &ContextSelectionSet<'_>,
        _: &Positioned<Selected>,
    ) -> ServerResult<Value> {
        resolve_container(ctx, self).await
    }
}

impl<E: Shown> ContainerType for Edge<E> {
    async fn resolve_field(&self, ctx: &Context<'_>) -> ServerResult<Option<Value>> {
        match ctx.item.node.name.node.as_str() {
            "cursor" => Ok(Some(Value::from(self.cursor.as_str()))),
            "node" => {
                let ctx_node = ctx.with_selection_set(&ctx.item.node.selection_set);
                self.node.resolve(&ctx_node, ctx.item).await.map(Some)
            }
            _ => Ok(None),
        }
    }
}

impl<E: Shown> ObjectType for Edge<E> {}

impl<E: Shown> OutputType for Connection<E> {
    fn type_name() -> Cow<'static, str> {
        format!("{}Connection", E::noun().name).into()
    }

    fn create_type_info(registry: &mut Registry) -> String {
        registry.create_output_type::<Self, _>(MetaTypeId::Object, |registry| {
            let edges = <Vec<Edge<E>> as OutputType>::create_type_info(registry);
            let nodes = <Vec<Row<E>> as OutputType>::create_type_info(registry);
            let page_info = PageInfo::create_type_info(registry);
            let total = "Rows of the whole list; counted only when asked for.";
            let fields = [
                output_field("edges", edges, "The rows with their places.", []),
                output_field("nodes", nodes, "The rows.", []),
                output_field("pageInfo", page_info, "What lies before and after.", []),
                output_field("totalCount", "Int!", total, []),
            ];
            let doc = format!("A part of a list of `{}`s.", E::noun().name);
            object(Self::type_name().into_owned(), doc, fields)
        })
    }

    async fn resolve(
        &self,
        ctx: &ContextSelectionSet<'_>,
        _: &Positioned<Selected>,
    ) -> ServerResult<Value> {
        resolve_container(ctx, self).await
    }
}

impl<E: Shown> ContainerType for Connection<E> {
    async fn resolve_field(&self, ctx: &Context<'_>) -> ServerResult<Option<Value>> {
        let below = ctx.with_selection_set(&ctx.item.node.selection_set);
        let count = Some(self.edges.len());
        match ctx.item.node.name.node.as_str() {
            "edges" => resolve_list(&below, ctx.item, &self.edges, count)
                .await
                .map(Some),
            "nodes" => {
                let nodes = self.edges.iter().map(|edge| &edge.node);
                resolve_list(&below, ctx.item, nodes, count).await.map(Some)
            }
            "pageInfo" => self.page_info().resolve(&below, ctx.item).await.map(Some),
            "totalCount" => Ok(Some(self.total.map_or(Value::Null, Value::from))),
            _ => Ok(None),
        }
    }
}

impl<E: Shown> ObjectType for Connection<E> {}

/// A page that is written from its rows.
pub struct Compiled {
    noun: &'static Noun,
    pub columns: Columns,
    parts: Vec<(Box<str>, Part)>,
}

enum Part {
    Typename,
    Nodes(Shape),
    Edges(Vec<(Box<str>, EdgePart)>),
    PageInfo(Vec<(Box<str>, Info)>),
    Total,
}

enum EdgePart {
    Typename,
    Cursor,
    Node(Shape),
}

enum Info {
    Typename,
    HasPrevious,
    HasNext,
    Start,
    End,
}

impl Compiled {
    /// Compiles the selections of a connection of `noun`; `None` when one of them is not declared.
    pub fn compile<'a>(
        fragments: &'a Fragments,
        noun: &'static Noun,
        selections: impl IntoIterator<Item = &'a SelectionSet>,
    ) -> Option<Self> {
        let mut columns = Columns::default();
        let mut parts = Vec::new();
        let connection = format!("{}Connection", noun.name);
        for (key, fields) in collect(fragments, &connection, selections)? {
            let part = match fields.first()?.name.node.as_str() {
                "__typename" => Part::Typename,
                "nodes" => Part::Nodes(Shape::compile(
                    fragments,
                    noun,
                    0,
                    sets(&fields),
                    &mut columns,
                )?),
                "totalCount" => Part::Total,
                "edges" => Part::Edges(edge_parts(fragments, noun, sets(&fields), &mut columns)?),
                "pageInfo" => Part::PageInfo(infos(fragments, sets(&fields))?),
                _ => return None,
            };
            parts.push((key_text(key), part));
        }
        Some(Self {
            noun,
            columns,
            parts,
        })
    }

    pub fn wants_rows(&self) -> bool {
        let is_whole = |part: &Part| matches!(part, Part::Typename | Part::Total);
        !self.parts.iter().all(|(_, part)| is_whole(part))
    }

    pub fn wants_total(&self) -> bool {
        self.parts
            .iter()
            .any(|(_, part)| matches!(part, Part::Total))
    }

    /// Writes the page, with the lists below its rows.
    pub fn write(
        &self,
        out: &mut String,
        rows: Option<&Rows<'_>>,
        total: Option<i64>,
        below: &[Written<'_>],
    ) {
        let each = || rows.into_iter().flat_map(Rows::each);
        let cursor = |out: &mut String, row: Option<&[Cell<'_>]>| match (rows, row) {
            (Some(rows), Some(row)) => cell::write_text(out, &rows.cursor(row)),
            _ => out.push_str("null"),
        };
        let flag = |out: &mut String, yes: bool| out.push_str(if yes { "true" } else { "false" });
        object_of(out, &self.parts, |out, part| match part {
            Part::Typename => cell::write_text(out, &format!("{}Connection", self.noun.name)),
            Part::Total => match total {
                Some(total) => out.push_str(&total.to_string()),
                None => out.push_str("null"),
            },
            Part::Nodes(shape) => {
                list_of(out, each(), |out, row| shape.write(out, row, below));
            }
            Part::Edges(parts) => list_of(out, each(), |out, row| {
                object_of(out, parts, |out, part| match part {
                    EdgePart::Typename => {
                        cell::write_text(out, &format!("{}Edge", self.noun.name));
                    }
                    EdgePart::Cursor => cursor(out, Some(row)),
                    EdgePart::Node(shape) => shape.write(out, row, below),
                });
            }),
            Part::PageInfo(parts) => object_of(out, parts, |out, part| match part {
                Info::Typename => out.push_str("\"PageInfo\""),
                Info::HasPrevious => flag(out, rows.is_some_and(|rows| rows.has_previous)),
                Info::HasNext => flag(out, rows.is_some_and(|rows| rows.has_next)),
                Info::Start => cursor(out, each().next()),
                Info::End => cursor(out, each().next_back()),
            }),
        });
    }
}

fn edge_parts<'a>(
    fragments: &'a Fragments,
    noun: &'static Noun,
    selections: impl IntoIterator<Item = &'a SelectionSet>,
    columns: &mut Columns,
) -> Option<Vec<(Box<str>, EdgePart)>> {
    let edge = format!("{}Edge", noun.name);
    let mut parts = Vec::new();
    for (key, fields) in collect(fragments, &edge, selections)? {
        let part = match fields.first()?.name.node.as_str() {
            "__typename" => EdgePart::Typename,
            "cursor" => EdgePart::Cursor,
            "node" => EdgePart::Node(Shape::compile(fragments, noun, 0, sets(&fields), columns)?),
            _ => return None,
        };
        parts.push((key_text(key), part));
    }
    Some(parts)
}

fn infos<'a>(
    fragments: &'a Fragments,
    selections: impl IntoIterator<Item = &'a SelectionSet>,
) -> Option<Vec<(Box<str>, Info)>> {
    let info = |(key, fields): (&str, Vec<&Selected>)| {
        let info = match fields.first()?.name.node.as_str() {
            "__typename" => Info::Typename,
            "hasPreviousPage" => Info::HasPrevious,
            "hasNextPage" => Info::HasNext,
            "startCursor" => Info::Start,
            "endCursor" => Info::End,
            _ => return None,
        };
        Some((key_text(key), info))
    };
    let collected = collect(fragments, "PageInfo", selections)?;
    collected.into_iter().map(info).collect()
}

fn object_of<T>(out: &mut String, parts: &[(Box<str>, T)], mut write: impl FnMut(&mut String, &T)) {
    out.push('{');
    for (index, (key, part)) in parts.iter().enumerate() {
        if index > 0 {
            out.push(',');
        }
        out.push_str(key);
        write(out, part);
    }
    out.push('}');
}

fn list_of<T>(
    out: &mut String,
    items: impl Iterator<Item = T>,
    mut write: impl FnMut(&mut String, T),
) {
    out.push('[');
    for (index, item) in items.enumerate() {
        if index > 0 {
            out.push(',');
        }
        write(out, item);
    }
    out.push(']');
}
