//! The tables that the rules read: who stands on which level, who may name which dependency, and
//! what is excused.

/// The level of each room. A room names rooms of strictly lower levels only.
pub(crate) const LEVELS: [(&str, u8); 17] = [
    ("base", 0),
    ("proto", 1),
    ("metrics", 1),
    ("map", 2),
    ("nopaxos", 2),
    ("storage", 2),
    ("wire", 3),
    ("shard", 4),
    ("runtime", 5),
    ("sim", 5),
    ("node", 6),
    ("client", 6),
    ("bench", 6),
    ("chaos", 7),
    ("drill", 7),
    ("cli", 8),
    // Chooses nothing itself: it stands on the command line.
    ("main", 9),
];

/// Up to here rooms are pure: no async, no I/O, no clock, no unseeded randomness.
pub(crate) const PURE_LEVEL_MAX: u8 = 4;

/// Words that don't occur in pure rooms.
pub(crate) const IMPURE_WORDS: [&str; 6] =
    ["async", "await", "glommio", "io_uring", "SystemTime", "RandomState"];

/// Paths that don't occur in pure rooms.
pub(crate) const IMPURE_PATHS: [[&str; 2]; 4] =
    [["std", "fs"], ["std", "net"], ["std", "thread"], ["Instant", "now"]];

/// The only files with `unsafe`, each block with its reason; a reader audits them in an hour.
pub(crate) const UNSAFE_FILES: [&str; 6] = [
    // Maps a log that nobody writes: the one call that maps a file is unsafe.
    "src/cli/inspect.rs",
    "src/runtime/uring.rs",
    "src/runtime/ring.rs",
    "src/runtime/buffer_pool.rs",
    "src/runtime/disk.rs",
    // Counts what is allocated: an allocator is unsafe by its signature.
    "tests/ring.rs",
];

/// Every room may use it: containers, and views of bytes.
const EVERYWHERE: &[&str] = &[""];

/// Where below `src/` each dependency may be named, so that a reader sees what replacing it would
/// cost. A name that ends in `/` is a folder.
pub(crate) const DEPENDENCIES: [(&str, &[&str]); 33] = [
    ("arrayvec", EVERYWHERE),
    ("bytes", EVERYWHERE),
    ("foldhash", EVERYWHERE),
    ("hashbrown", EVERYWHERE),
    ("slab", EVERYWHERE),
    ("smallvec", EVERYWHERE),
    ("zerocopy", EVERYWHERE),
    ("clap", &["cli/"]),
    ("clap_complete", &["cli/completions.rs"]),
    ("core_affinity", &["node/placement.rs", "bench/"]),
    ("crc32fast", &["base/checksum.rs"]),
    ("xxhash_rust", &["base/checksum.rs"]),
    ("crossbeam", &["runtime/"]),
    ("futures_lite", &["runtime/", "bench/"]),
    ("glommio", &["runtime/", "bench/"]),
    ("io_uring", &["runtime/", "bench/"]),
    ("h2", &["runtime/", "bench/"]),
    ("hmac", &["runtime/peers/secret.rs"]),
    ("sha2", &["runtime/peers/secret.rs"]),
    ("http", &["runtime/", "bench/"]),
    ("httparse", &["node/metrics_endpoint.rs"]),
    ("tokio", &["runtime/", "bench/"]),
    ("hdrhistogram", &["metrics/", "bench/"]),
    ("libc", &["runtime/", "bench/"]),
    ("memmap2", &["cli/inspect.rs", "cli/verify.rs"]),
    // Beside wire: the cold path of an operation's decoder, the parts of a fanned-out answer, the
    // client, a simulated one, and what the runtime says by itself (health, refusals).
    (
        "prost",
        &[
            "proto/",
            "wire/",
            "map/operation/",
            "shard/fanout.rs",
            "client/",
            "runtime/",
            "sim/client/",
            // It reads what nodes say with the generated types alone.
            "sim/checker/",
            "sim/transcript.rs",
            // They choose among what they say.
            "sim/again.rs",
            "sim/loss.rs",
            "bench/",
            // It looks for stamped commands among what members say.
            "chaos/proxy/",
        ],
    ),
    ("prost_types", &["proto/", "wire/"]),
    ("rustix", &["runtime/", "node/", "chaos/", "drill/", "cli/", "bench/"]),
    ("serde", &["node/", "bench/", "cli/"]),
    ("serde_json", &["node/logging.rs", "cli/", "bench/"]),
    ("signal_hook", &["runtime/", "node/", "chaos/"]),
    ("toml", &["node/config/"]),
    ("tracing_subscriber", &["node/logging.rs"]),
];

/// The log is for rooms that have a clock and a file descriptor.
pub(crate) const TRACING: (&str, &[&str]) = ("tracing", &["runtime/", "node/", "bench/", "cli/"]);

/// Parts of file names that say nothing about what is in the file.
pub(crate) const EMPTY_NAMES: [&str; 10] = [
    "util", "utils", "helper", "helpers", "manager", "managers", "impl", "impls", "handler",
    "handlers",
];

/// Lines of a file, without its tests.
pub(crate) const FILE_LINE_COUNT_MAX: usize = 600;
/// Lines of a function, from `fn` to its closing brace.
pub(crate) const FUNCTION_LINE_COUNT_MAX: usize = 70;
/// Characters of a line.
pub(crate) const LINE_COLUMN_COUNT_MAX: usize = 100;

/// A finding that is excused, for a reason. An exception that excuses nothing is a finding itself,
/// so that the list only shrinks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Exception {
    /// The rule's name.
    pub(crate) rule: &'static str,
    /// The file.
    pub(crate) path: &'static str,
    /// A part of the finding's text: which of the file's findings is meant.
    pub(crate) what: &'static str,
    /// Why.
    pub(crate) reason: &'static str,
}

/// All exceptions.
pub(crate) const EXCEPTIONS: &[Exception] = &[];
