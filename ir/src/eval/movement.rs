//! Reshape, transpose, slice, concat, broadcast and gather: which elements go where.
//!
//! A movement is a sequence of runs of consecutive units of its operands. A unit is an element, or
//! a whole group of a quantised tensor, so the same sequence moves f32 values and stored bytes.

use tensor::Tensor;

use super::EvalError;
use super::array::{Array, Data};

/// `(operand, first unit, units)`.
type Run = (usize, usize, usize);

/// The same elements under another shape.
pub(super) fn reshape(x: &Array, shape: &[usize]) -> Array {
    Array { shape: shape.to_vec(), data: x.data.clone() }
}

/// Axes permuted: result axis i is operand axis `perm[i]`.
pub(super) fn transpose(x: &Array, perm: &[usize], shape: &[usize]) -> Array {
    let keeps_last = perm.last().is_none_or(|&p| p + 1 == perm.len());
    moved(&[x], shape, keeps_last, |units, emit| {
        let strides = strides(units);
        let strides: Vec<usize> = perm.iter().map(|&p| strides[p]).collect();
        let extents: Vec<usize> = perm.iter().map(|&p| units[p]).collect();
        strided(&extents, &strides, emit);
    })
}

/// Axes of extent 1 repeated.
pub(super) fn broadcast(x: &Array, shape: &[usize]) -> Array {
    let keeps_last = x.shape.last() == shape.last();
    moved(&[x], shape, keeps_last, |units, emit| {
        let mut strides = strides(units);
        let mut extents = shape.to_vec();
        if let (Some(last), Some(&unit_last)) = (extents.last_mut(), units.last())
            && keeps_last
        {
            *last = unit_last;
        }
        for (stride, (&unit, &extent)) in strides.iter_mut().zip(units.iter().zip(&extents)) {
            if unit == 1 && extent != 1 {
                *stride = 0;
            }
        }
        strided(&extents, &strides, emit);
    })
}

/// Elements `start..start + n` of `axis`, n being the result's extent.
pub(super) fn slice(x: &Array, axis: usize, start: usize, shape: &[usize]) -> Array {
    let group = group_of(x);
    let last = axis + 1 == shape.len();
    let whole_groups = !last || (start.is_multiple_of(group) && shape[axis].is_multiple_of(group));
    moved(&[x], shape, whole_groups, |units, emit| {
        // A unit of the last axis is `scale` elements.
        let scale = if last { x.shape[axis] / units[axis].max(1) } else { 1 };
        let inner: usize = units[axis + 1..].iter().product();
        let outer: usize = units[..axis].iter().product();
        let (start, len) = (start / scale.max(1), shape[axis] / scale.max(1));
        for i in 0..outer {
            emit((0, (i * units[axis] + start) * inner, len * inner));
        }
    })
}

/// Operands one after the other along `axis`.
pub(super) fn concat(x: &[Array], axis: usize, shape: &[usize]) -> Array {
    let operands: Vec<&Array> = x.iter().collect();
    let same = operands.iter().all(|a| matches!(a.data, Data::Stored(_)));
    moved(&operands, shape, same, |units, emit| {
        // Only the last axis counts in groups, and by the same factor in every operand.
        let scale = if axis + 1 == shape.len() { x[0].shape[axis] / units[axis].max(1) } else { 1 };
        let inner: usize = units[axis + 1..].iter().product();
        let outer: usize = units[..axis].iter().product();
        for i in 0..outer {
            for (operand, a) in x.iter().enumerate() {
                let len = a.shape[axis] / scale.max(1) * inner;
                emit((operand, i * len, len));
            }
        }
    })
}

/// Rows of a table, widened to f32.
pub(super) fn gather(table: &Array, ids: &Array, shape: &[usize]) -> Result<Array, EvalError> {
    let (rows, width) = (table.shape[0], table.shape[1]);
    let values = table.f32();
    let mut out = Vec::with_capacity(ids.len() * width);
    for id in ids.i32() {
        let row = usize::try_from(id).ok().filter(|&row| row < rows);
        let row = row.ok_or(EvalError::Id { id: i64::from(id), rows })?;
        out.extend_from_slice(&values[row * width..][..width]);
    }
    Ok(Array::new(shape, out))
}

/// Elements per unit of the last axis.
fn group_of(x: &Array) -> usize {
    match &x.data {
        Data::F32(_) => 1,
        Data::Stored(t) => t.dtype().block_len(),
    }
}

/// Applies the movement that `runs` emits, given the first operand's shape in units. Stored bytes
/// stay stored unless they are quantised and `keeps_groups` is false.
fn moved(
    x: &[&Array],
    shape: &[usize],
    keeps_groups: bool,
    runs: impl Fn(&[usize], &mut dyn FnMut(Run)),
) -> Array {
    let stored: Option<Vec<&Tensor>> = x
        .iter()
        .map(|a| match &a.data {
            Data::Stored(t) if keeps_groups || !t.dtype().is_quantized() => Some(t),
            _ => None,
        })
        .collect();
    let mut units = x[0].shape.clone();
    let Some(stored) = stored else {
        let values: Vec<_> = x.iter().map(|a| a.f32()).collect();
        let mut out = Vec::with_capacity(shape.iter().product());
        runs(&units, &mut |(operand, start, len)| {
            out.extend_from_slice(&values[operand][start..start + len]);
        });
        return Array::new(shape, out);
    };
    let dtype = stored[0].dtype();
    if let Some(last) = units.last_mut() {
        *last /= dtype.block_len();
    }
    let size = dtype.block_bytes();
    let mut out = Vec::with_capacity(shape.iter().product::<usize>() / dtype.block_len() * size);
    runs(&units, &mut |(operand, start, len)| {
        out.extend_from_slice(&stored[operand].bytes()[start * size..(start + len) * size]);
    });
    match Tensor::new(dtype, shape.to_vec(), out.into()) {
        Ok(tensor) => Array::stored(tensor),
        // Whole units fill the result's shape, so its bytes are as many as its type asks for.
        Err(error) => unreachable!("movement of whole units: {error}"),
    }
}

/// Row-major strides.
pub(super) fn strides(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![1; shape.len()];
    for i in (1..shape.len()).rev() {
        strides[i - 1] = strides[i] * shape[i];
    }
    strides
}

/// Runs of an array read through `strides`, joined along the last axis where that is contiguous.
pub(super) fn strided(extents: &[usize], strides: &[usize], emit: &mut dyn FnMut(Run)) {
    let total: usize = extents.iter().product();
    if total == 0 {
        return;
    }
    let contiguous = strides.last() == Some(&1);
    let len = if contiguous { extents[extents.len() - 1] } else { 1 };
    let counted = extents.len() - usize::from(contiguous);
    let mut index = vec![0; counted];
    let mut offset = 0;
    for _ in 0..total / len {
        emit((0, offset, len));
        for axis in (0..counted).rev() {
            index[axis] += 1;
            offset += strides[axis];
            if index[axis] < extents[axis] {
                break;
            }
            offset -= strides[axis] * extents[axis];
            index[axis] = 0;
        }
    }
}
