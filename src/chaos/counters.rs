//! What the nodes' own metrics say of how they got through it.

use std::collections::BTreeMap;
use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// The counters that are shown, by the names of their families, and what they count.
const SHOWN: [(&str, &str); 6] = [
    ("p2pmap_views_started_total", "views begun, by each member of each partition"),
    ("p2pmap_slot_lookups_total", "slots looked for at other members"),
    ("p2pmap_gap_commits_total", "slots that became no-ops"),
    ("p2pmap_repairs_requested_total", "repairs asked for"),
    ("p2pmap_requests_passed_on_total", "requests passed on to another node"),
    ("p2pmap_member_messages_received_total", "messages between members"),
];
/// How long a node may take to say: it is on this machine.
const PATIENCE: Duration = Duration::from_millis(500);
/// The longest page of metrics that is read.
const PAGE_SIZE_BYTES_MAX: u64 = 4 << 20;

/// Sums over all cores of all processes that could be asked before they ended, by what is counted.
pub type Counters = BTreeMap<&'static str, u64>;

/// Adds what a node's metrics say.
pub(super) fn add(counters: &mut Counters, metrics: SocketAddr) -> io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&metrics, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: p2pmap\r\nConnection: close\r\n\r\n")?;
    let mut page = String::new();
    stream.take(PAGE_SIZE_BYTES_MAX).read_to_string(&mut page)?;
    add_page(counters, &page);
    Ok(())
}

fn add_page(counters: &mut Counters, page: &str) {
    for line in page.lines().filter(|line| !line.starts_with('#')) {
        let Some((name, value)) = line.rsplit_once(' ') else { continue };
        let family = name.split('{').next().unwrap_or(name);
        let shown = SHOWN.iter().find(|(shown, _)| *shown == family);
        if let (Some((_, shown)), Ok(value)) = (shown, value.trim().parse::<u64>()) {
            *counters.entry(shown).or_default() += value;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cores_and_pages_are_added_up_and_other_families_left_out() {
        let mut counters = Counters::new();
        let page = "HTTP/1.1 200 OK\r\n\r\n# TYPE p2pmap_gap_commits_total counter\n\
                    p2pmap_gap_commits_total{core=\"0\"} 3\n\
                    p2pmap_gap_commits_total{core=\"1\"} 4\n\
                    p2pmap_gap_commits_total_of_others 9\np2pmap_slot_lookups_total 1\n";
        add_page(&mut counters, page);
        add_page(&mut counters, page);
        let expected = [("slots that became no-ops", 14), ("slots looked for at other members", 2)];
        assert_eq!(counters, Counters::from(expected));
    }
}
