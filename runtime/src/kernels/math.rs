//! Scalar functions, written once for every instruction set so that their bits agree everywhere.
//!
//! No `mul_add` and no libm where speed matters: the compiler vectorises these loops and never fuses
//! on its own. `exp` follows Cephes `expf` (Moshier): relative error below 2e-7.

use crate::program::Unary;

/// e^x; 0 below -87.3, infinity above 88.7, NaN for NaN.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    const LOG2_E: f32 = std::f32::consts::LOG2_E;
    // ln 2 in two parts, so that x - n ln 2 is exact to twice the precision.
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    // Adding and subtracting 1.5 * 2^23 rounds to an integer, which is in the low bits in between.
    const ROUND: f32 = 12_582_912.0;
    let clamped = x.clamp(-87.336_54, 88.722_8);
    let shifted = clamped * LOG2_E + ROUND;
    let n = shifted - ROUND;
    let integer = (shifted.to_bits() as i32).wrapping_sub(ROUND.to_bits() as i32);
    let r = clamped - n * LN2_HIGH - n * LN2_LOW;
    let mut p = 1.987_569_1e-4;
    for c in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 0.166_666_66, 0.5] {
        p = p * r + c;
    }
    let p = p * (r * r) + r + 1.0;
    // 2^n in two factors, because n may be 128.
    let half = integer >> 1;
    let power = |n: i32| f32::from_bits((n.wrapping_add(127) as u32) << 23);
    let result = p * power(half) * power(integer.wrapping_sub(half));
    let low = if x < -87.336_54 { 0.0 } else { result };
    let high = if x > 88.722_8 { f32::INFINITY } else { low };
    if x.is_nan() { x } else { high }
}

/// 1 / (1 + e^-x)
#[inline(always)]
pub fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// tanh(x), through exp; exact to 1e-7 in absolute terms.
#[inline(always)]
pub fn tanh(x: f32) -> f32 {
    // Below 0.04 the cubic is better than the cancelling quotient.
    let small = x - x * x * x * (1.0 / 3.0);
    let large = 1.0 - 2.0 / (exp(2.0 * x) + 1.0);
    if x.abs() < 0.04 { small } else { large }
}

/// erf(x) by its Taylor series near 0 and a continued fraction elsewhere.
pub fn erf(x: f64) -> f64 {
    let a = x.abs();
    if a < 2.5 {
        // 2/sqrt(pi) sum (-1)^n x^(2n+1) / (n! (2n+1))
        let (mut term, mut sum) = (x, x);
        for n in 1..48 {
            term *= -x * x / f64::from(n);
            sum += term / f64::from(2 * n + 1);
        }
        return std::f64::consts::FRAC_2_SQRT_PI * sum;
    }
    if a > 6.0 {
        return x.signum();
    }
    // erfc(a) = exp(-a^2)/sqrt(pi) / (a + (1/2)/(a + 1/(a + (3/2)/(a + ...))))
    let fraction = (1..=60).rev().fold(a, |f, n| a + f64::from(n) / 2.0 / f);
    let erfc = (-a * a).exp() / (fraction * std::f64::consts::PI.sqrt());
    (1.0 - erfc) * x.signum()
}

/// x/2 (1 + erf(x / sqrt 2)), in f64: left of 0 the sum cancels, and f32 would lose all digits by -5.
fn gelu(x: f32) -> f32 {
    let x = f64::from(x);
    (0.5 * x * (1.0 + erf(x * std::f64::consts::FRAC_1_SQRT_2))) as f32
}

/// The function `op` at `x`.
#[inline(always)]
pub fn unary(op: Unary, x: f32) -> f32 {
    const SQRT_2_OVER_PI: f32 = 0.797_884_6;
    match op {
        Unary::Neg => -x,
        Unary::Exp => exp(x),
        Unary::Sqrt => x.sqrt(),
        Unary::Rsqrt => 1.0 / x.sqrt(),
        Unary::Recip => 1.0 / x,
        Unary::Square => x * x,
        Unary::Tanh => tanh(x),
        Unary::Sigmoid => sigmoid(x),
        Unary::Silu => or_limit(x, x * sigmoid(x)),
        Unary::Gelu => or_limit(x, gelu(x)),
        // (1 + tanh u) / 2 = sigmoid(2 u), without the cancelling sum.
        Unary::GeluTanh => {
            or_limit(x, x * sigmoid(2.0 * SQRT_2_OVER_PI * (x + 0.044_715 * x * x * x)))
        }
        // `f32::max` would turn NaN into 0.
        Unary::Relu => {
            if x <= 0.0 {
                0.0
            } else {
                x
            }
        }
    }
}

/// The activation `y` of x; 0 at -inf, its limit, where the formulas give NaN.
#[inline(always)]
fn or_limit(x: f32, y: f32) -> f32 {
    if x == f32::NEG_INFINITY { 0.0 } else { y }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_accurate_and_has_its_limits() {
        for i in -8700..8870 {
            let x = i as f32 / 100.0;
            let expected = f64::from(x).exp();
            let error = (f64::from(exp(x)) - expected).abs() / expected;
            assert!(error < 3e-7, "exp({x}): {error}");
        }
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp(89.0), f32::INFINITY);
        assert!(exp(f32::NAN).is_nan());
        assert_eq!(exp(0.0), 1.0);
    }

    #[test]
    fn tanh_and_erf_are_accurate() {
        for i in -800..800 {
            let x = i as f32 / 100.0;
            assert!((f64::from(tanh(x)) - f64::from(x).tanh()).abs() < 3e-7, "tanh({x})");
        }
        // From Abramowitz and Stegun, table 7.1.
        for (x, y) in
            [(0.5, 0.520_499_9), (1.0, 0.842_700_8), (2.0, 0.995_322_3), (3.0, 0.999_977_9)]
        {
            assert!((erf(x) - y).abs() < 6e-8, "erf({x}) = {}", erf(x));
            assert_eq!(erf(-x), -erf(x));
        }
        assert!((erf(2.499_999) - erf(2.500_001)).abs() < 1e-6);
        // x Phi(x) at -5, from Phi(-5) = 2.866516e-7: a few ulp, not a tenth.
        assert!((gelu(-5.0) / -1.433_258e-6 - 1.0).abs() < 1e-6, "{}", gelu(-5.0));
    }
}
