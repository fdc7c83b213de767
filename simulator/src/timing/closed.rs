//! Level L0: closed forms per phase.
//!
//! A collective on a line takes `C w + h L + (2 T_R + w) D` with the parameters of the phase's
//! [`plan::CommShape`]. Where it starts and ends along the line is told from the programs: the root is
//! the one that only receives (a reduction), only sends (a broadcast), or receives first and sends
//! last (a reduction and a broadcast). A position at a fraction f of the longest distance from the root
//! pays the fraction f of the distance and depth terms, so a line whose far end is ready late takes
//! longer than one whose near end is. Local work is added before and after.
//!
//! A stream into the region costs its receivers the hops they are away from the edge; what is done
//! before it arrives is done while waiting. Anything else that is no collective on lines takes the
//! closed form as a whole, after everybody is ready. Cost: phases times positions, whatever the number
//! of wavelets and hops. Knows nothing of single wavelets: see [`super::burst`].

use plan::{Target, Template};

use super::collective::{Cost, Work, communicate, entries, stream_in};
use super::domain::{Domain, Program, StepKind, phase_overhead};
use super::lines::ways;
use super::report::PhaseTime;

/// The closed form of every phase of a template at position `pos`; times count from the region's input.
pub fn phases(target: &Target, template: &Template, domain: &Domain, pos: u32) -> Vec<PhaseTime> {
    let tokens = template.kv.map_or(0, |kv| kv.max_tokens(pos));
    let ways = ways(domain);
    let mut ready = vec![0u64; domain.len()];
    let mut end = 0;
    let mut times = Vec::new();
    for (i, phase) in template.phases.iter().enumerate() {
        let works: Vec<Work> = domain.table.iter().map(|p| work(p, i)).collect();
        let mut time = parts(target, template, i, &works, tokens);
        let at = |tile: u32| works[domain.programs[tile as usize] as usize];
        let mut latest = 0;
        match &phase.comm {
            Some(comm) if works.iter().any(Work::communicates) => {
                let cost = Cost::new(target, comm, tokens);
                let (way, colors) = &ways[i];
                let entries = entries(domain, colors);
                if !entries.is_empty() && !works.iter().any(|w| w.sends) {
                    stream_in(&entries, &at, cost, &mut ready);
                } else {
                    let way = (*way, &colors[..]);
                    latest = communicate(domain, template.width, way, &at, cost, &mut ready);
                }
            }
            _ => {
                for (tile, r) in ready.iter_mut().enumerate() {
                    let w = at(tile as u32);
                    // A message without a shape comes from another region, whose phase it counts in:
                    // what is done before it arrives is done while waiting.
                    *r = if w.communicates() { w.after } else { *r + w.before + w.after };
                }
            }
        }
        let latest = ready.iter().copied().max().unwrap_or(0).max(latest).max(end);
        time.cycles = latest - end;
        end = latest;
        times.push(time);
    }
    times
}

fn work(program: &Program, phase: usize) -> Work {
    let mut work = Work::default();
    let (from, to) =
        (program.phase_starts[phase] as usize, program.phase_starts[phase + 1] as usize);
    for step in &program.steps[from..to] {
        let (receives, sends) = match step.kind {
            StepKind::Local if work.communicates() => {
                work.after += step.cycles;
                continue;
            }
            StepKind::Local => {
                work.before += step.cycles;
                continue;
            }
            StepKind::Send(_) => (false, true),
            StepKind::Recv(_) => (true, false),
            StepKind::Relay(..) => (true, true),
        };
        work.receives |= receives;
        work.sends |= sends;
        work.sends_last = sends;
        work.last_wavelets = u64::from(step.wavelets);
        if let StepKind::Send(color) | StepKind::Relay(_, color) = step.kind {
            work.last_sent = color;
        }
    }
    work
}

/// The parts of a phase, each at its largest.
fn parts(
    target: &Target,
    template: &Template,
    index: usize,
    works: &[Work],
    tokens: u32,
) -> PhaseTime {
    let phase = &template.phases[index];
    let most = |f: fn(&Work) -> u64| works.iter().map(f).max().unwrap_or(0);
    let overheads = phase.roles.iter().map(|r| phase_overhead(target, &r.program, &mut Vec::new()));
    // Binding counts every color as fresh here: an upper bound, never more than was spent.
    let local = most(|w| w.before) + most(|w| w.after);
    let overhead = overheads.max().unwrap_or(0).min(local);
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
        time.relay = w * depth;
        time.fixed += 2 * u64::from(target.fabric.ramp_cycles) * depth
            + u64::from(target.core.message_cycles);
    }
    time
}
