//! The optimiser as a whole: optimal on every model there is, independent of depth, proven.
//!
//! `models` (what is optimised), `extraction` (gap 0), `board` (known optimisations found), `depth` (126
//! layers cost what one costs), `numerics` (bits and bounds of the tiers), `proofs` (certificates accepted and, corrupted, refused). Rules and passes
//! have their own tests in `passes`.

#![allow(clippy::unwrap_used, reason = "a model that cannot be read is a failed test")]

mod board;
mod depth;
mod extraction;
mod models;
mod numerics;
mod proofs;
