//! The steps of a proof, one after the other: what each brings.
//!
//! A fresh e-graph of the graph learns the equations of the proof in order; after each the cheapest graph is
//! extracted. So the cost after a step is that of the best graph which the steps so far allow: it never
//! rises, and stays where a step only prepares others. For people; nothing is decided by it.

use std::collections::BTreeMap;

use egg::{Id, Language};
use ir::Graph;

use super::extract::Problem;
use super::facts::EGraph;
use super::language::Term;
use super::rule::{Equation, Tree};
use super::{Limits, convert};
use crate::{Cost, CostModel, PassError};

/// The cost after each equation.
pub(super) fn costs<'a>(
    graph: &Graph,
    searched: &EGraph,
    equations: impl Iterator<Item = &'a Equation>,
    limits: Limits,
    model: &dyn CostModel,
) -> Result<Vec<Cost>, PassError> {
    let mut loaded = convert::load(graph)?;
    let mut copy = Copy { from: searched, to: &mut loaded.egraph, known: BTreeMap::new() };
    let mut costs = Vec::new();
    for equation in equations {
        let (left, right) = (copy.tree(&equation.left), copy.tree(&equation.right));
        copy.to.union(left, right);
        copy.to.rebuild();
        let problem = Problem::new(copy.to, &loaded.roots, model);
        let solved = problem.solve(crate::extract::Limits { work: limits.work });
        costs.push(solved.map_or(Cost::INFINITE, |s| s.cost));
    }
    Ok(costs)
}

/// Writes terms of one e-graph into another, as they were first written.
struct Copy<'a> {
    from: &'a EGraph,
    to: &'a mut EGraph,
    known: BTreeMap<Id, Id>,
}

impl Copy<'_> {
    /// A stack, not recursion: graphs are deep.
    fn class(&mut self, class: Id) -> Id {
        let mut stack = vec![class];
        while let Some(&top) = stack.last() {
            let term = self.from.id_to_node(top);
            let missing: Vec<Id> =
                term.children.iter().copied().filter(|c| !self.known.contains_key(c)).collect();
            if missing.is_empty() || self.known.contains_key(&top) {
                let term = term.clone().map_children(|c| self.known[&c]);
                let id = self.to.add(term);
                self.known.insert(top, id);
                stack.pop();
            } else {
                stack.extend(missing);
            }
        }
        self.known[&class]
    }

    fn tree(&mut self, tree: &Tree) -> Id {
        match tree {
            Tree::Class(id) => self.class(*id),
            Tree::Term(head, children) => {
                let children = children.iter().map(|c| self.tree(c)).collect();
                self.to.add(Term::new(head.clone(), children))
            }
        }
    }
}
