//! Comparison of results with the tolerance of their numeric class.
//!
//! The tolerance comes from what was done to the numbers, never from a test author's mood:
//! see `design` section "Numbers" in `docs/numerics.md`.

use std::fmt;

/// How far two results of the same computation may differ.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Tolerance {
    /// The same bits (NaN equals NaN).
    Exact,
    /// `max |a - b| <= bound * max |b|`, with b the reference.
    RelativeToMax(f32),
}

impl Tolerance {
    /// f32 weights, another accumulation order.
    pub const F32: Tolerance = Tolerance::RelativeToMax(1e-4);
    /// bf16 or f16 weights with f32 accumulation.
    pub const HALF: Tolerance = Tolerance::RelativeToMax(2e-3);
}

/// The worst element of a failed comparison.
#[derive(Clone, Debug, PartialEq)]
pub struct Mismatch {
    /// Flat index of the worst element; `None` when the lengths differ.
    pub index: Option<usize>,
    /// Its value in the result under test, or that result's length.
    pub found: f32,
    /// Its value in the reference, or the reference's length.
    pub expected: f32,
    /// `max |a - b| / max |b|`.
    pub error: f32,
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.index {
            Some(i) => write!(
                f,
                "element {i} is {}, expected {} (error {:.3e} of the maximum)",
                self.found, self.expected, self.error
            ),
            None => write!(f, "{} elements, expected {}", self.found, self.expected),
        }
    }
}

impl std::error::Error for Mismatch {}

/// Sums of squares: of values, and of how far others are from them.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct SquaredError {
    /// `sum(expected^2)`.
    pub values: f64,
    /// `sum((expected - found)^2)`.
    pub errors: f64,
}

impl SquaredError {
    /// Of two slices of one length, in eight sums that the processor makes side by side.
    pub fn new(found: &[f32], expected: &[f32]) -> Self {
        const LANES: usize = 8;
        let (mut values, mut errors) = ([0f64; LANES], [0f64; LANES]);
        for (a, b) in found.chunks(LANES).zip(expected.chunks(LANES)) {
            for (((value, error), &a), &b) in values.iter_mut().zip(&mut errors).zip(a).zip(b) {
                let (a, b) = (f64::from(a), f64::from(b));
                *value += b * b;
                *error += (b - a) * (b - a);
            }
        }
        SquaredError { values: values.iter().sum(), errors: errors.iter().sum() }
    }

    /// `sqrt(errors / values)`; 0 where all values are zero.
    pub fn relative_rms(&self) -> f64 {
        if self.values > 0.0 { (self.errors / self.values).sqrt() } else { 0.0 }
    }
}

impl std::ops::AddAssign for SquaredError {
    fn add_assign(&mut self, other: Self) {
        self.values += other.values;
        self.errors += other.errors;
    }
}

/// `max |found - expected| / max |expected|`; NaN in one place only counts as infinite.
pub fn relative_to_max(found: &[f32], expected: &[f32]) -> f32 {
    let scale = expected.iter().fold(0f32, |m, v| m.max(v.abs()));
    let worst = found.iter().zip(expected).fold(0f32, |m, (a, b)| m.max(distance(*a, *b)));
    if worst == 0.0 { 0.0 } else { worst / scale.max(f32::MIN_POSITIVE) }
}

/// Checks `found` against the reference `expected`.
///
/// # Errors
/// The worst element, when it lies outside `tolerance` or the lengths differ.
pub fn check(found: &[f32], expected: &[f32], tolerance: Tolerance) -> Result<(), Mismatch> {
    if found.len() != expected.len() {
        return Err(Mismatch {
            index: None,
            found: found.len() as f32,
            expected: expected.len() as f32,
            error: f32::INFINITY,
        });
    }
    let error = relative_to_max(found, expected);
    let ok = match tolerance {
        Tolerance::Exact => found
            .iter()
            .zip(expected)
            .all(|(a, b)| a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan())),
        Tolerance::RelativeToMax(bound) => error <= bound,
    };
    if ok {
        return Ok(());
    }
    let index = (0..found.len())
        .max_by(|&i, &j| {
            let (a, b) = (distance(found[i], expected[i]), distance(found[j], expected[j]));
            a.total_cmp(&b).then(j.cmp(&i))
        })
        .unwrap_or(0);
    Err(Mismatch { index: Some(index), found: found[index], expected: expected[index], error })
}

fn distance(a: f32, b: f32) -> f32 {
    if a == b || (a.is_nan() && b.is_nan()) {
        0.0
    } else if a.is_nan() || b.is_nan() {
        f32::INFINITY
    } else {
        (a - b).abs()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bound_is_relative_to_the_largest_reference_value() {
        assert!(check(&[100.005, 0.0], &[100.0, 0.001], Tolerance::F32).is_ok());
        let worst = check(&[100.0, 0.1], &[100.0, 0.0], Tolerance::F32).unwrap_err();
        assert_eq!(worst.index, Some(1));
    }

    #[test]
    fn nan_never_passes_for_a_number() {
        assert!(check(&[f32::NAN], &[1.0], Tolerance::HALF).is_err());
        assert!(check(&[f32::NAN], &[f32::NAN], Tolerance::Exact).is_ok());
    }
}
