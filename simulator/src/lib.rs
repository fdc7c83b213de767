//! Executes wafer placement plans: function per tile, and time at four levels of fidelity.
//!
//! The simulator sees a [`plan::Plan`] and nothing of how it was made. [`functional`] computes what
//! every PE computes, with the plan's own data movement and reduction order; [`timing`] counts
//! cycles, without numbers. Both rest on [`fabric`]: the PEs of the plan as a dense array with
//! their routes and roles looked up.
//!
//! Reading order: [`fabric`], [`functional`], [`kernels`], [`timing`].

pub mod error;
pub mod fabric;
pub mod functional;
pub mod kernels;
pub mod memory;
pub mod timing;

pub use error::SimError;
pub use fabric::Fabric;
pub use functional::{Simulator, StepOutput};
pub use memory::WeightSource;
pub use timing::{Level, TimingReport, time};
