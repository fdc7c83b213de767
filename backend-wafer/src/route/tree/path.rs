//! The critical path of a tree, by the recurrence of its messages.
//!
//! A side of a group with n members offers its first wavelet after the first message's start and n relays;
//! a root takes its sides one after the other; the sums of roots run to the global root, each joined by
//! the next group's when both are there. Of two things that are waited for the later one counts, whose counts
//! of wavelets, hops, relays and starts become the claim ([`CommShape`]).

use plan::{CommShape, Len, Target};

use super::{Axis, Group, Reach, Side, Tree};

/// What the steps of a path cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    pub(super) hop: u64,
    /// From a core's ramp to the next core's result, without hops.
    pub(super) relay: u64,
    /// Start of a message.
    pub(super) message: u64,
}

impl Pace {
    /// Of a target.
    pub fn of(target: &Target) -> Self {
        let (fabric, core) = (&target.fabric, &target.core);
        Pace {
            hop: fabric.hop_cycles.into(),
            relay: u64::from(2 * fabric.ramp_cycles + core.wavelet_cycles),
            message: core.message_cycles.into(),
        }
    }
}

/// Steps one after another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Path {
    /// Whole messages.
    serial: u32,
    messages: u32,
    hops: u32,
    depth: u32,
}

impl Path {
    fn start(self) -> Self {
        Path { messages: self.messages + 1, ..self }
    }

    fn payload(self) -> Self {
        Path { serial: self.serial + 1, ..self }
    }

    fn fly(self, hops: u32, depth: u32) -> Self {
        Path { hops: self.hops + hops, depth: self.depth + depth, ..self }
    }
}

/// Paths of messages of some length.
#[derive(Clone, Copy)]
struct Clock {
    pace: Pace,
    wavelets: u64,
}

impl Clock {
    fn cycles(&self, path: Path) -> u64 {
        u64::from(path.serial) * self.wavelets
            + u64::from(path.messages) * self.pace.message
            + u64::from(path.hops) * self.pace.hop
            + u64::from(path.depth) * self.pace.relay
    }

    /// The later one; of equal ones the second.
    fn later(&self, a: Path, b: Path) -> Path {
        if self.cycles(a) > self.cycles(b) { a } else { b }
    }
}

impl Tree {
    /// The closed form of a reduction of `elements`.
    pub fn comm(&self, reach: Reach, elements: Len) -> CommShape {
        self.shape(self.critical_path(reach, elements, |_| 0), reach, elements)
    }

    /// The closed form of a reduction of `elements` along a row whose inputs entered from the west: each
    /// column is ready a hop after the one before it, and cycles count from when the last one is.
    pub fn comm_skewed(&self, reach: Reach, elements: Len) -> CommShape {
        let mut path = self.critical_path(reach, elements, |p| p);
        path.hops = path.hops.saturating_sub(self.line.len - 1);
        self.shape(path, reach, elements)
    }

    /// Cycles of a reduction of messages of `elements`.
    pub fn cycles(&self, reach: Reach, elements: u32) -> u64 {
        let elements = Len::of(elements);
        let clock = self.clock(elements);
        clock.cycles(self.critical_path(reach, elements, |_| 0))
    }

    fn clock(&self, elements: Len) -> Clock {
        // Of a message that grows with the cache: at its first token.
        let elements = u64::from(elements.constant) + u64::from(elements.per_kv_token);
        Clock { pace: self.pace, wavelets: self.wire.wavelets(elements) }
    }

    fn shape(&self, path: Path, reach: Reach, elements: Len) -> CommShape {
        let axis = if self.line.axis == Axis::X { "x" } else { "y" };
        let what = if reach == Reach::All { "allreduce" } else { "reduce" };
        let sizes = self.groups.iter().map(|g| g.end - g.first);
        let (least, most) = (sizes.clone().min().unwrap_or(0), sizes.max().unwrap_or(0));
        let groups = match self.even {
            0 => format!("{least} to {most}"),
            even => even.to_string(),
        };
        CommShape {
            kind: format!("{what} tree {axis}, groups of {groups}"),
            serial: Len {
                constant: path.serial * self.wire.wavelets(elements.constant.into()) as u32,
                per_kv_token: path.serial * elements.per_kv_token,
            },
            hops: path.hops,
            depth: path.depth,
            messages: path.messages,
        }
    }

    /// The longest way to the end of a reduction whose positions are ready after `ready` hops.
    fn critical_path(&self, reach: Reach, elements: Len, ready: impl Fn(u32) -> u32) -> Path {
        let clock = self.clock(elements);
        let root = self.groups[self.root_group];
        let mut now = self.gathered(&root, clock, &ready, 2);
        for side in [Side::Before, Side::After] {
            if let Some(wave) = self.wave(side, clock, &ready) {
                now = clock.later(wave, now.start()).payload();
            }
        }
        if reach == Reach::All && self.line.len > 1 {
            let far = root.root.max(self.line.len - 1 - root.root);
            now = now.start().payload().fly(far, 1);
        }
        now
    }

    /// Until a root has taken its first `most` sides.
    fn gathered(
        &self,
        group: &Group,
        clock: Clock,
        ready: &impl Fn(u32) -> u32,
        most: usize,
    ) -> Path {
        let start = Path::default().fly(ready(group.root), 0);
        let sides = group.sides().take(most);
        sides
            .fold(start, |now, side| clock.later(group.offered(side, ready), now.start()).payload())
    }

    /// Until the sums of all groups on a side of the global root stand before it.
    fn wave(&self, side: Side, clock: Clock, ready: &impl Fn(u32) -> u32) -> Option<Path> {
        let mut wave: Option<Path> = None;
        let mut from = 0u32;
        for q in self.outer(side) {
            let group = &self.groups[q];
            let on = match wave {
                Some(path) => {
                    let there = path.fly(from.abs_diff(group.root), 1);
                    clock.later(there, self.gathered(group, clock, ready, 2).start())
                }
                None => match group.sides().last().filter(|_| self.streams) {
                    Some(side) => {
                        let others = group.sides().count() - 1;
                        let now = self.gathered(group, clock, ready, others).start();
                        clock.later(group.offered(side, ready), now)
                    }
                    None => self.gathered(group, clock, ready, 2).start(),
                },
            };
            (wave, from) = (Some(on), group.root);
        }
        let root = self.groups[self.root_group].root;
        wave.map(|path| path.fly(from.abs_diff(root), 1))
    }

    /// The closed form of [`Tree::group_sum`].
    pub fn group_comm(&self, elements: Len) -> CommShape {
        if self.groups.len() == 1 {
            return self.comm(Reach::All, elements);
        }
        let clock = self.clock(elements);
        let paths = self.groups.iter().map(|group| {
            let sum = self.gathered(group, clock, &|_| 0, 2);
            sum.start()
                .payload()
                .fly(group.members(Side::Before).max(group.members(Side::After)), 1)
        });
        let longest = paths.reduce(|a, b| clock.later(b, a)).unwrap_or_default();
        let axis = if self.line.axis == Axis::X { "x" } else { "y" };
        let kind = format!("sum in groups of {} {axis}", self.even);
        CommShape { kind, ..self.shape(longest, Reach::All, elements) }
    }
}

impl Group {
    /// Until the first wavelet of a side stands before the root.
    fn offered(&self, side: Side, ready: &impl Fn(u32) -> u32) -> Path {
        let n = self.members(side);
        let end = match side {
            Side::Before => self.first,
            Side::After => self.end - 1,
        };
        Path::default().fly(ready(end), 0).start().fly(n, n)
    }
}
