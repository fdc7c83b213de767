//! Cuts that are missing: those that the relaxed problem hits by less than one whole item.
//!
//! In: how much of each item the relaxed problem picks (`price`). Out: more cuts for it, without a price yet.
//! A cut found is a true one whatever the weights say, so floating point decides only which cuts are looked at.

use super::Cuts;
use crate::extract::price::Priced;

/// A cut that is hit this much is not worth adding.
const ENOUGH: f64 = 0.95;
/// Weight of an item that nothing picks: of cuts that nothing hits, the smallest are wanted.
const FAINT: f64 = 0.001;
/// Passes over all classes to weigh them; more are needed only where cycles are long.
const SWEEPS: usize = 6;
/// A weight that no cut worth adding has.
const MUCH: f64 = 2.0;
/// Cuts behind each other that are added at a time.
const NESTED: usize = 30;

impl Cuts<'_> {
    /// Adds cuts that the relaxed problem hits too little; whether any is new. What is in
    /// one counts as picked in the next pass, so that cuts lie behind each other.
    pub(super) fn separate(&mut self, picked: &[f64], priced: &mut Priced) -> bool {
        let free = |(p, c): (&f64, u64)| if c == 0 { MUCH } else { p + FAINT };
        let mut own: Vec<f64> = picked.iter().zip(self.costs()).map(free).collect();
        let before = priced.len();
        for _ in 0..NESTED {
            let weight = self.weigh(&own);
            let mut found = Vec::new();
            for at in 0..self.core.roots.len() {
                let root = self.core.roots[at];
                if weight[root as usize] >= ENOUGH {
                    continue;
                }
                let mut cut = self.lightest(root, &weight, &own);
                if cut.iter().map(|&i| own[i as usize]).sum::<f64>() < ENOUGH {
                    cut.sort_unstable();
                    found.push(cut);
                }
            }
            if found.is_empty() {
                break;
            }
            for cut in found {
                cut.iter().for_each(|&i| own[i as usize] = 1.0);
                priced.entry(cut).or_insert(0.0);
            }
        }
        priced.len() > before
    }

    /// For each class the weight of the lightest cut that is seen below it: for each item the item itself or the
    /// lightest of its needs. From nothing upwards, so support that goes round counts for nothing.
    fn weigh(&mut self, own: &[f64]) -> Vec<f64> {
        let mut weight = vec![0.0f64; self.core.classes.len()];
        for _ in 0..SWEEPS {
            let mut changed = false;
            for class in self.order.iter().copied() {
                let mut sum = 0.0;
                for item in self.items(class as usize) {
                    let needs = self.needs(item);
                    self.work += 1 + needs.len() as u64;
                    sum += needs
                        .iter()
                        .map(|&n| weight[n as usize])
                        .fold(own[item as usize], f64::min);
                }
                changed |= sum > weight[class as usize] && weight[class as usize] < MUCH;
                weight[class as usize] = sum.min(MUCH);
            }
            if !changed {
                break;
            }
        }
        weight
    }

    /// The cut of a class that [`Cuts::weigh`] weighed.
    fn lightest(&mut self, class: u32, weight: &[f64], own: &[f64]) -> Vec<u32> {
        let mut cut = Vec::new();
        let mut stack = vec![class];
        let mut seen = vec![false; weight.len()];
        seen[class as usize] = true;
        while let Some(class) = stack.pop() {
            for item in self.items(class as usize) {
                let needs = self.needs(item);
                self.work += 1 + needs.len() as u64;
                let of = |n: &&u32| weight[**n as usize];
                match needs.iter().min_by(|a, b| of(a).total_cmp(&of(b))) {
                    Some(&need) if weight[need as usize] < own[item as usize] => {
                        if !std::mem::replace(&mut seen[need as usize], true) {
                            stack.push(need);
                        }
                    }
                    _ => cut.push(item),
                }
            }
        }
        cut
    }
}
