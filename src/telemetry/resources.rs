//! What the machine says of this process, by the names every Prometheus client gives them.
//!
//! Linux tells it in /proc (proc(5)); elsewhere there is nothing to tell.

use std::fmt::{Result, Write};

use super::process::started;

/// Clock ticks of a second in /proc, on every Linux there is (`USER_HZ`).
const TICKS: f64 = 100.0;
const PAGE: u64 = 4096;

struct Resources {
    cpu_seconds: f64,
    resident_bytes: u64,
    virtual_bytes: u64,
    threads: u64,
    open_files: u64,
    most_files: Option<u64>,
}

/// Writes them as OpenMetrics text.
pub(super) fn write(text: &mut impl Write) -> Result {
    let start = started().timestamp_micros();
    #[expect(clippy::cast_precision_loss, reason = "exact until the year 2255")]
    let start = start as f64 / 1e6;
    gauge(
        text,
        "process_start_time_seconds",
        "When it was started, since the epoch",
        start,
    )?;
    let Some(resources) = read() else {
        return Ok(());
    };
    writeln!(text, "# HELP process_cpu_seconds Time on processors.")?;
    writeln!(text, "# TYPE process_cpu_seconds counter")?;
    writeln!(text, "process_cpu_seconds_total {}", resources.cpu_seconds)?;
    gauge(
        text,
        "process_resident_memory_bytes",
        "Memory in RAM",
        resources.resident_bytes,
    )?;
    gauge(
        text,
        "process_virtual_memory_bytes",
        "Memory in all",
        resources.virtual_bytes,
    )?;
    gauge(text, "process_threads", "Threads", resources.threads)?;
    gauge(
        text,
        "process_open_fds",
        "Open files and sockets",
        resources.open_files,
    )?;
    match resources.most_files {
        Some(most) => gauge(text, "process_max_fds", "Most of them", most),
        None => Ok(()),
    }
}

fn gauge(text: &mut impl Write, name: &str, help: &str, value: impl std::fmt::Display) -> Result {
    writeln!(
        text,
        "# HELP {name} {help}.\n# TYPE {name} gauge\n{name} {value}"
    )
}

fn read() -> Option<Resources> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The second field is a name in parentheses, which may have anything inside.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    // Counted from the third.
    let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
    let limits = std::fs::read_to_string("/proc/self/limits").ok()?;
    let most_files = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))
        .and_then(|rest| rest.split_whitespace().next()?.parse().ok());
    #[expect(clippy::cast_precision_loss, reason = "exact for three million years")]
    let cpu_seconds = (field(14)? + field(15)?) as f64 / TICKS;
    Some(Resources {
        cpu_seconds,
        resident_bytes: field(24)? * PAGE,
        virtual_bytes: field(23)?,
        threads: field(20)?,
        // Less the one it is counted by.
        open_files: (std::fs::read_dir("/proc/self/fd").ok()?.count() as u64).saturating_sub(1),
        most_files,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_machine_says_can_be() {
        let resources = read().unwrap();
        assert!(resources.resident_bytes > 1 << 20 && resources.resident_bytes < 1 << 40);
        assert!(resources.virtual_bytes >= resources.resident_bytes);
        assert!(resources.threads >= 1 && resources.open_files >= 3);
        let files = std::fs::File::open("/proc/self/stat").unwrap();
        assert!(read().unwrap().open_files > resources.open_files - 1);
        drop(files);
        let mut text = String::new();
        write(&mut text).unwrap();
        assert!(text.contains("\nprocess_cpu_seconds_total "), "{text}");
    }
}
