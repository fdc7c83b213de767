//! Level L0: closed forms per phase.
//!
//! A phase with communication takes `C w + h L + (2 T_R + w) D` with the parameters of its
//! [`plan::CommShape`], after the local work of the programs that send first and before the local
//! work that follows. Programs that receive first do their own work meanwhile: they only add the C
//! wavelets they consume. Phases without communication add up until the next one with it.
//!
//! Cost: phases times distinct programs, whatever the number of tiles and wavelets.

use plan::{CommShape, Target, Template};

use super::domain::{Domain, Program, StepKind, phase_overhead};
use super::report::PhaseTime;

/// What one program does in one phase.
#[derive(Clone, Copy, Default)]
struct Work {
    /// Local cycles before the first message.
    before: u64,
    /// Local cycles after it.
    after: u64,
    /// It communicates.
    communicates: bool,
    /// Its first message is sent without waiting.
    sends_first: bool,
}

/// The closed form of every phase of a template at position `pos`.
pub fn phases(target: &Target, template: &Template, domain: &Domain, pos: u32) -> Vec<PhaseTime> {
    let tokens = template.kv.map_or(0, |kv| kv.max_tokens(pos));
    // Per program: local work since the last communication that it took part in.
    let mut ready = vec![0u64; domain.table.len()];
    let mut behind = 0;
    let mut times = Vec::new();
    for (i, phase) in template.phases.iter().enumerate() {
        let works: Vec<Work> = domain.table.iter().map(|p| work(p, i)).collect();
        let mut time = parts(target, template, i, &works, tokens);
        let end = match &phase.comm {
            Some(comm) if works.iter().any(|w| w.communicates) => {
                let (sent, consumed) = costs(target, comm, tokens);
                let end = communicate(&works, &mut ready, sent, consumed);
                // From here on times count from this end.
                time.cycles = end.saturating_sub(behind);
                behind = 0;
                times.push(time);
                continue;
            }
            _ => {
                for (r, w) in ready.iter_mut().zip(&works) {
                    // A message without a shape comes from another region, whose phase it counts in:
                    // what is done before it arrives is done while waiting.
                    *r = if w.communicates { w.after } else { *r + w.before + w.after };
                }
                ready.iter().copied().max().unwrap_or(0)
            }
        };
        time.cycles = end.saturating_sub(behind);
        behind = behind.max(end);
        times.push(time);
    }
    times
}

fn work(program: &Program, phase: usize) -> Work {
    let mut work = Work::default();
    for step in program.steps.iter().filter(|s| s.phase as usize == phase) {
        match step.kind {
            StepKind::Local if work.communicates => work.after += step.cycles,
            StepKind::Local => work.before += step.cycles,
            _ => {
                work.sends_first |= !work.communicates && matches!(step.kind, StepKind::Send(_));
                work.communicates = true;
            }
        }
    }
    work
}

/// Cycles from the start of the first send to the last receive, and of consuming alone.
fn costs(target: &Target, comm: &CommShape, tokens: u32) -> (u64, u64) {
    let w = u64::from(target.core.wavelet_cycles);
    let consumed = comm.serial.elements(tokens) * w;
    let distance = u64::from(target.fabric.hop_cycles) * u64::from(comm.hops);
    let depth = (2 * u64::from(target.fabric.ramp_cycles) + w) * u64::from(comm.depth);
    (consumed + distance + depth + u64::from(target.core.message_cycles), consumed)
}

/// End of a communicating phase; everybody who takes part is at this end afterwards.
fn communicate(works: &[Work], ready: &mut [u64], sent: u64, consumed: u64) -> u64 {
    let sources = works.iter().any(|w| w.sends_first);
    let arrivals = works.iter().zip(ready.iter()).filter(|(w, _)| w.communicates);
    let end = arrivals
        .map(|(w, r)| r + w.before + if w.sends_first || !sources { sent } else { consumed })
        .max()
        .unwrap_or(0);
    let after = works.iter().filter(|w| w.communicates).map(|w| w.after).max().unwrap_or(0);
    for (r, w) in ready.iter_mut().zip(works) {
        *r = if w.communicates { 0 } else { (*r + w.before).saturating_sub(end + after) };
    }
    end + after
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
