//! Architectures: the registry of families, their tensors, and the decoder that they share.
//!
//! `family` says how families differ, `names` which tensors a decoder has, `check` compares those
//! with the files, `decoder` builds the graph. A new Llama-like family is a new row in `family`; a
//! new kind of block is a new builder beside `decoder`.

mod check;
mod decoder;
mod family;
mod names;

pub use family::{AttentionBias, FAMILIES, Family, WindowRule};

pub(crate) use check::{from_config, from_weights};
pub(crate) use decoder::build;
pub(crate) use family::{NORM_EPS_DEFAULT, by_architecture, by_model_type, supported};
