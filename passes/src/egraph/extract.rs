//! Extraction: one term per class, so that the whole graph is as cheap as can be found.
//!
//! egg's extractors count a shared node once per use; here a node is paid once, and a compile-time
//! constant is charged for storage once however often it is read. Method: start from the graph as
//! it was written and from the best trees, improve each by local search, keep the cheaper. Two kinds
//! of move: another term for one class; and, for merged products, all classes that can read class m
//! do so at once (each alone would pay for m on top). A choice is only ever replaced by a cheaper one
//! without cycles, so the result is never dearer than the input. Deterministic; bounded by sweeps.

use std::collections::BTreeMap;

use egg::Id;
use ir::Type;

use super::facts::{EGraph, Fact};
use super::language::{Head, Term, decode};
use crate::cost::{Call, Operand};
use crate::{Cost, CostModel};

/// Sweeps of local search; each but the last makes the graph cheaper. Blocks need three or four.
const SWEEPS: usize = 24;

/// Most e-classes looked at in one local search, all attempts together: a second or so of work. Blocks
/// need a hundredth of it; only huge flat graphs are cut short.
const VISITS: usize = 400_000_000;

/// Cost that does not saturate: of two graphs that a target cannot execute as they are, the one with
/// fewer infinitely dear nodes is the better one.
type Units = u128;

fn units(cost: Cost) -> Units {
    Units::from(cost.units())
}

fn as_cost(units: Units) -> Cost {
    u64::try_from(units).map_or(Cost::INFINITE, Cost::new)
}

/// A way to compute a class.
struct Candidate {
    term: Term,
    /// Positions of the operands' classes.
    operands: Vec<usize>,
    cost: Units,
    /// Whether reading its result means reading its operand: reshape and transpose.
    view: bool,
}

/// A class that roots can reach.
struct Class {
    candidates: Vec<Candidate>,
    cc: bool,
    /// What it costs to keep, when it is a constant that the run-time graph reads.
    resident: Units,
}

/// The extraction problem of one e-graph.
pub(crate) struct Problem {
    classes: Vec<Class>,
    positions: BTreeMap<Id, usize>,
    roots: Vec<usize>,
    /// Classes that can read a class directly, with the candidate that does.
    readers: Vec<Vec<(usize, usize)>>,
}

/// The chosen term of each class.
pub(crate) struct Choice {
    terms: Vec<Term>,
    positions: BTreeMap<Id, usize>,
}

impl Choice {
    /// Number of classes.
    pub(crate) fn len(&self) -> usize {
        self.terms.len()
    }

    /// Position of a canonical class.
    pub(crate) fn position(&self, class: Id) -> Option<usize> {
        self.positions.get(&class).copied()
    }

    /// The term chosen for the class at a position.
    pub(crate) fn term(&self, position: usize) -> &Term {
        &self.terms[position]
    }
}

impl Problem {
    /// Collects what the roots can reach and prices it.
    pub(crate) fn new(egraph: &EGraph, roots: &[Id], model: &dyn CostModel) -> Problem {
        let mut order: Vec<Id> = Vec::new();
        let mut positions = BTreeMap::new();
        let mut stack: Vec<Id> = roots.iter().map(|&r| egraph.find(r)).rev().collect();
        while let Some(id) = stack.pop() {
            if positions.contains_key(&id) {
                continue;
            }
            positions.insert(id, order.len());
            order.push(id);
            for term in &egraph[id].nodes {
                let children = term.children.iter().map(|&c| egraph.find(c));
                stack.extend(children.filter(|&c| value(egraph, c).is_some()));
            }
        }
        let class = |&id: &Id| price_class(egraph, id, &positions, model);
        let classes: Vec<Class> = order.iter().map(class).collect();
        let mut readers = vec![Vec::new(); classes.len()];
        for (reader, class) in classes.iter().enumerate() {
            for (i, candidate) in class.candidates.iter().enumerate() {
                for &operand in &candidate.operands {
                    readers[operand].push((reader, i));
                }
            }
        }
        let roots = roots.iter().map(|&r| positions[&egraph.find(r)]).collect();
        Problem { classes, positions, roots, readers }
    }

    /// Cost of the graph as it was written, before any rule.
    pub(crate) fn original_cost(&self) -> Cost {
        self.cost(&self.original()).map_or(Cost::INFINITE, as_cost)
    }

    /// The cheapest choice found, and its cost.
    pub(crate) fn solve(&self) -> (Choice, Cost) {
        let starts = [self.best_trees(), self.original()];
        let improved = starts.into_iter().map(|start| self.improve(start));
        let (picks, cost) = improved.min_by_key(|(_, cost)| *cost).expect("two starts");
        (self.choice(&picks), as_cost(cost))
    }

    /// Every way to compute every class, each within the cheapest trees, without cycles: what tests
    /// compare.
    #[cfg(test)]
    pub(crate) fn alternatives(&self) -> Vec<Choice> {
        let base = self.best_trees();
        let mut all = Vec::new();
        for class in 0..self.classes.len() {
            for pick in 0..self.classes[class].candidates.len() {
                let mut picks = base.clone();
                picks[class] = pick;
                if self.cost(&picks).is_some() {
                    all.push(self.choice(&picks));
                }
            }
        }
        all
    }

    fn choice(&self, picks: &[usize]) -> Choice {
        let terms = picks.iter().zip(&self.classes);
        let terms = terms.map(|(&pick, class)| class.candidates[pick].term.clone()).collect();
        Choice { terms, positions: self.positions.clone() }
    }

    /// The term each class was written with; for classes that rules made, the best tree.
    fn original(&self) -> Vec<usize> {
        let mut picks = self.best_trees();
        for (pick, class) in picks.iter_mut().zip(&self.classes) {
            if let Some(written) = class.candidates.iter().position(|c| c.term.origin.is_none()) {
                *pick = written;
            }
        }
        picks
    }

    /// Cheapest term per class when nothing is shared: fast, and free of cycles.
    fn best_trees(&self) -> Vec<usize> {
        let mut best: Vec<Option<(u128, usize)>> = vec![None; self.classes.len()];
        loop {
            let mut changed = false;
            for (i, class) in self.classes.iter().enumerate() {
                for (pick, candidate) in class.candidates.iter().enumerate() {
                    let operands = candidate.operands.iter().map(|&o| best[o].map(|b| b.0));
                    let Some(operands) = operands.collect::<Option<Vec<u128>>>() else { continue };
                    // One more than it costs: free nodes must not lead in circles.
                    let own = candidate.cost + 1 + self.stored_for(class, candidate);
                    let total = operands.into_iter().fold(own, u128::saturating_add);
                    if best[i].is_none_or(|(cost, _)| total < cost) {
                        best[i] = Some((total, pick));
                        changed = true;
                    }
                }
            }
            if !changed {
                return best.into_iter().map(|b| b.map_or(0, |b| b.1)).collect();
            }
        }
    }

    /// What the constants that a run-time candidate reads cost to keep, were it their only reader.
    fn stored_for(&self, class: &Class, candidate: &Candidate) -> Units {
        let read = candidate.operands.iter().filter(|_| !class.cc).map(|&o| &self.classes[o]);
        read.filter(|c| c.cc).map(|c| c.resident).sum()
    }

    fn improve(&self, mut picks: Vec<usize>) -> (Vec<usize>, Units) {
        let mut cost = self.cost(&picks).unwrap_or(Units::MAX);
        let mut attempts = VISITS / self.classes.len().max(1);
        for _ in 0..SWEEPS {
            let before = cost;
            for class in 0..self.classes.len() {
                attempts = attempts.saturating_sub(self.classes[class].candidates.len());
                if attempts == 0 {
                    return (picks, cost);
                }
                for pick in 0..self.classes[class].candidates.len() {
                    self.attempt(&mut picks, &mut cost, &[(class, pick)]);
                }
                if self.readers[class].len() > 1 {
                    self.attempt(&mut picks, &mut cost, &self.readers[class]);
                }
            }
            if cost == before {
                break;
            }
        }
        (picks, cost)
    }

    /// Makes a move if it pays. The first candidate named for a class counts.
    fn attempt(&self, picks: &mut [usize], cost: &mut Units, moves: &[(usize, usize)]) {
        let mut undo = Vec::with_capacity(moves.len());
        for &(class, pick) in moves {
            if picks[class] != pick && !undo.iter().any(|(c, _)| *c == class) {
                undo.push((class, picks[class]));
                picks[class] = pick;
            }
        }
        if undo.is_empty() {
            return;
        }
        match self.cost(picks) {
            Some(new) if new < *cost => *cost = new,
            _ => undo.into_iter().for_each(|(class, pick)| picks[class] = pick),
        }
    }

    /// What the graph of these picks costs; `None` when it has a cycle.
    fn cost(&self, picks: &[usize]) -> Option<Units> {
        #[derive(Clone, Copy, PartialEq)]
        enum Mark {
            New,
            Open,
            Done,
        }
        let mut marks = vec![Mark::New; self.classes.len()];
        let mut stored = vec![false; self.classes.len()];
        let mut total: Units = 0;
        let mut stack: Vec<(usize, usize)> = Vec::new();
        for &root in &self.roots {
            self.store(root, picks, &mut stored);
            if marks[root] == Mark::New {
                marks[root] = Mark::Open;
                stack.push((root, 0));
            }
            while let Some((class, next)) = stack.pop() {
                let candidate = &self.classes[class].candidates[picks[class]];
                let Some(&operand) = candidate.operands.get(next) else {
                    marks[class] = Mark::Done;
                    total += candidate.cost;
                    continue;
                };
                stack.push((class, next + 1));
                if !self.classes[class].cc {
                    self.store(operand, picks, &mut stored);
                }
                match marks[operand] {
                    Mark::Open => return None,
                    Mark::Done => {}
                    Mark::New => {
                        marks[operand] = Mark::Open;
                        stack.push((operand, 0));
                    }
                }
            }
        }
        let kept = stored.iter().zip(&self.classes).filter(|(s, _)| **s);
        Some(total + kept.map(|(_, class)| class.resident).sum::<Units>())
    }

    /// Notes that the run-time graph reads a class: a constant behind views is stored.
    fn store(&self, mut class: usize, picks: &[usize], stored: &mut [bool]) {
        if !self.classes[class].cc {
            return;
        }
        // As many steps as there are classes: picks may hold a cycle that `cost` is yet to find.
        for _ in 0..self.classes.len() {
            let candidate = &self.classes[class].candidates[picks[class]];
            if !candidate.view {
                break;
            }
            class = candidate.operands[0];
        }
        stored[class] = true;
    }
}

fn value(egraph: &EGraph, id: Id) -> Option<(&Type, bool)> {
    match &egraph[id].data {
        Fact::Value { ty, cc, .. } => Some((ty, *cc)),
        Fact::Attr(_) => None,
    }
}

fn price_class(
    egraph: &EGraph,
    id: Id,
    positions: &BTreeMap<Id, usize>,
    model: &dyn CostModel,
) -> Class {
    let (ty, cc) = value(egraph, id).expect("only classes of values are reached");
    let priced = egraph[id].nodes.iter().filter_map(|term| {
        let candidate = price(egraph, term, (ty, cc), positions, model)?;
        // A constant is computed from constants only, although something else may equal it.
        let from_cc = term.children.iter().filter_map(|&c| value(egraph, c)).all(|(_, cc)| cc);
        let leaf = matches!(term.head, Head::Given(_));
        (!cc || (from_cc && !leaf)).then_some(candidate)
    });
    let resident = ty.as_tensor().filter(|_| cc).map_or(0, |t| units(model.resident(t)));
    Class { candidates: priced.collect(), cc, resident }
}

fn price(
    egraph: &EGraph,
    term: &Term,
    (result, cc): (&Type, bool),
    positions: &BTreeMap<Id, usize>,
    model: &dyn CostModel,
) -> Option<Candidate> {
    let children: Vec<Id> = term.children.iter().map(|&c| egraph.find(c)).collect();
    let values: Vec<Id> =
        children.iter().copied().filter(|&c| value(egraph, c).is_some()).collect();
    let operands = values.iter().map(|c| positions[c]).collect();
    if let Head::Given(_) = term.head {
        return Some(Candidate { term: term.clone(), operands, cost: 0, view: false });
    }
    let attrs: Vec<_> = children
        .iter()
        .filter_map(|&c| match &egraph[c].data {
            Fact::Attr(attr) => Some(attr),
            Fact::Value { .. } => None,
        })
        .collect();
    let op = decode(&term.head, &attrs)?;
    let types = values.iter().filter_map(|&c| value(egraph, c));
    let types: Vec<Operand<'_>> = types.map(|(ty, cc)| Operand { ty, cc }).collect();
    let cost = units(model.op(&Call { op: &op, operands: &types, result, cc }));
    let view = matches!(op, ir::Op::Reshape(_) | ir::Op::Transpose(_));
    Some(Candidate { term: term.clone(), operands, cost, view })
}
