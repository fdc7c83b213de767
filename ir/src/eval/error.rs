//! Why a module, a graph or a constant has no value.

use crate::{Dim, TensorType, Violations};

/// What stopped an evaluation. After an error a [`Session`](super::Session) starts afresh.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum EvalError {
    /// The module breaks a rule of the language.
    #[error("the module does not verify: {0}")]
    Invalid(#[from] Violations),
    /// The weight source has no such tensor, or cannot read it.
    #[error("weight {name:?}: {why}")]
    Weight {
        /// Name, with the layer index filled in.
        name: String,
        /// What the source says.
        why: String,
    },
    /// A weight differs from what the module says of it.
    #[error("weight {name:?} is {found}, the module says {expected}")]
    WeightType {
        /// Name, with the layer index filled in.
        name: String,
        /// Type in the weight source.
        found: TensorType,
        /// Type in the module.
        expected: TensorType,
    },
    /// A `gather` reads outside its table: for the embedding, a token id that the model lacks.
    #[error("id {id} is outside a table of {rows} rows")]
    Id {
        /// The id.
        id: i64,
        /// Rows of the table.
        rows: usize,
    },
    /// A symbolic dim is negative or too large in this step.
    #[error("the extent {dim} has no value at T={t}, C={c}, R={r}")]
    Extent {
        /// The dim.
        dim: Dim,
        /// New tokens.
        t: usize,
        /// Cached tokens.
        c: usize,
        /// Rows of logits.
        r: usize,
    },
    /// The values alive at one time would be too large.
    #[error("values of {elements} elements together exceed the limit of {limit}")]
    TooLarge {
        /// Elements alive, saturating.
        elements: usize,
        /// The limit.
        limit: usize,
    },
    /// The sequence would outgrow the context.
    #[error("{new} tokens after {cached} exceed the context of {context}")]
    Context {
        /// New tokens.
        new: usize,
        /// Tokens in the cache.
        cached: usize,
        /// The module's context.
        context: usize,
    },
    /// Logits of no row or of more rows than there are new tokens.
    #[error("logits of {rows} rows were asked of {tokens} tokens")]
    Rows {
        /// Rows asked for.
        rows: usize,
        /// New tokens.
        tokens: usize,
    },
    /// Inputs that do not fit the graph's parameters.
    #[error("inputs of @{graph}: {why}")]
    Inputs {
        /// The graph.
        graph: String,
        /// What is wrong, in numbers.
        why: String,
    },
    /// The value depends on an input or on a cache.
    #[error("{value} of @{graph} is not a compile-time constant")]
    NotConstant {
        /// The graph.
        graph: String,
        /// The value.
        value: String,
    },
    /// A graph that was not verified is not well formed.
    #[error("@{graph} is not well formed: {why}")]
    Malformed {
        /// The graph.
        graph: String,
        /// What is wrong.
        why: String,
    },
}

impl EvalError {
    /// The stable code for users and documentation.
    pub fn code(&self) -> &'static str {
        match self {
            EvalError::Invalid(_) => "SPK1201",
            EvalError::Weight { .. } => "SPK1202",
            EvalError::WeightType { .. } => "SPK1203",
            EvalError::Id { .. } => "SPK1204",
            EvalError::Extent { .. } => "SPK1205",
            EvalError::TooLarge { .. } => "SPK1206",
            EvalError::Context { .. } => "SPK1207",
            EvalError::Rows { .. } => "SPK1208",
            EvalError::Inputs { .. } => "SPK1209",
            EvalError::NotConstant { .. } => "SPK1210",
            EvalError::Malformed { .. } => "SPK1211",
        }
    }
}
