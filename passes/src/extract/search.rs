//! Branch and bound over classes that every solution needs.
//!
//! A step reduces its core, bounds it, and drops every item that the bound shows to be too dear for
//! anything better than the best choice known; repeated until nothing goes. Bounds lead it to good choices of its
//! own (at the top from many starts, where a gap stays). It branches on the root with the fewest items left: one
//! step per item. All costs are multiples of a unit, so a bound less than that below the best proves it.
//! What was not searched when the work ran out keeps its bound, so the bound returned is always true.

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
/// Most further starts of local search.
const ROUNDS: usize = 4000;
/// Choices that are merged at a time.
const MERGED: usize = 6;
/// Share of the work left that searching merged choices may use.
const MERGE_SHARE: u64 = 6;

/// Kicks without a better choice after which the best one is taken up again.
const PATIENCE: u32 = 60;
/// Every so many kicks, all costs are changed for a moment instead.
const WAVE: u32 = 2;

/// Knuth's linear congruential generator: the same on every machine.
struct Noise(u64);

impl Noise {
    /// The high 31 bits of the next state: the low ones repeat early.
    fn next(&mut self) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }

    /// A number below `n`.
    fn below(&mut self, n: usize) -> usize {
        self.next() as usize % n
    }

    /// A cost below 2^62 times `base`/256 up to `base`/256 + 1; below 2^63 for `base` up to 256.
    fn times(&mut self, cost: u64, base: u64) -> u64 {
        let wave = u128::from(cost) * u128::from(base + (self.next() >> 23)) / 256;
        u64::try_from(wave).unwrap_or(cost)
    }
}

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
        let mut guide = small.clone();
        for (nodes, &class) in guide.classes.iter_mut().zip(&live) {
            for (node, &cost) in nodes.iter_mut().zip(&found.guide[class as usize]) {
                node.cost = cost;
            }
        }
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

    /// Better choices where the first ones left a gap, for a third of the work where pricing pays, for three fifths
    /// elsewhere. Half of that for other starts: the guide of the bound, then guide and costs changed at random by up
    /// to half; and some such choices at a time merged: the core is searched that has only the items which any of
    /// them picked (construct, merge, solve and adapt: Blum et al., 2016). The rest for kicks of the best.
    fn explore(&mut self, core: &Core, found: &Bound) {
        let (small, live) = small(core);
        let room = self.limit.saturating_sub(self.work);
        let end = self.work.saturating_add(if self.prices { room / 3 } else { room / 5 * 3 });
        let starts_end = self.work.saturating_add(end.saturating_sub(self.work) / 2);
        let mut noise = Noise(1);
        let mut pool: Vec<Vec<usize>> = Vec::new();
        for round in 0..ROUNDS {
            if self.work >= starts_end {
                break;
            }
            let mut guide = small.clone();
            for (nodes, &class) in guide.classes.iter_mut().zip(&live) {
                for (node, &led) in nodes.iter_mut().zip(&found.guide[class as usize]) {
                    let cost = if self.prices || round % 2 == 1 { led } else { node.cost };
                    node.cost = if round == 0 { led } else { noise.times(cost, 128) };
                }
            }
            let mut guiding = Primal::new(&guide, starts_end - self.work);
            let start = guiding.greedy();
            self.work += guiding.work;
            let mut primal = Primal::new(&small, starts_end.saturating_sub(self.work));
            if let Some((picks, _)) = primal.improve(start) {
                self.offer_core(core, &live, &picks);
                pool.push(picks);
            }
            self.work += primal.work;
            if pool.len() >= MERGED {
                pool.extend(self.best_of(core, &live));
                self.merge(core, (&small, &live), &pool, starts_end);
                pool.clear();
            }
        }
        self.kicks(core, (&small, &live), &mut noise, end);
    }

    /// Iterated local search: one needed class takes another node, the rest adapts to it, then all is free again.
    /// What is not dearer is kept; what nothing improved for long begins again at the best.
    fn kicks(
        &mut self,
        core: &Core,
        (small, live): (&Problem, &[u32]),
        noise: &mut Noise,
        end: u64,
    ) {
        let Some(best) = self.best_of(core, live) else { return };
        let Some(mut least) = small.cost(|c| best.get(c).copied()) else { return };
        let (mut best, mut here, mut cost, mut since) = (best.clone(), best, least, 0);
        let mut primal = Primal::new(small, end.saturating_sub(self.work));
        while !primal.exhausted() {
            let Some(needed) = small.needed(|c| here.get(c).copied()) else { break };
            primal.work += needed.len() as u64;
            let open: Vec<(usize, usize)> =
                needed.into_iter().filter(|n| small.classes[n.0].len() > 1).collect();
            if open.is_empty() {
                break;
            }
            let (class, node) = open[noise.below(open.len())];
            let other = noise.below(small.classes[class].len() - 1);
            since += 1;
            let moved = if since % WAVE == 0 {
                let mut guide = small.clone();
                for node in guide.classes.iter_mut().flatten() {
                    node.cost = noise.times(node.cost, 128);
                }
                let left = end.saturating_sub(self.work + primal.work);
                let mut guiding = Primal::new(&guide, left);
                let waved = guiding.improve(here.clone());
                primal.work += guiding.work;
                waved.and_then(|(picks, _)| primal.improve(picks))
            } else {
                let mut picks = here.clone();
                picks[class] = other + usize::from(other >= node);
                primal.improve_around(picks, class)
            };
            if let Some((picks, found)) = moved
                && (found <= cost || (since % 8 == 0 && found <= least + least / 32))
            {
                if found < least {
                    (least, best, since) = (found, picks.clone(), 0);
                    self.offer_core(core, live, &picks);
                }
                (here, cost) = (picks, found);
            }
            if since >= PATIENCE {
                (here, cost, since) = (best.clone(), least, 0);
            }
        }
        self.work += primal.work;
    }

    /// Searches what some choices of a core need.
    fn merge(
        &mut self,
        core: &Core,
        (small, live): (&Problem, &[u32]),
        pool: &[Vec<usize>],
        end: u64,
    ) {
        let mut used: Vec<Vec<bool>> = small.classes.iter().map(|n| vec![false; n.len()]).collect();
        for picks in pool {
            for (class, node) in small.needed(|c| picks.get(c).copied()).unwrap_or_default() {
                used[class][node] = true;
            }
        }
        let mut part = core.clone();
        for (items, &class) in used.iter().zip(live) {
            let mut kept = items.iter();
            part.classes[class as usize].retain(|_| kept.next() == Some(&true));
        }
        let limit = self.limit;
        self.limit = self.work.saturating_add(end.saturating_sub(self.work) / MERGE_SHARE);
        self.step(part, Pool::default(), 1);
        self.limit = limit;
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
