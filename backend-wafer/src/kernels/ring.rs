//! A ring along a line of PEs in which neighbours are at most two hops apart, in both directions.
//!
//! PEs 0, 2, 4, ... up the line and ..., 5, 3, 1 back down it: position q of PE i in the ring is i/2 for
//! even i and P-1 - i/2 for odd i (WaferLLM, OSDI 2025). Forwards, a PE sends to the next position.
//! At a router three flows meet (sent, received, passed through), so three colors do for a direction:
//! with j = i/2, forwards even i sends on j mod 3 and odd i on j+1 mod 3; backwards both send on j
//! mod 3; where the ring turns around at an end the free third color is taken.

use std::collections::BTreeMap;

use plan::{Axis, Clause, Color, Port, Ports, Predicate, Route, Term};

/// Which way round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// To the next position.
    Forwards,
    /// To the position before.
    Backwards,
}

/// A ring over all PEs of every row (axis X) or column (axis Y).
#[derive(Clone, Copy, Debug)]
pub(super) struct Ring {
    pub(super) axis: Axis,
    /// PEs, at least 2.
    pub(super) len: u32,
    /// The first of its three colors.
    pub(super) first_color: u8,
    pub(super) way: Way,
}

/// Positions on a line: `i % 6 == rem` in a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Some6 {
    rem: u32,
    from: u32,
    to: u32,
}

impl Some6 {
    /// The clauses of a predicate on that axis.
    pub(super) fn clauses(self) -> Vec<Clause> {
        let range = Clause::range(self.from, self.to);
        if self.to - self.from == 1 {
            return vec![range];
        }
        vec![Clause::eq(Term::Rem(6), self.rem), range]
    }
}

/// What a color does at a router.
type Hop = (Color, Port, Port);

impl Ring {
    /// Where PE `i` sends to.
    pub(super) fn next(&self, i: u32) -> u32 {
        let up = i.is_multiple_of(2) == (self.way == Way::Forwards);
        match (up, i) {
            (true, _) if i + 2 < self.len => i + 2,
            // The far end: the only other PE of the last two.
            (true, _) if i + 1 < self.len => i + 1,
            (true, _) => i - 1,
            (false, 0) => 1,
            (false, 1) => 0,
            (false, _) => i - 2,
        }
    }

    /// Who sends to PE `i`.
    fn previous(&self, i: u32) -> u32 {
        let way = if self.way == Way::Forwards { Way::Backwards } else { Way::Forwards };
        Ring { way, ..*self }.next(i)
    }

    /// The color PE `i` sends on.
    pub(super) fn sends_on(&self, i: u32) -> Color {
        let j = i / 2;
        let turns_early = i + 1 == self.len;
        let third = match self.way {
            Way::Forwards if i % 2 == 1 || turns_early => j + 1,
            Way::Backwards if i == 0 => 2,
            Way::Backwards if i % 2 == 1 && turns_early => j + 1,
            _ => j,
        };
        Color(self.first_color + (third % 3) as u8)
    }

    /// The color PE `i` receives on.
    pub(super) fn receives_on(&self, i: u32) -> Color {
        self.sends_on(self.previous(i))
    }

    /// The routes of its colors on the PEs where `other` holds on the other axis.
    pub(super) fn routes(&self, other: &[Clause]) -> Vec<Route> {
        let mut hops: BTreeMap<Hop, Vec<u32>> = BTreeMap::new();
        let (up, down) = match self.axis {
            Axis::X => (Port::East, Port::West),
            Axis::Y => (Port::South, Port::North),
        };
        for i in 0..self.len {
            let (to, color) = (self.next(i), self.sends_on(i));
            let (out, back) = if to > i { (up, down) } else { (down, up) };
            hops.entry((color, Port::Ramp, out)).or_default().push(i);
            if to.abs_diff(i) == 2 {
                hops.entry((color, back, out)).or_default().push(u32::midpoint(i, to));
            }
            hops.entry((color, back, Port::Ramp)).or_default().push(to);
        }
        let mut routes = Vec::new();
        for ((color, input, output), mut places) in hops {
            places.sort_unstable();
            for some in sixths(&places) {
                let mut predicate = Predicate::everywhere();
                let (along, across) = match self.axis {
                    Axis::X => (&mut predicate.x, &mut predicate.y),
                    Axis::Y => (&mut predicate.y, &mut predicate.x),
                };
                along.extend(some.clauses());
                across.extend_from_slice(other);
                routes.push(Route { color, predicate, input, outputs: Ports::of(&[output]) });
            }
        }
        routes
    }

    /// PEs that send on one color and receive on one color: the colors, and where.
    pub(super) fn roles(&self) -> Vec<(Color, Color, Some6)> {
        let mut pairs: BTreeMap<(Color, Color), Vec<u32>> = BTreeMap::new();
        for i in 0..self.len {
            pairs.entry((self.sends_on(i), self.receives_on(i))).or_default().push(i);
        }
        let all = pairs.into_iter();
        all.flat_map(|((a, b), places)| sixths(&places).into_iter().map(move |s| (a, b, s)))
            .collect()
    }
}

/// Ascending positions as few stretches of one remainder by 6 each.
fn sixths(places: &[u32]) -> Vec<Some6> {
    let mut out = Vec::new();
    for rem in 0..6 {
        let mut open: Option<Some6> = None;
        for &i in places.iter().filter(|&&i| i % 6 == rem) {
            match &mut open {
                Some(s) if s.to + 5 == i => s.to = i + 1,
                _ => {
                    out.extend(open.take());
                    open = Some(Some6 { rem, from: i, to: i + 1 });
                }
            }
        }
        out.extend(open);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ring_visits_all_within_two_hops_and_colors_differ_at_every_router() {
        for len in 2..40 {
            for way in [Way::Forwards, Way::Backwards] {
                let ring = Ring { axis: Axis::X, len, first_color: 0, way };
                let (mut at, mut seen) = (0, vec![false; len as usize]);
                let mut flows = vec![Vec::new(); len as usize];
                for _ in 0..len {
                    assert!(!std::mem::replace(&mut seen[at as usize], true), "{len} {way:?}");
                    let next = ring.next(at);
                    assert!(next.abs_diff(at) <= 2 && ring.previous(next) == at);
                    let (from, to) = (at.min(next), at.max(next));
                    (from..=to).for_each(|i| flows[i as usize].push(ring.sends_on(at)));
                    at = next;
                }
                for (i, mut colors) in flows.into_iter().enumerate() {
                    let n = colors.len();
                    colors.sort_unstable();
                    colors.dedup();
                    assert_eq!(colors.len(), n, "router {i} of {len}, {way:?}");
                }
            }
        }
    }
}
