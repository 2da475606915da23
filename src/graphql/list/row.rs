//! A row as an object of the schema: what is declared of it, and the fields an entity resolves by itself.

use std::{borrow::Cow, collections::HashMap, marker::PhantomData, str::FromStr as _};

use async_graphql::{
    ContainerType, Context, ContextSelectionSet, ID, Name, ObjectType, OutputType, Positioned,
    ServerResult, Value,
    dataloader::{DataLoader, Loader},
    indexmap::IndexMap,
    parser::types::{Field as Selected, SelectionSet},
    registry::{
        CacheControl, Deprecation, MetaField, MetaInputValue, MetaType, MetaTypeId, MetaTypeName,
        Registry,
    },
    resolver_utils::resolve_container,
};
use chrono::{DateTime, Utc};
use futures_util::future::BoxFuture;
use sea_orm::{EntityTrait, ModelTrait as _};
use uuid::Uuid;

use super::{
    super::viewer,
    cell::{self, Cell, Storage},
    noun::{Audience, Field, Kind, Noun},
    read::by_ids,
    select::{Columns, collect, sets},
};
use crate::{domain::policy::Viewer, error::AppError, graphql::error::Coded, store::Store};

/// The fields of a type.
pub type MetaFields = IndexMap<String, MetaField>;
/// Resolves the row a link points at.
pub type ResolveLink =
    for<'a> fn(&'a Context<'a>, Uuid) -> BoxFuture<'a, ServerResult<Option<Value>>>;

/// An entity with its declaration.
pub trait Shown: EntityTrait<Model: Send + Sync> + 'static {
    fn noun() -> &'static Noun;

    /// The fields it resolves by itself, because they take arguments or more statements.
    fn rest(_: &mut Registry) -> MetaFields {
        MetaFields::new()
    }

    /// Resolves one of them.
    fn resolve_rest<'a>(
        _: &'a Record,
        _: &'a Context<'a>,
    ) -> BoxFuture<'a, ServerResult<Option<Value>>> {
        Box::pin(std::future::ready(Ok(None)))
    }
}

/// The fields of the object type `T`, for [`Shown::rest`].
pub fn fields_of<T: ObjectType>(registry: &mut Registry) -> MetaFields {
    match registry.create_fake_output_type::<T>() {
        MetaType::Object { fields, .. } => fields,
        _ => MetaFields::new(),
    }
}

/// The cells of a row, in the order of [`Noun::columns`].
#[derive(Clone, Debug)]
pub struct Record(Vec<Cell<'static>>);

impl Record {
    /// The row's id, which is the first of every entity's fields.
    pub fn id(&self) -> Uuid {
        match self.0.first() {
            Some(Cell::Uuid(id)) => *id,
            _ => Uuid::nil(),
        }
    }

    fn of<E: Shown>(model: &E::Model) -> Self {
        let cell = |(column, _): (&str, Storage)| {
            E::Column::from_str(column).map_or(Cell::Null, |column| Cell::of(model.get(column)))
        };
        Self(E::noun().columns().map(cell).collect())
    }
}

/// The columns of records.
pub fn record_columns(noun: &'static Noun) -> Columns {
    let mut columns = Columns::default();
    for (column, storage) in noun.columns() {
        columns.read(0, column, storage);
    }
    columns
}

/// A row of `E` as an object.
pub struct Row<E>(Record, PhantomData<fn() -> E>);

impl<E: Shown> Row<E> {
    pub fn of(model: &E::Model) -> Self {
        Self::from_record(Record::of::<E>(model))
    }

    /// Takes the first cells of what was read with [`record_columns`].
    pub fn from_cells(mut cells: Vec<Cell<'static>>) -> Self {
        cells.truncate(E::noun().columns().count());
        Self::from_record(Record(cells))
    }

    const fn from_record(record: Record) -> Self {
        Self(record, PhantomData)
    }
}

/// A field of a type made by hand.
pub fn output_field(
    name: impl Into<String>,
    ty: impl Into<String>,
    doc: impl Into<String>,
    args: impl IntoIterator<Item = MetaInputValue>,
) -> MetaField {
    MetaField {
        name: name.into(),
        description: Some(doc.into()),
        args: args
            .into_iter()
            .map(|arg| (arg.name.clone(), arg))
            .collect(),
        ty: ty.into(),
        deprecation: Deprecation::NoDeprecated,
        cache_control: CacheControl::default(),
        external: false,
        requires: None,
        provides: None,
        visible: None,
        shareable: false,
        inaccessible: false,
        tags: Vec::new(),
        override_from: None,
        compute_complexity: None,
        directive_invocations: Vec::new(),
        requires_scopes: Vec::new(),
    }
}

/// An object type made by hand.
pub fn object(
    name: String,
    doc: impl Into<String>,
    fields: impl IntoIterator<Item = MetaField>,
) -> MetaType {
    let fields = fields.into_iter().map(|field| (field.name.clone(), field));
    MetaType::Object {
        name,
        description: Some(doc.into()),
        fields: fields.collect(),
        cache_control: CacheControl::default(),
        extends: false,
        shareable: false,
        resolvable: true,
        inaccessible: false,
        interface_object: false,
        tags: Vec::new(),
        keys: None,
        visible: None,
        is_subscription: false,
        rust_typename: None,
        directive_invocations: Vec::new(),
        requires_scopes: Vec::new(),
    }
}

/// The type of a field as the schema writes it, registered.
pub fn type_of(registry: &mut Registry, field: &Field) -> String {
    let name = match &field.kind {
        Kind::Id(_) => <ID as OutputType>::create_type_info(registry),
        Kind::Text => <String as OutputType>::create_type_info(registry),
        Kind::Int => <i64 as OutputType>::create_type_info(registry),
        Kind::Bool => <bool as OutputType>::create_type_info(registry),
        Kind::Time => <DateTime<Utc> as OutputType>::create_type_info(registry),
        Kind::Json => {
            <async_graphql::Json<serde_json::Value> as OutputType>::create_type_info(registry)
        }
        Kind::Word(words) => (words.register)(registry),
        Kind::Made(made) => (made.register)(registry),
    };
    let name = name.trim_end_matches('!');
    if field.is_nullable {
        name.to_owned()
    } else {
        format!("{name}!")
    }
}

impl<E: Shown> OutputType for Row<E> {
    fn type_name() -> Cow<'static, str> {
        E::noun().name.into()
    }

    fn create_type_info(registry: &mut Registry) -> String {
        registry.add_implements(E::noun().name, "Node");
        registry.create_output_type::<Self, _>(MetaTypeId::Object, |registry| {
            let noun = E::noun();
            let mut fields = Vec::new();
            for field in noun.fields {
                let ty = type_of(registry, field);
                fields.push(output_field(field.name, ty, field.doc, []));
            }
            for link in noun.links {
                let ty = (link.register)(registry);
                fields.push(output_field(link.name, ty, link.doc, []));
            }
            for many in noun.many {
                let (ty, arguments) = ((many.register)(registry), (many.arguments)(registry));
                let mut field = output_field(many.name, ty, many.doc, arguments);
                field.compute_complexity = Some(super::lists::list_cost);
                fields.push(field);
            }
            fields.extend(E::rest(registry).into_values());
            object(noun.name.to_owned(), noun.doc, fields)
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

impl<E: Shown> ContainerType for Row<E> {
    async fn resolve_field(&self, ctx: &Context<'_>) -> ServerResult<Option<Value>> {
        let (noun, name, cells) = (E::noun(), ctx.item.node.name.node.as_str(), &self.0.0);
        if let (Some(field), Some(at)) = (noun.field(name), noun.place(name)) {
            let seen = field.audience == Audience::Everyone
                || viewer(ctx).is_ok_and(|viewer| field.audience.has(viewer));
            let value = if seen {
                cell::value(field, &cells[at..])
            } else {
                Value::Null
            };
            if ctx.item.node.selection_set.node.items.is_empty() {
                return Ok(Some(value));
            }
            let own = ctx.schema_env.registry.types.get(noun.name);
            let below = own.and_then(|own| own.field_by_name(name));
            let below = below.map_or("", |field| MetaTypeName::concrete_typename(&field.ty));
            let ctx = ctx.with_selection_set(&ctx.item.node.selection_set);
            return Ok(Some(pick(&ctx, below, [&ctx.item.node], &value)));
        }
        if let Some(many) = noun.many(name) {
            return (many.resolve)(ctx, many.column, self.0.id()).await;
        }
        match (noun.link(name), noun.place(name)) {
            (Some(link), Some(at)) => match &cells[at] {
                Cell::Uuid(id) => (link.resolve)(ctx, *id).await,
                _ => Ok(Some(Value::Null)),
            },
            _ => E::resolve_rest(&self.0, ctx).await,
        }
    }
}

impl<E: Shown> ObjectType for Row<E> {}

/// Takes the selected parts of a made value of the type `name`.
fn pick<'a>(
    ctx: &'a ContextSelectionSet<'a>,
    name: &str,
    selected: impl IntoIterator<Item = &'a SelectionSet>,
    value: &Value,
) -> Value {
    let collected = collect(&ctx.query_env.fragments, name, selected).unwrap_or_default();
    let ty = ctx.schema_env.registry.types.get(name);
    let object = |object: &IndexMap<Name, Value>| {
        let parts = collected.iter().filter_map(|(key, fields)| {
            let selected = &fields.first()?.name.node;
            let below = ty.and_then(|ty| ty.field_by_name(selected));
            let below = below.map(|field| MetaTypeName::concrete_typename(&field.ty));
            let part = match (object.get(selected), below) {
                _ if selected == "__typename" => Value::from(name),
                (Some(part), Some(below)) if has_selections(fields) => {
                    pick(ctx, below, sets(fields), part)
                }
                (part, _) => part.cloned().unwrap_or_default(),
            };
            Some((Name::new(key), part))
        });
        Value::Object(parts.collect())
    };
    match value {
        Value::Object(whole) => object(whole),
        Value::List(items) => {
            let items = items.iter().map(|item| match item {
                Value::Object(whole) => object(whole),
                plain => plain.clone(),
            });
            Value::List(items.collect())
        }
        plain => plain.clone(),
    }
}

fn has_selections(fields: &[&Selected]) -> bool {
    fields
        .iter()
        .any(|field| !field.selection_set.node.items.is_empty())
}

/// Which row a link asks for, and who asks.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct LinkKey {
    table: &'static str,
    id: Uuid,
    viewer: Viewer,
}

/// Reads the rows links point at, those of one moment in one statement a table.
pub struct Links {
    pub store: Store,
}

impl Loader<LinkKey> for Links {
    type Value = Record;
    type Error = std::sync::Arc<AppError>;

    async fn load(&self, keys: &[LinkKey]) -> Result<HashMap<LinkKey, Record>, Self::Error> {
        let mut groups: HashMap<(&'static str, Viewer), Vec<Cell<'static>>> = HashMap::new();
        for key in keys {
            let group = groups.entry((key.table, key.viewer)).or_default();
            group.push(Cell::Uuid(key.id));
        }
        let mut found = HashMap::with_capacity(keys.len());
        for ((table, viewer), ids) in groups {
            let Some(noun) = super::lists::noun_of_table(table) else {
                continue;
            };
            for cells in by_ids(&self.store, viewer, noun, &ids, &record_columns(noun)).await? {
                let record = Record(cells);
                let key = LinkKey {
                    table,
                    id: record.id(),
                    viewer,
                };
                found.insert(key, record);
            }
        }
        Ok(found)
    }
}

pub type LinkLoader = DataLoader<Links>;

/// Resolves the row `id` of `E`, as far as the viewer reaches it.
pub fn resolve_link<'a, E: Shown>(
    ctx: &'a Context<'a>,
    id: Uuid,
) -> BoxFuture<'a, ServerResult<Option<Value>>> {
    Box::pin(async move {
        let located =
            |error: async_graphql::Error| ctx.set_error_path(error.into_server_error(ctx.item.pos));
        let key = LinkKey {
            table: E::noun().table,
            id,
            viewer: viewer(ctx).map_err(located)?,
        };
        let loader: &LinkLoader = ctx.data_unchecked();
        let found = loader.load_one(key).await;
        match found.map_err(|error| located(Coded(&error).into()))? {
            None => Ok(Some(Value::Null)),
            Some(record) => {
                let row = Row::<E>::from_record(record);
                let selection = ctx.with_selection_set(&ctx.item.node.selection_set);
                row.resolve(&selection, ctx.item).await.map(Some)
            }
        }
    })
}
