//! Breadth first through all states.

use std::fmt;

use foldhash::fast::FixedState;
use hashbrown::HashTable;

use super::bounds::Bounds;
use super::node::{COUNT, Input};
use super::space::{Space, State, Step};
use crate::base::cast::usize_from_u32;
use crate::base::ids::TermId;
use crate::nopaxos::Status;

/// Steps from the first processes to the first view, at most.
const SETTLING_COUNT_MAX: usize = 1_000;

/// What an exploration has seen.
#[derive(Clone, Copy, Debug)]
pub(super) struct Explored {
    pub(super) states_count: usize,
    pub(super) steps_count: u64,
    /// How many steps the last states are away from the first.
    pub(super) depth: usize,
    /// There are no other states within the bounds.
    pub(super) is_exhausted: bool,
    pub(super) cores_count: usize,
    pub(super) facts_count: usize,
    pub(super) members_count: usize,
}

impl fmt::Display for Explored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} states, {} steps, depth {}, {}; {} cores, {} facts, {} members",
            self.states_count,
            self.steps_count,
            self.depth,
            if self.is_exhausted { "exhausted" } else { "not exhausted" },
            self.cores_count,
            self.facts_count,
            self.members_count,
        )
    }
}

/// A broken invariant, and how it comes to it.
#[derive(Clone, Debug)]
pub(super) struct Violation {
    pub(super) what: String,
    pub(super) path: Vec<String>,
    pub(super) states_count: usize,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, step) in (1..).zip(&self.path) {
            write!(f, "{number:3} {step}")?;
        }
        write!(f, "after {} steps and {} states: ", self.path.len(), self.states_count)?;
        f.write_str(&self.what)
    }
}

/// The states in the order in which they were found, each with the one that it was found from.
struct Found {
    states: Vec<State>,
    parents: Vec<u32>,
    places: HashTable<u32>,
    hasher: FixedState,
}

impl Found {
    fn add(&mut self, state: State, parent: usize) {
        use std::hash::BuildHasher;
        let Self { states, places, hasher, .. } = self;
        let hash = |state: &State| hasher.hash_one(state);
        let is_it = |place: &u32| states[usize_from_u32(*place)] == state;
        if places.find(hash(&state), is_it).is_some() {
            return;
        }
        let place = u32::try_from(states.len()).expect("states can be numbered");
        states.push(state);
        let states = &*states;
        places.insert_unique(hash(&state), place, |place| hash(&states[usize_from_u32(*place)]));
        self.parents.push(u32::try_from(parent).expect("it is among the states"));
    }
}

/// Explores all states within the bounds, or as many as these allow.
pub(super) fn explore(bounds: Bounds) -> Result<Explored, Box<Violation>> {
    let mut space = Space::new(bounds);
    let mut first = space.begin();
    if !bounds.cold {
        first = settled(&mut space, first)?;
    }
    let hasher = FixedState::with_seed(1);
    let mut found =
        Found { states: Vec::new(), parents: Vec::new(), places: HashTable::new(), hasher };
    found.add(first, 0);
    let (mut at, mut depth, mut level_end, mut steps_count) = (0, 0, 1, 0);
    let mut steps = Vec::new();
    while at < found.states.len() && found.states.len() <= bounds.states {
        if at == level_end {
            (depth, level_end) = (depth + 1, found.states.len());
        }
        let state = found.states[at];
        space.steps(state, &mut steps);
        for step in steps.drain(..) {
            match space.after(state, step) {
                Ok(None) => {}
                Ok(Some(next)) => {
                    steps_count += 1;
                    found.add(next, at);
                }
                Err(what) => {
                    let path = path_to(&mut space, &found, at, step);
                    let states_count = found.states.len();
                    return Err(Box::new(Violation { what, path, states_count }));
                }
            }
        }
        at += 1;
    }
    let (cores_count, facts_count, members_count) = space.sizes();
    Ok(Explored {
        states_count: found.states.len(),
        steps_count,
        depth,
        is_exhausted: at == found.states.len(),
        cores_count,
        facts_count,
        members_count,
    })
}

/// The state in which all are part of the first view: each step is the first to a state that has
/// not been. Messages go before wishes and these before timeouts, so that all votes are there when
/// the first view is merged.
fn settled(space: &mut Space, mut state: State) -> Result<State, Box<Violation>> {
    let rank = |input: Input| match input {
        Input::Deliver(_) | Input::Durable => Some(0),
        Input::Move(TermId(1)) => Some(1),
        Input::TimeOut(_) if input.budget().is_none() => Some(2),
        _ => None,
    };
    let (mut path, mut steps, mut seen) = (Vec::new(), Vec::new(), vec![state]);
    loop {
        steps.clear();
        space.steps(state, &mut steps);
        steps.retain(|(_, input)| rank(*input).is_some());
        steps.sort_by_key(|(_, input)| rank(*input));
        let mut next = None;
        for step in &steps {
            let after = space.after(state, *step);
            let Ok(after) = after else {
                path.push(space.describe(state, *step));
                let what = after.expect_err("it is a violation");
                return Err(Box::new(Violation { what, path, states_count: seen.len() }));
            };
            next = after.filter(|after| !seen.contains(after));
            if next.is_some() {
                path.push(space.describe(state, *step));
                break;
            }
        }
        let Some(next) = next else { break };
        if seen.len() == SETTLING_COUNT_MAX {
            let what = "the first view never comes to rest".into();
            return Err(Box::new(Violation { what, path, states_count: seen.len() }));
        }
        seen.push(next);
        state = next;
    }
    for place in 0..COUNT {
        let replica = space.node(state, place).member().replica();
        let is_part = replica.status() == Status::Normal && replica.view() == TermId(1);
        assert!(is_part, "the first view begins: {path:#?}");
    }
    Ok(state)
}

/// How it comes to a step that breaks an invariant.
fn path_to(space: &mut Space, found: &Found, at: usize, last: Step) -> Vec<String> {
    let mut path = vec![space.describe(found.states[at], last)];
    let mut at = at;
    while at != 0 {
        let parent = usize_from_u32(found.parents[at]);
        let (from, to) = (found.states[parent], found.states[at]);
        let mut steps = Vec::new();
        space.steps(from, &mut steps);
        let step = steps.into_iter().find(|step| space.after(from, *step) == Ok(Some(to)));
        path.push(space.describe(from, step.expect("it was found that way")));
        at = parent;
    }
    path.reverse();
    path
}
