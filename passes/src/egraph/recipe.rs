//! The content of a search: what decides its result, as a digest.
//!
//! Names of weights and of the graph itself do not matter to the search, so graphs that differ in them alone
//! have one recipe and are searched once; nor does how many layers `main` repeats. Everything else does: shapes, attributes, tier, cost model, rules,
//! limits. Limits count, nothing measures time, so a recipe has one result on every machine.

use std::fmt::Write as _;

use ir::{Graph, Op};
use sha2::{Digest, Sha256};

use super::rule::{Rhs, Rule};
use super::{Limits, proof};
use crate::PassError;
use crate::manager::PassCx;

/// The digest of a search, and the names of the weights it abstracts from, in order of occurrence.
pub(super) fn of(
    graph: &Graph,
    rules: &[&'static Rule],
    limits: Limits,
    cx: &PassCx<'_>,
) -> Result<(String, Vec<String>), PassError> {
    let mut names: Vec<String> = Vec::new();
    for (_, node) in graph.nodes() {
        if let Op::Weight { name, .. } = &node.op
            && !names.contains(name)
        {
            names.push(name.clone());
        }
    }
    let numbered: Vec<String> = (0..names.len()).map(|i| format!("w{i}")).collect();
    let mut text = proof::statement(&one_layer(&with_weights(graph, &names, &numbered)))?;
    let _ = writeln!(text, "{} {} {limits:?}", cx.tier, cx.model.name());
    for rule in rules {
        let rhs = match rule.rhs {
            Rhs::Pattern(pattern) => pattern,
            Rhs::Code(_) => "code",
        };
        let _ = writeln!(text, "{} {} {rhs}", rule.name, rule.lhs);
    }
    let digest = Sha256::digest(text.as_bytes());
    Ok((digest.iter().map(|b| format!("{b:02x}")).collect(), names))
}

/// The graph as if every `repeat` ran one layer: what a search never looks at.
fn one_layer(graph: &Graph) -> Graph {
    let mut graph = graph.clone();
    for id in graph.order().to_vec() {
        if let Op::Repeat { first, count, .. } = &mut graph.node_mut(id).op {
            (*first, *count) = (0, 1);
        }
    }
    for value in (0..graph.value_count()).map(ir::ValueId::new) {
        if let ir::Type::Cache(cache) = &mut graph.value_mut(value).ty {
            cache.layers = cache.layers.map(|_| 1);
        }
    }
    graph
}

/// The graph with other names of weights.
pub(super) fn with_weights(graph: &Graph, from: &[String], to: &[String]) -> Graph {
    let mut graph = graph.clone();
    for id in graph.order().to_vec() {
        if let Op::Weight { name, .. } = &mut graph.node_mut(id).op
            && let Some(new) = from.iter().position(|n| n == name).and_then(|at| to.get(at))
        {
            name.clone_from(new);
        }
    }
    graph
}
