//! Markers of programs: microthreads that are started and joined in order and touch nothing that the
//! program touches meanwhile; loops that are whole, not nested, and turn a sensible number of times.

use super::Violation;
use super::operands::{Operands, max_tokens};
use crate::expand::TemplateMap;
use crate::plan::Plan;
use crate::program::{Instr, MICROTHREADS, Slice, in_loops};
use crate::template::Role;

/// Most turns of a loop: bounds what a hostile plan can make its reader do.
const TURNS_MAX: i64 = 1 << 20;

pub(super) fn check(plan: &Plan, map: &TemplateMap<'_>, found: &mut Vec<Violation>) {
    let t = map.template;
    let max_tokens = max_tokens(plan, t);
    for phase in &t.phases {
        for role in &phase.roles {
            let result = Checker { map, max_tokens, threads: Default::default() }.role(role);
            if let Err((instruction, what)) = result {
                let (template, phase) = (t.name.clone(), phase.name.clone());
                let role = role.name.clone();
                found.push(Violation::Operand { template, phase, role, instruction, what });
            }
        }
    }
}

struct Checker<'a> {
    map: &'a TemplateMap<'a>,
    max_tokens: u32,
    /// The message of each microthread under way.
    threads: [Option<&'a Instr>; MICROTHREADS as usize],
}

impl<'a> Checker<'a> {
    fn role(mut self, role: &'a Role) -> Result<(), (usize, String)> {
        let mut starts: Option<u8> = None;
        let mut inside = None;
        for (i, instr, repeat) in in_loops(&role.program) {
            let at = |what: String| (i, what);
            let message = instr.communication().is_some() || instr.broadcast().is_some();
            if starts.is_some() && !message {
                return Err(at("a microthread can run a message only".into()));
            }
            if repeat != inside {
                self.idle("where a loop begins or ends").map_err(at)?;
                inside = repeat;
            }
            match *instr {
                Instr::Start { thread } => {
                    let slot = self.threads.get(usize::from(thread));
                    match slot {
                        None => return Err(at(format!("microthread {thread} of {MICROTHREADS}"))),
                        Some(Some(_)) => {
                            return Err(at(format!("microthread {thread} is under way")));
                        }
                        Some(None) => starts = Some(thread),
                    }
                }
                Instr::Join { threads } => self.join(threads).map_err(at)?,
                Instr::Repeat { body, .. } => {
                    if repeat.is_some() {
                        return Err(at("a loop in a loop".into()));
                    }
                    self.idle("where a loop begins or ends").map_err(at)?;
                    if body == 0 || body as usize >= role.program.len() - i {
                        let left = role.program.len() - i - 1;
                        return Err(at(format!("a loop over {body} of {left} instructions")));
                    }
                    self.turns(role, instr).map_err(at)?;
                }
                _ => {
                    self.alone(instr).map_err(at)?;
                    if let Some(thread) = starts.take() {
                        self.threads[usize::from(thread)] = Some(instr);
                    }
                }
            }
        }
        let end = role.program.len();
        if starts.is_some() {
            return Err((end, "a microthread without a message".into()));
        }
        self.idle("where the phase ends").map_err(|what| (end, what))
    }

    fn idle(&self, place: &str) -> Result<(), String> {
        match self.threads.iter().position(Option::is_some) {
            Some(thread) => Err(format!("microthread {thread} is under way {place}")),
            None => Ok(()),
        }
    }

    fn join(&mut self, threads: u8) -> Result<(), String> {
        for (i, thread) in self.threads.iter_mut().enumerate() {
            if threads & (1 << i) != 0 && thread.take().is_none() {
                return Err(format!("joins microthread {i}, which has not been started"));
            }
        }
        Ok(())
    }

    /// Whether an instruction leaves alone what microthreads use.
    fn alone(&self, instr: &Instr) -> Result<(), String> {
        let ours = instr.communication();
        for (i, other) in self.threads.iter().enumerate() {
            let Some(other) = other else { continue };
            let theirs = other.communication();
            let shared = |a: Option<crate::Color>, b: Option<crate::Color>| a.filter(|_| a == b);
            let color = ours
                .zip(theirs)
                .and_then(|(a, b)| shared(a.input, b.input).or(shared(a.output, b.output)));
            // Other instructions keep away from a broadcast's colors altogether.
            let pair = instr.broadcast().filter(|_| instr.broadcast() == other.broadcast());
            if let Some(color) = color.or(pair.map(|p| p[0])) {
                return Err(format!("color {} is used by microthread {i}", color.0));
            }
            let (a, b) = (Operands::of(instr), Operands::of(other));
            let writes = |w: &Operands, o: &Operands| {
                w.write.is_some_and(|w| o.slices().any(|s| self.meet(&w, s)))
                    || w.write.is_some_and(|w| o.matrix.is_some_and(|m| m.buffer == w.buffer))
            };
            if writes(&a, &b) || writes(&b, &a) {
                return Err(format!("touches what microthread {i} uses"));
            }
        }
        Ok(())
    }

    fn meet(&self, a: &Slice, b: &Slice) -> bool {
        let end = |s: &Slice| u64::from(s.offset) + s.len.elements(self.max_tokens);
        a.buffer == b.buffer && u64::from(a.offset) < end(b) && u64::from(b.offset) < end(a)
    }

    /// Whether a loop turns a sensible number of times on every PE of its role.
    fn turns(&self, role: &Role, repeat: &Instr) -> Result<(), String> {
        let Instr::Repeat { times, .. } = *repeat else { return Ok(()) };
        let t = self.map.template;
        let sane =
            |x: u32, y: u32| times.at((x, y), t.cell).is_some_and(|n| (0..=TURNS_MAX).contains(&n));
        // What does not depend on a coordinate is looked at once.
        let columns = if times.uses_x() { t.width } else { 1 };
        let rows = if times.uses_y() { t.height } else { 1 };
        for y in 0..rows {
            for x in 0..columns {
                let whole = times.uses_x() && times.uses_y();
                let here = match (times.uses_x(), times.uses_y()) {
                    (true, false) => role.predicate.holds_x(x),
                    (false, true) => role.predicate.holds_y(y),
                    _ => !whole || role.predicate.holds(x, y),
                };
                if here && !sane(x, y) {
                    let n = times.at((x, y), t.cell);
                    return Err(format!("a loop of {n:?} turns at ({x}, {y}); 0..={TURNS_MAX}"));
                }
            }
        }
        Ok(())
    }
}
