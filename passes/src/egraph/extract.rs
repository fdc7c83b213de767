//! An e-graph under a cost model, as an extraction problem, and its solution as terms.
//!
//! Every e-class is a class of the problem. A compile-time constant that the run-time graph reads must
//! be kept in memory, so it has a second class, *stored*: either it is kept as it is computed, at the
//! model's price of keeping it, or it is a view of another stored constant. Run-time terms read stored
//! constants, constant terms read computed ones. What a target cannot execute costs more than all the
//! rest together, so it is taken only where nothing else computes the value.
//! Does not search: that is `crate::extract`.

use std::collections::BTreeMap;

use egg::Id;
use ir::Type;

use super::facts::{EGraph, Fact};
use super::language::{Head, Term, decode};
use crate::cost::{Call, Operand};
use crate::extract::{self, Limits, Node};
use crate::{Cost, CostModel};

/// A way to come by a class of the problem.
struct Way {
    /// The term; `None` keeps what the operand computes.
    term: Option<Term>,
    cost: Cost,
    operands: Vec<usize>,
}

/// Where an e-class is in the problem.
#[derive(Clone, Copy)]
struct Place {
    computed: usize,
    /// Constants only.
    stored: Option<usize>,
}

/// The extraction problem of one e-graph.
pub(crate) struct Problem {
    ways: Vec<Vec<Way>>,
    places: BTreeMap<Id, Place>,
    search: extract::Problem,
    /// Costs of the search are those of the model shifted right by this.
    shift: u32,
}

/// The chosen term of each class.
pub(crate) struct Choice {
    terms: Vec<Option<(Option<Term>, Vec<usize>)>>,
    places: BTreeMap<Id, Place>,
}

/// A choice and what is known of it.
pub(crate) struct Solved {
    pub(crate) choice: Choice,
    pub(crate) cost: Cost,
    /// No choice costs less.
    pub(crate) bound: Cost,
}

impl Choice {
    /// Number of classes.
    pub(crate) fn len(&self) -> usize {
        self.terms.len()
    }

    /// Where the run-time graph finds the value of a canonical e-class.
    pub(crate) fn position(&self, class: Id) -> Option<usize> {
        self.places.get(&class).map(|p| p.stored.unwrap_or(p.computed))
    }

    /// The term chosen at a position and the positions of its operands; `None` for the term when it is
    /// the operand itself.
    pub(crate) fn term(&self, position: usize) -> Option<(Option<&Term>, &[usize])> {
        let (term, operands) = self.terms[position].as_ref()?;
        Some((term.as_ref(), operands))
    }
}

impl Problem {
    /// Collects what the roots can reach and prices it.
    pub(crate) fn new(egraph: &EGraph, roots: &[Id], model: &dyn CostModel) -> Problem {
        let (order, places) = reachable(egraph, roots);
        let mut ways: Vec<Vec<Way>> = Vec::new();
        for &id in &order {
            ways.push(computed(egraph, id, &places, model));
        }
        for &id in order.iter().filter(|id| places[id].stored.is_some()) {
            ways.push(stored(egraph, id, &places, model));
        }
        let wanted = |&root: &Id| {
            let place = places[&egraph.find(root)];
            place.stored.unwrap_or(place.computed)
        };
        let roots = roots.iter().map(wanted).collect();
        let (classes, shift) = as_search(&ways);
        Problem { ways, places, search: extract::Problem { classes, roots }, shift }
    }

    /// Cost of the graph as it was written, before any rule.
    pub(crate) fn original_cost(&self) -> Cost {
        let written = self.written();
        let needed = self.search.needed(|c| Some(written[c]));
        needed.map_or(Cost::INFINITE, |n| self.cost(&n))
    }

    /// The cheapest choice, as far as the limits allow. `None` when there is none: every term of some
    /// class needs the class itself.
    pub(crate) fn solve(&self, limits: Limits) -> Option<Solved> {
        let found = self.search.solve_from(limits, Some(&self.written()))?;
        let cost = self.cost(&self.search.needed(|c| found.picks[c])?);
        let bound = if found.is_optimal() { cost } else { Cost::new(found.bound << self.shift) };
        Some(Solved { choice: self.choice(|c| found.picks[c]), cost, bound: bound.min(cost) })
    }

    /// Every way to compute every class, each within the cheapest trees, without cycles: what trials of
    /// rules compare.
    pub(crate) fn alternatives(&self) -> Vec<Choice> {
        let base = self.search.trees();
        let mut all = Vec::new();
        for class in 0..self.ways.len() {
            for pick in 0..self.ways[class].len() {
                let mut picks = base.clone();
                picks[class] = pick;
                if self.search.cost(|c| Some(picks[c])).is_some() {
                    all.push(self.choice(|c| Some(picks[c])));
                }
            }
        }
        all
    }

    fn cost(&self, needed: &[(usize, usize)]) -> Cost {
        needed.iter().map(|&(class, way)| self.ways[class][way].cost).sum()
    }

    fn choice(&self, pick: impl Fn(usize) -> Option<usize>) -> Choice {
        let way = |class: usize| {
            let way = self.ways[class].get(pick(class)?)?;
            Some((way.term.clone(), way.operands.clone()))
        };
        Choice { terms: (0..self.ways.len()).map(way).collect(), places: self.places.clone() }
    }

    /// The way each class was written; the best tree for classes that rules made.
    fn written(&self) -> Vec<usize> {
        let mut picks = self.search.trees();
        for (pick, ways) in picks.iter_mut().zip(&self.ways) {
            let as_written = |w: &Way| w.term.as_ref().is_some_and(|t| t.origin.is_none());
            if let Some(written) = ways.iter().position(as_written) {
                *pick = written;
            }
        }
        picks
    }
}

/// The e-classes of values that roots can reach, and their places.
fn reachable(egraph: &EGraph, roots: &[Id]) -> (Vec<Id>, BTreeMap<Id, Place>) {
    let mut order: Vec<Id> = Vec::new();
    let mut places = BTreeMap::new();
    let mut stack: Vec<Id> = roots.iter().map(|&r| egraph.find(r)).rev().collect();
    while let Some(id) = stack.pop() {
        if places.contains_key(&id) {
            continue;
        }
        places.insert(id, Place { computed: order.len(), stored: None });
        order.push(id);
        for term in &egraph[id].nodes {
            let children = term.children.iter().map(|&c| egraph.find(c));
            stack.extend(children.filter(|&c| value(egraph, c).is_some()));
        }
    }
    let mut next = order.len();
    for id in &order {
        if let (Some((_, true)), Some(place)) = (value(egraph, *id), places.get_mut(id)) {
            place.stored = Some(next);
            next += 1;
        }
    }
    (order, places)
}

fn value(egraph: &EGraph, id: Id) -> Option<(&Type, bool)> {
    match &egraph[id].data {
        Fact::Value { ty, cc, .. } => Some((ty, *cc)),
        Fact::Attr(_) => None,
    }
}

/// The terms of an e-class; of a constant only those that are computed from constants.
fn computed(
    egraph: &EGraph,
    id: Id,
    places: &BTreeMap<Id, Place>,
    model: &dyn CostModel,
) -> Vec<Way> {
    let terms = egraph[id].nodes.iter();
    terms.filter_map(|term| price(egraph, id, term, places, model)).collect()
}

fn price(
    egraph: &EGraph,
    id: Id,
    term: &Term,
    places: &BTreeMap<Id, Place>,
    model: &dyn CostModel,
) -> Option<Way> {
    let (result, cc) = value(egraph, id)?;
    if let Head::Given(_) = term.head {
        let way = Way { term: Some(term.clone()), cost: Cost::ZERO, operands: Vec::new() };
        return (!cc).then_some(way);
    }
    let (mut operands, mut types, mut attrs) = (Vec::new(), Vec::new(), Vec::new());
    for &child in &term.children {
        let child = egraph.find(child);
        match &egraph[child].data {
            Fact::Attr(attr) => attrs.push(attr),
            Fact::Value { cc: false, .. } if cc => return None,
            Fact::Value { ty, cc: child_cc, .. } => {
                let place = places[&child];
                let stored = place.stored.filter(|_| !cc);
                operands.push(stored.unwrap_or(place.computed));
                types.push(Operand { ty, cc: *child_cc });
            }
        }
    }
    let op = decode(&term.head, &attrs)?;
    let cost = model.op(&Call { op: &op, operands: &types, result, cc });
    Some(Way { term: Some(term.clone()), cost, operands })
}

/// The ways to keep a constant: as it is computed, or as a view of another that is kept.
fn stored(
    egraph: &EGraph,
    id: Id,
    places: &BTreeMap<Id, Place>,
    model: &dyn CostModel,
) -> Vec<Way> {
    let place = places[&id];
    let kept = value(egraph, id).and_then(|(ty, _)| ty.as_tensor());
    let kept = kept.map_or(Cost::ZERO, |ty| model.resident(ty));
    let mut ways = vec![Way { term: None, cost: kept, operands: vec![place.computed] }];
    for term in egraph[id].nodes.iter().filter(|t| t.is("reshape") || t.is("transpose")) {
        let Some(mut way) = price(egraph, id, term, places, model) else { continue };
        let base = places[&egraph.find(term.children[0])];
        way.operands = base.stored.into_iter().collect();
        ways.push(way);
    }
    ways
}

/// The same for the search: infinite costs become finite ones above the sum of all others.
fn as_search(ways: &[Vec<Way>]) -> (Vec<Vec<Node>>, u32) {
    let all = || ways.iter().flatten().map(|w| w.cost);
    let finite: u128 = all().filter(|&c| c < Cost::INFINITE).map(|c| u128::from(c.units())).sum();
    let infinite = all().filter(|&c| c == Cost::INFINITE).count() as u128;
    let most = u128::from(extract::Problem::MAX_COST) - 1;
    let fits = |shift: &u32| ((finite >> shift) + 1) * (infinite + 1) <= most;
    let shift = (0..u64::BITS).find(fits).unwrap_or(u64::BITS - 1);
    // Not above `most`, which is below 2^62.
    let above_all = u64::try_from((finite >> shift) + 1).unwrap_or(u64::MAX);
    let node = |way: &Way| {
        let infinite = way.cost == Cost::INFINITE;
        let cost = if infinite { above_all } else { way.cost.units() >> shift };
        Node { cost, operands: way.operands.clone() }
    };
    (ways.iter().map(|ways| ways.iter().map(node).collect()).collect(), shift)
}
