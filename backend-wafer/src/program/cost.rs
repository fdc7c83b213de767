//! Predicted cycles of a template, in closed form from the target's constants.
//!
//! Communication: `T = C + h*L + (2 T_R + 1) * D + m * M` with a phase's `CommShape` and the software
//! start m of each of its M messages. Compute: the slowest role of the phase. The simulator measures; these are
//! the compiler's claims and what placement minimises.

use plan::target::cost::instruction_cycles;
use plan::{CommShape, Instr, Target, Template};

use crate::route::stream::{Entry, Exit};

/// Cycles of the communication of a phase when a row attends to `kv_tokens` tokens.
pub fn comm_cycles(target: &Target, shape: &CommShape, kv_tokens: u32) -> u64 {
    let fabric = &target.fabric;
    let core = &target.core;
    shape.serial.elements(kv_tokens) * u64::from(core.wavelet_cycles)
        + u64::from(fabric.hop_cycles) * u64::from(shape.hops)
        + relay_cycles(target) * u64::from(shape.depth)
        + u64::from(core.message_cycles) * u64::from(shape.messages)
}

/// Cycles by which a relay delays what passes it.
fn relay_cycles(target: &Target) -> u64 {
    u64::from(2 * target.fabric.ramp_cycles + target.core.wavelet_cycles)
}

/// Cycles of the local instructions of a phase: its slowest role.
pub fn compute_cycles(target: &Target, template: &Template, phase: usize, kv_tokens: u32) -> u64 {
    let Some(phase) = template.phases.get(phase) else { return 0 };
    let local = |i: &Instr| match i.communication() {
        None => instruction_cycles(target, template, i, kv_tokens),
        Some(_) => 0,
    };
    // Half of a phase's hops lead to the root, half back from it.
    let half = phase.comm.as_ref().map_or(0, |shape| u64::from(shape.hops / 2));
    let fabric = &target.fabric;
    let flight = u64::from(2 * fabric.ramp_cycles) + half * u64::from(fabric.hop_cycles);
    let cycles = |role: &plan::Role| -> u64 {
        // Behind the last message that it sends, a PE works while answers are on their way; behind an
        // answer that leaves in a microthread, while that leaves.
        let sends = |i: &Instr| i.communication().is_some_and(|c| c.output.is_some());
        let Some(last) = role.program.iter().rposition(sends) else {
            return role.program.iter().map(local).sum();
        };
        let (before, behind) = role.program.split_at(last);
        let exposed = match (before, &behind[0]) {
            ([.., Instr::Start { .. }], Instr::Send { src, .. }) => {
                let behind: u64 = behind.iter().map(local).sum();
                behind.saturating_sub(src.len.elements(kv_tokens))
            }
            // A root's answer is on its way meanwhile, and nobody waits for the root before it arrives.
            (_, Instr::Send { .. }) if behind[1..].iter().all(|i| i.communication().is_none()) => {
                let behind: u64 = behind.iter().map(local).sum();
                behind.saturating_sub(flight)
            }
            _ => 0,
        };
        before.iter().map(local).sum::<u64>() + exposed
    };
    let slowest = phase.roles.iter().map(cycles).max().unwrap_or(0);
    slowest + u64::from(target.core.task_switch_cycles)
}

/// (compute, communication) cycles of every phase at position `pos`.
pub fn phase_cycles(target: &Target, template: &Template, pos: u32) -> Vec<(u64, u64)> {
    let kv_tokens = template.kv.map_or(0, |kv| kv.max_tokens(pos));
    let of = |i: usize| {
        let comm = template.phases[i].comm.as_ref();
        let comm = comm.map_or(0, |shape| comm_cycles(target, shape, kv_tokens));
        (compute_cycles(target, template, i, kv_tokens), comm)
    };
    (0..template.phases.len()).map(of).collect()
}

/// Cycles of a template from its first receive to its last send, at position `pos`.
pub fn template_cycles(target: &Target, template: &Template, pos: u32) -> u64 {
    phase_cycles(target, template, pos).iter().map(|(compute, comm)| compute + comm).sum()
}

/// Cycles from one token to the next, when that waits at the border already. The way of x into the template
/// then costs nothing; after a turn that is its way down the columns, since the rows' multicasts are sent inside. And where only a
/// root ends late, because it sends x on, the others are ahead by as much as their sums take to
/// it: the next token's first reduction along rows finds these there, and x's way out delays nobody here.
pub fn interval_cycles(
    target: &Target,
    template: &Template,
    pos: u32,
    (entry, exit): (Entry, Exit),
) -> u64 {
    let hop = u64::from(target.fabric.hop_cycles);
    let way_in = match entry {
        Entry::Start => 0,
        Entry::Row => u64::from(template.width) * hop,
        Entry::Turn(_) => u64::from(template.height) * hop,
    };
    let last = template.phases.last().and_then(|p| p.comm.as_ref());
    let way_out = match (exit, last) {
        (Exit::Turn(_), _) | (_, None) => 0,
        (Exit::Row | Exit::End, Some(sum)) => {
            u64::from(sum.hops) * hop + u64::from(sum.depth) * relay_cycles(target)
        }
    };
    template_cycles(target, template, pos).saturating_sub(way_in + way_out)
}
