//! What the machine is and how much of it is at work, from `/proc`.

use std::{fs, io};

/// How large a machine is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Size {
    /// Thousandths of a processor.
    pub cpu_millis: i64,
    pub memory_bytes: i64,
}

/// The time processors have spent since the machine started, in ticks of all of them together.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
struct Ticks {
    all: u64,
    idle: u64,
}

/// Measures how much of the processors is at work between two looks; at the first, since the machine started.
#[derive(Default)]
pub struct Gauge {
    last: Ticks,
}

impl Gauge {
    /// Thousandths of a processor that were at work since the look before.
    pub fn cpu_used_millis(&mut self) -> io::Result<i64> {
        let text = fs::read_to_string("/proc/stat")?;
        let (now, cpus) = read_stat(&text).ok_or_else(unreadable)?;
        let used = used_millis(self.last, now, cpus);
        self.last = now;
        Ok(used)
    }
}

/// How large this machine is.
pub fn size() -> io::Result<Size> {
    let text = fs::read_to_string("/proc/stat")?;
    let (_, cpus) = read_stat(&text).ok_or_else(unreadable)?;
    Ok(Size {
        cpu_millis: cpus * 1000,
        memory_bytes: memory("MemTotal:")?,
    })
}

/// Bytes that can be had without swapping.
pub fn memory_available_bytes() -> io::Result<i64> {
    memory("MemAvailable:")
}

/// What the machine is called.
pub fn name() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/hostname")?
        .trim()
        .to_owned())
}

fn unreadable() -> io::Error {
    io::Error::other("/proc says something else than expected")
}

fn memory(name: &str) -> io::Result<i64> {
    let text = fs::read_to_string("/proc/meminfo")?;
    read_memory(&text, name).ok_or_else(unreadable)
}

fn read_memory(text: &str, name: &str) -> Option<i64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(name))?;
    let kibibytes: i64 = rest.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kibibytes.checked_mul(1024)
}

/// The ticks of all processors, and how many these are.
fn read_stat(text: &str) -> Option<(Ticks, i64)> {
    let mut ticks = Ticks::default();
    let mut cpus = 0;
    for line in text.lines().filter(|line| line.starts_with("cpu")) {
        let Some(fields) = line.strip_prefix("cpu ") else {
            cpus += 1;
            continue;
        };
        // user, nice, system, idle, iowait, irq, softirq, steal; what guests had is part of the user's.
        for (at, field) in fields.split_whitespace().take(8).enumerate() {
            let field: u64 = field.parse().ok()?;
            ticks.all += field;
            if at == 3 || at == 4 {
                ticks.idle += field;
            }
        }
    }
    (cpus > 0 && ticks.all > 0).then_some((ticks, cpus))
}

fn used_millis(before: Ticks, now: Ticks, cpus: i64) -> i64 {
    let all = now.all.saturating_sub(before.all);
    // The kernel may take back a little of what it had counted as idle.
    let idle = now.idle.saturating_sub(before.idle).min(all);
    if all == 0 {
        return 0;
    }
    let share = (all - idle) * 1000 / all;
    i64::try_from(share).unwrap_or(1000) * cpus
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_at_work_is_the_difference_of_two_looks() {
        let text = |user, idle| {
            format!("cpu  {user} 0 10 {idle} 5 0 0 0 99 99\ncpu0 1 1 1\ncpu1 1 1 1\nintr 7\n")
        };
        let read = |user, idle| read_stat(&text(user, idle)).unwrap();
        let (before, cpus) = read(100, 900);
        assert_eq!(cpus, 2);
        assert_eq!(used_millis(before, read(150, 950).0, cpus), 1000);
        assert_eq!(used_millis(before, before, cpus), 0);
        assert_eq!(used_millis(before, read(100, 1000).0, cpus), 0);
        assert_eq!(read_stat("intr 7\n"), None);
    }

    #[test]
    fn memory_is_told_in_kibibytes() {
        let text = "MemTotal:       16 kB\nMemAvailable:    8 kB\n";
        assert_eq!(read_memory(text, "MemAvailable:"), Some(8 * 1024));
        assert_eq!(read_memory(text, "MemFree:"), None);
    }

    #[test]
    fn this_machine_has_a_size_and_a_name() {
        let size = size().unwrap();
        assert!(size.cpu_millis >= 1000 && size.memory_bytes > 1 << 20);
        assert!((0..=size.memory_bytes).contains(&memory_available_bytes().unwrap()));
        assert!((0..=size.cpu_millis).contains(&Gauge::default().cpu_used_millis().unwrap()));
        assert!(!name().unwrap().is_empty());
    }
}
