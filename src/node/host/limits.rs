//! The limits of this process, against what a node needs for its cores and connections.

use super::finding::{Check, Finding, Subject};
use super::tree::Tree;
use crate::base::cast::u64_from;
use crate::base::limits::{
    DESCRIPTOR_COUNT_RESERVED, DESCRIPTOR_COUNT_RESERVED_PER_SHARD, HOST_CONNECTION_COUNT,
    LOCKED_MEMORY_SIZE_BYTES_MIN, LOCKED_MEMORY_SIZE_BYTES_PER_CORE,
};
use crate::node::config::quantity::format_size;

const MEMLOCK: Check = Check::new(Subject::Limits, "memlock");
const NOFILE: Check = Check::new(Subject::Limits, "nofile");

const LIMITS_FILE: &str = "/proc/self/limits";
const STATUS_FILE: &str = "/proc/self/status";
/// The bit of the capability that makes the memory lock limit void.
const CAP_IPC_LOCK: u64 = 1 << 14;

/// A limit: the soft one counts, and a process may raise it up to the hard one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Limit {
    soft: u64,
    hard: u64,
}

/// What there is to know.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    memlock: Option<Limit>,
    nofile: Option<Limit>,
    may_lock_all: bool,
}

impl Limits {
    pub(super) fn gather(tree: &Tree) -> Self {
        let limits = tree.text(LIMITS_FILE).unwrap_or_default();
        let status = tree.text(STATUS_FILE).unwrap_or_default();
        let capabilities = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
        let capabilities = capabilities.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok());
        Self {
            memlock: limit(&limits, "Max locked memory"),
            nofile: limit(&limits, "Max open files"),
            may_lock_all: capabilities.is_some_and(|bits| bits & CAP_IPC_LOCK != 0),
        }
    }

    pub(super) fn check(&self, core_count: usize) -> Vec<Finding> {
        vec![self.check_memlock(core_count), self.check_nofile(core_count)]
    }

    /// Rings and their buffers are charged to the user, so that what is left for a core may be
    /// too little for its ring; and below a bound of its own an executor doesn't even try.
    fn check_memlock(&self, core_count: usize) -> Finding {
        let Some(limit) = self.memlock else {
            return MEMLOCK.not_visible(LIMITS_FILE);
        };
        let needed = u64_from(core_count).saturating_mul(LOCKED_MEMORY_SIZE_BYTES_PER_CORE);
        let given = size(limit.soft);
        let of_cores = format!("{} for {}", format_size(needed), cores(core_count));
        let mend = "ulimit -l unlimited (as root), LimitMEMLOCK=infinity in a systemd unit, \
                    docker run --ulimit memlock=-1 …";
        // The executor looks at the limit itself, whatever the process is capable of.
        if limit.soft < LOCKED_MEMORY_SIZE_BYTES_MIN {
            return MEMLOCK.problem(format!("{given}: a core's executor doesn't start"), mend);
        }
        if self.may_lock_all {
            return MEMLOCK.ok("the process has CAP_IPC_LOCK: the limit doesn't count");
        }
        if limit.soft < needed {
            let found = format!(
                "{given}, shared by all processes of the user; without {of_cores} a start may fail"
            );
            return MEMLOCK.problem(found, mend);
        }
        MEMLOCK.ok(format!("{given}; {of_cores} are needed"))
    }

    /// The node raises the soft limit by itself.
    fn check_nofile(&self, core_count: usize) -> Finding {
        let Some(limit) = self.nofile else {
            return NOFILE.not_visible(LIMITS_FILE);
        };
        let own = u64_from(DESCRIPTOR_COUNT_RESERVED)
            + u64_from(core_count) * u64_from(DESCRIPTOR_COUNT_RESERVED_PER_SHARD);
        let wanted = own + HOST_CONNECTION_COUNT;
        let mend = format!(
            "ulimit -Hn {wanted} (as root), LimitNOFILE={wanted} in a systemd unit, \
             docker run --ulimit nofile={wanted} …"
        );
        let found = format!("soft {}, hard {}", number(limit.soft), number(limit.hard));
        if limit.hard < own + u64_from(core_count) {
            let found = format!("{found}: that leaves none for connections, a start fails");
            return NOFILE.problem(found, mend);
        }
        if limit.hard < wanted {
            let connections = limit.hard - own;
            let found = format!("{found}: enough for {connections} connections only");
            return NOFILE.advice(found, mend);
        }
        NOFILE.ok(format!(
            "{found} (raised at the start); enough for {HOST_CONNECTION_COUNT} \
                           connections"
        ))
    }
}

fn limit(limits: &str, name: &str) -> Option<Limit> {
    let line = limits.lines().find_map(|line| line.strip_prefix(name))?;
    let mut words = line.split_whitespace();
    let mut next = || match words.next()? {
        "unlimited" => Some(u64::MAX),
        number => number.parse().ok(),
    };
    Some(Limit { soft: next()?, hard: next()? })
}

fn number(limit: u64) -> String {
    if limit == u64::MAX { "unlimited".to_owned() } else { limit.to_string() }
}

fn size(limit: u64) -> String {
    if limit == u64::MAX { "unlimited".to_owned() } else { format_size(limit) }
}

fn cores(count: usize) -> String {
    if count == 1 { "1 core".to_owned() } else { format!("{count} cores") }
}

#[cfg(test)]
mod tests {
    use super::super::finding::Verdict;
    use super::*;

    fn limits(memlock: u64, nofile: u64, may_lock_all: bool) -> Limits {
        let same = |limit| Some(Limit { soft: limit, hard: limit });
        Limits { memlock: same(memlock), nofile: same(nofile), may_lock_all }
    }

    #[test]
    fn limits_are_read_from_the_kernels_table() {
        let table = "Limit              Soft Limit    Hard Limit    Units     \n\
                     Max open files     1024          524288        files     \n\
                     Max locked memory  8388608       unlimited     bytes     \n";
        assert_eq!(limit(table, "Max open files"), Some(Limit { soft: 1_024, hard: 524_288 }));
        assert_eq!(
            limit(table, "Max locked memory"),
            Some(Limit { soft: 8_388_608, hard: u64::MAX })
        );
        assert_eq!(limit("Max open files few many", "Max open files"), None);
        assert_eq!(limit("Max open files 1", "Max open files"), None);
    }

    #[test]
    fn memory_lock_limit_is_held_against_the_cores() {
        let verdict = |limit, capable, core_count| {
            limits(limit, u64::MAX, capable).check(core_count)[0].verdict
        };
        assert_eq!(verdict(64 << 10, true, 1), Verdict::Problem);
        assert_eq!(verdict(1 << 20, false, 1), Verdict::Problem);
        assert_eq!(verdict(1 << 20, true, 1), Verdict::Ok);
        assert_eq!(verdict(8 << 20, false, 4), Verdict::Ok);
        assert_eq!(verdict(8 << 20, false, 5), Verdict::Problem);
        assert_eq!(verdict(u64::MAX, false, 1_024), Verdict::Ok);
    }

    #[test]
    fn hard_limit_of_open_files_is_what_counts() {
        let of = |soft, hard| Limits { nofile: Some(Limit { soft, hard }), ..limits(0, 0, false) };
        assert_eq!(of(1_024, 524_288).check_nofile(2).verdict, Verdict::Ok);
        assert_eq!(of(1_024, 4_096).check_nofile(2).verdict, Verdict::Advice);
        assert_eq!(of(64, 64).check_nofile(2).verdict, Verdict::Problem);
    }
}
