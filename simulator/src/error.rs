//! Why a plan cannot be simulated, with the tiles and colors to look at.

use std::fmt;

use plan::Point;

/// Most waiting tiles that an error lists.
pub const LISTED_TILES: usize = 12;

/// A simulation that stopped.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum SimError {
    /// The plan is not one that `plan::verify` accepts.
    #[error("SIM0201: the plan is illegal: {what}; `sparkc verify` lists everything")]
    Illegal {
        /// What was stumbled upon.
        what: String,
    },
    /// The weight source has no such weight, or one of another shape.
    #[error("SIM0202: weight `{name}`: {problem}")]
    Weight {
        /// Full name.
        name: String,
        /// Missing, or what differs.
        problem: String,
    },
    /// A position at or beyond the plan's context.
    #[error(
        "SIM0203: position {pos} is outside of the context of {context} tokens; compile with a larger --context"
    )]
    Context {
        /// The position asked for.
        pos: u32,
        /// What the plan was made for.
        context: u32,
    },
    /// A token id outside of the vocabulary.
    #[error("SIM0204: token {token} is outside of the vocabulary of {vocab}")]
    Token {
        /// The id.
        token: u32,
        /// Vocabulary size.
        vocab: u32,
    },
    /// No PE can go on, and some have not ended.
    #[error("SIM0205: deadlock: {waiting} PEs wait forever{}", listed(.tiles))]
    Deadlock {
        /// How many wait.
        waiting: usize,
        /// The first of them, by region and position.
        tiles: Vec<Waiting>,
    },
    /// All programs have ended, and wavelets are left over.
    #[error("SIM0206: {elements} elements on color {color} at PE ({}, {}) were never received", .at.x, .at.y)]
    Unreceived {
        /// The wafer color.
        color: u8,
        /// Where they lie.
        at: Point,
        /// How many.
        elements: usize,
    },
    /// The plan declares no such output.
    #[error("SIM0207: the plan declares no {what}")]
    NoOutput {
        /// `logits` or `token`.
        what: &'static str,
    },
    /// More sequences at once than the wafer caches.
    #[error(
        "SIM0209: {asked} requests in flight, the caches hold {held}; a smaller --context makes room for more"
    )]
    Requests {
        /// Sequences asked for.
        asked: usize,
        /// Sequences whose caches are resident.
        held: usize,
    },
    /// More memory than a run may take.
    #[error("SIM0210: level {level} takes {} of memory or more here, {} are allowed", gib(.bytes), gib(.limit))]
    Memory {
        /// The level asked for.
        level: u8,
        /// Bytes needed, or those after which it was stopped.
        bytes: u64,
        /// Most bytes.
        limit: u64,
    },
    /// Weights and caches of more bytes than the functional simulator holds.
    #[error("SIM0211: weights and caches take {} of memory, {} are allowed", gib(.bytes), gib(.limit))]
    Values {
        /// Bytes needed with one sequence.
        bytes: u64,
        /// Most bytes.
        limit: u64,
    },
    /// Values flow from a region back to itself within one token.
    #[error(
        "SIM0208: within one token values flow from region `{region}` back to itself; function is simulated for plans whose regions form no cycle, timing for any (--timing-only)"
    )]
    RegionCycle {
        /// One region of the cycle.
        region: String,
    },
}

/// Refuses a plan that `plan::verify` does not accept.
pub(crate) fn refuse_illegal(plan: &plan::Plan) -> Result<(), SimError> {
    plan::verify(plan).map_err(|violations| {
        let first = violations.first().map_or(String::new(), ToString::to_string);
        let more = violations.len().saturating_sub(1);
        SimError::Illegal { what: format!("{first}, and {more} more violations") }
    })
}

/// A PE that waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// Name of its region.
    pub region: String,
    /// Where on the wafer.
    pub at: Point,
    /// Name of the phase.
    pub phase: String,
    /// Index of the instruction in its program (in timing runs a task switch counts as one).
    pub instruction: usize,
    /// Wafer color it waits for.
    pub color: u8,
    /// Elements (in timing runs: wavelets) there.
    pub found: u64,
    /// Elements needed.
    pub needed: u64,
}

impl fmt::Display for Waiting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "PE ({}, {}) of {} in phase {}, instruction {}: color {} has {} of {} elements",
            self.at.x,
            self.at.y,
            self.region,
            self.phase,
            self.instruction,
            self.color,
            self.found,
            self.needed
        )
    }
}

fn gib(bytes: &u64) -> String {
    format!("{:.1} GiB", *bytes as f64 / f64::from(1 << 30))
}

fn listed(tiles: &[Waiting]) -> String {
    tiles.iter().map(|t| format!("\n  {t}")).collect()
}
