//! Levels L0 and L2: an engine on one representative line per class.
//!
//! Most phases move data along rows only or along columns only, so a template's run splits into
//! segments of phases that are confined to one axis, and a segment into independent lines; phases that
//! use both axes split into the sets of tiles that their routes connect. Lines (and sets) whose
//! tiles have the same steps and routes, and the same starting and entering times but for a shift, are
//! run once. All of this is checked here, mechanically.
//!
//! Segments overlap in time without a barrier between them. That is exact as long as no link
//! carries wavelets of a later segment before the last one of an earlier segment; when one does, these
//! two and those between become one segment. So running lines never changes what an engine says.

use std::collections::BTreeMap;
use std::iter;
use std::ops::Range;

use super::domain::{Domain, NONE, Step, StepKind};
use super::engine::{Crossing, Job, Outcome};

/// What runs a job: [`super::engine::run`] run by run, [`super::wavelets::run`] event by event.
pub type Engine = fn(&Job<'_>) -> Outcome;

/// How a phase moves data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Not at all.
    None,
    /// Along rows only.
    Rows,
    /// Along columns only.
    Columns,
    /// Along both.
    Both,
}

impl Way {
    fn and(self, other: Way) -> Way {
        match (self, other) {
            (Way::None, w) | (w, Way::None) => w,
            (a, b) if a == b => a,
            _ => Way::Both,
        }
    }
}

/// A run of phases confined to one axis.
#[derive(Clone, Debug)]
struct Segment {
    phases: Range<usize>,
    way: Way,
    /// Colors used in it.
    colors: Vec<u8>,
}

/// What identifies a line but for a shift in time.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct LineKey {
    /// Per tile: class of its steps and routes.
    classes: Vec<u32>,
    /// Per tile: start.
    starts: Vec<u64>,
    /// By index in the line.
    entering: Vec<Crossing>,
}

/// What was run and what came of it.
#[derive(Clone, Debug)]
pub struct LinesOutcome {
    /// As the engine on all tiles gives it (`links` is empty).
    pub outcome: Outcome,
    /// Lines that were run.
    pub lines_run: usize,
    /// Lines in all.
    pub lines: usize,
    /// Phases that had to be run together because they overlap on a link; empty when there are none.
    pub joined: Vec<Range<usize>>,
}

/// Runs a template's rectangle of `width` columns.
pub fn run(
    domain: &Domain,
    width: u32,
    starts: &[u64],
    entering: &[Crossing],
    engine: Engine,
) -> LinesOutcome {
    let mut segments = segments(domain);
    let mut joined: Vec<Range<usize>> = Vec::new();
    let of = |s: &Segment, c: &Crossing| s.colors.contains(&c.color);
    while entering.iter().all(|c| segments.iter().filter(|s| of(s, c)).count() == 1) {
        match run_lines(domain, (width, &segments), starts, entering, engine) {
            Ok(total) => return LinesOutcome { joined, ..total },
            // Lines of one segment share no links.
            Err((first, last)) if first == last => break,
            Err((first, last)) => {
                let all: Vec<Segment> = segments.drain(first..=last).collect();
                let phases = all[0].phases.start..all[last - first].phases.end;
                let mut colors: Vec<u8> = all.into_iter().flat_map(|s| s.colors).collect();
                colors.sort_unstable();
                colors.dedup();
                joined.retain(|p| p.start < phases.start || p.end > phases.end);
                joined.push(phases.clone());
                segments.insert(first, Segment { phases, way: Way::Both, colors });
            }
        }
    }
    let all = run_all(domain, starts, entering, engine);
    let joined = iter::once(0..domain.phase_slots()).collect();
    LinesOutcome { outcome: all, lines_run: 1, lines: 1, joined }
}

/// The engine on all tiles and phases.
pub fn run_all(domain: &Domain, starts: &[u64], entering: &[Crossing], engine: Engine) -> Outcome {
    let tiles: Vec<u32> = (0..domain.len() as u32).collect();
    engine(&Job { domain, tiles: &tiles, phases: 0..usize::MAX, starts, entering })
}

/// Runs segment by segment; the error is a segment and a later one that overlap on a link.
fn run_lines(
    domain: &Domain,
    (width, segments): (u32, &[Segment]),
    starts: &[u64],
    entering: &[Crossing],
    engine: Engine,
) -> Result<LinesOutcome, (usize, usize)> {
    let mut ready = starts.to_vec();
    let mut busy = vec![Busy::default(); domain.len() * 4];
    let mut total = LinesOutcome {
        outcome: Outcome { phase_ends: vec![0; domain.phase_slots()], ..Outcome::default() },
        lines_run: 0,
        lines: 0,
        joined: Vec::new(),
    };
    for (number, segment) in segments.iter().enumerate() {
        let classes = classes(domain, segment);
        let here: Vec<&Crossing> =
            entering.iter().filter(|c| segment.colors.contains(&c.color)).collect();
        let mut known: BTreeMap<LineKey, Outcome> = BTreeMap::new();
        let sets = match segment.way {
            Way::Both => connected(domain, &segment.colors),
            way => lines(domain.len() as u32, width, way),
        };
        for tiles in sets {
            let (key, shift) = line_key(&tiles, &here, &ready, &classes);
            total.lines += 1;
            if !known.contains_key(&key) {
                total.lines_run += 1;
                known.insert(key.clone(), run_line(domain, segment, &tiles, &key, engine));
            }
            let outcome = &known[&key];
            let place = (tiles.as_slice(), shift);
            apply(&mut total.outcome, outcome, place, &mut ready, (&mut busy, number))
                .map_err(|before| (before, number))?;
        }
    }
    total.outcome.ends = ready;
    total.outcome.leaving.sort_unstable();
    total.outcome.waiting.sort_unstable();
    Ok(total)
}

/// A line as it stands now, and the shift from its times to those of the region.
fn line_key(
    tiles: &[u32],
    entering: &[&Crossing],
    ready: &[u64],
    classes: &[u32],
) -> (LineKey, u64) {
    let mut of_line: Vec<Crossing> = Vec::new();
    for c in entering {
        if let Ok(i) = tiles.binary_search(&c.tile) {
            of_line.push(Crossing { tile: i as u32, ..(*c).clone() });
        }
    }
    let first = tiles.iter().map(|&t| ready[t as usize]);
    let first = first.chain(of_line.iter().flat_map(|c| c.times.iter().copied())).min();
    // Times run from 1 in a line, so that 0 means never.
    let shift = first.unwrap_or(0);
    let relative = |t: u64| t - shift + 1;
    of_line.iter_mut().for_each(|c| c.times.iter_mut().for_each(|t| *t = relative(*t)));
    let key = LineKey {
        classes: tiles.iter().map(|&t| classes[t as usize]).collect(),
        starts: tiles.iter().map(|&t| relative(ready[t as usize])).collect(),
        entering: of_line,
    };
    (key, shift)
}

/// Tiles and crossings of the outcome are indices in the line.
fn run_line(
    domain: &Domain,
    segment: &Segment,
    tiles: &[u32],
    key: &LineKey,
    engine: Engine,
) -> Outcome {
    let place = |c: &Crossing| Crossing { tile: tiles[c.tile as usize], ..c.clone() };
    let entering: Vec<Crossing> = key.entering.iter().map(place).collect();
    let phases = segment.phases.clone();
    let mut outcome =
        engine(&Job { domain, tiles, phases, starts: &key.starts, entering: &entering });
    let index = |t: u32| tiles.binary_search(&t).map_or(0, |i| i as u32);
    outcome.leaving.iter_mut().for_each(|c| c.tile = index(c.tile));
    outcome.waiting.iter_mut().for_each(|w| w.0 = index(w.0));
    outcome
}

/// How long a link has been busy.
#[derive(Clone, Copy, Debug, Default)]
struct Busy {
    /// One past the last cycle in which it was; 0 when it never was.
    until: u64,
    /// The segment of that cycle.
    segment: usize,
}

/// Adds a line's outcome in segment `number` to the total. The error is an earlier segment that has not done
/// with a link when this one begins to use it.
fn apply(
    total: &mut Outcome,
    line: &Outcome,
    (tiles, shift): (&[u32], u64),
    ready: &mut [u64],
    (busy, number): (&mut [Busy], usize),
) -> Result<(), usize> {
    let absolute = |t: u64| t + shift - 1;
    for (i, &tile) in tiles.iter().enumerate() {
        ready[tile as usize] = absolute(line.ends[i]);
        for port in 0..4 {
            if let Some((first, last)) = line.links[i * 4 + port] {
                let link = &mut busy[tile as usize * 4 + port];
                if link.until > absolute(first) {
                    return Err(link.segment);
                }
                *link = Busy { until: absolute(last) + 1, segment: number };
            }
        }
    }
    total.work.hops += line.work.hops;
    total.work.active_cycles += line.work.active_cycles;
    total.work.contended |= line.work.contended;
    total.exhausted |= line.exhausted;
    for (all, &end) in total.phase_ends.iter_mut().zip(&line.phase_ends) {
        if end > 0 {
            *all = (*all).max(absolute(end));
        }
    }
    total.leaving.extend(line.leaving.iter().map(|c| Crossing {
        tile: tiles[c.tile as usize],
        times: c.times.iter().map(|&t| absolute(t)).collect(),
        ..c.clone()
    }));
    total.waiting.extend(line.waiting.iter().map(|w| (tiles[w.0 as usize], w.1)));
    Ok(())
}

/// Tiles of each line, ascending.
pub fn lines(n: u32, width: u32, way: Way) -> Vec<Vec<u32>> {
    let height = n / width.max(1);
    match way {
        Way::Both => vec![(0..n).collect()],
        Way::Columns => (0..width).map(|x| (0..height).map(|y| y * width + x).collect()).collect(),
        Way::Rows | Way::None => {
            (0..height).map(|y| (y * width..(y + 1) * width).collect()).collect()
        }
    }
}

/// Tiles that routes of `colors` connect, ascending, in the order of their first ones.
fn connected(domain: &Domain, colors: &[u8]) -> Vec<Vec<u32>> {
    fn find(parent: &mut [u32], mut n: u32) -> u32 {
        while parent[n as usize] != n {
            parent[n as usize] = parent[parent[n as usize] as usize];
            n = parent[n as usize];
        }
        n
    }
    let n = domain.len() as u32;
    let mut parent: Vec<u32> = (0..n).collect();
    for tile in 0..n {
        let row = &domain.routes[tile as usize * domain.colors..][..domain.colors];
        let outputs = colors.iter().filter_map(|&c| row.get(c as usize));
        let outputs = outputs.fold(0, |all, route| all | route.1);
        for (port, &near) in domain.neighbors[tile as usize].iter().enumerate() {
            if outputs & (1 << port) != 0 && near != NONE {
                let (a, b) = (find(&mut parent, tile), find(&mut parent, near));
                // The root is the first tile of its set.
                parent[a.max(b) as usize] = a.min(b);
            }
        }
    }
    let mut sets: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for tile in 0..n {
        sets.entry(find(&mut parent, tile)).or_default().push(tile);
    }
    sets.into_values().collect()
}

fn step_colors(step: &Step) -> impl Iterator<Item = u8> {
    let (a, b) = match step.kind {
        StepKind::Local | StepKind::Join { .. } | StepKind::Turn { .. } => (None, None),
        StepKind::Send(c) | StepKind::Recv(c) => (Some(c), None),
        StepKind::Relay(a, b) | StepKind::Broadcast { up: a, down: b, .. } => (Some(a), Some(b)),
    };
    a.into_iter().chain(b)
}

/// How each phase of a template's domain moves data, and its colors, ascending.
pub fn ways(domain: &Domain) -> Vec<(Way, Vec<u8>)> {
    // Bits of the ports each color uses anywhere.
    let mut ports = vec![0u8; domain.colors];
    for (i, &(input, outputs)) in domain.routes.iter().enumerate() {
        ports[i % domain.colors] |= input | outputs;
    }
    let way = |color: u8| {
        let bits = ports.get(color as usize).copied().unwrap_or(0);
        match (bits & 0b1010 != 0, bits & 0b0101 != 0) {
            (false, false) => Way::None,
            (true, false) => Way::Rows,
            (false, true) => Way::Columns,
            (true, true) => Way::Both,
        }
    };
    let mut used: Vec<Vec<u8>> = vec![Vec::new(); domain.phase_slots()];
    for step in domain.table.iter().flat_map(|p| &p.steps) {
        used[step.phase as usize].extend(step_colors(step));
    }
    let phase = |mut colors: Vec<u8>| {
        colors.sort_unstable();
        colors.dedup();
        (colors.iter().fold(Way::None, |w, &c| w.and(way(c))), colors)
    };
    used.into_iter().map(phase).collect()
}

/// Splits the phases into the longest segments along one axis.
fn segments(domain: &Domain) -> Vec<Segment> {
    let mut segments: Vec<Segment> = Vec::new();
    for (phase, (here, colors)) in ways(domain).into_iter().enumerate() {
        match segments.last_mut() {
            Some(s) if s.way.and(here) != Way::Both || s.way == here => {
                s.phases.end = phase + 1;
                s.way = s.way.and(here);
                s.colors.extend(colors);
            }
            _ => segments.push(Segment { phases: phase..phase + 1, way: here, colors }),
        }
    }
    segments
}

/// Per tile: a number that equal steps and equal routes in this segment share.
fn classes(domain: &Domain, segment: &Segment) -> Vec<u32> {
    let mut steps: BTreeMap<Vec<Step>, u32> = BTreeMap::new();
    let of_program: Vec<u32> = domain
        .table
        .iter()
        .map(|p| {
            let from = p.phase_starts.get(segment.phases.start).map_or(0, |&s| s as usize);
            let to = p.phase_starts.get(segment.phases.end).map_or(0, |&s| s as usize);
            let key = p.steps.get(from..to).unwrap_or(&[]).to_vec();
            let next = steps.len() as u32;
            *steps.entry(key).or_insert(next)
        })
        .collect();
    // Around dead PEs hops differ in length.
    let hops = |tile: usize| match domain.dear_hops.is_empty() {
        true => [0; 4],
        false => [0u8, 1, 2, 3].map(|port| domain.hop_cycles(tile as u32, port)),
    };
    // Steps, routes, cycles of the hops.
    type Class = (u32, Vec<(u8, u8)>, [u64; 4]);
    let mut known: BTreeMap<Class, u32> = BTreeMap::new();
    (0..domain.len())
        .map(|tile| {
            let row = &domain.routes[tile * domain.colors..(tile + 1) * domain.colors];
            let routes =
                segment.colors.iter().map(|&c| row.get(c as usize).copied().unwrap_or((0, 0)));
            let key = (of_program[domain.programs[tile] as usize], routes.collect(), hops(tile));
            let next = known.len() as u32;
            *known.entry(key).or_insert(next)
        })
        .collect()
}
