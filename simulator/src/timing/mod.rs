//! Cycles of a plan at four levels of fidelity, on one description of the work.
//!
//! | level | wavelets | tiles |
//! |---|---|---|
//! | L0 | run by run ([`engine`]) | one line per class, region by region ([`lines`], [`chain`]); large products phase by phase ([`phases`], [`sweeps`]) |
//! | L1 | run by run | all of a region, region by region |
//! | L2 | one by one ([`wavelets`]) | one line per class, region by region |
//! | L3 | run by run where links are proven free, else one by one | all of the plan at once |
//!
//! They share the description and nothing else, and tests hold them to the same cycles. What is
//! modelled: cores in order, ramps, hops, one wavelet per link and cycle, software costs of the target.
//! What is not: bounded queues (a sender is never held back), bank conflicts, throttling.

pub mod budget;
pub mod chain;
pub mod cores;
pub mod domain;
pub mod engine;
pub mod flows;
pub mod fold;
pub mod lines;
mod parts;
pub mod phases;
pub mod report;
pub mod runs;
pub mod sweeps;
pub mod trace;
pub mod wavelets;

use std::collections::BTreeMap;
use std::rc::Rc;

use plan::{Plan, TokenOutput};

use chain::ChainRun;
use domain::Domain;
pub use report::{Breakdown, Level, PhaseTime, RegionTime, TemplateTime, TimingReport};

use crate::error::{LISTED_TILES, SimError};
use crate::fabric::Fabric;
use crate::hops::Hops;

/// Verifies the plan and times one token at position `pos`.
///
/// # Errors
/// An illegal plan, a position outside of the context.
pub fn time(plan: &Plan, level: Level, pos: u32) -> Result<TimingReport, SimError> {
    crate::error::refuse_illegal(plan)?;
    time_unchecked(plan, level, pos)
}

/// As [`time`] for a plan known to be legal, or to see how an illegal one fails.
///
/// # Errors
/// A position outside of the context, a deadlock, more memory than a run may take.
pub fn time_unchecked(plan: &Plan, level: Level, pos: u32) -> Result<TimingReport, SimError> {
    if pos >= plan.model.context {
        return Err(SimError::Context { pos, context: plan.model.context });
    }
    for region in &plan.regions {
        if plan.template_of(region).is_none() {
            let what = format!("region `{}` has no template", region.name);
            return Err(SimError::Illegal { what });
        }
    }
    if level == Level::L0
        && let Some(report) = phases::time(plan, pos)?
    {
        return Ok(report);
    }
    budget::check(plan, level, pos)?;
    let domains: Result<Vec<Rc<Domain>>, SimError> =
        plan.templates.iter().map(|t| Ok(Rc::new(Domain::of_template(plan, t, pos)?))).collect();
    let domains = domains?;
    let closed: Vec<Vec<PhaseTime>> = plan
        .templates
        .iter()
        .zip(&domains)
        .map(|(t, d)| parts::phases(&plan.target, t, d, pos))
        .collect();
    let run = match level {
        Level::L3 => full(plan, pos)?,
        _ => by_region(plan, level, &domains)?,
    };
    Ok(report(plan, level, pos, &domains, &closed, run))
}

/// Times of all regions, however they were found.
struct Run {
    regions: Vec<RegionTime>,
    /// When the token is known in its PE.
    result: u64,
    /// Per template: cycles between tokens.
    intervals: BTreeMap<u32, u64>,
    notes: Vec<String>,
}

/// All tiles of the plan at once.
fn full(plan: &Plan, pos: u32) -> Result<Run, SimError> {
    let fabric = Fabric::new(plan)?;
    let domain = Domain::of_plan(&fabric, pos);
    let outcome = lines::run_all(&domain, &vec![0; domain.len()], &[], engine::run);
    if outcome.exhausted {
        return Err(budget::exhausted(Level::L3));
    }
    if !outcome.waiting.is_empty() {
        return Err(deadlock(&fabric, &domain, &outcome));
    }
    // A second token right behind the first: what each region adds is its interval.
    let second = lines::run_all(&domain, &outcome.ends, &[], engine::run);
    let mut regions = Vec::new();
    let mut intervals = BTreeMap::new();
    for (i, region) in plan.regions.iter().enumerate() {
        let Some(template) = plan.template_of(region) else { continue };
        let first = fabric.region_base[i] as usize;
        let tiles = first..first + region.rect.area() as usize;
        let end = |o: &engine::Outcome| o.ends[tiles.clone()].iter().max().copied().unwrap_or(0);
        let slot = |p: usize| outcome.phase_ends[domain.phase_slot(i as u32, p as u16)];
        let phase_ends: Vec<u64> = (0..template.phases.len()).map(slot).collect();
        let start = Some(outcome.entered[i]).filter(|t| *t != u64::MAX);
        let name = region.name.clone();
        regions.push(RegionTime {
            name,
            start: start.unwrap_or(0),
            end: end(&outcome),
            phase_ends,
        });
        let interval = intervals.entry(region.template.0).or_insert(0u64);
        *interval = (*interval).max(end(&second) - end(&outcome));
    }
    let token_tile = |t: TokenOutput| fabric.tile_in(t.region.0 as usize, t.position);
    let last = outcome.ends.iter().max().copied().unwrap_or(0);
    let result = plan.outputs.token.map_or(last, |t| outcome.ends[token_tile(t)]);
    let notes = vec![format!("{} tiles wavelet by wavelet", domain.len())];
    Ok(Run { regions, result, intervals, notes })
}

fn by_region(plan: &Plan, level: Level, domains: &[Rc<Domain>]) -> Result<Run, SimError> {
    let runner = |d: &Domain, w: u32, starts: &[u64], entering: &[engine::Crossing]| {
        let engine: lines::Engine = if level == Level::L2 { wavelets::run } else { engine::run };
        if level == Level::L1 {
            return (lines::run_all(d, starts, entering, engine), None);
        }
        let run = lines::run(d, w, starts, entering, engine);
        let mut note = format!("{} of {} lines run", run.lines_run, run.lines);
        for phases in &run.joined {
            note += &format!(", phases {}-{} at once", phases.start, phases.end - 1);
        }
        (run.outcome, Some(note))
    };
    let hops = Hops::new(plan);
    let placed = |(i, region): (usize, &plan::Region)| {
        let template = region.template.0;
        let domain = &domains[template as usize];
        if !hops.vary() {
            return chain::Placed { class: template, domain: Rc::clone(domain) };
        }
        chain::Placed { class: i as u32, domain: Rc::new(domain.in_region(region, &hops)) }
    };
    let placed: Vec<chain::Placed> = plan.regions.iter().enumerate().map(placed).collect();
    let ChainRun { regions: runs, runs: distinct, mut notes } =
        chain::run(plan, &placed, level, (&hops, &runner))?;
    let mut intervals: BTreeMap<u32, u64> = BTreeMap::new();
    let mut regions = Vec::new();
    for ((region, run), placed) in plan.regions.iter().zip(&runs).zip(&placed) {
        let id = region.template.0;
        if let std::collections::btree_map::Entry::Vacant(slot) = intervals.entry(id) {
            let starts = run.outcome.ends.clone();
            let again = runner(&placed.domain, region.rect.w, &starts, &run.entering).0;
            let end = |ends: &[u64]| ends.iter().max().copied().unwrap_or(0);
            slot.insert(end(&again.ends) - end(&run.outcome.ends));
        }
        let shifted = |&t: &u64| if t == 0 { 0 } else { t + run.shift };
        let phase_ends = run.outcome.phase_ends.iter().map(shifted).collect();
        let name = region.name.clone();
        regions.push(RegionTime { name, start: run.start, end: run.end(), phase_ends });
    }
    let token_end = |t: TokenOutput| {
        let run = runs.get(t.region.0 as usize)?;
        let w = plan.regions[t.region.0 as usize].rect.w;
        let tile = t.position.1 * w + t.position.0;
        Some(run.outcome.ends.get(tile as usize)? + run.shift)
    };
    let last = regions.iter().map(|r| r.end).max().unwrap_or(0);
    let result = plan.outputs.token.and_then(token_end).unwrap_or(last);
    notes.push(format!("{distinct} distinct runs for {} regions", plan.regions.len()));
    Ok(Run { regions, result, intervals, notes })
}

fn deadlock(fabric: &Fabric<'_>, domain: &Domain, outcome: &engine::Outcome) -> SimError {
    let listed = outcome.waiting.iter().take(LISTED_TILES).map(|&(tile, step)| {
        let region = &fabric.plan.regions[fabric.regions[tile as usize] as usize];
        let at = fabric.points[tile as usize];
        domain.waiting(fabric.plan, region, at, (tile, step), |c| c)
    });
    SimError::Deadlock { waiting: outcome.waiting.len(), tiles: listed.collect() }
}

fn report(
    plan: &Plan,
    level: Level,
    pos: u32,
    domains: &[Rc<Domain>],
    closed: &[Vec<PhaseTime>],
    run: Run,
) -> TimingReport {
    let feedback_cycles = plan.feedback_cycles();
    let token_cycles = run.result + feedback_cycles;
    let mut templates = Vec::new();
    let mut breakdown = Breakdown { distance: feedback_cycles, ..Breakdown::default() };
    for (id, template) in plan.templates.iter().enumerate() {
        let users = || plan.regions.iter().enumerate().filter(|(_, r)| r.template.0 as usize == id);
        let Some((first, _)) = users().next() else { continue };
        debug_assert!(!domains[id].is_empty());
        let times = &run.regions[first];
        let phases = measured(times, &closed[id]);
        let regions = users().count() as u32;
        for p in &phases {
            let n = u64::from(regions);
            breakdown.compute += n * p.compute;
            breakdown.payload += n * p.payload;
            breakdown.distance += n * p.distance;
            breakdown.relay += n * p.relay;
            breakdown.fixed += n * p.fixed;
        }
        let interval = run.intervals.get(&(id as u32)).copied().unwrap_or(0);
        let cycles = times.end.saturating_sub(times.start);
        let name = template.name.clone();
        templates.push(TemplateTime { name, regions, cycles, interval, phases });
    }
    let b = &breakdown;
    let parts = b.compute + b.payload + b.distance + b.relay + b.fixed;
    breakdown.contention = token_cycles.saturating_sub(parts);
    breakdown.overlap = parts.saturating_sub(token_cycles);
    let prefill = templates.iter().map(|t| t.interval).max().unwrap_or(0);
    let rate = |cycles: u64| if cycles == 0 { 0.0 } else { 1.0 / plan.target.seconds(cycles) };
    TimingReport {
        target: plan.target.name.clone(),
        level,
        pos,
        token_cycles,
        feedback_cycles,
        tokens_per_second: rate(token_cycles),
        prefill_interval_cycles: prefill,
        prefill_tokens_per_second: rate(prefill),
        breakdown,
        templates,
        regions: run.regions,
        notes: run.notes,
    }
}

/// Cycles of each phase from the ends of a region, parts from the closed forms.
fn measured(times: &RegionTime, closed: &[PhaseTime]) -> Vec<PhaseTime> {
    let mut at = times.start;
    let phase = |(p, &end): (&PhaseTime, &u64)| {
        let end = end.max(at);
        let cycles = end - at;
        at = end;
        let parts = p.compute + p.payload + p.distance + p.relay + p.fixed;
        let contention = cycles.saturating_sub(parts);
        PhaseTime { cycles, contention, overlap: parts.saturating_sub(cycles), ..p.clone() }
    };
    closed.iter().zip(&times.phase_ends).map(phase).collect()
}
