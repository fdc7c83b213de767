//! Runs: wavelets at equal distances, the unit in which the engine moves them.
//!
//! A flow only shifts a run; a core that takes one wavelet every w cycles turns a run into at most two
//! (while it is behind, and once it has caught up). So n wavelets over L hops cost one step per
//! receiver, exactly. Lists of runs are joined where they continue each other: how wavelets are cut
//! into runs never shows in a time.

/// Wavelet i of `n` at `first + i * stride`; never empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// Cycle of wavelet 0.
    pub first: u64,
    /// Cycles between two wavelets; at least 1 where `n > 1`.
    pub stride: u32,
    /// Number of wavelets.
    pub n: u32,
}

impl Run {
    /// `n` wavelets, one per cycle.
    pub fn dense(first: u64, n: u32) -> Self {
        Run { first, stride: 1, n }
    }

    /// The cycle of wavelet `i`.
    pub fn time(&self, i: u32) -> u64 {
        self.first + u64::from(self.stride) * u64::from(i)
    }

    /// The cycle of the last wavelet.
    pub fn last(&self) -> u64 {
        self.time(self.n - 1)
    }

    /// The same, `cycles` later.
    pub fn later(self, cycles: u64) -> Self {
        Run { first: self.first + cycles, ..self }
    }

    /// The first `n` wavelets and the others; `0 < n < self.n`.
    pub fn split(self, n: u32) -> (Run, Run) {
        (Run { n, ..self }, Run { first: self.time(n), n: self.n - n, ..self })
    }

    /// Appends `next` when together they are one run.
    pub fn join(&mut self, next: Run) -> bool {
        let gap = next.first.wrapping_sub(self.last());
        let Ok(gap) = u32::try_from(gap) else { return false };
        let fits = (self.n == 1 || self.stride == gap) && (next.n == 1 || next.stride == gap);
        if fits && gap > 0 {
            self.stride = gap;
            self.n += next.n;
        }
        fits && gap > 0
    }

    /// Wavelet i is served at `max(its cycle, when i - 1 was served) + w`, the first not before `now`.
    /// Calls `out` with the one or two runs of service ends and returns the last end. `w > 0`.
    pub fn served(self, now: u64, w: u32, mut out: impl FnMut(Run)) -> u64 {
        let start = self.first.max(now) + u64::from(w);
        let behind = start - u64::from(w) - self.first;
        let late = match self.stride > w && self.n > 1 {
            true => behind.div_ceil(u64::from(self.stride - w)).min(u64::from(self.n)) as u32,
            false => self.n,
        };
        if late == 0 || late == self.n {
            let stride = if late == 0 { self.stride } else { w };
            let run = Run { first: start, stride, n: self.n };
            out(run);
            return run.last();
        }
        out(Run { first: start, stride: w, n: late });
        let caught_up = self.split(late).1.later(u64::from(w));
        out(caught_up);
        caught_up.last()
    }

    /// Whether a wavelet of each falls into one cycle.
    pub fn meets(&self, other: &Run) -> bool {
        if self.last() < other.first || other.last() < self.first {
            return false;
        }
        let (few, many) = if self.n < other.n { (self, other) } else { (other, self) };
        (0..few.n).map(|i| few.time(i)).any(|t| {
            let past = t.wrapping_sub(many.first);
            t >= many.first && t <= many.last() && past.is_multiple_of(u64::from(many.stride))
        })
    }
}

/// Runs in order of time whose wavelets are those of `times`, which ascend strictly; `None` otherwise.
pub fn of_times(times: &[u64]) -> Option<Vec<Run>> {
    let mut runs: Vec<Run> = Vec::new();
    for &t in times {
        let next = Run::dense(t, 1);
        if runs.last().is_some_and(|r| r.last() >= t) {
            return None;
        }
        if !runs.last_mut().is_some_and(|r| r.join(next)) {
            runs.push(next);
        }
    }
    Some(runs)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn times(runs: &[Run]) -> Vec<u64> {
        runs.iter().flat_map(|r| (0..r.n).map(|i| r.time(i))).collect()
    }

    #[test]
    fn service_follows_its_recurrence() {
        for stride in 1..6 {
            for w in 1..5 {
                for now in 0..40 {
                    for n in 1..9 {
                        let run = Run { first: 10, stride, n };
                        let mut expected = Vec::new();
                        let mut at = now;
                        for i in 0..n {
                            at = at.max(run.time(i)) + u64::from(w);
                            expected.push(at);
                        }
                        let mut found = Vec::new();
                        let end = run.served(now, w, |r| found.push(r));
                        assert_eq!(times(&found), expected, "{run:?} now {now} w {w}");
                        assert_eq!(end, at);
                    }
                }
            }
        }
    }

    #[test]
    fn lists_of_times_come_back() {
        for list in [&[1, 2, 3, 7, 9, 11, 12][..], &[5], &[1, 100, 101]] {
            assert_eq!(times(&of_times(list).unwrap()), list);
        }
        assert_eq!(of_times(&[3, 3]), None);
        assert!(Run { first: 0, stride: 3, n: 5 }.meets(&Run { first: 6, stride: 4, n: 2 }));
        assert!(!Run { first: 0, stride: 3, n: 5 }.meets(&Run { first: 7, stride: 3, n: 2 }));
    }
}
