//! Branch and bound over classes that every solution needs.
//!
//! A step reduces its core, bounds it, and drops every item that the bound shows to be too dear for
//! anything better than the best choice known; repeated until nothing goes. Then it looks for a good
//! choice of its own (at the top from many starts, where a gap stays), and branches on the root with the fewest items left: one step per item.
//! What was not searched when the work ran out keeps its bound, so the bound returned is always true.

use super::bound::{Bound, bound};
use super::primal::Primal;
use super::reduce::{Core, NONE};
use super::{Limits, Node, Problem, Solution};

/// Branching deeper than this stops; no e-graph of a block comes near.
const DEPTH: usize = 512;
/// Share of the work that one bound may use.
const BOUND_SHARE: u64 = 4;
/// Cores of fewer classes are searched through by branching; larger ones are explored first.
const EXPLORED: usize = 150;
/// Most further starts of local search.
const ROUNDS: usize = 400;

struct Search<'a> {
    problem: &'a Problem,
    limit: u64,
    work: u64,
    best: u64,
    picks: Vec<Option<usize>>,
}

pub(super) fn solve(
    problem: &Problem,
    limits: Limits,
    start: Option<&[usize]>,
) -> Option<Solution> {
    let picks = vec![None; problem.classes.len()];
    let mut search = Search { problem, limit: limits.work, work: 0, best: u64::MAX, picks };
    if let Some(start) = start {
        let pick = |c: usize| start.get(c).copied();
        search.offer(pick);
        // Local search on the whole, where a start is known.
        if search.best < u64::MAX {
            let mut primal = Primal::new(problem, limits.work / 4);
            let improved = primal.improve(start.to_vec());
            search.work += primal.work;
            if let Some((picks, _)) = improved {
                search.offer(|c| picks.get(c).copied());
            }
        }
    }
    let core = Core::new(problem);
    let proven = search.step(core, 0);
    if search.best == u64::MAX {
        return None;
    }
    let (cost, work) = (search.best, search.work);
    let bound = proven.unwrap_or(cost).min(cost);
    Some(Solution { picks: search.picks, cost, bound, work })
}

impl Search<'_> {
    /// Keeps a choice that is cheaper than the best.
    fn offer(&mut self, pick: impl Fn(usize) -> Option<usize>) {
        let Some(needed) = self.problem.needed(pick) else { return };
        self.work += needed.len() as u64;
        let cost = needed.iter().map(|&(class, node)| self.problem.node(class, node).cost).sum();
        if cost < self.best {
            self.best = cost;
            self.picks = vec![None; self.problem.classes.len()];
            for (class, node) in needed {
                self.picks[class] = Some(node);
            }
        }
    }

    /// Searches a core; what its solutions cost at least, `None` when it has none.
    fn step(&mut self, mut core: Core, depth: usize) -> Option<u64> {
        let (mut tried, mut explored) = (false, false);
        loop {
            if !core.reduce() {
                self.charge(&mut core);
                return None;
            }
            self.charge(&mut core);
            if core.len() == 0 {
                self.offer_core(&core, &[], &[]);
                return Some(core.base);
            }
            if !tried {
                self.look(&core, depth == 0);
                tried = true;
            }
            let share = (self.limit.saturating_sub(self.work) / BOUND_SHARE).max(1);
            let found = bound(&mut core, share);
            self.charge(&mut core);
            let large = core.len() >= EXPLORED;
            if depth == 0 && large && !explored && found.cost < self.best {
                self.explore(&core, &found);
                explored = true;
            }
            if found.cost >= self.best {
                return Some(found.cost);
            }
            if !self.drop_dear(&mut core, &found) {
                return Some(self.branch(&core, &found, depth));
            }
        }
    }

    fn charge(&mut self, core: &mut Core) {
        self.work += std::mem::take(&mut core.work);
    }

    /// Drops items that nothing better than the best can hold.
    fn drop_dear(&self, core: &mut Core, found: &Bound) -> bool {
        let room = self.best - found.cost;
        let mut dropped = false;
        for (items, left) in core.classes.iter_mut().zip(&found.left) {
            let had = items.len();
            let mut left = left.iter();
            items.retain(|_| left.next().is_none_or(|&l| l < room));
            dropped |= items.len() != had;
        }
        dropped
    }

    /// One step per item of the root with the fewest; what is not searched keeps the bound.
    fn branch(&mut self, core: &Core, found: &Bound, depth: usize) -> u64 {
        let open = core.roots.iter().filter(|&&r| core.classes[r as usize].len() > 1);
        let spread = |r: u32| found.left[r as usize].iter().copied().max().unwrap_or(0);
        let on = open
            .min_by_key(|&&r| (core.classes[r as usize].len(), std::cmp::Reverse(spread(r)), r));
        // Every root with one item is folded or has items below it that are roots: there is one.
        let Some(&on) = on.filter(|_| depth < DEPTH && self.work < self.limit) else {
            return found.cost;
        };
        let left = &found.left[on as usize];
        let mut order: Vec<usize> = (0..left.len()).collect();
        order.sort_by_key(|&i| left[i]);
        let mut least = u64::MAX;
        for i in order {
            let at_least = found.cost + left[i];
            if at_least >= self.best || self.work >= self.limit {
                least = least.min(at_least);
                continue;
            }
            let mut part = core.clone();
            part.classes[on as usize] = vec![core.classes[on as usize][i].clone()];
            if let Some(bound) = self.step(part, depth + 1) {
                least = least.min(bound.max(at_least));
            }
        }
        least
    }

    /// A good choice of the core, offered as one of the problem.
    fn look(&mut self, core: &Core, whole: bool) {
        let (small, live) = small(core);
        let share = self.limit.saturating_sub(self.work) / 4;
        let mut primal = Primal::new(&small, share);
        primal.patient = whole;
        let (trees, _) = primal.trees(&[]);
        let starts = [primal.greedy(), trees];
        for start in starts {
            if let Some((picks, _)) = primal.improve(start) {
                self.offer_core(core, &live, &picks);
            }
        }
        self.work += primal.work;
    }

    /// More starts for local search where the first ones left a gap: the costs that the cuts left, which say
    /// what is dear beside the bound; then costs changed at random, by up to half. Two fifths of the work.
    fn explore(&mut self, core: &Core, found: &Bound) {
        let (small, live) = small(core);
        let end = self.work.saturating_add(self.limit.saturating_sub(self.work) / 5 * 2);
        let mut noise = 1u64;
        let mut random = || {
            // Knuth's linear congruential generator: the same on every machine.
            noise = noise
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            noise >> 56
        };
        for round in 0..ROUNDS {
            if self.work >= end {
                return;
            }
            let mut guide = small.clone();
            for (nodes, &class) in guide.classes.iter_mut().zip(&live) {
                for (node, &left) in nodes.iter_mut().zip(&found.left[class as usize]) {
                    // Below 3/2 of a cost below 2^62.
                    let wave = u128::from(node.cost) * u128::from(128 + random()) / 256;
                    let wave = u64::try_from(wave).unwrap_or(node.cost);
                    node.cost = if round == 0 { left } else { wave };
                }
            }
            let mut guiding = Primal::new(&guide, end - self.work);
            let start = guiding.greedy();
            self.work += guiding.work;
            let mut primal = Primal::new(&small, end.saturating_sub(self.work));
            if let Some((picks, _)) = primal.improve(start) {
                self.offer_core(core, &live, &picks);
            }
            self.work += primal.work;
        }
    }

    fn offer_core(&mut self, core: &Core, live: &[u32], picks: &[usize]) {
        let mut of_class = vec![None; core.classes.len()];
        for (&class, &pick) in live.iter().zip(picks) {
            let item = core.classes[class as usize].get(pick);
            of_class[class as usize] = item.map(|i| i.node as usize);
        }
        self.offer(|c| {
            of_class[c].or_else(|| Some(core.forced[c]).filter(|&f| f != NONE).map(|f| f as usize))
        });
    }
}

/// The live part of a core as a problem, and which classes it has.
fn small(core: &Core) -> (Problem, Vec<u32>) {
    let live: Vec<u32> =
        (0..core.classes.len() as u32).filter(|&c| !core.classes[c as usize].is_empty()).collect();
    let mut position = vec![NONE; core.classes.len()];
    live.iter().enumerate().for_each(|(i, &c)| position[c as usize] = i as u32);
    let at = |c: &u32| position[*c as usize] as usize;
    let node = |item: &super::reduce::Item| Node {
        cost: item.cost,
        operands: item.needs.iter().map(at).collect(),
    };
    let classes = live.iter().map(|&c| core.classes[c as usize].iter().map(node).collect());
    let small = Problem { classes: classes.collect(), roots: core.roots.iter().map(at).collect() };
    (small, live)
}
