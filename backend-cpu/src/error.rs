//! Why a module has no executable.

/// A failed compilation.
#[derive(Debug, thiserror::Error)]
pub enum CpuError {
    /// The module uses something in a way that no kernel covers.
    #[error("{graph}: {op}: {why}")]
    Unsupported {
        /// Graph of the module.
        graph: String,
        /// Spelling of the op.
        op: String,
        /// What is not covered, in numbers.
        why: String,
    },
    /// The module is not an entry as `ir::Module` describes it.
    #[error("the module is no language model: {why}")]
    Entry {
        /// What is wrong.
        why: String,
    },
    /// The context or the vocabulary is larger than an executable can count.
    #[error(
        "context {context} and vocabulary {vocab}: an executable holds less than {limit} of each"
    )]
    TooLarge {
        /// Positions of the module.
        context: usize,
        /// Width of the logits.
        vocab: u32,
        /// First number that is too large.
        limit: u32,
    },
    /// A constant cannot be evaluated, because a weight is missing or wrong.
    #[error(transparent)]
    Constant(#[from] ir::eval::EvalError),
    /// A weight has NaN or infinities.
    #[error(transparent)]
    NonFinite(#[from] ir::NonFiniteWeight),
    /// Finite values that their stored dtype does not hold.
    #[error("{name}: rows {first_row} to {} hold values too large for {dtype}", first_row + rows - 1)]
    Overflow {
        /// The weights it is made of.
        name: String,
        /// What they are stored in.
        dtype: tensor::DType,
        /// First row of the block in which one was found.
        first_row: usize,
        /// Rows of the block.
        rows: usize,
    },
    /// A tokenizer that cannot encode.
    #[error("{why}")]
    Tokenizer {
        /// What happens.
        why: String,
    },
    /// The plan contradicts itself: a bug of this crate.
    #[error("internal: {why}")]
    Internal {
        /// What was found.
        why: String,
    },
    /// The executable cannot be written.
    #[error("cannot write {path}: {source}")]
    Write {
        /// Target file.
        path: std::path::PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
}

impl CpuError {
    /// The stable code.
    pub fn code(&self) -> &'static str {
        match self {
            CpuError::Unsupported { .. } => "SPK4001",
            CpuError::Entry { .. } => "SPK4002",
            CpuError::Constant(_) => "SPK4003",
            CpuError::Internal { .. } => "SPK4004",
            CpuError::Write { .. } => "SPK4005",
            CpuError::TooLarge { .. } => "SPK4006",
            CpuError::NonFinite(_) => ir::NonFiniteWeight::CODE,
            CpuError::Overflow { .. } => "SPK4007",
            CpuError::Tokenizer { .. } => "SPK4008",
        }
    }
}
