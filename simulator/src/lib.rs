//! Executes wafer placement plans: function per tile, and time at four levels of fidelity.
//!
//! The simulator sees a [`plan::Plan`] and nothing of how it was made. [`functional`] computes what
//! every PE computes, with the plan's own data movement and reduction order, along the order that
//! [`schedule`] finds once per template; [`timing`] counts cycles, without numbers, on [`fabric`]: the
//! PEs of the plan as a dense array with their routes and roles looked up. [`serving`] puts several
//! requests through the stages that timing found.
//!
//! Reading order: [`schedule`], [`memory`], [`kernels`], [`functional`]; [`fabric`], [`timing`].

pub mod error;
pub mod fabric;
pub mod functional;
pub mod hops;
pub mod kernels;
pub mod memory;
pub mod schedule;
pub mod serving;
pub mod timing;

pub use error::SimError;
pub use fabric::Fabric;
pub use functional::{Feed, Machine, Sequence, Simulator, StepOutput};
pub use memory::WeightSource;
pub use serving::{Load, ServingReport, serve};
pub use timing::{Level, TimingReport, time};
