//! What has happened: always as a hash, in words when somebody wants to read it.

use std::time::Duration;

pub struct Trace {
    hash: u64,
    lines: Option<Vec<String>>,
}

impl Trace {
    pub const fn new(is_read: bool) -> Self {
        Self {
            hash: 0xcbf2_9ce4_8422_2325,
            lines: if is_read { Some(Vec::new()) } else { None },
        }
    }

    pub const fn hash(&self) -> u64 {
        self.hash
    }

    /// FNV-1a over words of eight bytes.
    pub const fn fold(&mut self, word: u64) {
        self.hash = (self.hash ^ word)
            .wrapping_mul(0x0100_0000_01b3)
            .rotate_left(23);
    }

    pub fn note(&mut self, at: Duration, node: usize, what: &str, words: impl FnOnce() -> String) {
        self.fold(u64::try_from(at.as_micros()).unwrap_or(u64::MAX));
        self.fold(node as u64);
        for byte in what.bytes() {
            self.fold(u64::from(byte));
        }
        if let Some(lines) = &mut self.lines {
            lines.push(format!(
                "{:>9.3} s  node {node:<3} {what:<18} {}",
                at.as_secs_f64(),
                words()
            ));
        }
    }

    /// The newest lines, the oldest of them first.
    pub fn last(&self, count: usize) -> &[String] {
        let lines = self.lines.as_deref().unwrap_or_default();
        &lines[lines.len().saturating_sub(count)..]
    }
}
