//! Whether the rows of a step are apart: each row of every value depends on the same row of what it
//! was computed from, and on other rows through KV caches alone.
//!
//! Then rows of several sequences can share a step. Decoders with fused attention are of this kind.
//! The judgement may be too strict (what it does not know is not apart), never too lax: sizes with C,
//! rows that are not the first axis, and ops across rows are refused.

use super::{BufferId, Call, Op, Operand, Program, Size, Step, StridedCopy};

/// What the first axis of a value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Axis {
    /// The rows of the step.
    Rows,
    /// Its last rows, which get logits.
    LastRows,
    /// Neither: the value is the same for all rows.
    Constant,
}

/// A size `constant + t T + r R`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Linear {
    constant: i64,
    t: i64,
    r: i64,
}

fn linear(size: &Size) -> Option<Linear> {
    let mut sum = Linear::default();
    for (exponents, coefficient) in &size.0 {
        match exponents {
            [0, 0, 0] => sum.constant += coefficient,
            [1, 0, 0] => sum.t += coefficient,
            [0, 0, 1] => sum.r += coefficient,
            _ => return None,
        }
    }
    Some(sum)
}

fn constant(size: &Size) -> Option<i64> {
    let found = linear(size)?;
    (found.t == 0 && found.r == 0).then_some(found.constant)
}

/// The product of constant extents.
fn width(dims: &[Size]) -> Option<i64> {
    dims.iter().try_fold(1i64, |n, dim| n.checked_mul(constant(dim)?))
}

impl Program {
    /// Whether rows of several sequences may share a step.
    pub fn rows_are_apart(&self) -> bool {
        let calls = self.steps.iter().flat_map(|step| match step {
            Step::Call(call) => std::slice::from_ref(call),
            Step::Repeat(repeat) => repeat.calls.as_slice(),
        });
        let calls: Vec<&Call> = calls.collect();
        let mut written = vec![false; self.buffers.len()];
        written[self.tokens as usize] = true;
        for call in calls.iter().filter(|c| !matches!(c.op, Op::CacheAppend { .. })) {
            written[call.out as usize] = true;
        }
        let axes: Vec<Option<Axis>> =
            (0..self.buffers.len()).map(|i| self.axis(i, written[i])).collect();
        let ends = axes[self.tokens as usize] == Some(Axis::Rows)
            && axes[self.logits as usize] == Some(Axis::LastRows);
        ends && calls.into_iter().all(|call| self.call_is_apart(call, &axes).unwrap_or(false))
    }

    /// The first axis of a buffer; `None` where it is anything else.
    fn axis(&self, buffer: usize, written: bool) -> Option<Axis> {
        let buffer = &self.buffers[buffer];
        let offset = linear(&buffer.offset)?;
        let own = offset == Linear::default();
        let (first, rest) = match buffer.dims.split_first() {
            Some((first, rest)) => (linear(first)?, width(rest)?),
            None => (Linear { constant: 1, ..Linear::default() }, 1),
        };
        match first {
            Linear { constant: 0, t: 1, r: 0 } => own.then_some(Axis::Rows),
            Linear { constant: 0, t: 0, r: 1 } => {
                let last = Linear { constant: 0, t: rest, r: -rest };
                // A view at the start could be of the first rows of another value.
                (offset == last || own && written).then_some(Axis::LastRows)
            }
            // The same: a view could be of some rows.
            Linear { t: 0, r: 0, .. } => (own && written).then_some(Axis::Constant),
            _ => None,
        }
    }

    fn call_is_apart(&self, call: &Call, axes: &[Option<Axis>]) -> Option<bool> {
        let axis = |id: BufferId| axes[id as usize];
        let rank = |id: BufferId| self.buffers[id as usize].dims.len();
        let mut operands = Vec::new();
        for operand in &call.operands {
            operands.push(match operand {
                Operand::Buffer(id) => axis(*id)?,
                _ => Axis::Constant,
            });
        }
        let caches = |n: usize| matches!(call.operands.get(n), Some(Operand::Cache(_)));
        let out = axis(call.out)?;
        if let Op::CacheAppend { at, .. } = &call.op {
            let behind = at.0 == [([0, 1, 0], 1)];
            return Some(behind && operands == [Axis::Rows]);
        }
        // A row of the result comes from the same row of each operand that has rows.
        if !operands.iter().all(|&x| x == out || x == Axis::Constant) {
            return Some(false);
        }
        let same_rank = call.operands.iter().all(|operand| match operand {
            Operand::Buffer(id) => axis(*id) == Some(Axis::Constant) || rank(*id) == rank(call.out),
            _ => true,
        });
        let has_rows = out != Axis::Constant;
        // Ops along the last axis must not go along the rows.
        let inner = !has_rows || rank(call.out) > 1;
        Some(match &call.op {
            Op::CausalMask { .. } | Op::CacheRead | Op::CacheAppend { .. } => false,
            Op::Positions | Op::Unary(_) | Op::Glu(_) => true,
            Op::Gather { .. } | Op::Rope { .. } => true,
            Op::Binary(_) => same_rank,
            Op::Round(dtype) => inner || dtype.is_float(),
            Op::Softmax | Op::RmsNorm { .. } | Op::Linear { .. } => inner,
            Op::Reduce { axis, .. } => !has_rows || *axis > 0,
            Op::Matmul => operands.get(1) == Some(&Axis::Constant) && same_rank,
            Op::GatherPlain => operands.first() == Some(&Axis::Constant),
            Op::Attention { .. } => out == Axis::Rows && caches(1) && caches(2),
            Op::Copy(copy) => {
                let source = match call.operands.first() {
                    Some(Operand::Buffer(id)) if operands[0] != Axis::Constant => Some(*id),
                    _ => None,
                };
                self.copy_is_apart(copy, source, has_rows.then_some(call.out))?
            }
        })
    }

    /// Whether a copy keeps elements in their row; a source or result without rows is `None`.
    fn copy_is_apart(
        &self,
        copy: &StridedCopy,
        source: Option<BufferId>,
        out: Option<BufferId>,
    ) -> Option<bool> {
        let Some(out) = out else { return Some(source.is_none()) };
        let (src_offset, dst_offset) = (constant(&copy.src_offset)?, constant(&copy.dst_offset)?);
        let row = |id: BufferId| width(self.buffers[id as usize].dims.get(1..)?);
        let whole = [Size::constant(1)];
        if let ([_], Some(source)) = (copy.dims.as_slice(), source)
            && copy.src_strides == whole
            && copy.dst_strides == whole
        {
            // All elements in order.
            return Some(src_offset == 0 && dst_offset == 0 && row(source)? == row(out)?);
        }
        let (first, inner) = copy.dims.split_first()?;
        if linear(first)? != linear(self.buffers[out as usize].dims.first()?)? {
            return Some(false);
        }
        // From row to row by a stride, and within the row by the other strides.
        let within = |offset: i64, strides: &[Size], row: Option<i64>| -> Option<bool> {
            let (step, strides) = strides.split_first()?;
            let Some(row) = row else { return Some(constant(step)? == 0) };
            let mut last = offset;
            for (dim, stride) in inner.iter().zip(strides) {
                last += (constant(dim)? - 1).max(0).checked_mul(constant(stride)?)?;
            }
            Some(constant(step)? == row && last < row)
        };
        let source = source.map(row);
        let from = match source {
            Some(row) => within(src_offset, &copy.src_strides, Some(row?))?,
            None => within(src_offset, &copy.src_strides, None)?,
        };
        Some(from && within(dst_offset, &copy.dst_strides, Some(row(out)?))?)
    }
}
