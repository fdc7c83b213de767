//! Rebuilding a graph node by node: the way every pass of this crate edits graphs.
//!
//! A pass walks the old graph in execution order and emits what it wants into a new one, so the new
//! graph is defined before use by construction. [`Emit`] keeps one copy of each pure expression:
//! emitting what is there already returns the value that is there.

use std::collections::BTreeMap;

use ir::{Graph, Node, Op, Type, ValueId, infer};

use crate::PassError;

/// A graph under construction.
pub(crate) struct Emit {
    graph: Graph,
    seen: BTreeMap<(Op, Vec<ValueId>), ValueId>,
}

impl Emit {
    /// An empty graph of this name.
    pub(crate) fn new(name: &str) -> Self {
        Emit { graph: Graph::new(name), seen: BTreeMap::new() }
    }

    /// The graph so far.
    pub(crate) fn graph(&self) -> &Graph {
        &self.graph
    }

    /// The graph so far, for parameters and results.
    pub(crate) fn graph_mut(&mut self) -> &mut Graph {
        &mut self.graph
    }

    /// Type of a value.
    pub(crate) fn ty(&self, value: ValueId) -> &Type {
        self.graph.ty(value)
    }

    /// The op and operands that define a value, unless it is a parameter.
    pub(crate) fn def(&self, value: ValueId) -> Option<&Node> {
        self.graph.producer(value).map(|(_, node)| node)
    }

    /// Applies an op of one result.
    pub(crate) fn apply(&mut self, op: Op, operands: &[ValueId]) -> Result<ValueId, PassError> {
        let pure = op.info().pure;
        let key = (op, operands.to_vec());
        if let Some(&value) = self.seen.get(&key).filter(|_| pure) {
            return Ok(value);
        }
        let types: Vec<Type> = operands.iter().map(|&v| self.graph.ty(v).clone()).collect();
        let ty = infer(&key.0, &types).map_err(|e| PassError::internal(e.to_string()))?;
        let node = self.graph.add_node(key.0.clone(), key.1.clone(), vec![ty]);
        let value = self.graph.node(node).results[0];
        if pure {
            self.seen.insert(key, value);
        }
        Ok(value)
    }

    /// Copies a node as it is, with other operands. Types stay those of the old graph.
    pub(crate) fn copy(&mut self, old: &Graph, node: &Node, operands: &[ValueId]) -> Vec<ValueId> {
        let key = (node.op.clone(), operands.to_vec());
        let pure = node.op.info().pure;
        if let Some(&value) = self.seen.get(&key).filter(|_| pure) {
            return vec![value];
        }
        let types = node.results.iter().map(|&v| old.ty(v).clone()).collect();
        let id = self.graph.add_node(key.0.clone(), key.1.clone(), types);
        let results = self.graph.node(id).results.clone();
        if pure {
            self.seen.insert(key, results[0]);
        }
        results
    }

    /// Gives a value the name an old one has, unless it has one.
    pub(crate) fn inherit_name(&mut self, new: ValueId, old: &ir::Value) {
        let value = self.graph.value_mut(new);
        if value.name.is_none() {
            value.name.clone_from(&old.name);
        }
    }
}

/// Rebuilds a graph: `visit` gets each node and its operands in the new graph, and returns its
/// results there.
pub(crate) fn rebuild(
    old: &Graph,
    mut visit: impl FnMut(&mut Emit, &Node, &[ValueId]) -> Result<Vec<ValueId>, PassError>,
) -> Result<Graph, PassError> {
    let mut emit = Emit::new(&old.name);
    let mut new_id = vec![None; old.value_count()];
    for param in old.params() {
        let value = old.value(param.value);
        let added = emit.graph.add_param(param.kind, value.ty.clone(), value.name.clone());
        new_id[param.value.index()] = Some(added);
    }
    let find = |new_id: &[Option<ValueId>], v: &ValueId| {
        new_id[v.index()]
            .ok_or_else(|| PassError::internal(format!("{v} is used before it is defined")))
    };
    for (_, node) in old.nodes() {
        let operands: Vec<_> =
            node.operands.iter().map(|v| find(&new_id, v)).collect::<Result<_, _>>()?;
        let results = visit(&mut emit, node, &operands)?;
        for (&from, &to) in node.results.iter().zip(&results) {
            new_id[from.index()] = Some(to);
            emit.inherit_name(to, old.value(from));
        }
    }
    emit.graph.results = old.results.iter().map(|v| find(&new_id, v)).collect::<Result<_, _>>()?;
    Ok(emit.graph)
}
