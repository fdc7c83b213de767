//! The scale of a `q4` group: a short search for the least sum of squared errors.
//!
//! The plain scale puts the extreme (the element of largest magnitude) at code -8, as GGML does for
//! Q4_0. Fewer steps cut the extreme and serve the others better, more steps need no code 7 on the
//! other side. For a few numbers of steps the codes are taken, and for these codes the scale of least
//! squares, as `make_qx_quants` of llama.cpp does.
//!
//! Invariant: the squared error is not above that of the plain scale, both with scales as stored.
//! Sums are taken in eight lanes and no product is fused, so every machine finds the same.

use half::f16;

use super::{GROUP, ROUND, inverse, largest};

/// Steps from zero to the extreme that are tried. These five get 97 % of what 19 get (7.1, 7.2,
/// .. 8.9), on normal, Laplace and t(5) values: errors of 0.89 to 0.915 of those of the plain scale.
const STEPS: [f32; 5] = [7.2, 7.6, 8.0, 8.4, 8.8];
/// Sums are taken in as many lanes: the order is fixed, and loops become wide.
const LANES: usize = 8;

/// The scale and the codes (8 above their value) of a group.
pub(super) fn best(group: &[f32; GROUP]) -> (f16, [u8; GROUP]) {
    let extreme = extreme(group);
    let (plain, found) = (f16::from_f32(extreme / -8.0), f16::from_f32(least(group, extreme)));
    let mut codes = [[0.0; GROUP]; 2];
    nearest(group, inverse(plain), &mut codes[0]);
    nearest(group, inverse(found), &mut codes[1]);
    // False for what is no number.
    let better = error(group, found, &codes[1]) < error(group, plain, &codes[0]);
    let scale = if better { found } else { plain };
    let mut bytes = [0; GROUP];
    for (byte, code) in bytes.iter_mut().zip(&codes[usize::from(better)]) {
        // The integer is in the low bits.
        *byte = (code + (ROUND + 8.0)).to_bits() as u8;
    }
    (scale, bytes)
}

/// The element of largest magnitude; the positive one of two.
#[inline(never)]
fn extreme(group: &[f32; GROUP]) -> f32 {
    let (high, low) = (largest(group, 0.0, |v| v), largest(group, 0.0, |v| -v));
    if low > high { -low } else { high }
}

/// The scale of least squares among those of [`STEPS`]; 0 if there is none.
fn least(group: &[f32; GROUP], extreme: f32) -> f32 {
    let (mut best, mut scale) = (0.0, 0.0);
    for steps in STEPS {
        let (products, squares) = trial(group, -steps / extreme);
        let found = products / squares;
        // The error is the sum of squares of the values less `products^2 / squares`. No branch: half
        // of the answers would be guessed wrong. False for what is no number.
        let gain = found * products;
        let better = gain > best;
        best = if better { gain } else { best };
        scale = if better { found } else { scale };
    }
    scale
}

/// Sums of values times codes and of squares of codes, for the codes nearest to `values * by`.
#[inline(never)]
fn trial(group: &[f32; GROUP], by: f32) -> (f32, f32) {
    let mut codes = [0.0; GROUP];
    nearest(group, by, &mut codes);
    let (mut products, mut squares) = ([0.0; LANES], [0.0; LANES]);
    for (values, codes) in group.as_chunks::<LANES>().0.iter().zip(codes.as_chunks::<LANES>().0) {
        for ((sum, v), code) in products.iter_mut().zip(values).zip(codes) {
            *sum += v * code;
        }
        for (sum, code) in squares.iter_mut().zip(codes) {
            *sum += code * code;
        }
    }
    (products.iter().sum(), squares.iter().sum())
}

/// The codes nearest to `values * by`, integers from -8 to 7; 0 for NaN. A function of its own, and
/// those around it: inlined into one another their loops become narrow.
#[inline(never)]
fn nearest(group: &[f32; GROUP], by: f32, codes: &mut [f32; GROUP]) {
    for (code, v) in codes.iter_mut().zip(group) {
        let scaled = v * by;
        let scaled = if scaled.is_nan() { 0.0 } else { scaled };
        let raised = if scaled < -8.0 { -8.0 } else { scaled };
        let within = if raised > 7.0 { 7.0 } else { raised };
        // Between two codes the even one: both are as good.
        *code = (within + ROUND) - ROUND;
    }
}

/// Sum of squared errors of a group with a scale and codes.
#[inline(never)]
fn error(group: &[f32; GROUP], scale: f16, codes: &[f32; GROUP]) -> f32 {
    let scale = scale.to_f32();
    let mut sums = [0.0; LANES];
    for (values, codes) in group.as_chunks::<LANES>().0.iter().zip(codes.as_chunks::<LANES>().0) {
        for ((sum, v), code) in sums.iter_mut().zip(values).zip(codes) {
            let error = v - scale * code;
            *sum += error * error;
        }
    }
    sums.iter().sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Rng;

    /// Sum of squared errors of the nearest codes, by the definition.
    fn error(group: &[f32; GROUP], scale: f16) -> f64 {
        let scale = f64::from(scale.to_f32());
        let code = |v: f64| if scale == 0.0 { 0.0 } else { (v / scale).round().clamp(-8.0, 7.0) };
        let error = |&v: &f32| (f64::from(v) - scale * code(f64::from(v))).powi(2);
        group.iter().map(error).sum()
    }

    /// By the definition: the first of largest magnitude to code -8.
    fn plain(group: &[f32; GROUP]) -> f16 {
        let larger = |a: f32, &v: &f32| if v.abs() > a.abs() { v } else { a };
        f16::from_f32(group.iter().fold(0.0, larger) / -8.0)
    }

    /// Groups of several distributions, with outliers and of odd sizes.
    fn groups() -> Vec<[f32; GROUP]> {
        let mut rng = Rng::new(10);
        let mut groups: Vec<[f32; GROUP]> =
            (0..4000).map(|_| std::array::from_fn(|_| rng.normal())).collect();
        for (i, group) in groups.iter_mut().enumerate() {
            match i % 8 {
                0 => group[i % GROUP] *= 30.0,
                1 => group.iter_mut().for_each(|v| *v = v.abs() * 1e-4),
                2 => group.iter_mut().for_each(|v| *v = v.powi(3)),
                3 => group.iter_mut().for_each(|v| *v = v.signum()),
                4 => group.iter_mut().skip(i % GROUP).for_each(|v| *v = 0.0),
                _ => {}
            }
        }
        groups
    }

    #[test]
    fn no_group_has_more_error_than_with_the_plain_scale() {
        for group in groups() {
            let (found, before) = (error(&group, best(&group).0), error(&group, plain(&group)));
            // The two errors are compared in f32: 32 terms, relative rounding of 2^-24 each.
            assert!(found <= before * (1.0 + 1e-5), "{found} {before} {group:?}");
        }
    }

    #[test]
    fn errors_are_a_tenth_less_in_all() {
        let mut rng = Rng::new(11);
        let (mut found, mut before) = (0.0, 0.0);
        for _ in 0..4000 {
            let group: [f32; GROUP] = std::array::from_fn(|_| rng.normal());
            found += error(&group, best(&group).0);
            before += error(&group, plain(&group));
        }
        assert!(found < 0.9 * before, "{found} {before}");
    }

    #[test]
    fn codes_are_the_nearest_of_the_scale() {
        for group in groups() {
            let (scale, codes) = best(&group);
            let scale = scale.to_f32();
            let squares =
                |v: &f32, code: &u8| f64::from(v - scale * (f32::from(*code) - 8.0)).powi(2);
            let found: f64 = group.iter().zip(&codes).map(|(v, code)| squares(v, code)).sum();
            let least = error(&group, f16::from_f32(scale));
            assert!((found - least).abs() <= 1e-5 * least + 1e-12, "{found} {least} {group:?}");
        }
    }

    #[test]
    fn what_is_no_number_keeps_the_plain_scale() {
        let mut group = [0.5; GROUP];
        group[3] = f32::INFINITY;
        assert_eq!(best(&group).0, f16::NEG_INFINITY);
        group[3] = f32::NAN;
        let (scale, codes) = best(&group);
        assert_eq!((scale, codes[3], codes[0]), (f16::from_f32(0.5 / -8.0), 8, 0));
        assert_eq!(best(&[0.0; GROUP]).1, [8; GROUP]);
        for tiny in [f32::MIN_POSITIVE, 1e-42, -1e-30] {
            assert_eq!(best(&[tiny; GROUP]).1, [8; GROUP]);
        }
    }
}
