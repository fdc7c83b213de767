//! The ops that sum, on balls: matmul, reductions, softmax, RMS norm and attention.
//!
//! Midpoints are summed in f64 in the order of `eval`, so that they are its values. A sum of n terms is off by
//! at most gamma(n) = n u / (1 - n u) times the sum of magnitudes, whatever the order (Higham, 4.2);
//! n + 1 where the terms are products, which may be rounded too.

use super::array::error;
use super::{Balls, Rounding};
use crate::{Real, ReduceOp};

/// Relative error of n operations in a sum; infinite where the theory ends.
fn gamma(n: usize, rounding: Rounding) -> f64 {
    let nu = n as f64 * rounding.sums();
    if nu < 1.0 { nu / (1.0 - nu) } else { f64::INFINITY }
}

/// A sum as stored: the computed value, what the operands' radii do to it, its magnitude, terms.
fn stored(sum: f64, carried: f64, magnitude: f64, n: usize, rounding: Rounding) -> (f64, f64) {
    let inside = if magnitude == 0.0 { 0.0 } else { gamma(n, rounding) * magnitude };
    (rounding.round(sum), carried + inside + error(rounding, sum))
}

/// Sum of products.
fn dot(x: impl Iterator<Item = ((f64, f64), (f64, f64))>, rounding: Rounding) -> (f64, f64) {
    let (mut sum, mut carried, mut magnitude, mut n) = (0.0, 0.0, 0.0, 0);
    for ((a, ra), (b, rb)) in x {
        sum += a * b;
        magnitude += (a * b).abs();
        carried += product(a.abs(), rb) + product(b.abs(), ra) + product(ra, rb);
        n += 1;
    }
    stored(sum, carried, magnitude + carried, n + 1, rounding)
}

/// A product in which nothing times everything is nothing.
pub(super) fn product(a: f64, b: f64) -> f64 {
    if a == 0.0 || b == 0.0 { 0.0 } else { a * b }
}

/// As `reduce::matmul`.
pub(super) fn matmul(a: &Balls, b: &Balls, shape: &[usize], rounding: Rounding) -> Balls {
    let (rank_a, rank_b) = (a.shape.len(), b.shape.len());
    let (m, k, n) = (a.shape[rank_a - 2], a.shape[rank_a - 1], b.shape[rank_b - 1]);
    let batches: usize = shape[..shape.len() - 2].iter().product();
    let mut out = Vec::with_capacity(batches * m * n);
    for batch in 0..batches {
        let part = |rank: usize, size: usize| if rank == 2 { 0 } else { batch * size };
        let (at_a, at_b) = (part(rank_a, m * k), part(rank_b, k * n));
        for i in 0..m {
            let mut rows = vec![(0.0, 0.0, 0.0); n];
            for j in 0..k {
                let (x, rx) = a.at(at_a + i * k + j);
                let first = at_b + j * n;
                let y = &b.mid[first..first + n];
                match &b.rad {
                    // The usual case: weights are exact.
                    None if x.is_finite() && rx.is_finite() => {
                        for ((sum, carried, magnitude), &y) in rows.iter_mut().zip(y) {
                            *sum += x * y;
                            *carried += rx * y.abs();
                            *magnitude += (x * y).abs();
                        }
                    }
                    _ => {
                        for (l, (sum, carried, magnitude)) in rows.iter_mut().enumerate() {
                            let (y, ry) = b.at(first + l);
                            *sum += x * y;
                            *carried +=
                                product(x.abs(), ry) + product(y.abs(), rx) + product(rx, ry);
                            *magnitude += (x * y).abs();
                        }
                    }
                }
            }
            let done = |(s, c, g): (f64, f64, f64)| stored(s, c, g + c, k + 1, rounding);
            out.extend(rows.into_iter().map(done));
        }
    }
    Balls::new(shape, out.into_iter())
}

/// As `reduce::reduce`.
pub(super) fn reduce(
    op: ReduceOp,
    x: &Balls,
    axis: usize,
    shape: &[usize],
    rounding: Rounding,
) -> Balls {
    let extent = x.shape[axis];
    let inner: usize = x.shape[axis + 1..].iter().product();
    let outer: usize = x.shape[..axis].iter().product();
    let one = |at: usize| {
        let along = (0..extent).map(|e| x.at((at / inner * extent + e) * inner + at % inner));
        if op == ReduceOp::Max {
            let larger = |(m, r): (f64, f64), (v, s): (f64, f64)| {
                (if m.is_nan() || m > v { m } else { v }, r.max(s))
            };
            return along.fold((f64::NEG_INFINITY, 0.0), larger);
        }
        let (mut sum, mut carried, mut magnitude) = (0.0, 0.0, 0.0);
        for (v, r) in along {
            sum += v;
            carried += r;
            magnitude += v.abs() + r;
        }
        let n = if op == ReduceOp::Mean { extent as f64 } else { 1.0 };
        stored(sum / n, carried / n, magnitude / n, extent + 1, rounding)
    };
    Balls::new(shape, (0..outer * inner).map(one))
}

/// As `reduce::softmax`.
pub(super) fn softmax(x: &Balls, rounding: Rounding) -> Balls {
    let width = x.shape.last().copied().unwrap_or(1).max(1);
    let rows = (0..x.mid.len() / width).flat_map(|row| {
        let row: Vec<_> = (row * width..(row + 1) * width).map(|i| x.at(i)).collect();
        softmax_row(&row, rounding)
    });
    Balls::new(&x.shape, rows)
}

/// A probability p with scores off by r, others by r_j, grows at most by the factor
/// e^r / sum p_j e^(-r_j) and shrinks at most by e^(-r) / sum p_j e^(r_j); it stays between 0 and 1.
fn softmax_row(row: &[(f64, f64)], rounding: Rounding) -> Vec<(f64, f64)> {
    if row.iter().all(|&(v, _)| v == f64::NEG_INFINITY) {
        return vec![(0.0, 0.0); row.len()];
    }
    let larger = |m: f64, &(v, _): &(f64, f64)| if m.is_nan() || m > v { m } else { v };
    let max = row.iter().fold(f64::NEG_INFINITY, larger);
    let powers: Vec<f64> = row.iter().map(|&(v, _)| (v - max).exp()).collect();
    let total: f64 = powers.iter().fold(0.0, |sum, p| sum + p);
    let weighed = |sign: f64| -> f64 {
        let terms = powers.iter().zip(row);
        terms.map(|(p, &(_, r))| product(p / total, (sign * r).exp())).sum()
    };
    let (least, most) = (weighed(-1.0), weighed(1.0));
    let others = powers.iter().zip(row);
    let others: f64 =
        others.map(|(p, &(v, _))| product(p / total, exponent(max - v, rounding))).sum();
    let one = |(power, &(v, r)): (&f64, &(f64, f64))| {
        let p = power / total;
        let grown = product(p, r.exp()) / least;
        let shrunk = product(p, (-r).exp()) / most;
        let carried = (grown - p).max(p - shrunk);
        // Powers, sum and quotient; and the difference to the maximum, an exponent of that size, of this
        // element and, weighed, of the others.
        let inside = gamma(row.len() + 4, rounding) + exponent(max - v, rounding) + others;
        let rad = carried + product(p, inside) + error(rounding, p);
        // f64::min takes the number when nothing is known.
        (rounding.round(p), rad.min(p.max(1.0 - p) + rounding.stored()))
    };
    powers.iter().zip(row).map(one).collect()
}

/// The relative error of a power whose exponent is rounded.
fn exponent(size: f64, rounding: Rounding) -> f64 {
    (size * rounding.sums()).exp_m1()
}

/// As `reduce::rms_norm`, gain included.
pub(super) fn rms_norm(x: &Balls, gain: Option<&Balls>, eps: Real, rounding: Rounding) -> Balls {
    let width = x.shape.last().copied().unwrap_or(1).max(1);
    let mut out = Vec::with_capacity(x.mid.len());
    for row in 0..x.mid.len() / width {
        let row: Vec<_> = (row * width..(row + 1) * width).map(|i| x.at(i)).collect();
        let normed = normalize(&row, eps.get(), rounding);
        out.extend(normed.into_iter().enumerate().map(|(i, y)| match gain {
            Some(gain) => times(y, gain.at(i), rounding),
            None => y,
        }));
    }
    Balls::new(&x.shape, out.into_iter())
}

/// Two balls multiplied.
pub(super) fn times((a, ra): (f64, f64), (b, rb): (f64, f64), rounding: Rounding) -> (f64, f64) {
    let y = a * b;
    let carried = product(a.abs(), rb) + product(b.abs(), ra) + product(ra, rb);
    (rounding.round(y), carried + error(rounding, y))
}

fn normalize(row: &[(f64, f64)], eps: f64, rounding: Rounding) -> Vec<(f64, f64)> {
    let n = row.len() as f64;
    let squares = row.iter().fold(0.0, |sum, (v, _)| sum + v * v);
    let scale = 1.0 / (squares / n + eps).sqrt();
    // The mean square is off by at most `off`, so the scale lies between these; no element of the
    // result exceeds the root of n.
    let off: f64 = row.iter().map(|&(v, r)| 2.0 * product(v.abs(), r) + r * r).sum::<f64>() / n;
    let upper = 1.0 / (squares / n + eps - off).max(eps).sqrt();
    let lower = 1.0 / (squares / n + eps + off).sqrt();
    let moved = (upper - scale).max(scale - lower);
    let one = |&(v, r): &(f64, f64)| {
        let y = v * scale;
        let carried = product(v.abs(), moved) + product(r, upper);
        let inside = y.abs() * gamma(row.len() + 8, rounding);
        let carried = carried.min(y.abs() + n.sqrt());
        (rounding.round(y), carried + inside + error(rounding, y))
    };
    row.iter().map(one).collect()
}

/// As `reduce::attention`: the composition of the above.
pub(super) fn attention(
    x: &[Balls],
    (scale, window): (Real, Option<usize>),
    rounding: Rounding,
) -> Balls {
    let (q, k, v) = (&x[0], &x[1], &x[2]);
    let [t, h, d] = [q.shape[0], q.shape[1], q.shape[2]];
    let [s, g, e] = [k.shape[0], k.shape[1], v.shape[2]];
    let factor = super::ops::constant(scale.get(), rounding);
    let mut out = Vec::with_capacity(t * h * e);
    for i in 0..t {
        for head in 0..h {
            let group = head / (h / g.max(1)).max(1);
            let score = |j: usize| {
                if !crate::eval::reduce::sees(s - t + i, j, window) {
                    return (f64::NEG_INFINITY, 0.0);
                }
                let (query, key) = ((i * h + head) * d, (j * g + group) * d);
                let pairs = (0..d).map(|c| (q.at(query + c), k.at(key + c)));
                times(dot(pairs, rounding), factor, rounding)
            };
            let row: Vec<_> = (0..s).map(score).collect();
            let row = softmax_row(&row, rounding);
            for c in 0..e {
                let pairs =
                    row.iter().enumerate().map(|(j, &p)| (p, v.at((j * g + group) * e + c)));
                out.push(dot(pairs, rounding));
            }
        }
    }
    Balls::new(&[t, h, e], out.into_iter())
}
