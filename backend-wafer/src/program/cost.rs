//! Predicted cycles of a template, in closed form from the target's constants.
//!
//! Communication: `T = C + h*L + (2 T_R + 1) * D + m * M` with a phase's `CommShape` and the software
//! start m of each of its M messages. Compute: the slowest role of the phase. The simulator measures; these are
//! the compiler's claims and what placement minimises.

use plan::target::cost::instruction_cycles;
use plan::{CommShape, Instr, Target, Template};

/// Cycles of the communication of a phase when a row attends to `kv_tokens` tokens.
pub fn comm_cycles(target: &Target, shape: &CommShape, kv_tokens: u32) -> u64 {
    let fabric = &target.fabric;
    let core = &target.core;
    let relay = 2 * fabric.ramp_cycles + core.wavelet_cycles;
    shape.serial.elements(kv_tokens) * u64::from(core.wavelet_cycles)
        + u64::from(fabric.hop_cycles) * u64::from(shape.hops)
        + u64::from(relay) * u64::from(shape.depth)
        + u64::from(core.message_cycles) * u64::from(shape.messages)
}

/// Cycles of the local instructions of a phase: its slowest role.
pub fn compute_cycles(target: &Target, template: &Template, phase: usize, kv_tokens: u32) -> u64 {
    let Some(phase) = template.phases.get(phase) else { return 0 };
    let local = |i: &Instr| match i.communication() {
        None => instruction_cycles(target, template, i, kv_tokens),
        Some(_) => 0,
    };
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
