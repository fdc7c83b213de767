//! Wafer back end of sparkc: an optimised module and a target become a placement plan.
//!
//! Stages, each a function from one type to the next, so that holding a value proves the stage ran:
//!
//! ```text
//! partition  Module               -> Partition   which mat-vecs, norms and heads, from which weights
//! place      Partition + Target   -> Placement   shapes and rectangles of regions, in strips
//! route      Placement            -> Routing     colors of regions, streams between them
//! schedule   Routing              -> Schedule    programs, SRAM maps and claimed cycles
//! emit       Schedule             -> plan::Plan
//! ```
//!
//! [`compile`] runs them all. Needs shapes only: no weight byte is read. Invariant: a plan that comes
//! out passes `plan::verify`. Does not execute plans: that is the simulator's, which shares no code
//! with this crate.

mod bounds;
mod compile;
mod cost_model;
mod emit;
mod error;
pub mod kernels;
pub mod partition;
pub mod place;
pub mod program;
pub mod report;
mod requests;
pub mod route;
pub mod schedule;

pub use compile::{Options, Stage, compile};
pub use cost_model::WaferCost;
pub use error::{Contributor, Hint, Shortfall, WaferError, WeightTrouble};
pub use place::Wafers;
pub use report::Report;
