//! Level L0 of phases whose only messages are broadcasts of all lines, such as SUMMA's steps: all PEs in step.
//!
//! Every PE runs one program, so the phase is executed step by step for all of them at once. What a root sends is one
//! wavelet a cycle, all hear it a fixed time later, and nobody else uses the links (`plan::verify`: the colors
//! merge along whole lines and roots follow one another), so a message is done at
//! `max(start, arrival of its first wavelet) + n w`: no wavelet and no queue is looked at. Exact: tests
//! hold it to the same cycles as all tiles run wavelet by wavelet. Each phase starts everywhere at once.

use super::domain::{Domain, Step, StepKind};

const THREADS: usize = plan::MICROTHREADS as usize;

/// When each PE is where in the phase.
struct Sweep<'a> {
    domain: &'a Domain,
    width: usize,
    height: usize,
    now: Vec<u64>,
    /// When the last wavelet of the last message left.
    ramp: Vec<u64>,
    /// Ends of the messages in microthreads; empty where there is none.
    threads: [Vec<u64>; THREADS],
}

/// Cycles of phase `phase` of a domain of `width` columns; `None` when it is of another kind.
pub(super) fn run(domain: &Domain, width: u32, phase: usize) -> Option<u64> {
    let [program] = &domain.table[..] else { return None };
    let from = *program.phase_starts.get(phase)? as usize;
    let to = *program.phase_starts.get(phase + 1)? as usize;
    let steps = program.steps.get(from..to)?;
    let uniform =
        |s: &Step| !matches!(s.kind, StepKind::Send(_) | StepKind::Recv(_) | StepKind::Relay(..));
    let plain = domain.dear_hops.is_empty() && domain.wavelet > 0;
    if !plain || !steps.iter().all(uniform) {
        return None;
    }
    let width = width as usize;
    let height = domain.len().checked_div(width)?;
    let used = |t: usize| steps.iter().any(|s| s.thread == Some(t as u8));
    let mut sweep = Sweep {
        domain,
        width,
        height,
        now: vec![0; domain.len()],
        ramp: vec![0; domain.len()],
        threads: std::array::from_fn(|t| if used(t) { vec![0; domain.len()] } else { Vec::new() }),
    };
    let (mut at, mut turn) = (0, 0);
    // Cycles that all PEs are yet to spend.
    let mut local = 0;
    while let Some(step) = steps.get(at) {
        local += step.cycles;
        at += 1;
        match step.kind {
            StepKind::Turn { back, times } if turn + 1 < times => {
                turn += 1;
                at -= 1 + back as usize;
            }
            StepKind::Turn { .. } => turn = 0,
            StepKind::Join { threads, after } => {
                sweep.join(threads, std::mem::take(&mut local), u64::from(after));
            }
            StepKind::Broadcast { along_x, root, per_turn, .. } => {
                let root = (root + per_turn * turn) as usize;
                sweep.broadcast(step, (along_x, root), std::mem::take(&mut local))?;
            }
            _ => {}
        }
    }
    sweep.now.iter().max().map(|end| end + local)
}

impl Sweep<'_> {
    fn join(&mut self, threads: u8, local: u64, after: u64) {
        self.now.iter_mut().for_each(|now| *now += local);
        for ends in self.threads.iter().enumerate().filter(|t| threads & (1 << t.0) != 0) {
            self.now.iter_mut().zip(ends.1).for_each(|(now, &end)| *now = (*now).max(end));
        }
        self.now.iter_mut().for_each(|now| *now += after);
    }

    /// `None` when the root is off the line.
    fn broadcast(&mut self, step: &Step, (along_x, root): (bool, usize), local: u64) -> Option<()> {
        self.now.iter_mut().for_each(|now| *now += local);
        let (lines, extent) =
            if along_x { (self.height, self.width) } else { (self.width, self.height) };
        if root >= extent {
            return None;
        }
        let roots = (0..lines)
            .map(|line| if along_x { line * self.width + root } else { root * self.width + line });
        let roots: Vec<usize> = roots.collect();
        // Per line: when the first wavelet is on the ramp, down and up; when the root has heard all.
        let sent: Vec<(u64, u64, u64)> = roots.iter().map(|&tile| self.cast(tile, step)).collect();
        let (hop, up_and_down) = (self.domain.hop, 2 * self.domain.ramp);
        let (width, service) = (self.width, u64::from(step.wavelets) * self.domain.wavelet);
        let empty = step.wavelets == 0;
        let heard = |x: usize, y: usize, now: u64| {
            let (line, at) = if along_x { (y, x) } else { (x, y) };
            let (down, up, root_end) = sent[line];
            let first = if at < root { down } else { up };
            match at == root {
                true => root_end,
                false if empty => now,
                false => now.max(first + up_and_down + hop * at.abs_diff(root) as u64) + service,
            }
        };
        match step.thread {
            Some(t) => {
                let rows = self.threads[usize::from(t)].chunks_mut(width);
                for (y, (ends, row)) in rows.zip(self.now.chunks(width)).enumerate() {
                    for (x, (end, &now)) in ends.iter_mut().zip(row).enumerate() {
                        *end = heard(x, y, now);
                    }
                }
            }
            None => {
                for (y, row) in self.now.chunks_mut(width).enumerate() {
                    row.iter_mut().enumerate().for_each(|(x, now)| *now = heard(x, y, *now));
                }
            }
        }
        Some(())
    }

    /// As [`super::cores`] does it: first wavelet down, first wavelet up, the end.
    fn cast(&mut self, tile: usize, step: &Step) -> (u64, u64, u64) {
        let n = u64::from(step.wavelets);
        let mut now = self.now[tile].max(self.ramp[tile]);
        let first = [0, step.latency].map(|wait| {
            let begin = now + wait;
            now = begin;
            if n > 0 {
                self.ramp[tile] = begin + n;
                now += 1 + 2 * self.domain.ramp + n * self.domain.wavelet;
            }
            begin + 1
        });
        (first[0], first[1], now)
    }
}
