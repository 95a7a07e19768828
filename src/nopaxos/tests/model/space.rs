//! The states that are known, each piece kept once. A group's state is what its three members are
//! and what was spent of the budgets: four numbers. A member's is its core and the facts that it
//! has made, two numbers. So what the real code does is computed once for each core and input, how
//! ever many states of the group it is part of, and states are compared exactly; cores and facts
//! are told apart by digests of 16 bytes of all they hold.

use std::fmt::{Debug, Write};

use hashbrown::HashMap;

use super::bounds::{Bounds, Budget, Spent};
use super::facts::{Fact, contradiction};
use super::node::{COUNT, Input, Node};
use crate::base::cast::usize_from_u32;
use crate::base::checksum::Digest128;
use crate::base::ids::{Index, MemberId};

/// What the three members are, and what was spent.
pub(super) type State = [u32; COUNT + 1];

/// A step: what happens to which member.
pub(super) type Step = (usize, Input);

type Map<K, V> = HashMap<K, V, foldhash::fast::FixedState>;

/// What follows from an input: the core, and the list of facts.
type Outcome = (u32, u32);

/// In the place of a core: an invariant is broken, which one says the other number.
const BROKEN: u32 = u32::MAX;

#[derive(Debug)]
struct Core {
    node: Node,
    inputs: Box<[Input]>,
}

/// Facts that a member has made.
#[derive(Debug)]
struct Made {
    all: Box<[u32]>,
    /// The messages among them, by receiver.
    to: [Box<[u32]>; COUNT],
}

#[derive(Debug)]
pub(super) struct Space {
    pub(super) bounds: Bounds,
    cores: Vec<Core>,
    core_ids: Map<u128, u32>,
    facts: Vec<Fact>,
    fact_ids: Map<u128, u32>,
    /// The facts that each one contradicts, and how.
    contradicted: Vec<Vec<(u32, &'static str)>>,
    /// Those that can be contradicted.
    claims: Vec<u32>,
    lists: Vec<Box<[u32]>>,
    list_ids: Map<Box<[u32]>, u32>,
    made: Vec<Made>,
    made_ids: Map<Box<[u32]>, u32>,
    unions: Map<(u32, u32), u32>,
    members: Vec<(u32, u32)>,
    member_ids: Map<(u32, u32), u32>,
    delivered: Map<(u32, u32), Outcome>,
    taken: Map<(u32, Input), Outcome>,
    broken: Vec<String>,
}

impl Space {
    pub(super) fn new(bounds: Bounds) -> Self {
        let mut space = Self {
            bounds,
            cores: Vec::new(),
            core_ids: Map::default(),
            facts: Vec::new(),
            fact_ids: Map::default(),
            contradicted: Vec::new(),
            claims: Vec::new(),
            lists: Vec::new(),
            list_ids: Map::default(),
            made: Vec::new(),
            made_ids: Map::default(),
            unions: Map::default(),
            members: Vec::new(),
            member_ids: Map::default(),
            delivered: Map::default(),
            taken: Map::default(),
            broken: Vec::new(),
        };
        space.list(Box::default());
        space.made_of(Box::default());
        space
    }

    /// Three members whose processes have just begun.
    pub(super) fn begin(&mut self) -> State {
        let mut state = [0; COUNT + 1];
        for (place, id) in (0..).take(COUNT).zip(0_u8..) {
            let (node, facts) = Node::new(MemberId(id), &self.bounds);
            let list = self.list_of(facts);
            let core = self.core(node);
            let made = self.union(0, list);
            state[place] = self.member((core, made));
        }
        state
    }

    /// How many different cores, facts and members there are.
    pub(super) fn sizes(&self) -> (usize, usize, usize) {
        (self.cores.len(), self.facts.len(), self.members.len())
    }

    pub(super) fn node(&self, state: State, place: usize) -> &Node {
        let (core, _) = self.members[usize_from_u32(state[place])];
        &self.cores[usize_from_u32(core)].node
    }

    /// All steps that may come next.
    pub(super) fn steps(&self, state: State, steps: &mut Vec<Step>) {
        let spent = Spent(state[COUNT]);
        for place in 0..COUNT {
            let (core, _) = self.members[usize_from_u32(state[place])];
            for input in &self.cores[usize_from_u32(core)].inputs {
                let budget = input.budget();
                if budget.is_none_or(|budget| spent.of(budget) < self.bounds.of(budget)) {
                    steps.push((place, self.numbered(*input, state)));
                }
            }
            for other in (0..COUNT).filter(|other| *other != place) {
                let (_, made) = self.members[usize_from_u32(state[other])];
                let messages = &self.made[usize_from_u32(made)].to[place];
                steps.extend(messages.iter().map(|fact| (place, Input::Deliver(*fact))));
            }
        }
    }

    /// Which command or read it is, and what was known when it began.
    fn numbered(&self, input: Input, state: State) -> Input {
        let next = |budget| u64::from(Spent(state[COUNT]).of(budget)) + 1;
        match input {
            Input::Submit(_) => Input::Submit(next(Budget::Command)),
            Input::Read { .. } => {
                let covers = self.known(state).filter_map(|fact| fact.covers()).max();
                Input::Read { read: next(Budget::Read), covers: covers.unwrap_or(Index(0)) }
            }
            other => other,
        }
    }

    /// All facts of a state.
    fn known(&self, state: State) -> impl Iterator<Item = &Fact> {
        let made = move |place: usize| self.members[usize_from_u32(state[place])].1;
        (0..COUNT)
            .flat_map(move |place| &self.made[usize_from_u32(made(place))].all)
            .map(|fact| &self.facts[usize_from_u32(*fact)])
    }

    fn has(&self, state: State, fact: u32) -> bool {
        (0..COUNT).any(|place| {
            let (_, made) = self.members[usize_from_u32(state[place])];
            self.made[usize_from_u32(made)].all.binary_search(&fact).is_ok()
        })
    }

    /// The state after a step, `None` if it is the same; or which invariant is broken.
    pub(super) fn after(
        &mut self,
        state: State,
        (place, input): Step,
    ) -> Result<Option<State>, String> {
        let (core, made) = self.members[usize_from_u32(state[place])];
        let (next_core, list) = self.outcome(core, input);
        if next_core == BROKEN {
            return Err(self.broken[usize_from_u32(list)].clone());
        }
        let next_made = self.union(made, list);
        if (next_core, next_made) == (core, made) {
            return Ok(None);
        }
        let mut next = state;
        next[place] = self.member((next_core, next_made));
        if let Some(budget) = input.budget() {
            next[COUNT] = Spent(next[COUNT]).more(budget).0;
        }
        if next_made != made {
            self.check(next, list)?;
        }
        Ok(Some(next))
    }

    /// No fact contradicts another one.
    fn check(&self, state: State, list: u32) -> Result<(), String> {
        for fact in &self.lists[usize_from_u32(list)] {
            for (other, why) in &self.contradicted[usize_from_u32(*fact)] {
                if self.has(state, *other) {
                    let [fact, other] = [fact, other].map(|at| &self.facts[usize_from_u32(*at)]);
                    return Err(format!("{why}: {fact:?} and {other:?}"));
                }
            }
        }
        Ok(())
    }

    fn outcome(&mut self, core: u32, input: Input) -> Outcome {
        let known = match input {
            Input::Deliver(fact) => self.delivered.get(&(core, fact)),
            other => self.taken.get(&(core, other)),
        };
        if let Some(outcome) = known {
            return *outcome;
        }
        let sent = match input {
            Input::Deliver(fact) => match &self.facts[usize_from_u32(fact)] {
                Fact::Sent(sent) => Some(sent),
                other => panic!("{other:?} is no message"),
            },
            _ => None,
        };
        let node = &self.cores[usize_from_u32(core)].node;
        let outcome = match node.after(input, sent, &self.bounds) {
            Ok((node, facts)) => {
                let list = self.list_of(facts);
                (self.core(node), list)
            }
            Err(what) => {
                self.broken.push(what);
                (BROKEN, number(self.broken.len() - 1))
            }
        };
        match input {
            Input::Deliver(fact) => self.delivered.insert((core, fact), outcome),
            other => self.taken.insert((core, other), outcome),
        };
        outcome
    }

    /// What a step is and does, for a person.
    pub(super) fn describe(&mut self, state: State, (place, input): Step) -> String {
        let name = ["a", "b", "c"][place];
        let what = match input {
            Input::Deliver(fact) => format!("{:?}", self.facts[usize_from_u32(fact)]),
            other => other.describe(),
        };
        let (core, made) = self.members[usize_from_u32(state[place])];
        let (_, list) = self.outcome(core, input);
        let mut text = format!("{name}: {what}\n");
        let known = &self.made[usize_from_u32(made)].all;
        for fact in self.lists.get(usize_from_u32(list)).into_iter().flatten() {
            if known.binary_search(fact).is_err() {
                let _ = writeln!(text, "      {:?}", self.facts[usize_from_u32(*fact)]);
            }
        }
        text
    }

    // ---- each piece once ----

    fn core(&mut self, node: Node) -> u32 {
        let digest = digest(&node);
        if let Some(core) = self.core_ids.get(&digest) {
            return *core;
        }
        let core = number(self.cores.len());
        let inputs = node.inputs(&self.bounds).into_boxed_slice();
        self.cores.push(Core { node, inputs });
        self.core_ids.insert(digest, core);
        core
    }

    fn fact(&mut self, fact: Fact) -> u32 {
        let digest = digest(&fact);
        if let Some(known) = self.fact_ids.get(&digest) {
            return *known;
        }
        let new = number(self.facts.len());
        let mut contradicted = Vec::new();
        if fact.is_claim() {
            for other in &self.claims {
                if let Some(why) = contradiction(&fact, &self.facts[usize_from_u32(*other)]) {
                    contradicted.push((*other, why));
                    self.contradicted[usize_from_u32(*other)].push((new, why));
                }
            }
            self.claims.push(new);
        }
        self.contradicted.push(contradicted);
        self.facts.push(fact);
        self.fact_ids.insert(digest, new);
        new
    }

    fn list_of(&mut self, facts: Vec<Fact>) -> u32 {
        let mut list: Vec<u32> = facts.into_iter().map(|fact| self.fact(fact)).collect();
        list.sort_unstable();
        list.dedup();
        self.list(list.into_boxed_slice())
    }

    fn list(&mut self, list: Box<[u32]>) -> u32 {
        if let Some(known) = self.list_ids.get(&list) {
            return *known;
        }
        let new = number(self.lists.len());
        self.lists.push(list.clone());
        self.list_ids.insert(list, new);
        new
    }

    fn union(&mut self, made: u32, list: u32) -> u32 {
        if list == 0 {
            return made;
        }
        if let Some(known) = self.unions.get(&(made, list)) {
            return *known;
        }
        let mut all = self.made[usize_from_u32(made)].all.to_vec();
        all.extend(&self.lists[usize_from_u32(list)]);
        all.sort_unstable();
        all.dedup();
        let union = self.made_of(all.into_boxed_slice());
        self.unions.insert((made, list), union);
        union
    }

    fn made_of(&mut self, all: Box<[u32]>) -> u32 {
        if let Some(known) = self.made_ids.get(&all) {
            return *known;
        }
        let new = number(self.made.len());
        let to = std::array::from_fn(|place| {
            let is_for = |fact: &u32| match &self.facts[usize_from_u32(*fact)] {
                Fact::Sent(sent) => usize::from(sent.to.0) == place,
                _ => false,
            };
            all.iter().copied().filter(is_for).collect()
        });
        self.made.push(Made { all: all.clone(), to });
        self.made_ids.insert(all, new);
        new
    }

    fn member(&mut self, member: (u32, u32)) -> u32 {
        if let Some(known) = self.member_ids.get(&member) {
            return *known;
        }
        let new = number(self.members.len());
        self.members.push(member);
        self.member_ids.insert(member, new);
        new
    }
}

fn number(count: usize) -> u32 {
    u32::try_from(count).ok().filter(|number| *number < BROKEN).expect("they can be numbered")
}

/// The digest of all that something holds.
fn digest(of: &impl Debug) -> u128 {
    struct Digesting(Digest128);

    impl Write for Digesting {
        fn write_str(&mut self, text: &str) -> std::fmt::Result {
            self.0.update(text.as_bytes());
            Ok(())
        }
    }

    let mut digesting = Digesting(Digest128::default());
    write!(digesting, "{of:?}").expect("a digest takes everything");
    digesting.0.value()
}
