//! Makes the weight segment: evaluates each recipe and writes it in its layout, one at a time.
//!
//! Rows that a checkpoint stores as the kernels want them go from the mapped file to the output, tile
//! by tile, with one tile in memory.

use std::io::{self, Write};

use ir::eval::{EvalOptions, eval_constant};
use ir::{Module, WeightSource};
use runtime::kernels::pack::{TILE, pack_tile};
use runtime::program::Weight;
use tensor::Tensor;

use crate::error::CpuError;
use crate::lower::{Form, Lowered, Recipe};

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

/// Evaluates and writes one weight; returns its bytes.
fn write_weight(
    module: &Module,
    weight: &Weight,
    recipe: &Recipe,
    source: &dyn WeightSource,
    out: &mut dyn Write,
) -> Result<u64, PackError> {
    let graph = recipe.block.map_or(&module.main, |id| module.block(id));
    let options = EvalOptions::default();
    let value = eval_constant(graph, recipe.value, recipe.layer, source, &options)
        .map_err(|e| PackError::Cpu(e.into()))?;
    // Evaluation may have widened a quantised value whose groups were cut.
    let value = value
        .cast(weight.dtype)
        .map_err(|e| PackError::Cpu(CpuError::Internal { why: format!("{}: {e}", weight.name) }))?;
    match recipe.form {
        Form::Plain => {
            out.write_all(value.bytes())?;
            Ok(value.bytes().len() as u64)
        }
        Form::Rows => write_rows(&value, out),
        Form::Columns => write_columns(&value, out),
    }
}

/// Packs `[N, K]` by rows.
fn write_rows(value: &Tensor, out: &mut dyn Write) -> Result<u64, PackError> {
    let (dtype, cols) = (value.dtype(), value.shape()[1]);
    let row_bytes = dtype.bytes_for(cols).unwrap_or(0);
    let (mut tile, mut written) = (Vec::new(), 0);
    for rows in value.bytes().chunks((row_bytes * TILE).max(1)) {
        tile.clear();
        pack_tile(dtype, cols, rows, &mut tile);
        out.write_all(&tile)?;
        written += tile.len() as u64;
    }
    Ok(written)
}

/// Packs `[K, N]` by columns; floats only.
fn write_columns(value: &Tensor, out: &mut dyn Write) -> Result<u64, PackError> {
    let (dtype, k, n) = (value.dtype(), value.shape()[0], value.shape()[1]);
    let size = dtype.block_bytes();
    let bytes: &[u8] = value.bytes();
    let mut tile = Vec::new();
    let mut written = 0;
    for first in (0..n).step_by(TILE) {
        let columns = TILE.min(n - first);
        // A tile holds columns of the value side by side already: only the padding is added.
        tile.clear();
        for row in 0..k {
            let start = (row * n + first) * size;
            tile.extend_from_slice(&bytes[start..start + columns * size]);
            tile.resize((row + 1) * TILE * size, 0);
        }
        out.write_all(&tile)?;
        written += tile.len() as u64;
    }
    Ok(written)
}
