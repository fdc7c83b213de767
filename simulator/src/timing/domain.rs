//! What the timing engines run on: routers, links and programs of a set of tiles, without numbers.
//!
//! A [`Domain`] is a template's rectangle (in template positions, ports and colors) or a whole plan (in
//! wafer points, ports and colors). Programs are lists of [`Step`]s whose lengths and cycles are those
//! of one position in the sequence; tiles with equal roles and equal cached-token counts share one.

use std::collections::BTreeMap;
use std::rc::Rc;

use plan::target::cost::{
    broadcast_again_cycles, instruction_cycles, port_millis, relay_latency_cycles, started_cycles,
};
use plan::{Instr, Plan, Point, Port, Region, Target, Template, TemplateMap};

use crate::error::{SimError, Waiting};
use crate::fabric::Fabric;
use crate::hops::Hops;

/// No tile.
pub const NONE: u32 = u32::MAX;

/// What a step waits for and does to the fabric.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum StepKind {
    /// Takes its cycles and nothing else.
    Local,
    /// Emits wavelets on a color.
    Send(u8),
    /// Receives wavelets of a color.
    Recv(u8),
    /// Receives from the first color, emits on the second.
    Relay(u8, u8),
    /// Receives on the first color from roots below, on the second from those above; the root itself
    /// emits on the second, hears that, and emits on the first.
    Broadcast {
        /// Away from coordinate 0.
        up: u8,
        /// Towards it.
        down: u8,
        /// Along rows.
        along_x: bool,
        /// Coordinate of the first root.
        root: u32,
        /// Positions that it moves in a turn.
        per_turn: u32,
    },
    /// Waits for a set of microthreads.
    Join {
        /// Bit i: microthread i.
        threads: u8,
        /// Cycles of software once they have ended.
        after: u32,
    },
    /// The end of a loop's body.
    Turn {
        /// Steps back to its begin.
        back: u32,
        /// Turns, at least 2.
        times: u32,
    },
}

/// An instruction with its cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Step {
    /// What it is.
    pub kind: StepKind,
    /// Index of its phase.
    pub phase: u16,
    /// Wavelets of its message.
    pub wavelets: u32,
    /// Cycles of a local step; software cycles before the first wavelet, before waiting, otherwise.
    pub cycles: u64,
    /// The microthread in which its message runs.
    pub thread: Option<u8>,
    /// Of a relay: cycles from the end of a wavelet to its result on the ramp. Of a broadcast: between the
    /// root's two messages.
    pub latency: u64,
}

impl Step {
    fn local(phase: u16, cycles: u64) -> Self {
        Step { kind: StepKind::Local, phase, wavelets: 0, cycles, thread: None, latency: 0 }
    }
}

/// The steps of all phases of a tile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    /// In order.
    pub steps: Vec<Step>,
    /// Per phase: its first step; one more entry for the end.
    pub phase_starts: Vec<u32>,
}

/// The step a tile is stuck at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Stuck {
    /// Index of the step in its program.
    pub step: u32,
    /// Wavelets of it that have arrived.
    pub done: u32,
}

/// The link between two wafers in one direction: all rows share its bandwidth.
#[derive(Clone, Copy, Debug, Default)]
pub struct SharedLink {
    /// The last cycle in which something departed, and how much.
    last: (u64, u32),
}

impl SharedLink {
    /// The cycle in which a wavelet that is ready at `time` departs, `rate` of them per cycle. Calls come
    /// in the order of service.
    pub fn take(&mut self, time: u64, rate: u32) -> u64 {
        let (cycle, count) = self.last;
        self.last = match () {
            () if time > cycle => (time, 1),
            () if count < rate => (cycle, count + 1),
            () => (cycle + 1, 1),
        };
        self.last.0
    }
}

/// Tiles with their routers and programs.
#[derive(Clone)]
pub struct Domain {
    /// Colors: 0..colors.
    pub colors: usize,
    /// Per tile and color: input port bit, output bits.
    pub routes: Vec<(u8, u8)>,
    /// Per tile: neighbour through each of the four mesh ports.
    pub neighbors: Vec<[u32; 4]>,
    /// Per tile: its position in its template.
    pub positions: Vec<(u32, u32)>,
    /// Per tile: index into `table`.
    pub programs: Vec<u32>,
    /// Distinct programs.
    pub table: Vec<Rc<Program>>,
    /// Per tile: region (of a plan) or 0 (of a template).
    pub group: Vec<u32>,
    /// Per group: its first phase slot; one more entry for the end.
    phase_bases: Vec<usize>,
    /// Cycles from router to router.
    pub hop: u64,
    /// Tiles whose hop through a port costs more (between wafers), with the cycles.
    pub dear_hops: BTreeMap<(u32, u8), u64>,
    /// Of these, the hops between two wafers: which link (column and port) they share.
    pub crossings: BTreeMap<(u32, u8), (u32, u8)>,
    /// Wavelets per cycle of such a link.
    pub link_rate: u32,
    /// Cycles between router and core.
    pub ramp: u64,
    /// Cycles a core spends per wavelet received.
    pub wavelet: u64,
}

impl Domain {
    /// The rectangle of a template at sequence position `pos`.
    ///
    /// # Errors
    /// A position without a role.
    pub fn of_template(plan: &Plan, template: &Template, pos: u32) -> Result<Self, SimError> {
        let map = TemplateMap::new(template);
        let (w, h) = (template.width, template.height);
        let used = map.colors().chain(template_colors(template));
        let colors = used.map(|c| usize::from(c.0) + 1).max().unwrap_or(0);
        let mut domain = Domain::empty(&plan.target, colors);
        domain.add_group(template.phases.len());
        let mut builder = Builder::new(&plan.target, template, pos);
        for y in 0..h {
            for x in 0..w {
                let roles: Option<Vec<usize>> =
                    (0..template.phases.len()).map(|p| map.role_index(p, x, y)).collect();
                let roles = roles.ok_or_else(|| SimError::Illegal {
                    what: format!("position ({x}, {y}) of `{}` has no role", template.name),
                })?;
                domain.programs.push(builder.program(&roles, (x, y), |c| c, &mut domain.table));
                domain.group.push(0);
                let base = domain.routes.len();
                domain.routes.resize(base + colors, (0, 0));
                for color in map.colors() {
                    let slot = &mut domain.routes[base + usize::from(color.0)];
                    for r in map.routes_at(color, x, y) {
                        *slot = (slot.0 | 1 << r.input as u8, slot.1 | r.outputs.0);
                    }
                }
                let at = |dx: i64, dy: i64| {
                    let (nx, ny) = (i64::from(x) + dx, i64::from(y) + dy);
                    let inside = nx >= 0 && ny >= 0 && nx < w.into() && ny < h.into();
                    if inside { (ny * i64::from(w) + nx) as u32 } else { NONE }
                };
                domain.neighbors.push([at(0, -1), at(1, 0), at(0, 1), at(-1, 0)]);
                domain.positions.push((x, y));
            }
        }
        Ok(domain)
    }

    /// The rectangle of a template without programs.
    pub fn bare(plan: &Plan, map: &TemplateMap<'_>) -> Self {
        let template = map.template;
        let colors = map.color_count();
        let mut domain = Domain::empty(&plan.target, colors);
        domain.add_group(template.phases.len());
        domain.routes = map.route_table();
        let (w, h) = (template.width, template.height);
        for tile in 0..w * h {
            let (x, y) = (tile % w, tile / w);
            domain.positions.push((x, y));
            let at = |inside: bool, near: u32| if inside { near } else { NONE };
            domain.neighbors.push([
                at(y > 0, tile.wrapping_sub(w)),
                at(x + 1 < w, tile + 1),
                at(y + 1 < h, tile + w),
                at(x > 0, tile.wrapping_sub(1)),
            ]);
        }
        domain.programs = vec![0; (w * h) as usize];
        domain.group = vec![0; (w * h) as usize];
        domain
    }

    /// All tiles of a plan at sequence position `pos`.
    pub fn of_plan(fabric: &Fabric<'_>, pos: u32) -> Self {
        let plan = fabric.plan;
        let mut domain = Domain::empty(&plan.target, fabric.colors);
        let idle = Program { steps: Vec::new(), phase_starts: vec![0] };
        domain.table.push(Rc::new(idle));
        let mut builders: Vec<Builder<'_>> = Vec::new();
        for region in &plan.regions {
            let template = &plan.templates[region.template.0 as usize];
            domain.add_group(template.phases.len());
            builders.push(Builder::new(&plan.target, template, pos));
        }
        for tile in 0..fabric.len() {
            let group = fabric.regions[tile];
            let program = match builders.get_mut(group as usize) {
                None => 0,
                Some(builder) => {
                    let phases = 0..builder.template.phases.len();
                    let roles: Vec<usize> =
                        phases.filter_map(|p| fabric.role_index(tile, p)).collect();
                    let position = fabric.position(tile);
                    let region = &plan.regions[group as usize];
                    builder.program(&roles, position, |c| region.color(c), &mut domain.table)
                }
            };
            domain.programs.push(program);
            domain.group.push(group);
            domain.positions.push(if program == 0 { (0, 0) } else { fabric.position(tile) });
            for color in 0..fabric.colors {
                domain.routes.push(fabric.route_bits(tile, color));
            }
            let near = |p: Port| fabric.neighbor(tile, p).map_or(NONE, |t| t as u32);
            let ports = [Port::North, Port::East, Port::South, Port::West];
            domain.neighbors.push(ports.map(near));
            for port in ports {
                let cycles = fabric.hop_cycles(tile, port);
                if cycles != domain.hop && fabric.neighbor(tile, port).is_some() {
                    domain.dear_hops.insert((tile as u32, port as u8), cycles);
                    if fabric.crosses(tile, port) {
                        let link = (fabric.points[tile].x, port as u8);
                        domain.crossings.insert((tile as u32, port as u8), link);
                    }
                }
            }
        }
        domain
    }

    /// The same rectangle where a region lies: its hops around dead PEs are dearer.
    #[must_use]
    pub fn in_region(&self, region: &Region, hops: &Hops<'_>) -> Self {
        let mut domain = self.clone();
        for tile in 0..self.len() as u32 {
            let at = region.point((tile % region.rect.w, tile / region.rect.w));
            for port in [Port::North, Port::East, Port::South, Port::West] {
                if self.neighbors[tile as usize][port as usize] == NONE {
                    continue;
                }
                let cycles = hops.cycles(at, region.orientation.port(port));
                if cycles != self.hop {
                    domain.dear_hops.insert((tile, port as u8), cycles);
                }
            }
        }
        domain
    }

    fn empty(target: &Target, colors: usize) -> Self {
        Domain {
            colors,
            routes: Vec::new(),
            neighbors: Vec::new(),
            positions: Vec::new(),
            programs: Vec::new(),
            table: Vec::new(),
            group: Vec::new(),
            phase_bases: vec![0],
            hop: u64::from(target.fabric.hop_cycles),
            dear_hops: BTreeMap::new(),
            crossings: BTreeMap::new(),
            link_rate: target.fabric.wafer_link_wavelets,
            ramp: u64::from(target.fabric.ramp_cycles),
            wavelet: u64::from(target.core.wavelet_cycles),
        }
    }

    /// Number of tiles.
    pub fn len(&self) -> usize {
        self.programs.len()
    }

    /// True without tiles.
    pub fn is_empty(&self) -> bool {
        self.programs.is_empty()
    }

    /// Number of groups.
    pub fn groups(&self) -> usize {
        self.phase_bases.len() - 1
    }

    /// Index of a group's phase in [`super::engine::Outcome::phase_ends`].
    pub fn phase_slot(&self, group: u32, phase: u16) -> usize {
        self.phase_bases[group as usize] + phase as usize
    }

    /// Number of phase slots.
    pub fn phase_slots(&self) -> usize {
        self.phase_bases.last().copied().unwrap_or(0)
    }

    fn add_group(&mut self, phases: usize) {
        self.phase_bases.push(self.phase_slots() + phases);
    }

    /// The program of a tile.
    pub fn program(&self, tile: u32) -> &Program {
        &self.table[self.programs[tile as usize] as usize]
    }

    /// What a tile that is stuck at a step waits for.
    pub fn waiting(
        &self,
        plan: &Plan,
        region: &Region,
        at: Point,
        (tile, step): (u32, Stuck),
        wafer_color: impl Fn(u8) -> u8,
    ) -> Waiting {
        let program = self.program(tile);
        let s = program.steps[step.step as usize];
        let phase = plan.template_of(region).and_then(|t| t.phases.get(s.phase as usize));
        let color = |kind| match kind {
            StepKind::Recv(c) | StepKind::Relay(c, _) | StepKind::Send(c) => c,
            StepKind::Broadcast { up, .. } => up,
            StepKind::Local | StepKind::Join { .. } | StepKind::Turn { .. } => 0,
        };
        let color = match s.kind {
            // Some message that it waits for.
            StepKind::Join { threads, .. } => {
                let before = program.steps[..step.step as usize].iter().rev();
                let mut started =
                    before.filter(|s| s.thread.is_some_and(|t| threads & (1 << t) != 0));
                started.find(|s| !matches!(s.kind, StepKind::Send(_))).map_or(0, |s| color(s.kind))
            }
            kind => color(kind),
        };
        Waiting {
            region: region.name.clone(),
            at,
            phase: phase.map_or(String::new(), |p| p.name.clone()),
            instruction: (step.step - program.phase_starts[s.phase as usize]) as usize,
            color: wafer_color(color),
            found: u64::from(step.done),
            needed: u64::from(s.wavelets),
        }
    }

    /// Cycles of a hop.
    pub fn hop_cycles(&self, tile: u32, port: u8) -> u64 {
        if self.dear_hops.is_empty() {
            return self.hop;
        }
        self.dear_hops.get(&(tile, port)).copied().unwrap_or(self.hop)
    }
}

fn template_colors(template: &Template) -> impl Iterator<Item = plan::Color> {
    let programs = template.phases.iter().flat_map(|p| &p.roles).flat_map(|r| &r.program);
    let messages = programs.clone().filter_map(Instr::communication);
    let broadcasts = programs.filter_map(Instr::broadcast).flatten();
    messages.flat_map(|c| [c.input, c.output]).flatten().chain(broadcasts)
}

/// Makes the programs of one region's tiles, each distinct one once.
struct Builder<'a> {
    target: &'a Target,
    template: &'a Template,
    pos: u32,
    /// By roles, cached tokens and turns of loops.
    known: BTreeMap<(Vec<usize>, u32, Vec<u32>), u32>,
    loops: bool,
}

impl<'a> Builder<'a> {
    fn new(target: &'a Target, template: &'a Template, pos: u32) -> Self {
        let mut programs = template.phases.iter().flat_map(|p| &p.roles).flat_map(|r| &r.program);
        let loops = programs.any(|i| matches!(i, Instr::Repeat { .. }));
        Builder { target, template, pos, known: BTreeMap::new(), loops }
    }

    fn program(
        &mut self,
        roles: &[usize],
        position: (u32, u32),
        color: impl Fn(plan::Color) -> plan::Color,
        table: &mut Vec<Rc<Program>>,
    ) -> u32 {
        let tokens = self.template.kv_tokens(position, self.pos).1;
        let parts = roles.iter().zip(&self.template.phases).map(|(&r, p)| &p.roles[r].program);
        let turns = |program: &[Instr]| -> Vec<u32> {
            let turns = program.iter().filter_map(|i| match i {
                Instr::Repeat { times, .. } => times.at(position, self.template.cell),
                _ => None,
            });
            turns.map(|n| n.clamp(0, i64::from(u32::MAX)) as u32).collect()
        };
        let turns: Vec<u32> =
            if self.loops { parts.clone().flat_map(|p| turns(p)).collect() } else { Vec::new() };
        let key = (roles.to_vec(), tokens, turns);
        if let Some(&id) = self.known.get(&key) {
            return id;
        }
        let mut compiler = Compiler {
            target: self.target,
            template: self.template,
            tokens,
            turns: key.2.iter().copied(),
            phase: 0,
            steps: Vec::new(),
        };
        let mut phase_starts = Vec::new();
        let mut bound: Vec<plan::Color> = Vec::new();
        // A program runs token after token: it starts with what its end left bound.
        for program in parts.clone() {
            phase_overhead(self.target, program, &mut bound);
        }
        for (phase, program) in parts.enumerate() {
            phase_starts.push(compiler.steps.len() as u32);
            compiler.phase = phase as u16;
            let overhead = phase_overhead(self.target, program, &mut bound);
            if overhead > 0 {
                compiler.steps.push(Step::local(phase as u16, overhead));
            }
            compiler.program(program, |c| color(c).0);
        }
        phase_starts.push(compiler.steps.len() as u32);
        // There may be one per PE.
        compiler.steps.shrink_to_fit();
        table.push(Rc::new(Program { steps: compiler.steps, phase_starts }));
        let id = table.len() as u32 - 1;
        self.known.insert(key, id);
        id
    }
}

/// Compiles the programs of some positions to see how many differ and what they take.
pub struct Sampler<'a> {
    builder: Builder<'a>,
    table: Vec<Rc<Program>>,
}

impl<'a> Sampler<'a> {
    /// Nothing compiled yet.
    pub fn new(target: &'a Target, template: &'a Template, pos: u32) -> Self {
        Sampler { builder: Builder::new(target, template, pos), table: Vec::new() }
    }

    /// Adds the program of a position.
    pub fn add(&mut self, map: &TemplateMap<'_>, (x, y): (u32, u32)) {
        let phases = 0..map.template.phases.len();
        let roles: Vec<usize> = phases.filter_map(|p| map.role_index(p, x, y)).collect();
        if roles.len() == map.template.phases.len() {
            self.builder.program(&roles, (x, y), |c| c, &mut self.table);
        }
    }

    /// Distinct programs, and bytes of all of them with the keys that tell them apart.
    pub fn found(&self) -> (u64, u64) {
        let keys =
            self.builder.known.keys().map(|(roles, _, turns)| 8 * roles.len() + 4 * turns.len());
        let steps = self
            .table
            .iter()
            .map(|p| size_of_val(p.steps.as_slice()) + size_of_val(p.phase_starts.as_slice()));
        (self.table.len() as u64, keys.chain(steps).map(|bytes| bytes as u64).sum())
    }
}

/// One phase of a program for itself: `turns` are those of its loops, `before` what a phase that
/// communicated left bound.
pub fn phase_program(
    plan: &Plan,
    template: &Template,
    (phase, instrs): (usize, &[Instr]),
    turns: &[u32],
    before: &[Instr],
) -> Program {
    let turns = turns.iter().copied();
    let steps = Vec::new();
    let mut compiler =
        Compiler { target: &plan.target, template, tokens: 0, turns, phase: phase as u16, steps };
    let mut bound = Vec::new();
    phase_overhead(&plan.target, before, &mut bound);
    let overhead = phase_overhead(&plan.target, instrs, &mut bound);
    if overhead > 0 {
        compiler.steps.push(Step::local(phase as u16, overhead));
    }
    compiler.program(instrs, |c| c.0);
    let end = compiler.steps.len() as u32;
    let phases = 0..=template.phases.len();
    let phase_starts = phases.map(|p| if p <= phase { 0 } else { end }).collect();
    Program { steps: compiler.steps, phase_starts }
}

/// Microthreads under way and what they take from the program: both want the ports of memory.
#[derive(Default)]
struct Beside {
    /// Cycles of local instructions so far.
    work: u64,
    /// Per microthread: thousandths of a cycle that its message has the ports, and `work` at its start.
    open: [Option<(u64, u64)>; plan::MICROTHREADS as usize],
}

impl Beside {
    fn start(&mut self, thread: u8, millis: u64) {
        if let Some(slot) = self.open.get_mut(usize::from(thread)) {
            *slot = Some((millis, self.work));
        }
    }

    /// Cycles that the messages of some microthreads have taken: no more than there were to take.
    fn taken(&mut self, threads: u8) -> u64 {
        let joined = self.open.iter_mut().enumerate().filter(|(t, _)| threads & (1 << t) != 0);
        let joined: Vec<(u64, u64)> = joined.filter_map(|(_, slot)| slot.take()).collect();
        let millis: u64 = joined.iter().map(|(millis, _)| millis).sum();
        let since = joined.iter().map(|(_, since)| *since).min().unwrap_or(self.work);
        millis.div_ceil(1000).min(self.work - since)
    }
}

/// Turns the instructions of one tile into steps.
struct Compiler<'a, T> {
    target: &'a Target,
    template: &'a Template,
    tokens: u32,
    /// Of the loops to come.
    turns: T,
    phase: u16,
    steps: Vec<Step>,
}

impl<T: Iterator<Item = u32>> Compiler<'_, T> {
    fn program(&mut self, program: &[Instr], color: impl Fn(plan::Color) -> u8) {
        // End of the loop under way, its first step, its turns.
        let mut open: Option<(usize, usize, u32)> = None;
        let mut thread = None;
        let mut beside = Beside::default();
        for (i, instr) in program.iter().enumerate() {
            self.close(&mut open, i);
            let cycles = instruction_cycles(self.target, self.template, instr, self.tokens);
            let mut step = Step::local(self.phase, cycles);
            match *instr {
                Instr::Start { thread: t } => thread = Some(t),
                Instr::Join { threads } => {
                    let after = (cycles * u64::from(threads.count_ones())) as u32;
                    step.cycles = beside.taken(threads);
                    step.kind = StepKind::Join { threads, after };
                }
                Instr::Repeat { body, .. } => {
                    let end = (i + 1).saturating_add(body as usize).min(program.len());
                    open = Some((end, self.steps.len(), self.turns.next().unwrap_or(0)));
                    continue;
                }
                _ => {}
            }
            if let Some(c) = instr.communication() {
                step.kind = match (c.input, c.output) {
                    (Some(a), Some(b)) => StepKind::Relay(color(a), color(b)),
                    (Some(a), None) => StepKind::Recv(color(a)),
                    (None, Some(b)) => StepKind::Send(color(b)),
                    (None, None) => StepKind::Local,
                };
                step.latency = relay_latency_cycles(self.target, instr);
                step.wavelets = c.wire.wavelets(c.len.elements(self.tokens)) as u32;
            }
            if let Instr::Broadcast { axis, up, down, src, root, per_turn, wire, .. } = *instr {
                let (up, down, along_x) = (color(up), color(down), axis == plan::Axis::X);
                step.kind = StepKind::Broadcast { up, down, along_x, root, per_turn };
                step.latency = broadcast_again_cycles(self.target);
                step.wavelets = wire.wavelets(src.len.elements(self.tokens)) as u32;
            }
            match step.kind {
                StepKind::Local => beside.work += step.cycles,
                StepKind::Join { .. } | StepKind::Turn { .. } => {}
                _ => step.thread = thread.take(),
            }
            if let Some(t) = step.thread {
                step.cycles = started_cycles(self.target, instr);
                beside.start(t, u64::from(step.wavelets) * port_millis(self.target, instr));
            }
            self.steps.push(step);
        }
        self.close(&mut open, program.len());
    }

    /// Ends the loop under way when its body ends before instruction `at`.
    fn close(&mut self, open: &mut Option<(usize, usize, u32)>, at: usize) {
        let Some((_, first, times)) = open.take_if(|o| at >= o.0) else { return };
        if times == 0 {
            self.steps.truncate(first);
            return;
        }
        let mut turn = Step::local(self.phase, u64::from(self.target.core.threads.repeat));
        if times > 1 {
            turn.kind = StepKind::Turn { back: (self.steps.len() - first) as u32, times };
        }
        self.steps.push(turn);
    }
}

/// Task switch and queue binding at the start of a phase; `bound` are the colors of the last phase
/// that communicated.
pub fn phase_overhead(target: &Target, program: &[Instr], bound: &mut Vec<plan::Color>) -> u64 {
    if program.is_empty() {
        return 0;
    }
    let comms = program.iter().filter_map(Instr::communication);
    let mut colors: Vec<plan::Color> = comms.flat_map(|c| [c.input, c.output]).flatten().collect();
    colors.sort_unstable();
    colors.dedup();
    let fresh = colors.iter().filter(|c| !bound.contains(c)).count() as u64;
    if !colors.is_empty() {
        *bound = colors;
    }
    u64::from(target.core.task_switch_cycles) + fresh * u64::from(target.core.color_bind_cycles)
}
