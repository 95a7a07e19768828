//! The table of metrics: each number that a core publishes has one row, with the name that logs
//! use, the name under which it is exported, and what it means. The structs that hold the numbers
//! are made from the same lines, so that a metric without a row can't be written.

/// How a metric moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It only grows, until the process ends.
    Counter,
    /// It goes up and down.
    Gauge,
    /// Counts of values by size, which only grow.
    Histogram,
}

impl Kind {
    /// Its name in the text format.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// What a number counts, so that it is exported in base units.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Things, or bytes.
    One,
    /// Nanoseconds; exported as seconds.
    Nanoseconds,
}

/// One metric of a core.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// Its name in the log and in tests.
    pub name: &'static str,
    /// The family under which it is exported, without the prefix that all of ours have.
    pub family: &'static str,
    /// What tells it from the others of its family, if there are others.
    pub label: Option<(&'static str, &'static str)>,
    /// How it moves.
    pub kind: Kind,
    /// What it counts.
    pub unit: Unit,
    /// What it means, in parts that make a sentence or two.
    pub help: &'static [&'static str],
}

/// What a family means whose metrics differ by a label, and so have a help text each.
pub const LABELLED_FAMILIES: &[(&str, &str)] = &[
    ("drops_total", "Connections, frames and answers that were discarded, by reason."),
    (
        "member_ignored_total",
        "Messages of other members that had no effect, by reason; most are late or said twice.",
    ),
    (
        "member_frames_dropped_total",
        "Frames of other members that were not taken, by reason; none is expected.",
    ),
    (
        "commands_refused_total",
        "Commands refused before they were stamped, by reason; a refused command left no trace.",
    ),
];

impl Row {
    /// What its family means.
    #[must_use]
    pub fn family_help(&self) -> String {
        let family = LABELLED_FAMILIES.iter().find(|(family, _)| *family == self.family);
        family.map_or_else(|| self.help.concat().trim().to_owned(), |(_, help)| (*help).to_owned())
    }
}

/// Makes a struct of numbers with a row for each: `field: Kind Unit "family"`, or
/// `field: Kind Unit "family" reason "value"` for one of several that differ by a label. After `+`
/// stand members that have rows of their own.
macro_rules! metrics {
    (
        $(#[$doc:meta])* $name:ident {
            $(
                $(#[doc = $help:literal])+
                $field:ident: $kind:ident $unit:ident $family:literal
                    $($label:ident $value:literal)?,
            )*
        }
        $(+ { $($(#[$member_doc:meta])* $member:ident: $member_type:ident,)* })?
    ) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct $name {
            $($(#[doc = $help])+ pub $field: u64,)*
            $($($(#[$member_doc])* pub $member: $member_type,)*)?
        }

        impl $name {
            const ROWS: &'static [$crate::metrics::table::Row] = &[$(
                $crate::metrics::table::Row {
                    name: stringify!($field),
                    family: $family,
                    label: metrics!(@label $($label $value)?),
                    kind: $crate::metrics::table::Kind::$kind,
                    unit: $crate::metrics::table::Unit::$unit,
                    help: &[$($help),+],
                },
            )*];

            /// Calls `visit` with each metric's row and value, always in the same order.
            pub fn each(&self, visit: &mut impl FnMut(&'static $crate::metrics::table::Row, u64)) {
                let own: [u64; Self::ROWS.len()] = [$(self.$field),*];
                for (row, value) in Self::ROWS.iter().zip(own) {
                    visit(row, value);
                }
                $($(self.$member.each(visit);)*)?
            }

            /// Takes each metric's value from `next`, in the same order.
            pub fn fill(&mut self, next: &mut impl FnMut() -> u64) {
                let own: [&mut u64; Self::ROWS.len()] = [$(&mut self.$field),*];
                for place in own {
                    *place = next();
                }
                $($(self.$member.fill(next);)*)?
            }
        }
    };
    (@label) => { None };
    (@label $label:ident $value:literal) => { Some((stringify!($label), $value)) };
}

pub(super) use metrics;
