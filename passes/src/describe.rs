//! Words for a node that mean something to the owner of the model: op, type, and weights it reads.

use ir::{Graph, NodeId, Op, ValueId};

/// How far back weights are looked for.
const DEPTH: usize = 6;
/// How many weights are named.
const NAMES: usize = 4;

/// `matmul : f32[T, 128] (q_proj.weight, k_proj.weight)`.
pub(crate) fn node(graph: &Graph, id: NodeId) -> String {
    let node = graph.node(id);
    let spelling = match &node.op {
        Op::Unary(f) => f.name(),
        Op::Binary(f) => f.name(),
        Op::Reduce { op, .. } => op.name(),
        op => op.info().name,
    };
    let ty = graph.ty(node.results[0]);
    let mut names: Vec<String> = Vec::new();
    let constant = graph.compile_time_constants();
    for &operand in &node.operands {
        weights_behind(graph, operand, &constant, DEPTH, &mut names);
    }
    names.truncate(NAMES);
    if names.is_empty() {
        format!("{spelling} : {ty}")
    } else {
        format!("{spelling} : {ty} ({})", names.join(", "))
    }
}

/// The last two parts of the names of the weights that a constant is made of.
fn weights_behind(graph: &Graph, value: ValueId, cc: &[bool], depth: usize, out: &mut Vec<String>) {
    let Some((_, node)) = graph.producer(value) else { return };
    if !cc[value.index()] || depth == 0 || out.len() >= NAMES {
        return;
    }
    if let Op::Weight { name, .. } = &node.op {
        let parts: Vec<&str> = name.split('.').collect();
        let short = parts[parts.len().saturating_sub(2)..].join(".");
        if !out.contains(&short) {
            out.push(short);
        }
    }
    for &operand in &node.operands {
        weights_behind(graph, operand, cc, depth - 1, out);
    }
}
