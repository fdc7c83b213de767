//! Errors of the pass manager and of passes, with stable codes.

use crate::Tier;

/// Why a pipeline could not be read or a pass could not finish.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PassError {
    /// A pipeline string that does not parse. The user's.
    #[error("pipeline {pipeline:?}, column {column}: {why}")]
    Pipeline {
        /// As given.
        pipeline: String,
        /// 1-based column where reading stopped.
        column: usize,
        /// What was expected.
        why: String,
    },
    /// A pass that does not exist. The user's.
    #[error("unknown pass {name:?}; known: {known}")]
    UnknownPass {
        /// As given.
        name: String,
        /// Names of the registry.
        known: String,
    },
    /// An option that the pass does not have, or a value it cannot take. The user's.
    #[error("pass {pass}: option {option}: {why}")]
    Option {
        /// Pass.
        pass: &'static str,
        /// Option as given.
        option: String,
        /// What was expected.
        why: String,
    },
    /// The pass loses more precision than `--numerics` allows. The user's.
    #[error("pass {pass} is of the tier {needs}, but --numerics allows {allowed}")]
    Tier {
        /// Pass.
        pass: &'static str,
        /// What it does to numbers.
        needs: Tier,
        /// What is allowed.
        allowed: Tier,
    },
    /// A weight that a pass must read could not be read. The input's.
    #[error("weight {name:?}: {why}")]
    Weight {
        /// Name in the weight source.
        name: String,
        /// The source's sentence.
        why: String,
    },
    /// The module given to the first pass is not valid. The input's.
    #[error("the module is not valid before any pass: {violations}")]
    Invalid {
        /// What `ir::verify` found, one per line.
        violations: String,
    },
    /// A pass left an invalid module behind. A bug in sparkc.
    #[error("internal error: the module is not valid after the pass: {violations}")]
    Broken {
        /// What `ir::verify` found, one per line.
        violations: String,
    },
    /// An invariant of a pass does not hold. A bug in sparkc.
    #[error("internal error: {why}")]
    Internal {
        /// Which.
        why: String,
    },
    /// An error with the pass that met it, put on by the manager.
    #[error("pass {pass} (number {index} of the pipeline): {error}")]
    In {
        /// Pass.
        pass: &'static str,
        /// 1-based position in the pipeline.
        index: usize,
        /// What went wrong.
        error: Box<PassError>,
    },
}

impl PassError {
    /// The stable code, `SPK3001` and so on.
    pub fn code(&self) -> &'static str {
        match self {
            PassError::Pipeline { .. } => "SPK3001",
            PassError::UnknownPass { .. } => "SPK3002",
            PassError::Option { .. } => "SPK3003",
            PassError::Tier { .. } => "SPK3004",
            PassError::Weight { .. } => "SPK3005",
            PassError::Invalid { .. } => "SPK3006",
            PassError::Broken { .. } => "SPK3090",
            PassError::Internal { .. } => "SPK3091",
            PassError::In { error, .. } => error.code(),
        }
    }

    /// An [`PassError::Internal`] from a sentence.
    pub(crate) fn internal(why: impl Into<String>) -> Self {
        PassError::Internal { why: why.into() }
    }

    /// Whether the fault is sparkc's, not the user's or the input's.
    pub fn is_internal(&self) -> bool {
        match self {
            PassError::Broken { .. } | PassError::Internal { .. } => true,
            PassError::In { error, .. } => error.is_internal(),
            _ => false,
        }
    }
}
