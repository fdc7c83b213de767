//! The memory plan: which storages share a slot of the arena.
//!
//! A storage lives from the call that writes it to the last call that reads it. Storages whose lives
//! do not touch may share a slot; slots never overlap. So no two live values overlap, whatever the
//! sizes turn out to be at run time. The plan proves this again on its result.

use ir::{Bindings, Dim};
use runtime::program::Size;

/// Memory of one or more values that are views of each other.
#[derive(Clone, Debug)]
struct Storage {
    elements: Dim,
    /// First and last call that touches it, as times.
    first: u32,
    last: u32,
}

/// Storages with their lives.
#[derive(Clone, Debug, Default)]
pub(super) struct Memory {
    storages: Vec<Storage>,
    now: u32,
}

/// The result.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    /// Sizes of the storages in each slot, each size once.
    pub(super) slots: Vec<Vec<Size>>,
    /// Slot of each storage.
    pub(super) slot_of: Vec<u32>,
}

/// Tokens of a step for which slots are matched; only how tight they are depends on it.
const TYPICAL_TOKENS: usize = 96;

impl Memory {
    /// The time of the call being made.
    pub(super) fn now(&self) -> u32 {
        self.now
    }

    /// The next call begins.
    pub(super) fn tick(&mut self) {
        self.now += 1;
    }

    /// A storage that is written now.
    pub(super) fn add(&mut self, elements: Dim) -> usize {
        self.storages.push(Storage { elements, first: self.now, last: self.now });
        self.storages.len() - 1
    }

    /// The storage is read or written now.
    pub(super) fn touch(&mut self, storage: usize) {
        self.storages[storage].last = self.storages[storage].last.max(self.now);
    }

    /// Lets storage `from` live in `to`, which has as many elements, where `to` is dead before `from`
    /// is first written; says whether it could.
    pub(super) fn merge(&mut self, from: usize, to: usize) -> bool {
        let (old, new) = (&self.storages[to], &self.storages[from]);
        if old.last >= new.first || old.elements != new.elements {
            return false;
        }
        self.storages[to].last = self.storages[from].last.max(self.now);
        self.storages[from].elements = Dim::from(0);
        true
    }

    /// The storage lives to the end.
    pub(super) fn keep(&mut self, storage: usize) {
        self.storages[storage].last = u32::MAX;
    }

    /// The storages touched between `start` and now that existed before `start` live until now: a
    /// loop reads them again in its next turn.
    pub(super) fn close_loop(&mut self, start: u32) {
        for s in &mut self.storages {
            if s.first < start && s.last >= start {
                s.last = s.last.max(self.now);
            }
        }
    }

    /// Assigns slots, first to storages that live first, each to the free slot that fits best.
    pub(super) fn plan(&self, context: usize) -> Result<Plan, String> {
        let typical = Bindings { t: TYPICAL_TOKENS.min(context).max(1), c: context, r: 1 };
        let bytes = |s: &Storage| s.elements.eval(&typical).unwrap_or(usize::MAX);
        let mut order: Vec<usize> = (0..self.storages.len()).collect();
        order.sort_by_key(|&i| (self.storages[i].first, i));
        // For each slot: size at the typical step, and when it becomes free.
        let mut slots: Vec<(usize, u32)> = Vec::new();
        let mut slot_of = vec![0u32; self.storages.len()];
        for i in order {
            let storage = &self.storages[i];
            let need = bytes(storage);
            let free = (0..slots.len()).filter(|&s| slots[s].1 < storage.first);
            // The smallest slot that is large enough, else the largest that is not.
            let best = free.min_by_key(|&s| match slots[s].0.checked_sub(need) {
                Some(spare) => (0, spare),
                None => (1, need - slots[s].0),
            });
            let slot = best.unwrap_or_else(|| {
                slots.push((0, 0));
                slots.len() - 1
            });
            slots[slot] = (slots[slot].0.max(need), storage.last);
            slot_of[i] = u32::try_from(slot).map_err(|_| "too many slots".to_string())?;
        }
        let plan = Plan { slots: self.slot_sizes(slots.len(), &slot_of), slot_of };
        self.prove(&plan)?;
        Ok(plan)
    }

    fn slot_sizes(&self, count: usize, slot_of: &[u32]) -> Vec<Vec<Size>> {
        let mut sizes = vec![Vec::new(); count];
        for (storage, &slot) in self.storages.iter().zip(slot_of) {
            let size = size(&storage.elements);
            if !sizes[slot as usize].contains(&size) {
                sizes[slot as usize].push(size);
            }
        }
        sizes
    }

    /// No two storages of a slot live at the same time.
    fn prove(&self, plan: &Plan) -> Result<(), String> {
        for (i, a) in self.storages.iter().enumerate() {
            for (j, b) in self.storages.iter().enumerate().skip(i + 1) {
                let together = a.first <= b.last && b.first <= a.last;
                if together && plan.slot_of[i] == plan.slot_of[j] {
                    return Err(format!("storages {i} and {j} share slot {}", plan.slot_of[i]));
                }
            }
        }
        Ok(())
    }
}

/// A dim as a size of the runtime: the same terms.
pub(super) fn size(dim: &Dim) -> Size {
    Size(dim.terms().to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tensor::Rng;

    #[test]
    fn random_lives_share_slots_and_never_overlap() {
        let mut rng = Rng::new(9);
        for _ in 0..50 {
            let mut memory = Memory::default();
            for _ in 0..40 {
                memory.tick();
                for _ in 0..rng.below(3) {
                    memory.add(Dim::from(1 + rng.below(100)));
                }
                for i in 0..memory.storages.len() {
                    if rng.below(6) == 0 && memory.storages[i].last + 4 > memory.now() {
                        memory.touch(i);
                    }
                }
            }
            let plan = memory.plan(64).unwrap();
            assert!(plan.slots.len() < memory.storages.len() / 2, "slots are reused");
            let mut wrong = plan.clone();
            wrong.slot_of.fill(0);
            assert!(memory.prove(&wrong).is_err());
        }
    }

    #[test]
    fn what_a_loop_reads_again_outlives_it() {
        let mut memory = Memory::default();
        let outer = memory.add(Dim::from(4));
        memory.tick();
        let start = memory.now();
        memory.touch(outer);
        memory.tick();
        let inner = memory.add(Dim::from(4));
        memory.tick();
        memory.close_loop(start);
        let plan = memory.plan(8).unwrap();
        assert_ne!(plan.slot_of[outer], plan.slot_of[inner]);
    }
}
