//! One region while it computes one token: follows its template's schedule, phase by phase.
//!
//! Messages inside the region are slots of a group's lanes; those that leave it go to the inboxes of
//! the regions that they reach. Knows nothing of other tokens: [`super::Machine`] decides what runs when.

use std::collections::VecDeque;

use plan::{Color, Combine, Instr, Template, WireFormat};

use super::{Inbox, Machine};
use crate::error::{LISTED_TILES, SimError, Waiting};
use crate::kernels::{self, Frame, Scratch};
use crate::memory::round;
use crate::schedule::{Group, Input, PhaseSchedule, Schedule, Step, Stuck};

/// One region while it computes one token.
pub(super) struct RegionRun<'r, 'a> {
    pub(super) machine: &'r Machine<'a>,
    pub(super) region: usize,
    pub(super) template: &'r Template,
    pub(super) schedule: &'r Schedule,
    pub(super) frame: Frame<'r>,
    pub(super) inboxes: &'r mut [Inbox],
    /// Per lane and slot: the messages of a group.
    pub(super) messages: &'r mut Vec<f32>,
    pub(super) scratch: &'r mut Scratch,
    pub(super) buffer: &'r mut Vec<f32>,
}

impl RegionRun<'_, '_> {
    /// Runs one phase on all tiles.
    pub(super) fn phase(&mut self, phase: usize, steps: &PhaseSchedule) -> Result<(), SimError> {
        for &buffer in &self.frame.layout.begins[phase] {
            self.frame.values[buffer].fill(f32::NAN);
        }
        if let Some(left) = steps.unreceived.first() {
            let region = &self.machine.plan.regions[self.region];
            let tokens = self.frame.tokens(left.tile).1;
            return Err(SimError::Unreceived {
                color: region.color(Color(left.color)).0,
                at: region.point(self.frame.position(left.tile)),
                elements: left.len.elements(tokens) as usize,
            });
        }
        for group in &steps.groups {
            self.group(phase, group)?;
        }
        if steps.groups.iter().any(|g| !g.stuck.is_empty()) {
            return Err(self.stuck(phase, &steps.groups));
        }
        Ok(())
    }

    fn group(&mut self, phase: usize, group: &Group) -> Result<(), SimError> {
        // A slot takes the longest message of any lane.
        let most = self.frame.attended.most();
        let mut size = 0;
        let mut slots = Vec::with_capacity(group.slots.len());
        for len in &group.slots {
            slots.push(size);
            size += len.elements(most) as usize;
        }
        self.messages.resize(self.messages.len().max(size * group.lanes.len()), 0.0);
        let roles = &self.template.phases[phase].roles;
        for step in &group.steps {
            let instr = &roles[usize::from(step.role)].program[step.instruction as usize];
            for (lane, &first) in group.lanes.iter().enumerate() {
                let tile = first + step.tile;
                if step.input == Input::None && step.output.is_none() {
                    kernels::execute(&mut self.frame, instr, tile, self.scratch);
                } else {
                    let base = lane * size;
                    self.communicate(phase, instr, step, tile, |slot| base + slots[slot as usize])?;
                }
            }
        }
        Ok(())
    }

    /// Receives, combines, sends.
    fn communicate(
        &mut self,
        phase: usize,
        instr: &Instr,
        step: &Step,
        tile: u32,
        at: impl Fn(u32) -> usize,
    ) -> Result<(), SimError> {
        let (len, wire) = match (instr.communication(), instr) {
            (Some(c), _) => (c.len, c.wire),
            (None, Instr::Broadcast { src, wire, .. }) => (src.len, *wire),
            _ => return Ok(()),
        };
        let n = len.elements(self.frame.tokens(tile).1) as usize;
        let imported = match step.input {
            Input::Import(color) => Some(self.import(phase, step, tile, color, n)?),
            _ => None,
        };
        let received = match (step.input, &imported) {
            (Input::Slot(slot), _) => &self.messages[at(slot)..at(slot) + n],
            (_, Some(values)) => values.as_slice(),
            _ => &[],
        };
        self.buffer.clear();
        match *instr {
            Instr::Broadcast { dst, .. } if step.output.is_none() => {
                self.frame.absorb(dst, tile, Combine::Store, received);
            }
            Instr::Send { src, .. } | Instr::Broadcast { src, .. } => {
                let values = self.frame.read(src, tile, self.scratch.spare());
                self.buffer.extend_from_slice(values);
            }
            Instr::Recv { dst, combine, .. } => self.frame.absorb(dst, tile, combine, received),
            Instr::Relay { local, combine, store, .. } => {
                let values = self.frame.read(local, tile, self.scratch.spare());
                self.buffer.extend_from_slice(values);
                kernels::combine(combine, self.buffer, received);
                if store {
                    self.frame.absorb(local, tile, Combine::Store, self.buffer);
                }
            }
            _ => {}
        }
        let Some(output) = step.output else { return Ok(()) };
        let storage = match wire {
            WireFormat::F32 => plan::Storage::F32,
            WireFormat::F16 => plan::Storage::F16,
            WireFormat::BF16 => plan::Storage::BF16,
        };
        if storage != plan::Storage::F32 {
            self.buffer.iter_mut().for_each(|v| *v = round(storage, *v));
        }
        if let Instr::Broadcast { dst, .. } = *instr {
            self.frame.absorb(dst, tile, Combine::Store, self.buffer);
        }
        let start = at(output.slot);
        self.messages[start..start + n].copy_from_slice(self.buffer);
        if let Some(color) = output.export
            && let Ok(export) = self.schedule.exports.binary_search(&(tile, color))
        {
            for &(region, import) in &self.machine.links[self.region][export] {
                let inbox = &mut self.inboxes[region];
                inbox.resize_with(inbox.len().max(import + 1), VecDeque::new);
                inbox[import].push_back(self.buffer.clone());
            }
        }
        Ok(())
    }

    /// The next message of an import.
    fn import(
        &mut self,
        phase: usize,
        step: &Step,
        tile: u32,
        color: u8,
        needed: usize,
    ) -> Result<Vec<f32>, SimError> {
        let import = self.schedule.imports.binary_search(&(tile, color));
        let inbox = &mut self.inboxes[self.region];
        let message = import.ok().and_then(|i| inbox.get_mut(i)?.pop_front()).unwrap_or_default();
        if message.len() == needed {
            return Ok(message);
        }
        let at = (phase, step.instruction as usize);
        let waiting = self.waiting(at, tile, color, (message.len(), needed));
        Err(SimError::Deadlock { waiting: 1, tiles: vec![waiting] })
    }

    fn waiting(
        &self,
        (phase, instruction): (usize, usize),
        tile: u32,
        color: u8,
        (found, needed): (usize, usize),
    ) -> Waiting {
        let region = &self.machine.plan.regions[self.region];
        Waiting {
            region: region.name.clone(),
            at: region.point(self.frame.position(tile)),
            phase: self.template.phases[phase].name.clone(),
            instruction,
            color: region.color(Color(color)).0,
            found: found as u64,
            needed: needed as u64,
        }
    }

    /// The tiles that wait for ever, in all lanes of all groups.
    fn stuck(&self, phase: usize, groups: &[Group]) -> SimError {
        let roles = &self.template.phases[phase].roles;
        let lanes = groups.iter().flat_map(|g| g.lanes.iter().map(move |&lane| (lane, &g.stuck)));
        let tiles = lanes.flat_map(|(lane, stuck)| stuck.iter().map(move |s| (lane + s.tile, s)));
        let waiting = |(tile, s): (u32, &Stuck)| {
            let at = s.instruction as usize;
            let instr = roles.get(usize::from(s.role)).and_then(|r| r.program.get(at));
            let len = instr.and_then(Instr::communication).map_or_else(Default::default, |c| c.len);
            let needed = len.elements(self.frame.tokens(tile).1) as usize;
            self.waiting((phase, at), tile, s.color, (0, needed))
        };
        SimError::Deadlock {
            waiting: groups.iter().map(|g| g.stuck.len() * g.lanes.len()).sum(),
            tiles: tiles.take(LISTED_TILES).map(waiting).collect(),
        }
    }

    /// Refuses messages from other regions that nobody took.
    pub(super) fn unreceived(&self) -> Result<(), SimError> {
        let region = &self.machine.plan.regions[self.region];
        let inbox = self.inboxes[self.region].iter().zip(&self.schedule.imports);
        for (messages, &(tile, color)) in inbox {
            if let Some(message) = messages.front() {
                let at = region.point(self.frame.position(tile));
                let color = region.color(Color(color)).0;
                return Err(SimError::Unreceived { color, at, elements: message.len() });
            }
        }
        Ok(())
    }
}
