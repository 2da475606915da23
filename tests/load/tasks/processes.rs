//! The service's own processes, and what they and the database's use of the machine.

use std::{collections::BTreeMap, fs, process::Stdio};

use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, Command},
};

/// A running process; it is killed with the value.
pub struct Process {
    child: Child,
    /// Where it serves, if it does.
    pub address: Option<String>,
}

impl Process {
    pub async fn start(subcommand: &str, settings: &BTreeMap<String, String>) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_main-webserver"))
            .arg(subcommand)
            .env_clear()
            .envs(settings)
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let last = if subcommand == "web" {
            "queue"
        } else {
            "engine"
        };
        let mut address = None;
        while let Some(line) = lines.next_line().await.unwrap() {
            if let Some(url) = line.trim().strip_prefix("endpoint") {
                let host = url.trim().trim_start_matches("http://");
                address = host.split('/').next().map(str::to_owned);
            }
            if line.trim().starts_with(last) {
                break;
            }
        }
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        Self { child, address }
    }

    pub fn pid(&self) -> u32 {
        self.child.id().unwrap()
    }

    /// Its proportional share of memory.
    pub fn memory_mb(&self) -> f64 {
        let smaps = fs::read_to_string(format!("/proc/{}/smaps_rollup", self.pid())).unwrap();
        let pss = smaps.lines().find(|line| line.starts_with("Pss:")).unwrap();
        let kib: f64 = pss.split_whitespace().nth(1).unwrap().parse().unwrap();
        kib / 1024.0
    }
}

/// CPU time a process has used, its ended children's too, in µs.
pub fn cpu_micros(pid: u32) -> f64 {
    let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else {
        return 0.0;
    };
    // The name in brackets may hold anything; the numbers stand behind it.
    let fields: Vec<&str> = stat
        .rsplit(')')
        .next()
        .unwrap()
        .split_whitespace()
        .collect();
    let ticks: f64 = fields[11..15]
        .iter()
        .map(|field| field.parse::<f64>().unwrap())
        .sum();
    // Linux counts in hundredths of a second for user space.
    ticks * 10_000.0
}

/// The same for a process and all that descend from it.
pub fn tree_micros(root: u32) -> f64 {
    let mut total = cpu_micros(root);
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok())
        else {
            continue;
        };
        let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else {
            continue;
        };
        let parent = stat.rsplit(')').next().unwrap().split_whitespace().nth(1);
        if parent == Some(root.to_string().as_str()) {
            total += cpu_micros(pid);
        }
    }
    total
}
