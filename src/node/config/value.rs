//! The values of settings, parsed: each type holds only what its setting allows.
//!
//! A parser returns none where the setting's own sentence ([`Setting::allowed`]) says what is
//! expected, and a reason where more can be said.
//!
//! [`Setting::allowed`]: super::setting::Setting::allowed

use std::collections::BTreeSet;
use std::fmt;

use super::quantity::parse_size;
use crate::base::limits::{
    CORE_NUMBER_COUNT, MEMBER_NAME_SIZE_BYTES_MAX, MEMORY_SIZE_BYTES_MAX, MEMORY_SIZE_BYTES_MIN,
    PARTITION_COUNT_DEFAULT_MIN, PARTITION_COUNT_MAX, PARTITIONS_PER_CORE,
};

macro_rules! words {
    (
        $(#[$doc:meta])* $name:ident {
            $($(#[$variant_doc:meta])* $variant:ident = $word:literal,)+
        }
    ) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name {
            $($(#[$variant_doc])* $variant,)+
        }

        impl $name {
            /// The value of that word, if it is one.
            #[must_use]
            pub fn parse(text: &str) -> Option<Self> {
                match text {
                    $($word => Some(Self::$variant),)+
                    _ => None,
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self {
                    $(Self::$variant => $word,)+
                })
            }
        }
    };
}

words!(
    /// When a write is answered.
    Durability {
        /// Once it is on disk.
        Sync = "sync",
        /// At once; it is written within milliseconds, and a power cut loses those.
        Async = "async",
        /// At once; there is no log, and the end of the process loses everything.
        None = "none",
    }
);
words!(
    /// What an idle loop does.
    IdleMode {
        /// Looks for work without pause: the lowest latency, one core always busy.
        Spin = "spin",
        /// Spins for a while, then sleeps until something comes.
        Park = "park",
    }
);
words!(
    /// What a member speaks to others that it dials.
    PeerProtocol {
        /// Raw frames.
        Frames = "frames",
        /// The same inside of gRPC.
        Grpc = "grpc",
    }
);
words!(
    /// How log lines look.
    LogFormat {
        /// For people.
        Human = "human",
        /// One JSON object a line.
        Json = "json",
    }
);
words!(
    /// The least severe log lines that are written.
    LogLevel {
        /// What failed.
        Error = "error",
        /// What may need someone.
        Warn = "warn",
        /// What a node does.
        Info = "info",
        /// What a developer asks.
        Debug = "debug",
        /// Everything.
        Trace = "trace",
    }
);

/// What all maps of a node may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemoryMax {
    /// So many bytes.
    Bytes(u64),
    /// A share, in percent, of the memory that the process may have.
    Percent(u8),
}

impl MemoryMax {
    /// Parses a size such as `8GiB` or a share such as `75%`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if let Some(percent) = text.strip_suffix('%') {
            return parse_number(percent)
                .filter(|percent| (1..=100).contains(percent))
                .map(Self::Percent);
        }
        parse_size(text)
            .filter(|size| (MEMORY_SIZE_BYTES_MIN..=MEMORY_SIZE_BYTES_MAX).contains(size))
            .map(Self::Bytes)
    }
}

/// The cores that a node runs on: at least one, each once, ascending.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cores(Vec<u16>);

impl Cores {
    /// Parses a list such as `0` or `0,2-3`.
    ///
    /// # Errors
    /// None if it isn't such a list, a reason if it is one that can't be run.
    pub fn parse(text: &str) -> Result<Self, Option<String>> {
        let mut cores = BTreeSet::new();
        for part in text.split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let first = parse_core(first).ok_or(None)?;
            let last = parse_core(last).ok_or(None)?;
            if first > last {
                return Err(Some(format!("the range {part} runs backwards")));
            }
            for core in first..=last {
                if !cores.insert(core) {
                    return Err(Some(format!("core {core} is listed twice")));
                }
            }
        }
        Ok(Self(cores.into_iter().collect()))
    }

    /// These; the first core if there are none.
    #[must_use]
    pub fn of(numbers: impl Iterator<Item = u16>) -> Self {
        let mut numbers: Vec<u16> = numbers
            .filter(|core| *core < CORE_NUMBER_COUNT)
            .collect::<BTreeSet<_>>()
            .into_iter()
            .collect();
        if numbers.is_empty() {
            numbers.push(0);
        }
        Self(numbers)
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// Their numbers, ascending.
    #[must_use]
    pub fn numbers(&self) -> &[u16] {
        &self.0
    }

    /// How many partitions a new data directory is given when nobody says.
    #[must_use]
    pub fn partition_count_default(&self) -> u32 {
        let count = u32::try_from(self.count()).unwrap_or(PARTITION_COUNT_MAX);
        let wanted = count.saturating_mul(PARTITIONS_PER_CORE).checked_next_power_of_two();
        wanted
            .unwrap_or(PARTITION_COUNT_MAX)
            .clamp(PARTITION_COUNT_DEFAULT_MIN, PARTITION_COUNT_MAX)
    }
}

impl fmt::Display for Cores {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for run in self.0.chunk_by(|a, b| a + 1 == *b) {
            let (first, last) = (run[0], run[run.len() - 1]);
            if first == last {
                write!(f, "{separator}{first}")?;
            } else {
                write!(f, "{separator}{first}-{last}")?;
            }
            separator = ",";
        }
        Ok(())
    }
}

/// A number from `text`, digits only: `parse` alone would take a sign as well.
pub(super) fn parse_number<N: std::str::FromStr>(text: &str) -> Option<N> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    text.parse().ok()
}

fn parse_core(text: &str) -> Option<u16> {
    parse_number(text).filter(|core| *core < CORE_NUMBER_COUNT)
}

/// The name of a cluster or of a node, if `text` is one.
pub(super) fn parse_name(text: &str) -> Option<String> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    let sound = (1..=MEMBER_NAME_SIZE_BYTES_MAX).contains(&text.len()) && text.bytes().all(allowed);
    sound.then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cores_are_listed_singly_and_in_ranges() {
        assert_eq!(Cores::parse("0").unwrap().numbers(), [0]);
        assert_eq!(Cores::parse("5,0,2-3").unwrap().numbers(), [0, 2, 3, 5]);
        assert_eq!(Cores::parse("0,1,2,5").unwrap().to_string(), "0-2,5");
        assert_eq!(Cores::parse("1023").unwrap().numbers(), [1_023]);
    }

    #[test]
    fn malformed_core_lists_are_refused() {
        let malformed = ["", ",", "0,", "a", "-1", "1-", "0-1-2", "1024", "0 1", "+1", "65536"];
        for text in malformed {
            assert_eq!(Cores::parse(text), Err(None), "{text:?}");
        }
        assert_eq!(Cores::parse("3-2"), Err(Some("the range 3-2 runs backwards".to_owned())));
        assert_eq!(Cores::parse("0,0-1"), Err(Some("core 0 is listed twice".to_owned())));
    }

    #[test]
    fn partitions_follow_the_number_of_cores() {
        let partitions = |text| Cores::parse(text).unwrap().partition_count_default();
        assert_eq!(partitions("0"), 64);
        assert_eq!(partitions("0-3"), 64);
        assert_eq!(partitions("0-4"), 128);
        assert_eq!(partitions("0-1023"), 16_384);
    }

    #[test]
    fn memory_is_a_size_or_a_share() {
        assert_eq!(MemoryMax::parse("75%"), Some(MemoryMax::Percent(75)));
        assert_eq!(MemoryMax::parse("8GiB"), Some(MemoryMax::Bytes(8 << 30)));
        for text in ["", "%", "0%", "101%", "7.5%", "-1%", " 5%", "8", "15MiB", "17TiB", "GiB"] {
            assert_eq!(MemoryMax::parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn names_are_short_and_plain() {
        assert_eq!(parse_name("node-1.eu_west"), Some("node-1.eu_west".to_owned()));
        assert_eq!(parse_name(&"n".repeat(128)).map(|name| name.len()), Some(128));
        for name in ["", "a b", "a/b", "#1", "ä", &"n".repeat(129)] {
            assert_eq!(parse_name(name), None, "{name:?}");
        }
    }

    #[test]
    fn words_are_parsed_as_they_are_printed() {
        for durability in [Durability::Sync, Durability::Async, Durability::None] {
            assert_eq!(Durability::parse(&durability.to_string()), Some(durability));
        }
        assert_eq!(IdleMode::parse("PARK"), None);
        assert_eq!(LogLevel::parse("warning"), None);
    }
}
