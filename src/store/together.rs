//! Reads of the same shape that wait at the same time become one statement.
//!
//! Texts of statements hold no values, so people who ask for the same with other words, and of other people's rows, send the
//! same text with other parameters. A few of a text are read at once; who comes meanwhile waits in its line, and
//! all who wait are read by one statement that joins their parameters to the text (`CROSS JOIN LATERAL`). When nobody
//! waits nothing is different; the busier it is, the more are read at once and the cheaper each of them.

use std::{
    collections::{HashMap, VecDeque},
    fmt::Write as _,
    num::NonZero,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use sea_orm::{
    DbErr, QueryResult, Statement, Value, Values,
    sea_query::ArrayType,
    sqlx::{Row as _, postgres::PgRow},
};
use tokio::{sync::oneshot, time::Instant};

use super::readers::Kept;

/// Most and, at first, fewest of them in one statement.
const MOST: usize = 256;
const FEW: usize = 4;
/// When a statement takes longer than this, the next one is for fewer: nobody's quick answer waits long for others' slow
/// ones.
const PATIENCE: Duration = Duration::from_millis(50);
/// Where even two are too slow together, so many are read on their own before it is tried again.
const ALONE: u32 = 1000;

/// What statements that can be read together have in common.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Form {
    text: String,
    types: Vec<ArrayType>,
}

impl Form {
    /// Takes a statement apart into what it has in common with others and its own parameters; gives it back when these are
    /// not all single values of a plain type.
    pub fn of(statement: Statement) -> Result<(Self, Values), Statement> {
        let values = statement
            .values
            .as_ref()
            .map_or(&[][..], |values| &values.0);
        let types: Option<Vec<_>> = values.iter().map(plain).collect();
        match (types, statement.values) {
            (Some(types), Some(values)) if !types.is_empty() => {
                let text = statement.sql;
                Ok((Self { text, types }, values))
            }
            (_, values) => Err(Statement {
                values,
                ..statement
            }),
        }
    }

    /// The parameters of statements of this form, for [`Self::text_for_many`].
    pub fn values_of<'a>(&self, each: impl Iterator<Item = &'a Values> + Clone) -> Values {
        let column = |(index, kind): (usize, &ArrayType)| {
            let column = each.clone().filter_map(|values| values.0.get(index));
            Value::Array(kind.clone(), Some(Box::new(column.cloned().collect())))
        };
        let mut columns: Vec<Value> = self.types.iter().enumerate().map(column).collect();
        let numbers: Vec<i32> = (0..).zip(each).map(|(number, _)| number).collect();
        columns.push(numbers.into());
        Values(columns)
    }

    /// The text for any number of such statements: parameters are arrays now, and the last column tells whose row it is,
    /// counted from 0.
    ///
    /// The arrays are read by sub-queries, so that a plan is as dear for ten as for two: the server would else take each plan
    /// for its very number to be the better one, and never keep any.
    pub fn text_for_many(&self) -> String {
        let mut text = String::with_capacity(self.text.len() + 256);
        text.push_str("SELECT r.*, k.n FROM unnest(");
        for (index, kind) in self.types.iter().enumerate() {
            let _ = write!(text, "(SELECT ${}::{}[]), ", index + 1, name(kind));
        }
        let _ = write!(text, "(SELECT ${}::int4[])) AS k(", self.types.len() + 1);
        for index in 0..self.types.len() {
            let _ = write!(text, "p{}, ", index + 1);
        }
        text.push_str("n) CROSS JOIN LATERAL (");
        // A text has a dollar sign nowhere but before the number of a parameter.
        text.push_str(&self.text.replace('$', "k.p"));
        text.push_str(") AS r");
        text
    }
}

/// The type of a value that can stand in an array.
fn plain(value: &Value) -> Option<ArrayType> {
    match value {
        Value::Bool(_) => Some(ArrayType::Bool),
        Value::BigInt(_) => Some(ArrayType::BigInt),
        Value::Double(_) => Some(ArrayType::Double),
        Value::String(_) => Some(ArrayType::String),
        Value::ChronoDateTimeUtc(_) => Some(ArrayType::ChronoDateTimeUtc),
        Value::Uuid(_) => Some(ArrayType::Uuid),
        _ => None,
    }
}

/// PostgreSQL's name of the type of values in an array.
pub const fn name(kind: &ArrayType) -> &'static str {
    match kind {
        ArrayType::Bool => "bool",
        ArrayType::Int => "int4",
        ArrayType::BigInt => "int8",
        ArrayType::Double => "float8",
        ArrayType::ChronoDateTimeUtc => "timestamptz",
        ArrayType::Uuid => "uuid",
        _ => "text",
    }
}

type Answer = Result<Vec<QueryResult>, DbErr>;

struct Waiting {
    values: Values,
    answer: oneshot::Sender<Answer>,
}

/// Those who read one text now, and those who wait to.
struct Line {
    reading: usize,
    waiting: VecDeque<Waiting>,
    /// How many are read together next: few at first, since a plan for many may be a bad one, then more each time.
    width: usize,
    /// How many more are read on their own before it is tried together again.
    alone: u32,
}

impl Default for Line {
    fn default() -> Self {
        Self {
            reading: 0,
            waiting: VecDeque::new(),
            width: FEW,
            alone: 0,
        }
    }
}

impl Line {
    /// Takes a place at its head, if one is free. What is slow by itself is not held up by the number of lanes.
    fn enter(&mut self, lanes: usize) -> bool {
        let is_free = self.reading < lanes || self.width == 1 || self.alone > 0;
        if is_free {
            self.reading += 1;
            self.alone = self.alone.saturating_sub(1);
        }
        is_free
    }

    /// Learns how long a statement for `count` has taken.
    fn took(&mut self, count: usize, time: Duration) {
        if time > PATIENCE {
            self.width = (count / 2).max(1);
            if count > 1 && self.width == 1 {
                self.alone = ALONE;
            }
        } else if count >= self.width {
            self.width = MOST.min(self.width * 2);
        }
    }
}

/// The lines of all texts that are being read.
#[derive(Clone)]
pub struct Lines {
    lines: Arc<Mutex<HashMap<Arc<Form>, Line>>>,
    /// How many statements of one text are read at once.
    lanes: usize,
}

impl Default for Lines {
    /// As many lanes as processors.
    fn default() -> Self {
        let processors = std::thread::available_parallelism();
        Self {
            lines: Arc::default(),
            lanes: processors.map_or(1, NonZero::get),
        }
    }
}

impl Lines {
    fn lock(&self) -> MutexGuard<'_, HashMap<Arc<Form>, Line>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads the rows of a statement, together with others if there are any.
    pub async fn read(&self, kept: &Kept, statement: Statement) -> Answer {
        let (form, values) = match Form::of(statement) {
            Ok(parts) => parts,
            Err(statement) => {
                let values = statement.values.unwrap_or(Values(Vec::new()));
                return kept.read(&statement.sql, values).await;
            }
        };
        match self.enter(form, kept, &values) {
            Entered::Head(place) => {
                let began = Instant::now();
                let answer = kept.read(&place.form.text, values).await;
                place.took(1, began.elapsed());
                answer
            }
            Entered::Line(form, answer) => match answer.await {
                Ok(answer) => answer,
                // Whoever read for this one is gone.
                Err(_) => kept.read(&form.text, values).await,
            },
        }
    }

    fn enter(&self, form: Form, kept: &Kept, values: &Values) -> Entered {
        let mut lines = self.lock();
        let entry = lines.entry(Arc::new(form));
        let form = Arc::clone(entry.key());
        let line = entry.or_default();
        if line.enter(self.lanes) {
            return Entered::Head(Place {
                form,
                lines: self.clone(),
                kept: kept.clone(),
                is_left: false,
                is_heir: false,
            });
        }
        let (answer, waits) = oneshot::channel();
        let values = values.clone();
        line.waiting.push_back(Waiting { values, answer });
        Entered::Line(form, waits)
    }
}

enum Entered {
    Head(Place),
    Line(Arc<Form>, oneshot::Receiver<Answer>),
}

/// A place at the head of a line; when it is left, it passes to those who wait.
struct Place {
    form: Arc<Form>,
    lines: Lines,
    kept: Kept,
    is_left: bool,
    is_heir: bool,
}

impl Place {
    fn took(&self, count: usize, time: Duration) {
        if let Some(line) = self.lines.lock().get_mut(&self.form) {
            line.took(count, time);
        }
    }

    /// Those who wait, as many as are read together now; leaves the place when nobody does.
    fn next(&mut self) -> Option<Vec<Waiting>> {
        let mut lines = self.lines.lock();
        let line = lines.get_mut(&self.form)?;
        if line.waiting.is_empty() {
            self.is_left = true;
            leave(&mut lines, &self.form);
            return None;
        }
        let count = line.waiting.len().min(line.width);
        Some(line.waiting.drain(..count).collect())
    }

    async fn serve(mut self) {
        while let Some(next) = self.next() {
            self.read(next).await;
        }
    }

    async fn read(&self, mut waiting: Vec<Waiting>) {
        // Who has gone need not be read for.
        waiting.retain(|one| !one.answer.is_closed());
        let began = Instant::now();
        let answers = match waiting.as_slice() {
            [] => return,
            [one] => self.read_one(one).await.map(|rows| vec![rows]),
            many => self.read_many(many).await,
        };
        let count = waiting.len();
        self.took(count, began.elapsed());
        match answers {
            Ok(answers) => {
                for (one, rows) in waiting.into_iter().zip(answers) {
                    // Nobody waiting any more is no fault.
                    let _ = one.answer.send(Ok(rows));
                }
            }
            // What one of them has asked for is not the others' fault.
            Err(error) => {
                tracing::debug!(%error, count, "reading on their own what could not be read together");
                for one in waiting {
                    let rows = self.read_one(&one).await;
                    let _ = one.answer.send(rows);
                }
            }
        }
    }

    async fn read_one(&self, one: &Waiting) -> Answer {
        self.kept.read(&self.form.text, one.values.clone()).await
    }

    async fn read_many(&self, waiting: &[Waiting]) -> Result<Vec<Vec<QueryResult>>, DbErr> {
        let values = self.form.values_of(waiting.iter().map(|one| &one.values));
        let text = self.form.text_for_many();
        let rows = self.kept.read_rows(&text, values).await?;
        let mut answers = Vec::new();
        answers.resize_with(waiting.len(), Vec::new);
        for row in rows {
            let answer = answers.get_mut(last_number(&row)?);
            let nobodys = || DbErr::Type("a row that nobody has asked for".to_owned());
            answer.ok_or_else(nobodys)?.push(row.into());
        }
        Ok(answers)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.is_left {
            return;
        }
        let mut lines = self.lines.lock();
        let Some(line) = lines.get_mut(&self.form) else {
            return;
        };
        if !self.is_heir && !line.waiting.is_empty() {
            let heir = Self {
                form: Arc::clone(&self.form),
                lines: self.lines.clone(),
                kept: self.kept.clone(),
                is_left: false,
                is_heir: true,
            };
            drop(lines);
            tokio::spawn(heir.serve());
            return;
        }
        // An heir that is ended in the middle has no heir: those who wait read for themselves.
        line.waiting.clear();
        leave(&mut lines, &self.form);
    }
}

fn leave(lines: &mut HashMap<Arc<Form>, Line>, form: &Arc<Form>) {
    if let Some(line) = lines.get_mut(form) {
        line.reading -= 1;
        if line.reading == 0 && line.waiting.is_empty() {
            lines.remove(form);
        }
    }
}

/// The number in a row's last column.
fn last_number(row: &PgRow) -> Result<usize, DbErr> {
    let number: i32 = row
        .try_get(row.len() - 1)
        .map_err(super::readers::query_error)?;
    Ok(usize::try_from(number).unwrap_or(usize::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_gets_wider_while_it_is_quick_and_ends_where_each_goes_alone() {
        let (quick, slow) = (PATIENCE / 10, PATIENCE * 2);
        let mut line = Line::default();
        let mut widths = Vec::new();
        for _ in 0..8 {
            line.took(line.width, quick);
            widths.push(line.width);
        }
        assert_eq!(widths, [8, 16, 32, 64, 128, 256, 256, 256]);
        line.took(3, quick);
        assert_eq!(
            line.width, 256,
            "a statement for few says nothing of one for many"
        );
        assert!(
            line.enter(2) && line.enter(2) && !line.enter(2),
            "two lanes"
        );
        for width in [128, 64, 32, 16, 8, 4, 2, 1] {
            line.took(line.width, slow);
            assert_eq!(line.width, width);
        }
        line.took(1, quick);
        for _ in 0..ALONE {
            assert!(line.enter(2), "nobody waits where waiting does not pay");
        }
        assert!(!line.enter(2), "it is tried again");
    }
}
