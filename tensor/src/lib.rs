//! Data at the bottom of sparkc: dtypes, shapes, block-quantised layouts, bytes and comparison.
//!
//! Everything above speaks of numbers through this crate, and it knows nothing of what is above.
//! Reading order: [`DType`], [`Tensor`] and its [`Bytes`], [`quant`], [`finite`], [`compare`], [`Rng`].
//!
//! Does not compute: arithmetic on tensors is `ir::eval`'s (the reference) and `runtime`'s (fast).

mod bytes;
pub mod compare;
mod dtype;
pub mod finite;
pub mod quant;
mod rng;
mod storage;

pub use bytes::Bytes;
pub use compare::{Mismatch, Tolerance};
pub use dtype::DType;
pub use finite::NonFinite;
pub use rng::Rng;
pub use storage::{Tensor, TensorError, element_count};
