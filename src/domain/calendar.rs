//! Spans of a calendar: where hours, days, weeks and months begin in a time zone.

use std::str::FromStr as _;

use chrono::{
    DateTime, Datelike as _, Days, Months, NaiveDateTime, TimeDelta, TimeZone as _, Timelike as _,
    Utc,
};
use chrono_tz::Tz;

use super::value::Refused;

/// Most spans a stretch of time is cut into.
const MOST: usize = 1000;

/// A span of a calendar.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Span {
    Hour,
    Day,
    /// From Monday to Monday.
    Week,
    Month,
}

impl Span {
    /// The beginning of the span that a local time is in.
    fn floor(self, at: NaiveDateTime) -> NaiveDateTime {
        let midnight = at.date().and_time(chrono::NaiveTime::MIN);
        let days = |days: u32| midnight - Days::new(u64::from(days));
        match self {
            Self::Hour => midnight + TimeDelta::hours(i64::from(at.hour())),
            Self::Day => midnight,
            Self::Week => days(at.weekday().num_days_from_monday()),
            Self::Month => days(at.day0()),
        }
    }

    /// The beginning of the next one.
    fn next(self, at: NaiveDateTime) -> NaiveDateTime {
        match self {
            Self::Hour => at + TimeDelta::hours(1),
            Self::Day => at + Days::new(1),
            Self::Week => at + Days::new(7),
            Self::Month => at + Months::new(1),
        }
    }
}

/// A stretch of time cut into spans.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Spans {
    /// Where each begins, the earliest first: of the first it is not after the stretch's beginning.
    pub starts: Vec<DateTime<Utc>>,
    /// Where the last one is cut off.
    pub end: DateTime<Utc>,
}

impl Spans {
    /// Cuts the time between `from` and `to` into `every` of the calendar of `zone`, a name such as `Europe/Berlin`.
    pub fn cut(
        from: DateTime<Utc>,
        to: DateTime<Utc>,
        every: Span,
        zone: &str,
    ) -> Result<Self, Refused> {
        let zone = Tz::from_str(zone)
            .map_err(|_| Refused(format!("'{zone}' is not a time zone such as Europe/Berlin")))?;
        if from >= to {
            return Err(Refused("its end is not after its beginning".to_owned()));
        }
        let mut local = every.floor(from.with_timezone(&zone).naive_local());
        let mut starts: Vec<DateTime<Utc>> = Vec::new();
        loop {
            let at = instant(zone, local);
            if at >= to {
                break;
            }
            // An hour that a clock shows twice is one span; one that it leaves out is none.
            if starts.last().is_none_or(|last| *last < at) {
                if starts.len() == MOST {
                    return Err(Refused(format!("it has more than {MOST} such spans")));
                }
                starts.push(at);
            }
            local = every.next(local);
        }
        Ok(Self { starts, end: to })
    }
}

/// When a clock of the zone first shows `local`; for a time it leaves out, when it goes on.
fn instant(zone: Tz, local: NaiveDateTime) -> DateTime<Utc> {
    let mut local = local;
    // No clock is put forward by more than a day.
    for _ in 0..=24 * 4 {
        if let Some(at) = zone.from_local_datetime(&local).earliest() {
            return at.with_timezone(&Utc);
        }
        local += TimeDelta::minutes(15);
    }
    local.and_utc()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(from: &str, to: &str, every: Span, zone: &str) -> Vec<String> {
        let spans = Spans::cut(from.parse().unwrap(), to.parse().unwrap(), every, zone);
        let starts = spans.unwrap().starts;
        starts
            .iter()
            .map(|at| at.format("%m-%dT%H:%M").to_string())
            .collect()
    }

    #[test]
    fn spans_begin_where_the_zones_clock_says() {
        // The clock is put back on 25 October and forward on 29 March.
        assert_eq!(
            cut(
                "2026-10-24T12:00:00Z",
                "2026-10-27T00:00:00Z",
                Span::Day,
                "Europe/Berlin"
            ),
            ["10-23T22:00", "10-24T22:00", "10-25T23:00", "10-26T23:00"]
        );
        assert_eq!(
            cut(
                "2026-03-29T00:30:00Z",
                "2026-03-29T03:00:00Z",
                Span::Hour,
                "Europe/Berlin"
            ),
            ["03-29T00:00", "03-29T01:00", "03-29T02:00"]
        );
        assert_eq!(
            cut(
                "2026-10-25T00:00:00Z",
                "2026-10-25T03:00:00Z",
                Span::Hour,
                "Europe/Berlin"
            ),
            ["10-25T00:00", "10-25T02:00"]
        );
        assert_eq!(
            cut(
                "2026-11-28T06:00:00Z",
                "2026-12-10T00:00:00Z",
                Span::Week,
                "UTC"
            ),
            ["11-23T00:00", "11-30T00:00", "12-07T00:00"]
        );
        assert_eq!(
            cut(
                "2026-01-31T06:00:00Z",
                "2026-04-01T00:00:00Z",
                Span::Month,
                "Asia/Kolkata"
            ),
            ["12-31T18:30", "01-31T18:30", "02-28T18:30", "03-31T18:30"]
        );
    }

    #[test]
    fn a_stretch_has_a_bound() {
        let (from, to) = (
            "2026-01-01T00:00:00Z".parse().unwrap(),
            "2026-03-01T00:00:00Z".parse().unwrap(),
        );
        assert!(Spans::cut(from, to, Span::Hour, "UTC").is_err());
        assert!(Spans::cut(to, from, Span::Day, "UTC").is_err());
        assert!(Spans::cut(from, to, Span::Day, "Mars/Olympus").is_err());
        assert_eq!(
            Spans::cut(from, to, Span::Day, "UTC").unwrap().starts.len(),
            59
        );
    }
}
