//! Lower bounds by landmark cuts (Helmert and Domshlak, "Landmarks, critical paths and abstractions",
//! ICAPS 2009; extraction without cycles is delete-free planning: a node is an action, a class a fact).
//!
//! A cut is a set of items of which every solution picks one. Its cheapest item is charged, all of it
//! become cheaper by that much, and again, until the roots cost nothing under `h`, the cost of the
//! dearest chain that a class needs. What is left of an item's cost after all cuts is what a solution
//! with this item costs at least *on top* of the bound: items that leave no room go.
//!
//! First come, first charged is not the best price of each cut: prices are improved (`price`), charged again as
//! whole numbers, and what is left is cut further, until neither moves the bound. Cuts live in a [`Pool`] by the
//! nodes they hold, so that a part of a problem begins with the cuts and prices of the whole.

mod separate;

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::price::{self, Priced};
use super::reduce::{Core, NONE};

/// A bound and the costs it leaves.
pub(super) struct Bound {
    /// Every solution costs at least this, what is paid already included.
    pub(super) cost: u64,
    /// The same before any pricing.
    pub(super) first: u64,
    /// Per class and item: what picking it adds to the bound at least.
    pub(super) left: Vec<Vec<u64>>,
    /// Per class and item: a cost that leads to good choices. The more of an item the relaxed problem picks, the
    /// less of its cost stays; without pricing the same as `left`.
    pub(super) guide: Vec<Vec<u64>>,
}

/// How much a bound is worth.
#[derive(Clone, Copy)]
pub(super) struct Effort {
    /// Work at most.
    pub(super) work: u64,
    /// Rounds of pricing and cutting at most.
    pub(super) rounds: usize,
    /// Times that prices are improved and cuts added in a round.
    pub(super) repeats: usize,
    /// Steps of pricing at most.
    pub(super) steps: usize,
    /// A bound of this much ends it.
    pub(super) goal: u64,
}

/// Cuts by the nodes they hold, each with its last price.
#[derive(Clone, Default)]
pub(super) struct Pool(Vec<(Vec<(u32, u32)>, f64)>);

/// Improvements of the bound below this share of the gap end the rounds.
const LEAST_GAIN: u64 = 200;
/// Share of its cost that an item keeps in a guide when the relaxed problem picks all of it.
const LEAST_SHARE: f64 = 0.02;

/// The bound of a reduced core; stops early, with a weaker bound, when the work is used up.
pub(super) fn bound(core: &mut Core, pool: &mut Pool, effort: Effort) -> Bound {
    let mut cuts = Cuts::new(core);
    let mut priced = cuts.read(pool);
    let mut best = Bound { cost: 0, first: 0, left: Vec::new(), guide: Vec::new() };
    let mut guide = None;
    for round in 0..effort.rounds {
        let total = core.base + cuts.charge(&mut priced, effort.work);
        let gained = total.saturating_sub(best.cost);
        if total > best.cost || round == 0 {
            let first = if round == 0 { total } else { best.first };
            best = Bound { cost: total, first, left: cuts.by_class(&cuts.left), guide: Vec::new() };
        }
        let gap = effort.goal.saturating_sub(best.cost);
        let idle = round > 0 && gained < gap / LEAST_GAIN;
        if gap == 0 || idle || round + 1 == effort.rounds || cuts.work >= effort.work {
            break;
        }
        let costs: Vec<f64> = cuts.costs().map(|c| c as f64).collect();
        let aim = (effort.goal - core.base) as f64;
        for _ in 0..effort.repeats {
            let (picked, work) = price::improve(&mut priced, &costs, aim, effort.steps);
            cuts.work += work;
            let rest = |(c, p): (&f64, &f64)| (c * (1.0 - p).max(LEAST_SHARE)) as u64;
            guide = Some(costs.iter().zip(&picked).map(rest).collect::<Vec<u64>>());
            let new = cuts.separate(&picked, &mut priced);
            if !new {
                break;
            }
        }
    }
    best.guide = guide.map_or_else(|| best.left.clone(), |g| cuts.by_class(&g));
    *pool = cuts.write(priced);
    let work = cuts.work;
    core.work += work;
    best
}

/// The items as one list, with what the cuts need to know of each.
struct Cuts<'a> {
    core: &'a Core,
    /// First item of each class; the goal is the last class, with one item that needs the roots.
    first: Vec<u32>,
    class_of: Vec<u32>,
    left: Vec<u64>,
    /// Items by class needed.
    readers: Vec<Vec<u32>>,
    /// Dearest need of each item; `NONE` when it needs nothing.
    supporter: Vec<u32>,
    /// Cost of the dearest chain below each class.
    h: Vec<u64>,
    /// Classes, each after some way to compute it.
    order: Vec<u32>,
    work: u64,
}

const FAR: u64 = u64::MAX;

impl<'a> Cuts<'a> {
    fn new(core: &'a Core) -> Cuts<'a> {
        let classes = core.classes.len();
        let (mut first, mut class_of, mut left) = (Vec::with_capacity(classes + 2), vec![], vec![]);
        let mut readers = vec![Vec::new(); classes + 1];
        for (class, items) in core.classes.iter().enumerate() {
            first.push(left.len() as u32);
            for item in items {
                let id = left.len() as u32;
                item.needs.iter().for_each(|&n| readers[n as usize].push(id));
                class_of.push(class as u32);
                left.push(item.cost);
            }
        }
        first.push(left.len() as u32);
        core.roots.iter().for_each(|&r| readers[r as usize].push(left.len() as u32));
        class_of.push(classes as u32);
        left.push(0);
        first.push(left.len() as u32);
        let supporter = vec![NONE; left.len()];
        let h = vec![FAR; classes + 1];
        let order = core.derivation_order();
        Cuts { core, first, class_of, left, readers, supporter, h, order, work: 0 }
    }

    /// Costs of all items, the goal's included, before any charge.
    fn costs(&self) -> impl Iterator<Item = u64> {
        self.core.classes.iter().flatten().map(|i| i.cost).chain([0])
    }

    fn by_class(&self, of_items: &[u64]) -> Vec<Vec<u64>> {
        let range = |c: usize| self.first[c] as usize..self.first[c + 1] as usize;
        (0..self.core.classes.len()).map(|c| of_items[range(c)].to_vec()).collect()
    }

    /// The cuts of a pool in terms of these items. Items that are gone were in no solution of this core; a cut
    /// through a class that was folded away is forgotten.
    fn read(&self, pool: &Pool) -> Priced {
        let mut priced = Priced::new();
        'cuts: for (nodes, price) in &pool.0 {
            let mut cut = Vec::with_capacity(nodes.len());
            for &(class, node) in nodes {
                let items = &self.core.classes[class as usize];
                if let Ok(at) = items.binary_search_by_key(&node, |i| i.node) {
                    cut.push(self.first[class as usize] + at as u32);
                } else if self.core.forced[class as usize] == node {
                    continue 'cuts;
                }
            }
            if cut.is_empty() {
                continue;
            }
            cut.sort_unstable();
            let known = priced.entry(cut).or_insert(0.0);
            *known += price;
        }
        priced
    }

    fn write(&self, priced: Priced) -> Pool {
        let node = |&item: &u32| {
            let class = self.class_of[item as usize];
            let at = (item - self.first[class as usize]) as usize;
            (class, self.core.classes[class as usize][at].node)
        };
        Pool(
            priced
                .into_iter()
                .map(|(cut, price)| (cut.iter().map(node).collect(), price))
                .collect(),
        )
    }

    /// Charges the prices of known cuts, dearest first, as far as costs allow; then cuts what is left. The sum.
    fn charge(&mut self, priced: &mut Priced, work_limit: u64) -> u64 {
        self.left = self.costs().collect();
        let mut total = 0;
        let mut order: Vec<(&Vec<u32>, &mut f64)> = priced.iter_mut().collect();
        order.sort_by(|a, b| b.1.total_cmp(a.1).then(a.0.cmp(b.0)));
        for (cut, price) in order {
            self.work += cut.len() as u64;
            let most = cut.iter().map(|&i| self.left[i as usize]).min().unwrap_or(0);
            let charge = (*price as u64).min(most);
            cut.iter().for_each(|&i| self.left[i as usize] -= charge);
            total += charge;
        }
        self.h.fill(FAR);
        self.supporter.fill(NONE);
        self.first_h();
        while self.work < work_limit {
            let Some((mut cut, charge)) = self.cut() else { break };
            cut.sort_unstable();
            *priced.entry(cut).or_insert(0.0) += charge as f64;
            total += charge;
        }
        total
    }

    fn goal(&self) -> usize {
        self.core.classes.len()
    }

    fn needs(&self, item: u32) -> &'a [u32] {
        let class = self.class_of[item as usize] as usize;
        if class == self.core.classes.len() {
            return &self.core.roots;
        }
        &self.core.classes[class][(item - self.first[class]) as usize].needs
    }

    fn items(&self, class: usize) -> std::ops::Range<u32> {
        self.first[class]..self.first[class + 1]
    }

    /// `h` of all classes, cheapest first.
    fn first_h(&mut self) {
        let mut missing: Vec<u32> =
            (0..self.left.len() as u32).map(|i| self.needs(i).len() as u32).collect();
        let mut queue = BinaryHeap::new();
        let mut done = vec![false; self.h.len()];
        for item in (0..self.left.len()).filter(|&i| missing[i] == 0) {
            let class = self.class_of[item] as usize;
            if self.left[item] < self.h[class] {
                self.h[class] = self.left[item];
                queue.push(Reverse((self.h[class], class as u32)));
            }
        }
        while let Some(Reverse((h, class))) = queue.pop() {
            if std::mem::replace(&mut done[class as usize], true) {
                continue;
            }
            for at in 0..self.readers[class as usize].len() {
                self.work += 1;
                let item = self.readers[class as usize][at];
                missing[item as usize] -= 1;
                if missing[item as usize] > 0 {
                    continue;
                }
                // Classes come in order of h, so the last need is the dearest.
                self.supporter[item as usize] = class;
                let reader = self.class_of[item as usize] as usize;
                let through = h.saturating_add(self.left[item as usize]);
                if through < self.h[reader] {
                    self.h[reader] = through;
                    queue.push(Reverse((through, reader as u32)));
                }
            }
        }
    }

    /// One cut and its charge, or `None` when the goal costs nothing (or cannot be reached).
    fn cut(&mut self) -> Option<(Vec<u32>, u64)> {
        let goal = self.goal();
        if self.h[goal] == 0 || self.h[goal] == FAR {
            return None;
        }
        let zone = self.goal_zone();
        // What can be had without entering the zone; items that enter it are the cut.
        let mut outside = vec![false; self.h.len()];
        let mut stack: Vec<u32> = Vec::new();
        let mut cut: Vec<u32> = Vec::new();
        for item in 0..self.left.len() as u32 {
            if self.supporter[item as usize] == NONE {
                self.enter(item, &zone, &mut outside, &mut stack, &mut cut);
            }
        }
        while let Some(class) = stack.pop() {
            for at in 0..self.readers[class as usize].len() {
                self.work += 1;
                let item = self.readers[class as usize][at];
                if self.supporter[item as usize] == class {
                    self.enter(item, &zone, &mut outside, &mut stack, &mut cut);
                }
            }
        }
        let charge = cut.iter().map(|&i| self.left[i as usize]).min()?;
        if charge == 0 {
            return None;
        }
        cut.iter().for_each(|&i| self.left[i as usize] -= charge);
        self.lower_h(&cut);
        Some((cut, charge))
    }

    /// Classes from which the goal costs nothing more.
    fn goal_zone(&mut self) -> Vec<bool> {
        let mut zone = vec![false; self.h.len()];
        let mut stack = vec![self.goal() as u32];
        zone[self.goal()] = true;
        while let Some(class) = stack.pop() {
            for item in self.items(class as usize) {
                self.work += 1;
                let supporter = self.supporter[item as usize];
                let free = self.left[item as usize] == 0 && supporter != NONE;
                if free && !std::mem::replace(&mut zone[supporter as usize], true) {
                    stack.push(supporter);
                }
            }
        }
        zone
    }

    fn enter(
        &self,
        item: u32,
        zone: &[bool],
        outside: &mut [bool],
        stack: &mut Vec<u32>,
        cut: &mut Vec<u32>,
    ) {
        let class = self.class_of[item as usize];
        if zone[class as usize] {
            cut.push(item);
        } else if !std::mem::replace(&mut outside[class as usize], true) {
            stack.push(class);
        }
    }

    /// Costs of the cut fell: `h` falls with them.
    fn lower_h(&mut self, cut: &[u32]) {
        let mut queue = BinaryHeap::new();
        for &item in cut {
            self.lower(item, &mut queue);
        }
        while let Some(Reverse((h, class))) = queue.pop() {
            if h > self.h[class as usize] {
                continue;
            }
            for at in 0..self.readers[class as usize].len() {
                self.work += 1;
                let item = self.readers[class as usize][at];
                if self.supporter[item as usize] != class {
                    continue;
                }
                let needs = self.needs(item);
                self.work += needs.len() as u64;
                // The first of the dearest, so that ties do not depend on history.
                let mut dearest = class;
                for &need in needs {
                    if self.h[need as usize] > self.h[dearest as usize] {
                        dearest = need;
                    }
                }
                self.supporter[item as usize] = dearest;
                self.lower(item, &mut queue);
            }
        }
    }

    fn lower(&mut self, item: u32, queue: &mut BinaryHeap<Reverse<(u64, u32)>>) {
        let class = self.class_of[item as usize];
        let supporter = self.supporter[item as usize];
        let below = if supporter == NONE { 0 } else { self.h[supporter as usize] };
        let through = below.saturating_add(self.left[item as usize]);
        if through < self.h[class as usize] {
            self.h[class as usize] = through;
            queue.push(Reverse((through, class)));
        }
    }
}
