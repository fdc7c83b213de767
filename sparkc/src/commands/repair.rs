//! `sparkc repair`: more PEs of a wafer are dead, and a finished plan goes around them.
//!
//! Only what lay on a dead PE, and its row up to the nearest spare, moves by a column; regions, programs and
//! the rest of the wafer stay. The plan is proven before it is touched, and the new paths before anything is
//! written.

use std::collections::BTreeMap;

use anyhow::Result;
use backend_wafer::place::repair::amend;
use plan::{Plan, Point, RegionId};
use serde_json::json;

use crate::cli::RepairArgs;
use crate::commands::compile::names;
use crate::driver::plan_file::{self, PlanFile};
use crate::exit::Fault;
use crate::output;
use crate::report::grouped;

/// Runs it.
///
/// # Errors
/// A file that is no legal plan, a PE that is on no wafer, no spare or no path left, a file that cannot be
/// written.
pub fn run(args: &RepairArgs) -> Result<()> {
    let file = plan_file::read(&args.plan)?;
    prove(&file)?;
    let mut plan = file.plan.clone();
    let (mut moved, mut paths) = (Vec::new(), 0);
    for &(x, y) in &args.dead {
        let done = amend(&mut plan, Point { x, y })?;
        moved.extend(done.moved);
        paths += done.paths;
    }
    moved.sort_by_key(|p| (p.y, p.x));
    moved.dedup();
    if let Err(violations) = plan::verify_repair(&plan) {
        return Err(Fault::internal(format!("the repair is not legal: {}", violations[0])).into());
    }
    let target = args.output.clone().unwrap_or_else(|| file.path().to_path_buf());
    output::write_file(&target, &plan::codec::encode_with_weights(&plan, file.embedded()))?;
    let map = file.path().with_file_name(names::MAP);
    if args.output.is_none() && args.plan.is_dir() && map.exists() {
        output::write_file(&map, backend_wafer::report::html(&plan).as_bytes())?;
    }
    let by_region = by_region(&plan, &moved);
    let (before, after) = (file.plan.claims.token_cycles, plan.claims.token_cycles);
    if args.json {
        return output::print_json(&json!({
            "dead": args.dead,
            "moved": moved.iter().map(|p| (p.x, p.y)).collect::<Vec<_>>(),
            "moved_by_region": by_region.iter().map(|(&i, n)| (name(&plan, i), n)).collect::<BTreeMap<_, _>>(),
            "paths": paths,
            "token_cycles": { "before": before, "after": after },
            "digest": plan::codec::digest(&plan),
        }));
    }
    let mut text = format!("{} PEs moved by a column and load their weights again\n", moved.len());
    for (&region, n) in &by_region {
        text += &format!("  {:<14} {n}\n", name(&plan, region));
    }
    text += &format!(
        "{paths} paths changed; {} cycles for a token, {} before\n",
        grouped(after),
        grouped(before)
    );
    output::print(&text)
}

/// Refuses a plan that is not legal: a repair in place must not pass it on as its own.
fn prove(file: &PlanFile) -> Result<()> {
    let Err(violations) = plan::verify::verify(&file.plan) else { return Ok(()) };
    let found = violations.first().map_or(String::new(), |v| format!(": {v}"));
    let message = format!("`{}` is not a legal plan{found}", file.path().display());
    let advice = "`sparkc verify` lists every rule that it breaks; compile the model again";
    Err(Fault::bad_input("SPK5021", message).advise(advice).into())
}

/// PEs moved per region, in the order of the plan.
fn by_region(plan: &Plan, moved: &[Point]) -> BTreeMap<RegionId, u64> {
    let mut counts = BTreeMap::new();
    for p in moved {
        let at = plan.regions.iter().position(|r| r.rect.contains(*p));
        if let Some(i) = at {
            *counts.entry(RegionId(i as u32)).or_default() += 1;
        }
    }
    counts
}

fn name(plan: &Plan, region: RegionId) -> &str {
    plan.regions.get(region.0 as usize).map_or("?", |r| r.name.as_str())
}
