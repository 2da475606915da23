//! Which backups stay.

use std::{collections::BTreeSet, str::FromStr as _};

use chrono::{DateTime, Datelike as _, TimeDelta, Utc};
use chrono_tz::Tz;

use super::Manifest;
use crate::config::Keep;

/// The day, week or month a time is in.
type Of = fn(&DateTime<Tz>) -> (i32, u32);

/// How long one that is not tried may be on its way to be.
const TRYING: TimeDelta = TimeDelta::hours(24);

/// Those of `backups`, the newest first, that nothing keeps: neither a day, a week nor a month whose newest good one it
/// is, nor that it is the newest or the newest good one of all.
pub fn to_remove<'a>(backups: &'a [Manifest], keep: Keep, time_zone: &str) -> Vec<&'a Manifest> {
    let zone = Tz::from_str(time_zone).unwrap_or(Tz::UTC);
    let mut kept: BTreeSet<&str> = BTreeSet::new();
    kept.extend(backups.first().map(|newest| newest.name.as_str()));
    // One that is being tried has nothing to say yet.
    kept.extend(
        backups
            .iter()
            .filter(|backup| backup.verification.is_none())
            .filter(|backup| backups[0].started_at - backup.started_at < TRYING)
            .map(|backup| backup.name.as_str()),
    );
    let good = backups.iter().find(|backup| backup.is_good());
    kept.extend(good.map(|newest| newest.name.as_str()));
    let spans: [(u32, Of); 3] = [
        (keep.daily, |at| (at.year(), at.ordinal())),
        (keep.weekly, |at| {
            (at.iso_week().year(), at.iso_week().week())
        }),
        (keep.monthly, |at| (at.year(), at.month())),
    ];
    for (count, span) in spans {
        let mut seen = BTreeSet::new();
        for backup in backups.iter().filter(|backup| !backup.is_bad()) {
            let local = backup.started_at.with_timezone(&zone);
            if seen.len() < count as usize && seen.insert(span(&local)) {
                kept.insert(&backup.name);
            }
        }
    }
    let is_kept = |backup: &&Manifest| !kept.contains(backup.name.as_str());
    backups.iter().filter(is_kept).collect()
}

/// The moment a name begins with, and what tells it from others of that moment.
pub fn name(at: DateTime<Utc>, distinction: &str) -> String {
    format!("{}-{distinction}", at.format("%Y%m%dT%H%M%S%3fZ"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backup::manifest::{Engine, Verification};

    #[expect(
        clippy::option_option,
        reason = "not tried, tried and good, tried and bad"
    )]
    fn backup(at: &str, problem: Option<Option<&str>>) -> Manifest {
        let at: DateTime<Utc> = at.parse().unwrap();
        Manifest {
            version: 1,
            name: name(at, "x"),
            object: String::new(),
            database: Engine::Sqlite,
            server: String::new(),
            program: String::new(),
            migrations: Vec::new(),
            tables: Vec::new(),
            started_at: at,
            took_millis: 0,
            plain_bytes: 0,
            bytes: 0,
            sha256: String::new(),
            encryption: None,
            origin: String::new(),
            verification: problem.map(|problem| Verification {
                at,
                took_millis: 0,
                problem: problem.map(str::to_owned),
            }),
        }
    }

    const KEEP: Keep = Keep {
        daily: 7,
        weekly: 5,
        monthly: 12,
    };
    const NONE: Keep = Keep {
        daily: 0,
        weekly: 0,
        monthly: 0,
    };
    #[expect(clippy::option_option, reason = "as it is given to `backup`")]
    const GOOD: Option<Option<&str>> = Some(None);

    fn days(count: i64) -> Vec<Manifest> {
        let start: DateTime<Utc> = "2026-01-01T02:00:00Z".parse().unwrap();
        let each = (0..count).rev();
        each.map(|day| backup(&(start + TimeDelta::days(day)).to_rfc3339(), GOOD))
            .collect()
    }

    #[test]
    fn of_three_years_of_nights_days_weeks_and_months_stay() {
        let all = days(3 * 365);
        let removed = to_remove(&all, KEEP, "UTC");
        let stays = all.len() - removed.len();
        // The newest of this week and of this month are days that stay as well, and so may be the last week's, and a
        // week's the month's.
        assert!((7 + 3 + 10..=7 + 5 + 12).contains(&stays), "{stays}");
        assert!(!removed.iter().any(|gone| all[..7].contains(gone)));
        // Night after night the same is kept as in one go.
        let mut kept: Vec<Manifest> = Vec::new();
        for night in all.iter().rev() {
            kept.insert(0, night.clone());
            let names: BTreeSet<String> = to_remove(&kept, KEEP, "UTC")
                .iter()
                .map(|gone| gone.name.clone())
                .collect();
            kept.retain(|backup| !names.contains(&backup.name));
        }
        assert_eq!(kept.len(), stays);
    }

    #[test]
    fn the_newest_good_one_stays_whatever_is_to_be_kept() {
        let all = [
            backup("2026-01-09T02:00:00Z", Some(Some("it is damaged"))),
            backup("2026-01-08T02:00:00Z", None),
            backup("2026-01-07T02:00:00Z", GOOD),
            backup("2026-01-06T02:00:00Z", GOOD),
        ];
        let removed = to_remove(&all, NONE, "UTC");
        assert_eq!(removed, [&all[1], &all[3]]);
    }

    #[test]
    fn one_that_is_being_tried_stays() {
        let all = [
            backup("2026-01-09T02:00:09Z", GOOD),
            backup("2026-01-09T02:00:05Z", None),
            backup("2026-01-01T02:00:00Z", None),
        ];
        assert_eq!(to_remove(&all, NONE, "UTC"), [&all[2]]);
    }

    #[test]
    fn one_that_was_found_bad_keeps_no_day() {
        let all = [
            backup("2026-01-09T12:00:00Z", GOOD),
            backup("2026-01-08T12:00:00Z", Some(Some("it is damaged"))),
            backup("2026-01-08T02:00:00Z", GOOD),
        ];
        assert_eq!(to_remove(&all, KEEP, "UTC"), [&all[1]]);
    }

    #[test]
    fn a_day_is_one_of_the_time_zone() {
        let all = [
            backup("2026-01-09T23:30:00Z", GOOD),
            backup("2026-01-09T22:30:00Z", GOOD),
        ];
        let keep = Keep { daily: 9, ..NONE };
        assert_eq!(to_remove(&all, keep, "UTC"), [&all[1]]);
        assert!(to_remove(&all, keep, "Europe/Berlin").is_empty());
    }
}
