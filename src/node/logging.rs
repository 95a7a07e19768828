//! Log lines: levelled, on stderr, for people or as JSON, and rate-limited by call site.
//!
//! A fault that repeats a million times a second must neither fill a disk nor hide the one line
//! that explains it. So each place in the code may write ten lines in a second; what it has to say
//! beyond that is counted, and when its second is over one line gives the count. That line comes
//! with the next one that anybody writes, or with [`Logging::flush`], which the node calls from
//! its slow timer and at its end.

use std::fmt;
use std::io::{self, IsTerminal as _, Write as _};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use foldhash::quality::FixedState;
use hashbrown::HashMap;
use tracing::callsite::Identifier;
use tracing::level_filters::LevelFilter;
use tracing::{Event, Metadata, Subscriber};
use tracing_subscriber::fmt::format::{Format, JsonFields, Writer};
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, MakeWriter};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::registry::LookupSpan;

use super::config::value::{LogFormat, LogLevel};
use crate::base::limits::{LOG_CALL_SITE_COUNT_MAX, LOG_LINES_PER_SECOND_MAX};

const WINDOW: Duration = Duration::from_secs(1);

/// The process's log, started. Its end writes what is still counted.
#[derive(Debug)]
pub struct Logging {
    limiter: Arc<Mutex<Limiter>>,
    format: LogFormat,
}

/// Logging was started twice in one process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AlreadyStarted;

impl fmt::Display for AlreadyStarted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("logging was already started in this process")
    }
}

impl std::error::Error for AlreadyStarted {}

impl Logging {
    /// Sends the process's log lines to stderr; coloured only if that is a terminal.
    ///
    /// # Errors
    /// If it was called before.
    pub fn start(format: LogFormat, level: LogLevel) -> Result<Self, AlreadyStarted> {
        let limiter = Arc::new(Mutex::new(Limiter::default()));
        let ansi = io::stderr().is_terminal();
        let subscriber =
            subscriber(io::stderr, ansi, format, level, Limit::new(&limiter, format, since_start));
        tracing::subscriber::set_global_default(subscriber).map_err(|_| AlreadyStarted)?;
        Ok(Self { limiter, format })
    }

    /// Writes the counts of suppressed lines whose second is over.
    pub fn flush(&self) {
        let due = lock(&self.limiter).take_due(since_start());
        self.write(&due);
    }

    fn write(&self, due: &[Suppressed]) {
        let mut lines = String::new();
        for suppressed in due {
            let written = suppressed.write(self.format, &mut Writer::new(&mut lines));
            written.expect("writing to a string never fails");
        }
        // Nobody is left to be told that stderr is gone.
        let _ = io::stderr().write_all(lines.as_bytes());
    }
}

impl Drop for Logging {
    fn drop(&mut self) {
        let due = lock(&self.limiter).take_all();
        self.write(&due);
    }
}

/// The limiter holds no invariant that a panic in the middle could break.
fn lock(limiter: &Mutex<Limiter>) -> MutexGuard<'_, Limiter> {
    limiter.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Log lines are not part of what a seed replays, so their limit may read a clock.
#[allow(clippy::disallowed_methods)]
fn since_start() -> Duration {
    static START: OnceLock<Instant> = OnceLock::new();
    START.get_or_init(Instant::now).elapsed()
}

fn subscriber<W>(
    writer: W,
    ansi: bool,
    format: LogFormat,
    level: LogLevel,
    limit: Limit,
) -> Box<dyn Subscriber + Send + Sync>
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let registry = tracing_subscriber::registry().with(filter(level));
    let lines = tracing_subscriber::fmt::layer().with_writer(writer).with_ansi(ansi);
    match format {
        LogFormat::Human => {
            Box::new(registry.with(lines.event_format(Limited { inner: Format::default(), limit })))
        }
        LogFormat::Json => {
            let inner = Format::default().json();
            let lines = lines.fmt_fields(JsonFields::new()).with_ansi(false);
            Box::new(registry.with(lines.event_format(Limited { inner, limit })))
        }
    }
}

fn filter(level: LogLevel) -> LevelFilter {
    match level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    }
}

/// What a formatter needs to know to limit its lines.
struct Limit {
    limiter: Arc<Mutex<Limiter>>,
    format: LogFormat,
    clock: fn() -> Duration,
}

impl Limit {
    fn new(limiter: &Arc<Mutex<Limiter>>, format: LogFormat, clock: fn() -> Duration) -> Self {
        Self { limiter: Arc::clone(limiter), format, clock }
    }
}

/// Formats events with `inner` as far as the limit allows. A layer's filter couldn't do it: it has
/// nowhere to write the counts to.
struct Limited<F> {
    inner: F,
    limit: Limit,
}

impl<S, N, F> FormatEvent<S, N> for Limited<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let now = (self.limit.clock)();
        let (due, admitted) = {
            let mut limiter = lock(&self.limit.limiter);
            (limiter.take_due(now), limiter.admit(now, event.metadata()))
        };
        for suppressed in due {
            suppressed.write(self.limit.format, &mut writer)?;
        }
        if admitted { self.inner.format_event(context, writer, event) } else { Ok(()) }
    }
}

/// How many lines each call site has written in its current second, and how many it has not.
#[derive(Debug)]
struct Limiter {
    sites: HashMap<Identifier, Site, FixedState>,
    site_count_max: usize,
    /// Of all call sites, the lines not written and not yet told. Most of the time 0, so that a
    /// line needn't look through the sites.
    suppressed_count: u64,
    /// The earliest end of a second in which lines were suppressed.
    due_at: Duration,
}

#[derive(Debug)]
struct Site {
    metadata: &'static Metadata<'static>,
    window_start: Duration,
    written_count: u32,
    suppressed_count: u64,
}

/// Lines of one call site that were not written.
#[derive(Debug)]
struct Suppressed {
    metadata: &'static Metadata<'static>,
    count: u64,
}

impl Default for Limiter {
    fn default() -> Self {
        Self::new(LOG_CALL_SITE_COUNT_MAX)
    }
}

impl Limiter {
    fn new(site_count_max: usize) -> Self {
        assert!(site_count_max > 0, "a full table has an account to share");
        Self {
            sites: HashMap::default(),
            site_count_max,
            suppressed_count: 0,
            due_at: Duration::ZERO,
        }
    }

    /// Whether the call site may write a line now.
    fn admit(&mut self, now: Duration, metadata: &'static Metadata<'static>) -> bool {
        let site = self.site(now, metadata);
        if now.saturating_sub(site.window_start) >= WINDOW && site.suppressed_count == 0 {
            site.window_start = now;
            site.written_count = 0;
        }
        if site.written_count < LOG_LINES_PER_SECOND_MAX {
            site.written_count += 1;
            return true;
        }
        site.suppressed_count += 1;
        let due_at = site.window_start + WINDOW;
        self.due_at = if self.suppressed_count == 0 { due_at } else { self.due_at.min(due_at) };
        self.suppressed_count += 1;
        false
    }

    /// The call site's account. When there are too many of them, whatever site comes next shares
    /// the account of the first one that is found: fewer lines rather than unbounded memory.
    fn site(&mut self, now: Duration, metadata: &'static Metadata<'static>) -> &mut Site {
        let mut id = metadata.callsite();
        if self.sites.len() >= self.site_count_max && !self.sites.contains_key(&id) {
            id = self.sites.keys().next().expect("a full table has a first key").clone();
        }
        self.sites.entry(id).or_insert(Site {
            metadata,
            window_start: now,
            written_count: 0,
            suppressed_count: 0,
        })
    }

    /// Takes the counts whose second is over.
    fn take_due(&mut self, now: Duration) -> Vec<Suppressed> {
        if self.suppressed_count == 0 || now < self.due_at {
            return Vec::new();
        }
        self.take(|site| now.saturating_sub(site.window_start) >= WINDOW)
    }

    /// Takes all counts.
    fn take_all(&mut self) -> Vec<Suppressed> {
        self.take(|_| true)
    }

    fn take(&mut self, due: impl Fn(&Site) -> bool) -> Vec<Suppressed> {
        let mut taken = Vec::new();
        let mut due_at: Option<Duration> = None;
        for site in self.sites.values_mut().filter(|site| site.suppressed_count > 0) {
            if due(site) {
                let count = std::mem::take(&mut site.suppressed_count);
                taken.push(Suppressed { metadata: site.metadata, count });
                self.suppressed_count -= count;
            } else {
                let end = site.window_start + WINDOW;
                due_at = Some(due_at.map_or(end, |earliest| earliest.min(end)));
            }
        }
        self.due_at = due_at.unwrap_or_default();
        taken
    }
}

impl Suppressed {
    fn write(&self, format: LogFormat, writer: &mut Writer<'_>) -> fmt::Result {
        let Self { metadata, count } = self;
        let (level, target) = (metadata.level(), metadata.target());
        let place = match (metadata.file(), metadata.line()) {
            (Some(file), Some(line)) => format!("{file}:{line}"),
            _ => metadata.name().to_owned(),
        };
        let lines = if *count == 1 { "line" } else { "lines" };
        let message = format!("{count} similar {lines} suppressed ({place})");
        match format {
            LogFormat::Human => {
                SystemTime.format_time(writer)?;
                writeln!(writer, " {level:>5} {target}: {message}")
            }
            LogFormat::Json => {
                let mut timestamp = String::new();
                SystemTime.format_time(&mut Writer::new(&mut timestamp))?;
                let line = serde_json::json!({
                    "timestamp": timestamp,
                    "level": level.as_str(),
                    "fields": { "message": message, "suppressed": count },
                    "target": target,
                });
                writeln!(writer, "{line}")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use tracing::{info, warn};

    use super::*;

    thread_local! {
        static NOW: Cell<Duration> = const { Cell::new(Duration::ZERO) };
    }

    fn at(milliseconds: u64) {
        NOW.set(Duration::from_millis(milliseconds));
    }

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn lines_of(format: LogFormat, level: LogLevel, log: impl FnOnce()) -> Vec<String> {
        lines_with(Limiter::default(), format, level, log)
    }

    fn lines_with(
        limiter: Limiter,
        format: LogFormat,
        level: LogLevel,
        log: impl FnOnce(),
    ) -> Vec<String> {
        at(0);
        let sink = Sink::default();
        let writer = sink.clone();
        let limiter = Arc::new(Mutex::new(limiter));
        let limit = Limit::new(&limiter, format, || NOW.get());
        let subscriber = subscriber(move || writer.clone(), false, format, level, limit);
        tracing::subscriber::with_default(subscriber, log);
        let bytes = sink.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap().lines().map(str::to_owned).collect()
    }

    fn complain(number: u32) {
        warn!(number, "it broke");
    }

    #[test]
    fn call_site_writes_ten_lines_a_second_and_then_the_count_of_the_rest() {
        let lines = lines_of(LogFormat::Human, LogLevel::Info, || {
            for number in 0..25 {
                complain(number);
            }
            at(999);
            complain(25);
            at(1_000);
            complain(26);
        });
        assert_eq!(lines.len(), 12, "{lines:#?}");
        assert!(lines[9].contains("it broke number=9"));
        assert!(lines[10].contains(" WARN p2pmap::node::logging::tests: 16 similar lines suppr"));
        assert!(lines[11].contains("it broke number=26"));
    }

    #[test]
    fn another_call_sites_line_brings_the_count_when_the_first_has_gone_quiet() {
        let lines = lines_of(LogFormat::Human, LogLevel::Info, || {
            (0..11).for_each(complain);
            info!("early");
            at(5_000);
            info!("late");
        });
        assert_eq!(lines.len(), 13, "{lines:#?}");
        assert!(lines[10].ends_with("early"));
        assert!(lines[11].contains("1 similar line suppressed (src/node/logging.rs:"));
        assert!(lines[12].ends_with("late"));
    }

    #[test]
    fn call_site_may_speak_again_after_its_second() {
        let lines = lines_of(LogFormat::Human, LogLevel::Info, || {
            for second in 0..3 {
                at(second * 1_000);
                (0..10).for_each(complain);
            }
        });
        assert_eq!(lines.len(), 30);
    }

    #[test]
    fn json_lines_are_objects_with_counts_as_numbers() {
        let lines = lines_of(LogFormat::Json, LogLevel::Info, || {
            (0..13).for_each(complain);
            at(1_000);
            complain(13);
        });
        let objects: Vec<serde_json::Value> =
            lines.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(objects.len(), 12);
        assert_eq!(objects[0]["fields"]["message"], "it broke");
        assert_eq!(objects[0]["level"], "WARN");
        assert_eq!(objects[10]["fields"]["suppressed"], 3);
        assert_eq!(objects[10]["target"], objects[0]["target"]);
    }

    #[test]
    fn lines_below_the_level_are_not_written() {
        let lines = lines_of(LogFormat::Human, LogLevel::Warn, || {
            info!("quiet");
            warn!("loud");
        });
        assert_eq!(lines.len(), 1);
        assert!(lines[0].ends_with("loud"));
    }

    #[test]
    fn lines_for_a_file_have_no_colours() {
        let lines = lines_of(LogFormat::Human, LogLevel::Info, || complain(1));
        assert!(!lines[0].contains('\u{1b}'));
    }

    #[test]
    fn call_sites_beyond_the_bound_share_an_account() {
        let lines = lines_with(Limiter::new(1), LogFormat::Human, LogLevel::Info, || {
            (0..9).for_each(complain);
            (0..9).for_each(|number| info!(number, "another"));
        });
        assert_eq!(lines.len(), 10, "{lines:#?}");
        assert!(lines[9].ends_with("another number=0"));
    }

    #[test]
    fn counts_not_yet_told_are_taken_at_the_end() {
        let limiter = Arc::new(Mutex::new(Limiter::default()));
        let limit = Limit::new(&limiter, LogFormat::Human, || NOW.get());
        let quiet = subscriber(io::sink, false, LogFormat::Human, LogLevel::Info, limit);
        tracing::subscriber::with_default(quiet, || (0..15).for_each(complain));
        let mut limiter = lock(&limiter);
        assert!(limiter.take_due(NOW.get()).is_empty());
        let counts: Vec<u64> = limiter.take_all().iter().map(|site| site.count).collect();
        assert_eq!(counts, [5]);
        assert!(limiter.take_all().is_empty());
    }
}
