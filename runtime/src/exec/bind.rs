//! Where everything lies: slots of the arena for the largest step, extents for the current one.
//!
//! The arena is laid out once for the largest step a session will make; slots do not overlap, and
//! buffers of one slot are never live together (the compiler's promise, checked when it plans).

use std::ops::Range;

use crate::program::{Bindings, MAX_RANK, Program};

/// Slots start at multiples of 16 elements: one cache line, one register.
const SLOT_ALIGN: usize = 16;

/// Extents of a buffer in the current step.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Shape {
    rank: usize,
    dims: [usize; MAX_RANK],
}

impl Shape {
    pub(super) fn as_slice(&self) -> &[usize] {
        &self.dims[..self.rank]
    }

    pub(super) fn push(&mut self, extent: usize) {
        self.dims[self.rank] = extent;
        self.rank += 1;
    }
}

/// Places and extents of all buffers.
#[derive(Clone, Debug, Default)]
pub(super) struct Bound {
    /// First element of each slot.
    slots: Vec<usize>,
    /// Elements of the arena.
    pub(super) arena_len: usize,
    /// The largest step the arena is laid out for.
    pub(super) largest: Option<Bindings>,
    /// Elements of each buffer in the current step.
    pub(super) ranges: Vec<Range<usize>>,
    /// Extents of each buffer in the current step.
    pub(super) shapes: Vec<Shape>,
    /// The current step.
    pub(super) now: Option<Bindings>,
}

impl Bound {
    /// Lays out the arena for steps up to `largest`; `None` when a size overflows.
    pub(super) fn new(program: &Program, largest: Bindings) -> Option<Bound> {
        let mut bound = Bound { largest: Some(largest), ..Bound::default() };
        for sizes in &program.slots {
            let mut len = 0;
            for size in sizes {
                len = len.max(size.upper_bound(&largest)?);
            }
            bound.slots.push(bound.arena_len);
            bound.arena_len =
                bound.arena_len.checked_add(len)?.checked_next_multiple_of(SLOT_ALIGN)?;
        }
        bound.ranges = vec![0..0; program.buffers.len()];
        bound.shapes = vec![Shape::default(); program.buffers.len()];
        Some(bound)
    }

    /// Whether a step of this size fits the layout.
    pub(super) fn fits(&self, step: &Bindings) -> bool {
        self.largest.is_some_and(|l| step.t <= l.t && step.c <= l.c && step.r <= l.r)
    }

    /// Works out places and extents for a step; `None` when a size has no value or leaves the arena.
    pub(super) fn bind(&mut self, program: &Program, step: Bindings) -> Option<()> {
        for (i, buffer) in program.buffers.iter().enumerate() {
            let mut shape = Shape::default();
            let mut len = 1usize;
            for dim in &buffer.dims {
                let extent = dim.eval(&step)?;
                shape.push(extent);
                len = len.checked_mul(extent)?;
            }
            let start = self.slots[buffer.slot as usize].checked_add(buffer.offset.eval(&step)?)?;
            let end = start.checked_add(len).filter(|&end| end <= self.arena_len)?;
            self.ranges[i] = start..end;
            self.shapes[i] = shape;
        }
        self.now = Some(step);
        Some(())
    }
}
