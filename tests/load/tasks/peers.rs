//! Celery and BullMQ, measured by their own clients; see `peers/run.sh`.

use serde_json::Value;
use tokio::process::Command;

use crate::{Row, Spread};

pub async fn measure(redis_url: &str) -> Vec<Row> {
    let mut rows = Vec::new();
    for peer in ["celery", "bullmq"] {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/load/tasks/peers/run.sh");
        let output = Command::new(script)
            .arg(peer)
            .env("REDIS_URL", redis_url)
            .output()
            .await
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        let Ok(seen) = serde_json::from_str::<Value>(text.trim()) else {
            println!(
                "{peer} could not be measured: {}",
                String::from_utf8_lossy(&output.stderr)
            );
            continue;
        };
        let number = |field: &str| seen[field].as_f64();
        let name = format!("{peer} {}", seen["version"].as_str().unwrap_or_default());
        if let Some(rate) = number("bulk_rate_per_s") {
            rows.push(Row {
                name: format!("{name}, bulk of 1000"),
                rate,
                start: None,
                memory_mb: None,
            });
        }
        rows.push(Row {
            name: format!("{name}, one by one"),
            rate: number("rate_per_s").unwrap_or(f64::NAN),
            start: number("start_p50_ms")
                .zip(number("start_p99_ms"))
                .map(|(p50, p99)| Spread { p50, p99 }),
            memory_mb: number("memory_mb"),
        });
    }
    rows
}
