//! The one table of passes: help text, `--passes`, `sparkc passes` and timing names come from it.
//!
//! To add a pass: a file with a type that implements `Pass`, and a row here.

use crate::egraph::EGraphPass;
use crate::manager::{OptionInfo, PassInfo};
use crate::quantize::Quantize;
use crate::{PassError, Tier, canonicalize, cse, dce, fold, roll};

static PASSES: &[PassInfo] = &[
    PassInfo {
        name: "roll",
        summary: "Makes one block and a repeat of equal layers that are written out.",
        tier: Tier::Exact,
        options: &[],
        build: |_| Ok(Box::new(roll::Roll)),
    },
    PassInfo {
        name: "canonicalize",
        summary: "Gives every meaning one spelling: merges views, orders operands.",
        tier: Tier::Exact,
        options: &[],
        build: |_| Ok(Box::new(canonicalize::Canonicalize)),
    },
    PassInfo {
        name: "const-fold",
        summary: "Computes scalar constants and removes neutral operations.",
        tier: Tier::Exact,
        options: &[],
        build: |_| Ok(Box::new(fold::ConstFold)),
    },
    PassInfo {
        name: "cse",
        summary: "Keeps one copy of each pure expression.",
        tier: Tier::Exact,
        options: &[],
        build: |_| Ok(Box::new(cse::Cse)),
    },
    PassInfo {
        name: "dce",
        summary: "Removes nodes that nobody uses and caches that nobody reads.",
        tier: Tier::Exact,
        options: &[],
        build: |_| Ok(Box::new(dce::Dce)),
    },
    PassInfo {
        name: "egraph",
        summary: "Rewrites each graph into the cheapest equal one found, within the numeric tier.",
        tier: Tier::Exact,
        options: &[
            OptionInfo { name: "nodes", default: "20000", summary: "Most e-nodes per graph." },
            OptionInfo { name: "iterations", default: "16", summary: "Most rounds per graph." },
            OptionInfo {
                name: "work",
                default: "60000000",
                summary: "Most operands looked at by the exact extraction, per graph.",
            },
            OptionInfo {
                name: "without",
                default: "",
                summary: "Families of rewrites to leave out, joined by +.",
            },
        ],
        build: EGraphPass::build,
    },
    PassInfo {
        name: "quantize",
        summary: "Quantises matmul weights and embeddings in groups of 32 along K.",
        tier: Tier::Lossy,
        options: &[OptionInfo {
            name: "to",
            default: "asked",
            summary: "q8, q4, q4m, or asked: what --quant says.",
        }],
        build: Quantize::build,
    },
];

/// Every pass, in the order in which they are explained to users.
pub fn passes() -> &'static [PassInfo] {
    PASSES
}

/// The pass of this name.
///
/// # Errors
/// [`PassError::UnknownPass`] with the names there are.
pub fn find(name: &str) -> Result<&'static PassInfo, PassError> {
    PASSES.iter().find(|p| p.name == name).ok_or_else(|| PassError::UnknownPass {
        name: name.to_string(),
        known: PASSES.iter().map(|p| p.name).collect::<Vec<_>>().join(", "),
    })
}
