//! Many sockets on one server: how soon an event reaches the last of them, what one costs, and what a change costs the
//! database. `run.sh` starts what it needs; the times are for reading, nothing is asserted of them.

#![expect(
    clippy::disallowed_methods,
    reason = "a benchmark measures and waits in real time"
)]

mod bare;
mod clients;
mod distinct;
mod live;
mod server;

use std::time::Duration;

use clients::{Crowd, Delivery, WATCH};
use server::{Kind, Server};

/// A size from the environment.
fn size(name: &str, usual: usize) -> usize {
    std::env::var(name).map_or(usual, |text| text.parse().expect("a number"))
}

#[tokio::main]
async fn main() {
    if std::env::args().nth(1).as_deref() == Some("bare") {
        return bare::serve().await;
    }
    if std::env::var_os("ONLY_DISTINCT").is_some() {
        return distinct::measure(size("DISTINCT", 10_000), size("SECONDS_DISTINCT", 20)).await;
    }
    let (watching, events) = (size("FANOUT", 1000), size("EVENTS", 100));
    println!("fan-out: {watching} sockets on one event, {events} events, publish to last socket\n");
    println!(
        "{:<24} {:>9} {:>9} {:>9} {:>12}",
        "", "p50 ms", "p99 ms", "KiB each", "of the bare"
    );
    let mut bare = None;
    for kind in [Kind::Bare, Kind::Ours, Kind::Before, Kind::Node] {
        let Some(row) = fan_out(kind, watching, events, Duration::from_millis(20)).await else {
            continue;
        };
        let (p50, p99) = (row.last(0.5), row.last(0.99));
        let bare = *bare.get_or_insert(p50);
        println!(
            "{:<24} {p50:>9.2} {p99:>9.2} {:>9.1} {:>12.2}",
            kind.name(),
            row.kib_each,
            p50 / bare
        );
    }
    let (held, seconds) = (size("HELD", 10_000), size("SECONDS_HELD", 20));
    println!(
        "\nheld: {held} sockets, one event a second for {seconds} s, publish to each socket\n"
    );
    println!(
        "{:<24} {:>9} {:>9} {:>9} {:>12}",
        "", "p50 ms", "p99 ms", "KiB each", "last p99 ms"
    );
    for kind in [Kind::Bare, Kind::Ours] {
        let Some(row) = fan_out(kind, held, seconds, Duration::from_secs(1)).await else {
            continue;
        };
        println!(
            "{:<24} {:>9.2} {:>9.2} {:>9.1} {:>12.2}",
            kind.name(),
            row.each(0.5),
            row.each(0.99),
            row.kib_each,
            row.last(0.99)
        );
    }
    live::measure(size("LIVE", 10_000), size("KEYS", 100)).await;
    distinct::measure(size("DISTINCT", 10_000), size("SECONDS_DISTINCT", 20)).await;
}

/// Milliseconds of every delivery, and of the last one of each event.
struct Row {
    each: Vec<f64>,
    last: Vec<f64>,
    kib_each: f64,
}

impl Row {
    fn each(&self, part: f64) -> f64 {
        quantile(&self.each, part)
    }
    fn last(&self, part: f64) -> f64 {
        quantile(&self.last, part)
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss
)]
fn quantile(sorted: &[f64], part: f64) -> f64 {
    sorted[((sorted.len() as f64 * part) as usize).min(sorted.len() - 1)]
}

#[expect(clippy::cast_precision_loss)]
async fn fan_out(kind: Kind, sockets: usize, events: usize, pause: Duration) -> Option<Row> {
    let mut server = Server::start(kind).await?;
    let (token, tasks) = server.prepare(1).await;
    // What the second half adds: the first takes up what the server's start has left over.
    let mut crowd = Crowd::new(WATCH);
    let mut resident = [0; 2];
    for kib in &mut resident {
        crowd.grow(&server, &token, &tasks, sockets / 2, 1).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        *kib = server.resident_kib();
    }
    let kib_each = (resident[1] - resident[0]) as f64 / (sockets / 2) as f64;
    // The first are for warming up.
    let mut row = Row {
        each: Vec::new(),
        last: Vec::new(),
        kib_each,
    };
    for event in 0..events + events / 10 {
        tokio::time::sleep(pause).await;
        let published = server.publish(&tasks[0], event).await;
        let Delivery { arrivals } = crowd.all_have(event).await;
        if event < events / 10 {
            continue;
        }
        let millis: Vec<f64> = arrivals
            .iter()
            .map(|at| at.duration_since(published).as_secs_f64() * 1000.0)
            .collect();
        row.last.push(millis.iter().copied().fold(0.0, f64::max));
        row.each.extend(millis);
    }
    row.each.sort_by(f64::total_cmp);
    row.last.sort_by(f64::total_cmp);
    server.stop().await;
    Some(row)
}
