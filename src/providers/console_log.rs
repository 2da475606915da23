//! What a machine writes on its serial port, as it is kept in a file.

use std::{
    fs::File,
    io,
    os::unix::fs::{FileExt as _, MetadataExt as _},
    path::Path,
    time::Duration,
};

use futures_util::{StreamExt as _, stream, stream::BoxStream};

use super::{Line, Start, program::moment};

/// Longest line, in bytes; what never ends one is cut.
const LONGEST_LINE: usize = 8 * 1024;
/// Read at once.
const PIECE: usize = 64 * 1024;
/// Most that is read for the last lines.
const TAIL: u64 = 4 << 20;
/// How often a log is looked at that does not grow.
const LOOK: Duration = Duration::from_millis(200);

/// Whether `text` is in the log from `from` on; if not, where to look from the next time.
pub(super) fn search(path: &Path, from: u64, text: &str) -> io::Result<Result<(), u64>> {
    let (file, text) = (File::open(path)?, text.as_bytes());
    let (mut at, mut piece) = (from, vec![0; PIECE + text.len()]);
    loop {
        let read = read_full(&file, &mut piece, at)?;
        let has = piece[..read]
            .windows(text.len().max(1))
            .any(|seen| seen == text);
        if has || text.is_empty() {
            return Ok(Ok(()));
        }
        // The end of a piece may be the beginning of the text.
        let advance = read.saturating_sub(text.len() - 1);
        at += advance as u64;
        if read < piece.len() {
            return Ok(Err(at));
        }
    }
}

/// Reads until the buffer is full or the file is at its end.
fn read_full(file: &File, buffer: &mut [u8], at: u64) -> io::Result<usize> {
    let mut read = 0;
    while read < buffer.len() {
        match file.read_at(&mut buffer[read..], at + read as u64)? {
            0 => break,
            more => read += more,
        }
    }
    Ok(read)
}

/// The last `lines` lines, one that is not ended yet among them; none without a log.
pub(super) fn last(path: &Path, lines: u32) -> io::Result<Vec<String>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let (from, bytes) = tail(&file)?;
    let mut cut = Cutter::new(from);
    let mut found = cut.add(&bytes);
    found.extend(cut.rest());
    let first = found.len().saturating_sub(lines as usize);
    Ok(found.drain(first..).map(|line| line.text).collect())
}

/// The end of a log from the beginning of a line, and where that is.
fn tail(file: &File) -> io::Result<(u64, Vec<u8>)> {
    let length = file.metadata()?.len();
    let from = length.saturating_sub(TAIL);
    let mut bytes = vec![0; usize::try_from(length - from).unwrap_or(0)];
    let read = read_full(file, &mut bytes, from)?;
    bytes.truncate(read);
    let begun = match from {
        0 => 0,
        _ => bytes
            .iter()
            .position(|byte| *byte == b'\n')
            .map_or(0, |at| at + 1),
    };
    bytes.drain(..begun);
    Ok((from + begun as u64, bytes))
}

/// Cuts bytes into lines, each marked with the place of its end in the file: the first has a mark above 0.
pub(super) struct Cutter {
    begun: Vec<u8>,
    /// Where the first byte that has not been added is.
    at: u64,
}

impl Cutter {
    pub(super) const fn new(at: u64) -> Self {
        Self {
            begun: Vec::new(),
            at,
        }
    }

    pub(super) fn add(&mut self, bytes: &[u8]) -> Vec<Line> {
        let mut whole = Vec::new();
        for byte in bytes {
            self.at += 1;
            if *byte == b'\n' {
                whole.push(self.line());
            } else {
                self.begun.push(*byte);
                if self.begun.len() >= LONGEST_LINE {
                    whole.push(self.line());
                }
            }
        }
        whole
    }

    /// Where the next byte to be added is.
    pub(super) const fn at(&self) -> u64 {
        self.at
    }

    fn line(&mut self) -> Line {
        let mut bytes = std::mem::take(&mut self.begun);
        // A terminal's line ends with both, and a port that is set up writes nothings.
        bytes.retain(|byte| !matches!(byte, b'\r' | 0));
        Line {
            mark: i64::try_from(self.at).unwrap_or(i64::MAX),
            at: None,
            is_error: false,
            text: String::from_utf8_lossy(&bytes).into_owned(),
        }
    }

    pub(super) fn rest(&mut self) -> Option<Line> {
        (!self.begun.is_empty()).then(|| self.line())
    }
}

/// A log that is read as it grows.
struct Follower {
    file: File,
    cut: Cutter,
}

/// The lines from `start` and then each new one, over ends and starts, until the machine is removed.
pub(super) fn follow(path: &Path, start: Start) -> BoxStream<'static, Line> {
    let Ok((follower, first)) = begin(path, start) else {
        return stream::empty().boxed();
    };
    let grown = stream::unfold(follower, async |mut follower| {
        loop {
            match follower.read() {
                Ok(Some(lines)) if lines.is_empty() => {}
                Ok(Some(lines)) => return Some((stream::iter(lines), follower)),
                Ok(None) if follower.is_removed() => return None,
                Ok(None) => moment(LOOK).await,
                Err(_) => return None,
            }
        }
    });
    stream::iter(first).chain(grown.flatten()).boxed()
}

fn begin(path: &Path, start: Start) -> io::Result<(Follower, Vec<Line>)> {
    let file = File::open(path)?;
    let (at, mut first, begun) = match start {
        Start::After(mark) => (u64::try_from(mark).unwrap_or(0), Vec::new(), Vec::new()),
        Start::Last(lines) => {
            let (from, bytes) = tail(&file)?;
            let mut cut = Cutter::new(from);
            let mut found = cut.add(&bytes);
            let first = found.len().saturating_sub(lines as usize);
            (cut.at, found.split_off(first), cut.begun)
        }
    };
    first.shrink_to_fit();
    let cut = Cutter { begun, at };
    Ok((Follower { file, cut }, first))
}

impl Follower {
    /// The lines of what has come since; `None` when nothing has.
    fn read(&mut self) -> io::Result<Option<Vec<Line>>> {
        if self.file.metadata()?.len() < self.cut.at {
            // It was begun anew.
            self.cut = Cutter::new(0);
        }
        let mut piece = vec![0; PIECE];
        let read = self.file.read_at(&mut piece, self.cut.at)?;
        Ok((read > 0).then(|| self.cut.add(&piece[..read])))
    }

    fn is_removed(&self) -> bool {
        self.file
            .metadata()
            .is_ok_and(|metadata| metadata.nlink() == 0)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_text_is_found_across_the_pieces_it_is_read_in() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log");
        for before in [0, 3, PIECE - 2, PIECE, PIECE + 3, 3 * PIECE + 1] {
            fs::write(&log, format!("{}ready", "x".repeat(before))).unwrap();
            assert_eq!(search(&log, 0, "ready").unwrap(), Ok(()), "{before}");
            let next = search(&log, 0, "ready!").unwrap().unwrap_err();
            fs::write(&log, format!("{}ready!", "x".repeat(before))).unwrap();
            assert_eq!(search(&log, next, "ready!").unwrap(), Ok(()), "{before}");
        }
    }

    #[tokio::test]
    async fn a_reader_goes_on_after_a_mark_and_ends_with_the_log() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log");
        fs::write(&log, "one\r\ntwo\r\nthr").unwrap();
        let mut lines = follow(&log, Start::Last(1));
        let two = lines.next().await.unwrap();
        assert_eq!((two.text.as_str(), two.mark), ("two", 10));
        fs::write(&log, "one\r\ntwo\r\nthree\n").unwrap();
        assert_eq!(lines.next().await.unwrap().text, "three");
        let mut again = follow(&log, Start::After(two.mark));
        assert_eq!(again.next().await.unwrap().text, "three");
        assert_eq!(last(&log, 2).unwrap(), ["two", "three"]);
        fs::remove_file(&log).unwrap();
        assert_eq!(lines.next().await, None);
        assert_eq!(again.next().await, None);
    }

    #[test]
    fn what_never_ends_a_line_is_cut() {
        let mut cut = Cutter::new(0);
        let lines = cut.add(&vec![b'x'; 2 * LONGEST_LINE + 5]);
        assert_eq!(lines.len(), 2);
        assert_eq!(lines[1].mark, 2 * 8 * 1024);
    }
}
