//! QEMU's processes, which outlive the worker that has started them and are found again.

use std::{fs, path::Path};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// A process of a machine, told from a later one of the same number by the time of its start.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Process {
    pub(super) pid: i32,
    /// Clock ticks after the host's.
    started: u64,
}

/// What a process has taken.
pub(super) struct Taken {
    pub(super) cpu_micros: i64,
    pub(super) memory_bytes: i64,
}

impl Process {
    /// The process with this number, if it is a machine's whose pid file is `pid_file`.
    fn read(pid: i32, pid_file: &Path) -> Option<Self> {
        let started = Stat::of(pid)?.started;
        let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let mut arguments = line.split(|byte| *byte == 0);
        arguments.find(|argument| *argument == b"-pidfile")?;
        (arguments.next()? == pid_file.as_os_str().as_encoded_bytes())
            .then_some(Self { pid, started })
    }

    /// The one the pid file names. `Err` when there is no pid file, so that nothing is known.
    pub(super) fn named_by(pid_file: &Path) -> Result<Option<Self>, NoPidFile> {
        let text = fs::read_to_string(pid_file).map_err(|_| NoPidFile)?;
        // An empty one is about to be written.
        let pid = text.trim().parse().map_err(|_| NoPidFile)?;
        Ok(Self::read(pid, pid_file))
    }

    /// All that were started with this pid file, by their command lines: for a worker that was killed before QEMU had
    /// written it.
    pub(super) fn all_with(pid_file: &Path) -> Vec<Self> {
        all(|pid| Self::read(pid, pid_file))
    }

    /// All that were told of `file`, by their command lines: a tool goes on when the worker that has started it is killed.
    pub(super) fn all_on(file: &Path) -> Vec<Self> {
        let file = file.as_os_str().as_encoded_bytes();
        all(|pid| {
            let started = Stat::of(pid)?.started;
            let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
            let mut arguments = line.split(|byte| *byte == 0);
            arguments
                .any(|argument| argument == file)
                .then_some(Self { pid, started })
        })
    }

    pub(super) fn is_alive(self) -> bool {
        Stat::of(self.pid).is_some_and(|stat| stat.started == self.started)
    }

    /// Ends it at once; a process that has its number by now is not touched.
    pub(super) fn kill(self) {
        let Some(pid) = Pid::from_raw(self.pid) else {
            return;
        };
        // The handle is of one process for good, so what is seen to be alive after it was opened is what it names.
        if let Ok(handle) = pidfd_open(pid, PidfdFlags::empty())
            && self.is_alive()
        {
            let _ = pidfd_send_signal(handle, Signal::KILL);
        }
    }

    /// What it has taken; `None` when it is gone.
    pub(super) fn taken(self) -> Option<Taken> {
        let stat = Stat::of(self.pid).filter(|stat| stat.started == self.started)?;
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid)).ok()?;
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kibibytes: i64 = resident?.split_whitespace().next()?.parse().ok()?;
        let second = i64::try_from(rustix::param::clock_ticks_per_second()).ok()?;
        Some(Taken {
            cpu_micros: stat.ticks * 1_000_000 / second.max(1),
            memory_bytes: kibibytes * 1024,
        })
    }
}

fn all(read: impl Fn(i32) -> Option<Process>) -> Vec<Process> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    pids.filter_map(read).collect()
}

/// There is no pid file, or nothing in it.
#[derive(Debug)]
pub(super) struct NoPidFile;

/// What `/proc/<pid>/stat` says (proc(5)) of a process that has not ended.
struct Stat {
    /// Of the processor, for itself and for it in the kernel.
    ticks: i64,
    started: u64,
}

impl Stat {
    fn of(pid: i32) -> Option<Self> {
        Self::parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
    }

    fn parse(text: &str) -> Option<Self> {
        // The name stands in brackets and may hold any.
        let (_, rest) = text.rsplit_once(')')?;
        let fields: Vec<&str> = rest.split_whitespace().collect();
        let number = |at: usize| fields.get(at)?.parse::<i64>().ok();
        // Its first thread ends before the others do, and what it had open is closed by the last.
        if matches!(*fields.first()?, "Z" | "X") && number(17)? <= 1 {
            return None;
        }
        Some(Self {
            ticks: number(11)? + number(12)?,
            started: fields.get(19)?.parse().ok()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_read_whatever_its_name() {
        let line = "42 (a) b) S 1 42 42 0 -1 4194560 9 8 7 6 30 12 0 0 20 0 3 0 5150 1000 200";
        let stat = Stat::parse(line).unwrap();
        assert_eq!((stat.ticks, stat.started), (42, 5150));
        let ended = line.replace(" S ", " Z ");
        assert!(Stat::parse(&ended).is_some());
        assert!(Stat::parse(&ended.replace(" 0 3 0 ", " 0 1 0 ")).is_none());
    }

    #[test]
    fn a_process_of_something_else_is_no_machine() {
        let own = i32::try_from(std::process::id()).unwrap();
        assert_eq!(Process::read(own, Path::new("/nowhere/pid")), None);
    }
}
