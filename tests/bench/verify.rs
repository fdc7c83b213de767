//! Proving a plan of 900,000 tiles legal, and walking over all of them.

use std::time::Instant;

use anyhow::{Result, ensure};
use plan::mutations::{Kind, mutate};
use plan::{Expander, Plan, PlanMap};
use tensor::Rng;

use crate::Figures;
use crate::programs;

/// Broken copies that verify must refuse.
const MUTANTS: usize = 34;

/// Llama-3.1-8B at a context of 4096 on one wse3.
pub(crate) fn llama_8b(figures: &mut Figures) -> Result<()> {
    let built = programs::compile_config("llama-3.1-8b", &["--context", "4096"])?;
    let plan = built.plan()?;
    let tiles: u64 = plan.regions.iter().map(|r| r.rect.area()).sum();
    figures.at_most("compile from config.json", built.compile.seconds, "s", 2.0);
    if let Some(peak) = built.compile.peak_mb {
        figures.at_most("compile, peak memory", peak, "MB", 300.0);
    }
    figures.at_most("plan", plan::codec::encode(&plan).len() as f64 / 1024.0, "KB", 256.0);
    figures.free("tiles", tiles as f64, "tiles");
    let begin = programs::processor_seconds().0;
    let seconds = best_of(5, || plan::verify(&plan).map_err(|v| v.len()));
    let busy = (programs::processor_seconds().0 - begin) / 5.0;
    ensure!(plan::verify(&plan).is_ok(), "the plan is illegal");
    figures.at_most("verify", seconds, "s", 1.0);
    figures.free("verify, processor time", busy, "s");

    let (begin, busy) = (Instant::now(), programs::processor_seconds().1);
    let (walked, facts) = walk(&plan);
    let rate = walked as f64 / begin.elapsed().as_secs_f64();
    ensure!(walked == tiles, "{walked} tiles walked of {tiles}");
    figures.at_least("lazy expansion, one thread", rate, "tiles/s", 5e6);
    let busy = programs::processor_seconds().1 - busy;
    if busy > 0.0 {
        figures.free("the same by processor time", walked as f64 / busy, "tiles/s");
    }
    figures.free("facts per tile", facts as f64 / tiles as f64, "");

    let mut rng = Rng::new(1);
    let (mut made, mut refused) = (0, 0);
    for kind in Kind::ALL.into_iter().cycle().take(MUTANTS) {
        let Some(mutant) = mutate(&plan, kind, &mut rng) else { continue };
        made += 1;
        refused += usize::from(plan::verify(&mutant).is_err());
    }
    figures.at_least("mutants refused", 100.0 * refused as f64 / made as f64, "%", 100.0);
    figures.free("mutants", made as f64, "");
    Ok(())
}

/// Looks at every role, route and slice of every tile; (tiles, facts).
fn walk(plan: &Plan) -> (u64, u64) {
    let map = PlanMap::new(plan);
    let walks: Vec<Expander<'_>> = map.templates.iter().map(Expander::new).collect();
    let (mut tiles, mut facts, mut sum) = (0u64, 0u64, 0u64);
    for region in &plan.regions {
        let walk = &walks[region.template.0 as usize];
        for y in 0..region.rect.h {
            for x in 0..region.rect.w {
                tiles += 1;
                let roles = walk.roles(x, y);
                facts += roles.len() as u64;
                sum = roles.iter().fold(sum, |s, &r| s.wrapping_mul(31).wrapping_add(r.into()));
                for &(input, outputs) in walk.routes(x, y).iter().filter(|r| r.0 != 0) {
                    facts += 1;
                    sum = sum.wrapping_add(u64::from(input) << 8 | u64::from(outputs));
                }
                for slice in walk.pins(x, y) {
                    facts += 1;
                    sum = sum.wrapping_add(slice.axis0.0 ^ slice.axis0.1 ^ slice.axis1.0);
                }
            }
        }
    }
    std::hint::black_box(sum);
    (tiles, facts)
}

/// Least seconds of `n` runs.
fn best_of<T>(n: usize, mut f: impl FnMut() -> T) -> f64 {
    let mut best = f64::INFINITY;
    for _ in 0..n {
        let begin = Instant::now();
        std::hint::black_box(f());
        best = best.min(begin.elapsed().as_secs_f64());
    }
    best
}
