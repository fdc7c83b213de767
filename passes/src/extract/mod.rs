//! Extraction: one node per class, so that everything the roots need is as cheap as can be, *proven*.
//!
//! In: classes of alternative nodes, each with a cost and the classes it needs; roots. Out: a pick per
//! needed class without cycles, its cost (a shared class is paid once), and a bound that no choice can
//! go below; bound equal to cost is optimality. Method: reductions that keep an optimum (`reduce`),
//! a greedy graph and local search (`primal`), landmark cuts for the bound (`bound`) at
//! good prices (`price`), branch and bound over the classes that every solution needs (`search`). The bound is that of delete-free planning,
//! of which this is an instance: it sees cycles, so no cycle constraint is ever written down.
//! Knows no e-graph library and no target. Limits count work, never seconds; ties go to the first.

mod bound;
pub mod gym;
mod price;
mod primal;
mod reduce;
mod search;
#[cfg(test)]
mod tests;

/// One way to compute a class.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Paid once when the node is picked and its class is needed.
    pub cost: u64,
    /// The classes it needs, by index.
    pub operands: Vec<usize>,
}

/// An extraction problem. Costs in all add up to less than [`Problem::MAX_COST`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Problem {
    /// Alternatives by class.
    pub classes: Vec<Vec<Node>>,
    /// The classes wanted.
    pub roots: Vec<usize>,
}

/// How far to search.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Operands looked at, over the whole search; about 10^8 of them take a second.
    pub work: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { work: 60_000_000 }
    }
}

/// A choice, and how good it provably is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Solution {
    /// The node of each class that is needed; `None` for the others.
    pub picks: Vec<Option<usize>>,
    /// What the picked nodes cost, each once.
    pub cost: u64,
    /// No choice costs less than this.
    pub bound: u64,
    /// Operands looked at.
    pub work: u64,
}

impl Solution {
    /// Whether nothing cheaper exists.
    pub fn is_optimal(&self) -> bool {
        self.bound >= self.cost
    }
}

impl Problem {
    /// Sums of costs stay below this, so that arithmetic on them is exact.
    pub const MAX_COST: u64 = 1 << 62;

    /// The cheapest choice found within the limits; `None` when the roots cannot be computed without
    /// a cycle, or an index or the sum of costs is out of range.
    pub fn solve(&self, limits: Limits) -> Option<Solution> {
        self.solve_from(limits, None)
    }

    /// As [`Problem::solve`], never dearer than the choice to start from (ignored when it has a cycle
    /// or leaves a needed class out).
    pub fn solve_from(&self, limits: Limits, start: Option<&[usize]>) -> Option<Solution> {
        self.is_sound().then(|| search::solve(self, limits, start))?
    }

    /// What a choice costs; `None` when it has a cycle or a needed class has no such node.
    pub fn cost(&self, pick: impl Fn(usize) -> Option<usize>) -> Option<u64> {
        self.needed(pick).map(|n| n.iter().map(|&(class, node)| self.node(class, node).cost).sum())
    }

    /// The classes that a choice needs, operands first, each with its node; `None` on a cycle.
    pub fn needed(&self, pick: impl Fn(usize) -> Option<usize>) -> Option<Vec<(usize, usize)>> {
        #[derive(Clone, Copy, PartialEq)]
        enum Mark {
            New,
            Open,
            Done,
        }
        let mut marks = vec![Mark::New; self.classes.len()];
        let mut order = Vec::new();
        // Class, its node, next operand.
        let mut stack: Vec<(usize, usize, usize)> = Vec::new();
        let node_of = |class: usize| pick(class).filter(|&n| n < self.classes[class].len());
        for &root in &self.roots {
            if marks[root] == Mark::New {
                marks[root] = Mark::Open;
                stack.push((root, node_of(root)?, 0));
            }
            while let Some(top) = stack.last_mut() {
                let (class, node, next) = *top;
                top.2 += 1;
                let Some(&operand) = self.classes[class][node].operands.get(next) else {
                    marks[class] = Mark::Done;
                    order.push((class, node));
                    stack.pop();
                    continue;
                };
                match marks[operand] {
                    Mark::Open => return None,
                    Mark::Done => {}
                    Mark::New => {
                        marks[operand] = Mark::Open;
                        stack.push((operand, node_of(operand)?, 0));
                    }
                }
            }
        }
        Some(order)
    }

    /// The node of each class that makes the cheapest tree, shared parts counted each time; the number
    /// of nodes where there is none. Free of cycles.
    pub(crate) fn trees(&self) -> Vec<usize> {
        let (picks, _) = primal::Primal::new(self, u64::MAX).trees(&[]);
        picks.into_iter().zip(&self.classes).map(|(pick, nodes)| pick.min(nodes.len())).collect()
    }

    fn node(&self, class: usize, node: usize) -> &Node {
        &self.classes[class][node]
    }

    fn is_sound(&self) -> bool {
        let known = |&c: &usize| c < self.classes.len();
        let nodes = || self.classes.iter().flatten();
        let total = nodes().fold(0u64, |sum, n| sum.saturating_add(n.cost));
        total < Self::MAX_COST
            && self.roots.iter().all(known)
            && nodes().all(|n| n.operands.iter().all(known))
    }
}
