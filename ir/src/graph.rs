//! A graph: parameters, nodes in execution order, results.
//!
//! Arena and ids: nodes and values are never removed from the arenas, only from the order; `compact`
//! drops what is unreachable from the order. Invariant (checked by `verify`): a value is defined
//! before it is used.

use crate::{NodeId, Op, Type, ValueId};

/// How a parameter of a graph relates to its repetition and to its results.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ParamKind {
    /// Of a block: the value of the previous layer; result i is the next one's carry i.
    Carry,
    /// The same for every layer; in `main`, an input.
    Input,
    /// A KV cache. The graph returns its successor.
    State,
}

/// A parameter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Param {
    /// Its kind. Carries come first, then inputs, then states.
    pub kind: ParamKind,
    /// The value it defines.
    pub value: ValueId,
}

/// Where a value comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Def {
    /// Parameter number.
    Param(usize),
    /// Result number of a node.
    Result(NodeId, usize),
}

/// A value: its type, its definition and an optional name for readers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Value {
    /// Type.
    pub ty: Type,
    /// Definition.
    pub def: Def,
    /// A name for the text form; not part of the meaning.
    pub name: Option<String>,
}

/// An op applied to values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// What it computes.
    pub op: Op,
    /// Operands.
    pub operands: Vec<ValueId>,
    /// Results; exactly one but for `repeat`.
    pub results: Vec<ValueId>,
}

/// The body of `main` or of a block.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Graph {
    /// Name without `@`.
    pub name: String,
    params: Vec<Param>,
    nodes: Vec<Node>,
    values: Vec<Value>,
    order: Vec<NodeId>,
    /// Returned values: of a block its carries then its states; of `main` its outputs then states.
    pub results: Vec<ValueId>,
}

impl Graph {
    /// An empty graph.
    pub fn new(name: impl Into<String>) -> Self {
        Graph { name: name.into(), ..Graph::default() }
    }

    /// Appends a parameter.
    pub fn add_param(&mut self, kind: ParamKind, ty: Type, name: Option<String>) -> ValueId {
        let value = ValueId::new(self.values.len());
        self.values.push(Value { ty, def: Def::Param(self.params.len()), name });
        self.params.push(Param { kind, value });
        value
    }

    /// Appends a node with results of the given types at the end of the order.
    pub fn add_node(&mut self, op: Op, operands: Vec<ValueId>, types: Vec<Type>) -> NodeId {
        let node = NodeId::new(self.nodes.len());
        let results = types.into_iter().enumerate().map(|(i, ty)| {
            let value = ValueId::new(self.values.len() + i);
            (value, Value { ty, def: Def::Result(node, i), name: None })
        });
        let (results, values): (Vec<_>, Vec<_>) = results.unzip();
        self.values.extend(values);
        self.nodes.push(Node { op, operands, results });
        self.order.push(node);
        node
    }

    /// Parameters in order.
    pub fn params(&self) -> &[Param] {
        &self.params
    }

    /// Ids of the nodes in execution order.
    pub fn order(&self) -> &[NodeId] {
        &self.order
    }

    /// Nodes in execution order.
    pub fn nodes(&self) -> impl DoubleEndedIterator<Item = (NodeId, &Node)> {
        self.order.iter().map(|&id| (id, &self.nodes[id.index()]))
    }

    /// A node.
    pub fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id.index()]
    }

    /// A node, to change its op or operands; `verify` judges the outcome.
    pub fn node_mut(&mut self, id: NodeId) -> &mut Node {
        &mut self.nodes[id.index()]
    }

    /// A value.
    pub fn value(&self, id: ValueId) -> &Value {
        &self.values[id.index()]
    }

    /// A value, to change its type or name.
    pub fn value_mut(&mut self, id: ValueId) -> &mut Value {
        &mut self.values[id.index()]
    }

    /// The type of a value.
    pub fn ty(&self, id: ValueId) -> &Type {
        &self.values[id.index()].ty
    }

    /// Size of the value arena: every `ValueId` index is below it.
    pub fn value_count(&self) -> usize {
        self.values.len()
    }

    /// Size of the node arena: every `NodeId` index is below it.
    pub fn node_count(&self) -> usize {
        self.nodes.len()
    }

    /// The node that defines a value, unless it is a parameter.
    pub fn producer(&self, value: ValueId) -> Option<(NodeId, &Node)> {
        match self.value(value).def {
            Def::Result(node, _) => Some((node, self.node(node))),
            Def::Param(_) => None,
        }
    }

    /// Replaces the execution order; nodes left out are dead until [`Graph::compact`].
    pub fn set_order(&mut self, order: Vec<NodeId>) {
        self.order = order;
    }

    /// Every use of `old`, as operand or result, becomes a use of `new`.
    pub fn replace_uses(&mut self, old: ValueId, new: ValueId) {
        let swap = |v: &mut ValueId| {
            if *v == old {
                *v = new;
            }
        };
        self.nodes.iter_mut().flat_map(|n| &mut n.operands).for_each(swap);
        self.results.iter_mut().for_each(swap);
    }

    /// How often each value is used by ordered nodes and as a result; indexed by `ValueId`.
    pub fn use_counts(&self) -> Vec<u32> {
        let mut counts = vec![0; self.values.len()];
        let operands = self.nodes().flat_map(|(_, n)| &n.operands);
        for value in operands.chain(&self.results) {
            counts[value.index()] += 1;
        }
        counts
    }

    /// Which values are compile-time constants: functions of weights and constants only, whatever
    /// the step. Indexed by `ValueId`.
    pub fn compile_time_constants(&self) -> Vec<bool> {
        let mut cc = vec![false; self.values.len()];
        for (_, node) in self.nodes() {
            let leaf = matches!(node.op, Op::Weight { .. } | Op::Const(_));
            // Dynamic rope looks at C + T.
            let steady = !matches!(&node.op, Op::Rope(spec) if spec.is_dynamic());
            let computed = node.op.info().pure
                && steady
                && !node.operands.is_empty()
                && node.operands.iter().all(|v| cc[v.index()]);
            for &result in &node.results {
                let sized = self.ty(result).as_tensor().is_some_and(|t| t.const_shape().is_some());
                cc[result.index()] = (leaf || computed) && sized;
            }
        }
        cc
    }

    /// The same graph with arenas that hold just what the order holds, renumbered in order. Names
    /// stay.
    #[must_use]
    pub fn compact(&self) -> Graph {
        let mut out = Graph::new(self.name.clone());
        let mut new_id: Vec<Option<ValueId>> = vec![None; self.values.len()];
        for param in &self.params {
            let value = self.value(param.value);
            new_id[param.value.index()] =
                Some(out.add_param(param.kind, value.ty.clone(), value.name.clone()));
        }
        let lookup = |new_id: &[Option<ValueId>], v: &ValueId| {
            new_id[v.index()].expect("defined before use: the graph verifies")
        };
        for (_, node) in self.nodes() {
            let operands = node.operands.iter().map(|v| lookup(&new_id, v)).collect();
            let types = node.results.iter().map(|&v| self.ty(v).clone()).collect();
            let id = out.add_node(node.op.clone(), operands, types);
            for (i, &old) in node.results.iter().enumerate() {
                let new = out.node(id).results[i];
                out.value_mut(new).name = self.value(old).name.clone();
                new_id[old.index()] = Some(new);
            }
        }
        out.results = self.results.iter().map(|v| lookup(&new_id, v)).collect();
        out
    }
}
