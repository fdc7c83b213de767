//! Moving elements between index spaces: strided copies and the walk over broadcast operands.

use crate::program::MAX_RANK;

/// Offsets of `N` operands for every index of a row-major space, in order.
pub struct Walk<const N: usize> {
    dims: [usize; MAX_RANK],
    rank: usize,
    strides: [[usize; MAX_RANK]; N],
    index: [usize; MAX_RANK],
    offsets: [usize; N],
    left: usize,
}

impl<const N: usize> Walk<N> {
    /// A walk over `dims` (at most `MAX_RANK` axes) with a stride per operand and axis.
    pub fn new(dims: &[usize], strides: [[usize; MAX_RANK]; N]) -> Self {
        let mut all = [1; MAX_RANK];
        all[..dims.len()].copy_from_slice(dims);
        Walk {
            dims: all,
            rank: dims.len(),
            strides,
            index: [0; MAX_RANK],
            offsets: [0; N],
            left: dims.iter().product(),
        }
    }
}

impl<const N: usize> Iterator for Walk<N> {
    type Item = [usize; N];

    fn next(&mut self) -> Option<[usize; N]> {
        self.left = self.left.checked_sub(1)?;
        let now = self.offsets;
        for axis in (0..self.rank).rev() {
            self.index[axis] += 1;
            for (offset, strides) in self.offsets.iter_mut().zip(&self.strides) {
                *offset += strides[axis];
            }
            if self.index[axis] < self.dims[axis] {
                break;
            }
            for (offset, strides) in self.offsets.iter_mut().zip(&self.strides) {
                *offset -= strides[axis] * self.dims[axis];
            }
            self.index[axis] = 0;
        }
        Some(now)
    }
}

/// Strides that read `from` as `to`: shapes aligned at the last axis, extents of 1 repeated.
pub fn broadcast_strides(from: &[usize], to: &[usize]) -> [usize; MAX_RANK] {
    let mut strides = [0; MAX_RANK];
    let mut step = 1;
    for (i, &extent) in from.iter().enumerate().rev() {
        if extent != 1 {
            strides[i + to.len() - from.len()] = step;
        }
        step *= extent;
    }
    strides
}

/// A strided copy with its sizes worked out.
#[derive(Clone, Copy, Debug)]
pub struct Copy<'a> {
    /// Extents.
    pub dims: &'a [usize],
    /// First element read.
    pub src_offset: usize,
    /// Source strides.
    pub src_strides: [usize; MAX_RANK],
    /// First element written.
    pub dst_offset: usize,
    /// Target strides.
    pub dst_strides: [usize; MAX_RANK],
}

/// `out[dst(index)] = x[src(index)]` for every index; rows of adjacent elements are copied whole.
pub fn copy(plan: &Copy<'_>, x: &[f32], out: &mut [f32]) {
    let Some((&run, outer)) = plan.dims.split_last() else {
        out[plan.dst_offset] = x[plan.src_offset];
        return;
    };
    let last = outer.len();
    let (from_step, to_step) = (plan.src_strides[last], plan.dst_strides[last]);
    for [from, to] in Walk::new(outer, [plan.src_strides, plan.dst_strides]) {
        let (from, to) = (from + plan.src_offset, to + plan.dst_offset);
        if from_step == 1 && to_step == 1 {
            out[to..to + run].copy_from_slice(&x[from..from + run]);
        } else {
            for i in 0..run {
                out[to + i * to_step] = x[from + i * from_step];
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transposes_and_repeats() {
        let x: Vec<f32> = (0..6).map(|i| i as f32).collect();
        let mut plan = Copy {
            dims: &[3, 2],
            src_offset: 0,
            src_strides: [0; MAX_RANK],
            dst_offset: 0,
            dst_strides: [0; MAX_RANK],
        };
        plan.src_strides[..2].copy_from_slice(&[1, 3]);
        plan.dst_strides[..2].copy_from_slice(&[2, 1]);
        let mut out = vec![0.0; 6];
        copy(&plan, &x, &mut out);
        assert_eq!(out, [0.0, 3.0, 1.0, 4.0, 2.0, 5.0]);
        plan.src_strides[..2].copy_from_slice(&[0, 1]);
        plan.src_offset = 4;
        copy(&plan, &x, &mut out);
        assert_eq!(out, [4.0, 5.0, 4.0, 5.0, 4.0, 5.0]);
        let strides = broadcast_strides(&[3, 1], &[2, 3, 4]);
        assert_eq!(strides[..3], [0, 1, 0]);
    }
}
