//! How members reach each other, and what can be done to it: by a proxy for each pair of nodes, or
//! by the kernel, with each node in a network namespace of its own.
//!
//! Proxies need nothing, and can do everything that happens to a TCP connection from outside. In
//! namespaces there are real routes and links: packets are dropped, so that TCP itself retransmits
//! and gives up, and a link that is down cuts a node off from clients as well.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Command, Stdio};

use super::ChaosError;
use super::fault::{FaultClass, Heard};
use super::proxy::{Link, Way};
use crate::base::cast::{u16_from, u64_from};

/// What members are connected by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// A proxy for each pair, on loopback.
    Proxies,
    /// A network namespace for each node, and a bridge in the one that this process is in; which
    /// must be one that was made for it, with nothing in it but a loopback that is down.
    Namespaces,
}

impl Transport {
    /// Whether a fault can be done over it.
    #[must_use]
    pub const fn can(self, class: FaultClass) -> bool {
        let needs_proxies = matches!(
            class,
            FaultClass::Delay
                | FaultClass::Throttle
                | FaultClass::Cut
                | FaultClass::HalfOpen
                | FaultClass::Loss
                | FaultClass::Gap
        );
        match self {
            Self::Proxies => !matches!(class, FaultClass::LinkDown),
            Self::Namespaces => !needs_proxies,
        }
    }
}

/// The network of a run.
#[derive(Debug)]
pub(super) enum Network {
    /// From the node with the lower number, which dials, to the other one.
    Proxies(Vec<((usize, usize), Link)>),
    /// So many namespaces.
    Namespaces(usize),
}

/// Where nodes listen in namespaces.
const PORT: u16 = 5678;
/// The bridge, and what begins the names of all that is made.
const BRIDGE: &str = "p2pmap";
/// The address of clients.
const CLIENTS: &str = "10.77.0.254/24";

impl Network {
    /// Makes it, and says where nodes are to listen.
    pub(super) fn prepare(
        transport: Transport,
        node_count: usize,
        seed: u64,
    ) -> Result<(Self, Vec<SocketAddr>), ChaosError> {
        match transport {
            Transport::Proxies => proxies(node_count, seed).map_err(ChaosError::Port),
            Transport::Namespaces => {
                namespaces(node_count)?;
                let addresses = (0..node_count).map(|place| (ip(place), PORT).into());
                Ok((Self::Namespaces(node_count), addresses.collect()))
            }
        }
    }

    /// Where one node is told that another one is, if that isn't where it listens.
    pub(super) fn detour(&self, from: usize, to: usize) -> Option<SocketAddr> {
        let Self::Proxies(links) = self else { return None };
        // Who doesn't dial another one is told where that one really is.
        let link = links.iter().find(|(ends, _)| *ends == (from, to));
        link.map(|(_, link)| link.address())
    }

    /// How a program is run where a node is.
    pub(super) fn command(&self, place: usize, program: &Path) -> Command {
        match self {
            Self::Proxies(_) => Command::new(program),
            Self::Namespaces(_) => {
                let mut command = Command::new("ip");
                // It becomes the program, so that its process is the one that is known here.
                command.args(["netns", "exec", &name(place)]).arg(program);
                command
            }
        }
    }

    /// From here on this happens to what one node says to another.
    pub(super) fn set(&self, heard: &Heard) -> Result<(), ChaosError> {
        match self {
            Self::Proxies(links) => {
                let ends = (heard.from.min(heard.to), heard.from.max(heard.to));
                let way = if heard.from < heard.to { Way::Forth } else { Way::Back };
                let links = links.iter().filter(|(of, _)| *of == ends);
                links.for_each(|(_, link)| link.set(way, heard.rule));
                Ok(())
            }
            Self::Namespaces(_) => {
                assert!(heard.rule.is_held, "a route passes everything or nothing");
                let to = ip(heard.to).to_string();
                run(&["-n", &name(heard.from), "route", "add", "blackhole", &to])
            }
        }
    }

    /// Everything passes again.
    pub(super) fn heal(&self) -> Result<(), ChaosError> {
        match self {
            Self::Proxies(links) => links.iter().for_each(|(_, link)| link.heal()),
            Self::Namespaces(node_count) => {
                for place in 0..*node_count {
                    run(&["-n", &name(place), "route", "flush", "type", "blackhole"])?;
                    run(&["link", "set", &name(place), "up"])?;
                }
            }
        }
        Ok(())
    }

    /// A node's link is down.
    pub(super) fn take_down(&self, place: usize) -> Result<(), ChaosError> {
        run(&["link", "set", &name(place), "down"])
    }

    /// The node's connections are closed, and only the others are told.
    pub(super) fn half_open(&self, place: usize) {
        let Self::Proxies(links) = self else { return };
        for ((dialler, target), link) in links {
            match place {
                _ if place == *dialler => link.half_open(Way::Forth),
                _ if place == *target => link.half_open(Way::Back),
                _ => {}
            }
        }
    }

    /// All connections of one pair of nodes are closed.
    pub(super) fn cut(&self, number: u64) {
        let Self::Proxies(links) = self else { return };
        let place = number % u64_from(links.len());
        links.iter().zip(0..).filter(|(_, at)| *at == place).for_each(|((_, link), _)| link.cut());
    }

    /// Stamped commands that were lost on purpose, and connections that were made.
    pub(super) fn counts(&self) -> (u64, u64) {
        let Self::Proxies(links) = self else { return (0, 0) };
        links.iter().fold((0, 0), |(lost, made), (_, link)| {
            (lost + link.lost_count(), made + link.connection_count())
        })
    }
}

fn proxies(node_count: usize, seed: u64) -> io::Result<(Network, Vec<SocketAddr>)> {
    // Held together, so that none is found twice.
    let listeners = (0..node_count).map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)));
    let listeners = listeners.collect::<io::Result<Vec<_>>>()?;
    let addresses = listeners.iter().map(TcpListener::local_addr);
    let addresses = addresses.collect::<io::Result<Vec<_>>>()?;
    let mut links = Vec::new();
    for (target, address) in addresses.iter().enumerate() {
        for dialler in 0..target {
            let seed = seed.wrapping_add(u64_from(links.len()));
            links.push(((dialler, target), Link::start(*address, seed)?));
        }
    }
    Ok((Network::Proxies(links), addresses))
}

/// Makes a namespace for each node, and a bridge that connects them and this process. Whoever made
/// the namespace that this process is in need not undo it: it ends with its last process.
fn namespaces(node_count: usize) -> Result<(), ChaosError> {
    let links = output(&["-o", "link", "show", "up"])?;
    if !links.trim().is_empty() {
        // Somebody's own network: nothing is done to it.
        return Err(ChaosError::NamespaceInUse);
    }
    run(&["link", "set", "lo", "up"])?;
    run(&["link", "add", BRIDGE, "type", "bridge"])?;
    run(&["addr", "add", CLIENTS, "dev", BRIDGE])?;
    run(&["link", "set", BRIDGE, "up"])?;
    for place in 0..node_count {
        let (name, address) = (name(place), format!("{}/24", ip(place)));
        run(&["netns", "add", &name])?;
        let pair = ["type", "veth", "peer", "name", "eth0", "netns", &name];
        run(&[&["link", "add", &name][..], &pair].concat())?;
        run(&["link", "set", &name, "master", BRIDGE, "up"])?;
        run(&["-n", &name, "addr", "add", &address, "dev", "eth0"])?;
        run(&["-n", &name, "link", "set", "eth0", "up"])?;
        run(&["-n", &name, "link", "set", "lo", "up"])?;
    }
    Ok(())
}

fn name(place: usize) -> String {
    format!("{BRIDGE}-{place}")
}

fn ip(place: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, 0, 1 + u8::try_from(u16_from(place)).expect("nodes are few"))
}

fn run(arguments: &[&str]) -> Result<(), ChaosError> {
    output(arguments).map(drop)
}

fn output(arguments: &[&str]) -> Result<String, ChaosError> {
    let command = || format!("ip {}", arguments.join(" "));
    let ran = Command::new("ip").args(arguments).stdin(Stdio::null()).output();
    let ran =
        ran.map_err(|error| ChaosError::Ip { command: command(), said: error.to_string() })?;
    if !ran.status.success() {
        let said = String::from_utf8_lossy(&ran.stderr).trim().to_owned();
        return Err(ChaosError::Ip { command: command(), said });
    }
    Ok(String::from_utf8_lossy(&ran.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_dials_is_led_through_a_proxy_and_the_other_one_is_not() {
        let (network, addresses) = Network::prepare(Transport::Proxies, 3, 1).unwrap();
        for from in 0..3 {
            for to in 0..3 {
                let detour = network.detour(from, to);
                assert_eq!(detour.is_some(), from < to);
                assert!(detour.is_none_or(|detour| !addresses.contains(&detour)));
            }
        }
    }

    #[test]
    fn each_fault_can_be_done_over_one_transport_at_least() {
        for class in FaultClass::ALL {
            let can = [Transport::Proxies, Transport::Namespaces].map(|over| over.can(*class));
            assert!(can.contains(&true), "{class}");
        }
    }
}
