//! Level L0 of large templates with loops, such as the products of a prefill layer: phase by phase.
//!
//! Every phase is timed as if all PEs entered it together, when the last one has ended the phase before;
//! cycles add up. That never takes less than what happens, and little more where a phase ends at about
//! the same time everywhere, as products on rings do: each of P steps waits for neighbours, so nobody is
//! far ahead of the last at the end. Inside a phase rows that do the same are run once, of those
//! that only differ in the turns of a loop the one with most, and planes and lines with loops are folded
//! ([`super::fold`]). Phases of broadcasts with a moving root are executed in step ([`super::sweeps`]). Equal phases are run once. Needs a single region without streams and a cache;
//! tests hold it to a percent of all tiles run at once.

use std::collections::BTreeMap;
use std::rc::Rc;

use plan::{Instr, Plan, Template, TemplateMap};

use super::domain::{Domain, Program, Step, StepKind, phase_program};
use super::engine::{self, Job};
use super::fold;
use super::lines::{self, Way};
use super::report::{Breakdown, Level, PhaseTime, RegionTime, TemplateTime, TimingReport};
use super::{measured, parts, sweeps};
use crate::error::SimError;

/// Tiles above which this is worth it; smaller templates are timed as a whole.
const TILES_MIN: usize = 1 << 9;

/// The time of a plan, when it is one of those that this is for.
///
/// # Errors
/// A position without a role.
pub(super) fn time(plan: &Plan, pos: u32) -> Result<Option<TimingReport>, SimError> {
    let ([template], [region]) = (&plan.templates[..], &plan.regions[..]) else { return Ok(None) };
    let programs = || template.phases.iter().flat_map(|p| &p.roles).flat_map(|r| &r.program);
    let loops = programs().any(|i| matches!(i, Instr::Repeat { .. }));
    let large = template.width as usize * template.height as usize >= TILES_MIN;
    let alone = plan.streams.is_empty() && plan.repair.is_none() && plan.outputs.token.is_none();
    if !(loops && large && alone) || template.kv.is_some() {
        return Ok(None);
    }
    let map = TemplateMap::new(template);
    let mut timer = Timer {
        plan,
        template,
        domain: Domain::bare(plan, &map),
        roles: (0..template.phases.len()).map(|p| map.role_table(p)).collect(),
        known: BTreeMap::new(),
        off_by: 0,
        tiles: 0,
    };
    let mut closed = Vec::new();
    let mut ends = Vec::new();
    let mut now = 0;
    for phase in 0..template.phases.len() {
        let Some(cycles) = timer.phase(phase)? else { return Ok(None) };
        closed.push(parts::parts(&plan.target, template, phase, &timer.domain, 0));
        now += cycles;
        ends.push(now);
    }
    let name = region.name.clone();
    let times = RegionTime { name, start: 0, end: now, phase_ends: ends };
    let notes = vec![format!(
        "phase by phase, {} tiles run: folds are off by {} cycles at most",
        timer.tiles, timer.off_by
    )];
    Ok(Some(report(plan, pos, (times, &closed), notes)))
}

fn report(
    plan: &Plan,
    pos: u32,
    (times, closed): (RegionTime, &[PhaseTime]),
    notes: Vec<String>,
) -> TimingReport {
    let cycles = times.end;
    let phases = measured(&times, closed);
    let mut breakdown = Breakdown::default();
    for p in &phases {
        breakdown.compute += p.compute;
        breakdown.payload += p.payload;
        breakdown.distance += p.distance;
        breakdown.relay += p.relay;
        breakdown.fixed += p.fixed;
    }
    let b = &mut breakdown;
    let sum = b.compute + b.payload + b.distance + b.relay + b.fixed;
    b.contention = cycles.saturating_sub(sum);
    b.overlap = sum.saturating_sub(cycles);
    let name = plan.templates[0].name.clone();
    let rate = if cycles == 0 { 0.0 } else { 1.0 / plan.target.seconds(cycles) };
    TimingReport {
        target: plan.target.name.clone(),
        level: Level::L0,
        pos,
        token_cycles: cycles,
        feedback_cycles: 0,
        tokens_per_second: rate,
        prefill_interval_cycles: cycles,
        prefill_tokens_per_second: rate,
        breakdown,
        templates: vec![TemplateTime { name, regions: 1, cycles, interval: cycles, phases }],
        regions: vec![times],
        notes,
    }
}

/// Programs without the number of their phase, and which tile runs which: what decides a phase's time.
type Key = (Vec<Vec<(StepKind, u32, u64, Option<u8>, u64)>>, Vec<u32>);

struct Timer<'a> {
    plan: &'a Plan,
    template: &'a Template,
    /// Holds the programs of the phase under way.
    domain: Domain,
    /// Per phase and tile: the role.
    roles: Vec<Vec<u16>>,
    known: BTreeMap<Key, u64>,
    off_by: u64,
    tiles: usize,
}

impl Timer<'_> {
    /// Cycles of a phase; `None` when it has to be timed together with others.
    fn phase(&mut self, phase: usize) -> Result<Option<u64>, SimError> {
        let missing = || SimError::Illegal {
            what: format!("a position of `{}` has no role", self.template.name),
        };
        self.compile(phase).ok_or_else(missing)?;
        let steps = |p: &Rc<Program>| {
            p.steps.iter().map(|s| (s.kind, s.wavelets, s.cycles, s.thread, s.latency)).collect()
        };
        let key = (self.domain.table.iter().map(steps).collect(), self.domain.programs.clone());
        if let Some(&cycles) = self.known.get(&key) {
            return Ok(Some(cycles));
        }
        let cycles = self.run(phase);
        if let Some(cycles) = cycles {
            self.known.insert(key, cycles);
        }
        Ok(cycles)
    }

    /// Gives every tile its program of a phase; `None` where it has no role.
    fn compile(&mut self, phase: usize) -> Option<()> {
        let talks = |p: &plan::Phase| {
            p.roles.iter().flat_map(|r| &r.program).any(|i| i.communication().is_some())
        };
        let (t, n) = (self.template, self.template.phases.len());
        // The last phase before it that bound colors: programs run again and again.
        let before = (1..=n).map(|i| (phase + n - i) % n).find(|&p| talks(&t.phases[p]));
        let before = before.unwrap_or(phase);
        let mut known: BTreeMap<(u16, u16, Vec<u32>), u32> = BTreeMap::new();
        let mut table = Vec::new();
        let loops: Vec<Vec<plan::Affine>> = t.phases[phase]
            .roles
            .iter()
            .map(|r| {
                let times = r.program.iter().filter_map(|i| match i {
                    Instr::Repeat { times, .. } => Some(*times),
                    _ => None,
                });
                times.collect()
            })
            .collect();
        for tile in 0..self.domain.len() {
            let (role, bound) = (self.roles[phase][tile], self.roles[before][tile]);
            let position = (tile as u32 % t.width, tile as u32 / t.width);
            let turn = |times: &plan::Affine| times.at(position, t.cell).unwrap_or(0);
            let turns = loops.get(usize::from(role))?.iter().map(turn);
            let turns = turns.map(|n| n.clamp(0, i64::from(u32::MAX)) as u32).collect();
            let next = table.len() as u32;
            let id = *known.entry((role, bound, turns)).or_insert(next);
            if id == next {
                let instrs = &t.phases[phase].roles[usize::from(role)].program;
                let left = t.phases[before].roles.get(usize::from(bound));
                let left = left.map_or(&[][..], |r| &r.program);
                let turns: Vec<u32> =
                    loops[usize::from(role)].iter().map(turn).map(|n| n.max(0) as u32).collect();
                table.push(Rc::new(phase_program(self.plan, t, (phase, instrs), &turns, left)));
            }
            self.domain.programs[tile] = id;
        }
        self.domain.table = table;
        Some(())
    }

    fn run(&mut self, phase: usize) -> Option<u64> {
        let (way, colors) = lines::ways(&self.domain).swap_remove(phase);
        let width = self.template.width;
        // Where the root moves no two turns and no two PEs are alike.
        let moves = |s: &Step| matches!(s.kind, StepKind::Broadcast { .. });
        if self.domain.table.iter().any(|p| p.steps.iter().any(moves)) {
            return sweeps::run(&self.domain, width, phase);
        }
        let classes = self.classes(phase, &colors);
        if way == Way::None {
            let mut cycles = 0;
            for program in 0..self.domain.table.len() as u32 {
                let tile = self.domain.programs.iter().position(|&p| p == program)? as u32;
                cycles = cycles.max(self.line(phase, (&[tile], 1), (&classes, &colors)));
            }
            return Some(cycles);
        }
        let mut cycles = 0;
        for tiles in
            self.representatives(lines::lines(self.domain.len() as u32, width, way), &classes)
        {
            let width = if way == Way::Both { width } else { tiles.len() as u32 };
            cycles = cycles.max(self.line(phase, (&tiles, width), (&classes, &colors)));
        }
        Some(cycles)
    }

    /// Cycles of tiles that start together.
    fn line(
        &mut self,
        phase: usize,
        (tiles, width): (&[u32], u32),
        (classes, colors): (&[Class], &[u8]),
    ) -> u64 {
        let starts = vec![0; tiles.len()];
        let domain = &self.domain;
        let job = Job { domain, tiles, phases: phase..phase + 1, starts: &starts, entering: &[] };
        let mut numbers: BTreeMap<Class, u32> = BTreeMap::new();
        let number = |&tile: &u32| {
            let next = numbers.len() as u32;
            *numbers.entry(classes[tile as usize]).or_insert(next)
        };
        let numbers: Vec<u32> = tiles.iter().map(number).collect();
        let loops = tiles.iter().any(|&t| turns(domain.program(t)) > 0);
        if loops && let Some(folded) = fold::run(&job, width, (&numbers, colors)) {
            self.off_by += folded.off_by;
            self.tiles += folded.tiles;
            return folded.end;
        }
        self.tiles += tiles.len();
        engine::run(&job).ends.into_iter().max().unwrap_or(0)
    }

    /// Of lines that differ at most in the turns of their loops the one with most turns.
    fn representatives(&self, lines: Vec<Line>, classes: &[Class]) -> Vec<Line> {
        let mut best: BTreeMap<Vec<(u16, u32)>, (u64, Line)> = BTreeMap::new();
        for line in lines {
            let key =
                line.iter().map(|&t| (classes[t as usize].1, classes[t as usize].2)).collect();
            let most = line.iter().map(|&t| turns(self.domain.program(t))).max().unwrap_or(0);
            let known = best.entry(key).or_insert_with(|| (most, line.clone()));
            if most > known.0 {
                *known = (most, line);
            }
        }
        best.into_values().map(|(_, line)| line).collect()
    }

    /// Per tile: its program, its role, and a number that equal routes of these colors share.
    fn classes(&self, phase: usize, colors: &[u8]) -> Vec<Class> {
        let mut known: BTreeMap<Vec<(u8, u8)>, u32> = BTreeMap::new();
        let domain = &self.domain;
        let mut here = Vec::new();
        let class = |tile: usize| {
            let row = &domain.routes[tile * domain.colors..(tile + 1) * domain.colors];
            here.clear();
            here.extend(colors.iter().map(|&c| row.get(usize::from(c)).copied().unwrap_or((0, 0))));
            let routes = match known.get(&here) {
                Some(&id) => id,
                None => {
                    let id = known.len() as u32;
                    known.insert(here.clone(), id);
                    id
                }
            };
            (domain.programs[tile], self.roles[phase][tile], routes)
        };
        (0..domain.len()).map(class).collect()
    }
}

/// Program, role, routes.
type Class = (u32, u16, u32);
/// Tiles.
type Line = Vec<u32>;

/// Turns of the loops of a program.
fn turns(program: &Program) -> u64 {
    let of = |kind| match kind {
        StepKind::Turn { times, .. } => u64::from(times),
        _ => 0,
    };
    program.steps.iter().map(|s| of(s.kind)).sum()
}
