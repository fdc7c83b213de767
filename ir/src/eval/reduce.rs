//! The ops that sum: matmul, reductions, softmax, RMS norm and attention.
//!
//! Every sum starts at zero and runs over its index in ascending order, in the precision of
//! [`Accumulate`], and is rounded to f32 once. The order depends on nothing but that index.
//! `attention` is, bit for bit, the composition of matmul, scale, mask, softmax and matmul.

use std::ops::{Add, AddAssign, Div, Mul, Sub};

use super::Accumulate;
use super::array::Array;
use crate::{Real, ReduceOp};

/// A precision to accumulate in.
trait Sum:
    Copy
    + From<f32>
    + Add<Output = Self>
    + AddAssign
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
{
    /// This value as f32.
    fn narrow(self) -> f32;
    /// e^self
    fn exp(self) -> Self;
    /// sqrt(self)
    fn sqrt(self) -> Self;
    /// `value` in this precision.
    fn of(value: f64) -> Self;
}

impl Sum for f32 {
    fn narrow(self) -> f32 {
        self
    }
    fn exp(self) -> f32 {
        f64::from(self).exp() as f32
    }
    fn sqrt(self) -> f32 {
        self.sqrt()
    }
    fn of(value: f64) -> f32 {
        value as f32
    }
}

impl Sum for f64 {
    fn narrow(self) -> f32 {
        self as f32
    }
    fn exp(self) -> f64 {
        self.exp()
    }
    fn sqrt(self) -> f64 {
        self.sqrt()
    }
    fn of(value: f64) -> f64 {
        value
    }
}

/// a[..., M, K] x b[..., K, N]; leading axes equal or absent in one.
pub(super) fn matmul(a: &Array, b: &Array, shape: &[usize], accumulate: Accumulate) -> Array {
    let (rank_a, rank_b) = (a.shape.len(), b.shape.len());
    let (m, k, n) = (a.shape[rank_a - 2], a.shape[rank_a - 1], b.shape[rank_b - 1]);
    let batches: usize = shape[..shape.len() - 2].iter().product();
    let (x, y) = (a.f32(), b.f32());
    let mut out = Vec::with_capacity(shape.iter().product());
    for batch in 0..batches {
        let part = |rank: usize, size: usize| if rank == 2 { 0 } else { batch * size };
        let x = &x[part(rank_a, m * k)..][..m * k];
        let y = &y[part(rank_b, k * n)..][..k * n];
        match accumulate {
            Accumulate::F32 => product::<f32>(x, y, [m, k, n], &mut out),
            Accumulate::F64 => product::<f64>(x, y, [m, k, n], &mut out),
        }
    }
    Array::new(shape, out)
}

/// One matrix product, row by row; the inner loop runs along the rows of `y` to be kind to caches.
fn product<S: Sum>(x: &[f32], y: &[f32], [m, k, n]: [usize; 3], out: &mut Vec<f32>) {
    for i in 0..m {
        let mut sums = vec![S::of(0.0); n];
        for j in 0..k {
            let factor = S::from(x[i * k + j]);
            for (sum, &value) in sums.iter_mut().zip(&y[j * n..][..n]) {
                *sum += factor * S::from(value);
            }
        }
        out.extend(sums.into_iter().map(S::narrow));
    }
}

/// Sum, maximum or mean along one axis. Over no element: 0, -inf and NaN.
pub(super) fn reduce(
    op: ReduceOp,
    x: &Array,
    axis: usize,
    shape: &[usize],
    accumulate: Accumulate,
) -> Array {
    let extent = x.shape[axis];
    let inner: usize = x.shape[axis + 1..].iter().product();
    let outer: usize = x.shape[..axis].iter().product();
    let values = x.f32();
    let mut out = Vec::with_capacity(outer * inner);
    for i in 0..outer {
        for j in 0..inner {
            let along = (0..extent).map(|e| values[(i * extent + e) * inner + j]);
            out.push(match (op, accumulate) {
                (ReduceOp::Max, _) => along.fold(f32::NEG_INFINITY, larger),
                (ReduceOp::Sum, Accumulate::F32) => sum::<f32>(along).narrow(),
                (ReduceOp::Sum, Accumulate::F64) => sum::<f64>(along).narrow(),
                (ReduceOp::Mean, Accumulate::F32) => sum::<f32>(along) / extent as f32,
                (ReduceOp::Mean, Accumulate::F64) => (sum::<f64>(along) / extent as f64).narrow(),
            });
        }
    }
    Array::new(shape, out)
}

fn sum<S: Sum>(values: impl Iterator<Item = f32>) -> S {
    let mut sum = S::of(0.0);
    for value in values {
        sum += S::from(value);
    }
    sum
}

/// The maximum; NaN if either is.
fn larger(a: f32, b: f32) -> f32 {
    if a.is_nan() || a > b { a } else { b }
}

/// Softmax along the last axis: `e^(x - max) / sum`. A row of only -inf (nothing to attend to)
/// gives zeros, not NaN.
pub(super) fn softmax(x: &Array, accumulate: Accumulate) -> Array {
    let mut values = x.f32().to_vec();
    let width = x.shape.last().copied().unwrap_or(1);
    for row in values.chunks_exact_mut(width.max(1)) {
        softmax_row(row, accumulate);
    }
    Array::new(&x.shape, values)
}

fn softmax_row(row: &mut [f32], accumulate: Accumulate) {
    match accumulate {
        Accumulate::F32 => softmax_row_in::<f32>(row),
        Accumulate::F64 => softmax_row_in::<f64>(row),
    }
}

fn softmax_row_in<S: Sum>(row: &mut [f32]) {
    if row.iter().all(|&v| v == f32::NEG_INFINITY) {
        return row.fill(0.0);
    }
    let max = row.iter().copied().fold(f32::NEG_INFINITY, larger);
    let powers: Vec<S> = row.iter().map(|&v| (S::from(v) - S::from(max)).exp()).collect();
    let mut total = S::of(0.0);
    for &power in &powers {
        total += power;
    }
    for (value, power) in row.iter_mut().zip(powers) {
        *value = (power / total).narrow();
    }
}

/// x / sqrt(mean(x^2) + eps) along the last axis, rounded, then times `gain`.
pub(super) fn rms_norm(
    x: &Array,
    gain: Option<&Array>,
    eps: Real,
    accumulate: Accumulate,
) -> Array {
    let width = x.shape.last().copied().unwrap_or(1);
    let mut values = x.f32().to_vec();
    let gain = gain.map(Array::f32);
    for row in values.chunks_exact_mut(width.max(1)) {
        match accumulate {
            Accumulate::F32 => normalize::<f32>(row, eps),
            Accumulate::F64 => normalize::<f64>(row, eps),
        }
        if let Some(gain) = &gain {
            row.iter_mut().zip(gain.iter()).for_each(|(v, g)| *v *= g);
        }
    }
    Array::new(&x.shape, values)
}

fn normalize<S: Sum>(row: &mut [f32], eps: Real) {
    let mut squares = S::of(0.0);
    for &v in &*row {
        squares += S::from(v) * S::from(v);
    }
    let root = (squares / S::of(row.len() as f64) + S::of(eps.get())).sqrt();
    let scale = S::of(1.0) / root;
    row.iter_mut().for_each(|v| *v = (S::from(*v) * scale).narrow());
}

/// Whether the query at `position` sees key `key`.
pub(super) fn sees(position: usize, key: usize, window: Option<usize>) -> bool {
    key <= position && window.is_none_or(|w| position - key < w)
}

/// q[T, H, D], k[S, G, D], v[S, G, E] -> [T, H, E]; the first query stands at position S - T.
pub(super) fn attention(
    q: &Array,
    k: &Array,
    v: &Array,
    (scale, window): (Real, Option<usize>),
    accumulate: Accumulate,
) -> Array {
    let [t, h, d] = [q.shape[0], q.shape[1], q.shape[2]];
    let [s, g, e] = [k.shape[0], k.shape[1], v.shape[2]];
    let (q, k, v) = (q.f32(), k.f32(), v.f32());
    let scale = scale.get() as f32;
    let mut out = Vec::with_capacity(t * h * e);
    for i in 0..t {
        for head in 0..h {
            let group = head / (h / g.max(1)).max(1);
            let query = &q[(i * h + head) * d..][..d];
            let mut row: Vec<f32> = (0..s)
                .map(|j| {
                    let key = &k[(j * g + group) * d..][..d];
                    let score = scale * dot(query, key, accumulate);
                    score + if sees(s - t + i, j, window) { 0.0 } else { f32::NEG_INFINITY }
                })
                .collect();
            softmax_row(&mut row, accumulate);
            let value = |j: usize| &v[(j * g + group) * e..][..e];
            match accumulate {
                Accumulate::F32 => mix::<f32>(&row, value, e, &mut out),
                Accumulate::F64 => mix::<f64>(&row, value, e, &mut out),
            }
        }
    }
    Array::new(&[t, h, e], out)
}

fn dot(a: &[f32], b: &[f32], accumulate: Accumulate) -> f32 {
    fn run<S: Sum>(a: &[f32], b: &[f32]) -> f32 {
        let mut sum = S::of(0.0);
        for (&x, &y) in a.iter().zip(b) {
            sum += S::from(x) * S::from(y);
        }
        sum.narrow()
    }
    match accumulate {
        Accumulate::F32 => run::<f32>(a, b),
        Accumulate::F64 => run::<f64>(a, b),
    }
}

/// Sum of `weights[j] * value(j)`.
fn mix<'a, S: Sum>(
    weights: &[f32],
    value: impl Fn(usize) -> &'a [f32],
    width: usize,
    out: &mut Vec<f32>,
) {
    let mut sums = vec![S::of(0.0); width];
    for (j, &weight) in weights.iter().enumerate() {
        let weight = S::from(weight);
        for (sum, &x) in sums.iter_mut().zip(value(j)) {
            *sum += weight * S::from(x);
        }
    }
    out.extend(sums.into_iter().map(S::narrow));
}
