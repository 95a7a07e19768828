//! Keeps what was measured as `p2pmap bench run` does, so that `bench compare` compares it.
//!
//! A value is a time that clients noticed, of one partition and one fault. So the latencies of such
//! a result are those times, and its throughput is what was acknowledged meanwhile.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;

use super::Settings;
use super::machine::Taken;
use crate::base::cast::u64_from;
use crate::base::time::Timestamp;
use crate::bench::mix::Kind;
use crate::bench::recorder::{Counts, Interval, place};
use crate::bench::report::{Report, latencies};
use crate::bench::results::{ResultFolder, utc, write_environment};
use crate::bench::schedule::float;
use crate::bench::summary::{About, Server, Summary};
use crate::bench::surroundings::Environment;
use crate::proto::p2pmap::v1::NodeStatus;

/// Where results go.
#[derive(Clone, Debug)]
pub struct Destination {
    /// In folders below this one that are named by their scenarios.
    pub below: PathBuf,
    /// Which of several rounds it is.
    pub round: Option<u32>,
}

/// What is kept.
#[derive(Debug)]
pub(super) struct Kept<'a> {
    pub(super) scenario: &'a str,
    pub(super) settings: &'a Settings,
    /// How often the fault was brought about.
    pub(super) count: u32,
    /// When that began.
    pub(super) started: Timestamp,
    /// How long all of it took.
    pub(super) duration_ns: u64,
    /// In ns.
    pub(super) values: &'a [u64],
    /// Puts that were acknowledged meanwhile.
    pub(super) acknowledged_count: u64,
    pub(super) taken: Taken,
}

impl Kept<'_> {
    /// Writes it. `status` is what a node says of itself.
    pub(super) fn write(&self, to: &Destination, status: &NodeStatus) -> io::Result<()> {
        let server = Server::of(status);
        let data_dir = PathBuf::from(&status.data_directory);
        let environment = Environment::of_this_machine(Some(server.build.clone()), Some(&data_dir));
        write_environment(&to.below, &environment)?;
        let folder = ResultFolder::create(&to.below, self.scenario, to.round)?;
        let mut total = Interval::new(0);
        let histogram = &mut total.latencies_ns[place(Kind::Write)];
        self.values.iter().for_each(|value| histogram.saturating_record(*value));
        let mut log = folder.interval_log(self.started)?;
        log.add(&total);
        log.finish()?;
        folder.write(&total.all_ns(), &self.summary(total, server, to.round))
    }

    fn summary(&self, total: Interval, server: Server, round: Option<u32>) -> Summary {
        let report = Report {
            total,
            counts: Counts::default(),
            send_delays_ns: latencies(),
            duration_ns: self.duration_ns,
            is_open: true,
        };
        let about = About {
            scenario: self.scenario.to_owned(),
            round,
            started: utc(self.started),
            settings: self.settings(),
            server: Some(server),
            verified: false,
            steal_percent: percent(self.taken.steal_ns, self.taken.time_ns),
        };
        let mut summary = Summary::of(&report, about);
        summary.counts.answers = self.acknowledged_count;
        summary.throughput_per_s = float(self.acknowledged_count) / summary.duration_s;
        summary
    }

    fn settings(&self) -> BTreeMap<String, String> {
        let Settings { cores, partition_count, interval, .. } = self.settings;
        let settings = [
            ("fault_count", self.count.to_string()),
            ("node_cores", cores.join(",")),
            ("partitions", partition_count.to_string()),
            ("interval_ns", interval.as_nanos().to_string()),
        ];
        settings.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }
}

/// Of all processors of this machine.
fn percent(part_ns: u64, whole_ns: u64) -> f64 {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    100.0 * float(part_ns) / float(whole_ns.max(1)) / float(u64_from(processors))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::base::time::{NS_PER_MS, NS_PER_S};
    use crate::bench::compare::run_folder::RunFolder;

    fn keep(to: &Destination, values: &[u64]) -> io::Result<()> {
        let settings = Settings {
            program: PathBuf::from("p2pmap"),
            folder: PathBuf::from("data"),
            cores: vec!["0".to_owned(), "1".to_owned()],
            partition_count: 64,
            interval: Duration::from_millis(20),
            results: Some(to.clone()),
        };
        let kept = Kept {
            scenario: "failover-kill",
            settings: &settings,
            count: 2,
            started: Timestamp(1_700_000_000 * NS_PER_S),
            duration_ns: 4 * NS_PER_S,
            values,
            acknowledged_count: 800,
            taken: Taken::default(),
        };
        let status = NodeStatus { durability: "sync".to_owned(), ..NodeStatus::default() };
        kept.write(to, &status)
    }

    #[test]
    fn what_is_kept_is_what_compare_reads() {
        let folder = tempfile::tempdir().unwrap();
        let to = Destination { below: folder.path().join("a"), round: Some(3) };
        keep(&to, &[50 * NS_PER_MS, 60 * NS_PER_MS, 900 * NS_PER_MS]).unwrap();
        let found = RunFolder::read(&to.below).unwrap();
        let summary = &found.scenarios["failover-kill"][&3].summary;
        assert_eq!((summary.latency_ns.count, summary.counts.answers), (3, 800));
        assert!((summary.throughput_per_s - 200.0).abs() < 1e-9);
        // Three significant digits.
        assert_eq!(summary.latency_ns.percentiles["p50"] / NS_PER_MS, 60);
        assert_eq!(summary.latency_ns.max / NS_PER_MS, 900);
        assert_eq!(summary.settings["fault_count"], "2");
    }

    #[test]
    fn results_that_are_there_stay() {
        let folder = tempfile::tempdir().unwrap();
        let to = Destination { below: folder.path().to_owned(), round: None };
        keep(&to, &[NS_PER_MS]).unwrap();
        let refused = keep(&to, &[NS_PER_MS]).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::AlreadyExists);
    }
}
