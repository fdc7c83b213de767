//! What each phase should cost: the parts of a breakdown, in closed form.
//!
//! A collective on a line takes `C w + h L + (2 T_R + w) D` with the parameters of the phase's
//! [`plan::CommShape`] (Luczynski et al., HPDC 2024), local work comes before and after. Each part is
//! that of the tile with the most of it, so together they bound a phase from above unless messages meet
//! on a link. How long a phase really takes is told by the engine: see [`super::engine`].

use plan::{Instr, Target, Template};

use super::domain::{Domain, Program, Step, StepKind, phase_overhead};
use super::report::PhaseTime;

/// The parts of every phase of a template at position `pos`; `cycles` is their sum.
pub(super) fn phases(
    target: &Target,
    template: &Template,
    domain: &Domain,
    pos: u32,
) -> Vec<PhaseTime> {
    let tokens = template.kv.map_or(0, |kv| kv.max_tokens(pos));
    (0..template.phases.len()).map(|i| parts(target, template, i, domain, tokens)).collect()
}

/// Local cycles of a program in a phase.
fn local(program: &Program, phase: usize) -> u64 {
    let (from, to) =
        (program.phase_starts[phase] as usize, program.phase_starts[phase + 1] as usize);
    let steps = &program.steps[from..to];
    let once = |steps: &[Step]| -> u64 {
        let message = |s: &&Step| !matches!(s.kind, StepKind::Local | StepKind::Turn { .. });
        steps.iter().filter(|s| !message(s)).map(|s| s.cycles).sum()
    };
    let more = steps.iter().enumerate().map(|(i, s)| match s.kind {
        StepKind::Turn { back, times } => {
            u64::from(times - 1) * once(&steps[i - back as usize..=i])
        }
        _ => 0,
    });
    once(steps) + more.sum::<u64>()
}

/// Cycles of scalar code in a program.
fn software(program: &[Instr]) -> u64 {
    let cycles = |i: &Instr| match i {
        Instr::Software { cycles } => u64::from(*cycles),
        _ => 0,
    };
    program.iter().map(cycles).sum()
}

/// The parts of one phase; `tokens` is the largest number of cached tokens of a row.
pub(super) fn parts(
    target: &Target,
    template: &Template,
    index: usize,
    domain: &Domain,
    tokens: u32,
) -> PhaseTime {
    let phase = &template.phases[index];
    // An idle domain has programs without this phase.
    let programs = domain.table.iter().filter(|p| p.phase_starts.len() > index + 1);
    let local = programs.map(|p| local(p, index)).max().unwrap_or(0);
    let overheads = phase.roles.iter().map(|r| phase_overhead(target, &r.program, &mut Vec::new()));
    // Binding counts every color as fresh here: an upper bound, never more than was spent.
    let software = phase.roles.iter().map(|r| software(&r.program)).max().unwrap_or(0);
    let overhead = (overheads.max().unwrap_or(0) + software).min(local);
    let mut time = PhaseTime {
        name: phase.name.clone(),
        compute: local - overhead,
        fixed: overhead,
        ..PhaseTime::default()
    };
    if let Some(comm) = &phase.comm {
        let w = u64::from(target.core.wavelet_cycles);
        let depth = u64::from(comm.depth);
        time.payload = comm.serial.elements(tokens) * w;
        time.distance = u64::from(target.fabric.hop_cycles) * u64::from(comm.hops);
        let steps = domain.table.iter().flat_map(|p| &p.steps);
        let here = steps.filter(|s| usize::from(s.phase) == index);
        let latency = here.map(|s| s.latency).max().unwrap_or(0);
        time.relay = (w + latency) * depth;
        time.fixed += 2 * u64::from(target.fabric.ramp_cycles) * depth
            + u64::from(target.core.message_cycles) * u64::from(comm.messages);
    }
    time.cycles = time.compute + time.payload + time.distance + time.relay + time.fixed;
    time
}
