//! Wafers with dead PEs: a thousand seeded maps of each kind, planned, proven and priced.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::time::Instant;

use anyhow::{Context, Result, anyhow, ensure};
use backend_wafer::place::repair::{amend, detour_cycles, grid, repair};
use harness::defects::{Spread, map};
use plan::{Plan, Point, Target};
use simulator::timing::{Level, time};

use crate::Figures;
use crate::programs;

/// Name, how they lie, one dead PE in so many, latency allowed.
const KINDS: [(&str, Spread, usize, f64); 4] = [
    ("0.1 % random", Spread::Random, 1000, 2.0),
    ("0.1 % clustered", Spread::Clustered, 1000, 2.0),
    ("1 % random", Spread::Random, 100, 5.0),
    ("1 % clustered", Spread::Clustered, 100, 5.0),
];

/// A thousand maps of each kind.
pub(crate) fn all(figures: &mut Figures) -> Result<()> {
    maps(figures, 1000)
}

/// The first five of each kind.
pub(crate) fn sample(figures: &mut Figures) -> Result<()> {
    maps(figures, 5)
}

fn compile(target: &Target) -> Result<Plan> {
    let toml = tempfile::NamedTempFile::new()?;
    std::fs::write(toml.path(), target_text(target))?;
    let path = toml.path().to_str().context("a path in UTF-8")?;
    let args = ["--context", "4096", "--target", path, "--wafers", "1"];
    programs::compile_config("llama-3.1-8b", &args)?.plan()
}

/// `wse3` with another width.
fn target_text(target: &Target) -> String {
    let text = Target::preset_text("wse3").unwrap_or_default();
    text.replace("\nwidth = 755", &format!("\nwidth = {}", target.width))
}

fn maps(figures: &mut Figures, count: u64) -> Result<()> {
    let wse3 = Target::preset("wse3").context("a preset")?;
    let size = (wse3.width, wse3.height);
    let perfect = compile(&wse3)?;
    let base = time(&perfect, Level::L0, perfect.claims.at_pos)?.token_cycles as f64;
    // Plans of a grid do not depend on where PEs are dead.
    let mut plans: BTreeMap<u32, Plan> = BTreeMap::new();
    for (name, spread, share, allowed) in KINDS {
        let (mut planned, mut slowest, mut claimed) = (0u32, 0f64, 0f64);
        let mut measured = f64::NEG_INFINITY;
        for seed in 0..count {
            let dead = map(spread, size, (size.0 * size.1) as usize / share, seed);
            let target = Target { dead, ..wse3.clone() };
            let begin = Instant::now();
            let Ok((narrow, spares)) = grid(&target) else { continue };
            if let Entry::Vacant(slot) = plans.entry(narrow.width) {
                slot.insert(compile(&narrow)?);
            }
            let mut plan = plans[&narrow.width].clone();
            plan.repair = Some(repair(&target, 1, spares)?);
            slowest = slowest.max(begin.elapsed().as_secs_f64());
            planned += u32::from(plan::verify(&plan).is_ok());
            let claim = plan.claims.token_cycles + detour_cycles(&plan);
            claimed = claimed.max(claim as f64 / perfect.claims.token_cycles as f64);
            if seed % 200 == 0 {
                let cycles = time(&plan, Level::L0, plan.claims.at_pos)?.token_cycles;
                measured = measured.max(cycles as f64 / base);
                one_more(figures, name, &plan, seed)?;
            }
        }
        ensure!(planned > 0, "no map of {name} was planned");
        let share = 100.0 * f64::from(planned) / count as f64;
        figures.at_least(&format!("{name}: planned and proven"), share, "%", 100.0);
        figures.at_most(
            &format!("{name}: latency, simulated, largest of one in 200"),
            100.0 * (measured - 1.0),
            "%",
            allowed,
        );
        figures.free(&format!("{name}: latency, claimed, largest"), 100.0 * (claimed - 1.0), "%");
        figures.free(&format!("{name}: repair, slowest"), slowest, "s");
    }
    Ok(())
}

/// One more dead PE in a plan.
fn one_more(figures: &mut Figures, name: &str, plan: &Plan, seed: u64) -> Result<()> {
    if seed > 0 {
        return Ok(());
    }
    let repair = plan.repair.as_ref().context("a repaired plan")?;
    let (x, y) = map(Spread::Random, (repair.width, plan.target.height), 1, 7)[0];
    let mut amended = plan.clone();
    let begin = Instant::now();
    amend(&mut amended, Point { x, y })?;
    figures.at_most(&format!("{name}: one more"), begin.elapsed().as_secs_f64(), "s", 1.0);
    ensure!(amended.regions == plan.regions, "a region moved");
    plan::verify(&amended).map_err(|v| anyhow!("{}", v[0]))
}
