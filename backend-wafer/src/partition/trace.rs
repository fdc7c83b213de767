//! Traces a compile-time constant of a graph down to rectangles of named model weights.
//!
//! Passes merge, transpose, fold and quantise weights symbolically (`concat(wq, wk, wv)`,
//! `mul(w, gain)`, `quantize(w)`); a plan pins slices of the tensors that the model file holds. This
//! file is the bridge: a constant of rank at most 2 becomes a [`Matrix`], a tiling by [`Piece`]s.
//! Invariant: the pieces of a matrix do not overlap and cover it.
//! Does not evaluate anything: no weight byte is read here.

use ir::{BinaryOp, Graph, Op, ValueId};
use tensor::DType;

use super::{Unsupported, unsupported};

/// A weight of the model, as a template names it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct WeightRef {
    /// Name, perhaps with `{layer}`.
    pub name: String,
    /// Dtype in the model.
    pub dtype: DType,
    /// Extents.
    pub shape: Vec<usize>,
}

/// A vector that multiplies a piece along one axis of its weight.
#[derive(Clone, Debug, PartialEq)]
pub struct PieceGain {
    /// The vector.
    pub weight: WeightRef,
    /// Its element that meets the first index of the piece.
    pub at: usize,
    /// Whether it runs along the rows axis of the matrix (one factor per row) instead of columns.
    pub along_rows: bool,
}

/// A rectangle of a matrix and the rectangle of a weight that it is.
#[derive(Clone, Debug, PartialEq)]
pub struct Piece {
    /// First row and column in the matrix.
    pub at: (usize, usize),
    /// Rows and columns.
    pub size: (usize, usize),
    /// The weight.
    pub weight: WeightRef,
    /// First row and column in the weight (rank 1 counts as one row).
    pub from: (usize, usize),
    /// Whether matrix (r, c) is weight (c, r).
    pub transposed: bool,
    /// Constant factor.
    pub scale: f64,
    /// Folded vectors.
    pub gains: Vec<PieceGain>,
    /// How the value is stored: the weight's dtype; f32 once something was multiplied in; or what a
    /// cast or quantisation made of it.
    pub storage: DType,
    /// Whether a cast or quantisation rounded the value: nothing can be multiplied in or out then.
    pub rounded: bool,
}

/// A constant matrix; vectors have one row, scalars one element.
#[derive(Clone, Debug, PartialEq)]
pub struct Matrix {
    /// Rows.
    pub rows: usize,
    /// Columns.
    pub cols: usize,
    /// The tiling, sorted by `at`.
    pub pieces: Vec<Piece>,
}

impl Piece {
    /// All of a weight, as it is stored.
    pub(crate) fn whole(weight: WeightRef, size: (usize, usize)) -> Self {
        let storage = weight.dtype;
        Piece {
            at: (0, 0),
            size,
            weight,
            from: (0, 0),
            transposed: false,
            scale: 1.0,
            gains: Vec::new(),
            storage,
            rounded: false,
        }
    }
}

impl Matrix {
    /// Rows and columns exchanged.
    #[must_use]
    pub fn transpose(mut self) -> Self {
        std::mem::swap(&mut self.rows, &mut self.cols);
        for piece in &mut self.pieces {
            piece.at = (piece.at.1, piece.at.0);
            piece.size = (piece.size.1, piece.size.0);
            piece.transposed = !piece.transposed;
            for gain in &mut piece.gains {
                gain.along_rows = !gain.along_rows;
            }
        }
        self.pieces.sort_by_key(|p| p.at);
        self
    }

    /// Rows `start..end`.
    #[must_use]
    pub fn slice_rows(self, start: usize, end: usize) -> Self {
        let pieces = self.pieces.into_iter().filter_map(|p| clip_rows(p, start, end)).collect();
        Matrix { rows: end.saturating_sub(start), cols: self.cols, pieces }
    }

    /// Columns `start..end`.
    #[must_use]
    pub fn slice_cols(self, start: usize, end: usize) -> Self {
        self.transpose().slice_rows(start, end).transpose()
    }

    /// Every element times `factor`; a power of two keeps the storage.
    #[must_use]
    pub fn scaled(mut self, factor: f64) -> Self {
        for piece in &mut self.pieces {
            piece.scale *= factor;
            if factor.abs().log2().fract() != 0.0 {
                piece.storage = DType::F32;
            }
        }
        self
    }

    /// Takes out a constant factor and a vector along the columns that all pieces share, so that
    /// weights can be stored as the model stores them: `self = out * diag(gain) * factor`.
    #[must_use]
    pub fn unfold(&self) -> (Matrix, Option<Matrix>, f64) {
        let Some(first) = self.pieces.first() else { return (self.clone(), None, 1.0) };
        let origin = |p: &Piece| {
            let gain = p.gains.first()?;
            let ok = p.gains.len() == 1 && !gain.along_rows && gain.at >= p.at.1;
            ok.then(|| (gain.weight.clone(), gain.at - p.at.1))
        };
        let shared =
            origin(first).filter(|o| self.pieces.iter().all(|p| origin(p).as_ref() == Some(o)));
        let plain = self.pieces.iter().all(|p| p.gains.is_empty());
        let uniform = self.pieces.iter().all(|p| p.scale == first.scale && !p.rounded);
        if !uniform || (shared.is_none() && !plain) {
            return (self.clone(), None, 1.0);
        }
        let mut out = self.clone();
        for piece in &mut out.pieces {
            piece.scale = 1.0;
            piece.gains.clear();
            piece.storage = piece.weight.dtype;
        }
        let gain = shared.and_then(|(weight, at)| {
            let vector = self::weight(&weight.name, weight.dtype, &weight.shape)?;
            Some(vector.slice_cols(at, at + self.cols))
        });
        (out, gain, first.scale)
    }

    /// Bytes of the elements in the storage of their pieces, scales of quantised groups included.
    pub fn bytes(&self) -> u64 {
        let of = |p: &Piece| {
            let elements = p.size.0 as u64 * p.size.1 as u64;
            elements * p.storage.block_bytes() as u64 / p.storage.block_len() as u64
        };
        self.pieces.iter().map(of).sum()
    }
}

fn clip_rows(mut piece: Piece, start: usize, end: usize) -> Option<Piece> {
    let first = piece.at.0.max(start);
    let last = (piece.at.0 + piece.size.0).min(end);
    let rows = last.checked_sub(first).filter(|&n| n > 0)?;
    let skipped = first - piece.at.0;
    piece.at.0 = first - start;
    piece.size.0 = rows;
    if piece.transposed {
        piece.from.1 += skipped;
    } else {
        piece.from.0 += skipped;
    }
    for gain in piece.gains.iter_mut().filter(|g| g.along_rows) {
        gain.at += skipped;
    }
    Some(piece)
}

/// The matrix that a compile-time constant is.
///
/// # Errors
/// Names the op that cannot be traced to weights.
pub(crate) fn trace(graph: &Graph, value: ValueId) -> Result<Matrix, Unsupported> {
    let (_, node) = graph
        .producer(value)
        .ok_or_else(|| unsupported(graph, value, "is a parameter, not a constant"))?;
    let x = |i: usize| trace(graph, node.operands[i]);
    match &node.op {
        Op::Weight { name, dtype, shape } => weight(name, *dtype, shape)
            .ok_or_else(|| unsupported(graph, value, "is a weight of more than two axes")),
        Op::Transpose(perm) if perm.len() <= 2 => {
            let matrix = x(0)?;
            Ok(if perm.as_slice() == [1, 0] { matrix.transpose() } else { matrix })
        }
        Op::Concat { axis } => concat(graph, value, &node.operands, *axis),
        Op::Slice { axis, start, end } => match (start.as_const(), end.as_const()) {
            (Some(start), Some(end)) if is_row_axis(graph, value, *axis) => {
                Ok(x(0)?.slice_rows(start, end))
            }
            (Some(start), Some(end)) => Ok(x(0)?.slice_cols(start, end)),
            _ => Err(unsupported(graph, value, "slices a constant by a symbolic range")),
        },
        Op::Cast(dtype) => restore(graph, value, x(0)?, *dtype),
        Op::Quantize(dtype) => {
            let matrix = x(0)?;
            // The plan quantises along the last axis of the stored weight, and whole tensors.
            if matrix.pieces.iter().any(|p| p.transposed) {
                return Err(unsupported(graph, value, "quantises a transposed weight"));
            }
            restore(graph, value, matrix, *dtype)
        }
        Op::Binary(BinaryOp::Mul) => product(graph, value, node.operands[0], node.operands[1]),
        Op::Reshape(_) => reshape(graph, value, x(0)?),
        _ => Err(unsupported(graph, value, "is computed from weights in a way no pin expresses")),
    }
}

fn weight(name: &str, dtype: DType, shape: &[usize]) -> Option<Matrix> {
    let (rows, cols) = match *shape {
        [cols] => (1, cols),
        [rows, cols] => (rows, cols),
        _ => return None,
    };
    let weight = WeightRef { name: name.to_string(), dtype, shape: shape.to_vec() };
    Some(Matrix { rows, cols, pieces: vec![Piece::whole(weight, (rows, cols))] })
}

/// Whether `axis` of a value of rank at most 2 is the row axis of its matrix.
fn is_row_axis(graph: &Graph, value: ValueId, axis: usize) -> bool {
    graph.ty(value).as_tensor().is_some_and(|t| t.rank() == 2 && axis == 0)
}

fn concat(
    graph: &Graph,
    value: ValueId,
    operands: &[ValueId],
    axis: usize,
) -> Result<Matrix, Unsupported> {
    let by_rows = is_row_axis(graph, value, axis);
    let mut joined: Option<Matrix> = None;
    for &operand in operands {
        let next = trace(graph, operand)?;
        let next = if by_rows { next } else { next.transpose() };
        joined = Some(match joined {
            None => next,
            Some(mut matrix) => {
                matrix.pieces.extend(next.pieces.into_iter().map(|mut p| {
                    p.at.0 += matrix.rows;
                    p
                }));
                matrix.rows += next.rows;
                matrix
            }
        });
    }
    let matrix = joined.ok_or_else(|| unsupported(graph, value, "joins nothing"))?;
    Ok(if by_rows { matrix } else { matrix.transpose() })
}

/// A cast or quantisation: what is pinned is stored in `dtype`.
fn restore(
    graph: &Graph,
    value: ValueId,
    mut matrix: Matrix,
    dtype: DType,
) -> Result<Matrix, Unsupported> {
    for piece in &mut matrix.pieces {
        // Storing the narrow value and widening it when read is the same number.
        if dtype == DType::F32 || dtype == piece.storage {
            continue;
        }
        if piece.rounded {
            return Err(unsupported(graph, value, "rounds a weight twice"));
        }
        piece.storage = dtype;
        piece.rounded = true;
    }
    Ok(matrix)
}

/// The scalar value of a constant expression without weights.
pub(crate) fn scalar(graph: &Graph, value: ValueId) -> Option<f64> {
    let (_, node) = graph.producer(value)?;
    match (&node.op, node.operands.as_slice()) {
        (Op::Const(real), _) => Some(f64::from(real.get() as f32)),
        (Op::Reshape(_) | Op::Broadcast(_), &[x]) => scalar(graph, x),
        _ => None,
    }
}

fn product(graph: &Graph, value: ValueId, a: ValueId, b: ValueId) -> Result<Matrix, Unsupported> {
    for (x, y) in [(a, b), (b, a)] {
        if let Some(factor) = scalar(graph, y) {
            let matrix = trace(graph, x)?;
            reject_rounded(graph, value, &matrix)?;
            return Ok(matrix.scaled(factor));
        }
    }
    let (x, y) = (trace(graph, a)?, trace(graph, b)?);
    let size = |m: &Matrix| m.rows * m.cols;
    let (matrix, vector) = if size(&x) >= size(&y) { (x, y) } else { (y, x) };
    reject_rounded(graph, value, &matrix)?;
    let along_rows = vector.cols == 1 && vector.rows == matrix.rows && vector.rows > 1;
    let vector = if along_rows { vector.transpose() } else { vector };
    let extent = if along_rows { matrix.rows } else { matrix.cols };
    if vector.rows != 1 || vector.cols != extent {
        return Err(unsupported(graph, value, "multiplies two weights that are not a gain"));
    }
    let mut out = matrix;
    for piece in &mut out.pieces {
        let (start, len) =
            if along_rows { (piece.at.0, piece.size.0) } else { (piece.at.1, piece.size.1) };
        let part = vector.clone().slice_cols(start, start + len);
        let [only] = part.pieces.as_slice() else {
            return Err(unsupported(graph, value, "has a gain assembled from several weights"));
        };
        if !only.gains.is_empty() || only.rounded {
            return Err(unsupported(graph, value, "has a gain that is itself computed"));
        }
        let at = if only.transposed { only.from.0 } else { only.from.1 };
        piece.scale *= only.scale;
        piece.storage = DType::F32;
        piece.gains.push(PieceGain { weight: only.weight.clone(), at, along_rows });
    }
    Ok(out)
}

/// A factor after a rounding cannot be pinned: pins round last.
fn reject_rounded(graph: &Graph, value: ValueId, matrix: &Matrix) -> Result<(), Unsupported> {
    if matrix.pieces.iter().any(|p| p.rounded) {
        return Err(unsupported(graph, value, "scales a weight after rounding it"));
    }
    Ok(())
}

/// Only reshapes that add or drop axes of extent 1.
fn reshape(graph: &Graph, value: ValueId, matrix: Matrix) -> Result<Matrix, Unsupported> {
    let shape = graph.ty(value).as_tensor().and_then(|t| t.const_shape()).unwrap_or_default();
    let long: Vec<usize> = shape.iter().copied().filter(|&n| n != 1).collect();
    let column = shape.len() == 2 && shape[1] == 1;
    match (long.as_slice(), matrix.rows, matrix.cols) {
        (&[r, c], rows, cols) if (r, c) == (rows, cols) => Ok(matrix),
        ([] | [_], 1, _) if column => Ok(matrix.transpose()),
        ([] | [_], _, 1) if !column => Ok(matrix.transpose()),
        ([] | [_], 1, _) | ([] | [_], _, 1) => Ok(matrix),
        _ => Err(unsupported(graph, value, "reshapes a weight in a way no pin expresses")),
    }
}

#[cfg(test)]
mod tests {
    use ir::{Builder, Graph};

    use super::*;

    /// transpose(concat(wq * gain, wk * gain)) of [6, 4] and [2, 4], as merged and folded by passes.
    fn merged() -> (Graph, ValueId) {
        let mut b = Builder::new("test");
        let mut parts = Vec::new();
        let gain = b.weight("gain", DType::F32, &[4]).expect("weight");
        for (name, n) in [("wq", 6), ("wk", 2)] {
            let w = b.weight(name, DType::BF16, &[n, 4]).expect("weight");
            parts.push(b.binary(BinaryOp::Mul, w, gain).expect("fold"));
        }
        let all = b.apply(Op::Concat { axis: 0 }, &parts).expect("concat");
        let all = b.transpose(all, &[1, 0]).expect("transpose");
        let graph = b.finish(vec![all]);
        (graph, all)
    }

    #[test]
    fn merged_and_folded_weights_are_found_again() {
        let (graph, value) = merged();
        let matrix = trace(&graph, value).expect("traces").transpose();
        assert_eq!((matrix.rows, matrix.cols), (8, 4));
        let k = matrix.slice_rows(6, 8);
        let [piece] = k.pieces.as_slice() else { panic!("{k:?}") };
        assert_eq!(
            (piece.weight.name.as_str(), piece.from, piece.transposed),
            ("wk", (0, 0), false)
        );
        assert_eq!(piece.gains.len(), 1);
        // A product is f32 ...
        assert_eq!(piece.storage, DType::F32);
        // ... but with the gain taken out, the weight is as narrow as it is stored.
        let (plain, gain, scale) = k.unfold();
        assert_eq!((plain.pieces[0].storage, scale), (DType::BF16, 1.0));
        assert_eq!(gain.map(|g| g.pieces[0].weight.name.clone()), Some("gain".into()));
    }

    #[test]
    fn slices_move_the_origin_in_the_weight() {
        let (graph, value) = merged();
        let rows = trace(&graph, value).expect("traces").transpose().slice_rows(2, 5);
        assert_eq!((rows.pieces[0].from, rows.pieces[0].size), ((2, 0), (3, 4)));
        let cols = rows.slice_cols(1, 3);
        assert_eq!((cols.pieces[0].from, cols.pieces[0].gains[0].at), ((2, 1), 1));
    }

    #[test]
    fn what_no_pin_expresses_is_named() {
        let mut b = Builder::new("test");
        let w = b.weight("w", DType::F32, &[4, 4]).expect("weight");
        let sum = b.binary(BinaryOp::Add, w, w).expect("add");
        let graph = b.finish(vec![sum]);
        let error = trace(&graph, sum).expect_err("no pin adds");
        assert_eq!(error.op, "binary");
    }
}
