//! The language of sparkc: what a model *is* between the file it came from and the artefacts.
//!
//! # A module
//!
//! A [`Module`] holds one `main` [`Graph`] and the *blocks* it repeats. A decoder has N equal
//! layers: it is written as one block and one `repeat` over the layer indices `a..b`, with weights
//! named by index (`model.layers.{layer}.mlp.up_proj.weight`). Whatever is done to a block is done
//! once, so an 80-layer model costs what a 1-layer model costs.
//!
//! ```text
//! module "tiny" context 512 {
//!   block @layer(carry %x: f32[T, 64], input %pos: i32[T], state %k: cache f32[C, 2, 16]) {
//!     %w = weight "model.layers.{layer}.mlp.up_proj.weight" : bf16[128, 64]
//!     ...
//!     return %y, %k1
//!   }
//!   graph @main(input %tokens: i32[T], state %k: cache x4 f32[C, 2, 16]) {
//!     ...
//!     %h, %k1 = repeat @layer 0..4 (%x, %pos, %k) : f32[T, 64], cache x4 f32[C + T, 2, 16]
//!     return %logits, %k1
//!   }
//! }
//! ```
//!
//! # Values and types
//!
//! Graphs are in SSA form: a value is defined once, by a parameter or by a node, before its uses.
//! A value is a tensor ([`TensorType`]: dtype and [`Dim`]s) or a KV cache ([`CacheType`]). Dims are
//! polynomials over three symbols: `T` tokens new in this step, `C` tokens already in the cache,
//! `R` trailing positions for which logits are wanted (1 <= R <= T). Prefill, decode and "logits of
//! the whole prompt" are bindings of the same graph.
//!
//! # Numbers
//!
//! Compute ops read any float dtype (and `q8`/`q4`), compute in f32 and yield f32; data movement
//! keeps the dtype; `cast` and `quantize` are the only places where a stored value is rounded.
//! [`eval`] is the meaning of every op.
//!
//! # State
//!
//! A cache is a *linear* value: it enters as a `state` parameter, `cache_append` consumes it and
//! returns its successor, and the graph returns it; `cache_read` borrows. So writing in place is
//! always legal, and provably so. Inside a block a cache is one layer's; `main` holds a stack
//! (`cache x4`) that `repeat` deals out by index.
//!
//! # Compile-time constants
//!
//! An expression over weights and constants only is a compile-time constant (*cc*,
//! [`Graph::compile_time_constants`]): merged projections, folded norm gains, quantised weights. It
//! stays an expression; back ends evaluate it when they pack.
//!
//! Reading order: [`Dim`], [`types`](TensorType), [`Op`] and its table, [`Graph`], [`Module`],
//! [`Builder`]; then `verify`, the text form and `eval`.
//! Does not do: IO, file formats, targets, optimisation.

mod builder;
mod dim;
pub mod eval;
mod graph;
mod index;
mod infer;
mod module;
mod op;
pub mod random;
mod rope;
#[cfg(test)]
mod testing;
pub mod text;
mod types;
mod verify;
mod weights;

pub use builder::Builder;
pub use dim::{Bindings, Dim, Symbol};
pub use graph::{Def, Graph, Node, Param, ParamKind, Value};
pub use index::{BlockId, NodeId, ValueId};
pub use infer::{InferError, infer};
pub use module::{Block, Module, WeightUse};
pub use op::{
    Activation, BinaryOp, NumericClass, Op, OpInfo, OpKind, Real, ReduceOp, UnaryOp, op_table,
};
pub use rope::{RopeScaling, RopeSpec};
pub use text::{ParseError, ParseErrorKind, parse, parse_graph, print, print_graph};
pub use types::{CacheType, TensorType, Type};
pub use verify::{MAX_LAYERS, MAX_RANK, Rule, Violation, Violations, verify, verify_graph};
pub use weights::{WeightMap, WeightSource};
