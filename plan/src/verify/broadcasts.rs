//! Broadcasts with a moving root: everybody on a line takes part, and roots follow one another up the line.
//!
//! What is proven is what [`crate::Instr::Broadcast`] relies on: its colors are used by broadcasts of one
//! axis alone, each as `up` or as `down` alone, and merge at every router exactly as it says; all roles of a
//! phase execute the same broadcasts, in loops that turn equally often everywhere; the roots of a pair
//! of colors are coordinate 0, 1, ... to the end of the line, and then again from 0. In such a sweep no two
//! roots send at once, and the root that begins the next one has heard the last of this one. So wavelets keep
//! their order, and every broadcast is one rendezvous of its line (`waits`).

use std::collections::BTreeMap;

use super::Violation;
use crate::expand::TemplateMap;
use crate::geometry::{Axis, Port, Ports};
use crate::index::Affine;
use crate::program::{Instr, Len, WireFormat, in_loops};
use crate::route::Color;
use crate::template::{Phase, Template};

/// Most broadcasts of a template that are followed, turns of loops counted.
const FOLLOWED_MAX: u64 = 1 << 24;

/// Axis, up, down.
type Pair = (Axis, Color, Color);

/// A broadcast as all roles of its phase have to agree on it.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Cast {
    pair: Pair,
    len: Len,
    wire: WireFormat,
    root: u32,
    per_turn: u32,
    /// Which of the loops with broadcasts it is in, and how often that turns.
    repeat: Option<(u32, Affine)>,
}

pub(super) fn check(map: &TemplateMap<'_>, found: &mut Vec<Violation>) {
    let t = map.template;
    if let Err(what) = template(map) {
        found.push(Violation::Broadcast { template: t.name.clone(), what });
    }
}

fn template(map: &TemplateMap<'_>) -> Result<(), String> {
    let t = map.template;
    let phases: Result<Vec<Vec<Cast>>, String> = t.phases.iter().map(casts_of_phase).collect();
    let phases = phases?;
    let mut pairs: Vec<Pair> = phases.iter().flatten().map(|c| c.pair).collect();
    pairs.sort_unstable();
    pairs.dedup();
    colors(t, &pairs)?;
    pairs.iter().try_for_each(|&pair| routes(map, pair))?;
    sweeps(t, &phases)
}

/// The broadcasts of a phase, the same in all of its roles.
fn casts_of_phase(phase: &Phase) -> Result<Vec<Cast>, String> {
    let mut roles = phase.roles.iter();
    let first = roles.next().map_or(Ok(Vec::new()), |r| casts(&r.program))?;
    for role in roles {
        if casts(&role.program)? != first {
            let name = &phase.name;
            return Err(format!(
                "roles of phase `{name}` differ in broadcasts, role `{}`",
                role.name
            ));
        }
    }
    Ok(first)
}

fn casts(program: &[Instr]) -> Result<Vec<Cast>, String> {
    let mut casts = Vec::new();
    let mut loops: Vec<usize> = Vec::new();
    for (_, instr, inside) in in_loops(program) {
        let Instr::Broadcast { axis, up, down, src, root, per_turn, wire, .. } = *instr else {
            continue;
        };
        let mut repeat = None;
        if let Some((at, &Instr::Repeat { times, .. })) =
            inside.and_then(|at| Some((at, program.get(at)?)))
        {
            if times.uses_x() || times.uses_y() {
                return Err("a broadcast in a loop that turns differently from PE to PE".to_owned());
            }
            if loops.last() != Some(&at) {
                loops.push(at);
            }
            repeat = Some((loops.len() as u32, times));
        }
        let pair = (axis, up, down);
        casts.push(Cast { pair, len: src.len, wire, root, per_turn, repeat });
    }
    Ok(casts)
}

/// Each color belongs to one pair, and to no other instruction.
fn colors(t: &Template, pairs: &[Pair]) -> Result<(), String> {
    let mut all: Vec<Color> = pairs.iter().flat_map(|p| [p.1, p.2]).collect();
    all.sort_unstable();
    if let Some(twice) = all.windows(2).find(|c| c[0] == c[1]) {
        return Err(format!("color {} is of two pairs, or up and down", twice[0].0));
    }
    let instrs = t.phases.iter().flat_map(|p| &p.roles).flat_map(|r| &r.program);
    let used = instrs.filter_map(Instr::communication).flat_map(|c| [c.input, c.output]).flatten();
    match used.into_iter().find(|c| all.contains(c)) {
        Some(c) => Err(format!("color {} is used by another message too", c.0)),
        None => Ok(()),
    }
}

/// Whether the routers of a line merge what comes along it with what their core sends.
fn routes(map: &TemplateMap<'_>, (axis, up, down): Pair) -> Result<(), String> {
    let (t, count) = (map.template, map.color_count());
    let table = map.route_table();
    let (low, high, len) = match axis {
        Axis::X => (Port::West, Port::East, t.width),
        Axis::Y => (Port::North, Port::South, t.height),
    };
    let ports = |set: &[(bool, Port)]| {
        set.iter().filter(|p| p.0).fold(0, |bits, p| bits | Ports::of(&[p.1]).0)
    };
    for tile in 0..map.tiles() {
        let at = (tile as u32 % t.width, tile as u32 / t.width);
        let i = if axis == Axis::X { at.0 } else { at.1 };
        let (below, above) = (i > 0, i + 1 < len);
        let merged = |from: (bool, Port), to: (bool, Port)| {
            (ports(&[from, (to.0, Port::Ramp)]), ports(&[to, (from.0, Port::Ramp)]))
        };
        for (color, expected) in
            [(up, merged((below, low), (above, high))), (down, merged((above, high), (below, low)))]
        {
            let slot = tile * count + usize::from(color.0);
            let here = if usize::from(color.0) < count { table[slot] } else { (0, 0) };
            if here != expected {
                return Err(format!(
                    "color {} at ({}, {}): inputs {:#b} outputs {:#b}, a broadcast needs {:#b} and {:#b}",
                    color.0, at.0, at.1, here.0, here.1, expected.0, expected.1
                ));
            }
        }
    }
    Ok(())
}

/// Whether the roots of every pair sweep up their line.
fn sweeps(t: &Template, phases: &[Vec<Cast>]) -> Result<(), String> {
    let mut next: BTreeMap<Pair, u64> = BTreeMap::new();
    let mut left = FOLLOWED_MAX;
    let extent = |axis: Axis| u64::from(if axis == Axis::X { t.width } else { t.height });
    for casts in phases {
        for part in casts.chunk_by(|a, b| a.repeat.is_some() && a.repeat == b.repeat) {
            let turns = match part[0].repeat {
                Some((_, times)) => times.at((0, 0), t.cell).and_then(|n| u64::try_from(n).ok()),
                None => Some(1),
            };
            for turn in 0..turns.unwrap_or(0) {
                for cast in part {
                    left = left.checked_sub(1).ok_or("more than 2^24 broadcasts")?;
                    let root = u64::from(cast.root) + u64::from(cast.per_turn) * turn;
                    let expected = next.entry(cast.pair).or_insert(0);
                    if root != *expected {
                        let axis = cast.pair.0;
                        return Err(format!("a root at {axis:?} = {root}, the next is {expected}"));
                    }
                    *expected = (root + 1) % extent(cast.pair.0);
                }
            }
        }
    }
    match next.iter().find(|(_, next)| **next != 0) {
        Some((pair, next)) => Err(format!("a sweep along {:?} ends before {next}", pair.0)),
        None => Ok(()),
    }
}
