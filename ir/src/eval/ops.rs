//! One op applied to arrays: the interpreter's table of meanings.
//!
//! In: operands of verified types and the result's shape in this step. `repeat` and the cache ops
//! are not here: they move state, which `frame` owns.

use tensor::Tensor;

use super::array::Array;
use super::{Accumulate, EvalError, math, movement, reduce};
use crate::{Bindings, Dim, Op, RopeSpec};

/// What an op may know besides its operands.
#[derive(Clone, Copy, Debug)]
pub(super) struct Step {
    pub(super) bindings: Bindings,
    pub(super) accumulate: Accumulate,
}

impl Step {
    /// The extent of `dim` in this step.
    pub(super) fn extent(&self, dim: &Dim) -> Result<usize, EvalError> {
        let Bindings { t, c, r } = self.bindings;
        dim.eval(&self.bindings).ok_or_else(|| EvalError::Extent { dim: dim.clone(), t, c, r })
    }

    /// The extents of `dims` in this step.
    pub(super) fn shape(&self, dims: &[Dim]) -> Result<Vec<usize>, EvalError> {
        dims.iter().map(|d| self.extent(d)).collect()
    }
}

/// The value of `op` on operands `x`, which has `shape`.
///
/// Weights, caches and blocks are the caller's; `Err(Malformed)` never arises for verified graphs.
pub(super) fn apply(
    op: &Op,
    x: &[Array],
    shape: &[usize],
    step: &Step,
) -> Result<Array, EvalError> {
    // Nothing to compute, however many empty rows there are. (A gather still checks its ids.)
    if shape.contains(&0) && *op != Op::Gather {
        return Ok(Array::new(shape, vec![]));
    }
    let acc = step.accumulate;
    let why = |why: String| EvalError::Malformed { graph: String::new(), why };
    Ok(match op {
        Op::Const(value) => Array::new(shape, vec![value.get() as f32]),
        Op::Positions => positions(step),
        Op::CausalMask { window } => causal_mask(*window, shape, step),
        Op::Unary(f) => Array::new(shape, x[0].f32().iter().map(|&v| math::unary(*f, v)).collect()),
        Op::Binary(f) => binary(&x[0], &x[1], shape, |a, b| math::binary(*f, a, b)),
        Op::Cast(dtype) | Op::Quantize(dtype) => x[0].cast(*dtype).map_err(why)?,
        Op::Matmul => reduce::matmul(&x[0], &x[1], shape, acc),
        Op::Reduce { op, axis } => reduce::reduce(*op, &x[0], *axis, shape, acc),
        Op::Softmax => reduce::softmax(&x[0], acc),
        Op::RmsNorm { eps } => reduce::rms_norm(&x[0], x.get(1), *eps, acc),
        Op::Reshape(_) => movement::reshape(&x[0], shape),
        Op::Transpose(perm) => movement::transpose(&x[0], perm, shape),
        Op::Slice { axis, start, .. } => slice(&x[0], *axis, start, shape, step)?,
        Op::Concat { axis } => movement::concat(x, *axis, shape),
        Op::Broadcast(_) => movement::broadcast(&x[0], shape),
        Op::Gather => movement::gather(&x[0], &x[1], shape)?,
        Op::Rope(spec) => rope(spec, &x[0], &x[1], step),
        Op::Attention { scale, window } => {
            reduce::attention(&x[0], &x[1], &x[2], (*scale, *window), acc)
        }
        Op::Glu(act) => binary(&x[0], &x[1], shape, |g, u| math::activation(*act, g) * u),
        Op::Weight { .. } | Op::CacheAppend | Op::CacheRead | Op::Repeat { .. } => {
            return Err(why(format!("{} is not a function of arrays", op.info().name)));
        }
    })
}

fn positions(step: &Step) -> Array {
    let Bindings { t, c, .. } = step.bindings;
    // A session checks C + T against the context, which fits: verify bounds it by i32::MAX.
    let values: Vec<i32> = (c..c + t).map(|p| i32::try_from(p).unwrap_or(i32::MAX)).collect();
    Array::stored(Tensor::from_i32(vec![t], &values))
}

fn causal_mask(window: Option<usize>, shape: &[usize], step: &Step) -> Array {
    let Bindings { t, c, .. } = step.bindings;
    let row = |i: usize| {
        let sees = move |j| reduce::sees(c + i, j, window);
        (0..c + t).map(move |j| if sees(j) { 0.0 } else { f32::NEG_INFINITY })
    };
    Array::new(shape, (0..t).flat_map(row).collect())
}

/// Elementwise with broadcasting: shapes align at the last axis, extent 1 stretches.
fn binary(a: &Array, b: &Array, shape: &[usize], f: impl Fn(f32, f32) -> f32) -> Array {
    let stretched = |x: &Array| {
        let mut padded = vec![1; shape.len() - x.shape.len()];
        padded.extend(&x.shape);
        if padded == shape {
            return x.f32();
        }
        movement::broadcast(&movement::reshape(x, &padded), shape).f32()
    };
    let (a, b) = (stretched(a), stretched(b));
    Array::new(shape, a.iter().zip(b.iter()).map(|(&a, &b)| f(a, b)).collect())
}

fn slice(
    x: &Array,
    axis: usize,
    start: &Dim,
    shape: &[usize],
    step: &Step,
) -> Result<Array, EvalError> {
    let start = step.extent(start)?;
    if start.checked_add(shape[axis]).is_none_or(|end| end > x.shape[axis]) {
        let why = format!("{start} + {} is beyond the extent {}", shape[axis], x.shape[axis]);
        return Err(EvalError::Malformed { graph: String::new(), why });
    }
    Ok(movement::slice(x, axis, start, shape))
}

/// Rotates pairs (i, i + dim/2) of the first `dim` elements of each head.
fn rope(spec: &RopeSpec, x: &Array, positions: &Array, step: &Step) -> Array {
    let (heads, width) = (x.shape[1], x.shape[2]);
    let frequencies = spec.inverse_frequencies(step.bindings.c + step.bindings.t);
    let half = spec.dim / 2;
    let mut values = x.f32().to_vec();
    let tokens = values.chunks_exact_mut((heads * width).max(1));
    for (token, position) in tokens.zip(positions.i32()) {
        for (i, &frequency) in frequencies.iter().enumerate() {
            let (cos, sin) = spec.rotation(position, frequency);
            for head in token.chunks_exact_mut(width) {
                let (a, b) = (head[i], head[i + half]);
                head[i] = a * cos - b * sin;
                head[i + half] = b * cos + a * sin;
            }
        }
    }
    Array::new(&x.shape, values)
}
