//! Stage 1: what a wafer does with a module, as a pipeline of embedding, layers and head.
//!
//! In: an optimised `ir::Module` (attention and norms recognised, weights symbolic). Out: a
//! [`Partition`]: per distinct block the sizes, the norms and the mat-vecs, each traced to slices of
//! named model weights. A block is analysed once, however often it is repeated.
//! Does not know the target: sizes of regions are `place`'s, collectives `route`'s.

mod recognize;
mod trace;

use ir::{Graph, ValueId};

pub use trace::{Matrix, Piece, PieceGain, WeightRef};

pub use recognize::partition;

/// A place of a module that the wafer back end has no program for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("@{graph}: {value} = {op} {why}")]
pub struct Unsupported {
    /// Name of the graph.
    pub graph: String,
    /// The value, as its text form spells it.
    pub value: String,
    /// Spelling of the op that defines it, or `param`.
    pub op: &'static str,
    /// What about it is not supported.
    pub why: &'static str,
}

pub(crate) fn unsupported(graph: &Graph, value: ValueId, why: &'static str) -> Unsupported {
    let name = graph.value(value).name.clone();
    Unsupported {
        graph: graph.name.clone(),
        value: format!("%{}", name.unwrap_or_else(|| value.index().to_string())),
        op: graph.producer(value).map_or("param", |(_, node)| node.op.info().name),
        why,
    }
}

/// `y = scale * (W x + b)`.
#[derive(Clone, Debug, PartialEq)]
pub struct Linear {
    /// W, `[N (out), K (in)]`.
    pub matrix: Matrix,
    /// b, one row of N.
    pub bias: Option<Matrix>,
    /// Factor on the result.
    pub scale: f64,
}

impl Linear {
    /// Number of results.
    pub fn outputs(&self) -> usize {
        self.matrix.rows
    }

    /// The weight pinned for this matrix: it must be one rectangle of one tensor.
    pub fn piece(&self) -> Option<&Piece> {
        match self.matrix.pieces.as_slice() {
            [only] => Some(only),
            _ => None,
        }
    }
}

/// Root-mean-square norm.
#[derive(Clone, Debug, PartialEq)]
pub struct Norm {
    /// Added to the mean square.
    pub eps: f32,
    /// Gain, one row; `None` when folded into the weights that follow.
    pub gain: Option<Matrix>,
}

/// One distinct decoder layer.
#[derive(Clone, Debug, PartialEq)]
pub struct LayerSpec {
    /// Name of the block.
    pub name: String,
    /// Extent of the activation vector.
    pub hidden: usize,
    /// Query heads.
    pub heads: usize,
    /// Key/value heads; divides `heads`.
    pub kv_heads: usize,
    /// Elements per head.
    pub head_dim: usize,
    /// Extent of the gated MLP.
    pub ffn: usize,
    /// Norm before attention.
    pub attention_norm: Norm,
    /// Query projection, `heads * head_dim` results.
    pub q: Linear,
    /// Key projection, `kv_heads * head_dim` results.
    pub k: Linear,
    /// Value projection, `kv_heads * head_dim` results.
    pub v: Linear,
    /// Norm of each query head.
    pub q_norm: Option<Norm>,
    /// Norm of each key head.
    pub k_norm: Option<Norm>,
    /// Rotary embedding of queries and keys.
    pub rope: Option<ir::RopeSpec>,
    /// Factor on the scores.
    pub score_scale: f64,
    /// Sliding window.
    pub window: Option<usize>,
    /// Element type of the KV cache.
    pub cache: tensor::DType,
    /// Output projection of attention.
    pub o: Linear,
    /// Norm before the MLP.
    pub mlp_norm: Norm,
    /// Gate projection.
    pub gate: Linear,
    /// Up projection.
    pub up: Linear,
    /// Activation of the gate.
    pub activation: ir::Activation,
    /// Down projection.
    pub down: Linear,
}

/// `count` layers of block `spec`, from layer index `first`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LayerRun {
    /// Index into [`Partition::layers`].
    pub spec: usize,
    /// First layer index.
    pub first: u32,
    /// Number of layers.
    pub count: u32,
}

/// A module as the wafer sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct Partition {
    /// Name of the module.
    pub name: String,
    /// Extent of the activation vector.
    pub hidden: usize,
    /// Length of the logits.
    pub vocab: usize,
    /// Positions a sequence may have: what the KV caches are sized for.
    pub context: usize,
    /// Token table `[V, D]`.
    pub table: Matrix,
    /// Factor on embedded tokens.
    pub embedding_scale: f64,
    /// Distinct blocks.
    pub layers: Vec<LayerSpec>,
    /// The layers in order of execution.
    pub runs: Vec<LayerRun>,
    /// Norm before the head.
    pub final_norm: Norm,
    /// Language-model head.
    pub head: Linear,
}

impl Partition {
    /// The layers in order: (index into `layers`, layer index).
    pub fn sequence(&self) -> impl Iterator<Item = (usize, u32)> + '_ {
        self.runs.iter().flat_map(|run| (run.first..run.first + run.count).map(|l| (run.spec, l)))
    }
}
