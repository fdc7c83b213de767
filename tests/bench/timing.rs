//! Speed of the timing engine: every wavelet of every tile, and whole models.

use std::time::Instant;

use anyhow::{Result, ensure};
use backend_wafer::kernels::{Kernel, build};
use plan::Target;
use simulator::fabric::Fabric;
use simulator::timing::domain::Domain;
use simulator::timing::engine::{self, Job, Outcome};
use simulator::timing::{Level, time_unchecked, wavelets};

use crate::Figures;
use crate::programs;

/// Sides of the squares of PEs.
const SIDES: [u32; 3] = [64, 128, 256];

/// Seconds of this thread, by its processor time where the system tells.
fn seconds<T>(run: impl FnOnce() -> T) -> (T, f64) {
    let (wall, busy) = (Instant::now(), programs::processor_seconds().1);
    let result = run();
    let busy = programs::processor_seconds().1 - busy;
    let wall = wall.elapsed().as_secs_f64();
    (result, if busy > 0.0 { busy } else { wall })
}

/// Level 3 on a MeshGEMV: cycles in which PEs work or move wavelets, and wavelets times links, per
/// second of one core; moved by runs where links are free, and one by one as where they
/// are contended for.
pub(crate) fn level_3(figures: &mut Figures) -> Result<()> {
    let target = Target::preset("wse3").ok_or_else(|| anyhow::anyhow!("no preset wse3"))?;
    for side in SIDES {
        let kernel = Kernel::MeshGemv { grid: side, tile: (24, 24), group: 16 };
        let plan = build(kernel, &target)?;
        let fabric = Fabric::new(&plan)?;
        let domain = Domain::of_plan(&fabric, 0);
        let tiles: Vec<u32> = (0..domain.len() as u32).collect();
        let starts = vec![0; tiles.len()];
        let phases = 0..usize::MAX;
        let job = Job { domain: &domain, tiles: &tiles, phases, starts: &starts, entering: &[] };
        let mut speed = |how: &str, run: fn(&Job<'_>) -> Outcome| {
            let (outcome, seconds) = seconds(|| run(&job));
            let rates = [
                ("active PE-cycles", outcome.work.active_cycles, 10e6),
                ("wavelet-hops", outcome.work.hops, 20e6),
            ];
            for (what, count, reach) in rates {
                let (name, rate) = (format!("{side}x{side} {how}: {what}"), count as f64 / seconds);
                figures.at_least(&name, rate, "per s and core", reach);
            }
            outcome.ends
        };
        let (runs, events) = (speed("by runs", engine::run), speed("one by one", wavelets::run));
        ensure!(runs == events, "{side}x{side}: the two engines disagree");
    }
    Ok(())
}

/// One decode token of Llama-3.1-8B at a context of 4096 on one wse3.
pub(crate) fn llama_8b(figures: &mut Figures) -> Result<()> {
    let built = programs::compile_config("llama-3.1-8b", &["--context", "4096"])?;
    let plan = built.plan()?;
    let mut cycles = Vec::new();
    for (name, level) in [("level 0", Level::L0), ("level 2", Level::L2)] {
        let begin = Instant::now();
        cycles.push(time_unchecked(&plan, level, plan.claims.at_pos)?.token_cycles);
        figures.at_most(name, begin.elapsed().as_secs_f64(), "s", 10.0);
    }
    ensure!(cycles[0] == cycles[1], "levels disagree: {cycles:?}");
    Ok(())
}
