//! Writes the blocks of the kinds, and `main` with a `repeat` per row.

use std::collections::BTreeMap;

use ir::{BlockId, CacheType, Graph, NodeId, Op, Param, ParamKind, Type, ValueId};

use super::form::{Boundary, Operand, in_block};
use super::layers::{Kind, Layer};
use crate::PassError;
use crate::emit::Emit;

/// The blocks and the new `main`.
pub(super) fn rolled(graph: &Graph, kinds: &[Kind]) -> Result<(Vec<Graph>, Graph), PassError> {
    let nodes = graph.nodes().filter(|(_, n)| !n.operands.is_empty());
    let body: Vec<NodeId> = nodes.map(|(id, _)| id).collect();
    let blocks = kinds.iter().enumerate();
    let blocks =
        blocks.map(|(i, kind)| block(graph, &body, kind, i)).collect::<Result<Vec<_>, _>>()?;
    let main = Main::new(graph, &body, kinds, &blocks).build()?;
    Ok((blocks, main))
}

fn block(graph: &Graph, body: &[NodeId], kind: &Kind, number: usize) -> Result<Graph, PassError> {
    let (layer, boundary) = &kind.rows[0][0];
    let name = if number > 0 { format!("layer{number}") } else { "layer".to_string() };
    let mut emit = Emit::new(&name);
    let mut param = |kind: ParamKind, value: ValueId| {
        let old = graph.value(value);
        emit.graph_mut().add_param(kind, old.ty.clone(), old.name.clone())
    };
    let mut slots: BTreeMap<usize, ValueId> = BTreeMap::new();
    for &(slot, _) in &kind.carries {
        slots.insert(slot, param(ParamKind::Carry, boundary.slots[slot]));
    }
    for &slot in &kind.shared {
        slots.insert(slot, param(ParamKind::Input, boundary.slots[slot]));
    }
    let states: Vec<ValueId> =
        boundary.states.iter().map(|&v| param(ParamKind::State, v)).collect();
    let mut inside: Vec<ValueId> = Vec::with_capacity(kind.form.steps.len());
    for (offset, (_, operands)) in kind.form.steps.iter().enumerate() {
        let node = graph.node(body[layer.start + offset]);
        let mut new = Vec::with_capacity(operands.len());
        for (&old, operand) in node.operands.iter().zip(operands) {
            new.push(match operand {
                Operand::Inside(offset) => inside[*offset],
                Operand::Slot(slot) => slots[slot],
                Operand::State(state) => states[*state],
                Operand::Leaf(_) => leaf(graph, &mut emit, *layer, old)?,
            });
        }
        let result = emit.copy(graph, node, &new)[0];
        emit.inherit_name(result, graph.value(node.results[0]));
        inside.push(result);
    }
    let carried = kind.carries.iter().map(|&(_, output)| inside[output]);
    let returned = kind.form.states.iter().map(|&(_, offset)| inside[offset]);
    emit.graph_mut().results = carried.chain(returned).collect();
    Ok(emit.graph().clone())
}

/// Copies a leaf into the block; a weight of the layer gets `{layer}` for its index.
fn leaf(
    graph: &Graph,
    emit: &mut Emit,
    layer: Layer,
    value: ValueId,
) -> Result<ValueId, PassError> {
    let Some((_, node)) = graph.producer(value) else {
        return Err(PassError::internal(format!("{value} is no leaf")));
    };
    let template = in_block(&node.op).filter(|(index, _)| *index == layer.index);
    emit.apply(template.map_or_else(|| node.op.clone(), |(_, op)| op), &[])
}

/// A row: which kind, where it begins and ends in the body, its layers.
struct Row<'a> {
    kind: usize,
    layers: &'a [(Layer, Boundary)],
    stacks: Vec<ValueId>,
}

/// The new `main` under construction.
struct Main<'a> {
    graph: &'a Graph,
    body: &'a [NodeId],
    kinds: &'a [Kind],
    blocks: &'a [Graph],
    rows: Vec<Row<'a>>,
    emit: Emit,
    new_id: BTreeMap<ValueId, ValueId>,
}

impl<'a> Main<'a> {
    fn new(graph: &'a Graph, body: &'a [NodeId], kinds: &'a [Kind], blocks: &'a [Graph]) -> Self {
        let rows = kinds.iter().enumerate();
        let mut rows: Vec<Row<'_>> = rows
            .flat_map(|(kind, k)| k.rows.iter().map(move |row| (kind, row)))
            .map(|(kind, row)| Row { kind, layers: row, stacks: Vec::new() })
            .collect();
        rows.sort_by_key(|row| row.layers[0].0.start);
        let emit = Emit::new(&graph.name);
        Main { graph, body, kinds, blocks, rows, emit, new_id: BTreeMap::new() }
    }

    fn build(mut self) -> Result<Graph, PassError> {
        self.params();
        // Body nodes of rows: the first one of each stands for all.
        let mut within: BTreeMap<NodeId, Option<usize>> = BTreeMap::new();
        for (i, row) in self.rows.iter().enumerate() {
            let (first, last) = (row.layers[0].0.start, row.layers[row.layers.len() - 1].0.end);
            for at in first..last {
                within.insert(self.body[at], (at == first).then_some(i));
            }
        }
        let mut stacks = Vec::new();
        for (id, node) in self.graph.nodes() {
            match within.get(&id) {
                Some(Some(row)) => stacks.extend(self.repeat(*row)?),
                Some(None) => {}
                None => {
                    let operands = node.operands.iter().map(|&v| self.known(v));
                    let operands = operands.collect::<Result<Vec<_>, _>>()?;
                    let results = self.emit.copy(self.graph, node, &operands);
                    for (&old, &new) in node.results.iter().zip(&results) {
                        self.new_id.insert(old, new);
                        self.emit.inherit_name(new, self.graph.value(old));
                    }
                }
            }
        }
        let mut results = Vec::new();
        for &value in &self.graph.results {
            match self.new_id.get(&value) {
                Some(&new) => results.push(new),
                // A layer's cache: part of a stack.
                None if self.graph.ty(value).as_cache().is_some() => {}
                None => return Err(self.known(value).err().unwrap_or_else(|| missing(value))),
            }
        }
        results.extend(stacks);
        self.emit.graph_mut().results = results;
        Ok(crate::dce::without_dead_nodes(self.emit.graph()))
    }

    fn known(&self, value: ValueId) -> Result<ValueId, PassError> {
        self.new_id.get(&value).copied().ok_or_else(|| missing(value))
    }

    /// Parameters that are no layer's, then a stack per row and cache.
    fn params(&mut self) {
        let of_layers = self.rows.iter().flat_map(|r| r.layers).flat_map(|l| &l.1.states);
        let of_layers: Vec<ValueId> = of_layers.copied().collect();
        for &Param { kind, value } in self.graph.params() {
            if !of_layers.contains(&value) {
                let old = self.graph.value(value);
                let graph = self.emit.graph_mut();
                let added = graph.add_param(kind, old.ty.clone(), old.name.clone());
                self.new_id.insert(value, added);
            }
        }
        for (number, row) in self.rows.iter_mut().enumerate() {
            for (i, (ty, _)) in self.kinds[row.kind].form.states.iter().enumerate() {
                let suffix = if number > 0 { format!("_{number}") } else { String::new() };
                let name = Some(format!("caches{i}{suffix}"));
                let ty = stacked(ty, row.layers.len());
                row.stacks.push(self.emit.graph_mut().add_param(ParamKind::State, ty, name));
            }
        }
    }

    /// Emits the `repeat` of a row: the stacks after it.
    fn repeat(&mut self, row: usize) -> Result<Vec<ValueId>, PassError> {
        let (number, kind) = (self.rows[row].kind, &self.kinds[self.rows[row].kind]);
        let layers = self.rows[row].layers;
        let (first, boundary) = &layers[0];
        let slots = kind.carries.iter().map(|c| c.0).chain(kind.shared.iter().copied());
        let operands = slots.map(|slot| self.known(boundary.slots[slot]));
        let mut operands = operands.collect::<Result<Vec<ValueId>, _>>()?;
        operands.extend(&self.rows[row].stacks);
        let block = &self.blocks[number];
        let types = block.results.iter().map(|&v| stacked(block.ty(v), layers.len())).collect();
        let count = u32::try_from(layers.len())
            .map_err(|_| PassError::internal("more layers than a repeat can have"))?;
        let op = Op::Repeat { block: BlockId::new(number), first: first.index, count };
        let node = self.emit.graph_mut().add_node(op, operands, types);
        let results = self.emit.graph().node(node).results.clone();
        let (carried, stacks) = results.split_at(kind.carries.len());
        let last = layers[layers.len() - 1].0;
        for (&(_, output), &new) in kind.carries.iter().zip(carried) {
            let old = self.graph.node(self.body[last.start + output]).results[0];
            self.new_id.insert(old, new);
        }
        Ok(stacks.to_vec())
    }
}

fn missing(value: ValueId) -> PassError {
    PassError::internal(format!("{value} is only known inside a layer"))
}

/// The type of a stack of so many layers' caches; tensors stay what they are.
fn stacked(ty: &Type, layers: usize) -> Type {
    match ty {
        Type::Cache(c) => {
            let layers = u32::try_from(layers).ok();
            Type::Cache(CacheType { layers, ..c.clone() })
        }
        ty => ty.clone(),
    }
}
