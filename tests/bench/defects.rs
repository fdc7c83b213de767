//! Wafers with dead PEs: a thousand seeded maps of each kind, planned, proven and priced.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use anyhow::{Context, Result, anyhow, ensure};
use backend_wafer::place::repair::{amend, around, detour_cycles};
use harness::defects::{Spread, map};
use plan::{Plan, Point, Target};
use simulator::timing::{Level, time};

use crate::Figures;
use crate::programs;

/// A kind of maps.
struct Kind {
    name: &'static str,
    spread: Spread,
    /// One dead PE in so many.
    share: usize,
    /// Latency that they may add, in per cent.
    allowed: f64,
}

const KINDS: [Kind; 4] = [
    Kind { name: "0.1 % random", spread: Spread::Random, share: 1000, allowed: 2.0 },
    Kind { name: "0.1 % clustered", spread: Spread::Clustered, share: 1000, allowed: 2.0 },
    Kind { name: "1 % random", spread: Spread::Random, share: 100, allowed: 5.0 },
    Kind { name: "1 % clustered", spread: Spread::Clustered, share: 100, allowed: 5.0 },
];
/// Maps whose whole plan is proven and simulated: one in so many. Of the others the repair is proven, on
/// which nothing else depends, and priced by the plan's claim.
const SIMULATED: u64 = 50;

/// A thousand maps of kind `K`.
pub(crate) fn thousand<const K: usize>(figures: &mut Figures) -> Result<()> {
    maps(figures, &KINDS[K..=K], 1000)
}

/// The first five of each kind.
pub(crate) fn sample(figures: &mut Figures) -> Result<()> {
    maps(figures, &KINDS, 5)
}

/// What maps of one kind came to.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    planned: u64,
    /// Largest: seconds of a repair, claimed and simulated cycles, columns given up.
    slowest: f64,
    claimed: u64,
    claimed_sum: u64,
    simulated: u64,
    given_up: u32,
}

impl Seen {
    fn and(self, other: Seen) -> Seen {
        Seen {
            planned: self.planned + other.planned,
            slowest: self.slowest.max(other.slowest),
            claimed: self.claimed.max(other.claimed),
            claimed_sum: self.claimed_sum + other.claimed_sum,
            simulated: self.simulated.max(other.simulated),
            given_up: self.given_up.max(other.given_up),
        }
    }
}

fn maps(figures: &mut Figures, kinds: &[Kind], count: u64) -> Result<()> {
    let wse3 = Target::preset("wse3").context("a preset")?;
    let args = ["--context", "4096", "--target", "wse3", "--wafers", "1"];
    let perfect = programs::compile_config("llama-3.1-8b", &args)?.plan()?;
    let base = time(&perfect, Level::L0, perfect.claims.at_pos)?.token_cycles as f64;
    for &Kind { name, spread, share, allowed } in kinds {
        let dead = |seed| {
            let size = (wse3.built_width(), wse3.height);
            map(spread, size, (size.0 * size.1) as usize / share, seed)
        };
        let seen = seeds(count, |seed| one(&perfect, dead(seed), seed))?;
        let over = |cycles: f64, of: f64| 100.0 * (cycles / of - 1.0);
        let planned = 100.0 * seen.planned as f64 / count as f64;
        figures.at_least(&format!("{name}: planned and proven"), planned, "%", 100.0);
        let claim = perfect.claims.token_cycles as f64;
        let largest = over(seen.claimed as f64, claim);
        figures.at_most(&format!("{name}: latency, claimed, largest"), largest, "%", allowed);
        let mean = over(seen.claimed_sum as f64 / seen.planned.max(1) as f64, claim);
        figures.free(&format!("{name}: latency, claimed, mean"), mean, "%");
        let largest = over(seen.simulated as f64, base);
        let what = format!("{name}: latency, simulated, largest of one in {SIMULATED}");
        figures.at_most(&what, largest, "%", allowed);
        figures.free(&format!("{name}: columns given up, most"), seen.given_up.into(), "");
        figures.free(&format!("{name}: repair, slowest"), seen.slowest, "s");
        one_more(figures, name, &perfect, dead(0))?;
    }
    Ok(())
}

/// Runs seeds on two cores; each is judged alone, so the sum does not depend on their order.
fn seeds(count: u64, run: impl Fn(u64) -> Result<Seen> + Sync) -> Result<Seen> {
    let next = AtomicU64::new(0);
    let work = || {
        let mut seen = Seen::default();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= count {
                return anyhow::Ok(seen);
            }
            seen = seen.and(run(seed)?);
        }
    };
    std::thread::scope(|scope| {
        let other = scope.spawn(work);
        let mine = work()?;
        let other = other.join().map_err(|_| anyhow!("a thread panicked"))??;
        Ok(mine.and(other))
    })
}

/// One map: repaired, proven, priced. A map that is not planned counts as such.
fn one(perfect: &Plan, dead: Vec<(u32, u32)>, seed: u64) -> Result<Seen> {
    let target = Target { dead, ..perfect.target.clone() };
    let begin = Instant::now();
    let Ok(around) = around(&target) else { return Ok(Seen::default()) };
    let slowest = begin.elapsed().as_secs_f64();
    let mut seen = Seen { slowest, ..Seen::default() };
    seen.given_up = target.width - around.grid.width;
    if seen.given_up > 0 {
        return Ok(seen);
    }
    let mut plan = perfect.clone();
    plan.repair = Some(around.repair(1));
    if plan::verify_repair(&plan).is_err() {
        return Ok(seen);
    }
    seen.planned = 1;
    seen.claimed = plan.claims.token_cycles + detour_cycles(&plan);
    seen.claimed_sum = seen.claimed;
    if seed.is_multiple_of(SIMULATED) {
        plan::verify(&plan).map_err(|v| anyhow!("{}", v[0]))?;
        seen.simulated = time(&plan, Level::L0, plan.claims.at_pos)?.token_cycles;
    }
    Ok(seen)
}

/// One more dead PE in a plan.
fn one_more(figures: &mut Figures, name: &str, plan: &Plan, dead: Vec<(u32, u32)>) -> Result<()> {
    let target = Target { dead, ..plan.target.clone() };
    let mut plan = plan.clone();
    plan.repair = Some(around(&target)?.repair(1));
    let (x, y) = map(Spread::Random, (target.built_width(), target.height), 1, 7)[0];
    let mut amended = plan.clone();
    let begin = Instant::now();
    amend(&mut amended, Point { x, y })?;
    figures.at_most(&format!("{name}: one more"), begin.elapsed().as_secs_f64(), "s", 1.0);
    ensure!(amended.regions == plan.regions, "a region moved");
    plan::verify(&amended).map_err(|v| anyhow!("{}", v[0]))
}
