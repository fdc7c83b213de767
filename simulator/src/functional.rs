//! Runs a plan: every instruction of every tile, with messages along the plan's routes.
//!
//! A color at a router has one input, so the result does not depend on the order in which tiles
//! are run; each runs until it waits. When nothing can run and somebody waits, the plan is stuck
//! and the error names tiles and colors. `plan::verify` is the gate: illegal plans are refused.
//!
//! Knows nothing of time: see [`crate::timing`].

use std::collections::VecDeque;
use std::rc::Rc;

use plan::{Combine, Instr, Plan, Slice, WireFormat};

use crate::error::{LISTED_TILES, SimError, Waiting};
use crate::fabric::Fabric;
use crate::kernels::{self, Context, Registers};
use crate::memory::{Memory, WeightSource, round};

/// A plan with its SRAM, between two tokens.
pub struct Simulator<'a> {
    fabric: Fabric<'a>,
    memory: Memory,
    /// Per tile and color: elements that wait at the core.
    queues: Vec<VecDeque<f32>>,
    /// Per tile and color that has sent: who receives.
    receivers: Vec<Option<Rc<[u32]>>>,
    /// Values on their way from one place to another.
    scratch: Vec<f32>,
    /// Per tile: where it stands in its program.
    cursors: Vec<Cursor>,
    pos: u32,
    prompt: u32,
}

/// Where a tile stands.
#[derive(Clone, Copy, Debug, Default)]
struct Cursor {
    phase: u32,
    instruction: u32,
    /// Waits for this color, when it does.
    waits: Option<u8>,
}

/// What one token gave.
#[derive(Clone, Debug, PartialEq)]
pub struct StepOutput {
    /// Logits over the vocabulary; empty when the plan declares none.
    pub logits: Vec<f32>,
    /// The plan's own argmax; `None` when the plan declares none.
    pub token: Option<u32>,
}

/// A stop of a tile's run.
enum Stop {
    Done,
    Waits,
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
        if matches!(plan::unroll(plan), std::borrow::Cow::Owned(_)) {
            let what = "loops or microthreads: execute `plan::unroll` of the plan".into();
            return Err(SimError::Illegal { what });
        }
        let fabric = Fabric::new(plan)?;
        let memory = Memory::new(&fabric, source)?;
        let queues = vec![VecDeque::new(); fabric.len() * fabric.colors];
        let cursors = vec![Cursor::default(); fabric.len()];
        let receivers = vec![None; fabric.len() * fabric.colors];
        let scratch = Vec::new();
        Ok(Simulator { fabric, memory, queues, receivers, scratch, cursors, pos: 0, prompt: 0 })
    }

    /// Tokens fed so far.
    pub fn pos(&self) -> u32 {
        self.pos
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
        let model = &self.fabric.plan.model;
        if token >= model.vocab {
            return Err(SimError::Token { token, vocab: model.vocab });
        }
        if self.pos >= model.context {
            return Err(SimError::Context { pos: self.pos, context: model.context });
        }
        let registers = Registers { token, pos: self.pos, length: self.prompt.max(self.pos + 1) };
        self.run_tiles(registers)?;
        self.pos += 1;
        Ok(StepOutput { logits: self.logits()?, token: self.token() })
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
        self.set_prompt_len(self.pos + prompt.len() as u32);
        let mut logits = Vec::new();
        let mut generated = Vec::new();
        let mut feed = prompt.iter().copied().collect::<VecDeque<u32>>();
        while let Some(token) = feed.pop_front() {
            let out = self.step(token)?;
            logits.push(out.logits);
            if feed.is_empty() && generated.len() < n {
                let next = out.token.ok_or(SimError::NoOutput { what: "token" })?;
                generated.push(next);
                if generated.len() < n {
                    feed.push_back(next);
                }
            }
        }
        Ok((generated, logits))
    }

    fn run_tiles(&mut self, registers: Registers) -> Result<(), SimError> {
        self.cursors.fill(Cursor::default());
        let mut ready: VecDeque<u32> = (0..self.fabric.len() as u32).collect();
        let mut open = self.fabric.len();
        while let Some(tile) = ready.pop_front() {
            if let Stop::Done = self.run_tile(tile as usize, registers, &mut ready)? {
                open -= 1;
            }
        }
        if open > 0 {
            return Err(self.deadlock(registers));
        }
        for (i, queue) in self.queues.iter().enumerate() {
            if !queue.is_empty() {
                let (tile, color) = (i / self.fabric.colors, i % self.fabric.colors);
                let at = self.fabric.points[tile];
                return Err(SimError::Unreceived { color: color as u8, at, elements: queue.len() });
            }
        }
        Ok(())
    }

    /// Runs a tile until it has ended or waits.
    fn run_tile(
        &mut self,
        tile: usize,
        registers: Registers,
        ready: &mut VecDeque<u32>,
    ) -> Result<Stop, SimError> {
        let Some(template) = self.fabric.template(tile) else { return Ok(Stop::Done) };
        let template_id = self.fabric.plan.regions[self.fabric.regions[tile] as usize].template.0;
        let position = self.fabric.position(tile);
        let attended = template.kv.map_or((0, 0), |kv| kv.tokens(position.1, registers.pos));
        let mut cursor = self.cursors[tile];
        cursor.waits = None;
        while (cursor.phase as usize) < template.phases.len() {
            let phase = cursor.phase as usize;
            if cursor.instruction == 0 {
                let (mem, layout) = self.memory.tile(tile, template_id as usize);
                for &(from, to) in &layout.begins[phase] {
                    mem[from..to].fill(f32::NAN);
                }
            }
            let program = self.fabric.program(tile, phase);
            while let Some(instr) = program.get(cursor.instruction as usize) {
                if instr.communication().is_some() {
                    if let Some(color) =
                        self.communicate(tile, template_id as usize, instr, attended.1, ready)?
                    {
                        cursor.waits = Some(color);
                        self.cursors[tile] = cursor;
                        return Ok(Stop::Waits);
                    }
                } else {
                    let (mem, layout) = self.memory.tile(tile, template_id as usize);
                    let kv = template.kv;
                    let cell = template.cell;
                    let cx = Context { layout, position, cell, kv, registers, attended };
                    kernels::execute(&cx, mem, instr, &mut self.scratch);
                }
                cursor.instruction += 1;
            }
            cursor.phase += 1;
            cursor.instruction = 0;
        }
        self.cursors[tile] = cursor;
        Ok(Stop::Done)
    }

    /// Executes a communicating instruction, or returns the color it waits for.
    fn communicate(
        &mut self,
        tile: usize,
        template: usize,
        instr: &Instr,
        tokens: u32,
        ready: &mut VecDeque<u32>,
    ) -> Result<Option<u8>, SimError> {
        let mut values = std::mem::take(&mut self.scratch);
        values.clear();
        let waits = match *instr {
            Instr::Send { color, src, wire } => {
                let (mem, layout) = self.memory.tile(tile, template);
                values.extend_from_slice(&mem[layout.range(src, tokens)]);
                self.send(tile, color, &mut values, wire, ready)?;
                None
            }
            Instr::Recv { color, dst, combine, .. } => {
                let color = self.color(tile, color)?;
                if self.take(tile, color, dst.len.elements(tokens) as usize, &mut values) {
                    self.absorb(tile, template, dst, tokens, combine, &values);
                    None
                } else {
                    Some(color as u8)
                }
            }
            Instr::Relay { input, output, local, combine, store, wire } => {
                let input = self.color(tile, input)?;
                let n = local.len.elements(tokens) as usize;
                if self.take(tile, input, n, &mut values) {
                    let (mem, layout) = self.memory.tile(tile, template);
                    let mut result = mem[layout.range(local, tokens)].to_vec();
                    kernels::combine(combine, &mut result, &values);
                    if store {
                        self.absorb(tile, template, local, tokens, Combine::Store, &result);
                    }
                    self.send(tile, output, &mut result, wire, ready)?;
                    None
                } else {
                    Some(input as u8)
                }
            }
            _ => None,
        };
        self.scratch = values;
        Ok(waits)
    }

    /// Combines received values into a slice, rounding to its storage.
    fn absorb(
        &mut self,
        tile: usize,
        template: usize,
        dst: Slice,
        tokens: u32,
        combine: Combine,
        values: &[f32],
    ) {
        let (mem, layout) = self.memory.tile(tile, template);
        let storage = layout.storage(dst.buffer);
        let local = &mut mem[layout.range(dst, tokens)];
        kernels::combine(combine, local, values);
        local.iter_mut().for_each(|v| *v = round(storage, *v));
    }

    fn color(&self, tile: usize, color: plan::Color) -> Result<usize, SimError> {
        self.fabric.color(tile, color).ok_or_else(|| SimError::Illegal {
            what: format!("color {} is outside of the target's colors", color.0),
        })
    }

    /// Moves `n` elements that wait on a color to `values`; false when there are fewer.
    fn take(&mut self, tile: usize, color: usize, n: usize, values: &mut Vec<f32>) -> bool {
        let queue = &mut self.queues[tile * self.fabric.colors + color];
        if queue.len() < n {
            return false;
        }
        values.extend(queue.drain(..n));
        true
    }

    fn send(
        &mut self,
        tile: usize,
        color: plan::Color,
        values: &mut [f32],
        wire: WireFormat,
        ready: &mut VecDeque<u32>,
    ) -> Result<(), SimError> {
        let color = self.color(tile, color)?;
        let storage = match wire {
            WireFormat::F32 => plan::Storage::F32,
            WireFormat::F16 => plan::Storage::F16,
            WireFormat::BF16 => plan::Storage::BF16,
        };
        if storage != plan::Storage::F32 {
            values.iter_mut().for_each(|v| *v = round(storage, *v));
        }
        let slot = tile * self.fabric.colors + color;
        let receivers = match &self.receivers[slot] {
            Some(list) => Rc::clone(list),
            None => {
                let list: Rc<[u32]> = self.fabric.receivers(tile, color)?.into();
                self.receivers[slot] = Some(Rc::clone(&list));
                list
            }
        };
        for &receiver in receivers.iter() {
            self.queues[receiver as usize * self.fabric.colors + color].extend(&*values);
            let waits = &mut self.cursors[receiver as usize].waits;
            if *waits == Some(color as u8) {
                // It is queued once; when it still lacks elements it will wait again.
                *waits = None;
                ready.push_back(receiver);
            }
        }
        Ok(())
    }

    fn deadlock(&self, registers: Registers) -> SimError {
        let waiting: Vec<Waiting> =
            (0..self.fabric.len()).filter_map(|tile| self.waiting(tile, registers)).collect();
        SimError::Deadlock {
            waiting: waiting.len(),
            tiles: waiting.into_iter().take(LISTED_TILES).collect(),
        }
    }

    fn waiting(&self, tile: usize, registers: Registers) -> Option<Waiting> {
        let cursor = self.cursors[tile];
        let color = cursor.waits?;
        let template = self.fabric.template(tile)?;
        let phase = cursor.phase as usize;
        let instr = self.fabric.program(tile, phase).get(cursor.instruction as usize)?;
        let y = self.fabric.position(tile).1;
        let tokens = template.kv.map_or(0, |kv| kv.tokens(y, registers.pos).1);
        let queue = &self.queues[tile * self.fabric.colors + color as usize];
        Some(Waiting {
            region: self.fabric.plan.regions[self.fabric.regions[tile] as usize].name.clone(),
            at: self.fabric.points[tile],
            phase: template.phases[phase].name.clone(),
            instruction: cursor.instruction as usize,
            color,
            found: queue.len() as u64,
            needed: instr.communication()?.len.elements(tokens),
        })
    }

    /// The logits of the last token; empty when the plan declares none.
    fn logits(&mut self) -> Result<Vec<f32>, SimError> {
        let plan = self.fabric.plan;
        let vocab = if plan.outputs.logits.is_empty() { 0 } else { plan.model.vocab as usize };
        let mut logits = vec![f32::NAN; vocab];
        for piece in &plan.outputs.logits {
            let region = plan.regions.get(piece.region.0 as usize);
            let (region, template) = region
                .and_then(|r| Some((r, plan.template_of(r)?)))
                .ok_or_else(|| SimError::Illegal { what: "logits in no region".into() })?;
            for y in 0..template.height {
                for x in (0..template.width).filter(|&x| piece.predicate.holds(x, y)) {
                    let start = piece.start.at((x, y), template.cell).unwrap_or(-1);
                    let Ok(start) = usize::try_from(start) else { continue };
                    let end = (start + piece.len as usize).min(vocab);
                    let tile = self.fabric.tile_in(piece.region.0 as usize, (x, y));
                    let (mem, layout) = self.memory.tile(tile, region.template.0 as usize);
                    let from = layout.start(piece.buffer);
                    if start < end {
                        logits[start..end].copy_from_slice(&mem[from..from + end - start]);
                    }
                }
            }
        }
        Ok(logits)
    }

    fn token(&mut self) -> Option<u32> {
        let plan = self.fabric.plan;
        let out = plan.outputs.token?;
        let region = plan.regions.get(out.region.0 as usize)?;
        let tile = self.fabric.tile_in(out.region.0 as usize, out.position);
        let (mem, layout) = self.memory.tile(tile, region.template.0 as usize);
        Some(mem[layout.start(out.buffer) + out.element as usize] as u32)
    }
}
