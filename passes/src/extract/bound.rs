//! Lower bounds by landmark cuts (Helmert and Domshlak, "Landmarks, critical paths and abstractions",
//! ICAPS 2009; extraction without cycles is delete-free planning: a node is an action, a class a fact).
//!
//! A cut is a set of items of which every solution picks one. Its cheapest item is charged, all of it
//! become cheaper by that much, and again, until the roots cost nothing under `h`, the cost of the
//! dearest chain that a class needs. What is left of an item's cost after all cuts is what a solution
//! with this item costs at least *on top* of the bound: items that leave no room go.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::reduce::{Core, NONE};

/// A bound and the costs it leaves.
pub(super) struct Bound {
    /// Every solution costs at least this, what is paid already included.
    pub(super) cost: u64,
    /// Per class and item: what picking it adds to the bound at least.
    pub(super) left: Vec<Vec<u64>>,
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
    work: u64,
}

const FAR: u64 = u64::MAX;

/// The bound of a reduced core; stops early, with a weaker bound, when the work is used up.
pub(super) fn bound(core: &mut Core, work_limit: u64) -> Bound {
    let mut cuts = Cuts::new(core);
    let mut total = core.base;
    while cuts.work < work_limit {
        let Some(cost) = cuts.cut() else { break };
        total += cost;
    }
    let left = (0..core.classes.len())
        .map(|c| cuts.left[cuts.first[c] as usize..cuts.first[c + 1] as usize].to_vec())
        .collect();
    let work = cuts.work;
    core.work += work;
    Bound { cost: total, left }
}

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
        let mut cuts = Cuts { core, first, class_of, left, readers, supporter, h, work: 0 };
        cuts.first_h();
        cuts
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

    /// One cut: its charge, or `None` when the goal costs nothing (or cannot be reached).
    fn cut(&mut self) -> Option<u64> {
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
        Some(charge)
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
