//! Seeded maps of dead PEs: scattered one by one, or in clusters.

use std::collections::BTreeSet;

use tensor::Rng;

/// How dead PEs lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spread {
    /// Each anywhere.
    Random,
    /// In clusters of 2 to 12 that touch each other.
    Clustered,
}

/// Most PEs of a cluster.
const CLUSTER: usize = 12;

/// `count` dead PEs of a `width` x `height` wafer as (column, row), sorted as targets list them.
pub fn map(
    spread: Spread,
    (width, height): (u32, u32),
    count: usize,
    seed: u64,
) -> Vec<(u32, u32)> {
    let mut rng = Rng::new(seed);
    let mut dead: BTreeSet<(u32, u32)> = BTreeSet::new();
    while dead.len() < count {
        let (mut x, mut y) = (rng.below(width as usize) as u32, rng.below(height as usize) as u32);
        dead.insert((y, x));
        if spread == Spread::Random {
            continue;
        }
        for _ in 1..2 + rng.below(CLUSTER - 1) {
            match rng.below(4) {
                0 if x + 1 < width => x += 1,
                1 if x > 0 => x -= 1,
                2 if y + 1 < height => y += 1,
                3 if y > 0 => y -= 1,
                _ => {}
            }
            if dead.len() < count {
                dead.insert((y, x));
            }
        }
    }
    dead.into_iter().map(|(y, x)| (x, y)).collect()
}
