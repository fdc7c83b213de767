//! Elementwise functions: unary, binary with broadcasting, gated activations, rounding.

use half::{bf16, f16};
use tensor::quant::GROUP;
use tensor::{DType, quant};

use super::math;
use super::view::{Walk, broadcast_strides};
use crate::program::{Binary, MAX_RANK, Unary};

/// `out[i] = op(x[i])`.
#[inline(always)]
pub fn unary(op: Unary, x: &[f32], out: &mut [f32]) {
    // One loop per function, so that each is vectorised on its own.
    macro_rules! loops {
        ($($name:ident)*) => {
            match op {
                $(Unary::$name => {
                    for (o, &x) in out.iter_mut().zip(x) {
                        *o = math::unary(Unary::$name, x);
                    }
                })*
            }
        };
    }
    loops!(Neg Exp Sqrt Rsqrt Recip Square Tanh Sigmoid Silu Gelu GeluTanh Relu);
}

/// `out[i] = act(gate[i]) * up[i]`.
#[inline(always)]
pub fn glu(act: Unary, gate: &[f32], up: &[f32], out: &mut [f32]) {
    unary(act, gate, out);
    for (o, u) in out.iter_mut().zip(up) {
        *o *= u;
    }
}

/// The function `op` of two numbers. `max` and `min` of a NaN are the other number.
#[inline(always)]
fn apply(op: Binary, a: f32, b: f32) -> f32 {
    match op {
        Binary::Add => a + b,
        Binary::Sub => a - b,
        Binary::Mul => a * b,
        Binary::Div => a / b,
        Binary::Max => a.max(b),
        Binary::Min => a.min(b),
    }
}

/// `out = op(a, b)` with shapes aligned at the last axis and extents of 1 stretched.
pub fn binary(
    op: Binary,
    (a, a_dims): (&[f32], &[usize]),
    (b, b_dims): (&[f32], &[usize]),
    out: &mut [f32],
    out_dims: &[usize],
) {
    macro_rules! loops {
        ($($name:ident)*) => {
            match op {
                $(Binary::$name => binary_with(
                    |a, b| apply(Binary::$name, a, b), (a, a_dims), (b, b_dims), out, out_dims,
                ),)*
            }
        };
    }
    loops!(Add Sub Mul Div Max Min);
}

#[inline(always)]
fn binary_with(
    f: impl Fn(f32, f32) -> f32,
    (a, a_dims): (&[f32], &[usize]),
    (b, b_dims): (&[f32], &[usize]),
    out: &mut [f32],
    out_dims: &[usize],
) {
    if a.len() == out.len() && b.len() == out.len() {
        for ((o, &a), &b) in out.iter_mut().zip(a).zip(b) {
            *o = f(a, b);
        }
    } else if a.len() == out.len() && b.len() == 1 {
        for (o, &a) in out.iter_mut().zip(a) {
            *o = f(a, b[0]);
        }
    } else if a.len() == out.len()
        && Some(&b.len()) == out_dims.last()
        && b_dims.last() == out_dims.last()
    {
        for (out, a) in out.chunks_exact_mut(b.len().max(1)).zip(a.chunks_exact(b.len().max(1))) {
            for ((o, &a), &b) in out.iter_mut().zip(a).zip(b) {
                *o = f(a, b);
            }
        }
    } else {
        let strides: [[usize; MAX_RANK]; 2] =
            [broadcast_strides(a_dims, out_dims), broadcast_strides(b_dims, out_dims)];
        let walk = Walk::new(out_dims, strides);
        for (o, [i, j]) in out.iter_mut().zip(walk) {
            *o = f(a[i], b[j]);
        }
    }
}

/// Rounds to `dtype` and back; rows of the last axis hold whole groups when quantising.
pub fn round(dtype: DType, x: &[f32], out: &mut [f32]) {
    match dtype {
        DType::F16 => map(x, out, |v| f16::from_f32(v).to_f32()),
        DType::BF16 => map(x, out, |v| bf16::from_f32(v).to_f32()),
        DType::Q8 | DType::Q4 | DType::Q4M => {
            for (x, out) in x.chunks(GROUP).zip(out.chunks_mut(GROUP)) {
                let restored = quant::dequantize(dtype, &quant::quantize(dtype, x));
                for (o, v) in out.iter_mut().zip(restored) {
                    *o = v;
                }
            }
        }
        DType::F32 | DType::I32 | DType::U8 => out.copy_from_slice(x),
    }
}

fn map(x: &[f32], out: &mut [f32], f: impl Fn(f32) -> f32) {
    for (o, &x) in out.iter_mut().zip(x) {
        *o = f(x);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn broadcasting_paths_agree_with_indices() {
        let value = |n: usize| (0..n).map(|i| (i * 7 % 11) as f32 + 1.0).collect::<Vec<_>>();
        let shapes: [(&[usize], &[usize], &[usize]); 6] = [
            (&[2, 3, 4], &[2, 3, 4], &[2, 3, 4]),
            (&[2, 3, 4], &[], &[2, 3, 4]),
            (&[2, 3, 4], &[4], &[2, 3, 4]),
            (&[2, 3, 1], &[1, 3, 4], &[2, 3, 4]),
            (&[4], &[2, 3, 4], &[2, 3, 4]),
            (&[2, 1, 4], &[3, 1], &[2, 3, 4]),
        ];
        for (a_dims, b_dims, out_dims) in shapes {
            let count = |d: &[usize]| d.iter().product::<usize>();
            let (a, b) = (value(count(a_dims)), value(count(b_dims)));
            let mut out = vec![0.0; count(out_dims)];
            binary(Binary::Sub, (&a, a_dims), (&b, b_dims), &mut out, out_dims);
            for (i, o) in out.iter().enumerate() {
                let index = [i / 12, i / 4 % 3, i % 4];
                let at = |dims: &[usize]| {
                    let skip = 3 - dims.len();
                    dims.iter().enumerate().fold(0, |n, (axis, &d)| {
                        n * d + if d == 1 { 0 } else { index[axis + skip] }
                    })
                };
                assert_eq!(*o, a[at(a_dims)] - b[at(b_dims)], "{a_dims:?} {b_dims:?} at {i}");
            }
        }
    }
}
