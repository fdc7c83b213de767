//! What timing says: cycles per phase, region and token, and where they go.

use serde::{Deserialize, Serialize};

/// Fidelity of a timing run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Level {
    /// Run by run, one representative line per class.
    L0,
    /// Run by run, every tile, region by region.
    L1,
    /// Wavelet by wavelet, one representative line per class.
    L2,
    /// Every tile of the plan at once.
    L3,
}

impl Level {
    /// By number, 0 to 3.
    pub fn from_number(n: u8) -> Option<Self> {
        [Level::L0, Level::L1, Level::L2, Level::L3].get(usize::from(n)).copied()
    }

    /// Its number.
    pub fn number(self) -> u8 {
        self as u8
    }
}

/// Cycles of one phase. `cycles` is the growth of the latest end over all tiles; the parts are those
/// of the closed form, each at its largest; what is left is `contention`, and what the parts hide
/// behind each other is `overlap`: cycles = parts + contention - overlap.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PhaseTime {
    /// Name of the phase.
    pub name: String,
    /// All of it.
    pub cycles: u64,
    /// Local instructions.
    pub compute: u64,
    /// Wavelets one after another through the busiest core.
    pub payload: u64,
    /// Hops.
    pub distance: u64,
    /// Cores that forward or absorb dependent messages.
    pub relay: u64,
    /// Ramps, start of messages, task switches, queue binding.
    pub fixed: u64,
    /// Waiting and shared links: what the parts do not explain.
    pub contention: u64,
    /// Cycles of the parts that were hidden behind other work.
    pub overlap: u64,
}

/// Where the cycles of a token go, summed over all phases of all regions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Breakdown {
    /// Local instructions.
    pub compute: u64,
    /// Wavelets one after another.
    pub payload: u64,
    /// Hops inside regions and between them, feedback of the token included.
    pub distance: u64,
    /// Dependent messages.
    pub relay: u64,
    /// Ramps, starts, switches.
    pub fixed: u64,
    /// Waiting and shared links: what the parts do not explain.
    pub contention: u64,
    /// Cycles of the parts that were hidden behind other work; to be subtracted from their sum.
    pub overlap: u64,
}

/// When a region works on the token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegionTime {
    /// Name of the region.
    pub name: String,
    /// First wavelet of its input, 0 without one.
    pub start: u64,
    /// Its last tile ends.
    pub end: u64,
    /// Per phase of its template: the last tile ends it (0 when none takes part).
    pub phase_ends: Vec<u64>,
}

/// Cycles of one template.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TemplateTime {
    /// Name of the template.
    pub name: String,
    /// Regions that run it.
    pub regions: u32,
    /// From the first region's input to its end.
    pub cycles: u64,
    /// Cycles between tokens when they follow each other without a gap.
    pub interval: u64,
    /// Phase by phase.
    pub phases: Vec<PhaseTime>,
}

/// A timing run of one token.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TimingReport {
    /// Name of the target.
    pub target: String,
    /// Fidelity.
    pub level: Level,
    /// Position of the token (0-based).
    pub pos: u32,
    /// Decode: from one token's registers to the next token's.
    pub token_cycles: u64,
    /// Of these, from the argmax PE back to the registers of the farthest PE of the first region.
    pub feedback_cycles: u64,
    /// Decode rate of one sequence at the target's clock.
    pub tokens_per_second: f64,
    /// Prefill: cycles between tokens in the pipeline, by the slowest template.
    pub prefill_interval_cycles: u64,
    /// Prefill rate at the target's clock.
    pub prefill_tokens_per_second: f64,
    /// Where the cycles of a token go.
    pub breakdown: Breakdown,
    /// One per template in use.
    pub templates: Vec<TemplateTime>,
    /// One per region.
    pub regions: Vec<RegionTime>,
    /// What was done to get there, e.g. how many lines were run wavelet by wavelet.
    pub notes: Vec<String>,
}

impl TimingReport {
    /// Cycles until the last of `tokens` prompt tokens has left the pipeline: the first takes a
    /// token's time, each further one an interval.
    pub fn prefill_cycles(&self, tokens: u32) -> u64 {
        let first = self.token_cycles - self.feedback_cycles;
        first + self.prefill_interval_cycles * u64::from(tokens.saturating_sub(1))
    }
}
