//! Checks that a module is well formed, and says everything that is wrong with it.
//!
//! | code | property |
//! |---|---|
//! | SPK1101 | the context is 1 to 2^31 - 1 positions |
//! | SPK1102 | every op is applied as its type rule asks, and its result has the inferred type |
//! | SPK1103 | every value is defined before it is used or returned |
//! | SPK1104 | parameters come as carries, inputs, states; exactly the states are caches; `main` has no carry |
//! | SPK1105 | a block returns its carries with their own types, then its states; a state enters with C tokens and leaves with C + T |
//! | SPK1106 | caches are linear: each is consumed exactly once (append, repeat or return), read only before, and returned in the place it came from |
//! | SPK1107 | `repeat` stands in `main`, names a block, and operands and results are as the block's; layers are 1 to 65,536; all repeats together read at most 2^20 weights, all states are at most 2^20 caches |
//! | SPK1108 | weight names are not empty; `{layer}` occurs only in blocks |
//! | SPK1109 | one weight has one dtype and shape wherever it is read |
//! | SPK1110 | `main` takes `tokens: i32[T]`, then states, and returns `logits: f32[R, vocab]` first |
//! | SPK1111 | every block is repeated |
//! | SPK1112 | graph names are identifiers and distinct, the entry is `main` |
//! | SPK1113 | quantised values are compile-time constants; caches and parameters are not quantised |
//! | SPK1114 | tensors have at most 8 axes and no extent that could be negative |
//! | SPK1115 | attributes are in range: finite scales, positive eps and window, sane rope parameters |
//! | SPK1116 | ids are in range, no node runs twice, nodes and values name each other |
//!
//! A graph that breaks SPK1116 is not looked into further; all else is reported together. Not
//! checked: whether the weights exist (the evaluator and back ends do), and anything about speed.

mod attributes;
mod graph;
mod module;
#[cfg(test)]
mod tests;

use std::fmt;

use crate::{Graph, Module};

/// Most axes of a tensor.
pub const MAX_RANK: usize = 8;
/// Most layers of a repeat or a stack of caches.
pub const MAX_LAYERS: u32 = 65_536;
/// Most weights that all layers read together, and most caches: far above any model, and few enough
/// that a list of them does no harm.
const MAX_ITEMS: u64 = 1 << 20;

/// The property that is violated; the table at the top of `ir/src/verify.rs` says which is which.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "the table of properties documents them, in this order")]
pub enum Rule {
    Context,
    Types,
    DefinedBeforeUse,
    Parameters,
    BlockResults,
    LinearCaches,
    Repeats,
    WeightNames,
    WeightTypes,
    Signature,
    UnusedBlock,
    GraphNames,
    Quantized,
    Extents,
    Attributes,
    Structure,
}

impl Rule {
    /// The stable code.
    pub fn code(self) -> &'static str {
        match self {
            Rule::Context => "SPK1101",
            Rule::Types => "SPK1102",
            Rule::DefinedBeforeUse => "SPK1103",
            Rule::Parameters => "SPK1104",
            Rule::BlockResults => "SPK1105",
            Rule::LinearCaches => "SPK1106",
            Rule::Repeats => "SPK1107",
            Rule::WeightNames => "SPK1108",
            Rule::WeightTypes => "SPK1109",
            Rule::Signature => "SPK1110",
            Rule::UnusedBlock => "SPK1111",
            Rule::GraphNames => "SPK1112",
            Rule::Quantized => "SPK1113",
            Rule::Extents => "SPK1114",
            Rule::Attributes => "SPK1115",
            Rule::Structure => "SPK1116",
        }
    }
}

/// One broken property.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Which.
    pub rule: Rule,
    /// The graph, without `@`; empty for the module as a whole.
    pub graph: String,
    /// The value or op it is about, as spelled in the text form; empty for the graph as a whole.
    pub place: String,
    /// What is wrong, in numbers.
    pub why: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.rule.code())?;
        if !self.graph.is_empty() {
            write!(f, " @{}", self.graph)?;
        }
        if !self.place.is_empty() {
            write!(f, " {}", self.place)?;
        }
        write!(f, ": {}", self.why)
    }
}

/// All broken properties, in the order of the graphs and of their nodes; never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violations(pub Vec<Violation>);

impl fmt::Display for Violations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, violation) in self.0.iter().enumerate() {
            write!(f, "{}{violation}", if i == 0 { "" } else { "\n" })?;
        }
        Ok(())
    }
}

impl std::error::Error for Violations {}

/// Checks a whole module.
///
/// # Errors
/// Every violation.
pub fn verify(module: &Module) -> Result<(), Violations> {
    outcome(module::check(module))
}

/// Checks one graph by itself: everything but what concerns other graphs and its role in a module.
///
/// # Errors
/// Every violation; a `repeat` is one.
pub fn verify_graph(graph: &Graph) -> Result<(), Violations> {
    let mut found = Vec::new();
    graph::check(graph, None, &mut found);
    outcome(found)
}

fn outcome(found: Vec<Violation>) -> Result<(), Violations> {
    if found.is_empty() { Ok(()) } else { Err(Violations(found)) }
}
