//! Into the e-graph and back: pure nodes become terms, state stays outside.
//!
//! The *skeleton* of a graph is what is not pure: parameters, cache appends and reads, repeats. Its
//! values are leaves of the e-graph, its operands are what must be extracted. Skeleton nodes keep
//! their order, so a cache is read and appended to exactly as before.

use egg::Id;
use ir::{Graph, NodeId, ValueId};

use super::extract::Choice;
use super::facts::{EGraph, Fact, Facts};
use super::language::{Attr, Head, Term, decode, encode};
use crate::PassError;
use crate::emit::Emit;

/// A graph inside an e-graph.
pub(crate) struct Loaded {
    pub(crate) egraph: EGraph,
    /// The class of each value, by `ValueId`; `None` for values of dead nodes.
    classes: Vec<Option<Id>>,
    /// What is read from outside the e-graph: operands of the skeleton, results.
    pub(crate) roots: Vec<Id>,
}

/// Loads a graph.
pub(crate) fn load(graph: &Graph) -> Result<Loaded, PassError> {
    let values = (0..graph.value_count()).map(ValueId::new);
    let given = values.map(|v| graph.ty(v).clone()).collect();
    let mut egraph = EGraph::new(Facts { given, ..Facts::default() });
    let mut classes: Vec<Option<Id>> = vec![None; graph.value_count()];
    for param in graph.params() {
        let leaf = Term::new(Head::Given(param.value), Vec::new());
        classes[param.value.index()] = Some(egraph.add(leaf));
    }
    let mut roots = Vec::new();
    for (_, node) in graph.nodes() {
        let operands = node.operands.iter().map(|&v| class_of(&classes, v));
        let mut children = operands.collect::<Result<Vec<_>, _>>()?;
        if node.op.info().pure {
            let (head, attrs) = encode(&node.op);
            children.extend(attrs.into_iter().map(|a| egraph.add(Term::attr(a))));
            classes[node.results[0].index()] = Some(egraph.add(Term::new(head, children)));
        } else {
            roots.extend(children);
            for &result in &node.results {
                let leaf = Term::new(Head::Given(result), Vec::new());
                classes[result.index()] = Some(egraph.add(leaf));
            }
        }
    }
    for &result in &graph.results {
        roots.push(class_of(&classes, result)?);
    }
    egraph.rebuild();
    Ok(Loaded { egraph, classes, roots })
}

fn class_of(classes: &[Option<Id>], value: ValueId) -> Result<Id, PassError> {
    classes[value.index()]
        .ok_or_else(|| PassError::internal(format!("{value} is used before it is defined")))
}

/// A node of the rebuilt graph that a rule wrote.
#[derive(Clone)]
pub(crate) struct Written {
    pub(crate) rule: &'static str,
    pub(crate) node: NodeId,
}

/// Rebuilds the graph from chosen terms. Second result: which nodes are the work of rules.
pub(crate) fn rebuild(
    graph: &Graph,
    loaded: &Loaded,
    choice: &Choice,
) -> Result<(Graph, Vec<Written>), PassError> {
    let mut out = Rebuilder {
        loaded,
        choice,
        emit: Emit::new(&graph.name),
        done: vec![None; choice.len()],
        written: Vec::new(),
    };
    for param in graph.params() {
        let value = graph.value(param.value);
        let added =
            out.emit.graph_mut().add_param(param.kind, value.ty.clone(), value.name.clone());
        out.give(param.value, added)?;
    }
    for (_, node) in graph.nodes() {
        if node.op.info().pure {
            continue;
        }
        let operands: Vec<ValueId> =
            node.operands.iter().map(|&v| out.value(v)).collect::<Result<_, _>>()?;
        let results = out.emit.copy(graph, node, &operands);
        for (&old, &new) in node.results.iter().zip(&results) {
            out.emit.inherit_name(new, graph.value(old));
            out.give(old, new)?;
        }
    }
    let results = graph.results.iter().map(|&v| out.value(v)).collect::<Result<Vec<_>, _>>()?;
    out.emit.graph_mut().results = results;
    out.inherit_names(graph);
    Ok((out.emit.graph().clone(), out.written))
}

struct Rebuilder<'a> {
    loaded: &'a Loaded,
    choice: &'a Choice,
    emit: Emit,
    /// The new value of each class, by position in the choice.
    done: Vec<Option<ValueId>>,
    written: Vec<Written>,
}

impl Rebuilder<'_> {
    fn position(&self, id: Id) -> Result<usize, PassError> {
        let class = self.loaded.egraph.find(id);
        self.choice
            .position(class)
            .ok_or_else(|| PassError::internal(format!("class {class} was not extracted")))
    }

    /// A skeleton value is there now.
    fn give(&mut self, old: ValueId, new: ValueId) -> Result<(), PassError> {
        let class = class_of(&self.loaded.classes, old)?;
        // A skeleton value that nothing needs has no place in the choice.
        if let Some(position) = self.choice.position(self.loaded.egraph.find(class)) {
            self.done[position] = Some(new);
        }
        Ok(())
    }

    /// The new value of an old one, with all that it needs. A stack, not recursion: graphs are deep.
    fn value(&mut self, old: ValueId) -> Result<ValueId, PassError> {
        let root = self.position(class_of(&self.loaded.classes, old)?)?;
        let mut stack = vec![root];
        while let Some(&top) = stack.last() {
            if self.done[top].is_some() {
                stack.pop();
                continue;
            }
            let (term, operands) = self
                .choice
                .term(top)
                .ok_or_else(|| PassError::internal("a needed value was not extracted"))?;
            // The first one missing; operands are computed left to right.
            match operands.iter().find(|&&p| self.done[p].is_none()) {
                None => {
                    self.done[top] = match term {
                        Some(term) => Some(self.emit_term(term, operands)?),
                        None => operands.first().and_then(|&p| self.done[p]),
                    };
                    stack.pop();
                }
                Some(_) if stack.len() > self.choice.len() => {
                    return Err(PassError::internal("the extracted terms form a cycle"));
                }
                Some(&missing) => stack.push(missing),
            }
        }
        self.done[root].ok_or_else(|| PassError::internal("an extracted value was not rebuilt"))
    }

    fn emit_term(&mut self, term: &Term, operands: &[usize]) -> Result<ValueId, PassError> {
        let egraph = &self.loaded.egraph;
        let attr = |&child: &Id| match &egraph[child].data {
            Fact::Attr(attr) => Some(attr),
            Fact::Value { .. } => None,
        };
        let attrs: Vec<&Attr> = term.children.iter().filter_map(attr).collect();
        let op = decode(&term.head, &attrs).ok_or_else(|| {
            PassError::internal(format!("{term} is used before its skeleton node"))
        })?;
        let operands: Vec<ValueId> = operands.iter().filter_map(|&p| self.done[p]).collect();
        let value = self.emit.apply(op, &operands)?;
        if let (Some(rule), ir::Def::Result(node, _)) =
            (term.origin, self.emit.graph().value(value).def)
        {
            self.written.push(Written { rule, node });
        }
        Ok(value)
    }

    /// Values that survive keep their names.
    fn inherit_names(&mut self, graph: &Graph) {
        for (_, node) in graph.nodes().filter(|(_, n)| n.op.info().pure) {
            let old = node.results[0];
            let class = self.loaded.classes[old.index()].map(|c| self.loaded.egraph.find(c));
            let position = class.and_then(|c| self.choice.position(c));
            if let Some(new) = position.and_then(|p| self.done[p]) {
                self.emit.inherit_name(new, graph.value(old));
            }
        }
    }
}
