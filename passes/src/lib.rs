//! Target-independent passes of sparkc: from the graph a front end wrote to the one a back end wants.
//!
//! [`optimize`] runs the pipeline of an optimisation level; [`run`] runs any pipeline string. The
//! manager verifies after every pass. Rewrites carry a numeric [`Tier`] and are loaded only when it
//! is allowed. What is cheap is asked of a [`CostModel`], which back ends implement: this crate
//! knows no target, no file format and does no IO.
//!
//! Reading order: [`pipeline`], [`registry`](passes), `manager`, the passes, then `egraph/README.md`.

mod canonicalize;
mod cost;
mod cse;
mod dce;
mod describe;
mod distance;
mod egraph;
mod emit;
mod error;
pub mod extract;
mod fold;
mod manager;
mod optimize;
pub mod pipeline;
mod quantize;
mod reduce;
mod registry;
mod report;
mod roll;
#[cfg(test)]
mod testing;
mod tier;

pub use cost::{
    Call, Cost, CostModel, NeutralCost, Operand, graph_cost, is_movement, module_cost, type_bytes,
};
pub use distance::{Moved, distance};
pub use egraph::{ProofStep, RuleInfo, RuleVerdict, rewrite_rules, statement, verify_rules};
pub use error::PassError;
pub use manager::{Changed, OptionInfo, Pass, PassCx, PassInfo, PassOptions, RunOptions, run};
pub use optimize::{Options, optimize};
pub use pipeline::Level;
pub use reduce::{Reduced, reduce};
pub use registry::{find as find_pass, passes};
pub use report::{PassReport, Proof, QuantizedTensor, Report, RewriteUse, SearchReport, Warning};
pub use tier::{Tier, UnknownTier};
