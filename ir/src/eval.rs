//! The meaning of every op: a slow and obvious interpreter, the reference for all that is fast.
//!
//! Values are stored as f32 (or as the bytes of their dtype while they are only moved); sums run in
//! f64 or f32 as [`Accumulate`] says, always from the first element to the last and never in
//! another order, so one prompt gives the same bits fed whole or token by token.
//!
//! Three ways in: [`Session`] runs a module with its KV caches, [`eval_graph`] one graph on given
//! tensors, [`eval_constant`] an expression over weights. A module that does not verify, sizes that
//! no honest model has, and ids outside a table are errors, never panics or huge allocations.
//! Not here: speed beyond the cheap (weights are decoded once), sampling, tokenizers.

mod array;
pub mod ball;
mod constant;
mod error;
mod frame;
mod math;
mod movement;
mod ops;
mod reduce;
mod session;
#[cfg(test)]
mod tests;

pub use constant::eval_constant;
pub use error::EvalError;
pub use math::{activation, unary};
pub use session::{Session, argmax, eval_graph, eval_module};

/// In what precision sums are accumulated; a finished sum is rounded to f32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Accumulate {
    /// f32, as kernels do.
    F32,
    /// f64: the reference.
    #[default]
    F64,
}

/// How to evaluate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EvalOptions {
    /// Precision of sums.
    pub accumulate: Accumulate,
    /// Most elements that the values alive at one time may hold together, weights excluded.
    pub max_elements: usize,
}

impl Default for EvalOptions {
    /// f64 sums; 2^28 live elements, 1 GiB of f32.
    fn default() -> Self {
        EvalOptions { accumulate: Accumulate::F64, max_elements: 1 << 28 }
    }
}
