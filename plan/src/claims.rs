//! What the compiler claims about a plan. The simulator measures, the verifier recomputes SRAM;
//! neither reads a claim as a fact.

use serde::{Deserialize, Serialize};

use crate::buffer::Role;
use crate::plan::{RegionId, TemplateId};

/// All claims of a plan.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Claims {
    /// Position (0-based) at which cycles are claimed.
    pub at_pos: u32,
    /// Cycles from one token in its registers to the next one there, at `at_pos`, decode.
    pub token_cycles: u64,
    /// Cycles between tokens in the prefill pipeline, at `at_pos`.
    pub prefill_interval_cycles: u64,
    /// Cycles of each phase of each template, in program order.
    pub phases: Vec<PhaseClaim>,
    /// SRAM of each template by contributor, at its fullest phase.
    pub sram: Vec<SramClaim>,
    /// Lower bounds and how far the plan is from them.
    pub bounds: Vec<Bound>,
    /// Hops between the exit of one region and the entry of the next.
    pub gaps: Vec<(RegionId, RegionId, u32)>,
}

/// Claimed cycles of one phase.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PhaseClaim {
    /// The template.
    pub template: TemplateId,
    /// Index of the phase.
    pub phase: u32,
    /// Arithmetic and other local instructions.
    pub compute_cycles: u64,
    /// Communication.
    pub comm_cycles: u64,
}

/// Claimed SRAM bytes of one contributor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SramClaim {
    /// The template.
    pub template: TemplateId,
    /// What for.
    pub role: Role,
    /// Bytes per PE.
    pub bytes: u64,
}

/// A lower bound: what no program on the same rectangles can beat. In cycles, but for `area PEs` (PEs)
/// and `colors` (colors).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Bound {
    /// Of one region of this template; of a whole token when absent.
    pub template: Option<TemplateId>,
    /// `work`, `distance`, `ingress`, `reduction`, `critical path`, `area PEs`, `colors`.
    pub name: String,
    /// Its value.
    pub value: u64,
}

impl Claims {
    /// The bound `name` of a template, or of a token.
    pub fn bound(&self, template: Option<TemplateId>, name: &str) -> Option<u64> {
        let found = self.bounds.iter().find(|b| b.template == template && b.name == name);
        found.map(|b| b.value)
    }

    /// Claimed cycles of one region of a template.
    pub fn template_cycles(&self, template: TemplateId) -> u64 {
        let phases = self.phases.iter().filter(|p| p.template == template);
        phases.map(|p| p.compute_cycles + p.comm_cycles).sum()
    }
}
