//! Better choices of a large core: many starts of local search, merged, and kicks of the best choice.
//!
//! Proves nothing and changes no bound: what it finds is offered to the search. Random numbers are the same on
//! every machine, and the share of the work that each part may use is fixed, so the choices are reproducible.

use super::{Search, guided, small};
use crate::extract::Problem;
use crate::extract::bound::{Bound, Pool};
use crate::extract::primal::Primal;
use crate::extract::reduce::Core;

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

impl Search<'_> {
    /// Better choices where the first ones left a gap, for a third of the work where pricing pays, for three fifths
    /// elsewhere. Half of that for other starts: the guide of the bound, then guide and costs changed at random by up
    /// to half; and some such choices at a time merged: the core is searched that has only the items which any of
    /// them picked (construct, merge, solve and adapt: Blum et al., 2016). The rest for kicks of the best.
    pub(super) fn explore(&mut self, core: &Core, found: &Bound) {
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
            let guide = guided(&small, &live, found, |own, led| {
                let cost = if self.prices || round % 2 == 1 { led } else { own };
                if round == 0 { led } else { noise.times(cost, 128) }
            });
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
}
