//! One op applied to balls.
//!
//! A real function of an operand in a ball lies where the function takes the ball; monotone functions are
//! asked at both ends, others carry radii by a bound of their slope.

use super::array::error;
use super::sums::{self, product, times};
use super::{Balls, Rounding, movement};
use crate::eval::ops::Step;
use crate::eval::{EvalError, math, reduce};
use crate::{Activation, BinaryOp, Bindings, Op, RopeSpec, UnaryOp};

/// A constant. Rules take a number for 1/n, or for a constant of gelu, when f32 does not tell the two
/// apart; such a number is known as far as it is from that.
pub(super) fn constant(value: f64, rounding: Rounding) -> (f64, f64) {
    let meant = [(1.0 / value).round().recip(), (2.0 / std::f64::consts::PI).sqrt(), 0.044_715];
    let taken_for = meant.into_iter().find(|m| *m as f32 == value as f32).unwrap_or(value);
    let apart = if taken_for.is_finite() { (taken_for - value).abs() } else { 0.0 };
    let short = value * 2f64.powi(16);
    if !value.is_finite() || (short.fract() == 0.0 && short.abs() < 2f64.powi(24)) {
        return (value, 0.0);
    }
    (rounding.round(value), apart + error(rounding, value))
}

/// As `ops::apply`, with its preconditions.
pub(super) fn apply(
    op: &Op,
    x: &[Balls],
    shape: &[usize],
    step: &Step,
    rounding: Rounding,
) -> Result<Balls, EvalError> {
    if shape.contains(&0) && *op != Op::Gather {
        return Ok(Balls::exact(shape, vec![]));
    }
    let why = |why: String| EvalError::Malformed { graph: String::new(), why };
    Ok(match op {
        Op::Const(value) => Balls::new(shape, [constant(value.get(), rounding)].into_iter()),
        Op::Positions => {
            let Bindings { t, c, .. } = step.bindings;
            Balls::exact(shape, (c..c + t).map(|p| p as f64).collect())
        }
        Op::CausalMask { window } => causal_mask(*window, shape, step),
        Op::Unary(f) => x[0].map(|v, r| unary(*f, v, r, rounding)),
        Op::Binary(f) => elementwise(&x[0], &x[1], shape, |a, b| binary(*f, a, b, rounding)),
        Op::Cast(dtype) | Op::Quantize(dtype) => x[0].cast(*dtype, rounding).map_err(why)?,
        Op::Matmul => sums::matmul(&x[0], &x[1], shape, rounding),
        Op::Reduce { op, axis } => sums::reduce(*op, &x[0], *axis, shape, rounding),
        Op::Softmax => sums::softmax(&x[0], rounding),
        Op::RmsNorm { eps } => sums::rms_norm(&x[0], x.get(1), *eps, rounding),
        Op::Reshape(_) => movement::reshape(&x[0], shape),
        Op::Transpose(perm) => movement::transpose(&x[0], perm, shape),
        Op::Slice { axis, start, .. } => {
            let start = step.extent(start)?;
            if start.checked_add(shape[*axis]).is_none_or(|end| end > x[0].shape[*axis]) {
                return Err(why(format!("a slice from {start} leaves its operand")));
            }
            movement::slice(&x[0], *axis, start, shape)
        }
        Op::Concat { axis } => movement::concat(x, *axis, shape),
        Op::Broadcast(_) => movement::broadcast(&x[0], shape),
        Op::Gather => movement::gather(&x[0], &x[1], shape)?,
        Op::Rope(spec) => rope(spec, &x[0], &x[1], step, rounding),
        Op::Attention { scale, window } => sums::attention(x, (*scale, *window), rounding),
        Op::Glu(act) => elementwise(&x[0], &x[1], shape, |(g, r), u| {
            times(unary(UnaryOp::Act(*act), g, r, rounding), u, rounding)
        }),
        Op::Weight { .. } | Op::CacheAppend | Op::CacheRead | Op::Repeat { .. } => {
            return Err(why(format!("{} is not a function of arrays", op.info().name)));
        }
    })
}

fn causal_mask(window: Option<usize>, shape: &[usize], step: &Step) -> Balls {
    let Bindings { t, c, .. } = step.bindings;
    let sees =
        |i: usize, j: usize| if reduce::sees(c + i, j, window) { 0.0 } else { f64::NEG_INFINITY };
    let mask = (0..t).flat_map(|i| (0..c + t).map(move |j| (i, j)));
    Balls::exact(shape, mask.map(|(i, j)| sees(i, j)).collect())
}

/// Elementwise with broadcasting.
fn elementwise(
    a: &Balls,
    b: &Balls,
    shape: &[usize],
    f: impl Fn((f64, f64), (f64, f64)) -> (f64, f64),
) -> Balls {
    let stretched = |x: &Balls| {
        let mut padded = vec![1; shape.len() - x.shape.len()];
        padded.extend(&x.shape);
        movement::broadcast(&movement::reshape(x, &padded), shape)
    };
    let (a, b) = (stretched(a), stretched(b));
    Balls::new(shape, (0..a.mid.len()).map(|i| f(a.at(i), b.at(i))))
}

fn unary(op: UnaryOp, x: f64, r: f64, rounding: Rounding) -> (f64, f64) {
    let f = |x: f64| math::unary_wide(op, x);
    let y = f(x);
    // The largest slope of each activation: silu 1.0999, gelu and gelu_tanh 1.1290.
    let slope = match op {
        UnaryOp::Square => Some(2.0 * x.abs() + r),
        UnaryOp::Act(Activation::Silu | Activation::Gelu | Activation::GeluTanh) => Some(1.13),
        _ => None,
    };
    let carried = match (op, slope) {
        _ if r == 0.0 => 0.0,
        (_, Some(slope)) => product(slope, r),
        // A pole or the end of the domain within the ball.
        (UnaryOp::Recip, _) if x.abs() <= r => f64::INFINITY,
        (UnaryOp::Rsqrt, _) if x <= r => f64::INFINITY,
        // The function is 0 where its operand, by rounding, may be negative.
        (UnaryOp::Sqrt, _) => (f(x + r) - y).max(y - f((x - r).max(0.0))),
        _ => (f(x + r) - y).abs().max((y - f(x - r)).abs()),
    };
    let inside = if matches!(op, UnaryOp::Neg) { 0.0 } else { error(rounding, y) };
    // erf is good to 1e-15; gelu subtracts it from 1.
    let series = match op {
        UnaryOp::Act(Activation::Gelu | Activation::GeluTanh) if x.is_finite() => 1e-15 * x.abs(),
        _ => 0.0,
    };
    (rounding.round(y), carried + inside + series)
}

fn binary(op: BinaryOp, a: (f64, f64), b: (f64, f64), rounding: Rounding) -> (f64, f64) {
    let ((x, r), (y, s)) = (a, b);
    let (value, carried) = match op {
        BinaryOp::Add => (x + y, r + s),
        BinaryOp::Sub => (x - y, r + s),
        BinaryOp::Mul => return times(a, b, rounding),
        BinaryOp::Div => {
            let quotient = x / y;
            let room = (y.abs() - s).max(0.0);
            (quotient, if r + s == 0.0 { 0.0 } else { (r + product(quotient.abs(), s)) / room })
        }
        BinaryOp::Max => return (x.max(y), r.max(s)),
        BinaryOp::Min => return (x.min(y), r.max(s)),
    };
    (rounding.round(value), carried + error(rounding, value))
}

/// As `ops::rope`; the angles are those of f32 everywhere.
fn rope(spec: &RopeSpec, x: &Balls, positions: &Balls, step: &Step, rounding: Rounding) -> Balls {
    let (heads, width) = (x.shape[1], x.shape[2]);
    let frequencies = spec.inverse_frequencies(step.bindings.c + step.bindings.t);
    let half = spec.dim / 2;
    let mut balls: Vec<(f64, f64)> = (0..x.mid.len()).map(|i| x.at(i)).collect();
    let tokens = balls.chunks_exact_mut((heads * width).max(1));
    for (token, &position) in tokens.zip(positions.mid.iter()) {
        for (i, &frequency) in frequencies.iter().enumerate() {
            let (cos, sin) = spec.rotation(position as i32, frequency);
            let (cos, sin) = ((f64::from(cos), 0.0), (f64::from(sin), 0.0));
            for head in token.chunks_exact_mut(width) {
                let (a, b) = (head[i], head[i + half]);
                let turned = |op: BinaryOp, p: (f64, f64), q: (f64, f64)| {
                    binary(op, times(p, cos, rounding), times(q, sin, rounding), rounding)
                };
                head[i] = turned(BinaryOp::Sub, a, b);
                head[i + half] = turned(BinaryOp::Add, b, a);
            }
        }
    }
    Balls::new(&x.shape, balls.into_iter())
}
