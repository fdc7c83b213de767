//! Elementwise functions of f32 numbers.
//!
//! Transcendental functions are computed in f64 and rounded once, so the result does not hang on a
//! platform's f32 library. Public: back ends test their own approximations against these.

use crate::{Activation, BinaryOp, UnaryOp};

/// `op(x)`, rounded once.
pub fn unary(op: UnaryOp, x: f32) -> f32 {
    // f64 holds more than twice the digits of f32, so rounding a root or a quotient twice is rounding it once.
    unary_wide(op, f64::from(x)) as f32
}

/// `act(x)`, rounded once. At -inf every activation is 0, its limit.
pub fn activation(act: Activation, x: f32) -> f32 {
    activation_wide(act, f64::from(x)) as f32
}

/// `op(x)` in f64.
pub(super) fn unary_wide(op: UnaryOp, x: f64) -> f64 {
    match op {
        UnaryOp::Neg => -x,
        UnaryOp::Exp => x.exp(),
        UnaryOp::Sqrt => x.sqrt(),
        UnaryOp::Rsqrt => 1.0 / x.sqrt(),
        UnaryOp::Recip => 1.0 / x,
        UnaryOp::Square => x * x,
        UnaryOp::Tanh => x.tanh(),
        UnaryOp::Sigmoid => sigmoid(x),
        UnaryOp::Act(act) => activation_wide(act, x),
    }
}

/// `act(x)` in f64.
pub(super) fn activation_wide(act: Activation, x: f64) -> f64 {
    if x == f64::NEG_INFINITY {
        return 0.0;
    }
    match act {
        Activation::Silu => x * sigmoid(x),
        Activation::Gelu => 0.5 * x * (1.0 + erf(x * std::f64::consts::FRAC_1_SQRT_2)),
        Activation::GeluTanh => {
            let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3));
            0.5 * x * (1.0 + inner.tanh())
        }
        // `f64::max` would turn NaN into 0.
        Activation::Relu => {
            if x <= 0.0 {
                0.0
            } else {
                x
            }
        }
    }
}

/// `op(a, b)`: one IEEE operation, or the number when one of `max` and `min` is NaN.
pub(super) fn binary(op: BinaryOp, a: f32, b: f32) -> f32 {
    match op {
        BinaryOp::Add => a + b,
        BinaryOp::Sub => a - b,
        BinaryOp::Mul => a * b,
        BinaryOp::Div => a / b,
        BinaryOp::Max => a.max(b),
        BinaryOp::Min => a.min(b),
    }
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// The error function, to about 1e-15: `2/sqrt(pi) e^(-x^2) sum 2^n x^(2n+1) / (2n+1)!!`
/// (Abramowitz and Stegun 7.1.6). All terms have one sign, so nothing cancels.
fn erf(x: f64) -> f64 {
    // 1 - erf(6) is below 2.2e-17.
    if x.abs() >= 6.0 {
        return x.signum();
    }
    let (mut term, mut sum) = (x, x);
    let mut n = 0.0;
    while term.abs() > sum.abs() * 1e-17 {
        n += 1.0;
        term *= 2.0 * x * x / (2.0 * n + 1.0);
        sum += term;
    }
    std::f64::consts::FRAC_2_SQRT_PI * (-x * x).exp() * sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn erf_matches_tabulated_values() {
        // Abramowitz and Stegun, table 7.1, and erf(4) from its continued fraction.
        for (x, expected) in [
            (0.0, 0.0),
            (0.5, 0.520_499_877_8),
            (1.0, 0.842_700_792_9),
            (2.0, 0.995_322_265_0),
            (-1.0, -0.842_700_792_9),
            (4.0, 0.999_999_984_6),
            (7.0, 1.0),
        ] {
            assert!((erf(x) - expected).abs() < 1e-10, "erf({x}) = {}", erf(x));
        }
        assert!(erf(f64::NAN).is_nan());
    }

    #[test]
    fn activations_match_known_values() {
        // Values of torch.nn.functional at 1 and -2, to seven digits.
        for (act, at_one, at_minus_two) in [
            (Activation::Silu, 0.731_058_6, -0.238_405_84),
            (Activation::Gelu, 0.841_344_8, -0.045_500_26),
            (Activation::GeluTanh, 0.841_192, -0.045_402_3),
            (Activation::Relu, 1.0, 0.0),
        ] {
            assert!((activation(act, 1.0) - at_one).abs() < 2e-7, "{act:?}");
            assert!((activation(act, -2.0) - at_minus_two).abs() < 2e-7, "{act:?}");
            assert!(activation(act, f32::NAN).is_nan(), "{act:?}");
            assert_eq!(activation(act, f32::NEG_INFINITY), 0.0);
            assert_eq!(activation(act, f32::INFINITY), f32::INFINITY);
        }
    }
}
