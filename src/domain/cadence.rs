//! When something recurs: a cron expression, read in a time zone.

use std::str::FromStr as _;

use chrono::{DateTime, Utc};
use chrono_tz::Tz;
use croner::Cron;

use super::value::Refused;

/// A cron expression of five fields, or six with seconds in front, and the time zone it is meant in.
///
/// In the hour a clock is put forward a fixed time runs right after the gap; in the hour it is put back, once.
#[derive(Clone, Debug)]
pub struct Cadence {
    cron: Cron,
    zone: Tz,
}

impl Cadence {
    pub fn parse(cron: &str, zone: &str) -> Result<Self, Refused> {
        let zone = Tz::from_str(zone)
            .map_err(|_| Refused(format!("'{zone}' is not a time zone such as Europe/Berlin")))?;
        let cron = Cron::from_str(cron)
            .map_err(|error| Refused(format!("'{cron}' is not a cron expression: {error}")))?;
        Ok(Self { cron, zone })
    }

    /// The first time after `after`; `None` when there is none.
    pub fn next(&self, after: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let next = self
            .cron
            .find_next_occurrence(&after.with_timezone(&self.zone), false)
            .ok()?;
        Some(next.with_timezone(&Utc))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn times(cron: &str, zone: &str, from: &str, count: usize) -> Vec<String> {
        let cadence = Cadence::parse(cron, zone).unwrap();
        let start: DateTime<Utc> = from.parse().unwrap();
        let next = |at: &DateTime<Utc>| cadence.next(*at);
        std::iter::successors(cadence.next(start), next)
            .take(count)
            .map(|at| at.format("%m-%dT%H:%M").to_string())
            .collect()
    }

    #[test]
    fn a_wall_clock_time_follows_its_zone_through_the_change_of_the_clock() {
        // Berlin goes from UTC+1 to UTC+2 on 29 March 2026, at 02:00.
        assert_eq!(
            times("30 9 * * *", "Europe/Berlin", "2026-03-28T00:00:00Z", 3),
            ["03-28T08:30", "03-29T07:30", "03-30T07:30"]
        );
        assert_eq!(
            times("30 2 * * *", "Europe/Berlin", "2026-03-28T12:00:00Z", 2),
            ["03-29T01:00", "03-30T00:30"]
        );
        // And back on 25 October, at 03:00: half past two comes twice and counts once.
        assert_eq!(
            times("30 2 * * *", "Europe/Berlin", "2026-10-24T12:00:00Z", 2),
            ["10-25T00:30", "10-26T01:30"]
        );
    }

    #[test]
    fn what_is_no_cadence_is_refused_with_what_is_wrong() {
        assert!(Cadence::parse("* * *", "UTC").is_err());
        assert!(Cadence::parse("* * * * *", "Mars/Base").is_err());
        assert!(
            Cadence::parse("0 0 30 2 *", "UTC")
                .is_ok_and(|never| { never.next(DateTime::UNIX_EPOCH).is_none() })
        );
    }
}
