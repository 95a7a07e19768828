//! A TCP proxy between two members that does to their connections what networks do.
//!
//! One [`Link`] is for one pair of nodes, and listens at an address of its own: the one that dials
//! is told that the other one is there. Whatever a connection says in one direction (a [`Way`])
//! passes, waits, is slowed down or loses frames by the [`Rule`] of that direction; so a partition
//! may be one-way. What is held is neither lost nor told: as with packets that nobody delivers, no
//! end of the connection learns of it before its own patience is over, and what the kernel took
//! from the sender comes late, perhaps out of a connection that the sender gave up long ago.
//!
//! A thread accepts; each connection has a thread in each direction. All of them end when the link
//! is dropped. What differs from a network: the first connection to a node that is down is accepted
//! and then closed; from the second one on they are refused.

mod frames;
mod pump;

use std::io;
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use self::pump::Pump;
use crate::base::limits::CHAOS_LINK_CONNECTION_COUNT_MAX;
use crate::base::prng::Prng;

/// How long a connection may take to be made: both ends are on this machine.
const CONNECT_WAIT: Duration = Duration::from_secs(1);

/// How often it is looked whether a node listens again.
const LISTEN_WAIT: Duration = Duration::from_millis(20);

/// A direction of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// From the node that dials.
    Forth,
    /// To it.
    Back,
}

/// What happens to what is said in one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Rule {
    /// Nothing passes.
    pub(super) is_held: bool,
    /// It comes later, by this to twice as much.
    pub(super) delay: Duration,
    /// So many bytes pass in a second; 0: as many as may be.
    pub(super) rate_bytes: u64,
    /// One of so many stamped commands is lost; 0: none.
    pub(super) loses_one_in: u64,
    /// What is lost is lost each time that it is said, to whomever.
    pub(super) loses_all_copies: bool,
}

/// The proxy between two nodes.
#[derive(Debug)]
pub(super) struct Link {
    address: SocketAddr,
    shared: Arc<Shared>,
    accepting: Option<JoinHandle<()>>,
}

/// What the threads of a link have in common.
#[derive(Debug)]
struct Shared {
    target: SocketAddr,
    state: Mutex<State>,
    /// The state has changed.
    changed: Condvar,
    lost_count: AtomicU64,
    connection_count: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    rules: [Rule; 2],
    /// New connections wait: they can't be made while packets are lost.
    holds_new: bool,
    is_ending: bool,
    /// Those that are there.
    open: Vec<Open>,
    pumps: Vec<JoinHandle<()>>,
    seed: u64,
}

/// A connection: the two sockets that the proxy has.
#[derive(Debug)]
struct Open {
    number: u64,
    dialler: TcpStream,
    target: TcpStream,
    /// Directions in which something may still be said.
    way_count: u8,
}

impl Link {
    /// A proxy to the node that listens at `target`. `seed` says which frames are lost.
    ///
    /// # Errors
    /// If there is no port for it.
    pub(super) fn start(target: SocketAddr, seed: u64) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            target,
            state: Mutex::new(State { seed, ..State::default() }),
            changed: Condvar::new(),
            lost_count: AtomicU64::new(0),
            connection_count: AtomicU64::new(0),
        });
        let accepting = Arc::clone(&shared);
        let accepting = std::thread::spawn(move || accept_all(listener, &accepting));
        Ok(Self { address, shared, accepting: Some(accepting) })
    }

    /// Where the node that dials finds the other one.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// From here on this happens to what is said in one direction.
    pub(super) fn set(&self, way: Way, rule: Rule) {
        self.shared.change(|state| {
            *state.rule_mut(way) = rule;
            state.holds_new = state.rules.iter().any(|rule| rule.is_held);
        });
    }

    /// Everything passes again.
    pub(super) fn heal(&self) {
        self.shared.change(|state| (state.rules, state.holds_new) = ([Rule::default(); 2], false));
    }

    /// Closes all connections.
    pub(super) fn cut(&self) {
        let state = self.shared.lock();
        for open in &state.open {
            // It may be closed already.
            let _ = open.dialler.shutdown(Shutdown::Both);
            let _ = open.target.shutdown(Shutdown::Both);
        }
    }

    /// One of the two nodes is told that its connections are closed, the other one isn't: whoever
    /// speaks along `way` goes on speaking to nobody.
    pub(super) fn half_open(&self, way: Way) {
        let held = Rule { is_held: true, ..Rule::default() };
        self.shared.change(|state| {
            (state.rules, state.holds_new) = ([held; 2], true);
            for open in &state.open {
                let closed = if way == Way::Forth { &open.target } else { &open.dialler };
                let _ = closed.shutdown(Shutdown::Both);
            }
        });
    }

    /// Stamped commands that were lost so far.
    pub(super) fn lost_count(&self) -> u64 {
        self.shared.lost_count.load(Ordering::Relaxed)
    }

    /// Connections that were made so far.
    pub(super) fn connection_count(&self) -> u64 {
        self.shared.connection_count.load(Ordering::Relaxed)
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.shared.change(|state| state.is_ending = true);
        self.cut();
        // Wakes whoever accepts.
        let _ = TcpStream::connect_timeout(&self.address, CONNECT_WAIT);
        if let Some(accepting) = self.accepting.take() {
            let _ = accepting.join();
        }
        // Nobody adds to them any more; and those that came after the first cut are cut as well.
        self.cut();
        let pumps = std::mem::take(&mut self.shared.lock().pumps);
        for pump in pumps {
            let _ = pump.join();
        }
    }
}

impl State {
    fn rule(&self, way: Way) -> &Rule {
        &self.rules[way.place()]
    }

    fn rule_mut(&mut self, way: Way) -> &mut Rule {
        &mut self.rules[way.place()]
    }

    /// A connection says nothing more in one direction: after both its sockets are closed.
    fn end_direction(&mut self, number: u64) {
        let Some(place) = self.open.iter().position(|open| open.number == number) else { return };
        self.open[place].way_count -= 1;
        if self.open[place].way_count == 0 {
            self.open.swap_remove(place);
        }
    }
}

impl Way {
    const fn place(self) -> usize {
        match self {
            Self::Forth => 0,
            Self::Back => 1,
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.lock());
        self.changed.notify_all();
    }

    /// Waits while new connections can't be made. False: the link ends.
    fn wait_for_new(&self) -> bool {
        let waits = |state: &mut State| state.holds_new && !state.is_ending;
        let state = self.changed.wait_while(self.lock(), waits);
        !state.unwrap_or_else(PoisonError::into_inner).is_ending
    }
}

/// Accepts until the link ends. While the node is down nobody listens here either, so that whoever
/// dials is refused, as by the node's own host.
fn accept_all(listener: TcpListener, shared: &Arc<Shared>) {
    let Ok(address) = listener.local_addr() else { return };
    let mut listening = Some(listener);
    let mut number = 0;
    loop {
        let Some(listener) = listening.take().or_else(|| listen_again(address, shared)) else {
            return;
        };
        let dialler = listener.accept();
        if !shared.wait_for_new() {
            return;
        }
        let Ok((dialler, _)) = dialler else { continue };
        number += 1;
        if let Ok(target) = TcpStream::connect_timeout(&shared.target, CONNECT_WAIT) {
            // What can't be begun is closed, and dialled again.
            let _ = begin(shared, number, dialler, target);
            listening = Some(listener);
        }
    }
}

/// Waits until the node listens, and listens for it. `None`: the link ends.
fn listen_again(address: SocketAddr, shared: &Shared) -> Option<TcpListener> {
    loop {
        let waits = |state: &mut State| !state.is_ending;
        let state = shared.changed.wait_timeout_while(shared.lock(), LISTEN_WAIT, waits);
        let (state, _) = state.unwrap_or_else(PoisonError::into_inner);
        if state.is_ending {
            return None;
        }
        drop(state);
        if TcpStream::connect_timeout(&shared.target, CONNECT_WAIT).is_ok()
            && let Ok(listener) = TcpListener::bind(address)
        {
            return Some(listener);
        }
    }
}

fn begin(
    shared: &Arc<Shared>,
    number: u64,
    dialler: TcpStream,
    target: TcpStream,
) -> io::Result<()> {
    dialler.set_nodelay(true)?;
    target.set_nodelay(true)?;
    let ends = [
        (Way::Forth, dialler.try_clone()?, target.try_clone()?),
        (Way::Back, target.try_clone()?, dialler.try_clone()?),
    ];
    let mut state = shared.lock();
    state.pumps.retain(|pump| !pump.is_finished());
    if state.open.len() >= CHAOS_LINK_CONNECTION_COUNT_MAX {
        return Ok(());
    }
    shared.connection_count.fetch_add(1, Ordering::Relaxed);
    state.open.push(Open { number, dialler, target, way_count: 2 });
    for (way, from, to) in ends {
        let seed = state.seed.wrapping_add(number);
        let prng = Prng::new(seed, if way == Way::Forth { "forth" } else { "back" });
        let pump = Pump { number, way, from, to, shared: Arc::clone(shared), prng };
        state.pumps.push(std::thread::spawn(move || pump.run()));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
