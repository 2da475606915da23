//! What changes cost the database while thousands watch.

use std::time::Duration;

use crate::{
    clients::{Crowd, WATCH},
    server::{Kind, Server},
};

/// Live operations of one socket.
const EACH: usize = 10;
const ROUNDS: usize = 10;

/// The text by which reads of watched tasks are known.
const READS: &str = "FROM \"task\"";

/// Counts the reads of tasks for changes of more and more of the watched rows.
pub async fn measure(operations: usize, keys: usize) {
    let mut server = Server::start(Kind::Ours).await.unwrap();
    let (token, tasks) = server.prepare(keys).await;
    let sockets = operations / EACH;
    let mut crowd = Crowd::new(WATCH);
    crowd.grow(&server, &token, &tasks, sockets, EACH).await;
    println!("\nlive: {operations} subscriptions of {keys} tasks on {sockets} sockets\n");
    println!(
        "{:<24} {:>9} {:>9} {:>9}",
        "rows changed", "answers", "reads", "a change"
    );
    for touched in [1, keys.div_ceil(10), keys] {
        tokio::time::sleep(Duration::from_millis(500)).await;
        let before = server.reads(READS).await;
        for round in 0..ROUNDS {
            for task in &tasks[..touched] {
                server.publish(task, touched * 1000 + round).await;
            }
            crowd
                .have(touched * 1000 + round, touched * operations / keys)
                .await;
        }
        let (changes, reads) = (touched * ROUNDS, server.reads(READS).await - before);
        let ratio = format!(
            "{:.2}",
            f64::from(i32::try_from(reads).unwrap()) / f64::from(i32::try_from(changes).unwrap())
        );
        println!(
            "{:<24} {:>9} {reads:>9} {ratio:>9}",
            changes,
            changes * operations / keys
        );
    }
    server.stop().await;
}
