//! `sparkc repair`: more PEs of a wafer are dead, and a finished plan goes around them.
//!
//! Only what lay on a dead PE, and its row up to the nearest spare, moves by a column; regions, programs and
//! the rest of the wafer stay. The plan is proven before it is touched, and the new paths before anything is
//! written. In place, the map and the report of the directory follow the plan.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use backend_wafer::place::repair::amend;
use plan::{Plan, Point, RegionId};
use serde_json::{Value, json};

use crate::cli::RepairArgs;
use crate::commands::compile::names;
use crate::driver::plan_file::{self, PlanFile};
use crate::exit::Fault;
use crate::input;
use crate::output::{self, MARKER};
use crate::report::built::wafer_json;
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
    let bytes = plan::codec::encode_with_weights(&plan, file.embedded());
    match &args.output {
        Some(path) => output::write_file(path, &bytes)?,
        None => write_in_place(&file, &plan, &bytes, args.plan.is_dir())?,
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

/// Writes the plan over the old one; in a directory of `compile` also the map, and what the report says
/// of plan and map.
fn write_in_place(file: &PlanFile, plan: &Plan, bytes: &[u8], directory: bool) -> Result<()> {
    let beside = |name| Some(file.path().with_file_name(name)).filter(|p| directory && p.exists());
    let (map, report) = (beside(names::MAP), beside(MARKER));
    let html = map.as_ref().map(|_| backend_wafer::report::html(plan));
    // What can be refused is read before anything is written.
    let said = report.as_ref().map(|path| input::read_text(path, input::SMALL)).transpose()?;
    let map_bytes = html.as_ref().map(String::len);
    let said = said.map(|text| revise(&text, plan, bytes.len(), map_bytes)).transpose()?;
    output::write_file(file.path(), bytes)?;
    if let (Some(path), Some(html)) = (&map, &html) {
        output::write_file(path, html.as_bytes())?;
    }
    match (report, said) {
        (Some(path), Some(text)) => output::write_file(&path, text.as_bytes()),
        _ => Ok(()),
    }
}

/// A report with the figures of another plan and of its files.
fn revise(text: &str, plan: &Plan, bytes: usize, map_bytes: Option<usize>) -> Result<String> {
    let mut report: Value = serde_json::from_str(text).with_context(|| format!("`{MARKER}`"))?;
    let entries = [(names::PLAN, Some(bytes)), (names::MAP, map_bytes)];
    for (name, bytes) in entries {
        let of_file = report.pointer_mut(&format!("/files/{name}/bytes"));
        if let Some((known, bytes)) = of_file.zip(bytes) {
            *known = json!(bytes);
        }
    }
    if let Some(wafer) = report.get_mut("wafer") {
        *wafer = wafer_json(plan, bytes as u64);
    }
    Ok(serde_json::to_string_pretty(&report)? + "\n")
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
