//! Mat-vecs and norms as every template has them: pins, and the instructions around a reduction.
//!
//! A norm costs no sweep of its own: `W (x r) = r (W x)` for the scalar r = 1 / rms(x), so the sum of
//! squares travels as one more element of the mat-vec's reduction and the result is scaled afterwards
//! ([`NormedMatVec`]). A bias is added by the first row or column before a plain reduction, and on every
//! PE after the scale of a normed one.
//! Does not know phases: callers place the instructions.

use plan::{BinaryOp, BufferId, BufferRole, Instr, Len, Matrix, Operand, ReduceOp, Slice, UnaryOp};

use super::builder::{TemplateBuilder, Vector};
use super::pins::{Tiling, only_piece, pin_matrix, pin_vector, storage_of, vector_buffer};
use crate::WaferError;
use crate::partition::{Linear, Norm};

/// y = (W x) / rms(x): the message to reduce, and what precedes and follows the reduction.
pub(crate) struct NormedMatVec {
    /// The results, then the sum of squares.
    pub(crate) message: Slice,
    /// Local work before the reduction.
    pub(crate) before: Vec<Instr>,
    /// The sum of squares, then the factor 1 / rms.
    pub(crate) factor: Slice,
    /// Makes the factor of the reduced sum.
    pub(crate) rsqrt: Instr,
    /// Scales all results, adds biases and applies the mat-vecs' own factors.
    pub(crate) finish: Vec<Instr>,
    /// Whether `finish` only scales by the factor.
    pub(crate) plain: bool,
}

/// The mat-vecs `blocks` of x / rms(x) * gain, side by side in `y`, whose buffer has one element more.
/// `k` cuts x; `copies` PEs along the reduced axis hold the same results.
pub(crate) fn normed_mat_vec(
    b: &mut TemplateBuilder,
    name: &str,
    (norm, count): (&Norm, usize),
    blocks: &[(&Linear, Tiling)],
    (k, x, replicas): (Tiling, Vector, u32),
    (y, copies): (Vector, u32),
) -> Result<NormedMatVec, WaferError> {
    let n = y.len.constant;
    let factor = Slice { buffer: y.buffer, offset: n, len: Len::of(1) };
    let mut before = vec![Instr::Reduce { op: ReduceOp::SumSquares, dst: factor, src: x.all() }];
    let mut input = x.all();
    if let Some(gain) = &norm.gain {
        let buffer = vector_buffer(b, &format!("{name}-gain"), x.len.constant);
        pin_vector(b, gain, k, (buffer, 0), Some(replicas))?;
        input = b.vector(&format!("{name}-in"), x.len.constant).all();
        let b = Operand::Slice(whole(buffer, x.len.constant));
        before.push(Instr::Binary { op: BinaryOp::Mul, dst: input, a: x.all(), b });
    }
    before.extend(mat_vec(b, name, blocks, (k, input), (y, None))?);
    let mut finish = vec![scale_by(y.all(), factor)];
    if let Some(bias) = pin_biases(b, name, blocks, Some(copies))? {
        finish.push(add_to(y.all(), bias));
    }
    let mut column = 0;
    for (linear, n) in blocks {
        let part = y.part(column, n.tile());
        column += n.tile();
        if linear.scale != 1.0 {
            finish.push(scale(part, linear.scale));
        }
    }
    let op = UnaryOp::RsqrtMean { count: count as u32, eps: norm.eps };
    Ok(NormedMatVec {
        message: Slice { buffer: y.buffer, offset: 0, len: Len::of(n + 1) },
        before,
        factor,
        rsqrt: Instr::Unary { op, dst: factor, src: factor },
        plain: finish.len() == 1,
        finish,
    })
}

/// The biases of `blocks` side by side, zero where there is none; `None` when no block has one.
pub(crate) fn pin_biases(
    b: &mut TemplateBuilder,
    name: &str,
    blocks: &[(&Linear, Tiling)],
    copies: Option<u32>,
) -> Result<Option<Slice>, WaferError> {
    if blocks.iter().all(|(linear, _)| linear.bias.is_none()) {
        return Ok(None);
    }
    let total = blocks.iter().map(|(_, n)| n.tile()).sum();
    let buffer = vector_buffer(b, &format!("{name}-bias"), total);
    let mut column = 0;
    for (linear, n) in blocks {
        if let Some(bias) = &linear.bias {
            pin_vector(b, bias, *n, (buffer, column), copies)?;
        }
        column += n.tile();
    }
    Ok(Some(whole(buffer, total)))
}

/// y\[all blocks\] = x W + start: pins, and the instructions before the reduction. Neighbouring blocks
/// in the same storage share one buffer and one instruction.
pub(crate) fn mat_vec(
    b: &mut TemplateBuilder,
    name: &str,
    blocks: &[(&Linear, Tiling)],
    (k, x): (Tiling, Slice),
    (y, start): (Vector, Option<Slice>),
) -> Result<Vec<Instr>, WaferError> {
    let mut program: Vec<Instr> =
        start.into_iter().map(|src| Instr::Copy { dst: y.all(), src }).collect();
    let mut storages = Vec::new();
    for (linear, _) in blocks {
        storages.push(storage_of(only_piece(&linear.matrix)?)?);
    }
    let mut first = 0;
    let mut column = 0;
    while first < blocks.len() {
        let same = storages[first..].iter().take_while(|&&s| s == storages[first]).count();
        let group = &blocks[first..first + same];
        let cols: u32 = group.iter().map(|(_, n)| n.tile()).sum();
        let rows = k.tile();
        let suffix = if same == blocks.len() { String::new() } else { format!("-{first}") };
        let label = format!("w-{name}{suffix}");
        let buffer = b.buffer(&label, BufferRole::Weights, storages[first], (rows, cols));
        let mut at = 0;
        for (linear, n) in group {
            pin_matrix(b, linear, (k, *n), buffer, at)?;
            at += n.tile();
        }
        program.push(Instr::Gemv {
            y: y.part(column, cols),
            x,
            w: Matrix { buffer, row: 0, col: 0, rows, cols },
            accumulate: start.is_some(),
        });
        column += cols;
        first += same;
    }
    Ok(program)
}

/// All `len` elements of a one-row buffer.
pub(crate) fn whole(buffer: BufferId, len: u32) -> Slice {
    Slice { buffer, offset: 0, len: Len::of(len) }
}

/// a *= b, element by element.
pub(crate) fn multiply(a: Slice, b: Slice) -> Instr {
    Instr::Binary { op: BinaryOp::Mul, dst: a, a, b: Operand::Slice(b) }
}

/// a += b
pub(crate) fn add_to(a: Slice, b: Slice) -> Instr {
    Instr::Binary { op: BinaryOp::Add, dst: a, a, b: Operand::Slice(b) }
}

/// a *= factor
pub(crate) fn scale(a: Slice, factor: f64) -> Instr {
    Instr::Binary { op: BinaryOp::Mul, dst: a, a, b: Operand::Scalar(factor as f32) }
}

/// Each segment of a times its element of `factors`.
pub(crate) fn scale_by(a: Slice, factors: Slice) -> Instr {
    Instr::Binary { op: BinaryOp::Mul, dst: a, a, b: Operand::PerSegment(factors) }
}

/// The factors of mat-vecs, applied to their results.
pub(crate) fn scales(results: &[(&Linear, Slice)]) -> Vec<Instr> {
    let scaled = results.iter().filter(|(linear, _)| linear.scale != 1.0);
    scaled.map(|&(linear, y)| scale(y, linear.scale)).collect()
}
