//! Reductions: a smaller problem with an optimum of the larger one.
//!
//! A [`Core`] keeps the class numbers of the problem and remembers which node each of its items is, so
//! a solution of the core is one of the problem. Removed are: what roots cannot reach or cycles only
//! can compute; items that a cheaper one with fewer needs dominates; classes with one item, whose needs
//! move to their readers. What every solution needs (landmarks) becomes a root and pays its least cost
//! into `base`. Dependencies are moved, never dropped: a cycle before is a cycle after.

use super::Problem;

/// Classes up to which the needs of every class are kept as sets: 4096^2 bits are 2 MiB.
const SETS: usize = 4096;

/// A way to compute a class.
#[derive(Clone, Debug)]
pub(super) struct Item {
    pub(super) cost: u64,
    /// Classes needed, sorted.
    pub(super) needs: Vec<u32>,
    /// Which node of the problem it is.
    pub(super) node: u32,
}

/// A problem in reduction.
#[derive(Clone, Debug)]
pub(super) struct Core {
    /// Empty for classes that are gone.
    pub(super) classes: Vec<Vec<Item>>,
    /// Classes that every solution needs, sorted.
    pub(super) roots: Vec<u32>,
    /// Paid already.
    pub(super) base: u64,
    /// The node of classes that were folded into their readers.
    pub(super) forced: Vec<u32>,
    /// Operands looked at.
    pub(super) work: u64,
}

/// No node.
pub(super) const NONE: u32 = u32::MAX;

impl Core {
    pub(super) fn new(problem: &Problem) -> Core {
        let sorted = |classes: &[usize]| {
            let mut all: Vec<u32> = classes.iter().map(|&c| c as u32).collect();
            all.sort_unstable();
            all.dedup();
            all
        };
        let item = |(node, n): (usize, &super::Node)| Item {
            cost: n.cost,
            needs: sorted(&n.operands),
            node: node as u32,
        };
        let class = |nodes: &Vec<super::Node>| nodes.iter().enumerate().map(item).collect();
        Core {
            classes: problem.classes.iter().map(class).collect(),
            roots: sorted(&problem.roots),
            base: 0,
            forced: vec![NONE; problem.classes.len()],
            work: 0,
        }
    }

    /// Reduces until nothing changes; `false` when the roots cannot be computed.
    pub(super) fn reduce(&mut self) -> bool {
        loop {
            if !self.keep_derivable() {
                return false;
            }
            self.keep_reachable();
            let sets = self.needs_of_all();
            let mut changed = self.landmarks(sets.as_ref());
            changed |= self.dominate(sets.as_ref());
            changed |= self.pay_roots();
            changed |= self.fold();
            if !changed {
                return true;
            }
        }
    }

    /// The classes left.
    pub(super) fn len(&self) -> usize {
        self.classes.iter().filter(|c| !c.is_empty()).count()
    }

    /// For each class the items that need it: class and index.
    pub(super) fn readers(&self) -> Vec<Vec<(u32, u32)>> {
        let mut readers = vec![Vec::new(); self.classes.len()];
        for (class, items) in self.classes.iter().enumerate() {
            for (i, item) in items.iter().enumerate() {
                for &need in &item.needs {
                    readers[need as usize].push((class as u32, i as u32));
                }
            }
        }
        readers
    }

    /// Drops items that need what cannot be computed without a cycle.
    fn keep_derivable(&mut self) -> bool {
        let readers = self.readers();
        let mut derivable = vec![false; self.classes.len()];
        let mut missing: Vec<Vec<u32>> = Vec::with_capacity(self.classes.len());
        let mut queue: Vec<usize> = Vec::new();
        for (class, items) in self.classes.iter().enumerate() {
            missing.push(items.iter().map(|i| i.needs.len() as u32).collect());
            if items.iter().any(|i| i.needs.is_empty()) {
                derivable[class] = true;
                queue.push(class);
            }
        }
        while let Some(class) = queue.pop() {
            for &(reader, i) in &readers[class] {
                self.work += 1;
                let left = &mut missing[reader as usize][i as usize];
                *left -= 1;
                if *left == 0 && !derivable[reader as usize] {
                    derivable[reader as usize] = true;
                    queue.push(reader as usize);
                }
            }
        }
        for (class, items) in self.classes.iter_mut().enumerate() {
            items.retain(|item| {
                item.needs.iter().all(|&n| derivable[n as usize] && n as usize != class)
            });
        }
        self.roots.iter().all(|&r| derivable[r as usize])
    }

    fn keep_reachable(&mut self) {
        let mut reached = vec![false; self.classes.len()];
        let mut stack = self.roots.clone();
        while let Some(class) = stack.pop() {
            if std::mem::replace(&mut reached[class as usize], true) {
                continue;
            }
            let needs = self.classes[class as usize].iter().flat_map(|i| &i.needs);
            stack.extend(needs.filter(|&&n| !reached[n as usize]));
        }
        for (items, reached) in self.classes.iter_mut().zip(reached) {
            if !reached {
                items.clear();
            }
        }
    }

    /// For each class what every way to compute it needs, itself included; `None` for large cores.
    fn needs_of_all(&mut self) -> Option<Sets> {
        let live: Vec<u32> = (0..self.classes.len() as u32)
            .filter(|&c| !self.classes[c as usize].is_empty())
            .collect();
        if live.len() > SETS {
            return None;
        }
        let mut sets = Sets::full(&live, self.classes.len());
        let order = self.derivation_order();
        // Greatest fixed point: from "needs everything" downwards.
        loop {
            let mut changed = false;
            for &class in &order {
                let mut meet: Option<Vec<u64>> = None;
                for item in &self.classes[class as usize] {
                    self.work += (item.needs.len() as u64 + 1) * (sets.words as u64).div_ceil(8);
                    let all = sets.union(&item.needs);
                    match &mut meet {
                        None => meet = Some(all),
                        Some(meet) => meet.iter_mut().zip(all).for_each(|(a, b)| *a &= b),
                    }
                }
                let Some(mut meet) = meet else { continue };
                sets.insert(&mut meet, class);
                changed |= sets.replace(class, meet);
            }
            if !changed {
                return Some(sets);
            }
        }
    }

    /// Classes in an order in which each can be computed from those before.
    pub(super) fn derivation_order(&self) -> Vec<u32> {
        let readers = self.readers();
        let mut missing: Vec<Vec<u32>> = Vec::with_capacity(self.classes.len());
        let mut order: Vec<u32> = Vec::new();
        let mut seen = vec![false; self.classes.len()];
        for (class, items) in self.classes.iter().enumerate() {
            missing.push(items.iter().map(|i| i.needs.len() as u32).collect());
            if items.iter().any(|i| i.needs.is_empty()) {
                seen[class] = true;
                order.push(class as u32);
            }
        }
        let mut at = 0;
        while let Some(&class) = order.get(at) {
            at += 1;
            for &(reader, i) in &readers[class as usize] {
                let left = &mut missing[reader as usize][i as usize];
                *left -= 1;
                if *left == 0 && !std::mem::replace(&mut seen[reader as usize], true) {
                    order.push(reader);
                }
            }
        }
        order
    }

    /// What the roots always need is a root too; items that always need their own class go.
    fn landmarks(&mut self, sets: Option<&Sets>) -> bool {
        let before = self.roots.len();
        let Some(sets) = sets else {
            let only = |&r: &u32| match self.classes[r as usize].as_slice() {
                [item] => item.needs.clone(),
                _ => Vec::new(),
            };
            let more: Vec<u32> = self.roots.iter().flat_map(only).collect();
            self.roots.extend(more);
            self.roots.sort_unstable();
            self.roots.dedup();
            return self.roots.len() != before;
        };
        let mut all = vec![0; sets.words];
        for &root in &self.roots {
            all.iter_mut().zip(sets.of(root)).for_each(|(a, b)| *a |= b);
        }
        self.roots = sets.members(&all);
        let mut changed = self.roots.len() != before;
        for (class, items) in self.classes.iter_mut().enumerate() {
            let had = items.len();
            items.retain(|item| !sets.contains(&sets.union(&item.needs), class as u32));
            changed |= items.len() != had;
        }
        changed
    }

    /// Drops an item when another costs no more and needs nothing that this one does not need.
    fn dominate(&mut self, sets: Option<&Sets>) -> bool {
        let mut changed = false;
        for items in &mut self.classes {
            if items.len() < 2 {
                continue;
            }
            let needs = |item: &Item| sets.map(|s| s.union(&item.needs));
            let closures: Vec<Option<Vec<u64>>> = items.iter().map(needs).collect();
            let mut kept = vec![true; items.len()];
            for i in 0..items.len() {
                // What is dominated dominates nothing that its dominator does not.
                if !kept[i] {
                    continue;
                }
                for j in 0..items.len() {
                    self.work += 1;
                    if i == j || !kept[j] || items[i].cost > items[j].cost {
                        continue;
                    }
                    let within = match (sets, &closures[j]) {
                        (Some(sets), Some(all)) => {
                            items[i].needs.iter().all(|&n| sets.contains(all, n))
                        }
                        _ => is_subset(&items[i].needs, &items[j].needs),
                    };
                    kept[j] = !within;
                }
            }
            let mut flags = kept.iter();
            items.retain(|_| *flags.next().unwrap_or(&true));
            changed |= items.len() != kept.len();
        }
        changed
    }

    /// The least cost of a root is paid whatever is chosen.
    fn pay_roots(&mut self) -> bool {
        let mut paid = 0;
        for &root in &self.roots {
            let items = &mut self.classes[root as usize];
            let least = items.iter().map(|i| i.cost).min().unwrap_or(0);
            items.iter_mut().for_each(|i| i.cost -= least);
            paid += least;
        }
        self.base += paid;
        paid > 0
    }

    /// Classes with one item leave when that costs nothing, or has one reader to pay for it: the
    /// readers need what it needs.
    fn fold(&mut self) -> bool {
        let readers = self.readers();
        let mut folded = false;
        let mut touched = vec![false; self.classes.len()];
        for class in 0..self.classes.len() as u32 {
            let [item] = self.classes[class as usize].as_slice() else { continue };
            let root = self.roots.binary_search(&class).is_ok();
            let read = &readers[class as usize];
            let one_reader = read.len() == 1 && !root;
            let quiet = !touched[class as usize] && read.iter().all(|r| !touched[r.0 as usize]);
            if !quiet || !(item.cost == 0 || one_reader) {
                continue;
            }
            // Substitution into many readers must not blow up.
            if read.len() > 1 && item.needs.len() > 1 && read.len() * item.needs.len() > 64 {
                continue;
            }
            let item = item.clone();
            self.forced[class as usize] = item.node;
            self.classes[class as usize].clear();
            touched[class as usize] = true;
            for &(reader, i) in read {
                touched[reader as usize] = true;
                let to = &mut self.classes[reader as usize][i as usize];
                to.cost += item.cost;
                substitute(&mut to.needs, class, &item.needs);
                self.work += to.needs.len() as u64;
            }
            if root {
                substitute(&mut self.roots, class, &item.needs);
            }
            // Its needs have readers that the lists above do not show.
            item.needs.iter().for_each(|&n| touched[n as usize] = true);
            folded = true;
        }
        folded
    }
}

fn substitute(list: &mut Vec<u32>, class: u32, by: &[u32]) {
    list.retain(|&c| c != class);
    list.extend_from_slice(by);
    list.sort_unstable();
    list.dedup();
}

fn is_subset(small: &[u32], large: &[u32]) -> bool {
    small.iter().all(|n| large.binary_search(n).is_ok())
}

/// A set of classes per class, as bits.
struct Sets {
    words: usize,
    bits: Vec<u64>,
    /// Position of a class among the live ones.
    position: Vec<u32>,
    live: Vec<u32>,
}

impl Sets {
    fn full(live: &[u32], classes: usize) -> Sets {
        let words = live.len().div_ceil(64);
        let mut position = vec![NONE; classes];
        live.iter().enumerate().for_each(|(i, &c)| position[c as usize] = i as u32);
        Sets { words, bits: vec![u64::MAX; words * live.len()], position, live: live.to_vec() }
    }

    fn of(&self, class: u32) -> &[u64] {
        let at = self.position[class as usize] as usize * self.words;
        &self.bits[at..at + self.words]
    }

    fn union(&self, classes: &[u32]) -> Vec<u64> {
        let mut all = vec![0; self.words];
        for &class in classes {
            all.iter_mut().zip(self.of(class)).for_each(|(a, b)| *a |= b);
        }
        all
    }

    fn insert(&self, set: &mut [u64], class: u32) {
        let at = self.position[class as usize] as usize;
        set[at / 64] |= 1 << (at % 64);
    }

    fn contains(&self, set: &[u64], class: u32) -> bool {
        let at = self.position[class as usize] as usize;
        at < self.live.len() && set[at / 64] >> (at % 64) & 1 == 1
    }

    fn replace(&mut self, class: u32, set: Vec<u64>) -> bool {
        let at = self.position[class as usize] as usize * self.words;
        let old = &mut self.bits[at..at + self.words];
        let changed = *old != set[..];
        old.copy_from_slice(&set);
        changed
    }

    fn members(&self, set: &[u64]) -> Vec<u32> {
        self.live.iter().copied().filter(|&c| self.contains(set, c)).collect()
    }
}
