//! Dead code elimination: nodes nobody uses, caches nobody reads.
//!
//! A cache that is appended to but never read, in any layer, is state without meaning: its parameter,
//! appends and results leave the block, the `repeat` and `main`. Inputs of `main` stay, used or not:
//! they are the contract with the caller.

use std::collections::BTreeSet;

use ir::{BlockId, Graph, Module, Node, NodeId, Op, ParamKind, ValueId};

use crate::PassError;
use crate::emit::Emit;
use crate::manager::{Changed, Pass, PassCx};

/// See the module.
pub(crate) struct Dce;

impl Pass for Dce {
    fn run(&self, module: &mut Module, _cx: &mut PassCx<'_>) -> Result<Changed, PassError> {
        let mut changed = false;
        for graph in module.graphs_mut() {
            let live = without_dead_nodes(graph);
            changed |= live.order().len() != graph.order().len();
            *graph = live;
        }
        let dead = dead_caches(module);
        if !dead.is_empty() {
            remove_caches(module, &dead)?;
            changed = true;
        }
        Ok(changed.into())
    }
}

/// The graph without nodes that no result depends on.
pub(crate) fn without_dead_nodes(graph: &Graph) -> Graph {
    let mut live = vec![false; graph.value_count()];
    graph.results.iter().for_each(|v| live[v.index()] = true);
    let mut order: Vec<NodeId> = Vec::new();
    for (id, node) in graph.nodes().rev() {
        if node.results.iter().any(|v| live[v.index()]) {
            node.operands.iter().for_each(|v| live[v.index()] = true);
            order.push(id);
        }
    }
    order.reverse();
    let mut out = graph.clone();
    out.set_order(order);
    out.compact()
}

/// A state parameter: of a block, or of `main` (`None`), by position among all parameters.
type State = (Option<BlockId>, usize);

/// Where one state parameter goes inside a graph.
struct Journey {
    /// Nodes it is threaded through: appends and repeats.
    nodes: BTreeSet<NodeId>,
    /// The block parameters it becomes.
    becomes: Vec<State>,
    /// Whether somebody reads it here.
    read: bool,
}

fn journey(graph: &Graph, param: usize) -> Journey {
    let mut out = Journey { nodes: BTreeSet::new(), becomes: Vec::new(), read: false };
    let mut current = graph.params()[param].value;
    for (id, node) in graph.nodes() {
        let Some(at) = node.operands.iter().position(|&v| v == current) else { continue };
        match node.op {
            Op::CacheAppend => current = node.results[0],
            Op::Repeat { block, .. } => {
                out.becomes.push((Some(block), at));
                // States come last among parameters and results, in the same order.
                let from_end = node.operands.len() - at;
                current = node.results[node.results.len() - from_end];
            }
            _ => {
                out.read = true;
                continue;
            }
        }
        out.nodes.insert(id);
    }
    out
}

/// State parameters that nobody reads, here or in the blocks they are dealt to.
fn dead_caches(module: &Module) -> BTreeSet<State> {
    let blocks = (0..module.blocks.len()).map(|i| Some(BlockId::new(i)));
    let mut journeys = Vec::new();
    for owner in blocks.chain([None]) {
        let graph = graph_of(module, owner);
        for (i, param) in graph.params().iter().enumerate() {
            if param.kind == ParamKind::State {
                journeys.push(((owner, i), journey(graph, i)));
            }
        }
    }
    let read = |j: &&(State, Journey)| j.1.read;
    let mut live: BTreeSet<State> = journeys.iter().filter(read).map(|j| j.0).collect();
    // Liveness flows both ways between a stack and the block parameter it is dealt to: one without
    // the other cannot be removed.
    loop {
        let before = live.len();
        for (state, journey) in &journeys {
            if live.contains(state) || journey.becomes.iter().any(|s| live.contains(s)) {
                live.insert(*state);
                live.extend(&journey.becomes);
            }
        }
        if live.len() == before {
            break;
        }
    }
    journeys.iter().map(|j| j.0).filter(|s| !live.contains(s)).collect()
}

fn graph_of(module: &Module, owner: Option<BlockId>) -> &Graph {
    owner.map_or(&module.main, |id| module.block(id))
}

fn remove_caches(module: &mut Module, dead: &BTreeSet<State>) -> Result<(), PassError> {
    let main = strip(&module.main, None, dead)?;
    for i in 0..module.blocks.len() {
        module.blocks[i] = strip(&module.blocks[i], Some(BlockId::new(i)), dead)?;
    }
    module.main = main;
    Ok(())
}

/// The graph without the dead states and everything they are threaded through.
fn strip(
    graph: &Graph,
    owner: Option<BlockId>,
    dead: &BTreeSet<State>,
) -> Result<Graph, PassError> {
    let mut emit = Emit::new(&graph.name);
    let mut new_id: Vec<Option<ValueId>> = vec![None; graph.value_count()];
    for (i, param) in graph.params().iter().enumerate() {
        if !dead.contains(&(owner, i)) {
            let value = graph.value(param.value);
            let added =
                emit.graph_mut().add_param(param.kind, value.ty.clone(), value.name.clone());
            new_id[param.value.index()] = Some(added);
        }
    }
    for (_, node) in graph.nodes() {
        let gone = |at: usize| match node.op {
            Op::Repeat { block, .. } => dead.contains(&(Some(block), at)),
            _ => false,
        };
        if matches!(node.op, Op::CacheAppend) && new_id[node.operands[0].index()].is_none() {
            continue;
        }
        let kept = stripped_node(node, &gone);
        let operands = kept.operands.iter().map(|v| new_id[v.index()]);
        let operands: Option<Vec<_>> = operands.collect();
        let operands = operands
            .ok_or_else(|| PassError::internal("a cache that nobody reads has another use"))?;
        let results = emit.copy(graph, &kept, &operands);
        for (&from, &to) in kept.results.iter().zip(&results) {
            new_id[from.index()] = Some(to);
            emit.inherit_name(to, graph.value(from));
        }
    }
    let results = graph.results.iter().filter_map(|v| new_id[v.index()]).collect();
    emit.graph_mut().results = results;
    Ok(without_dead_nodes(emit.graph()))
}

/// The node without the operands that `gone` names, and without the results that follow from them.
fn stripped_node(node: &Node, gone: &dyn Fn(usize) -> bool) -> Node {
    let (operands, results) = (node.operands.len(), node.results.len());
    let keep_result = |at: usize| {
        let operand = (at + operands).checked_sub(results);
        operand.is_none_or(|operand| !gone(operand))
    };
    let kept = |values: &[ValueId], keep: &dyn Fn(usize) -> bool| {
        let indexed = values.iter().enumerate().filter(|(i, _)| keep(*i));
        indexed.map(|(_, &v)| v).collect()
    };
    Node {
        op: node.op.clone(),
        operands: kept(&node.operands, &|at| !gone(at)),
        results: kept(&node.results, &keep_result),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Tier;
    use crate::testing::{Decoder, assert_same_meaning, run_pass};

    /// A decoder whose layers append to a third cache, and read it when told to.
    fn with_extra_cache(read: bool) -> Module {
        let mut text = ir::print(&Decoder::default().module());
        let cache = "cache f32[C, 2, 16]";
        let grown = "cache f32[C + T, 2, 16]";
        text = text.replace(
            &format!("state %v_cache: {cache}"),
            &format!("state %v_cache: {cache}, state %extra: {cache}"),
        );
        text = text.replace(
            "state %v: cache x2 f32[C, 2, 16]",
            "state %v: cache x2 f32[C, 2, 16], state %extra: cache x2 f32[C, 2, 16]",
        );
        text = text.replace("%k, %v) : f32[T, 64]", "%k, %v, %extra) : f32[T, 64]");
        let stack = "cache x2 f32[C + T, 2, 16]";
        text = text.replace(&format!("{stack}, {stack}"), &format!("{stack}, {stack}, {stack}"));
        let mut lines: Vec<String> = text.lines().map(String::from).collect();
        // Whatever the printer calls them: the second append, the returns, the results of repeat.
        let append = lines.iter().rposition(|l| l.contains("cache_append")).unwrap();
        let new = lines[append].split("%v_cache, ").nth(1).unwrap();
        let new = new.split(' ').next().unwrap().to_string();
        let mut extra = format!("    %grown = cache_append %extra, {new} : {grown}");
        if read {
            extra.push_str("\n    %seen = cache_read %grown : f32[C + T, 2, 16]");
        }
        lines.insert(append + 1, extra);
        if read {
            let values = lines.iter().rposition(|l| l.contains("cache_read")).unwrap();
            let name = lines[values].trim().split(' ').next().unwrap().to_string();
            let ty = "f32[C + T, 2, 16]";
            let sum = format!("    %both = add {name}, %seen : {ty}");
            let uses = lines[values + 1..].iter().position(|l| l.contains(&format!(" {name} ")));
            let at = values + 1 + uses.unwrap();
            lines[at] = lines[at].replacen(&format!(" {name} "), " %both ", 1);
            lines.insert(values + 1, sum);
        }
        let mut returns = 0;
        for line in &mut lines {
            if line.contains("return") {
                line.push_str(if returns == 0 { ", %grown" } else { ", %rest" });
                returns += 1;
            }
            if line.contains("repeat @layer") {
                *line = line.replacen(" = repeat", ", %rest = repeat", 1);
            }
        }
        let text = lines.join("\n");
        ir::parse(&text).unwrap_or_else(|e| panic!("{e}\n{text}"))
    }

    fn states(module: &Module) -> [usize; 2] {
        [&module.blocks[0], &module.main]
            .map(|g| g.params().iter().filter(|p| p.kind == ParamKind::State).count())
    }

    #[test]
    fn a_cache_that_is_never_read_leaves_block_repeat_and_main() {
        let before = with_extra_cache(false);
        assert_eq!(states(&before), [3, 3]);
        let mut after = before.clone();
        assert!(run_pass("dce", &mut after));
        assert_eq!(states(&after), [2, 2]);
        let appends = after.blocks[0].nodes().filter(|(_, n)| n.op == Op::CacheAppend).count();
        assert_eq!(appends, 2);
        assert_same_meaning(&before, &after, Tier::Exact);
        assert!(!run_pass("dce", &mut after));
    }

    #[test]
    fn a_cache_that_is_read_stays() {
        let mut module = with_extra_cache(true);
        let before = module.clone();
        assert!(!run_pass("dce", &mut module));
        assert_eq!(states(&module), [3, 3]);
        assert_same_meaning(&before, &module, Tier::Exact);
    }
}
