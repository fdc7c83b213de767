//! What the passes did: the part of a compile report that `passes` writes.
//!
//! Everything here is a function of module, options and cost model, except [`Report::timings`],
//! which is kept apart so that the rest may be compared and stored.

use std::time::Duration;

use tensor::DType;

use crate::egraph::{GraphProof, HEADER, ProofStep};
use crate::{Cost, Tier};

/// What a pipeline did to a module.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Report {
    /// One entry per pass that ran, in order.
    pub passes: Vec<PassReport>,
    /// Rewrites that are part of the result or made it cheaper.
    pub rewrites: Vec<RewriteUse>,
    /// One entry per search: graph, sizes, cost before and after.
    pub searches: Vec<SearchReport>,
    /// Every tensor that was quantised, and every one that could not be.
    pub quantized: Vec<QuantizedTensor>,
    /// Name of the cost model.
    pub model: String,
    /// Cost of the module before and after, under that model.
    pub cost: (Cost, Cost),
    /// Why the result equals the input, when that was asked for.
    pub proof: Proof,
    /// Wall time per pass, as in `passes`. Not part of any artefact.
    pub timings: Vec<Duration>,
}

/// A certificate of the e-graph pass, in the text that the crate `proof` checks, and its steps.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Proof {
    /// The certificate; empty when none was asked for.
    pub text: String,
    /// The steps of each graph that was rewritten, by its name.
    pub graphs: Vec<(String, Vec<ProofStep>)>,
}

impl Proof {
    /// Adds a graph's section.
    pub(crate) fn add(&mut self, tier: Tier, graph: &str, proof: &GraphProof) {
        if self.text.is_empty() {
            self.text = format!("{HEADER}\ntier {tier}\n");
        }
        self.text.push_str(&proof.text);
        self.graphs.push((graph.to_string(), proof.steps.clone()));
    }
}

/// One pass of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PassReport {
    /// Its name.
    pub name: &'static str,
    /// Whether the module is another one now.
    pub changed: bool,
    /// Nodes of all graphs before and after.
    pub nodes: (usize, usize),
    /// Warnings with a code: a bound that was hit, a thing left as it was.
    pub warnings: Vec<Warning>,
}

/// Something a user may want to know that is no error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// Stable code.
    pub code: &'static str,
    /// One sentence with numbers.
    pub text: String,
}

/// How often a rewrite was used in one graph, and what it is worth.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RewriteUse {
    /// Name of the rule.
    pub rule: &'static str,
    /// What it may do to numbers.
    pub tier: Tier,
    /// Why it is true.
    pub why: &'static str,
    /// Name of the graph.
    pub graph: String,
    /// How often the graph is executed per step: the layers of a block, 1 for `main`.
    pub layers: u64,
    /// Nodes of the result that the rule wrote, described by op, type and weights.
    pub nodes: Vec<String>,
    /// How much dearer the graph gets per execution when this rule alone is left out, in the
    /// model's units; `i64::MAX` when the target cannot execute the graph without it; `None` when not
    /// asked for. Savings do not add up: two rules may need each other.
    pub saved: Option<i64>,
}

/// One e-graph.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SearchReport {
    /// Name of the graph.
    pub graph: String,
    /// Digest of all that decides the result: the graph, names of weights aside, tier, target, rules and
    /// limits. Equal recipes are searched once.
    pub recipe: String,
    /// E-nodes and e-classes at the end.
    pub size: (usize, usize),
    /// Iterations of rewriting.
    pub iterations: usize,
    /// `saturated`, `node limit` or `iteration limit`.
    pub stop: &'static str,
    /// Cost of the graph before and after, one execution.
    pub cost: (Cost, Cost),
    /// No graph that the rules found costs less; equal to the cost after when that is proven optimal.
    pub bound: Cost,
    /// What the rewrites of the result may have done to numbers: exact when rules of that tier alone lead to it.
    pub tier: Tier,
}

impl SearchReport {
    /// By what share of its cost the result may be dearer than the cheapest graph: 0 when that is proven; `None`
    /// when the target cannot execute the result.
    pub fn gap(&self) -> Option<f64> {
        let cost = self.cost.1;
        let open = cost.minus(self.bound) as f64 / (cost.units() as f64).max(1.0);
        (cost < Cost::INFINITE).then_some(open)
    }
}

/// What quantisation did to one tensor.
#[derive(Clone, Debug, PartialEq)]
pub struct QuantizedTensor {
    /// Name, with the layer index filled in.
    pub name: String,
    /// As stored in the file.
    pub from: DType,
    /// As it will be stored; equal to `from` when it was left as it is.
    pub to: DType,
    /// `sqrt(sum((q - w)^2) / sum(w^2))`; `None` without a weight source or when left as it is.
    pub relative_rms_error: Option<f64>,
    /// Why it was left as it is.
    pub skipped: Option<String>,
}
