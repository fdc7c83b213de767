//! Templates: the program of one distinct block on a rectangle of PEs.
//!
//! [`layer`] and [`table`] write down what every PE does, phase by phase, with the collectives of
//! `route`; [`builder`] collects buffers, pins and phases and lays out SRAM; [`cost`] predicts
//! cycles. Placement asks these for candidate shapes, scheduling for the final ones: there is one
//! description of a block, not an estimate beside it.

pub mod builder;
pub mod cost;
pub mod layer;
mod linear;
pub mod pins;
pub mod table;
