//! Runs a plan: every instruction of every tile, with messages along the plan's routes.
//!
//! Regions execute in the order in which values flow, each by its template's [`Schedule`]. Several
//! tokens are under way at once: a region is free for the next token as soon as it has finished one,
//! so prompts and requests in flight use all threads. Whoever runs what, the bits are the same: every
//! value has one writer and one order of additions.
//!
//! `plan::verify` is the gate: illegal plans are refused. Knows nothing of time: see [`crate::timing`].

mod region;

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use plan::{BufferRole, Color, Plan, PlanMap, Region, Storage};

use crate::error::SimError;
use crate::kernels::{Attended, Frame, Registers, Scratch};
use crate::memory::{self, Array, Layout, WeightSource};
use crate::schedule::Schedule;
use region::RegionRun;

/// Most threads that run regions or pin weights.
const THREADS_MAX: usize = 16;
/// Most bytes of weights and of one sequence's caches.
const VALUES_MAX: u64 = 16 << 30;

/// A plan with its pinned weights, and one sequence.
pub struct Simulator<'a> {
    machine: Machine<'a>,
    sequence: Sequence,
    prompt: u32,
}

/// A plan with its pinned weights: what all sequences share.
pub struct Machine<'a> {
    plan: &'a Plan,
    /// Per template.
    templates: Vec<(Layout, Schedule)>,
    /// Per region: one array per buffer.
    weights: Vec<Vec<Array>>,
    /// Regions in the order in which values flow.
    order: Vec<usize>,
    /// Per region and export: (region, import) pairs that it reaches.
    links: Vec<Vec<Vec<(usize, usize)>>>,
    threads: usize,
}

/// What the wafer keeps of one sequence from token to token.
pub struct Sequence {
    /// Per region: one array per buffer.
    caches: Vec<Mutex<Vec<Array>>>,
    pos: u32,
}

/// One token to be fed to one sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Feed {
    /// Index of the sequence.
    pub sequence: usize,
    /// The token.
    pub token: u32,
    /// Tokens of its prompt: the `length` register is at least this.
    pub prompt: u32,
    /// Whether its logits are wanted.
    pub logits: bool,
}

/// What one token gave.
#[derive(Clone, Debug, PartialEq)]
pub struct StepOutput {
    /// Logits over the vocabulary; empty when the plan declares none, or nobody wants them.
    pub logits: Vec<f32>,
    /// The plan's own argmax; `None` when the plan declares none.
    pub token: Option<u32>,
}

/// Messages that enter a region, per import; empty until the first one arrives.
type Inbox = Vec<VecDeque<Vec<f32>>>;

/// A token on its way through the regions.
struct Job {
    registers: Registers,
    sequence: usize,
    inboxes: Vec<Inbox>,
    output: StepOutput,
}

/// What a thread needs to run regions: per template one array per buffer.
#[derive(Default)]
struct Worker {
    arenas: Vec<Option<Vec<Vec<f32>>>>,
    messages: Vec<f32>,
    scratch: Scratch,
    values: Vec<f32>,
}

/// How far the tokens of a run are.
struct Progress {
    /// Per job: regions finished.
    done: Vec<usize>,
    running: Vec<bool>,
    failed: Option<SimError>,
    panicked: bool,
}

impl<'a> Simulator<'a> {
    /// Verifies `plan`, reserves its SRAM and pins its weights.
    ///
    /// # Errors
    /// Illegal plans and missing weights.
    pub fn new(plan: &'a Plan, source: &dyn WeightSource) -> Result<Self, SimError> {
        crate::error::refuse_illegal(plan)?;
        Simulator::unchecked(plan, source)
    }

    /// As [`Simulator::new`] for a plan known to be legal, or to see how an illegal one fails: operands
    /// outside of their buffers may panic.
    ///
    /// # Errors
    /// Missing weights, and what is illegal in a way that stops the set-up.
    pub fn unchecked(plan: &'a Plan, source: &dyn WeightSource) -> Result<Self, SimError> {
        if !plan::runs_in_program_order(plan) {
            let what =
                "loops or microthreads that receive: execute `plan::unroll` of the plan".into();
            return Err(SimError::Illegal { what });
        }
        let machine = Machine::unchecked(plan, source)?;
        let sequence = machine.sequence();
        Ok(Simulator { machine, sequence, prompt: 0 })
    }

    /// Tokens fed so far.
    pub fn pos(&self) -> u32 {
        self.sequence.pos
    }

    /// Declares how many prompt tokens will be fed: the `length` register is at least this
    /// (it matters to dynamic RoPE scaling only).
    pub fn set_prompt_len(&mut self, tokens: u32) {
        self.prompt = tokens;
    }

    /// Feeds one token and runs every program to its end.
    ///
    /// # Errors
    /// A token or position out of range, a deadlock, wavelets left over.
    pub fn step(&mut self, token: u32) -> Result<StepOutput, SimError> {
        let outputs = self.feed(&[token], 1)?;
        outputs.into_iter().next().ok_or(SimError::NoOutput { what: "token" })
    }

    /// Feeds tokens one behind the other through the pipeline of regions; the outputs of the last `rows`
    /// of them carry logits.
    ///
    /// # Errors
    /// Those of [`Simulator::step`]; then no token counts as fed.
    pub fn feed(&mut self, tokens: &[u32], rows: usize) -> Result<Vec<StepOutput>, SimError> {
        let feed = |(i, &token): (usize, &u32)| Feed {
            sequence: 0,
            token,
            prompt: self.prompt,
            logits: i + rows >= tokens.len(),
        };
        let feeds: Vec<Feed> = tokens.iter().enumerate().map(feed).collect();
        self.machine.run(std::slice::from_mut(&mut self.sequence), &feeds)
    }

    /// Feeds `prompt` and then `n - 1` tokens of its own choice: `n` generated ids (the plan's argmax),
    /// and the logits of every position fed.
    ///
    /// # Errors
    /// Those of [`Simulator::step`]; a plan without a token output.
    pub fn generate(
        &mut self,
        prompt: &[u32],
        n: usize,
    ) -> Result<(Vec<u32>, Vec<Vec<f32>>), SimError> {
        self.set_prompt_len(self.pos() + prompt.len() as u32);
        let mut logits = Vec::new();
        let mut generated = Vec::new();
        let mut feed = prompt.to_vec();
        while !feed.is_empty() {
            let outputs = self.feed(&feed, feed.len())?;
            feed.clear();
            let last = outputs.last().and_then(|o| o.token);
            logits.extend(outputs.into_iter().map(|o| o.logits));
            if generated.len() < n {
                let next = last.ok_or(SimError::NoOutput { what: "token" })?;
                generated.push(next);
                if generated.len() < n {
                    feed.push(next);
                }
            }
        }
        Ok((generated, logits))
    }
}

/// Bytes of a region's weights and of one sequence's caches, as [`Array`] keeps them.
fn kept(plan: &Plan, region: &Region) -> u64 {
    let Some(template) = plan.template_of(region) else { return 0 };
    let slots = template.kv.map(|kv| u64::from(kv.slots));
    let bytes = template.buffers.iter().map(|b| {
        let elements = match b.role {
            BufferRole::KvCache => slots.map_or(b.elements(), |n| n * u64::from(b.cols)),
            BufferRole::Weights => b.elements(),
            _ => 0,
        };
        let width = match b.storage {
            Storage::F16 | Storage::BF16 => 2,
            Storage::F32 | Storage::Q8 | Storage::Q4 => 4,
        };
        elements.saturating_mul(width)
    });
    bytes.fold(0, u64::saturating_add).saturating_mul(region.rect.area())
}

impl<'a> Machine<'a> {
    /// Verifies `plan` and pins its weights.
    ///
    /// # Errors
    /// Illegal plans and missing weights.
    pub fn new(plan: &'a Plan, source: &dyn WeightSource) -> Result<Self, SimError> {
        crate::error::refuse_illegal(plan)?;
        Machine::unchecked(plan, source)
    }

    fn unchecked(plan: &'a Plan, source: &dyn WeightSource) -> Result<Self, SimError> {
        let map = PlanMap::new(plan);
        for region in &plan.regions {
            let known = plan.template_of(region).ok_or_else(|| no_template(region))?;
            if (region.rect.w, region.rect.h) != (known.width, known.height) {
                let what = format!("rectangle of region `{}`", region.name);
                return Err(SimError::Illegal { what });
            }
        }
        let bytes = plan.regions.iter().map(|r| kept(plan, r)).fold(0, u64::saturating_add);
        if bytes > VALUES_MAX {
            return Err(SimError::Values { bytes, limit: VALUES_MAX });
        }
        let templates: Vec<(Layout, Schedule)> =
            map.templates.iter().map(|t| (Layout::new(t.template), Schedule::new(t))).collect();
        let links = links(&map, &templates);
        let order = order(plan, &links)?;
        let threads = std::thread::available_parallelism().map_or(1, usize::from).min(THREADS_MAX);
        let weights = pin(plan, &templates, source, threads)?;
        Ok(Machine { plan, templates, weights, order, links, threads })
    }

    /// Sequences that can be in flight: whose caches the wafer holds.
    pub fn requests(&self) -> usize {
        let of = |r: &Region| Some(self.plan.template_of(r)?.kv?.requests as usize);
        self.plan.regions.iter().filter_map(of).min().unwrap_or(usize::MAX)
    }

    /// A new sequence: empty caches.
    pub fn sequence(&self) -> Sequence {
        let caches = |r: &Region| {
            let layout = &self.templates[r.template.0 as usize].0;
            Mutex::new(layout.zeros(BufferRole::KvCache))
        };
        Sequence { caches: self.plan.regions.iter().map(caches).collect(), pos: 0 }
    }

    /// Feeds tokens to sequences, in order where they go to the same one; one output per feed.
    ///
    /// # Errors
    /// More sequences than [`Machine::requests`], a token or position out of range, a deadlock, wavelets
    /// left over; then no token counts as fed, and the caches of the sequences are undefined.
    pub fn run(
        &self,
        sequences: &mut [Sequence],
        feeds: &[Feed],
    ) -> Result<Vec<StepOutput>, SimError> {
        if sequences.len() > self.requests() {
            return Err(SimError::Requests { asked: sequences.len(), held: self.requests() });
        }
        let mut positions: Vec<u32> = sequences.iter().map(|s| s.pos).collect();
        let mut last: Vec<Option<usize>> = vec![None; sequences.len()];
        let mut after = Vec::new();
        let mut jobs = Vec::new();
        for (i, feed) in feeds.iter().enumerate() {
            let pos = positions[feed.sequence];
            jobs.push(Mutex::new(self.job(feed, pos)?));
            positions[feed.sequence] += 1;
            after.push(last[feed.sequence].replace(i));
        }
        let progress = Mutex::new(Progress {
            done: vec![0; jobs.len()],
            running: vec![false; jobs.len()],
            failed: None,
            panicked: false,
        });
        let changed = Condvar::new();
        let work = Work { machine: self, sequences, jobs: &jobs, after: &after };
        std::thread::scope(|scope| {
            for _ in 1..self.threads.min(jobs.len()) {
                scope.spawn(|| work.run(&progress, &changed));
            }
            work.run(&progress, &changed);
        });
        if let Some(error) = lock(&progress).failed.take() {
            return Err(error);
        }
        for (sequence, pos) in sequences.iter_mut().zip(positions) {
            sequence.pos = pos;
        }
        let output = |job: Mutex<Job>| job.into_inner().unwrap_or_else(PoisonError::into_inner);
        Ok(jobs.into_iter().map(|job| output(job).output).collect())
    }

    /// A token before its first region.
    fn job(&self, feed: &Feed, pos: u32) -> Result<Job, SimError> {
        let model = &self.plan.model;
        if feed.token >= model.vocab {
            return Err(SimError::Token { token: feed.token, vocab: model.vocab });
        }
        if pos >= model.context {
            return Err(SimError::Context { pos, context: model.context });
        }
        let wanted = feed.logits && !self.plan.outputs.logits.is_empty();
        let vocab = if wanted { model.vocab as usize } else { 0 };
        Ok(Job {
            registers: Registers { token: feed.token, pos, length: feed.prompt.max(pos + 1) },
            sequence: feed.sequence,
            inboxes: vec![Inbox::new(); self.plan.regions.len()],
            output: StepOutput { logits: vec![f32::NAN; vocab], token: None },
        })
    }

    /// Runs one region for one token.
    fn run_region(
        &self,
        region: usize,
        job: &mut Job,
        caches: &mut [Array],
        worker: &mut Worker,
    ) -> Result<(), SimError> {
        let r = &self.plan.regions[region];
        let id = r.template.0 as usize;
        let template = &self.plan.templates[id];
        let (layout, schedule) = &self.templates[id];
        worker.arenas.resize_with(self.templates.len(), || None);
        let mut arena = worker.arenas[id].take().unwrap_or_else(|| layout.arena());
        let pos = job.registers.pos;
        let attended = Attended::new(template, pos);
        let mut run = RegionRun {
            machine: self,
            region,
            template,
            schedule,
            frame: Frame {
                layout,
                weights: &self.weights[region],
                caches,
                values: &mut arena,
                width: template.width,
                cell: template.cell,
                kv: template.kv,
                attended: &attended,
                registers: job.registers,
            },
            inboxes: &mut job.inboxes,
            messages: &mut worker.messages,
            scratch: &mut worker.scratch,
            buffer: &mut worker.values,
        };
        for (phase, steps) in schedule.phases.iter().enumerate() {
            run.phase(phase, steps)?;
        }
        run.unreceived()?;
        job.inboxes[region] = Inbox::new();
        self.outputs(region, layout, &arena, &mut job.output);
        worker.arenas[id] = Some(arena);
        Ok(())
    }

    /// Collects the pieces of a token's results that lie in a region.
    fn outputs(&self, region: usize, layout: &Layout, arena: &[Vec<f32>], out: &mut StepOutput) {
        let plan = self.plan;
        let Some(template) = plan.template_of(&plan.regions[region]) else { return };
        let here = |id: plan::RegionId| id.0 as usize == region;
        let vocab = out.logits.len();
        for piece in plan.outputs.logits.iter().filter(|p| here(p.region) && vocab > 0) {
            let elements = layout.buffers[piece.buffer.0 as usize].elements;
            for y in 0..template.height {
                for x in (0..template.width).filter(|&x| piece.predicate.holds(x, y)) {
                    let start = piece.start.at((x, y), template.cell).unwrap_or(-1);
                    let Ok(start) = usize::try_from(start) else { continue };
                    let end = (start + piece.len as usize).min(vocab);
                    let from = (y * template.width + x) as usize * elements;
                    if start < end {
                        let values = &arena[piece.buffer.0 as usize][from..from + end - start];
                        out.logits[start..end].copy_from_slice(values);
                    }
                }
            }
        }
        if let Some(token) = plan.outputs.token.filter(|t| here(t.region)) {
            let elements = layout.buffers[token.buffer.0 as usize].elements;
            let tile = (token.position.1 * template.width + token.position.0) as usize;
            let at = tile * elements + token.element as usize;
            out.token = Some(arena[token.buffer.0 as usize][at] as u32);
        }
    }
}

/// What all threads of a run share.
struct Work<'m, 'a> {
    machine: &'m Machine<'a>,
    sequences: &'m [Sequence],
    jobs: &'m [Mutex<Job>],
    /// Per job: the one before it in its sequence.
    after: &'m [Option<usize>],
}

impl Work<'_, '_> {
    /// Runs regions until none is left or one has failed. A token enters a region when it has left
    /// the one before and the sequence's previous token has left this one.
    fn run(&self, progress: &Mutex<Progress>, changed: &Condvar) {
        let regions = self.machine.order.len();
        let _leave = LeaveTogether { progress, changed };
        let mut worker = Worker::default();
        let mut state = lock(progress);
        loop {
            if state.panicked || state.failed.is_some() || state.done.iter().all(|&d| d == regions)
            {
                changed.notify_all();
                return;
            }
            let free = |&j: &usize| {
                let at = state.done[j];
                let behind = self.after[j].is_some_and(|p| state.done[p] <= at);
                at < regions && !state.running[j] && !behind
            };
            let Some(j) = (0..self.jobs.len()).find(free) else {
                state = changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            state.running[j] = true;
            let region = self.machine.order[state.done[j]];
            drop(state);
            let job = &mut lock(&self.jobs[j]);
            let caches = &mut lock(&self.sequences[job.sequence].caches[region]);
            let result = self.machine.run_region(region, job, caches, &mut worker);
            state = lock(progress);
            state.running[j] = false;
            state.done[j] += 1;
            if let Err(error) = result {
                state.failed.get_or_insert(error);
            }
            changed.notify_all();
        }
    }
}

/// Held by every thread of a run: one that panics does not leave the others waiting for its region.
struct LeaveTogether<'p> {
    progress: &'p Mutex<Progress>,
    changed: &'p Condvar,
}

impl Drop for LeaveTogether<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            lock(self.progress).panicked = true;
            self.changed.notify_all();
        }
    }
}

fn no_template(region: &Region) -> SimError {
    SimError::Illegal { what: format!("region `{}` has no template", region.name) }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic elsewhere ends the whole run: nobody looks at what it left.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Per region and export: the imports of other regions that it reaches.
fn links(map: &PlanMap<'_>, templates: &[(Layout, Schedule)]) -> Vec<Vec<Vec<(usize, usize)>>> {
    let regions = &map.plan.regions;
    let reached = |from: usize, region: &Region, &(tile, color): &(u32, u8)| {
        let position = (tile % region.rect.w, tile / region.rect.w);
        let wafer = region.color(Color(color));
        let flow = map.trace(region.point(position), wafer);
        let import = |(p, _): (plan::Point, u32)| {
            let (to, other) = map.region_at(p)?;
            let (x, y) = other.position(p)?;
            let schedule = &templates[other.template.0 as usize].1;
            let at = y * other.rect.w + x;
            // The imports of one tile lie side by side.
            let first = schedule.imports.partition_point(|i| i.0 < at);
            let here = schedule.imports[first..].iter().take_while(|i| i.0 == at);
            let index = here.clone().position(|i| other.color(Color(i.1)) == wafer)?;
            Some((to.0 as usize, first + index))
        };
        flow.receivers.into_iter().filter_map(import).filter(|(to, _)| *to != from).collect()
    };
    let of_region = |(i, r): (usize, &Region)| {
        let schedule = &templates[r.template.0 as usize].1;
        schedule.exports.iter().map(|e| reached(i, r, e)).collect()
    };
    regions.iter().enumerate().map(of_region).collect()
}

/// Regions such that whoever sends comes before whoever receives.
fn order(plan: &Plan, links: &[Vec<Vec<(usize, usize)>>]) -> Result<Vec<usize>, SimError> {
    let mut waits = vec![0usize; links.len()];
    let edges = |r: usize| links[r].iter().flatten().map(|l| l.0);
    (0..links.len()).flat_map(edges).for_each(|to| waits[to] += 1);
    let mut order: Vec<usize> = Vec::new();
    let mut ready: VecDeque<usize> = (0..links.len()).filter(|&r| waits[r] == 0).collect();
    while let Some(r) = ready.pop_front() {
        order.push(r);
        for to in edges(r) {
            waits[to] -= 1;
            if waits[to] == 0 {
                ready.push_back(to);
            }
        }
    }
    match (0..links.len()).find(|&r| waits[r] > 0) {
        None => Ok(order),
        Some(r) => Err(SimError::RegionCycle { region: plan.regions[r].name.clone() }),
    }
}

/// The weights of all regions, pinned on `threads` threads.
fn pin(
    plan: &Plan,
    templates: &[(Layout, Schedule)],
    source: &dyn WeightSource,
    threads: usize,
) -> Result<Vec<Vec<Array>>, SimError> {
    let next = Mutex::new(0);
    type Pinned = Result<Vec<Array>, SimError>;
    let pinned: Vec<Mutex<Option<Pinned>>> =
        plan.regions.iter().map(|_| Mutex::new(None)).collect();
    let work = || loop {
        let region = {
            let mut next = lock(&next);
            *next += 1;
            *next - 1
        };
        let Some(r) = plan.regions.get(region) else { return };
        let layout = &templates[r.template.0 as usize].0;
        let result = memory::pin_region(plan, region, layout, source);
        *lock(&pinned[region]) = Some(result);
    };
    std::thread::scope(|scope| {
        for _ in 1..threads.min(plan.regions.len()) {
            scope.spawn(work);
        }
        work();
    });
    let take = |m: Mutex<Option<_>>| m.into_inner().unwrap_or_else(PoisonError::into_inner);
    pinned.into_iter().filter_map(take).collect()
}
