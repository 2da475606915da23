//! As many live queries as rows, and every row changed every second: the shape of Hasura's published test of its live
//! queries, with the database on the same processors.

use std::time::{Duration, Instant};

use crate::{
    clients::{Crowd, WATCH_NODE},
    quantile,
    server::{Kind, Server},
};

/// Commits a second; each changes its part of the rows.
const COMMITS: usize = 20;

/// The text by which reads of a list's rows are known.
const READS: &str = "FROM task AS t";

pub async fn measure(queries: usize, seconds: usize) {
    let mut server = Server::start(Kind::Ours).await.unwrap();
    let (token, tasks) = server.prepare(1).await;
    let tasks = server.copy(&tasks[0], queries).await;
    let mut crowd = Crowd::new(WATCH_NODE);
    let began = Instant::now();
    crowd.grow(&server, &token, &tasks, queries, 1).await;
    let opened = began.elapsed();
    println!(
        "\ndistinct: {queries} live queries of a row each, on as many sockets (opened in {:.1} s), each row changed every second for {seconds} s\n",
        opened.as_secs_f64()
    );
    tokio::time::sleep(Duration::from_secs(2)).await;
    let idle = server.reads(READS).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let idle = server.reads(READS).await - idle;

    let (reads, [ours, database]) = (server.reads(READS).await, server.cpu_millis());
    let began = Instant::now();
    let part = queries.div_ceil(COMMITS);
    let mut commits = Vec::new();
    let mut heard = Vec::with_capacity(queries * seconds);
    let pause = Duration::from_secs(1) / u32::try_from(COMMITS).unwrap();
    let mut turns = tokio::time::interval(pause);
    for _ in 0..seconds {
        for tasks in tasks.chunks(part) {
            loop {
                tokio::select! {
                    biased;
                    _ = turns.tick() => break,
                    news = crowd.next() => heard.push(news),
                }
            }
            commits.push(server.publish_all(tasks, commits.len()).await);
        }
    }
    while heard.len() < queries * seconds {
        let Ok(news) = tokio::time::timeout(Duration::from_secs(5), crowd.next()).await else {
            break;
        };
        heard.push(news);
    }
    let time = began.elapsed();
    let [ours, database] = {
        let now = server.cpu_millis();
        [now[0] - ours, now[1] - database]
    };
    let reads = server.reads(READS).await - reads;
    let mut stale: Vec<f64> = heard
        .iter()
        .map(|(commit, at)| at.duration_since(commits[*commit]).as_secs_f64() * 1000.0)
        .collect();
    stale.sort_by(f64::total_cmp);
    let share = |millis: f64| millis / 10.0 / time.as_secs_f64();
    println!("{:<44} {:>10}", "changes", queries * seconds);
    println!("{:<44} {:>10}", "answers", heard.len());
    println!("{:<44} {:>10.1}", "seconds for them", time.as_secs_f64());
    for (name, part) in [("p50", 0.5), ("p99", 0.99), ("most", 1.0)] {
        let name = format!("commit to client, ms, {name}");
        println!("{name:<44} {:>10.1}", quantile(&stale, part));
    }
    println!("{:<44} {:>10.0}", "server, % of a processor", share(ours));
    println!(
        "{:<44} {:>10.0}",
        "PostgreSQL, % of a processor",
        share(database)
    );
    println!("{:<44} {reads:>10}", "reads of the database");
    println!("{:<44} {idle:>10}", "reads in 5 s without changes");
    server.stop().await;
}
