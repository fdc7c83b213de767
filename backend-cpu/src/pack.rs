//! Makes the weight segment: evaluates each recipe and writes it in its layout, one at a time.
//!
//! Matrices packed by rows stream: a weight stays in its mapped file, and blocks of about a mebibyte
//! of rows are quantised, packed and written in order, some at a time on all cores. Pages that were
//! read are given back to the system. So compiling takes the memory of some blocks, whatever the
//! model, and the bytes do not depend on the number of cores.
//!
//! What is read is looked at on the way: a weight with NaN or infinities is refused, and so is one
//! that rounding makes infinite. Values that overflow while a constant is computed from good weights
//! are let through, because graphs may mean infinity (a mask is the logarithm of zeros and ones);
//! where they do harm, the logits of the executable say so.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, Write};
use std::ops::Range;

use ir::eval::{EvalOptions, eval_constant};
use ir::{Graph, Module, NonFiniteWeight, Op, ValueId, WeightSource};
use runtime::kernels::pack::{PAIR, TILE, pack_rows};
use runtime::program::Weight;
use tensor::compare::SquaredError;
use tensor::{DType, Tensor, finite};

use crate::error::CpuError;
use crate::lower::{Form, Lowered, Recipe, filled, weight_names};

/// Why packing stopped.
pub(crate) enum PackError {
    /// A constant has no value.
    Cpu(CpuError),
    /// The output cannot be written.
    Io(io::Error),
}

impl From<io::Error> for PackError {
    fn from(error: io::Error) -> Self {
        PackError::Io(error)
    }
}

/// What quantisation did to weights, by name.
pub(crate) type Errors = BTreeMap<String, SquaredError>;

/// Writes all weights to `out`; `progress(bytes so far, weight)` before each. Returns the errors of
/// those that were quantised, as far as they are rows of weights of the source.
pub(crate) fn write_weights(
    module: &Module,
    lowered: &Lowered,
    source: &dyn WeightSource,
    out: &mut dyn Write,
    progress: &mut dyn FnMut(u64, &str),
) -> Result<Errors, PackError> {
    let (mut at, mut errors) = (0u64, Errors::new());
    for (weight, recipe) in lowered.program.weights.iter().zip(&lowered.recipes) {
        progress(at, &weight.name);
        io::copy(&mut io::Read::take(io::repeat(0), weight.offset - at), out)?;
        let written = write_weight(module, weight, recipe, source, out, &mut errors)?;
        if written != weight.bytes {
            let why =
                format!("{} packed to {written} bytes, planned {}", weight.name, weight.bytes);
            return Err(PackError::Cpu(CpuError::Internal { why }));
        }
        at = weight.offset + weight.bytes;
    }
    progress(at, "");
    Ok(errors)
}

/// Bytes of the rows of a block, about.
const BLOCK_BYTES: usize = 1 << 20;
/// Blocks per core that are packed ahead of the one being written: systems take what is written in
/// bursts, and what is packed meanwhile keeps the cores busy.
const AHEAD: usize = 4;

/// Evaluates and writes one weight; returns its bytes.
fn write_weight(
    module: &Module,
    weight: &Weight,
    recipe: &Recipe,
    source: &dyn WeightSource,
    out: &mut dyn Write,
    errors: &mut Errors,
) -> Result<u64, PackError> {
    let graph = recipe.block.map_or(&module.main, |id| module.block(id));
    let evaluate = |value: ValueId| {
        let options = EvalOptions::default();
        eval_constant(graph, value, recipe.layer, source, &options)
            .map_err(|e| PackError::Cpu(e.into()))
    };
    let judge = || refuse_non_finite(graph, recipe, source);
    if recipe.form == Form::Rows {
        let (inner, mut dtypes) = rounding(graph, recipe.value);
        let value = evaluate(inner)?;
        dtypes.push(weight.dtype);
        let parts = parts(graph, inner, recipe.layer);
        let rows = Rows { value: &value, dtypes: &dtypes, name: &weight.name, parts: &parts };
        let (written, found) = rows.write(&judge, out)?;
        errors.extend(parts.into_iter().map(|part| part.name).zip(found));
        return Ok(written);
    }
    let value = evaluate(recipe.value)?;
    if !finite::is_finite(value.dtype(), value.bytes()) {
        judge()?;
    }
    let value = value.cast(weight.dtype).map_err(|e| wrong(&weight.name, e))?;
    if recipe.form == Form::Columns {
        return write_columns(&value, out);
    }
    out.write_all(value.bytes())?;
    Ok(value.bytes().len() as u64)
}

/// Refuses the first weight of a recipe that is not all numbers: called when the recipe's value is
/// not, so that good weights are not read twice.
fn refuse_non_finite(
    graph: &Graph,
    recipe: &Recipe,
    source: &dyn WeightSource,
) -> Result<(), PackError> {
    for name in weight_names(graph, recipe.value, recipe.layer) {
        // Evaluating has loaded it before.
        let Ok(tensor) = source.load(&name) else { continue };
        NonFiniteWeight::check(&name, &tensor).map_err(|e| PackError::Cpu(e.into()))?;
    }
    Ok(())
}

fn wrong(name: &str, error: impl std::fmt::Display) -> PackError {
    PackError::Cpu(CpuError::Internal { why: format!("{name}: {error}") })
}

/// What a constant is made of by rounding alone, and the dtypes it is rounded to, in order: both
/// keep rows apart.
fn rounding(graph: &Graph, value: ValueId) -> (ValueId, Vec<DType>) {
    let (mut inner, mut dtypes) = (value, Vec::new());
    while let Some((_, node)) = graph.producer(inner) {
        let (Op::Quantize(dtype) | Op::Cast(dtype)) = node.op else { break };
        dtypes.push(dtype);
        inner = node.operands[0];
    }
    dtypes.reverse();
    (inner, dtypes)
}

/// Rows of a matrix that are a weight of the source.
struct Part {
    name: String,
    rows: Range<usize>,
}

/// The weights that a matrix is made of, one below the other; none if it is made otherwise.
fn parts(graph: &Graph, value: ValueId, layer: Option<u32>) -> Vec<Part> {
    let operands = match graph.producer(value) {
        Some((_, node)) if node.op == (Op::Concat { axis: 0 }) => node.operands.clone(),
        _ => vec![value],
    };
    let mut end = 0;
    let part = |value: ValueId| {
        let Op::Weight { name, .. } = &graph.producer(value)?.1.op else { return None };
        let rows = graph.ty(value).as_tensor()?.const_shape()?.first().copied()?;
        end += rows;
        Some(Part { name: filled(name, layer), rows: end - rows..end })
    };
    operands.into_iter().map(part).collect::<Option<_>>().unwrap_or_default()
}

/// A matrix `[N, K]` to be rounded and packed by rows.
struct Rows<'a> {
    value: &'a Tensor,
    /// Rounded to each in turn; the last is what is packed.
    dtypes: &'a [DType],
    name: &'a str,
    /// Where it comes from.
    parts: &'a [Part],
}

/// Rows that were packed.
struct Packed {
    tiles: Vec<u8>,
    /// Whether they were all numbers before they were rounded.
    finite: bool,
    /// Of each part, if they were quantised.
    errors: Vec<SquaredError>,
}

impl Rows<'_> {
    /// Packs block by block on all cores; returns the bytes written and the errors of the parts. Asks
    /// `judge` once when the matrix is not all numbers.
    fn write(
        &self,
        judge: &dyn Fn() -> Result<(), PackError>,
        out: &mut dyn Write,
    ) -> Result<(u64, Vec<SquaredError>), PackError> {
        let (rows, row_bytes) = self.extent()?;
        let step = (BLOCK_BYTES / row_bytes.max(1)).next_multiple_of(PAIR).max(PAIR);
        let blocks = (0..rows).step_by(step).map(|first| first..(first + step).min(rows));
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let (mut written, mut judged, mut errors) = (0, false, Vec::new());
        let mut finish = |oldest: Packing<'_>| {
            let packed = oldest.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
            if !packed.finite && !judged {
                judge()?;
                judged = true;
            }
            out.write_all(&packed.tiles)?;
            written += packed.tiles.len() as u64;
            errors.resize(packed.errors.len(), SquaredError::default());
            errors.iter_mut().zip(packed.errors).for_each(|(sum, more)| *sum += more);
            Ok::<_, PackError>(())
        };
        std::thread::scope(|scope| {
            let mut pending = VecDeque::new();
            for block in blocks {
                let full = pending.len() >= AHEAD * cores;
                if let Some(oldest) = full.then(|| pending.pop_front()).flatten() {
                    finish(oldest)?;
                }
                pending.push_back(scope.spawn(move || self.pack(block)));
            }
            pending.into_iter().try_for_each(&mut finish)
        })?;
        Ok((written, errors))
    }

    fn extent(&self) -> Result<(usize, usize), PackError> {
        let bytes = self.value.bytes().len();
        match *self.value.shape() {
            [rows, _] => Ok((rows, bytes.checked_div(rows).unwrap_or(0))),
            _ => Err(wrong(self.name, format!("packs {:?}", self.value.shape()))),
        }
    }

    /// The tiles of some rows, a multiple of 32 but for the last block.
    fn pack(&self, rows: Range<usize>) -> Result<Packed, PackError> {
        let (_, row_bytes) = self.extent()?;
        let cols = self.value.shape()[1];
        let bytes = self.value.bytes().slice(rows.start * row_bytes..rows.end * row_bytes);
        let bytes = bytes.ok_or_else(|| wrong(self.name, "rows beyond the tensor"))?;
        let exact = Tensor::new(self.value.dtype(), vec![rows.len(), cols], bytes.clone())
            .map_err(|e| wrong(self.name, e))?;
        let finite = finite::is_finite(exact.dtype(), exact.bytes());
        let mut block = exact.clone();
        for &dtype in self.dtypes {
            if dtype == block.dtype() {
                continue;
            }
            block = block.cast(dtype).map_err(|e| wrong(self.name, e))?;
            if finite && !finite::is_finite(dtype, block.bytes()) {
                return Err(self.overflow(dtype, rows));
            }
        }
        let mut tiles = Vec::new();
        pack_rows(block.dtype(), cols, block.bytes(), &mut tiles);
        let errors = if block.dtype().is_quantized() && !exact.dtype().is_quantized() {
            self.errors(rows, &exact.to_f32(), &block.to_f32())
        } else {
            Vec::new()
        };
        bytes.release();
        Ok(Packed { tiles, finite, errors })
    }

    /// Rounding has made numbers infinite.
    fn overflow(&self, dtype: DType, rows: Range<usize>) -> PackError {
        let name = self.name.to_string();
        PackError::Cpu(CpuError::Overflow { name, dtype, first_row: rows.start, rows: rows.len() })
    }

    /// The errors of the parts inside some rows.
    fn errors(&self, rows: Range<usize>, exact: &[f32], rounded: &[f32]) -> Vec<SquaredError> {
        let cols = self.value.shape()[1];
        let inside = |row: usize| (row.clamp(rows.start, rows.end) - rows.start) * cols;
        let error = |part: &Part| {
            let range = inside(part.rows.start)..inside(part.rows.end);
            SquaredError::new(&rounded[range.clone()], &exact[range])
        };
        self.parts.iter().map(error).collect()
    }
}

type Packing<'scope> = std::thread::ScopedJoinHandle<'scope, Result<Packed, PackError>>;

/// Packs `[K, N]` by columns; floats only.
fn write_columns(value: &Tensor, out: &mut dyn Write) -> Result<u64, PackError> {
    let (dtype, k, n) = (value.dtype(), value.shape()[0], value.shape()[1]);
    let size = dtype.block_bytes();
    let bytes: &[u8] = value.bytes();
    let mut tile = Vec::new();
    let mut written = 0;
    for first in (0..n).step_by(PAIR) {
        let columns = PAIR.min(n - first);
        // A pair holds columns of the value side by side already: only the padding is added.
        tile.clear();
        for row in 0..k {
            let start = (row * n + first) * size;
            tile.extend_from_slice(&bytes[start..start + columns * size]);
            tile.resize((row + 1) * columns.next_multiple_of(TILE) * size, 0);
        }
        out.write_all(&tile)?;
        written += tile.len() as u64;
    }
    Ok(written)
}
