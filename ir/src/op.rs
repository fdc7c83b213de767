//! The ops, and one table with what is known of each: spelling, arity, numeric class, meaning.
//!
//! How to add an op is told at the end of the introduction, in `lib.rs`. Passes and back ends learn
//! of it where they match on `Op`.

use std::fmt;

use tensor::DType;

use crate::{BlockId, Dim, RopeSpec};

/// An f64 attribute (not NaN; only `const` may be infinite) with equality, order and hash by value: `epsilon`, `scale`, `theta`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Real(u64);

impl Real {
    /// The attribute of this value; -0 becomes 0.
    ///
    /// # Panics
    /// When `value` is NaN; readers of files check before.
    pub fn new(value: f64) -> Self {
        assert!(!value.is_nan(), "attributes are numbers");
        let bits = (value + 0.0).to_bits();
        // Flip so that the order of the bits is the order of the values.
        Real(if bits >> 63 == 1 { !bits } else { bits | 1 << 63 })
    }

    /// The value.
    pub fn get(self) -> f64 {
        f64::from_bits(if self.0 >> 63 == 1 { self.0 & !(1 << 63) } else { !self.0 })
    }
}

/// The shortest text that reads back as the same value.
impl fmt::Display for Real {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.get())
    }
}

impl fmt::Debug for Real {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// An enum of functions: a list of all, and the spelling in the text form of each. What takes a
/// function with a spelling of its own stands behind the list.
macro_rules! functions {
    (
        $(#[$about:meta])* $name:ident, $(#[$about_list:meta])* $list:ident {
            $($(#[$formula:meta])* $function:ident $spelling:literal;)*
        }
        $($(#[$about_other:meta])* $other:ident($inner:ident);)?
    ) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum $name {
            $($(#[$formula])* $function,)*
            $($(#[$about_other])* $other($inner),)?
        }

        impl $name {
            $(#[$about_list])*
            pub const $list: [$name; [$($spelling),*].len()] = [$($name::$function),*];

            /// The spelling in the text form.
            pub fn name(self) -> &'static str {
                match self {
                    $($name::$function => $spelling,)*
                    $($name::$other(function) => function.name(),)?
                }
            }
        }
    };
}

functions! {
    /// Elementwise functions of one tensor, computed in f32.
    UnaryOp,
    /// Every function but the activations.
    PLAIN {
        /// -x
        Neg "neg";
        /// e^x
        Exp "exp";
        /// sqrt(x)
        Sqrt "sqrt";
        /// 1/sqrt(x)
        Rsqrt "rsqrt";
        /// 1/x
        Recip "recip";
        /// x^2
        Square "square";
        /// tanh(x)
        Tanh "tanh";
        /// 1/(1 + e^-x)
        Sigmoid "sigmoid";
    }
    /// An activation function.
    Act(Activation);
}

functions! {
    /// Activation functions of gated and plain MLPs. Different functions: never merged.
    Activation,
    /// Every activation.
    ALL {
        /// x * sigmoid(x)
        Silu "silu";
        /// x/2 (1 + erf(x / sqrt 2))
        Gelu "gelu";
        /// x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))
        GeluTanh "gelu_tanh";
        /// max(x, 0)
        Relu "relu";
    }
}

functions! {
    /// Elementwise functions of two tensors, with broadcasting, computed in f32.
    BinaryOp,
    /// Every function.
    ALL {
        /// a + b
        Add "add";
        /// a - b
        Sub "sub";
        /// a * b
        Mul "mul";
        /// a / b
        Div "div";
        /// max(a, b)
        Max "max";
        /// min(a, b)
        Min "min";
    }
}

functions! {
    /// Reductions along one axis, which stays with extent 1.
    ReduceOp,
    /// Every reduction.
    ALL {
        /// Sum.
        Sum "reduce_sum";
        /// Largest element.
        Max "reduce_max";
        /// Arithmetic mean.
        Mean "reduce_mean";
    }
}

/// An operation with its attributes. Operands and results are the [`Node`](crate::Node)'s.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Op {
    /// A tensor of the model by name, which may contain `{layer}` inside a block. Its type is part
    /// of the op because the file, not the operands, decides it.
    Weight {
        /// Name in the weight source.
        name: String,
        /// Dtype as stored, and shape.
        dtype: DType,
        /// Extents.
        shape: Vec<usize>,
    },
    /// An f32 scalar.
    Const(Real),
    /// `i32[T]`: the positions C, C+1, ..., C+T-1 of the new tokens.
    Positions,
    /// `f32[T, C + T]`: 0 where the query may see the key, -inf elsewhere. Query i stands at C + i
    /// and sees key j when j <= C + i and, with a window w, C + i - j < w.
    CausalMask {
        /// Keys seen, the query's own included.
        window: Option<usize>,
    },
    /// Elementwise function.
    Unary(UnaryOp),
    /// Elementwise function with broadcasting: shapes align at the last axis, extent 1 stretches.
    Binary(BinaryOp),
    /// Rounds (to nearest even) to another float dtype, or widens.
    Cast(DType),
    /// Quantises in groups of 32 along the last axis (see `tensor::quant`).
    Quantize(DType),
    /// `a[..., M, K] x b[..., K, N] -> f32[..., M, N]`; leading axes are equal or absent in one.
    Matmul,
    /// Reduces one axis, counted from the front; it stays with extent 1.
    Reduce {
        /// Which.
        op: ReduceOp,
        /// Axis.
        axis: usize,
    },
    /// Softmax along the last axis; a row of only -inf gives zeros.
    Softmax,
    /// x / sqrt(mean(x^2) + eps) along the last axis, times `gain` where given as second operand.
    RmsNorm {
        /// Added to the mean square.
        eps: Real,
    },
    /// The same elements in row-major order under other dims.
    Reshape(Vec<Dim>),
    /// Axes permuted: result axis i is operand axis `perm[i]`.
    Transpose(Vec<usize>),
    /// Elements `start..end` of one axis.
    Slice {
        /// Axis.
        axis: usize,
        /// First index taken.
        start: Dim,
        /// First index not taken.
        end: Dim,
    },
    /// Operands one after the other along one axis.
    Concat {
        /// Axis.
        axis: usize,
    },
    /// Repeats axes of extent 1 to these dims (same rank).
    Broadcast(Vec<Dim>),
    /// `table[V, D], ids i32[...] -> f32[..., D]`.
    Gather,
    /// `x[T, H, D], positions i32[T]` -> x rotated.
    Rope(Box<RopeSpec>),
    /// `q[T, H, D], k[S, G, D], v[S, G, E] -> f32[T, H, E]`, causal, S = C + T. Query head h reads
    /// key/value head h / (H/G): softmax(scale * q k^T + causal mask) v.
    Attention {
        /// Multiplies the scores.
        scale: Real,
        /// As in `CausalMask`.
        window: Option<usize>,
    },
    /// gate, up -> act(gate) * up.
    Glu(Activation),
    /// `cache[len], new[T, heads, head_dim] -> cache[len + T]`; consumes the cache; rounds to its
    /// dtype.
    CacheAppend,
    /// `cache[len] -> tensor[len, heads, head_dim]`; borrows.
    CacheRead,
    /// Runs a block once per layer index in `first..first + count`: operands and results as the
    /// block's parameters and results, carries threaded through, caches dealt from the stacks.
    Repeat {
        /// The block.
        block: BlockId,
        /// First layer index.
        first: u32,
        /// Number of layers, at least 1.
        count: u32,
    },
}

/// What may happen to the numbers when an op is computed in another way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NumericClass {
    /// Moves or selects bits: always the same bits.
    Exact,
    /// Every element is computed on its own: the same bits from the same function.
    Elementwise,
    /// Sums: the bits depend on the order of accumulation.
    Accumulating,
}

/// A row of the op table.
#[derive(Debug)]
pub struct OpInfo {
    /// Which op.
    pub kind: OpKind,
    /// The spelling in the text form.
    pub name: &'static str,
    /// Fewest and most operands (`usize::MAX` for any number).
    pub arity: (usize, usize),
    /// Whether it may enter the e-graph: no state, one result, a function of its operands.
    pub pure: bool,
    /// What reordering does to its result.
    pub class: NumericClass,
    /// One sentence for `sparkc passes` and the documentation.
    pub summary: &'static str,
}

macro_rules! op_table {
    ($($kind:ident $name:literal $arity:expr, $pure:literal, $class:ident, $summary:literal;)*) => {
        /// An op without its attributes.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum OpKind {
            $(#[doc = $summary] $kind,)*
        }

        static TABLE: &[OpInfo] = &[$(OpInfo {
            kind: OpKind::$kind,
            name: $name,
            arity: $arity,
            pure: $pure,
            class: NumericClass::$class,
            summary: $summary,
        },)*];
    };
}

const ANY: usize = usize::MAX;

op_table! {
    Weight "weight" (0, 0), true, Exact, "A tensor of the model, by name.";
    Const "const" (0, 0), true, Exact, "An f32 scalar.";
    Positions "positions" (0, 0), true, Exact, "Positions of the new tokens: C .. C+T.";
    CausalMask "causal_mask" (0, 0), true, Exact, "0 where a query may see a key, -inf elsewhere.";
    Unary "unary" (1, 1), true, Elementwise, "An elementwise function of one tensor.";
    Binary "binary" (2, 2), true, Elementwise, "An elementwise function of two tensors.";
    Cast "cast" (1, 1), true, Elementwise, "Rounds or widens to another float dtype.";
    Quantize "quantize" (1, 1), true, Elementwise, "Quantises groups of 32 of the last axis.";
    Matmul "matmul" (2, 2), true, Accumulating, "Matrix product over the last two axes.";
    Reduce "reduce" (1, 1), true, Accumulating, "Sum, maximum or mean along one axis.";
    Softmax "softmax" (1, 1), true, Accumulating, "Softmax along the last axis.";
    RmsNorm "rms_norm" (1, 2), true, Accumulating, "Root-mean-square norm, optional gain.";
    Reshape "reshape" (1, 1), true, Exact, "The same elements under other dims.";
    Transpose "transpose" (1, 1), true, Exact, "Axes permuted.";
    Slice "slice" (1, 1), true, Exact, "A range of one axis.";
    Concat "concat" (1, ANY), true, Exact, "Operands one after the other along one axis.";
    Broadcast "broadcast" (1, 1), true, Exact, "Axes of extent 1 repeated.";
    Gather "gather" (2, 2), true, Exact, "Rows of a table, widened to f32.";
    Rope "rope" (2, 2), true, Elementwise, "Rotary position embedding.";
    Attention "attention" (3, 3), true, Accumulating, "Causal grouped-query attention.";
    Glu "glu" (2, 2), true, Elementwise, "act(gate) * up.";
    CacheAppend "cache_append" (2, 2), false, Exact, "Appends new rows to a KV cache.";
    CacheRead "cache_read" (1, 1), false, Exact, "The rows of a KV cache.";
    Repeat "repeat" (1, ANY), false, Accumulating, "Runs a block once per layer.";
}

/// The op table, in declaration order.
pub fn op_table() -> &'static [OpInfo] {
    TABLE
}

impl OpKind {
    /// This op's row of the table.
    pub fn info(self) -> &'static OpInfo {
        &TABLE[self as usize]
    }
}

impl Op {
    /// The op without its attributes.
    pub fn kind(&self) -> OpKind {
        match self {
            Op::Weight { .. } => OpKind::Weight,
            Op::Const(_) => OpKind::Const,
            Op::Positions => OpKind::Positions,
            Op::CausalMask { .. } => OpKind::CausalMask,
            Op::Unary(_) => OpKind::Unary,
            Op::Binary(_) => OpKind::Binary,
            Op::Cast(_) => OpKind::Cast,
            Op::Quantize(_) => OpKind::Quantize,
            Op::Matmul => OpKind::Matmul,
            Op::Reduce { .. } => OpKind::Reduce,
            Op::Softmax => OpKind::Softmax,
            Op::RmsNorm { .. } => OpKind::RmsNorm,
            Op::Reshape(_) => OpKind::Reshape,
            Op::Transpose(_) => OpKind::Transpose,
            Op::Slice { .. } => OpKind::Slice,
            Op::Concat { .. } => OpKind::Concat,
            Op::Broadcast(_) => OpKind::Broadcast,
            Op::Gather => OpKind::Gather,
            Op::Rope(_) => OpKind::Rope,
            Op::Attention { .. } => OpKind::Attention,
            Op::Glu(_) => OpKind::Glu,
            Op::CacheAppend => OpKind::CacheAppend,
            Op::CacheRead => OpKind::CacheRead,
            Op::Repeat { .. } => OpKind::Repeat,
        }
    }

    /// This op's row of the table.
    pub fn info(&self) -> &'static OpInfo {
        self.kind().info()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reals_order_and_return() {
        let values = [-1e300, -2.0, -1e-300, 0.0, 1e-300, 0.125, f64::INFINITY];
        for pair in values.windows(2) {
            assert!(Real::new(pair[0]) < Real::new(pair[1]));
        }
        for v in values {
            assert_eq!(Real::new(v).get(), v);
        }
        assert_eq!(Real::new(-0.0), Real::new(0.0));
    }

    #[test]
    fn the_table_is_indexed_by_kind() {
        for (i, row) in op_table().iter().enumerate() {
            assert_eq!(row.kind as usize, i);
        }
    }
}
