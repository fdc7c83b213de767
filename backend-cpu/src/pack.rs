//! Makes the weight segment: evaluates each recipe and writes it in its layout, one at a time.
//!
//! Matrices packed by rows stream: a weight stays in its mapped file, and blocks of about a mebibyte
//! of rows are quantised, packed and written in order, a few at a time on all cores. Pages that were
//! read are given back to the system. So compiling takes the memory of some blocks, whatever the
//! model, and the bytes do not depend on the number of cores.
//!
//! What is read is looked at on the way: a weight with NaN or infinities is refused, and so is one
//! that rounding makes infinite. Values that overflow while a constant is computed from good weights
//! are let through, because graphs may mean infinity (a mask is the logarithm of zeros and ones);
//! where they do harm, the logits of the executable say so.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::ops::Range;

use ir::eval::{EvalOptions, eval_constant};
use ir::{Graph, Module, NonFiniteWeight, Op, ValueId, WeightSource};
use runtime::kernels::pack::{PAIR, TILE, pack_rows};
use runtime::program::Weight;
use tensor::{DType, Tensor, finite};

use crate::error::CpuError;
use crate::lower::{Form, Lowered, Recipe, weight_names};

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

/// Writes all weights to `out`; `progress(bytes so far, weight)` before each.
pub(crate) fn write_weights(
    module: &Module,
    lowered: &Lowered,
    source: &dyn WeightSource,
    out: &mut dyn Write,
    progress: &mut dyn FnMut(u64, &str),
) -> Result<(), PackError> {
    let mut at = 0u64;
    for (weight, recipe) in lowered.program.weights.iter().zip(&lowered.recipes) {
        progress(at, &weight.name);
        io::copy(&mut io::Read::take(io::repeat(0), weight.offset - at), out)?;
        let written = write_weight(module, weight, recipe, source, out)?;
        if written != weight.bytes {
            let why =
                format!("{} packed to {written} bytes, planned {}", weight.name, weight.bytes);
            return Err(PackError::Cpu(CpuError::Internal { why }));
        }
        at = weight.offset + weight.bytes;
    }
    progress(at, "");
    Ok(())
}

/// Bytes of the rows of a block, about.
const BLOCK_BYTES: usize = 1 << 20;

/// Evaluates and writes one weight; returns its bytes.
fn write_weight(
    module: &Module,
    weight: &Weight,
    recipe: &Recipe,
    source: &dyn WeightSource,
    out: &mut dyn Write,
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
        let rows = Rows { value: &value, dtypes: &dtypes, name: &weight.name };
        return rows.write(&judge, out);
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

/// A matrix `[N, K]` to be rounded and packed by rows.
struct Rows<'a> {
    value: &'a Tensor,
    /// Rounded to each in turn; the last is what is packed.
    dtypes: &'a [DType],
    name: &'a str,
}

/// Rows that were packed.
struct Packed {
    tiles: Vec<u8>,
    /// Whether they were all numbers before they were rounded.
    finite: bool,
}

impl Rows<'_> {
    /// Packs block by block on all cores; returns the bytes written. Asks `judge` once when the matrix
    /// is not all numbers.
    fn write(
        &self,
        judge: &dyn Fn() -> Result<(), PackError>,
        out: &mut dyn Write,
    ) -> Result<u64, PackError> {
        let (rows, row_bytes) = self.extent()?;
        let step = (BLOCK_BYTES / row_bytes.max(1)).next_multiple_of(PAIR).max(PAIR);
        let blocks = (0..rows).step_by(step).map(|first| first..(first + step).min(rows));
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let (mut written, mut judged) = (0, false);
        std::thread::scope(|scope| {
            let mut pending = VecDeque::new();
            let mut blocks = blocks.peekable();
            while blocks.peek().is_some() || !pending.is_empty() {
                if let Some(block) = blocks.next_if(|_| pending.len() <= cores) {
                    pending.push_back(scope.spawn(move || self.pack(block)));
                    continue;
                }
                let packed = finish(&mut pending)?;
                if !packed.finite && !judged {
                    judge()?;
                    judged = true;
                }
                out.write_all(&packed.tiles)?;
                written += packed.tiles.len() as u64;
            }
            Ok(written)
        })
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
        let mut block = Tensor::new(self.value.dtype(), vec![rows.len(), cols], bytes.clone())
            .map_err(|e| wrong(self.name, e))?;
        let finite = finite::is_finite(block.dtype(), block.bytes());
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
        bytes.release();
        Ok(Packed { tiles, finite })
    }

    /// Rounding has made numbers infinite.
    fn overflow(&self, dtype: DType, rows: Range<usize>) -> PackError {
        let name = self.name.to_string();
        PackError::Cpu(CpuError::Overflow { name, dtype, first_row: rows.start, rows: rows.len() })
    }
}

type Packing<'scope> = std::thread::ScopedJoinHandle<'scope, Result<Packed, PackError>>;

/// The oldest block, and whether it was all numbers.
fn finish(pending: &mut VecDeque<Packing<'_>>) -> Result<Packed, PackError> {
    let Some(oldest) = pending.pop_front() else {
        return Ok(Packed { tiles: Vec::new(), finite: true });
    };
    oldest.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

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
