//! Enclosures: every value of a module as computed, with a bound on how far rounding put it from the real one.
//!
//! Two modules that compute the same function of real numbers (the numeric tier `reassoc`) have results no
//! further apart than their two radii, so the sum of the radii is a bound for each pair of modules and each
//! prompt, and a difference beyond it proves that the functions differ. The method is Wilkinson's running
//! error analysis (Higham, *Accuracy and Stability of Numerical Algorithms*, 2nd ed., 3.1 and 3.3) in
//! midpoint-radius form: sums contribute `n u / (1 - n u)` times the sum of magnitudes, other ops one
//! rounding, and what is known of the operands is carried through by the op itself (monotone functions at
//! both ends, softmax and norms in closed form), so the bound holds for large radii too.
//!
//! Does not bound what another prompt gives, nor which token is picked. Radii are computed in f64 and are
//! themselves rounded: bounds carry [`SLACK`].

mod array;
mod frame;
mod movement;
mod ops;
mod sums;
#[cfg(test)]
mod tests;

use array::Balls;

use super::EvalError;
use crate::{Module, WeightSource};

/// Units in which values are rounded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rounding {
    /// As [`eval_module`](super::eval_module) by default: values f32, sums f64. Midpoints are its values.
    Reference,
    /// As kernels: values f32, sums f32 in any order. Midpoints are those of `Reference`.
    Kernels,
    /// Everything f64, weights as stored: reassociation shows only in digits that f32 lacks, so two
    /// functions that differ are told apart by little.
    Wide,
}

impl Rounding {
    /// Unit roundoff of a stored value.
    fn stored(self) -> f64 {
        if self == Rounding::Wide { f64::EPSILON / 2.0 } else { SINGLE }
    }

    /// Unit roundoff inside a sum.
    fn sums(self) -> f64 {
        if self == Rounding::Kernels { SINGLE } else { f64::EPSILON / 2.0 }
    }

    /// The value as stored.
    fn round(self, x: f64) -> f64 {
        if self == Rounding::Wide { x } else { f64::from(x as f32) }
    }
}

/// Unit roundoff of f32.
const SINGLE: f64 = f32::EPSILON as f64 / 2.0;

/// Factor on radii that covers the rounding of the analysis itself, which is about 1e-16 per op.
pub const SLACK: f64 = 1.0 + 1e-9;

/// Logits and how far each may be from the real value of the function.
#[derive(Clone, Debug, PartialEq)]
pub struct Enclosure {
    /// As computed.
    pub values: Vec<f64>,
    /// No real value is further from its computed one; infinite when nothing is known.
    pub radii: Vec<f64>,
}

/// How far two results of one function may be apart, and are.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Distance {
    /// The largest sum of radii, as a fraction of the largest logit.
    pub bound: f64,
    /// The largest difference, as a fraction of the largest logit.
    pub found: f64,
    /// The largest difference as a fraction of the bound of the same logit; above 1 the functions differ.
    pub share: f64,
}

impl Enclosure {
    /// Compares the enclosures of two modules that are said to compute one function.
    ///
    /// Logits that are not finite must be the same. Different numbers of logits are infinitely far apart.
    pub fn distance(&self, other: &Enclosure) -> Distance {
        if self.values.len() != other.values.len() {
            return Distance { bound: 0.0, found: f64::INFINITY, share: f64::INFINITY };
        }
        let finite = self.values.iter().filter(|v| v.is_finite());
        let scale = finite.fold(f64::MIN_POSITIVE, |m, v| m.max(v.abs()));
        let mut distance = Distance { bound: 0.0, found: 0.0, share: 0.0 };
        for i in 0..self.values.len() {
            let (a, b) = (self.values[i], other.values[i]);
            let bound = (self.radii[i] + other.radii[i]) * SLACK;
            distance.bound = distance.bound.max(bound / scale);
            let apart = if a == b || (a.is_nan() && b.is_nan()) { 0.0 } else { (a - b).abs() };
            let apart = if apart.is_nan() { f64::INFINITY } else { apart };
            distance.found = distance.found.max(apart / scale);
            if apart > 0.0 && bound < f64::INFINITY {
                distance.share = distance.share.max(apart / bound);
            }
        }
        distance
    }
}

/// Logits of the last `rows` of `tokens`, fed at once to an empty cache, with their radii.
///
/// # Errors
/// As [`eval_module`](super::eval_module). Constants are evaluated where they stand and count
/// against `max_elements`.
pub fn enclose(
    module: &Module,
    weights: &dyn WeightSource,
    tokens: &[u32],
    rows: usize,
    rounding: Rounding,
    max_elements: usize,
) -> Result<Enclosure, EvalError> {
    let balls: Balls = frame::run(module, weights, tokens, rows, rounding, max_elements)?;
    let radii = (0..balls.mid.len()).map(|i| balls.radius(i)).collect();
    Ok(Enclosure { values: balls.mid.to_vec(), radii })
}
