//! Branch and bound over classes that every solution needs.
//!
//! A step reduces its core, bounds it, and drops every item that the bound shows to be too dear for
//! anything better than the best choice known; repeated until nothing goes. Bounds lead it to good choices of its
//! own (at the top from many starts, where a gap stays). It branches on the root with the fewest items left: one
//! step per item. All costs are multiples of a unit, so a bound less than that below the best proves it.
//! What was not searched when the work ran out keeps its bound, so the bound returned is always true.

mod explore;

use super::bound::{Bound, Effort, Pool, bound};
use super::primal::Primal;
use super::reduce::{Core, NONE};
use super::{Limits, Node, Problem, Solution};

/// Branching deeper than this stops; no e-graph of a block comes near.
const DEPTH: usize = 512;
/// Pricing pays when it closes this share of the gap.
const WORTH: u64 = 25;
/// Share of the work that one bound may use.
const BOUND_SHARE: u64 = 4;
/// Cores of fewer classes are searched through by branching; larger ones are explored first.
const EXPLORED: usize = 150;
struct Search<'a> {
    problem: &'a Problem,
    limit: u64,
    work: u64,
    best: u64,
    picks: Vec<Option<usize>>,
    /// What the costs of all choices are multiples of.
    unit: u64,
    /// Whether pricing cuts pays in this problem.
    prices: bool,
}

pub(super) fn solve(
    problem: &Problem,
    limits: Limits,
    start: Option<&[usize]>,
) -> Option<Solution> {
    let picks = vec![None; problem.classes.len()];
    let unit = problem.classes.iter().flatten().fold(0, |unit, n| gcd(unit, n.cost)).max(1);
    let (limit, best) = (limits.work, u64::MAX);
    let mut search = Search { problem, limit, work: 0, best, picks, unit, prices: true };
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
    let proven = search.step(core, Pool::default(), 0);
    if search.best == u64::MAX {
        return None;
    }
    let (cost, work) = (search.best, search.work);
    let bound = proven.unwrap_or(cost).div_ceil(unit).saturating_mul(unit).min(cost);
    Some(Solution { picks: search.picks, cost, bound, work })
}

fn gcd(mut a: u64, mut b: u64) -> u64 {
    while b > 0 {
        (a, b) = (b, a % b);
    }
    a
}

impl Search<'_> {
    /// Bounds from here on leave nothing better than the best.
    fn goal(&self) -> u64 {
        if self.best == u64::MAX { u64::MAX } else { self.best + 1 - self.unit.min(self.best) }
    }

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
    fn step(&mut self, mut core: Core, mut pool: Pool, depth: usize) -> Option<u64> {
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
            if !tried && (depth == 0 || !self.prices) {
                self.look(&core, depth == 0);
                tried = true;
            }
            let share = (self.limit.saturating_sub(self.work) / BOUND_SHARE).max(1);
            let large = core.len() >= EXPLORED;
            // Small problems are searched through as they are: prices would cost more than they save.
            self.prices &= depth > 0 || large;
            let found = self.bound(&mut core, &mut pool, share, depth);
            self.charge(&mut core);
            if depth == 0 && large && !explored && found.cost < self.goal() {
                self.explore(&core, &found);
                explored = true;
            } else if self.prices && found.cost < self.goal() {
                self.follow(&core, &found);
            }
            if found.cost >= self.goal() {
                return Some(found.cost);
            }
            if !self.drop_dear(&mut core, &found) {
                return Some(self.branch(&core, &found, &pool, depth));
            }
        }
    }

    /// The bound of a core; below the top, cuts are priced only if that paid at the top.
    fn bound(&mut self, core: &mut Core, pool: &mut Pool, work: u64, depth: usize) -> Bound {
        let (rounds, repeats, steps) = match (depth, self.prices) {
            (0, true) => (20, 4, 300),
            (_, true) => (2, 1, 40),
            _ => (1, 0, 0),
        };
        let found = bound(core, pool, Effort { work, rounds, repeats, steps, goal: self.goal() });
        if depth == 0 && self.prices {
            let gap = self.goal() - found.first.min(self.goal());
            self.prices = found.cost - found.first >= gap / WORTH;
        }
        found
    }

    /// A choice led by the bound.
    fn follow(&mut self, core: &Core, found: &Bound) {
        let (small, live) = small(core);
        let guide = guided(&small, &live, found, |_, led| led);
        let share = self.limit.saturating_sub(self.work) / 4;
        let mut guiding = Primal::new(&guide, share);
        let start = guiding.greedy();
        let mut primal = Primal::new(&small, share);
        if let Some((picks, _)) = primal.improve(start) {
            self.offer_core(core, &live, &picks);
        }
        self.work += guiding.work + primal.work;
    }

    fn charge(&mut self, core: &mut Core) {
        self.work += std::mem::take(&mut core.work);
    }

    /// Drops items that nothing better than the best can hold.
    fn drop_dear(&self, core: &mut Core, found: &Bound) -> bool {
        let room = self.goal() - found.cost;
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
    fn branch(&mut self, core: &Core, found: &Bound, pool: &Pool, depth: usize) -> u64 {
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
        // What a choice that does not take an item tried before need not have: it could take that item.
        let mut spared: Vec<u32> = Vec::new();
        for i in order {
            let at_least = found.cost + left[i];
            if at_least >= self.goal() || self.work >= self.limit {
                least = least.min(at_least);
                continue;
            }
            let mut part = core.clone();
            part.classes[on as usize] = vec![core.classes[on as usize][i].clone()];
            for class in &spared {
                part.classes[*class as usize].clear();
            }
            if let Some(bound) = self.step(part, pool.clone(), depth + 1) {
                least = least.min(bound.max(at_least));
            }
            spared.extend(instead(core, on as usize, i));
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

    /// The best choice in terms of a core's live items; `None` where it holds another.
    fn best_of(&self, core: &Core, live: &[u32]) -> Option<Vec<usize>> {
        let position = |&class: &u32| {
            let items = &core.classes[class as usize];
            match self.picks[class as usize] {
                Some(node) => items.iter().position(|i| i.node as usize == node),
                None => Some(0),
            }
        };
        live.iter().map(position).collect()
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

/// The class without which an item cannot be taken, where whoever has that class may take the item for nothing and
/// without a cycle.
fn instead(core: &Core, class: usize, item: usize) -> Option<u32> {
    let items = &core.classes[class];
    let [need] = items[item].needs.as_slice() else { return None };
    let leaf = core.classes[*need as usize].iter().all(|i| i.needs.is_empty());
    (leaf && items.iter().all(|other| other.cost >= items[item].cost)).then_some(*need)
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

/// A small problem at other costs: what `cost` makes of an item's own and of the one that the bound leads by.
fn guided(
    small: &Problem,
    live: &[u32],
    found: &Bound,
    mut cost: impl FnMut(u64, u64) -> u64,
) -> Problem {
    let mut guide = small.clone();
    for (nodes, &class) in guide.classes.iter_mut().zip(live) {
        for (node, &led) in nodes.iter_mut().zip(&found.guide[class as usize]) {
            node.cost = cost(node.cost, led);
        }
    }
    guide
}
