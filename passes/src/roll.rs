//! Rolls a flat decoder, written layer after layer, into blocks and `repeat`s.
//!
//! Some front ends (and people) write every layer out. Everything after this pass costs per *block*,
//! so layers that are equal but for the index in their weight names become one. Method: the first
//! nodes that read weights of layer 0, 1, 2, ... must stand at equal distances; that distance is the
//! period. Every node of an iteration is compared with its counterpart one period later: equal op,
//! and operands that are the same outer value, counterparts of each other, weights whose names differ
//! in the index alone, or a value of the iteration before (a carry). One difference, and the graph
//! stays as it is: rolling never guesses. Caches of the layers become one stack.
//!
//! Layers of several kinds become one block per run of equal layers; a layer between two of another kind
//! stays as it is. Not rolled: modules that have blocks already.

use std::collections::BTreeMap;

use ir::{BlockId, CacheType, Graph, Module, Node, NodeId, Op, Param, ParamKind, Type, ValueId};

use crate::PassError;
use crate::emit::Emit;
use crate::manager::{Changed, Pass, PassCx};

/// See the module.
pub(crate) struct Roll;

impl Pass for Roll {
    fn run(&self, module: &mut Module, _cx: &mut PassCx<'_>) -> Result<Changed, PassError> {
        if !module.blocks.is_empty() {
            return Ok(Changed::No);
        }
        loop {
            let body = Body::of(&module.main);
            let Some(layers) = find_layers(&module.main, &body) else { break };
            let (block, main) = rolled(&module.main, &layers, module.blocks.len())?;
            module.blocks.push(block);
            module.main = main;
        }
        Ok((!module.blocks.is_empty()).into())
    }
}

/// What iterations are made of.
struct Body {
    /// Nodes with operands, in order. Leaves are copied where needed.
    nodes: Vec<NodeId>,
    /// Position in `nodes` of the node that defines a value.
    position: BTreeMap<ValueId, usize>,
    /// Where the first weight of each layer is read.
    first_use: BTreeMap<u32, usize>,
}

impl Body {
    fn of(graph: &Graph) -> Body {
        let nodes = graph.nodes().filter(|(_, n)| !n.operands.is_empty());
        let nodes: Vec<NodeId> = nodes.map(|(id, _)| id).collect();
        let (mut position, mut first_use) = (BTreeMap::new(), BTreeMap::new());
        for (at, &id) in nodes.iter().enumerate() {
            let node = graph.node(id);
            position.extend(node.results.iter().map(|&v| (v, at)));
            for index in node.operands.iter().filter_map(|&v| weight_index(graph, v)) {
                first_use.entry(index).or_insert(at);
            }
        }
        Body { nodes, position, first_use }
    }
}

/// The repeated part of a graph.
struct Layers<'a> {
    graph: &'a Graph,
    body: &'a [NodeId],
    position: &'a BTreeMap<ValueId, usize>,
    /// Where the first iteration starts.
    start: usize,
    /// Nodes per iteration.
    period: usize,
    /// Layer index of the first iteration, and number of iterations.
    first: u32,
    count: u32,
    /// Values that a layer takes from the one before: initial value, position within the iteration.
    carries: Vec<(ValueId, usize)>,
    /// The same outer value in every layer.
    shared: Vec<ValueId>,
    /// One state parameter of `main` per layer: position of the node that consumes it, and the
    /// parameters.
    states: Vec<Vec<ValueId>>,
}

/// A weight name around its layer index: the first number between dots.
fn split_name(name: &str) -> Option<(String, u32, String)> {
    let parts: Vec<&str> = name.split('.').collect();
    let at = parts.iter().position(|p| !p.is_empty() && p.bytes().all(|b| b.is_ascii_digit()))?;
    let index = parts[at].parse().ok().filter(|n: &u32| n.to_string() == parts[at])?;
    Some((parts[..at].join("."), index, parts[at + 1..].join(".")))
}

fn with_layer(name: &str) -> Option<String> {
    let (before, _, after) = split_name(name)?;
    let parts = [before.as_str(), "{layer}", after.as_str()];
    Some(parts.into_iter().filter(|p| !p.is_empty()).collect::<Vec<_>>().join("."))
}

/// The first run of two or more equal layers, as long as it goes.
fn find_layers<'a>(graph: &'a Graph, body: &'a Body) -> Option<Layers<'a>> {
    let uses: Vec<(u32, usize)> = body.first_use.iter().map(|(&i, &at)| (i, at)).collect();
    (0..uses.len()).find_map(|from| {
        let (first, start) = uses[from];
        let period = uses.get(from + 1)?.1.checked_sub(start).filter(|&p| p > 0)?;
        let regular = |&(i, &(index, at)): &(usize, &(u32, usize))| {
            u32::try_from(i).is_ok_and(|i| index == first + i) && at == start + i * period
        };
        let longest = uses[from..].iter().enumerate().take_while(regular).count();
        let run = Run { graph, body, start, period, first };
        (2..=longest).rev().find_map(|count| run.of(u32::try_from(count).ok()?))
    })
}

/// Where a run of layers might be.
struct Run<'a> {
    graph: &'a Graph,
    body: &'a Body,
    /// Where the first weight of its first layer is read.
    start: usize,
    period: usize,
    first: u32,
}

impl<'a> Run<'a> {
    /// The run when it has so many equal layers.
    fn of(&self, count: u32) -> Option<Layers<'a>> {
        // An iteration may begin before its first weight: slide back until all of them match.
        (0..self.period.min(self.start + 1)).find_map(|slide| {
            let start = self.start - slide;
            let mut layers = Layers {
                graph: self.graph,
                body: &self.body.nodes,
                position: &self.body.position,
                start,
                period: self.period,
                first: self.first,
                count,
                carries: Vec::new(),
                shared: Vec::new(),
                states: Vec::new(),
            };
            let end = start + self.period * count as usize;
            (end <= layers.body.len() && layers.matches()? && layers.closed()).then_some(layers)
        })
    }
}

fn weight_index(graph: &Graph, value: ValueId) -> Option<u32> {
    match &graph.producer(value)?.1.op {
        Op::Weight { name, .. } => Some(split_name(name)?.1),
        _ => None,
    }
}

impl Layers<'_> {
    fn node(&self, iteration: usize, offset: usize) -> &Node {
        self.graph.node(self.body[self.start + iteration * self.period + offset])
    }

    /// Compares every iteration with the first; collects carries, shared values and states.
    fn matches(&mut self) -> Option<bool> {
        let mut carries: BTreeMap<usize, ValueId> = BTreeMap::new();
        let mut states: BTreeMap<ValueId, Vec<ValueId>> = BTreeMap::new();
        for offset in 0..self.period {
            for operand in 0..self.node(0, offset).operands.len() {
                let mut sequence = Vec::with_capacity(self.count as usize);
                for iteration in 0..self.count as usize {
                    let (node, model) = (self.node(iteration, offset), self.node(0, offset));
                    if node.op != model.op || node.operands.len() != model.operands.len() {
                        return None;
                    }
                    sequence.push(node.operands[operand]);
                }
                match self.relation(&sequence)? {
                    Relation::Inside | Relation::Leaf => {}
                    Relation::Shared => {
                        if !self.shared.contains(&sequence[0]) {
                            self.shared.push(sequence[0]);
                        }
                    }
                    Relation::Carry(from) => {
                        if *carries.entry(from).or_insert(sequence[0]) != sequence[0] {
                            return None;
                        }
                    }
                    Relation::State => drop(states.insert(sequence[0], sequence)),
                }
            }
        }
        self.carries = carries.into_iter().map(|(from, initial)| (initial, from)).collect();
        self.carries.sort_by_key(|c| c.0);
        self.states = states.into_values().collect();
        Some(true)
    }

    /// How the same operand of all iterations hangs together.
    fn relation(&self, sequence: &[ValueId]) -> Option<Relation> {
        let graph = self.graph;
        let first = sequence[0];
        let inside = |v: ValueId| self.position.get(&v).filter(|&&at| at >= self.start).copied();
        if let Some(at) = inside(first) {
            let moved = sequence.iter().enumerate();
            let ok = moved.into_iter().all(|(i, &v)| inside(v) == Some(at + i * self.period));
            return ok.then_some(Relation::Inside);
        }
        let all_same = sequence.iter().all(|v| *v == first);
        let leaf = graph.producer(first).filter(|(_, n)| n.operands.is_empty());
        // Positions are computed once, in main, and handed to every layer.
        if let Some((_, leaf)) = leaf.filter(|(_, n)| !(all_same && n.op == Op::Positions)) {
            let same = sequence.iter().enumerate().all(|(i, &v)| {
                graph.producer(v).is_some_and(|(_, n)| same_leaf(&leaf.op, &n.op, i))
            });
            return same.then_some(Relation::Leaf);
        }
        if all_same {
            return Some(Relation::Shared);
        }
        let is_state = |v: &ValueId| {
            graph.params().iter().any(|p| p.value == *v && p.kind == ParamKind::State)
        };
        if sequence.iter().all(is_state) {
            let same = sequence.iter().all(|&v| graph.ty(v) == graph.ty(first));
            return same.then_some(Relation::State);
        }
        let from = inside(sequence[1])?.checked_sub(self.start).filter(|&o| o < self.period)?;
        let previous = |i: usize| self.start + (i - 1) * self.period + from;
        let carried = (1..sequence.len()).all(|i| inside(sequence[i]) == Some(previous(i)));
        (carried && graph.ty(first) == graph.ty(sequence[1])).then_some(Relation::Carry(from))
    }

    /// Whether nothing outside reads the inside, but for the carries and states of the last layer.
    fn closed(&self) -> bool {
        let end = self.start + self.period * self.count as usize;
        let last = end - self.period;
        let visible = |v: &ValueId| match self.position.get(v) {
            Some(&at) if at >= self.start && at < end => {
                let carried = at >= last && self.carries.iter().any(|c| c.1 == at - last);
                carried || self.graph.ty(*v).as_cache().is_some()
            }
            _ => true,
        };
        let after = self.body[end..].iter().flat_map(|&id| &self.graph.node(id).operands);
        let returned_states = self.states.iter().all(|per_layer| {
            let successor = |v: &ValueId| self.successor(*v);
            per_layer.iter().all(|v| successor(v).is_some_and(|s| self.graph.results.contains(&s)))
        });
        let one_result =
            self.body[self.start..end].iter().all(|&id| self.graph.node(id).results.len() == 1);
        let mut caches_after =
            self.body[end..].iter().flat_map(|&id| &self.graph.node(id).operands);
        let no_cache_after = !caches_after.any(|v| {
            self.graph.ty(*v).as_cache().is_some()
                && self.position.get(v).is_some_and(|&at| at >= self.start && at < end)
        });
        after.chain(&self.graph.results).all(visible)
            && returned_states
            && one_result
            && no_cache_after
    }

    /// The cache after all appends to the cache `state`.
    fn successor(&self, state: ValueId) -> Option<ValueId> {
        let mut current = state;
        for &id in self.body {
            let node = self.graph.node(id);
            if matches!(node.op, Op::CacheAppend) && node.operands[0] == current {
                current = node.results[0];
            }
        }
        (current != state).then_some(current)
    }
}

enum Relation {
    /// A value of the same iteration.
    Inside,
    /// A weight of the layer, a constant, positions.
    Leaf,
    /// One outer value.
    Shared,
    /// The value at this offset of the iteration before.
    Carry(usize),
    /// A state parameter per layer.
    State,
}

/// Whether a leaf of layer `i` is the counterpart of one of the first layer.
fn same_leaf(first: &Op, other: &Op, i: usize) -> bool {
    match (first, other) {
        (
            Op::Weight { name: a, dtype: x, shape: s },
            Op::Weight { name: b, dtype: y, shape: t },
        ) => {
            let stepped = match (split_name(a), split_name(b)) {
                (Some((p, n, q)), Some((r, m, z))) => {
                    p == r && q == z && u32::try_from(i).is_ok_and(|i| m == n + i)
                }
                _ => false,
            };
            (stepped || a == b) && x == y && s == t
        }
        (first, other) => first == other,
    }
}

/// The block of this number, and the new `main`.
fn rolled(graph: &Graph, layers: &Layers<'_>, number: usize) -> Result<(Graph, Graph), PassError> {
    let mut block = build_block(graph, layers)?;
    if number > 0 {
        block.name = format!("{}{number}", block.name);
    }
    let main = build_main(graph, layers, &block, number)?;
    Ok((block, main))
}

fn build_block(graph: &Graph, layers: &Layers<'_>) -> Result<Graph, PassError> {
    let mut emit = Emit::new("layer");
    let mut new_id: BTreeMap<ValueId, ValueId> = BTreeMap::new();
    let first_states = layers.states.iter().map(|s| (ParamKind::State, s[0]));
    let carries = layers.carries.iter().map(|c| (ParamKind::Carry, c.0));
    let shared = layers.shared.iter().map(|&v| (ParamKind::Input, v));
    for (kind, value) in carries.chain(shared).chain(first_states) {
        let old = graph.value(value);
        let added = emit.graph_mut().add_param(kind, old.ty.clone(), old.name.clone());
        new_id.insert(value, added);
    }
    for offset in 0..layers.period {
        let node = layers.node(0, offset);
        let mut operands = Vec::with_capacity(node.operands.len());
        for &operand in &node.operands {
            let new = match new_id.get(&operand) {
                Some(&new) => new,
                None => copy_leaf(graph, layers, &mut emit, operand)?,
            };
            operands.push(new);
        }
        let results = emit.copy(graph, node, &operands);
        new_id.insert(node.results[0], results[0]);
        emit.inherit_name(results[0], graph.value(node.results[0]));
    }
    let missing = || PassError::internal("a carry or state of the layer is not in the block");
    let mut results = Vec::new();
    for &(_, from) in &layers.carries {
        let value = layers.node(0, from).results[0];
        results.push(*new_id.get(&value).ok_or_else(missing)?);
    }
    for state in &layers.states {
        let successor = layers.successor(state[0]).ok_or_else(missing)?;
        results.push(*new_id.get(&successor).ok_or_else(missing)?);
    }
    emit.graph_mut().results = results;
    Ok(emit.graph().clone())
}

/// Copies a leaf into the block; a weight of the layer gets `{layer}` for its index.
fn copy_leaf(
    graph: &Graph,
    layers: &Layers<'_>,
    emit: &mut Emit,
    value: ValueId,
) -> Result<ValueId, PassError> {
    let Some((_, node)) = graph.producer(value).filter(|(_, n)| n.operands.is_empty()) else {
        return Err(PassError::internal(format!("{value} is outside of the layer")));
    };
    let op = match &node.op {
        Op::Weight { name, dtype, shape } => {
            // A weight that all layers share keeps its name, whatever numbers are in it.
            let stepped = layers.is_stepped(value);
            let name = with_layer(name).filter(|_| stepped).unwrap_or_else(|| name.clone());
            Op::Weight { name, dtype: *dtype, shape: shape.clone() }
        }
        op => op.clone(),
    };
    emit.apply(op, &[])
}

impl Layers<'_> {
    /// Whether the counterpart of a leaf of the first layer has another name in the second.
    fn is_stepped(&self, value: ValueId) -> bool {
        (0..self.period).any(|offset| {
            let (first, second) = (self.node(0, offset), self.node(1, offset));
            let pairs = first.operands.iter().zip(&second.operands);
            let op = |v: &ValueId| self.graph.producer(*v).map(|(_, n)| &n.op);
            pairs.into_iter().any(|(a, b)| *a == value && op(a) != op(b))
        })
    }
}

fn build_main(
    graph: &Graph,
    layers: &Layers<'_>,
    block: &Graph,
    number: usize,
) -> Result<Graph, PassError> {
    let mut emit = Emit::new(&graph.name);
    let mut new_id: BTreeMap<ValueId, ValueId> = BTreeMap::new();
    let rolled_state = |v: ValueId| layers.states.iter().any(|s| s.contains(&v));
    for &Param { kind, value } in graph.params().iter().filter(|p| !rolled_state(p.value)) {
        let old = graph.value(value);
        let added = emit.graph_mut().add_param(kind, old.ty.clone(), old.name.clone());
        new_id.insert(value, added);
    }
    let mut stacks = Vec::new();
    for (i, state) in layers.states.iter().enumerate() {
        let Type::Cache(cache) = graph.ty(state[0]) else {
            return Err(PassError::internal("a state that is no cache"));
        };
        let ty = Type::Cache(CacheType { layers: Some(layers.count), ..cache.clone() });
        let run = if number > 0 { format!("_{number}") } else { String::new() };
        let name = Some(format!("caches{i}{run}"));
        stacks.push(emit.graph_mut().add_param(ParamKind::State, ty, name));
    }
    let end = layers.start + layers.period * layers.count as usize;
    let within =
        |v: &ValueId| layers.position.get(v).is_some_and(|&at| at >= layers.start && at < end);
    let missing = |v: ValueId| PassError::internal(format!("{v} is only known inside a layer"));
    let mut stack_results = Vec::new();
    for (id, node) in graph.nodes() {
        let here = node.results.first().is_some_and(within);
        if here && layers.body[layers.start] == id {
            let call = Call { layers, block, number, stacks: &stacks };
            let (carried, caches) = call.emit(&mut emit, &new_id)?;
            new_id.extend(carried);
            stack_results = caches;
        }
        if here {
            continue;
        }
        let operands =
            node.operands.iter().map(|v| new_id.get(v).copied().ok_or_else(|| missing(*v)));
        let operands = operands.collect::<Result<Vec<_>, _>>()?;
        let results = emit.copy(graph, node, &operands);
        for (&old, &new) in node.results.iter().zip(&results) {
            new_id.insert(old, new);
            emit.inherit_name(new, graph.value(old));
        }
    }
    let mut results = Vec::new();
    for &value in &graph.results {
        match new_id.get(&value) {
            Some(&new) => results.push(new),
            None if graph.ty(value).as_cache().is_some() => {}
            None => return Err(missing(value)),
        }
    }
    results.extend(stack_results);
    emit.graph_mut().results = results;
    Ok(crate::dce::without_dead_nodes(emit.graph()))
}

/// The `repeat` that stands for the layers.
struct Call<'a> {
    layers: &'a Layers<'a>,
    block: &'a Graph,
    number: usize,
    stacks: &'a [ValueId],
}

/// Values of the last layer that are carried, each with what the `repeat` returns for it.
type Carried = Vec<(ValueId, ValueId)>;

impl Call<'_> {
    /// Emits it: what is carried out of it, and the stacks after it.
    fn emit(
        &self,
        emit: &mut Emit,
        new_id: &BTreeMap<ValueId, ValueId>,
    ) -> Result<(Carried, Vec<ValueId>), PassError> {
        let layers = self.layers;
        let outer = layers.carries.iter().map(|c| c.0).chain(layers.shared.iter().copied());
        let outer = outer.map(|v| {
            let known = new_id.get(&v).copied();
            known.ok_or_else(|| PassError::internal(format!("{v} comes too late")))
        });
        let mut operands = outer.collect::<Result<Vec<ValueId>, _>>()?;
        operands.extend(self.stacks);
        let stacked = |&v: &ValueId| match self.block.ty(v) {
            Type::Cache(c) => Type::Cache(CacheType { layers: Some(layers.count), ..c.clone() }),
            ty => ty.clone(),
        };
        let types = self.block.results.iter().map(stacked).collect();
        let block = BlockId::new(self.number);
        let op = Op::Repeat { block, first: layers.first, count: layers.count };
        let node = emit.graph_mut().add_node(op, operands, types);
        let results = emit.graph().node(node).results.clone();
        let (carried, caches) = results.split_at(layers.carries.len());
        let last = layers.count as usize - 1;
        let values = layers.carries.iter().map(|c| layers.node(last, c.1).results[0]);
        Ok((values.zip(carried.iter().copied()).collect(), caches.to_vec()))
    }
}

#[cfg(test)]
mod tests {
    use ir::{Activation, UnaryOp};

    use super::*;
    use crate::Tier;
    use crate::testing::{Decoder, assert_same_meaning, run_pass};

    /// The module with every layer written out.
    fn flat(module: &Module) -> Module {
        let old = &module.main;
        let mut emit = Emit::new("main");
        let mut new_id = BTreeMap::new();
        for param in old.params().iter().filter(|p| p.kind == ParamKind::Input) {
            let value = old.value(param.value);
            let added =
                emit.graph_mut().add_param(param.kind, value.ty.clone(), value.name.clone());
            new_id.insert(param.value, added);
        }
        let count = module.repeats().next().unwrap().2;
        let block = &module.blocks[0];
        let states = block.params().iter().filter(|p| p.kind == ParamKind::State);
        let states: Vec<&Param> = states.collect();
        let mut caches = Vec::new();
        for _ in 0..count {
            let add =
                |p: &&Param| emit.graph_mut().add_param(p.kind, block.ty(p.value).clone(), None);
            caches.push(states.iter().map(add).collect::<Vec<_>>());
        }
        let mut successors = Vec::new();
        for (_, node) in old.nodes() {
            let operands: Vec<_> =
                node.operands.iter().filter_map(|v| new_id.get(v).copied()).collect();
            if !matches!(node.op, Op::Repeat { .. }) {
                let results = emit.copy(old, node, &operands);
                new_id.insert(node.results[0], results[0]);
                continue;
            }
            let mut x = operands[0];
            for layer in 0..count {
                let mut given = vec![x, operands[1]];
                given.extend(&caches[layer as usize]);
                let results = inline(&mut emit, block, layer, &given);
                x = results[0];
                successors.extend_from_slice(&results[1..]);
            }
            new_id.insert(node.results[0], x);
        }
        let mut results = vec![new_id[&old.results[0]]];
        results.extend(successors);
        emit.graph_mut().results = results;
        let mut out = module.clone();
        out.main = emit.graph().clone();
        out.blocks.clear();
        ir::verify(&out).unwrap();
        out
    }

    fn inline(emit: &mut Emit, block: &Graph, layer: u32, given: &[ValueId]) -> Vec<ValueId> {
        let mut new_id: BTreeMap<ValueId, ValueId> =
            block.params().iter().map(|p| p.value).zip(given.iter().copied()).collect();
        for (_, node) in block.nodes() {
            let operands: Vec<_> = node.operands.iter().map(|v| new_id[v]).collect();
            let mut node = node.clone();
            if let Op::Weight { name, .. } = &mut node.op {
                *name = name.replace("{layer}", &layer.to_string());
            }
            let results = emit.copy(block, &node, &operands);
            new_id.insert(node.results[0], results[0]);
        }
        block.results.iter().map(|v| new_id[v]).collect()
    }

    #[test]
    fn a_flat_decoder_becomes_a_block_and_a_repeat() {
        let decoder = Decoder { layers: 4, bias: true, ..Decoder::default() };
        let original = decoder.module();
        let before = flat(&original);
        let mut after = before.clone();
        assert!(run_pass("roll", &mut after));
        assert_eq!(after.repeats().collect::<Vec<_>>(), [(BlockId::new(0), 0, 4)]);
        assert_eq!(after.blocks[0].order().len(), original.blocks[0].order().len());
        assert_eq!(after.weights(), original.weights());
        assert_same_meaning(&before, &after, Tier::Exact);
        assert!(!run_pass("roll", &mut after));
    }

    #[test]
    fn layers_that_begin_before_their_first_weight_are_found() {
        // Primitive norms: the squares of a layer stand before any of its weights.
        let text = r#"module "t" context 64 {
  graph @main(input %tokens: i32[T]) {
    %e = weight "e" : f32[16, 8]
    %x = gather %e, %tokens : f32[T, 8]
    %a0 = square %x : f32[T, 8]
    %w0 = weight "h.5.w" : f32[8, 8]
    %b0 = matmul %a0, %w0 : f32[T, 8]
    %c0 = tanh %b0 : f32[T, 8]
    %a1 = square %c0 : f32[T, 8]
    %w1 = weight "h.6.w" : f32[8, 8]
    %b1 = matmul %a1, %w1 : f32[T, 8]
    %c1 = tanh %b1 : f32[T, 8]
    %l = slice %c1 {axis=0, start=T - R, end=T} : f32[R, 8]
    return %l
  }
}
"#;
        let before = ir::parse(text).unwrap();
        let mut after = before.clone();
        assert!(run_pass("roll", &mut after));
        assert_eq!(after.repeats().collect::<Vec<_>>(), [(BlockId::new(0), 5, 2)]);
        assert_eq!(after.blocks[0].order().len(), 4);
        assert_same_meaning(&before, &after, Tier::Exact);
    }

    #[test]
    fn two_kinds_of_layers_become_two_blocks() {
        let mut module = flat(&Decoder { layers: 5, ..Decoder::default() }.module());
        // From layer 3 on another activation.
        let acts: Vec<NodeId> = {
            let nodes = module.main.nodes();
            nodes.filter(|(_, n)| matches!(n.op, Op::Unary(UnaryOp::Act(_)))).map(|n| n.0).collect()
        };
        for &id in &acts[3..] {
            module.main.node_mut(id).op = Op::Unary(UnaryOp::Act(Activation::Relu));
        }
        let mut after = module.clone();
        assert!(run_pass("roll", &mut after));
        let [first, second] = [0, 1].map(BlockId::new);
        assert_eq!(after.repeats().collect::<Vec<_>>(), [(first, 0, 3), (second, 3, 2)]);
        assert_eq!(after.weights(), module.weights());
        assert_same_meaning(&module, &after, Tier::Exact);
    }

    #[test]
    fn a_layer_that_differs_stays_flat() {
        let original = Decoder { layers: 3, ..Decoder::default() }.module();
        let change = |f: &dyn Fn(&mut Node) -> bool| {
            let mut module = flat(&original);
            let ids: Vec<NodeId> = module.main.order().to_vec();
            // The last one that can be changed: one layer differs from the others.
            assert!(ids.iter().rev().any(|&id| f(module.main.node_mut(id))));
            let before = module.clone();
            run_pass("roll", &mut module);
            assert_same_meaning(&before, &module, Tier::Exact);
            module.repeats().map(|r| r.2).sum::<u32>()
        };
        let other_activation = change(&|node| match &mut node.op {
            Op::Unary(UnaryOp::Act(act)) => {
                *act = Activation::Relu;
                true
            }
            _ => false,
        });
        assert_eq!(other_activation, 2);
        let other_weight = change(&|node| match &mut node.op {
            Op::Weight { name, .. } if name.starts_with("2.q") => {
                *name = "other".to_string();
                true
            }
            _ => false,
        });
        assert_eq!(other_weight, 2);
        assert_eq!(change(&|_| true), 3, "nothing was changed");
    }
}
