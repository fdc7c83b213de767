//! Attributes in range: what the type rules cannot say because it is not about types.

use crate::{Op, Real, RopeScaling, RopeSpec};

/// Why an attribute of `op` is out of range.
pub(super) fn check(op: &Op) -> Result<(), String> {
    match op {
        Op::RmsNorm { eps } => positive("eps", *eps),
        Op::Attention { scale, window } => {
            finite("scale", *scale)?;
            check_window(*window)
        }
        Op::CausalMask { window } => check_window(*window),
        Op::Rope(spec) => rope(spec),
        Op::Weight { .. } | Op::Const(_) | Op::Positions | Op::Unary(_) | Op::Binary(_) => Ok(()),
        Op::Cast(_) | Op::Quantize(_) | Op::Matmul | Op::Reduce { .. } | Op::Softmax => Ok(()),
        Op::Reshape(_) | Op::Transpose(_) | Op::Slice { .. } | Op::Concat { .. } => Ok(()),
        Op::Broadcast(_) | Op::Gather | Op::Glu(_) => Ok(()),
        Op::CacheAppend | Op::CacheRead | Op::Repeat { .. } => Ok(()),
    }
}

fn finite(name: &str, value: Real) -> Result<(), String> {
    if value.get().is_finite() { Ok(()) } else { Err(format!("{name} is {value}")) }
}

fn positive(name: &str, value: Real) -> Result<(), String> {
    finite(name, value)?;
    if value.get() > 0.0 { Ok(()) } else { Err(format!("{name} is {value}, not positive")) }
}

fn at_least_one(name: &str, value: usize) -> Result<(), String> {
    if value >= 1 { Ok(()) } else { Err(format!("{name} is 0")) }
}

fn check_window(window: Option<usize>) -> Result<(), String> {
    window.map_or(Ok(()), |w| at_least_one("window", w))
}

fn rope(spec: &RopeSpec) -> Result<(), String> {
    positive("theta", spec.theta)?;
    match &spec.scaling {
        RopeScaling::None => Ok(()),
        RopeScaling::Linear { factor } => positive("factor", *factor),
        RopeScaling::Dynamic { factor, original } => {
            // The base grows with the power dim / (dim - 2).
            if spec.dim < 4 {
                return Err(format!("dynamic scaling of {} elements, at least 4", spec.dim));
            }
            positive("factor", *factor)?;
            at_least_one("original", *original)
        }
        RopeScaling::Llama3 { factor, low, high, original } => {
            positive("factor", *factor)?;
            positive("low", *low)?;
            positive("high", *high)?;
            if low >= high {
                return Err(format!("low is {low}, not below high, {high}"));
            }
            at_least_one("original", *original)
        }
        RopeScaling::Yarn { factor, beta_fast, beta_slow, attention_factor, original, .. } => {
            positive("factor", *factor)?;
            positive("beta_fast", *beta_fast)?;
            positive("beta_slow", *beta_slow)?;
            finite("attention_factor", *attention_factor)?;
            at_least_one("original", *original)
        }
    }
}
