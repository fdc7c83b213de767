//! Carries a token from region to region: what leaves one enters the next.
//!
//! Regions are run in the order of their streams, each in its template's own coordinates. A region
//! whose template has been run with the same input but for a shift in time is not run again: an
//! 80-layer model costs what its distinct templates cost. Works for L1 and L2 alike; anything this
//! cannot tell apart (cycles between regions, shared wires) is reported, and L3 has to be used.

use std::collections::BTreeMap;
use std::rc::Rc;

use plan::{Color, Plan, PlanMap, Point, Port};

use super::budget;
use super::domain::{Domain, SharedLink, Step, StepKind};
use super::engine::{Crossing, Outcome};
use super::report::Level;
use crate::error::{LISTED_TILES, SimError};
use crate::hops::Hops;

/// When no tile of a domain can do any more without input: inputs later than this all look alike. A
/// template that communicates before its input arrives never settles, and is run anew for each region.
fn settled(domain: &Domain) -> u64 {
    let alone = domain.table.iter().map(|program| {
        let first = program.steps.iter().position(|s| s.kind != StepKind::Local);
        let local = program.steps.iter().take(first.unwrap_or(program.steps.len()));
        match first.map(|i| program.steps[i]) {
            Some(Step {
                kind: StepKind::Send(_) | StepKind::Turn { .. } | StepKind::Broadcast { .. },
                ..
            })
            | Some(Step { wavelets: 0, .. } | Step { thread: Some(_), .. }) => u64::MAX,
            Some(step) => local.map(|s| s.cycles).sum::<u64>() + step.cycles,
            None => local.map(|s| s.cycles).sum(),
        }
    });
    alone.max().unwrap_or(0)
}

/// Runs one template: domain, columns, starts, input.
pub type Runner<'r> = dyn Fn(&Domain, u32, &[u64], &[Crossing]) -> (Outcome, Option<String>) + 'r;

/// What came of one region.
#[derive(Clone, Debug)]
pub struct RegionRun {
    /// First wavelet of its input, 0 without one.
    pub start: u64,
    /// Added to all times of `outcome`.
    pub shift: u64,
    /// In template coordinates; shared between equal regions.
    pub outcome: Rc<Outcome>,
    /// The input, shifted like `outcome`.
    pub entering: Rc<Vec<Crossing>>,
}

impl RegionRun {
    /// The last end of a tile.
    pub fn end(&self) -> u64 {
        self.outcome.ends.iter().max().copied().unwrap_or(0) + self.shift
    }
}

/// All regions of a plan, and the notes of the runner.
pub struct ChainRun {
    /// One per region.
    pub regions: Vec<RegionRun>,
    /// Distinct runs.
    pub runs: usize,
    /// What the runner had to say.
    pub notes: Vec<String>,
}

/// The domain of a region; regions with one class have equal ones.
pub struct Placed {
    /// Class.
    pub class: u32,
    /// Domain.
    pub domain: Rc<Domain>,
}

/// Runs all regions, given the domain of each.
///
/// # Errors
/// A deadlock; too much under way at once; flows between regions that cannot be run one region after another.
pub fn run(
    plan: &Plan,
    domains: &[Placed],
    level: Level,
    (hops, runner): (&Hops<'_>, &Runner<'_>),
) -> Result<ChainRun, SimError> {
    let map = PlanMap::new(plan);
    let order = order(plan)?;
    let mut inputs: Vec<BTreeMap<(u32, u8, u8), Vec<u64>>> =
        vec![BTreeMap::new(); plan.regions.len()];
    let mut done: Vec<Option<RegionRun>> = vec![None; plan.regions.len()];
    let mut known: BTreeMap<(u32, Vec<Crossing>), Rc<Outcome>> = BTreeMap::new();
    let mut wires = WireUse::default();
    let mut notes = Vec::new();
    for &i in &order {
        let region = &plan.regions[i];
        let entering = inputs[i].iter().map(|(&(tile, port, color), times)| {
            let mut times = times.clone();
            times.sort_unstable();
            Crossing { tile, port, color, times }
        });
        let mut entering: Vec<Crossing> = entering.collect();
        let start = entering.iter().flat_map(|c| c.times.first()).min().copied().unwrap_or(0);
        let shift = start.saturating_sub(settled(&domains[i].domain));
        entering.iter_mut().for_each(|c| c.times.iter_mut().for_each(|t| *t -= shift));
        let key = (domains[i].class, entering);
        if !known.contains_key(&key) {
            let domain = &domains[i].domain;
            let starts = vec![0; domain.len()];
            let (outcome, note) = runner(domain, region.rect.w, &starts, &key.1);
            if outcome.exhausted {
                return Err(budget::exhausted(level));
            }
            if !outcome.waiting.is_empty() {
                return Err(deadlock(plan, i, domain, &outcome));
            }
            notes.extend(note.map(|n| format!("{}: {n}", region.name)));
            known.insert(key.clone(), Rc::new(outcome));
        }
        let run =
            RegionRun { start, shift, outcome: Rc::clone(&known[&key]), entering: Rc::new(key.1) };
        for entry in deliver((&map, hops), i, &run, &mut wires)? {
            if done[entry.region].is_some() || entry.region == i {
                return Err(not_a_chain("a flow returns to a region that has been run"));
            }
            let key = (entry.tile, entry.port, entry.color);
            inputs[entry.region].entry(key).or_default().extend(entry.times);
        }
        done[i] = Some(run);
    }
    let regions: Vec<RegionRun> = done.into_iter().flatten().collect();
    Ok(ChainRun { regions, runs: known.len(), notes })
}

fn not_a_chain(what: &str) -> SimError {
    SimError::Illegal { what: format!("regions cannot be timed one by one: {what}; use level 3") }
}

/// Region indices such that streams go forward; ties by index.
fn order(plan: &Plan) -> Result<Vec<usize>, SimError> {
    let n = plan.regions.len();
    let mut waits = vec![0usize; n];
    plan.streams.iter().for_each(|s| waits[s.to.0 as usize] += 1);
    let mut open: std::collections::BTreeSet<usize> = (0..n).filter(|&i| waits[i] == 0).collect();
    let mut order = Vec::new();
    while let Some(i) = open.pop_first() {
        order.push(i);
        for s in plan.streams.iter().filter(|s| s.from.0 as usize == i) {
            let to = s.to.0 as usize;
            waits[to] -= 1;
            if waits[to] == 0 {
                open.insert(to);
            }
        }
    }
    if order.len() < n { Err(not_a_chain("streams form a cycle")) } else { Ok(order) }
}

/// Wavelets at the border of a region.
struct Entry {
    region: usize,
    tile: u32,
    port: u8,
    color: u8,
    times: Vec<u64>,
}

/// When each wire link is busy.
#[derive(Default)]
struct WireUse(BTreeMap<(Point, u8), Vec<(u64, u64)>>);

impl WireUse {
    fn claim(&mut self, at: Point, port: Port, times: &[u64]) -> Result<(), SimError> {
        let (Some(&first), Some(&last)) = (times.first(), times.last()) else { return Ok(()) };
        let spans = self.0.entry((at, port as u8)).or_default();
        if spans.iter().any(|&(a, b)| first <= b && a <= last) {
            return Err(not_a_chain(&format!("two flows share the wire at ({}, {})", at.x, at.y)));
        }
        spans.push((first, last));
        Ok(())
    }
}

/// Wavelets about to hop from a PE through a port.
struct Hop {
    at: Point,
    port: Port,
    color: Color,
    times: Vec<u64>,
}

/// Follows what leaves a region over wires to where it enters others.
fn deliver(
    (map, hops): (&PlanMap<'_>, &Hops<'_>),
    from: usize,
    run: &RegionRun,
    wires: &mut WireUse,
) -> Result<Vec<Entry>, SimError> {
    let region = &map.plan.regions[from];
    let leaves = |leaving: &Crossing| {
        let position = (leaving.tile % region.rect.w, leaving.tile / region.rect.w);
        Hop {
            at: region.point(position),
            port: region.orientation.port(Port::ALL[leaving.port as usize]),
            color: region.color(Color(leaving.color)),
            times: leaving.times.iter().map(|t| t + run.shift).collect(),
        }
    };
    let mut open: Vec<Hop> = run.outcome.leaving.iter().map(leaves).collect();
    let mut entries = Vec::new();
    while !open.is_empty() {
        // What crosses to another wafer shares one link: it waits until all of it is known.
        let (mut across, near): (Vec<Hop>, Vec<Hop>) =
            open.into_iter().partition(|hop| hops.crosses(hop.at, hop.port));
        open = Vec::new();
        let now = if near.is_empty() {
            share_link(&mut across, map.plan.target.fabric.wafer_link_wavelets);
            std::mem::take(&mut across)
        } else {
            near
        };
        for hop in now {
            open.extend(step((map, hops), hop, &mut entries, wires)?);
        }
        open.extend(across);
    }
    Ok(entries)
}

/// Takes one hop: into a region, or to the next hops of a wire.
fn step(
    (map, hops): (&PlanMap<'_>, &Hops<'_>),
    mut hop: Hop,
    entries: &mut Vec<Entry>,
    wires: &mut WireUse,
) -> Result<Vec<Hop>, SimError> {
    let Hop { at, port, color, .. } = hop;
    let cycles = hops.cycles(at, port);
    hop.times.iter_mut().for_each(|t| *t += cycles);
    let lost = || SimError::Illegal {
        what: format!("color {} is lost after PE ({}, {})", color.0, at.x, at.y),
    };
    let next = map.neighbor(at, port).ok_or_else(lost)?;
    let input = port.opposite();
    if let Some((id, other)) = map.region_at(next)
        && let Some((x, y)) = other.position(next)
        && let Some(theirs) = region_color(map, other, (x, y), color)
    {
        entries.push(Entry {
            region: id.0 as usize,
            tile: y * other.rect.w + x,
            port: other.orientation.port(input) as u8,
            color: theirs.0,
            times: hop.times,
        });
        return Ok(Vec::new());
    }
    let (expected, outputs) = map.route(next, color).ok_or_else(lost)?;
    if expected != input {
        return Err(lost());
    }
    let mut onward = Vec::new();
    for port in outputs.iter() {
        wires.claim(next, port, &hop.times)?;
        onward.push(Hop { at: next, port, color, times: hop.times.clone() });
    }
    Ok(onward)
}

/// Delays wavelets that cross between wafers so that each pair of wafers exchanges at most `rate` of
/// them per cycle and direction, first come first served, ties by row.
fn share_link(across: &mut [Hop], rate: u32) {
    // Link, time, row, and which wavelet of which hop.
    type Waiting = ((u32, Port), u64, u32, (usize, usize));
    let mut waiting: Vec<Waiting> = Vec::new();
    for (i, hop) in across.iter().enumerate() {
        let link = (hop.at.x, hop.port);
        waiting.extend(hop.times.iter().enumerate().map(|(j, &t)| (link, t, hop.at.y, (i, j))));
    }
    waiting.sort_unstable();
    let mut links: BTreeMap<(u32, Port), SharedLink> = BTreeMap::new();
    for (link, time, _, (i, j)) in waiting {
        across[i].times[j] = links.entry(link).or_default().take(time, rate);
    }
}

/// The template color that a wafer color is on a position of a region, when it is routed there.
fn region_color(
    map: &PlanMap<'_>,
    region: &plan::Region,
    (x, y): (u32, u32),
    color: Color,
) -> Option<Color> {
    let t = map.templates.get(region.template.0 as usize)?;
    t.colors().find(|&c| region.color(c) == color && t.route(c, x, y).is_some())
}

fn deadlock(plan: &Plan, region: usize, domain: &Domain, outcome: &Outcome) -> SimError {
    let region = &plan.regions[region];
    let listed = outcome.waiting.iter().take(LISTED_TILES).map(|&(tile, step)| {
        let position = (tile % region.rect.w, tile / region.rect.w);
        let color = |c: u8| region.color(Color(c)).0;
        domain.waiting(plan, region, region.point(position), (tile, step), color)
    });
    SimError::Deadlock { waiting: outcome.waiting.len(), tiles: listed.collect() }
}
