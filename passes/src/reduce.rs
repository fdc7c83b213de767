//! Shrinks a module that shows something, as long as it goes on showing it: delta debugging.
//!
//! In: a module and a question about modules that it answers with yes. Out: a smaller module that still
//! does. An edit bypasses something: a repeat (its carries go through), layers of a repeat, or a node (an
//! earlier value of the same type, the earliest that does, takes its place); what nobody reads goes. Edits are tried
//! many at a time first, then in ever smaller parts, down to single ones (Zeller and Hildebrandt,
//! "Simplifying and isolating failure-inducing input", 2002), until none is left that keeps the answer.
//! Every module asked about verifies. Does not shrink shapes or invent weights.

use std::collections::BTreeMap;

use ir::{Graph, Module, NodeId, Op, ValueId};

use crate::{NeutralCost, PassError, RunOptions, run};

/// What came of it.
#[derive(Clone, Debug)]
pub struct Reduced {
    /// The smallest module found.
    pub module: Module,
    /// Modules that were asked about.
    pub asked: usize,
}

/// Shrinks a module while `shows` says yes, asking at most `limit` times.
///
/// ```
/// # use sparkc_passes as passes;
/// let text = r#"module "t" context 8 {
///   graph @main(input %tokens: i32[T]) {
///     %e = weight "e" : f32[16, 8]
///     %x = gather %e, %tokens : f32[T, 8]
///     %y = tanh %x : f32[T, 8]
///     %z = exp %y : f32[T, 8]
///     %l = slice %z {axis=0, start=T - R, end=T} : f32[R, 8]
///     return %l
///   }
/// }
/// "#;
/// let module = ir::parse(text)?;
/// let shows = &mut |m: &ir::Module| ir::print(m).contains("exp");
/// let reduced = passes::reduce(module, 100, shows)?;
/// assert_eq!(reduced.module.main.order().len(), 4); // tanh is gone
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// When the module does not verify.
pub fn reduce(
    module: Module,
    limit: usize,
    shows: &mut dyn FnMut(&Module) -> bool,
) -> Result<Reduced, PassError> {
    let mut state = State { module: cleaned(module)?, asked: 0, limit, shows };
    loop {
        let before = state.module.clone();
        state.bypass(repeats);
        state.bypass(layers);
        state.bypass(nodes);
        if state.module == before || state.asked >= limit {
            return Ok(Reduced { module: state.module, asked: state.asked });
        }
    }
}

/// One thing to leave out: which graph (`None` is `main`), which node, and by what to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Edit {
    graph: Option<usize>,
    node: NodeId,
    how: How,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum How {
    /// A repeat's carries go through.
    Through,
    /// A repeat runs one layer.
    OneLayer,
    /// Another value stands for the result.
    By(ValueId),
}

struct State<'a> {
    module: Module,
    asked: usize,
    limit: usize,
    shows: &'a mut dyn FnMut(&Module) -> bool,
}

impl State<'_> {
    /// Makes as many of the edits as keep the answer, large parts of them first.
    fn bypass(&mut self, edits_of: fn(&Module) -> Vec<Edit>) {
        let mut edits = edits_of(&self.module);
        let mut part = edits.len();
        while part > 0 {
            let mut at = 0;
            while at < edits.len() && self.asked < self.limit {
                let some = &edits[at..edits.len().min(at + part)];
                if self.attempt(some) {
                    // Nodes have other numbers now.
                    edits = edits_of(&self.module);
                    part = part.min(edits.len()).max(1);
                } else {
                    at += part;
                }
            }
            part /= 2;
        }
    }

    fn attempt(&mut self, edits: &[Edit]) -> bool {
        let Some(module) = edited(&self.module, edits).filter(|m| *m != self.module) else {
            return false;
        };
        self.asked += 1;
        let kept = (self.shows)(&module);
        if kept {
            self.module = module;
        }
        kept
    }
}

/// The module after edits, when it verifies.
fn edited(module: &Module, edits: &[Edit]) -> Option<Module> {
    let mut module = module.clone();
    for edit in edits {
        let blocks = module.blocks.clone();
        let graph = match edit.graph {
            Some(i) => module.blocks.get_mut(i)?,
            None => &mut module.main,
        };
        let results = graph.node(edit.node).results.clone();
        match (edit.how, &mut graph.node_mut(edit.node).op) {
            (How::By(value), _) => graph.replace_uses(results[0], value),
            (How::OneLayer, Op::Repeat { count, .. }) => *count = 1,
            (How::Through, Op::Repeat { block, .. }) => {
                let carries = blocks.get(block.index())?.params().iter();
                let carries = carries.filter(|p| p.kind == ir::ParamKind::Carry).count();
                let operands = graph.node(edit.node).operands.clone();
                // Carries first, then inputs, then stacks: as results without the inputs.
                let stacks = operands.len() - (results.len() - carries);
                for (i, &result) in results.iter().enumerate() {
                    let from = if i < carries { i } else { stacks + i - carries };
                    graph.replace_uses(result, operands[from]);
                }
            }
            _ => return None,
        }
    }
    one_layer_stacks(&mut module);
    let module = cleaned(module).ok()?;
    ir::verify(&module).is_ok().then_some(module)
}

/// Caches that a repeat of fewer layers reads are stacks of fewer layers.
fn one_layer_stacks(module: &mut Module) {
    let main = &mut module.main;
    let mut layers: BTreeMap<ValueId, u32> = BTreeMap::new();
    for (_, node) in main.nodes() {
        if let Op::Repeat { count, .. } = node.op {
            layers.extend(node.operands.iter().chain(&node.results).map(|&v| (v, count)));
        }
    }
    for (value, count) in layers {
        if let ir::Type::Cache(cache) = &mut main.value_mut(value).ty {
            cache.layers = cache.layers.map(|_| count);
        }
    }
}

/// Without what nobody reads: nodes, caches, blocks. States that nobody touches any more go as well.
fn cleaned(mut module: Module) -> Result<Module, PassError> {
    drop_untouched_states(&mut module.main);
    let mut used: Vec<usize> = module.repeats().map(|(id, ..)| id.index()).collect();
    used.sort_unstable();
    used.dedup();
    if used.len() < module.blocks.len() {
        let kept = used.iter().map(|&i| module.blocks[i].clone()).collect();
        let nodes: Vec<NodeId> = module.main.order().to_vec();
        for id in nodes {
            if let Op::Repeat { block, .. } = &mut module.main.node_mut(id).op {
                let new = used.iter().position(|&i| i == block.index()).unwrap_or(0);
                *block = ir::BlockId::new(new);
            }
        }
        module.blocks = kept;
    }
    run("dce", &mut module, &NeutralCost, RunOptions::default())?;
    Ok(module)
}

/// Removes state parameters that are returned as they came.
fn drop_untouched_states(main: &mut Graph) {
    let states = main.params().iter().filter(|p| p.kind == ir::ParamKind::State);
    let untouched: Vec<ValueId> =
        states.map(|p| p.value).filter(|v| main.results.contains(v)).collect();
    if untouched.is_empty() {
        return;
    }
    let mut new = Graph::new(&main.name);
    let mut ids: BTreeMap<ValueId, ValueId> = BTreeMap::new();
    for param in main.params().iter().filter(|p| !untouched.contains(&p.value)) {
        let old = main.value(param.value);
        ids.insert(param.value, new.add_param(param.kind, old.ty.clone(), old.name.clone()));
    }
    for (_, node) in main.nodes() {
        let operands: Option<Vec<ValueId>> =
            node.operands.iter().map(|v| ids.get(v).copied()).collect();
        // Somebody reads it after all.
        let Some(operands) = operands else { return };
        let types = node.results.iter().map(|&v| main.ty(v).clone()).collect();
        let id = new.add_node(node.op.clone(), operands, types);
        let results = new.node(id).results.clone();
        for (&from, &to) in node.results.iter().zip(&results) {
            new.value_mut(to).name.clone_from(&main.value(from).name);
            ids.insert(from, to);
        }
    }
    new.results = main.results.iter().filter_map(|v| ids.get(v).copied()).collect();
    *main = new;
}

fn graphs(module: &Module) -> impl Iterator<Item = (Option<usize>, &Graph)> {
    let blocks = module.blocks.iter().enumerate().map(|(i, b)| (Some(i), b));
    std::iter::once((None, &module.main)).chain(blocks)
}

fn repeats(module: &Module) -> Vec<Edit> {
    let nodes = module.main.nodes().filter(|(_, n)| matches!(n.op, Op::Repeat { .. }));
    nodes.map(|(node, _)| Edit { graph: None, node, how: How::Through }).collect()
}

fn layers(module: &Module) -> Vec<Edit> {
    let deep = |op: &Op| matches!(op, Op::Repeat { count, .. } if *count > 1);
    let nodes = module.main.nodes().filter(|(_, n)| deep(&n.op));
    nodes.map(|(node, _)| Edit { graph: None, node, how: How::OneLayer }).collect()
}

/// Every node that an earlier value can stand for, last ones first.
fn nodes(module: &Module) -> Vec<Edit> {
    let mut edits = Vec::new();
    for (place, graph) in graphs(module) {
        let params = graph.params().iter().map(|p| p.value);
        let values = graph.nodes().flat_map(|(_, n)| n.results.clone());
        let mut earliest: BTreeMap<&ir::Type, ValueId> = BTreeMap::new();
        for value in params.chain(values) {
            let ty = graph.ty(value);
            let known = *earliest.entry(ty).or_insert(value);
            let Some((node, of)) = graph.producer(value) else { continue };
            // A value of its own operands first: it keeps more of what comes before.
            let own = of.operands.iter().copied().find(|&o| graph.ty(o) == ty);
            if of.results.len() > 1 || ty.as_tensor().is_none() {
                continue;
            }
            for by in [own, (known != value).then_some(known)].into_iter().flatten() {
                edits.push(Edit { graph: place, node, how: How::By(by) });
            }
        }
    }
    edits.reverse();
    edits
}
