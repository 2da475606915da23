//! Aggregates of a list: counts, sums, averages and bounds, of all of it or by groups. Only what is selected is computed.

use async_graphql::{
    Context, Enum, InputType, Name, ServerResult, Value,
    indexmap::IndexMap,
    registry::{MetaField, MetaInputValue, Registry},
};
use chrono::{DateTime, Utc};

use super::{
    super::{services, viewer},
    cell::{self, Cell, Storage},
    filter::{argument, input_object},
    lists::arguments_of,
    noun::{Field, Kind, Noun},
    order::enum_type,
    read::{Asked, check_access, write_where},
    row::{object, output_field, type_of},
    select::{collect, sets},
    statement::Sql,
};
use crate::error::AppError;

/// Most groups of an answer, and most keys of a grouping.
const GROUPS: usize = 1000;
const KEYS: usize = 3;

/// Spans of time rows are grouped by, in UTC.
#[derive(Enum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum TimeBucket {
    /// From full hour to full hour.
    Hour,
    /// From midnight to midnight.
    Day,
    /// From Monday to Monday.
    Week,
    /// From the first to the first.
    Month,
}

impl TimeBucket {
    fn parse(name: &str) -> Option<Self> {
        <Self as InputType>::parse(Some(Value::Enum(Name::new(name)))).ok()
    }

    /// The beginning of the bucket a time falls into, in SQL.
    fn write(self, is_postgres: bool, column: &str) -> String {
        if is_postgres {
            let unit = match self {
                Self::Hour => "hour",
                Self::Day => "day",
                Self::Week => "week",
                Self::Month => "month",
            };
            return format!("date_trunc('{unit}', {column}, 'UTC')");
        }
        match self {
            Self::Hour => format!("strftime('%Y-%m-%dT%H:00:00+00:00', {column})"),
            Self::Day => format!("strftime('%Y-%m-%dT00:00:00+00:00', {column})"),
            Self::Week => {
                format!("strftime('%Y-%m-%dT00:00:00+00:00', {column}, 'weekday 0', '-6 days')")
            }
            Self::Month => format!("strftime('%Y-%m-01T00:00:00+00:00', {column})"),
        }
    }
}

/// A key of a grouping.
struct GroupKey {
    field: &'static Field,
    every: Option<TimeBucket>,
}

/// What can be computed of a field.
fn measures(field: &Field) -> &'static [(&'static str, &'static str, &'static str)] {
    match field.kind {
        Kind::Time => &[
            ("min", "DateTime", "The earliest; null without any."),
            ("max", "DateTime", "The latest; null without any."),
        ],
        _ => &[
            ("min", "Int", "The smallest; null without any."),
            ("max", "Int", "The largest; null without any."),
            ("sum", "Int", "The sum; null without any."),
            ("avg", "Float", "The average; null without any."),
        ],
    }
}

/// The field `…Aggregate` beside a list, its types registered.
pub fn field(
    registry: &mut Registry,
    list: &str,
    noun: &'static Noun,
    filter: MetaInputValue,
) -> MetaField {
    let name = noun.name;
    let mut fields = vec![output_field("count", "Int!", "How many rows.", [])];
    for field in noun.fields.iter().filter(|field| field.is_measured) {
        let of = match field.kind {
            Kind::Time => "TimeMeasures",
            _ => "IntMeasures",
        };
        let measures = measures(field)
            .iter()
            .map(|(name, ty, doc)| output_field(*name, *ty, *doc, []));
        let ty = object(
            of.to_owned(),
            "What is computed of a field's values.",
            measures,
        );
        registry.types.insert(of.to_owned(), ty);
        fields.push(output_field(field.name, format!("{of}!"), field.doc, []));
    }
    let mut args = vec![filter];
    let grouped: Vec<_> = noun
        .fields
        .iter()
        .filter(|field| field.is_grouped)
        .collect();
    if !grouped.is_empty() {
        let (key, group, keys) = (
            format!("{name}Group"),
            format!("{name}GroupBy"),
            format!("{name}GroupField"),
        );
        let each = grouped.iter().map(|field| {
            let ty = type_of(registry, field);
            output_field(field.name, ty.trim_end_matches('!'), field.doc, [])
        });
        let doc = format!(
            "What the `{name}`s of a group have in common; null where it was not grouped by."
        );
        let ty = object(key.clone(), doc, each.collect::<Vec<_>>());
        registry.types.insert(key.clone(), ty);
        fields.insert(
            0,
            output_field(
                "group",
                format!("{key}!"),
                "What the rows have in common.",
                [],
            ),
        );
        let names = grouped.iter().map(|field| (field.constant(), field.doc));
        let ty = enum_type(&keys, format!("What `{name}`s can be grouped by."), names);
        registry.types.insert(keys.clone(), ty);
        let bucket = <Option<TimeBucket> as InputType>::create_type_info(registry);
        let each = [
            argument("field", format!("{keys}!"), "By what."),
            argument("every", bucket, "For a time: by spans of it."),
        ];
        let ty = input_object(
            group.clone(),
            format!("A key `{name}`s are grouped by."),
            each,
        );
        registry.types.insert(group.clone(), ty);
        args.push(argument(
            "groupBy",
            format!("[{group}!]"),
            "In groups, at most three keys; all rows in one without.",
        ));
    }
    let aggregate = format!("{name}Aggregate");
    let doc = format!("What is computed of `{name}`s, of all of them or of a group.");
    let ty = object(aggregate.clone(), doc, fields);
    registry.types.insert(aggregate.clone(), ty);
    let doc = format!(
        "What is computed of the `{name}`s in reach, in the order of the groups; at most 1000 groups."
    );
    output_field(
        format!("{list}Aggregate"),
        format!("[{aggregate}!]!"),
        doc,
        args,
    )
}

fn invalid(field: &'static str, reason: impl Into<String>) -> AppError {
    AppError::Invalid {
        field,
        reason: reason.into(),
    }
}

fn read_keys(noun: &'static Noun, value: Value) -> Result<Vec<GroupKey>, AppError> {
    let items = match value {
        Value::Null => Vec::new(),
        Value::List(items) => items,
        one => vec![one],
    };
    if items.len() > KEYS {
        return Err(invalid("groupBy", format!("{KEYS} keys at most")));
    }
    let key = |item: &Value| {
        let Value::Object(object) = item else {
            return Err(invalid("groupBy", "a key is an object"));
        };
        let name = |key: &str| match object.get(key) {
            Some(Value::Enum(name)) => Some(name.to_string()),
            Some(Value::String(name)) => Some(name.clone()),
            _ => None,
        };
        let asked = name("field").unwrap_or_default();
        let field = noun
            .fields
            .iter()
            .find(|field| field.is_grouped && field.constant() == asked);
        let field =
            field.ok_or_else(|| invalid("groupBy", format!("nothing is grouped by {asked}")))?;
        let every = name("every").and_then(|name| TimeBucket::parse(&name));
        if every.is_some() != matches!(field.kind, Kind::Time) {
            return Err(invalid(
                "groupBy",
                "spans are for times, and times are grouped by spans",
            ));
        }
        Ok(GroupKey { field, every })
    };
    items.iter().map(key).collect()
}

/// A computed column of the answer.
enum Computed {
    Key(usize),
    Count,
    Measure(&'static Field, &'static str),
}

/// Computes what is selected.
pub async fn resolve(ctx: &Context<'_>, noun: &'static Noun) -> ServerResult<Value> {
    let located =
        |error: async_graphql::Error| ctx.set_error_path(error.into_server_error(ctx.item.pos));
    let viewer = viewer(ctx).map_err(located)?;
    let mut given = arguments_of(ctx)?;
    let refuse = |error: AppError| located(error.into());
    check_access(noun, viewer).map_err(refuse)?;
    let keys = given.iter().position(|(name, _)| name == "groupBy");
    let keys = keys.map_or(Value::Null, |at| given.swap_remove(at).1);
    let keys = read_keys(noun, keys).map_err(refuse)?;
    if !keys.iter().all(|key| key.field.audience.has(viewer)) {
        return Err(refuse(AppError::Forbidden));
    }
    let mut asked = Asked::default();
    for (name, value) in given {
        asked.read(noun, &name, value).map_err(refuse)?;
    }
    if let Some(tree) = &asked.filter {
        tree.check(viewer).map_err(refuse)?;
    }
    let store = &services(ctx).store;
    let mut sql = Sql::new(store, viewer);
    let (fragments, is_postgres) = (&ctx.query_env.fragments, sql.is_postgres());
    let aggregate = format!("{}Aggregate", noun.name);
    let selected = collect(fragments, &aggregate, [&ctx.item.node.selection_set.node]);
    let selected = selected.unwrap_or_default();
    let mut computed = Vec::new();
    let mut texts = Vec::new();
    for (at, key) in keys.iter().enumerate() {
        let column = format!("t.{}", key.field.column());
        texts.push(match key.every {
            Some(every) => every.write(is_postgres, &column),
            None => column,
        });
        computed.push(Computed::Key(at));
    }
    texts.push("count(*)".to_owned());
    computed.push(Computed::Count);
    for (_, fields) in &selected {
        let Some(field) = fields
            .first()
            .and_then(|first| noun.field(&first.name.node))
            .filter(|field| field.audience.has(viewer))
        else {
            continue;
        };
        for (_, below) in collect(fragments, "", sets(fields)).unwrap_or_default() {
            let wanted = below.first().map(|first| first.name.node.as_str());
            let known = measures(field)
                .iter()
                .find(|(name, ..)| Some(*name) == wanted);
            if let Some((measure, ..)) = known {
                texts.push(write_measure(is_postgres, measure, field));
                computed.push(Computed::Measure(field, measure));
            }
        }
    }
    sql.push(&["SELECT ", &texts.join(", "), " FROM ", noun.table, " AS t"]);
    write_where(&mut sql, noun, asked.filter.as_ref());
    if !keys.is_empty() {
        let places: Vec<String> = (1..=keys.len()).map(|at| at.to_string()).collect();
        let places = places.join(", ");
        sql.push(&[" GROUP BY ", &places, " ORDER BY ", &places]);
        sql.push(&[" LIMIT ", &GROUPS.to_string()]);
    }
    let rows = store.read(sql.finish()).await;
    let rows = rows.map_err(|error| refuse(error.into()))?;
    let write = |row: &sea_orm::QueryResult| {
        let values = read_row(row, &computed, &keys, is_postgres)?;
        Ok(write_row(
            &selected, fragments, noun, &keys, &computed, &values,
        ))
    };
    let rows: Result<Vec<Value>, sea_orm::DbErr> = rows.iter().map(write).collect();
    Ok(Value::List(rows.map_err(|error| refuse(error.into()))?))
}

fn write_measure(is_postgres: bool, measure: &str, field: &Field) -> String {
    let column = format!("t.{}", field.column());
    let cast = match (is_postgres, measure, &field.kind) {
        (false, ..) | (_, _, Kind::Time) => "",
        (true, "avg", _) => "::float8",
        (true, ..) => "::bigint",
    };
    format!("{measure}({column}){cast}")
}

fn read_row(
    row: &sea_orm::QueryResult,
    computed: &[Computed],
    keys: &[GroupKey],
    is_postgres: bool,
) -> Result<Vec<Value>, sea_orm::DbErr> {
    let mut values = Vec::with_capacity(computed.len());
    for (at, what) in computed.iter().enumerate() {
        values.push(match what {
            Computed::Key(key) if keys[*key].every.is_some() && !is_postgres => {
                let text: Option<String> = row.try_get_by_index(at)?;
                let time = text.and_then(|text| DateTime::parse_from_rfc3339(&text).ok());
                time.map_or(Value::Null, |time| {
                    Value::from(time.with_timezone(&Utc).to_rfc3339())
                })
            }
            Computed::Key(key) => {
                let field = keys[*key].field;
                cell::value(field, &[Cell::read(row, at, field.storage())?])
            }
            Computed::Count => Value::from(row.try_get_by_index::<i64>(at)?),
            Computed::Measure(_, "avg") => {
                let average: Option<f64> = row.try_get_by_index(at)?;
                average.map_or(Value::Null, Value::from)
            }
            Computed::Measure(field, _) => {
                let storage = match field.kind {
                    Kind::Time => Storage::Time,
                    _ => Storage::Big,
                };
                cell::value(field, &[Cell::read(row, at, storage)?])
            }
        });
    }
    Ok(values)
}

fn write_row(
    selected: &super::select::Collected<'_>,
    fragments: &super::select::Fragments,
    noun: &'static Noun,
    keys: &[GroupKey],
    computed: &[Computed],
    values: &[Value],
) -> Value {
    let value_of = |is: &dyn Fn(&Computed) -> bool| {
        let at = computed.iter().position(is);
        at.map_or(Value::Null, |at| values[at].clone())
    };
    let mut object = IndexMap::new();
    for (key, fields) in selected {
        let Some(first) = fields.first() else {
            continue;
        };
        let name = first.name.node.as_str();
        let below = collect(fragments, "", sets(fields)).unwrap_or_default();
        let each = |type_name: &str, value: &dyn Fn(&str) -> Value| {
            let parts = below.iter().filter_map(|(key, fields)| {
                let name = fields.first()?.name.node.as_str();
                let part = if name == "__typename" {
                    Value::from(type_name)
                } else {
                    value(name)
                };
                Some((Name::new(key), part))
            });
            Value::Object(parts.collect())
        };
        let value = match name {
            "__typename" => Value::from(format!("{}Aggregate", noun.name)),
            "count" => value_of(&|what| matches!(what, Computed::Count)),
            "group" => each(&format!("{}Group", noun.name), &|name| {
                let key = keys.iter().position(|key| key.field.name == name);
                value_of(&|what| matches!(what, Computed::Key(at) if Some(*at) == key))
            }),
            name => {
                let kind = noun.field(name).map(|field| &field.kind);
                let ty = if matches!(kind, Some(Kind::Time)) {
                    "TimeMeasures"
                } else {
                    "IntMeasures"
                };
                each(ty, &|measure| {
                    value_of(
                        &|what| matches!(what, Computed::Measure(field, known) if field.name == name && *known == measure),
                    )
                })
            }
        };
        object.insert(Name::new(key), value);
    }
    Value::Object(object)
}
