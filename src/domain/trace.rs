//! Where a trace stands, as it goes from one part of the service to the next: in a header, in a task's row.

use std::fmt;

/// A span others may continue: the value of a `traceparent` (W3C *Trace Context*, section 3.2).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct TraceParent {
    /// Not 0.
    pub trace_id: u128,
    /// Not 0.
    pub span_id: u64,
    /// Whether what belongs to it is recorded.
    pub is_sampled: bool,
}

/// The length of a value of version 00.
const LENGTH: usize = 55;

impl TraceParent {
    /// Reads a value; `None` for one that is not as it should be, whose trace is then not continued.
    ///
    /// A later version may have more behind what is known of this one.
    pub fn parse(text: &str) -> Option<Self> {
        let is_hex = |part: &str| {
            let mut bytes = part.bytes();
            bytes.all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
        };
        let version = text.get(..2).filter(|version| is_hex(version))?;
        let is_whole =
            text.len() == LENGTH || (version != "00" && text.as_bytes().get(LENGTH) == Some(&b'-'));
        if version == "ff" || !is_whole {
            return None;
        }
        let mut parts = text.get(2..LENGTH)?.strip_prefix('-')?.split('-');
        let mut part = |length| parts.next().filter(|p| p.len() == length && is_hex(p));
        let (trace, span, flags) = (part(32)?, part(16)?, part(2)?);
        let read = Self {
            trace_id: u128::from_str_radix(trace, 16).ok()?,
            span_id: u64::from_str_radix(span, 16).ok()?,
            is_sampled: u8::from_str_radix(flags, 16).ok()? & 1 == 1,
        };
        (read.trace_id != 0 && read.span_id != 0).then_some(read)
    }
}

impl fmt::Display for TraceParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (trace, span, flags) = (self.trace_id, self.span_id, u8::from(self.is_sampled));
        write!(f, "00-{trace:032x}-{span:016x}-{flags:02x}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn a_value_is_read_and_written_alike() {
        let read = TraceParent::parse(GOOD).unwrap();
        assert!(read.is_sampled);
        assert_eq!(read.to_string(), GOOD);
        let not_sampled = GOOD.replace("-01", "-00");
        assert_eq!(
            TraceParent::parse(&not_sampled).unwrap().to_string(),
            not_sampled
        );
    }

    #[test]
    fn a_later_version_is_read_as_far_as_it_is_known() {
        let later = format!("{}-more", GOOD.replacen("00", "cc", 1));
        assert_eq!(TraceParent::parse(&later), TraceParent::parse(GOOD));
    }

    #[test]
    fn what_the_recommendation_forbids_is_not_continued() {
        let zero_trace = GOOD.replace("4bf92f3577b34da6a3ce929d0e0e4736", &"0".repeat(32));
        let zero_span = GOOD.replace("00f067aa0ba902b7", &"0".repeat(16));
        for bad in [
            "",
            "00",
            &zero_trace,
            &zero_span,
            &GOOD.to_uppercase(),
            &GOOD.replacen("00", "ff", 1),
            &format!("{GOOD}-more"),
            &format!("{GOOD} "),
            &GOOD[..54],
            &GOOD.replace('-', "_"),
            &GOOD.replace("01", "0g"),
            "00-4bf92f3577b34da6a3ce929d0e0e473é-00f067aa0ba902b7-01",
        ] {
            assert_eq!(TraceParent::parse(bad), None, "{bad}");
        }
    }
}
