//! Good choices fast: trees, then every class greedy over its own graph, then local search.
//!
//! Greedy follows faster-greedy-dag of extraction-gym: a class takes the node whose operands' graphs,
//! shared parts once, cost least. Local search keeps reference counts, so that a move is priced by what
//! it starts and stops to need. Two moves: another node for one class; and, for a class that nobody
//! needs yet, all that can read it do so at once (each alone would pay for it). A move is kept when the
//! whole gets cheaper, so the result is never dearer than the start.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::Problem;

/// Passes over all classes; blocks need three or four.
const SWEEPS: usize = 12;
/// The most work of a patient greedy choice: enough for tens of thousands of nodes, so that no limit makes
/// the result dearer than greedy choices.
const PATIENCE: u64 = 200_000_000;

/// Reads a problem with a reverse index, and counts work.
pub(super) struct Primal<'a> {
    problem: &'a Problem,
    /// Per class: the nodes that need it.
    readers: Vec<Vec<(usize, usize)>>,
    pub(super) work: u64,
    work_limit: u64,
    /// Whether greedy choices are finished whatever the limit is.
    pub(super) patient: bool,
    /// Scratch: last visit of each class.
    seen: Vec<u64>,
    visit: u64,
}

/// No node.
const NONE: usize = usize::MAX;

impl<'a> Primal<'a> {
    pub(super) fn new(problem: &'a Problem, work_limit: u64) -> Self {
        let mut readers = vec![Vec::new(); problem.classes.len()];
        for (class, nodes) in problem.classes.iter().enumerate() {
            for (i, node) in nodes.iter().enumerate() {
                for (at, &operand) in node.operands.iter().enumerate() {
                    if !node.operands[..at].contains(&operand) {
                        readers[operand].push((class, i));
                    }
                }
            }
        }
        let seen = vec![0; problem.classes.len()];
        Primal { problem, readers, work: 0, work_limit, patient: false, seen, visit: 0 }
    }

    pub(super) fn exhausted(&self) -> bool {
        self.work >= self.work_limit
    }

    /// The cheapest tree of each class, and classes in the order in which trees were finished;
    /// classes in `free` cost nothing more.
    pub(super) fn trees(&mut self, free: &[bool]) -> (Vec<usize>, Vec<usize>) {
        let classes = &self.problem.classes;
        let mut missing: Vec<Vec<usize>> = Vec::with_capacity(classes.len());
        let mut sums: Vec<Vec<u64>> = Vec::with_capacity(classes.len());
        let mut best = vec![u64::MAX; classes.len()];
        let mut picks = vec![NONE; classes.len()];
        let mut order = Vec::new();
        let mut queue = BinaryHeap::new();
        for (class, nodes) in classes.iter().enumerate() {
            let distinct = |n: &super::Node| {
                let operands = &n.operands;
                (0..operands.len()).filter(|&i| !operands[..i].contains(&operands[i])).count()
            };
            missing.push(nodes.iter().map(distinct).collect());
            sums.push(nodes.iter().map(|n| n.cost.saturating_add(1)).collect());
            if free.get(class) == Some(&true) {
                best[class] = 0;
                queue.push(Reverse((0, class)));
                continue;
            }
            for (i, node) in nodes.iter().enumerate().filter(|(i, _)| missing[class][*i] == 0) {
                if node.cost + 1 < best[class] {
                    (best[class], picks[class]) = (node.cost + 1, i);
                    queue.push(Reverse((best[class], class)));
                }
            }
        }
        let mut done = vec![false; classes.len()];
        while let Some(Reverse((cost, class))) = queue.pop() {
            if std::mem::replace(&mut done[class], true) {
                continue;
            }
            order.push(class);
            for &(reader, i) in &self.readers[class] {
                self.work += 1;
                let sum = &mut sums[reader][i];
                // Trees of deep graphs cost more than any number: dear, but there.
                *sum = sum.saturating_add(cost).min(u64::MAX - 1);
                missing[reader][i] -= 1;
                if missing[reader][i] == 0 && *sum < best[reader] {
                    (best[reader], picks[reader]) = (*sum, i);
                    queue.push(Reverse((*sum, reader)));
                }
            }
        }
        (picks, order)
    }

    /// Every class takes the node with the cheapest graph under the others' picks, until none changes.
    pub(super) fn greedy(&mut self) -> Vec<usize> {
        let (mut picks, order) = self.trees(&[]);
        let most = self.work.saturating_add(PATIENCE);
        for _ in 0..SWEEPS {
            let mut changed = false;
            for &class in &order {
                if self.problem.classes[class].len() < 2 {
                    continue;
                }
                let mut best = (u64::MAX, picks[class]);
                for node in 0..self.problem.classes[class].len() {
                    let patient = self.patient && self.work < most;
                    if self.exhausted() && !patient {
                        return picks;
                    }
                    if let Some(cost) = self.graph_cost(class, node, &picks, best.0)
                        && (cost < best.0 || (cost == best.0 && node == picks[class]))
                    {
                        best = (cost, node);
                    }
                }
                changed |= best.1 != picks[class];
                picks[class] = best.1;
            }
            if !changed {
                break;
            }
        }
        picks
    }

    /// Cost of a node's graph, shared parts once; `None` when it leads back to its class or is dearer
    /// than `most`.
    fn graph_cost(&mut self, class: usize, node: usize, picks: &[usize], most: u64) -> Option<u64> {
        self.visit += 1;
        let mut total = self.problem.node(class, node).cost;
        let mut stack: Vec<usize> = self.problem.node(class, node).operands.clone();
        while let Some(at) = stack.pop() {
            self.work += 1;
            if at == class || picks[at] == NONE || total > most {
                return None;
            }
            if std::mem::replace(&mut self.seen[at], self.visit) == self.visit {
                continue;
            }
            let picked = self.problem.node(at, picks[at]);
            total += picked.cost;
            stack.extend(picked.operands.iter().filter(|&&o| self.seen[o] != self.visit));
        }
        Some(total)
    }

    /// Improves a choice without cycles until no move pays.
    pub(super) fn improve(&mut self, picks: Vec<usize>) -> Option<(Vec<usize>, u64)> {
        self.improve_around(picks, NONE)
    }

    /// As [`Primal::improve`]; in the first pass one class keeps its node.
    pub(super) fn improve_around(
        &mut self,
        picks: Vec<usize>,
        kept: usize,
    ) -> Option<(Vec<usize>, u64)> {
        let cost = self.problem.cost(|c| Some(picks[c]))?;
        let mut state = State { counts: vec![0; picks.len()], picks, cost: 0 };
        for &root in &self.problem.roots {
            self.add(&mut state, root);
        }
        debug_assert_eq!(state.cost, cost, "counts say what the walk says");
        for sweep in 0..SWEEPS {
            let before = state.cost;
            self.renew_idle(&mut state);
            for class in 0..self.problem.classes.len() {
                if self.exhausted() {
                    return Some((state.picks, state.cost));
                }
                if sweep == 0 && class == kept {
                    continue;
                }
                if state.counts[class] > 0 {
                    let nodes = &self.problem.classes[class];
                    if nodes.len() < 2 {
                        continue;
                    }
                    // What goes with the node that is there: nothing as dear can pay.
                    let mut most = self.own_cost(&mut state, class);
                    for (node, other) in nodes.iter().enumerate() {
                        if other.cost < most {
                            let before = state.cost;
                            self.attempt(&mut state, &[(class, node)]);
                            if state.cost < before {
                                most = self.own_cost(&mut state, class);
                            }
                        }
                    }
                } else if self.readers[class].len() > 1 {
                    let readers = self.readers[class].clone();
                    let needed: Vec<_> =
                        readers.into_iter().filter(|r| state.counts[r.0] > 0).collect();
                    if needed.len() > 1 {
                        self.attempt(&mut state, &needed);
                    }
                }
            }
            if state.cost == before && (sweep > 0 || kept == NONE) {
                break;
            }
        }
        Some((state.picks, state.cost))
    }

    /// What a needed class costs with all that only it needs.
    fn own_cost(&mut self, state: &mut State, class: usize) -> u64 {
        let whole = state.cost;
        let node = self.problem.node(class, state.picks[class]);
        for &operand in &node.operands {
            self.remove(state, operand);
        }
        let own = whole - state.cost + node.cost;
        for &operand in &node.operands {
            self.add(state, operand);
        }
        own
    }

    /// Classes that nobody needs take the node that would be cheapest to start to need.
    fn renew_idle(&mut self, state: &mut State) {
        let needed: Vec<bool> = state.counts.iter().map(|&c| c > 0).collect();
        let (picks, _) = self.trees(&needed);
        for (class, pick) in picks.into_iter().enumerate() {
            if !needed[class] && pick != NONE {
                state.picks[class] = pick;
            }
        }
    }

    /// Makes moves together if that pays. The first node named for a class counts.
    fn attempt(&mut self, state: &mut State, moves: &[(usize, usize)]) {
        let mut done: Vec<(usize, usize)> = Vec::with_capacity(moves.len());
        let before = state.cost;
        let mut sound = true;
        for &(class, node) in moves {
            if state.picks[class] == node || done.iter().any(|d| d.0 == class) {
                continue;
            }
            // A cycle would have to lead from the new operands back to the class.
            if self.graph_cost(class, node, &state.picks, u64::MAX).is_none() {
                sound = false;
                break;
            }
            done.push((class, state.picks[class]));
            self.switch(state, class, node);
        }
        if !done.is_empty() && (!sound || state.cost >= before) {
            while let Some((class, node)) = done.pop() {
                self.switch(state, class, node);
            }
        }
    }

    fn switch(&mut self, state: &mut State, class: usize, node: usize) {
        let old = std::mem::replace(&mut state.picks[class], node);
        if state.counts[class] == 0 {
            return;
        }
        let (old, new) = (self.problem.node(class, old), self.problem.node(class, node));
        state.cost += new.cost;
        for &operand in &new.operands {
            self.add(state, operand);
        }
        state.cost -= old.cost;
        for &operand in &old.operands {
            self.remove(state, operand);
        }
    }

    fn add(&mut self, state: &mut State, class: usize) {
        let mut stack = vec![class];
        while let Some(class) = stack.pop() {
            self.work += 1;
            state.counts[class] += 1;
            if state.counts[class] == 1 {
                let node = self.problem.node(class, state.picks[class]);
                state.cost += node.cost;
                stack.extend(&node.operands);
            }
        }
    }

    fn remove(&mut self, state: &mut State, class: usize) {
        let mut stack = vec![class];
        while let Some(class) = stack.pop() {
            self.work += 1;
            state.counts[class] -= 1;
            if state.counts[class] == 0 {
                let node = self.problem.node(class, state.picks[class]);
                state.cost -= node.cost;
                stack.extend(&node.operands);
            }
        }
    }
}

/// A choice in local search.
struct State {
    picks: Vec<usize>,
    /// How often each class is needed by needed classes and roots.
    counts: Vec<u32>,
    cost: u64,
}
