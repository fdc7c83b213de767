//! The program: what an executable computes, decided ahead of time.
//!
//! A [`Program`] is a list of [`Call`]s over numbered [`Buffer`]s, with [`Repeat`]s for equal
//! layers. Buffers lie in slots of one arena; buffers of one slot are never live at the same time.
//! Sizes are polynomials in T (new tokens), C (tokens in the cache) and R (rows of logits), as in
//! the compiler's IR. All activations are f32, integers too (exact below 2^24, which
//! [`Program::check`] ensures for token ids and positions).
//!
//! Does not hold weights: a [`Weight`] says where they lie in the payload and in which layout.

mod check;
mod codec;
mod rows;
mod size;

pub use check::{INTEGER_LIMIT, ProgramError};
pub use codec::{decode, encode};
pub use size::{Bindings, Size};

use serde::{Deserialize, Serialize};
use tensor::DType;

/// Most axes of a buffer.
pub const MAX_RANK: usize = 8;

/// Index of a [`Buffer`].
pub type BufferId = u32;

/// A compiled model without its weights.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Program {
    /// Name of the model, for `--info`.
    pub name: String,
    /// Token ids are below this; width of the logits.
    pub vocab: u32,
    /// Most positions of a sequence: C + T never exceeds it.
    pub context: u32,
    /// Arena slots; a slot is as large as the largest of its sizes (in elements).
    pub slots: Vec<Vec<Size>>,
    /// Views of slots.
    pub buffers: Vec<Buffer>,
    /// KV caches, one per use in a layer.
    pub caches: Vec<CacheSpec>,
    /// Constant tensors in the payload.
    pub weights: Vec<Weight>,
    /// Rotary embeddings used by calls.
    pub ropes: Vec<Rope>,
    /// What to do, in order.
    pub steps: Vec<Step>,
    /// Where token ids enter: `[T]`.
    pub tokens: BufferId,
    /// Where logits leave: `[R, vocab]`.
    pub logits: BufferId,
    /// What products with weights see of activations.
    pub activations: Activations,
}

/// How much of their activations products with weights see.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Activations {
    /// 16 bits of each group of 32 beside quantised weights, f32 beside floats.
    #[default]
    Full,
    /// 8 bits of each group of 32 without outliers beside quantised weights, 16 of the others: what
    /// `--numerics lossy` allows.
    Short,
}

/// A row-major view of (part of) a slot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Buffer {
    /// Index into [`Program::slots`].
    pub slot: u32,
    /// First element within the slot.
    pub offset: Size,
    /// Extents, outermost first.
    pub dims: Vec<Size>,
}

/// A KV cache of one layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CacheSpec {
    /// Key/value heads.
    pub heads: u32,
    /// Elements per head and token.
    pub width: u32,
    /// Stored float dtype.
    #[serde(with = "codec::dtype_code")]
    pub dtype: DType,
}

impl CacheSpec {
    /// Bytes that one position takes.
    pub fn bytes_per_token(&self) -> u64 {
        self.dtype.block_bytes() as u64 * u64::from(self.heads) * u64::from(self.width)
    }
}

/// How a constant tensor is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Layout {
    /// Row-major little-endian f32.
    Plain,
    /// A matrix `[rows, cols]` in tiles of 16 rows (see [`crate::kernels::pack`]).
    Packed,
}

/// A constant tensor of the payload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Weight {
    /// Name for messages; of the compiler's choosing.
    pub name: String,
    /// First byte, from the start of the weight segment; a multiple of 64.
    pub offset: u64,
    /// Stored bytes.
    pub bytes: u64,
    /// Stored dtype; `Plain` is always f32.
    #[serde(with = "codec::dtype_code")]
    pub dtype: DType,
    /// Layout.
    pub layout: Layout,
    /// Extents.
    pub dims: Vec<u32>,
}

/// One step of a program.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Step {
    /// A single call.
    Call(Call),
    /// A loop over layers.
    Repeat(Repeat),
}

/// Calls repeated for `count` layers, with weights and caches looked up per layer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Repeat {
    /// Number of layers.
    pub count: u32,
    /// Index of the first layer, for profiles.
    pub first: u32,
    /// `count` rows of weight indices, as wide as there are per-layer weights.
    pub weights: Vec<Vec<u32>>,
    /// `count` rows of cache indices.
    pub caches: Vec<Vec<u32>>,
    /// The body.
    pub calls: Vec<Call>,
}

/// A reference that may depend on the layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Index {
    /// An index into the program's table.
    Fixed(u32),
    /// A column of the enclosing [`Repeat`]'s table.
    Layer(u32),
}

/// An operand of a call.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub enum Operand {
    /// A computed value.
    Buffer(BufferId),
    /// A constant tensor in `Plain` layout.
    Constant(Index),
    /// An f32 constant.
    Scalar(f32),
    /// All positions of a KV cache up to and with this step's.
    Cache(Index),
}

/// A kernel with its operands and result.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Call {
    /// What to compute.
    pub op: Op,
    /// Operands; their number and shapes are the op's.
    pub operands: Vec<Operand>,
    /// Result.
    pub out: BufferId,
}

/// Elementwise functions of one tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the names are the functions")]
pub enum Unary {
    Neg,
    Exp,
    Sqrt,
    Rsqrt,
    Recip,
    Square,
    Tanh,
    Sigmoid,
    Silu,
    Gelu,
    GeluTanh,
    Relu,
}

/// Elementwise functions of two tensors, with broadcasting.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the names are the functions")]
pub enum Binary {
    Add,
    Sub,
    Mul,
    Div,
    Max,
    Min,
}

/// Reductions of one axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the names are the functions")]
pub enum Reduce {
    Sum,
    Max,
    Mean,
}

/// The operations. Shapes: T tokens, K inner extent, N rows of a packed weight.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Op {
    /// `[T]`: C, C+1, ...
    Positions,
    /// `[T, C + T]`: 0 where query i may see key j, -inf elsewhere.
    CausalMask {
        /// Keys seen, the query's own included.
        window: Option<u32>,
    },
    /// Elementwise: x.
    Unary(Unary),
    /// Elementwise: a, b; broadcast to the result.
    Binary(Binary),
    /// Rounds x to a dtype and back: a cast, or quantisation of groups of 32 of the last axis.
    Round(#[serde(with = "codec::dtype_code")] DType),
    /// act(gate) * up, of equal shapes.
    Glu(Unary),
    /// Strided copy: for every index of `dims`, `out[dst] = x[src]`.
    Copy(Box<StridedCopy>),
    /// x[.., K] times a packed weight [N, K] -> [.., N].
    Linear {
        /// A `Packed` weight.
        weight: Index,
    },
    /// a[.., M, K] x b[.., K, N] -> [.., M, N], of computed values or plain constants.
    Matmul,
    /// x reduced along `axis`, which stays with extent 1.
    Reduce {
        /// Function.
        op: Reduce,
        /// Axis.
        axis: u8,
    },
    /// x, along the last axis.
    Softmax,
    /// x, and gain `[K]` where given.
    RmsNorm {
        /// Added to the mean square.
        eps: f32,
    },
    /// `ids[..]` -> `[.., D]`, rows of a packed weight `[V, D]`.
    Gather {
        /// A `Packed` weight.
        weight: Index,
    },
    /// `table[V, D]`, `ids[..]` -> `[.., D]`, of a computed or plain table.
    GatherPlain,
    /// `x[T, H, D]`, `positions[T]` -> rotated.
    Rope {
        /// Index into [`Program::ropes`].
        rope: u32,
    },
    /// q[T, H, D], k[S, G, D], v[S, G, E] -> [T, H, E]; k and v may be caches.
    Attention {
        /// Multiplies the scores.
        scale: f32,
        /// Keys seen, the query's own included.
        window: Option<u32>,
    },
    /// A cache -> its first n tokens, `[n, heads, width]`.
    CacheRead,
    /// x[n, heads, width] is stored in a cache from position `at` on; no result.
    CacheAppend {
        /// Which cache.
        cache: Index,
        /// First position written.
        at: Size,
    },
}

/// A copy between two strided index spaces.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StridedCopy {
    /// Extents of the index space.
    pub dims: Vec<Size>,
    /// First element read.
    pub src_offset: Size,
    /// Elements between neighbours of each axis in the source; 0 repeats.
    pub src_strides: Vec<Size>,
    /// First element written.
    pub dst_offset: Size,
    /// Elements between neighbours of each axis in the result.
    pub dst_strides: Vec<Size>,
}

/// A rotary embedding with its frequencies worked out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rope {
    /// One per rotated pair, unless `dynamic` replaces them.
    pub inverse_frequencies: Vec<f32>,
    /// Multiplies cos and sin.
    pub attention_factor: f32,
    /// Frequencies that depend on the length of the sequence.
    pub dynamic: Option<DynamicRope>,
}

/// Dynamic NTK scaling: the base grows once C + T exceeds `original`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct DynamicRope {
    /// Base of the wavelengths.
    pub theta: f64,
    /// Context stretch.
    pub factor: f64,
    /// Positions of the trained context.
    pub original: u32,
}

impl Program {
    /// Whether a prompt must be fed in one step to give what it gives whole.
    pub fn needs_whole_prompt(&self, tokens: usize) -> bool {
        self.ropes.iter().filter_map(|r| r.dynamic).any(|d| tokens > d.original as usize)
    }
}

impl Program {
    /// For each cache, whether an attention reads it as keys: that decides its layout.
    pub(crate) fn key_caches(&self) -> Vec<bool> {
        self.caches_read_as(1)
    }

    /// For each cache, whether it is operand `position` of an attention.
    pub(crate) fn caches_read_as(&self, position: usize) -> Vec<bool> {
        let mut found = vec![false; self.caches.len()];
        let mut note = |call: &Call, tables: &[Vec<u32>]| {
            let Some(Operand::Cache(index)) = call.operands.get(position) else { return };
            let attends = matches!(call.op, Op::Attention { .. });
            let ids: Vec<u32> = match index {
                Index::Fixed(i) => vec![*i],
                Index::Layer(c) => {
                    tables.iter().filter_map(|r| r.get(*c as usize)).copied().collect()
                }
            };
            for id in ids.into_iter().filter(|_| attends) {
                if let Some(found) = found.get_mut(id as usize) {
                    *found = true;
                }
            }
        };
        for step in &self.steps {
            match step {
                Step::Call(call) => note(call, &[]),
                Step::Repeat(repeat) => repeat.calls.iter().for_each(|c| note(c, &repeat.caches)),
            }
        }
        found
    }
}

impl Repeat {
    /// The table entry of `index` in iteration `layer`.
    pub(crate) fn weight(&self, layer: usize, column: u32) -> u32 {
        self.weights[layer][column as usize]
    }

    /// The table entry of `index` in iteration `layer`.
    pub(crate) fn cache(&self, layer: usize, column: u32) -> u32 {
        self.caches[layer][column as usize]
    }
}
