//! The form of a layer: what is left of it when names, indices and where it stands do not count.
//!
//! Two layers have the same form if and only if they are the same graph: the same ops in the same order with
//! corresponding operands, weights whose names differ in the layer's index alone, boundary values of the
//! same types in the same places, caches of the same layout. A layer that has no form cannot be a block.

use std::collections::BTreeMap;

use ir::{Graph, Op, ParamKind, Type, ValueId};

use super::layers::{Body, Layer, split_name};

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Form {
    /// Op and operands of each node.
    pub(super) steps: Vec<(u32, Vec<Operand>)>,
    /// Types of the tensors that it reads from outside, in the order of their first use.
    pub(super) slots: Vec<Type>,
    /// Types of the caches that it appends to, each with the offset of the node that returns it.
    pub(super) states: Vec<(Type, usize)>,
    /// Offsets of the nodes that others read.
    pub(super) outputs: Vec<usize>,
}

/// What a node reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operand {
    /// The node at this offset.
    Inside(usize),
    /// A weight, a constant: by number.
    Leaf(u32),
    Slot(usize),
    State(usize),
}

/// What stands in the slots of one layer.
#[derive(Clone, Debug, Default)]
pub(super) struct Boundary {
    pub(super) slots: Vec<ValueId>,
    pub(super) states: Vec<ValueId>,
}

/// Brings layers of one graph into forms.
pub(super) struct Forms<'a> {
    graph: &'a Graph,
    body: &'a Body,
    /// Number of each body node's op, and of each leaf by value: as it is, and with the layer left out.
    ops: Vec<u32>,
    leaves: BTreeMap<ValueId, (u32, Option<(u32, u32)>)>,
    /// First and last body node that reads a value; the graph's results come after all.
    readers: BTreeMap<ValueId, (usize, usize)>,
}

impl<'a> Forms<'a> {
    pub(super) fn new(graph: &'a Graph, body: &'a Body) -> Forms<'a> {
        let mut numbers: BTreeMap<Op, u32> = BTreeMap::new();
        let mut number = |op: Op| {
            let next = numbers.len() as u32;
            *numbers.entry(op).or_insert(next)
        };
        let ops = body.nodes.iter().map(|&id| number(graph.node(id).op.clone())).collect();
        let mut leaves = BTreeMap::new();
        for (_, node) in graph.nodes().filter(|(_, n)| n.operands.is_empty()) {
            let template = in_block(&node.op).map(|(index, op)| (index, number(op)));
            leaves.insert(node.results[0], (number(node.op.clone()), template));
        }
        let mut readers = BTreeMap::new();
        let mut read = |value: ValueId, at: usize| {
            readers.entry(value).and_modify(|r: &mut (usize, usize)| r.1 = at).or_insert((at, at));
        };
        for (at, &id) in body.nodes.iter().enumerate() {
            graph.node(id).operands.iter().for_each(|&v| read(v, at));
        }
        graph.results.iter().for_each(|&v| read(v, usize::MAX));
        Forms { graph, body, ops, leaves, readers }
    }

    /// The form of a layer, and what its boundary is.
    pub(super) fn of(&self, layer: Layer) -> Option<(Form, Boundary)> {
        let mut boundary = Boundary::default();
        let mut steps = Vec::with_capacity(layer.end - layer.start);
        let (mut outputs, mut caches) = (Vec::new(), Vec::new());
        for at in layer.start..layer.end {
            let node = self.graph.node(self.body.nodes[at]);
            let [result] = node.results[..] else { return None };
            let operand = |&v: &ValueId| self.operand(layer, v, &mut boundary);
            let operands = node.operands.iter().map(operand).collect::<Option<Vec<_>>>()?;
            let offset = at - layer.start;
            let outside = self.readers.get(&result).is_some_and(|&(_, last)| last >= layer.end);
            if self.graph.ty(result).as_cache().is_some() {
                // A cache goes on to the next append, or is returned; nobody else may see it.
                let last = self.readers.get(&result).map(|r| r.1);
                caches.push((operands.first().copied()?, offset, last));
            } else if outside {
                outputs.push(offset);
            }
            steps.push((self.ops[at], operands));
        }
        let states = boundary.states.iter().enumerate();
        let states = states
            .map(|(i, &v)| Some((self.graph.ty(v).clone(), returned(i, &caches)?)))
            .collect::<Option<Vec<_>>>()?;
        let returns = |offset: usize| states.iter().any(|s| s.1 == offset);
        let hidden = |&(_, offset, last): &(Operand, usize, Option<usize>)| match last {
            Some(usize::MAX) => returns(offset),
            last => !returns(offset) && last.is_none_or(|at| at < layer.end),
        };
        let slots = boundary.slots.iter().map(|&v| self.graph.ty(v).clone()).collect();
        caches.iter().all(hidden).then_some((Form { steps, slots, states, outputs }, boundary))
    }

    fn operand(&self, layer: Layer, value: ValueId, boundary: &mut Boundary) -> Option<Operand> {
        if let Some(at) = self.body.position.get(&value) {
            if (layer.start..layer.end).contains(at) {
                return Some(Operand::Inside(at - layer.start));
            }
        } else if let Some((plain, template)) = self.leaves.get(&value) {
            // Positions are computed once, in main, and handed to every layer.
            let op = &self.graph.producer(value)?.1.op;
            if *op != Op::Positions || self.is_private(layer, value) {
                let stepped = template.filter(|(index, _)| *index == layer.index);
                return Some(Operand::Leaf(stepped.map_or(*plain, |(_, number)| number)));
            }
        }
        let cache = self.graph.ty(value).as_cache().is_some();
        if cache && !(self.is_state(value) && self.is_private(layer, value)) {
            return None;
        }
        let list = if cache { &mut boundary.states } else { &mut boundary.slots };
        let at = list.iter().position(|&v| v == value).unwrap_or_else(|| {
            list.push(value);
            list.len() - 1
        });
        Some(if cache { Operand::State(at) } else { Operand::Slot(at) })
    }

    fn is_state(&self, value: ValueId) -> bool {
        matches!(self.graph.value(value).def, ir::Def::Param(i)
            if self.graph.params()[i].kind == ParamKind::State)
    }

    /// Whether nobody else reads a value.
    fn is_private(&self, layer: Layer, value: ValueId) -> bool {
        let inside = |&(first, last): &(usize, usize)| first >= layer.start && last < layer.end;
        self.readers.get(&value).is_some_and(inside)
    }

    /// The value at an offset of a layer.
    fn value_at(&self, layer: Layer, offset: usize) -> Option<ValueId> {
        let id = self.body.nodes.get(layer.start + offset)?;
        self.graph.node(*id).results.first().copied()
    }

    /// The type at an offset of a layer.
    pub(super) fn ty_at(&self, layer: Layer, offset: usize) -> Option<&'a Type> {
        self.value_at(layer, offset).map(|v| self.graph.ty(v))
    }

    /// Which output of the first of two layers stands in each of these slots of the second; `None` when
    /// they do not take turns one to one.
    pub(super) fn threads(
        &self,
        slots: &[usize],
        form: &Form,
        pair: &[(Layer, Boundary)],
    ) -> Option<Vec<(usize, usize)>> {
        let [(first, _), (_, second)] = pair else { return None };
        let from = |&slot: &usize| {
            let stands = |&&o: &&usize| self.value_at(*first, o) == Some(second.slots[slot]);
            Some((slot, *form.outputs.iter().find(stands)?))
        };
        let pairs: Vec<(usize, usize)> = slots.iter().map(from).collect::<Option<_>>()?;
        let mut outputs: Vec<usize> = pairs.iter().map(|p| p.1).collect();
        outputs.sort_unstable();
        outputs.dedup();
        (outputs.len() == slots.len()).then_some(pairs)
    }

    /// Whether a layer is the next of a row: all that the one before returns goes into it alone.
    pub(super) fn follows(
        &self,
        carries: &[(usize, usize)],
        form: &Form,
        (before, _): &(Layer, Boundary),
        (layer, boundary): &(Layer, Boundary),
    ) -> bool {
        let adjacent = layer.index == before.index + 1 && layer.start == before.end;
        let threaded = |&(slot, output): &(usize, usize)| {
            self.value_at(*before, output) == Some(boundary.slots[slot])
        };
        let only_here = |&output: &usize| {
            let value = self.value_at(*before, output);
            let last = value.and_then(|v| self.readers.get(&v)).map(|r| r.1);
            last.is_some_and(|last| last < layer.end)
        };
        adjacent && carries.iter().all(threaded) && form.outputs.iter().all(only_here)
    }
}

/// The offset of the last append to a state.
fn returned(state: usize, caches: &[(Operand, usize, Option<usize>)]) -> Option<usize> {
    let mut current = Operand::State(state);
    let mut last = None;
    for &(from, offset, _) in caches {
        if from == current {
            (current, last) = (Operand::Inside(offset), Some(offset));
        }
    }
    last
}

/// A weight of a layer as it is written in a block, and the layer's index.
pub(super) fn in_block(op: &Op) -> Option<(u32, Op)> {
    let Op::Weight { name, dtype, shape } = op else { return None };
    let (before, index, after) = split_name(name)?;
    let parts = [before.as_str(), "{layer}", after.as_str()];
    let name = parts.into_iter().filter(|p| !p.is_empty()).collect::<Vec<_>>().join(".");
    Some((index, Op::Weight { name, dtype: *dtype, shape: shape.clone() }))
}
