//! Level L0: closed forms per phase.
//!
//! A phase takes its largest local work before the first message, its communication by
//! `C w + h L + (2 T_R + w) D` with the parameters of its [`plan::CommShape`], and its largest local
//! work after the first message. Phases follow one another; nothing overlaps.

use plan::{Phase, Target, Template};

use super::domain::{Domain, StepKind};
use super::report::PhaseTime;

/// The closed form of every phase of a template at position `pos`.
pub fn phases(target: &Target, template: &Template, domain: &Domain, pos: u32) -> Vec<PhaseTime> {
    let tokens = template.kv.map_or(0, |kv| kv.max_tokens(pos));
    let list = template.phases.iter().enumerate();
    list.map(|(i, phase)| closed_form(target, phase, i, domain, tokens)).collect()
}

fn closed_form(
    target: &Target,
    phase: &Phase,
    index: usize,
    domain: &Domain,
    tokens: u32,
) -> PhaseTime {
    let (mut before, mut after) = (0, 0);
    for program in &domain.table {
        let (mut pre, mut post, mut communicates) = (0, 0, false);
        for step in program.steps.iter().filter(|s| s.phase as usize == index) {
            match step.kind {
                StepKind::Local if communicates => post += step.cycles,
                StepKind::Local => pre += step.cycles,
                _ => communicates = true,
            }
        }
        (before, after) = (u64::max(before, pre), u64::max(after, post));
    }
    let overhead = overhead(target, phase);
    let compute = (before + after).saturating_sub(overhead);
    let mut time =
        PhaseTime { name: phase.name.clone(), compute, fixed: overhead, ..PhaseTime::default() };
    if let Some(comm) = &phase.comm {
        let w = u64::from(target.core.wavelet_cycles);
        let depth = u64::from(comm.depth);
        time.payload = comm.serial.elements(tokens) * w;
        time.distance = u64::from(target.fabric.hop_cycles) * u64::from(comm.hops);
        time.relay = w * depth;
        time.fixed += 2 * u64::from(target.fabric.ramp_cycles) * depth
            + u64::from(target.core.message_cycles);
    }
    time.cycles = time.compute + time.payload + time.distance + time.relay + time.fixed;
    time
}

/// Task switch and queue binding of a phase, at most: every color counts as newly bound.
fn overhead(target: &Target, phase: &Phase) -> u64 {
    let of = |r: &plan::Role| super::domain::phase_overhead(target, &r.program, &mut Vec::new());
    let least = |r: &plan::Role| {
        if r.program.is_empty() { 0 } else { u64::from(target.core.task_switch_cycles) }
    };
    let local = |r: &plan::Role| r.program.iter().all(|i| i.communication().is_none());
    let bound = |r: &plan::Role| if local(r) { least(r) } else { of(r) };
    phase.roles.iter().map(bound).max().unwrap_or(0)
}
