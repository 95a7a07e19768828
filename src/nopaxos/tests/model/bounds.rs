//! How far the model goes.

use std::fmt;

use crate::nopaxos::Survival;

/// What there may be of, in a whole run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Budget {
    Command,
    Read,
    Restart,
    DiskLoss,
    Checkpoint,
    /// A leader makes no-ops of what it lacks.
    GapCommit,
    /// A member asks again or elsewhere for what it lacks.
    Ask,
    /// A connection is new: what is open is sent again on it.
    Repeat,
}

/// What was spent of each budget: four bits for each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Spent(pub(super) u32);

const SPENT_MAX: u32 = 15;

impl Spent {
    pub(super) fn of(self, budget: Budget) -> u32 {
        self.0 >> (4 * budget as u32) & SPENT_MAX
    }

    pub(super) fn more(self, budget: Budget) -> Self {
        Self(self.0 + (1 << (4 * budget as u32)))
    }
}

/// The bounds of an exploration, of a group of three members.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// The highest term.
    pub(super) terms: u64,
    pub(super) commands: u32,
    pub(super) reads: u32,
    pub(super) restarts: u32,
    pub(super) losses: u32,
    pub(super) checkpoints: u32,
    pub(super) gaps: u32,
    pub(super) asks: u32,
    pub(super) repeats: u32,
    /// How many places after the leader the sequencer stands.
    pub(super) offset: u8,
    pub(super) survival: Survival,
    /// The disk takes its time: what was written becomes durable in a step of its own.
    pub(super) lazy: bool,
    /// It begins before the first view, not with it.
    pub(super) cold: bool,
    /// Distinct states at most.
    pub(super) states: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            terms: 2,
            commands: 1,
            reads: 0,
            restarts: 0,
            losses: 0,
            checkpoints: 0,
            gaps: 0,
            asks: 0,
            repeats: 0,
            offset: 0,
            survival: Survival::Always,
            lazy: false,
            cold: false,
            states: usize::MAX,
        }
    }
}

impl Bounds {
    /// The default, but for what `text` says: `terms=2 commands=2 survival=never lazy=1`.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let mut bounds = Self::default();
        for word in text.split_whitespace() {
            let (name, value) = word.split_once('=').ok_or(format!("'{word}' is no bound"))?;
            bounds.set(name, value)?;
        }
        Ok(bounds)
    }

    fn set(&mut self, name: &str, value: &str) -> Result<(), String> {
        if name == "survival" {
            self.survival = match value {
                "always" => Survival::Always,
                "clean" => Survival::Clean,
                "never" => Survival::Never,
                _ => return Err(format!("there is no survival '{value}'")),
            };
            return Ok(());
        }
        let number: u32 = value.parse().map_err(|_| format!("'{value}' is no number"))?;
        let small = u8::try_from(number).ok().filter(|number| u32::from(*number) <= SPENT_MAX);
        let counted = match name {
            "states" => {
                self.states = crate::base::cast::usize_from_u32(number);
                return Ok(());
            }
            "terms" => {
                self.terms = number.into();
                return Ok(());
            }
            "offset" => {
                self.offset = small.ok_or("too many places")?;
                return Ok(());
            }
            "lazy" | "cold" => {
                *(if name == "lazy" { &mut self.lazy } else { &mut self.cold }) = number > 0;
                return Ok(());
            }
            "commands" => &mut self.commands,
            "reads" => &mut self.reads,
            "restarts" => &mut self.restarts,
            "losses" => &mut self.losses,
            "checkpoints" => &mut self.checkpoints,
            "gaps" => &mut self.gaps,
            "asks" => &mut self.asks,
            "repeats" => &mut self.repeats,
            _ => return Err(format!("there is no bound '{name}'")),
        };
        *counted = small.ok_or("too many")?.into();
        Ok(())
    }

    /// How much there may be of something.
    pub(super) fn of(&self, budget: Budget) -> u32 {
        match budget {
            Budget::Command => self.commands,
            Budget::Read => self.reads,
            Budget::Restart => self.restarts,
            Budget::DiskLoss => self.losses,
            Budget::Checkpoint => self.checkpoints,
            Budget::GapCommit => self.gaps,
            Budget::Ask => self.asks,
            Budget::Repeat => self.repeats,
        }
    }
}

impl fmt::Display for Bounds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { terms, commands, reads, restarts, losses, checkpoints, gaps, .. } = self;
        let Self { asks, repeats, offset, .. } = self;
        write!(
            f,
            "terms={terms} commands={commands} reads={reads} restarts={restarts} \
             losses={losses} checkpoints={checkpoints} gaps={gaps} asks={asks} \
             repeats={repeats} offset={offset} survival={} lazy={} cold={}",
            format!("{:?}", self.survival).to_lowercase(),
            u8::from(self.lazy),
            u8::from(self.cold),
        )
    }
}
