//! The language of sparkc: what a model *is* between the file it came from and the artefacts.
//!
//! # A module
//!
//! A [`Module`] holds one [`Graph`], `main`, and the *blocks* it repeats. A decoder has N equal
//! layers: it is written as one block and one `repeat` over the layer indices `a..b`, with weights
//! named by index (`model.layers.{layer}.mlp.up_proj.weight`). Whatever is done to a block is done
//! once, so an 80-layer model costs what a 1-layer model costs. Layers that differ are different
//! blocks.
//!
//! This is a whole module in the text form ([`text`] has its grammar). It is a model without sense
//! but with all of its parts: an embedding, two layers of attention with KV caches, tied logits.
//!
//! ```
//! # use sparkc_ir as ir;
//! let module = ir::parse(r#"
//! module "tiny" context 16 {
//!   // One layer. A carry goes from layer to layer, an input is the same for all,
//!   // a state is the layer's own KV cache.
//!   block @layer(carry %x: f32[T, 4], input %pos: i32[T], state %keys: cache f32[C, 1, 4]) {
//!     %w = weight "{layer}.proj" : bf16[4, 4]
//!     %wt = transpose %w {perm=[1, 0]} : bf16[4, 4]
//!     %h = rms_norm %x {eps=1e-5} : f32[T, 4]
//!     %q = matmul %h, %wt : f32[T, 4]
//!     %heads = reshape %q : f32[T, 1, 4]
//!     %turned = rope %heads, %pos {dim=4, theta=10000.0} : f32[T, 1, 4]
//!     // The append consumes the cache and returns its successor; the read borrows that.
//!     %grown = cache_append %keys, %turned : cache f32[C + T, 1, 4]
//!     %all = cache_read %grown : f32[C + T, 1, 4]
//!     %mixed = attention %turned, %all, %all {scale=0.5} : f32[T, 1, 4]
//!     %flat = reshape %mixed : f32[T, 4]
//!     %y = add %x, %flat : f32[T, 4]
//!     return %y, %grown
//!   }
//!   graph @main(input %tokens: i32[T], state %keys: cache x2 f32[C, 1, 4]) {
//!     %table = weight "embedding" : f32[8, 4]
//!     %x = gather %table, %tokens : f32[T, 4]
//!     %pos = positions : i32[T]
//!     // Layers 0 and 1: %x is threaded through, each layer gets its cache of the stack.
//!     %y, %grown = repeat @layer 0..2 (%x, %pos, %keys) : f32[T, 4], cache x2 f32[C + T, 1, 4]
//!     %last = slice %y {axis=0, start=T - R, end=T} : f32[R, 4]
//!     %head = transpose %table {perm=[1, 0]} : f32[4, 8]
//!     %logits = matmul %last, %head : f32[R, 8]
//!     return %logits, %grown
//!   }
//! }
//! "#)?;
//! ir::verify(&module)?;
//! assert_eq!(ir::parse(&ir::print(&module))?, module);
//!
//! let weights = ir::random::weights(&module, 0);
//! let mut session = ir::eval::Session::new(&module, &weights, Default::default())?;
//! let whole = session.step(&[3, 1, 4], 3)?; // the logits of three new tokens
//! assert_eq!(whole.shape(), [3, 8]);
//! session.reset();
//! session.step(&[3, 1], 1)?;
//! let last = session.step(&[4], 1)?; // one more token, after two in the cache
//! assert_eq!(last.to_f32(), whole.to_f32()[16..]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Values and types
//!
//! Graphs are in SSA form: a value is defined once, by a parameter or by a node, before its uses,
//! and has a type. A tensor ([`TensorType`]) has a dtype and [`Dim`]s; a KV cache ([`CacheType`]) is
//! one layer's inside a block and a stack of them, `cache x2`, in `main`. Dims are polynomials over
//! three symbols: `T` tokens new in this step, `C` tokens already in the cache, `R` trailing
//! positions for which logits are wanted (1 <= R <= T). Prefill (C = 0), decode (T = 1) and "logits
//! of the whole prompt" (R = T) are [`Bindings`] of one and the same graph.
//!
//! # Ops
//!
//! [`Op`] lists them with their shapes; [`op_table`] says what is known of each. Front ends write
//! the primitive ones (matmul, softmax, ...); `rms_norm`, `attention` and `glu` also exist because
//! models and back ends think in them, and mean exactly what their parts mean. [`infer`] gives the
//! type of a result from the types of the operands; [`Builder`] writes graphs with it.
//!
//! # Numbers
//!
//! Compute ops read any float dtype (and `q8`/`q4`), compute in f32 and yield f32; movement keeps
//! the dtype; `cast`, `quantize` and `cache_append` are the only places where a stored value is
//! rounded. Only weights are quantised. [`eval`] is the meaning of every op.
//!
//! # State
//!
//! A cache is a *linear* value: it enters as a `state` parameter, `cache_append` consumes it and
//! returns its successor, and the graph returns that in the same place; `cache_read` borrows. So
//! writing in place is always legal, and provably so.
//!
//! # Compile-time constants
//!
//! An expression over weights and constants only is a compile-time constant (*cc*,
//! [`Graph::compile_time_constants`]): merged projections, folded norm gains, quantised weights. It
//! stays an expression; back ends evaluate it when they pack ([`eval::eval_constant`]).
//!
//! # What a module must keep
//!
//! [`verify`] checks the rules and lists them at the top of its file. Passes and back ends may rely
//! on them; nothing else in this crate relies on more.
//!
//! To add an op: a variant of [`Op`] and a row of its table, a type rule in `infer.rs`, its meaning
//! in `eval/ops.rs`, its attributes in `text/attribute.rs` and `verify/attributes.rs`, a test in
//! `tests/eval_ops.rs`; the compiler or a test points at each that is missing.
//!
//! Reading order: [`Dim`], [`types`](TensorType), [`Op`], [`Graph`], [`Module`], [`Builder`]; then
//! [`verify`], [`text`], [`eval`]; [`view`] and [`random`] serve passes and tests.
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
pub mod view;
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
pub use weights::{NonFiniteWeight, WeightMap, WeightSource};
