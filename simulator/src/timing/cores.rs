//! Cores: what each tile of a job does with the wavelets that reach it, step by step.
//!
//! A core goes on until it lacks a wavelet; it then says what it has put on its ramp. Every queue has
//! one writer and one reader, so the result is the same in whatever order cores go on (a Kahn
//! network). State lies in arrays by tile and by (tile, color); runs of wavelets in one pool.
//! Does not know how wavelets travel: [`super::engine`] and [`super::wavelets`] do.

use super::domain::{Domain, NONE, Step, StepKind, Stuck};
use super::engine::{Job, Outcome};
use super::runs::Run;

/// A core that waits for no color.
const AWAKE: u8 = u8::MAX;
const THREADS: usize = plan::MICROTHREADS as usize;

#[derive(Clone, Copy)]
struct Core {
    /// Free for the next step.
    now: u64,
    /// When the last wavelet of the last Send left: sends of microthreads share the ramp, in the order
    /// in which they start.
    ramp: u64,
    step: u32,
    /// One past its last step.
    end: u32,
    /// Turns of the current loop done.
    turn: u32,
    /// Wavelets of the current step done.
    done: u32,
    /// Started: the software cost of the current step is in `now`.
    started: bool,
    /// The color it waits for, or [`AWAKE`].
    waits: u8,
    /// Bit i: microthread i lacks wavelets.
    pending: u8,
}

/// A message in a microthread.
#[derive(Clone, Copy)]
struct Thread {
    step: u32,
    done: u32,
    now: u64,
    /// Of a broadcast: what it receives on.
    color: u8,
}

/// Queues of runs in one pool, linked by index.
struct Queues {
    /// Per (tile, color): first and last node, or [`NONE`].
    ends: Vec<(u32, u32)>,
    nodes: Vec<(Run, u32)>,
    free: u32,
}

impl Queues {
    fn new(queues: usize) -> Self {
        Queues { ends: vec![(NONE, NONE); queues], nodes: Vec::new(), free: NONE }
    }

    fn push(&mut self, queue: usize, run: Run) {
        let (_, last) = self.ends[queue];
        if last != NONE && self.nodes[last as usize].0.join(run) {
            return;
        }
        let node = match self.free {
            NONE => {
                self.nodes.push((run, NONE));
                self.nodes.len() as u32 - 1
            }
            node => {
                self.free = self.nodes[node as usize].1;
                self.nodes[node as usize] = (run, NONE);
                node
            }
        };
        match last {
            NONE => self.ends[queue] = (node, node),
            last => {
                self.nodes[last as usize].1 = node;
                self.ends[queue].1 = node;
            }
        }
    }

    /// Takes at most `most` wavelets that are one run.
    fn pop(&mut self, queue: usize, most: u32) -> Option<Run> {
        let (first, last) = self.ends[queue];
        if first == NONE || most == 0 {
            return None;
        }
        let (run, next) = self.nodes[first as usize];
        if run.n > most {
            let (taken, left) = run.split(most);
            self.nodes[first as usize].0 = left;
            return Some(taken);
        }
        self.nodes[first as usize].1 = self.free;
        self.free = first;
        self.ends[queue] = if next == NONE { (NONE, NONE) } else { (next, last) };
        Some(run)
    }
}

/// Wavelets that a core has put on its ramp: color, cycles on the ramp.
pub type Emitted = Vec<(u8, Run)>;

/// The cores of a job.
pub struct Cores<'a> {
    job: &'a Job<'a>,
    cores: Vec<Core>,
    /// Per tile and microthread; empty when no program has any.
    threads: Vec<Thread>,
    queues: Queues,
    /// Cores pause in front of this turn of a loop.
    turn_limit: u32,
    /// Phase ends, and cycles worked.
    pub out: Outcome,
}

impl<'a> Cores<'a> {
    /// All at their first step.
    pub fn new(job: &'a Job<'a>) -> Self {
        let core = |i: usize| {
            let (step, end) = job.steps(i);
            Core {
                now: job.starts[i],
                ramp: 0,
                step,
                end,
                turn: 0,
                done: 0,
                started: false,
                waits: AWAKE,
                pending: 0,
            }
        };
        let steps = || job.domain.table.iter().flat_map(|p| &p.steps);
        let threads = if steps().any(|s| s.thread.is_some()) { THREADS } else { 0 };
        Cores {
            job,
            cores: (0..job.tiles.len()).map(core).collect(),
            threads: vec![Thread { step: 0, done: 0, now: 0, color: 0 }; threads * job.tiles.len()],
            queues: Queues::new(job.tiles.len() * job.domain.colors),
            turn_limit: u32::MAX,
            out: Outcome::empty(job.domain, job.tiles.len()),
        }
    }

    /// Wavelets of a color are there for a core to take; whether the core can now go on.
    pub fn deliver(&mut self, tile: u32, color: u8, run: Run) -> bool {
        self.queues.push(self.queue(tile, color), run);
        let core = &mut self.cores[tile as usize];
        if core.waits == color {
            core.waits = AWAKE;
            return true;
        }
        core.pending != 0
    }

    /// Runs of wavelets that wait for a core, or did.
    pub fn runs(&self) -> usize {
        self.queues.nodes.len()
    }

    fn queue(&self, tile: u32, color: u8) -> usize {
        tile as usize * self.job.domain.colors + color as usize
    }

    /// Lets a core go on as far as it can.
    pub fn advance(&mut self, tile: u32, emitted: &mut Emitted) {
        let domain = self.job.domain;
        let program = domain.program(self.job.tiles[tile as usize]);
        let mut core = self.cores[tile as usize];
        if core.pending != 0 {
            self.advance_threads(tile, &mut core, &program.steps, emitted);
        }
        while core.step < core.end && core.turn < self.turn_limit {
            let step = &program.steps[core.step as usize];
            if !core.started {
                core.now += step.cycles;
                self.out.work.active_cycles += step.cycles;
                core.started = true;
            }
            if !self.step(tile, &mut core, step, emitted) {
                break;
            }
            let group = domain.group[self.job.tiles[tile as usize] as usize];
            let latest = &mut self.out.phase_ends[domain.phase_slot(group, step.phase)];
            *latest = (*latest).max(core.now);
            (core.done, core.started) = (0, false);
            match step.kind {
                StepKind::Turn { back, times } if core.turn + 1 < times => {
                    core.turn += 1;
                    core.step -= back;
                }
                StepKind::Turn { .. } => {
                    core.turn = 0;
                    core.step += 1;
                }
                _ => core.step += 1,
            }
        }
        self.cores[tile as usize] = core;
    }

    /// Executes a step; false when it lacks wavelets.
    fn step(&mut self, tile: u32, core: &mut Core, step: &Step, emitted: &mut Emitted) -> bool {
        match (step.kind, step.thread) {
            (StepKind::Local | StepKind::Turn { .. }, _) => true,
            (StepKind::Send(color), thread) => {
                let begin = core.now.max(core.ramp);
                if step.wavelets > 0 {
                    emitted.push((color, Run::dense(begin + 1, step.wavelets)));
                }
                core.ramp = begin + u64::from(step.wavelets);
                self.out.work.active_cycles += u64::from(step.wavelets);
                match thread {
                    Some(t) => self.threads[tile as usize * THREADS + t as usize].now = core.ramp,
                    None => core.now = core.ramp,
                }
                true
            }
            (StepKind::Recv(_) | StepKind::Relay(..), Some(t)) => {
                self.threads[tile as usize * THREADS + t as usize] =
                    Thread { step: core.step, done: 0, now: core.now, color: 0 };
                self.advance_thread(tile, core, t, step, emitted);
                true
            }
            (StepKind::Broadcast { up, down, along_x, root, per_turn }, thread) => {
                let position = self.job.domain.positions[self.job.tiles[tile as usize] as usize];
                let at = if along_x { position.0 } else { position.1 };
                let root = root + per_turn * core.turn;
                let color = if at < root { down } else { up };
                let Some(t) = thread else {
                    if at == root {
                        core.now = self.cast(core, step, (up, down), emitted);
                        return true;
                    }
                    let mut at = (core.now, core.done);
                    let complete = self.receive(tile, &mut at, (step, color), emitted);
                    (core.now, core.done) = at;
                    if !complete {
                        core.waits = color;
                    }
                    return complete;
                };
                let slot = tile as usize * THREADS + t as usize;
                self.threads[slot] = Thread { step: core.step, done: 0, now: core.now, color };
                if at == root {
                    self.threads[slot].now = self.cast(core, step, (up, down), emitted);
                } else {
                    self.advance_thread(tile, core, t, step, emitted);
                }
                true
            }
            (StepKind::Recv(color) | StepKind::Relay(color, _), None) => {
                let mut at = (core.now, core.done);
                let complete = self.receive(tile, &mut at, (step, color), emitted);
                (core.now, core.done) = at;
                if !complete {
                    core.waits = color;
                }
                complete
            }
            (StepKind::Join { threads, after }, _) => {
                if core.pending & threads != 0 {
                    return false;
                }
                core.now = core.now.max(self.joined(tile, threads));
                core.now += u64::from(after);
                self.out.work.active_cycles += u64::from(after);
                true
            }
        }
    }

    /// When the last of a set of microthreads ended.
    fn joined(&self, tile: u32, threads: u8) -> u64 {
        let threads = (0..THREADS).filter(|t| threads & (1 << t) != 0);
        threads.map(|t| self.threads[tile as usize * THREADS + t].now).max().unwrap_or(0)
    }

    /// Emits both messages of a broadcast's root, which hears itself: when it has heard the last wavelet.
    fn cast(
        &mut self,
        core: &mut Core,
        step: &Step,
        (up, down): (u8, u8),
        emitted: &mut Emitted,
    ) -> u64 {
        let (domain, n) = (self.job.domain, u64::from(step.wavelets));
        let mut now = core.now.max(core.ramp);
        for (color, wait) in [(down, 0), (up, step.latency)] {
            now += wait;
            if n > 0 {
                emitted.push((color, Run::dense(now + 1, step.wavelets)));
                core.ramp = now + n;
                // Up its own ramp, one wavelet after the other.
                now += 1 + 2 * domain.ramp + n * domain.wavelet;
            }
            self.out.work.active_cycles += n * (1 + domain.wavelet);
        }
        now
    }

    fn advance_threads(
        &mut self,
        tile: u32,
        core: &mut Core,
        steps: &[Step],
        emitted: &mut Emitted,
    ) {
        let mut open = core.pending;
        while open != 0 {
            let t = open.trailing_zeros() as u8;
            open &= open - 1;
            let thread = self.threads[tile as usize * THREADS + t as usize];
            self.advance_thread(tile, core, t, &steps[thread.step as usize], emitted);
        }
    }

    fn advance_thread(
        &mut self,
        tile: u32,
        core: &mut Core,
        t: u8,
        step: &Step,
        emitted: &mut Emitted,
    ) {
        let slot = tile as usize * THREADS + t as usize;
        let mut at = (self.threads[slot].now, self.threads[slot].done);
        let color = match step.kind {
            StepKind::Recv(color) | StepKind::Relay(color, _) => color,
            _ => self.threads[slot].color,
        };
        let complete = self.receive(tile, &mut at, (step, color), emitted);
        (self.threads[slot].now, self.threads[slot].done) = at;
        core.pending = core.pending & !(1 << t) | u8::from(!complete) << t;
    }

    /// Takes what has arrived of a message; whether it is complete. `at` is when the last wavelet was
    /// done, and how many are.
    fn receive(
        &mut self,
        tile: u32,
        at: &mut (u64, u32),
        (step, color): (&Step, u8),
        emitted: &mut Emitted,
    ) -> bool {
        let output = match step.kind {
            StepKind::Relay(_, output) => Some(output),
            _ => None,
        };
        let w = self.job.domain.wavelet as u32;
        let queue = self.queue(tile, color);
        while let Some(run) = self.queues.pop(queue, step.wavelets - at.1) {
            at.1 += run.n;
            self.out.work.active_cycles += u64::from(run.n) * u64::from(w);
            at.0 = run.served(at.0, w, |part| {
                if let Some(output) = output {
                    emitted.push((output, part.later(step.latency)));
                }
            });
        }
        at.1 == step.wavelets
    }

    /// Lets cores pause in front of turn `turn` of a loop, counted from 0; they have to be woken then.
    pub fn pause_at(&mut self, turn: u32) {
        self.turn_limit = turn;
    }

    /// When all cores pause in front of the same turn: everything that decides what they do from there on,
    /// times relative to the earliest core's, which is the first number returned.
    pub fn standstill(&self) -> Option<(u64, Vec<u64>)> {
        let base = self.cores.iter().map(|c| c.now).min()?;
        let mut state = Vec::with_capacity(self.cores.len() * 2);
        for core in &self.cores {
            if core.turn != self.turn_limit || core.pending != 0 {
                return None;
            }
            // A ramp that is free by now says nothing.
            state.extend([core.now - base, core.ramp.saturating_sub(core.now), core.step.into()]);
        }
        for (queue, &(first, _)) in self.queues.ends.iter().enumerate() {
            let mut node = first;
            while node != NONE {
                let (run, next) = self.queues.nodes[node as usize];
                // Shifted so that what came before the earliest core stays positive.
                let first = (run.first + (1 << 32)).checked_sub(base)?;
                state.extend([queue as u64, first, run.stride.into(), run.n.into()]);
                node = next;
            }
        }
        Some((base, state))
    }

    /// Full turns that every core has before it, without the last one.
    pub fn turns_left(&self) -> u32 {
        let left = |(i, core): (usize, &Core)| {
            let steps = &self.job.domain.program(self.job.tiles[i]).steps;
            let end = steps.get(core.step as usize..).unwrap_or(&[]).iter();
            let turns = end.map(|s| s.kind).find_map(|kind| match kind {
                StepKind::Turn { times, .. } => Some(times),
                _ => None,
            });
            turns.unwrap_or(0).saturating_sub(core.turn + 1)
        };
        self.cores.iter().enumerate().map(left).min().unwrap_or(0)
    }

    /// Moves everything `turns` turns on, which take `cycles`.
    pub fn skip(&mut self, turns: u32, cycles: u64) {
        for core in &mut self.cores {
            core.turn += turns;
            core.now += cycles;
            core.ramp += cycles;
        }
        for &(first, _) in &self.queues.ends {
            let mut node = first;
            while node != NONE {
                let (run, next) = &mut self.queues.nodes[node as usize];
                run.first += cycles;
                node = *next;
            }
        }
    }

    /// The outcome but for what the fabric adds: ends, and who still waits.
    pub fn finish(mut self) -> Outcome {
        for (i, core) in self.cores.iter().enumerate() {
            self.out.ends.push(core.now);
            if core.step < core.end {
                let stuck = Stuck { step: core.step, done: core.done };
                self.out.waiting.push((self.job.tiles[i], stuck));
            }
        }
        self.out
    }

    /// The domain.
    pub fn domain(&self) -> &'a Domain {
        self.job.domain
    }
}
