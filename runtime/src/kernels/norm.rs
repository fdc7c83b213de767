//! Root-mean-square norm, softmax and reductions.
//!
//! Sums of a row run in 16 lanes that are added in a fixed tree.

use super::math::exp;
use super::pack::TILE;
use super::portable::tree_sum;
use crate::program::Reduce;

/// The sum of f(x) in 16 lanes and a tree.
#[inline(always)]
fn lane_sum(x: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    let mut lanes = [0.0; TILE];
    let (blocks, tail) = x.as_chunks::<TILE>();
    for block in blocks {
        for (l, &x) in lanes.iter_mut().zip(block) {
            *l += f(x);
        }
    }
    for (l, &x) in lanes.iter_mut().zip(tail) {
        *l += f(x);
    }
    tree_sum(lanes)
}

/// Rows of `width`: `out = x / sqrt(mean(x^2) + eps) * gain`.
#[inline(always)]
pub fn rms_norm(x: &[f32], gain: Option<&[f32]>, eps: f32, width: usize, out: &mut [f32]) {
    for (x, out) in x.chunks_exact(width).zip(out.chunks_exact_mut(width)) {
        let mean = lane_sum(x, |v| v * v) / width as f32;
        let scale = 1.0 / (mean + eps).sqrt();
        match gain {
            Some(gain) => {
                for ((o, x), g) in out.iter_mut().zip(x).zip(gain) {
                    *o = x * scale * g;
                }
            }
            None => {
                for (o, x) in out.iter_mut().zip(x) {
                    *o = x * scale;
                }
            }
        }
    }
}

/// Softmax of one row in place. A row of -inf only becomes NaN, as the formula says.
pub fn softmax(row: &mut [f32]) {
    let max = row.iter().fold(f32::NEG_INFINITY, |m, &v| m.max(v));
    if max == f32::NEG_INFINITY && row.iter().all(|&v| v == max) {
        return row.fill(0.0);
    }
    for v in row.iter_mut() {
        *v = exp(*v - max);
    }
    let sum = lane_sum(row, |v| v);
    for v in row.iter_mut() {
        *v /= sum;
    }
}

/// Reduces the middle axis of `x[outer, len, inner]`, in order.
pub fn reduce(op: Reduce, x: &[f32], len: usize, inner: usize, out: &mut [f32]) {
    for (x, out) in x.chunks_exact(len * inner).zip(out.chunks_exact_mut(inner)) {
        out.copy_from_slice(&x[..inner]);
        for row in x[inner..].chunks_exact(inner) {
            for (o, &v) in out.iter_mut().zip(row) {
                *o = if op == Reduce::Max { larger(*o, v) } else { *o + v };
            }
        }
        if op == Reduce::Mean {
            for o in out {
                *o /= len as f32;
            }
        }
    }
}

/// The maximum; NaN if either is.
#[inline(always)]
fn larger(a: f32, b: f32) -> f32 {
    if a.is_nan() || a > b { a } else { b }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tensor::Rng;

    #[test]
    fn norm_and_softmax_follow_their_formulas() {
        let mut rng = Rng::new(1);
        for width in [1, 5, 16, 63, 100] {
            let x: Vec<f32> = (0..3 * width).map(|_| rng.normal()).collect();
            let gain: Vec<f32> = (0..width).map(|_| rng.normal()).collect();
            let mut out = vec![0.0; x.len()];
            rms_norm(&x, Some(&gain), 1e-5, width, &mut out);
            for (i, o) in out.iter().enumerate() {
                let row = &x[i / width * width..][..width];
                let mean = row.iter().map(|&v| f64::from(v * v)).sum::<f64>() / width as f64;
                let expected = f64::from(x[i] * gain[i % width]) / (mean + 1e-5).sqrt();
                assert!((f64::from(*o) - expected).abs() < 1e-5);
            }
            let mut row = x[..width].to_vec();
            softmax(&mut row);
            let total: f64 = x[..width].iter().map(|&v| f64::from(v).exp()).sum();
            for (p, &v) in row.iter().zip(&x) {
                assert!((f64::from(*p) - f64::from(v).exp() / total).abs() < 1e-6);
            }
        }
    }

    #[test]
    fn masked_keys_get_no_weight() {
        let mut row = [1.0, f32::NEG_INFINITY, 1.0];
        softmax(&mut row);
        assert_eq!(row, [0.5, 0.0, 0.5]);
    }

    #[test]
    fn reductions_take_the_middle_axis() {
        let x: Vec<f32> = (0..12).map(|i| i as f32).collect();
        let mut out = [0.0; 4];
        reduce(Reduce::Sum, &x, 3, 2, &mut out);
        assert_eq!(out, [6.0, 9.0, 24.0, 27.0]);
        reduce(Reduce::Max, &x, 3, 2, &mut out);
        assert_eq!(out, [4.0, 5.0, 10.0, 11.0]);
        reduce(Reduce::Mean, &x, 3, 2, &mut out);
        assert_eq!(out, [2.0, 3.0, 8.0, 9.0]);
    }
}
