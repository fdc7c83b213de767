//! Better prices of cuts: the linear program that packs them into the costs of items.
//!
//! Prices are wanted, not negative, whose sum is large while the prices of the cuts through an item add up to no
//! more than its cost. That is the dual of the relaxed problem "pick a part of each item so that every cut is hit".
//! Method: the volume algorithm (Barahona and Anbil, 2000): subgradients whose direction is that of the average of
//! what was picked, so that the average tends to a solution of the relaxed problem, which says where cuts are
//! missing. Prices may end a little too high: who charges them takes what costs allow, so nothing that is proven
//! rests on floating point.

use std::collections::BTreeMap;

/// Cuts, as sorted items, with prices.
pub(super) type Priced = BTreeMap<Vec<u32>, f64>;

/// Steps without a better sum after which steps become shorter.
const PATIENCE: usize = 10;
/// Steps end when they are this short.
const SHORTEST: f64 = 0.02;
/// What share of the average the newest pick is.
const NEWEST: f64 = 0.08;
/// How far above what is reached steps aim.
const AHEAD: f64 = 1.05;

/// Improves prices for items of these costs in so many steps; `most` is the most that their sum could be. Cuts whose
/// price ends at nothing are dropped. Gives how much of each item the relaxed problem picks, and the work done.
pub(super) fn improve(
    priced: &mut Priced,
    costs: &[f64],
    most: f64,
    steps: usize,
) -> (Vec<f64>, u64) {
    let cuts: Vec<&Vec<u32>> = priced.keys().collect();
    let size: usize = cuts.iter().map(|c| c.len() + 1).sum();
    let mut best: Vec<f64> = priced.values().copied().collect();
    let mut prices = best.clone();
    let (mut sum, mut length, mut since, mut work) = (f64::NEG_INFINITY, 1.0, 0, 0);
    let mut left = vec![0.0; costs.len()];
    let mut picked = vec![0.0; costs.len()];
    let mut slopes = vec![0.0; cuts.len()];
    for step in 0..steps {
        work += 2 * size as u64;
        left.copy_from_slice(costs);
        for (cut, price) in cuts.iter().zip(&prices) {
            cut.iter().for_each(|&i| left[i as usize] -= price);
        }
        let over: f64 = left.iter().filter(|l| **l < 0.0).sum();
        let found = prices.iter().sum::<f64>() + over;
        let newest = if step == 0 { 1.0 } else { NEWEST };
        for (picked, left) in picked.iter_mut().zip(&left) {
            *picked += newest * (f64::from(*left < 0.0) - *picked);
        }
        if found > sum {
            (sum, since) = (found, 0);
            best.copy_from_slice(&prices);
        } else {
            since += 1;
            if since % PATIENCE == 0 {
                length *= 0.66;
            }
        }
        let mut norm = 0.0;
        for ((cut, price), slope) in cuts.iter().zip(&best).zip(&mut slopes) {
            *slope = 1.0 - cut.iter().map(|&i| picked[i as usize]).sum::<f64>();
            if *price <= 0.0 && *slope < 0.0 {
                *slope = 0.0;
            }
            norm += *slope * *slope;
        }
        if norm == 0.0 || sum >= most || length < SHORTEST {
            break;
        }
        let scale = length * (most.min(AHEAD * sum) - sum) / norm;
        for ((price, best), slope) in prices.iter_mut().zip(&best).zip(&slopes) {
            *price = (best + scale * slope).max(0.0);
        }
    }
    let names: Vec<Vec<u32>> = cuts.into_iter().cloned().collect();
    *priced = names.into_iter().zip(best).filter(|(_, price)| *price > 0.0).collect();
    (picked, work)
}
