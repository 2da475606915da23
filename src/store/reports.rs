//! Reports over time, one statement each, alike on both databases.
//!
//! Every report is a sweep: what happens and where spans begin are put into one order of time, windows carry the sum of
//! what is up and the newest span along it, and the rows are summed by span. It costs a sort, whatever the number of spans
//! and however long something was up.

use sea_orm::{ConnectionTrait as _, DbBackend, QueryResult, Value, entity::prelude::*};

use super::{Store, source::statement};
use crate::{
    domain::{calendar::Spans, entropy},
    error::StoreError,
};

/// Most rows of a report: spans times what they are told apart by.
const MOST: usize = 20_000;

/// What a report is told apart by.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Part {
    /// The app of a container, the image of a machine.
    Product,
    Region,
    Cluster,
    ReleaseChannel,
}

/// What ran.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Subject {
    Container,
    Machine,
}

/// How much ran in a span.
#[derive(Clone, Debug, PartialEq)]
pub struct Usage {
    pub at: DateTimeUtc,
    /// What it is told apart by, by name; empty for all, and for what has none.
    pub part: String,
    pub hours: f64,
    /// Most at one time.
    pub peak: i64,
    pub began: i64,
    pub ended: i64,
}

/// What became of containers in a span.
#[derive(Clone, Debug, PartialEq)]
pub struct Made {
    pub at: DateTimeUtc,
    pub part: String,
    /// Asked for in the span.
    pub created: i64,
    /// Failed in it.
    pub failed: i64,
    /// Removed in it.
    pub deleted: i64,
    /// Seconds from being asked for to running, of those asked for in the span that came to run at the first try: what a
    /// half and 95 in a hundred do not exceed.
    pub wait_p50: Option<f64>,
    pub wait_p95: Option<f64>,
}

/// Who came in a span.
#[derive(Clone, Debug, PartialEq)]
pub struct Logins {
    pub at: DateTimeUtc,
    pub succeeded: i64,
    pub failed: i64,
    /// Different accounts that logged in.
    pub users: i64,
    pub signed_up: i64,
}

/// A statement in the making.
struct Text {
    backend: DbBackend,
    values: Vec<Value>,
}

impl Text {
    fn new(store: &Store) -> Self {
        Self {
            backend: store.db().get_database_backend(),
            values: Vec::new(),
        }
    }

    fn put(&mut self, value: impl Into<Value>) -> String {
        self.values.push(value.into());
        format!("${}", self.values.len())
    }

    fn is_postgres(&self) -> bool {
        self.backend == DbBackend::Postgres
    }

    /// The spans' beginnings and the end as the rows of a table.
    fn spans(&mut self, spans: &Spans) -> String {
        let cast = if self.is_postgres() {
            "::timestamptz"
        } else {
            ""
        };
        let all = spans.starts.iter().chain([&spans.end]);
        let rows: Vec<String> = all.map(|at| format!("({}{cast})", self.put(*at))).collect();
        format!("span (at) AS (VALUES {})", rows.join(", "))
    }

    /// No time, of the type that times have.
    fn no_time(&self) -> &'static str {
        if self.is_postgres() {
            "NULL::timestamptz"
        } else {
            "NULL"
        }
    }

    /// The seconds from one time to another.
    fn seconds(&self, from: &str, to: &str) -> String {
        if self.is_postgres() {
            format!("EXTRACT(EPOCH FROM ({to} - {from}))::float8")
        } else {
            format!("((julianday({to}) - julianday({from})) * 86400.0)")
        }
    }

    /// A whole number, whatever the sum's own type.
    fn whole(&self, sum: &str) -> String {
        if self.is_postgres() {
            format!("COALESCE({sum}, 0)::bigint")
        } else {
            format!("COALESCE({sum}, 0)")
        }
    }

    async fn rows(self, store: &Store, sql: String) -> Result<Vec<QueryResult>, StoreError> {
        let sql = format!("{sql} LIMIT {MOST}");
        let db = store.db();
        Ok(db.query_all_raw(statement(db, sql, self.values)).await?)
    }
}

/// The name of a part, and what has to be joined for it.
fn named(part: Option<Part>, row: &str, product: (&str, &str)) -> (String, String) {
    let (table, name) = product;
    match part {
        None => ("''".to_owned(), String::new()),
        Some(Part::Product) => (
            format!("COALESCE(part.{name}, '')"),
            format!(" LEFT JOIN {table} AS part ON part.id = {row}"),
        ),
        Some(Part::Region) => (
            "COALESCE(part.name, '')".to_owned(),
            " LEFT JOIN region AS part ON part.id = t.region_id".to_owned(),
        ),
        Some(Part::Cluster) => (
            "COALESCE(part.name, '')".to_owned(),
            " LEFT JOIN cluster AS part ON part.id = t.cluster_id".to_owned(),
        ),
        Some(Part::ReleaseChannel) => ("COALESCE(t.release_channel, '')".to_owned(), String::new()),
    }
}

/// How long and how many ran, by span and part. What runs still counts up to the spans' end.
pub async fn usage(
    store: &Store,
    subject: Subject,
    part: Option<Part>,
    spans: &Spans,
) -> Result<Vec<Usage>, StoreError> {
    let mut text = Text::new(store);
    let span = text.spans(spans);
    let (subject, table) = match subject {
        Subject::Container => ("container", "app"),
        Subject::Machine => ("machine", "image"),
    };
    let (name, join) = named(part, "t.product_id", (table, "slug"));
    let (subject, from, to) = (
        text.put(subject),
        text.put(spans.starts.first().copied()),
        text.put(spans.end),
    );
    let seconds = text.seconds("at", "until");
    let (began, ended, peak) = (
        text.whole("SUM(began)"),
        text.whole("SUM(ended)"),
        text.whole("MAX(up)"),
    );
    let up = text.whole("SUM(delta) OVER along");
    let no_time = text.no_time();
    let sql = format!(
        "WITH {span},
        period AS (
            SELECT {name} AS part, t.began_at, t.ended_at FROM running_period AS t{join}
            WHERE t.subject = {subject} AND t.began_at < {to} AND (t.ended_at IS NULL OR t.ended_at > {from})
        ),
        step (part, at, delta, mark, began, ended) AS (
            SELECT part, began_at, 1, {no_time}, 1, 0 FROM period
            UNION ALL SELECT part, ended_at, -1, {no_time}, 0, 1 FROM period WHERE ended_at IS NOT NULL
            UNION ALL SELECT p.part, span.at, 0, span.at, 0, 0 FROM (SELECT DISTINCT part FROM period) AS p CROSS JOIN span
        ),
        level AS (
            SELECT part, at, began, ended, {up} AS up, MAX(mark) OVER along AS span,
                LEAD(at) OVER (PARTITION BY part ORDER BY at) AS until
            FROM step WINDOW along AS (PARTITION BY part ORDER BY at)
        )
        SELECT span, part, COALESCE(SUM(up * {seconds}), 0) / 3600.0 AS hours, {peak} AS peak, {began} AS began, {ended} AS ended
        FROM level WHERE span IS NOT NULL AND span < {to} GROUP BY span, part ORDER BY span, part"
    );
    let read = |row: &QueryResult| {
        Ok(Usage {
            at: row.try_get("", "span")?,
            part: row.try_get("", "part")?,
            hours: row.try_get("", "hours")?,
            peak: row.try_get("", "peak")?,
            began: row.try_get("", "began")?,
            ended: row.try_get("", "ended")?,
        })
    };
    text.rows(store, sql).await?.iter().map(read).collect()
}

/// What became of containers, by span and part.
pub async fn made(
    store: &Store,
    part: Option<Part>,
    spans: &Spans,
) -> Result<Vec<Made>, StoreError> {
    let mut text = Text::new(store);
    let span = text.spans(spans);
    let (name, join) = named(part, "t.app_id", ("app", "slug"));
    let start = spans.starts.first().copied().unwrap_or(spans.end);
    let (from, to) = (text.put(start), text.put(spans.end));
    // Ids begin with the time they were made at, so that their index finds the rows.
    let margin = chrono::TimeDelta::seconds(5);
    let (first, last) = (
        text.put(entropy::earliest(start - margin)),
        text.put(entropy::earliest(spans.end + margin)),
    );
    let wait = text.seconds("t.created_at", "t.running_at");
    let [created, failed, deleted] =
        ["SUM(created)", "SUM(failed)", "SUM(deleted)"].map(|sum| text.whole(sum));
    let (no_time, no_number) = if text.is_postgres() {
        ("NULL::timestamptz", "NULL::float8")
    } else {
        ("NULL", "NULL")
    };
    let sql = format!(
        "WITH {span},
        step (part, at, mark, created, failed, deleted, wait) AS (
            SELECT {name}, t.created_at, {no_time}, 1, 0, 0, CASE WHEN t.generation = 1 THEN {wait} END
            FROM container AS t{join}
            WHERE t.id >= {first} AND t.id < {last} AND t.created_at >= {from} AND t.created_at < {to}
            UNION ALL
            SELECT {name}, t.ended_at, {no_time}, 0, CASE WHEN t.state = 'failed' THEN 1 ELSE 0 END,
                CASE WHEN t.state = 'deleted' THEN 1 ELSE 0 END, {no_number}
            FROM container AS t{join} WHERE t.ended_at >= {from} AND t.ended_at < {to}
        ),
        along AS (
            SELECT part, at, mark, created, failed, deleted, wait FROM step
            UNION ALL SELECT p.part, span.at, span.at, 0, 0, 0, {no_number}
            FROM (SELECT DISTINCT part FROM step) AS p CROSS JOIN span
        ),
        placed AS (
            SELECT part, MAX(mark) OVER (PARTITION BY part ORDER BY at) AS span, created, failed, deleted, wait FROM along
        ),
        ranked AS (
            SELECT *, ROW_NUMBER() OVER (PARTITION BY span, part, wait IS NULL ORDER BY wait) AS rank,
                COUNT(wait) OVER (PARTITION BY span, part) AS waits
            FROM placed
        )
        SELECT span, part, {created} AS created, {failed} AS failed, {deleted} AS deleted,
            MIN(CASE WHEN wait IS NOT NULL AND rank >= 0.5 * waits THEN wait END) AS p50,
            MIN(CASE WHEN wait IS NOT NULL AND rank >= 0.95 * waits THEN wait END) AS p95
        FROM ranked WHERE span IS NOT NULL AND span < {to} GROUP BY span, part ORDER BY span, part"
    );
    let read = |row: &QueryResult| {
        Ok(Made {
            at: row.try_get("", "span")?,
            part: row.try_get("", "part")?,
            created: row.try_get("", "created")?,
            failed: row.try_get("", "failed")?,
            deleted: row.try_get("", "deleted")?,
            wait_p50: row.try_get("", "p50")?,
            wait_p95: row.try_get("", "p95")?,
        })
    };
    text.rows(store, sql).await?.iter().map(read).collect()
}

/// Who logged in and who signed up, by span.
pub async fn logins(store: &Store, spans: &Spans) -> Result<Vec<Logins>, StoreError> {
    let mut text = Text::new(store);
    let span = text.spans(spans);
    let (from, to) = (text.put(spans.starts.first().copied()), text.put(spans.end));
    let [succeeded, failed, signed_up] =
        ["SUM(succeeded)", "SUM(failed)", "SUM(signed_up)"].map(|sum| text.whole(sum));
    let (no_time, no_id) = if text.is_postgres() {
        ("NULL::timestamptz", "NULL::uuid")
    } else {
        ("NULL", "NULL")
    };
    let sql = format!(
        "WITH {span},
        step (at, mark, succeeded, failed, signed_up, who) AS (
            SELECT at, {no_time}, CASE WHEN outcome = 'succeeded' THEN 1 ELSE 0 END,
                CASE WHEN outcome = 'succeeded' THEN 0 ELSE 1 END, 0, CASE WHEN outcome = 'succeeded' THEN owner_id END
            FROM login_event WHERE at >= {from} AND at < {to}
            UNION ALL SELECT created_at, {no_time}, 0, 0, 1, {no_id} FROM account WHERE created_at >= {from} AND created_at < {to}
            UNION ALL SELECT at, at, 0, 0, 0, {no_id} FROM span
        ),
        placed AS (SELECT MAX(mark) OVER (ORDER BY at) AS span, succeeded, failed, signed_up, who FROM step)
        SELECT span, {succeeded} AS succeeded, {failed} AS failed, {signed_up} AS signed_up, COUNT(DISTINCT who) AS users
        FROM placed WHERE span IS NOT NULL AND span < {to} GROUP BY span ORDER BY span"
    );
    let read = |row: &QueryResult| {
        Ok(Logins {
            at: row.try_get("", "span")?,
            succeeded: row.try_get("", "succeeded")?,
            failed: row.try_get("", "failed")?,
            users: row.try_get("", "users")?,
            signed_up: row.try_get("", "signed_up")?,
        })
    };
    text.rows(store, sql).await?.iter().map(read).collect()
}
