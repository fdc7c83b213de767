//! What can go wrong in the wafer back end, with the numbers and a stable code.

use plan::BufferRole;
use tensor::DType;

use crate::partition::Unsupported;

/// Bytes of SRAM per PE that one contributor needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Contributor {
    /// What for.
    pub role: BufferRole,
    /// Bytes per PE.
    pub bytes: u64,
}

/// Why a weight cannot be pinned.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WeightTrouble {
    /// Of a dtype that has no storage on a PE.
    #[error("{0} cannot be stored on a PE")]
    Storage(DType),
    /// The matrix of a mat-vec is put together from several weights.
    #[error("a mat-vec reads {0} pieces of weights as one matrix; one is supported")]
    Assembled(usize),
    /// A folded vector that does not run along the last axis of the weight.
    #[error("a folded gain does not run along its last axis")]
    Gain,
}

/// What is missing for a model to fit.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{model}` does not fit on `{target}`: {regions} regions need {needed_pes} PEs at best, \
     {available_pes} are there ({needed_bytes} bytes of {available_bytes}); most of a PE of \
     `{block}` is taken by {largest}"
)]
pub struct Shortfall {
    /// Name of the model.
    pub model: String,
    /// Name of the target.
    pub target: String,
    /// Regions to place.
    pub regions: usize,
    /// Fewest PEs that hold all regions, over all strip heights.
    pub needed_pes: u64,
    /// PEs of the target.
    pub available_pes: u64,
    /// SRAM bytes of those PEs.
    pub needed_bytes: u64,
    /// Usable SRAM bytes of the target.
    pub available_bytes: u64,
    /// The block with the largest share.
    pub block: String,
    /// Its largest contributor.
    pub largest: &'static str,
    /// What to try, in order of promise.
    pub hints: Vec<Hint>,
}

/// An error of the wafer back end.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum WaferError {
    /// The module computes something that has no program on a wafer.
    #[error("SPK4001: no wafer program for this module: {0}")]
    Unsupported(#[from] Unsupported),
    /// A weight cannot be pinned.
    #[error("SPK4002: weight `{weight}`: {trouble}")]
    Weight {
        /// Name of the weight.
        weight: String,
        /// Why.
        trouble: WeightTrouble,
    },
    /// The model does not fit the target.
    #[error("SPK4101: {0}")]
    DoesNotFit(Box<Shortfall>),
    /// Dead PEs that cannot be passed.
    #[error(
        "SPK4102: `{target}`: {count} dead PEs on wafer {wafer} cannot be repaired: row {row} has no \
         spare column or no path around them left"
    )]
    Unrepairable {
        /// Name of the target.
        target: String,
        /// Wafer.
        wafer: u32,
        /// Row where it fails.
        row: u32,
        /// Dead PEs on the wafer.
        count: usize,
    },
    /// A PE that is on no wafer.
    #[error("SPK4105: the wafers that the plan takes on `{target}` have no PE ({x}, {y}); their columns are 0 to {}", columns.saturating_sub(1))]
    NoSuchPe {
        /// Name of the target.
        target: String,
        /// Column, counted over all wafers with their spare columns.
        x: u32,
        /// Row.
        y: u32,
        /// Columns of those wafers.
        columns: u32,
    },
    /// The target has too few colors for the local palette.
    #[error("SPK4103: `{target}` has {available} usable colors; a plan needs {needed}")]
    Colors {
        /// Name of the target.
        target: String,
        /// Colors needed.
        needed: u32,
        /// Colors usable.
        available: u32,
    },
    /// The context asked for exceeds what the model was made for.
    #[error("SPK4104: context {asked} exceeds the {supported} positions of `{model}`")]
    Context {
        /// Name of the model.
        model: String,
        /// What was asked for.
        asked: usize,
        /// What the module declares.
        supported: usize,
    },
}

/// What to try when a model does not fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hint {
    /// A smaller `--context`.
    SmallerContext,
    /// Quantised weights.
    Quantize {
        /// `q8` or `q4`: the finest that would fit, else the smallest.
        to: DType,
        /// PEs needed then, about.
        pes: u64,
    },
    /// A larger target.
    LargerTarget,
    /// The fewest wafers of this kind that hold the model.
    Wafers(u32),
    /// More wafers of this kind than were tried; by area at least so many.
    WafersAtLeast(u64),
}

impl std::fmt::Display for Hint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Hint::SmallerContext => f.write_str("a smaller --context"),
            Hint::Quantize { to, pes } => {
                write!(f, "--quant {}, which needs about {pes} PEs", to.name())
            }
            Hint::LargerTarget => f.write_str("a larger --target"),
            Hint::Wafers(n) => write!(f, "--wafers {n}, the fewest that do"),
            Hint::WafersAtLeast(n) => write!(f, "--wafers {n}, or more of them"),
        }
    }
}

impl WaferError {
    /// Whether this is "does not fit" (exit code 3) rather than bad input.
    pub fn does_not_fit(&self) -> bool {
        matches!(
            self,
            WaferError::DoesNotFit(_) | WaferError::Colors { .. } | WaferError::Unrepairable { .. }
        )
    }

    /// What the user can try.
    pub fn hints(&self) -> &[Hint] {
        match self {
            WaferError::DoesNotFit(shortfall) => &shortfall.hints,
            _ => &[],
        }
    }
}

/// The word for a contributor in messages.
pub(crate) fn role_name(role: BufferRole) -> &'static str {
    match role {
        BufferRole::Weights => "weights",
        BufferRole::KvCache => "the KV cache",
        BufferRole::Activation => "activations",
        BufferRole::Receive => "receive buffers",
        BufferRole::Scratch => "scratch",
    }
}
