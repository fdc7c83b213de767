//! Stub, weights and program in one file.
//!
//! The file is written under a temporary name beside its target and renamed when it is whole, so a
//! failure leaves nothing. Same module, weights and assets, same bytes.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::Path;

use ir::{Module, WeightSource};
use runtime::program::{Activations, Program, encode};
use runtime::{Assets, Payload, PayloadHead, WEIGHT_ALIGN, write_tail};
use tensor::compare::SquaredError;

use crate::error::CpuError;
use crate::lower::{Lowered, lower};
use crate::pack::{Errors, PackError, write_weights};
use crate::tokenizer;

/// The program of every executable: `runtime`'s `sparkc-stub`, built beside this crate.
static STUB: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/sparkc-stub"));

/// Weight segments from this size on are aligned to huge pages; smaller ones to pages, so that a
/// small model has a small file.
const LARGE: u64 = 16 << 20;
const PAGE: u64 = 4096;

/// How far packing is.
#[derive(Clone, Copy, Debug)]
pub struct Progress<'a> {
    /// Weight bytes written.
    pub done: u64,
    /// Weight bytes in all.
    pub total: u64,
    /// What is being packed; empty at the end.
    pub weight: &'a str,
}

/// What was made.
#[derive(Clone, Debug)]
pub struct Summary {
    /// Bytes of the file.
    pub file_bytes: u64,
    /// Bytes of packed weights.
    pub weight_bytes: u64,
    /// Bytes of the bare stub.
    pub stub_bytes: u64,
    /// Calls per decode step, loops unrolled.
    pub calls: u64,
    /// What quantisation did to weights of the source, by name; those that were changed otherwise too
    /// are missing.
    pub errors: BTreeMap<String, SquaredError>,
    /// Why the executable reads its tokenizer.json at every start: tables would be quicker.
    pub without_tables: Option<String>,
    /// The program.
    pub program: Program,
}

/// The bytes of the bare stub.
pub fn stub_bytes() -> &'static [u8] {
    STUB
}

/// Compiles a verified module to an executable file at `path`, whose products see this of
/// activations.
///
/// # Errors
/// When the module cannot be lowered, a weight is missing, or the file cannot be written; then there
/// is no file.
pub fn compile(
    module: &Module,
    activations: Activations,
    weights: &dyn WeightSource,
    assets: Assets,
    path: &Path,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<Summary, CpuError> {
    let lowered = lower(module, activations)?;
    let write = |source: io::Error| CpuError::Write { path: path.to_path_buf(), source };
    let directory = path.parent().filter(|d| !d.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let file = tempfile::Builder::new().prefix(".model-").tempfile_in(directory).map_err(write)?;
    let mut out = Blocks::new(file);
    let result = write_executable(module, &lowered, weights, assets, &mut out, progress);
    let written = match result {
        Ok(written) => written,
        Err(PackError::Cpu(error)) => return Err(error),
        Err(PackError::Io(error)) => return Err(write(error)),
    };
    let file = out.finish().map_err(write)?;
    make_executable(file.as_file()).map_err(write)?;
    file.persist(path).map_err(|e| write(e.error))?;
    Ok(summary(lowered, written))
}

/// The assets with tables in place of tokenizer.json, the tables, and why there are none.
fn with_tables(mut assets: Assets) -> Result<(Assets, Vec<u8>, Option<String>), CpuError> {
    let Some(json) = &assets.tokenizer else { return Ok((assets, Vec::new(), None)) };
    tokenizer::survives(json)?;
    Ok(match tokenizer::tables(json) {
        Ok(tables) => {
            (assets.tokenizer, assets.tables) = (None, Some(tables.head));
            (assets, tables.bytes, None)
        }
        Err(why) => (assets, Vec::new(), Some(why)),
    })
}

/// Compiles to a payload in memory: for tests and for running without a file.
///
/// # Errors
/// As [`compile`], without the file.
pub fn compile_in_memory(
    module: &Module,
    activations: Activations,
    weights: &dyn WeightSource,
    assets: Assets,
) -> Result<Payload, CpuError> {
    let lowered = lower(module, activations)?;
    let mut bytes = Vec::with_capacity(lowered.weight_bytes as usize);
    match write_weights(module, &lowered, weights, &mut bytes, &mut |_, _| {}) {
        Ok(_) => {}
        Err(PackError::Cpu(error)) => return Err(error),
        Err(PackError::Io(error)) => return Err(CpuError::Internal { why: error.to_string() }),
    }
    let (assets, tables, _) = with_tables(assets)?;
    let payload = Payload::with_tables(lowered.program, bytes.into(), assets, tables.into());
    payload.map_err(|e| CpuError::Internal { why: e.to_string() })
}

/// What was written.
struct Written {
    file_bytes: u64,
    errors: Errors,
    without_tables: Option<String>,
}

fn write_executable(
    module: &Module,
    lowered: &Lowered,
    weights: &dyn WeightSource,
    assets: Assets,
    out: &mut dyn Write,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<Written, PackError> {
    let total = lowered.weight_bytes;
    let align = if total >= LARGE { WEIGHT_ALIGN } else { PAGE };
    let weight_offset = (STUB.len() as u64).next_multiple_of(align);
    out.write_all(STUB)?;
    io::copy(&mut io::Read::take(io::repeat(0), weight_offset - STUB.len() as u64), out)?;
    let mut report = |done, weight: &str| progress(Progress { done, total, weight });
    // The tables of a large vocabulary take as long as some hundred megabytes of weights.
    let ((assets, tables, without_tables), errors) = std::thread::scope(|scope| {
        let texts = scope.spawn(|| with_tables(assets));
        let errors = write_weights(module, lowered, weights, out, &mut report)?;
        let texts = texts.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        Ok::<_, PackError>((texts.map_err(PackError::Cpu)?, errors))
    })?;
    let head = PayloadHead { program: encode(&lowered.program), assets };
    out.write_all(&tables)?;
    let tail = write_tail(&head, weight_offset, total, tables.len() as u64);
    out.write_all(&tail)?;
    out.flush()?;
    let file_bytes = weight_offset + total + (tables.len() + tail.len()) as u64;
    Ok(Written { file_bytes, errors, without_tables })
}

/// Writes whole blocks at multiples of their length: systems keep what is written in pieces as large
/// as the writes, and a processor finds huge pages faster than small ones.
struct Blocks<W: Write> {
    inner: W,
    buffer: Vec<u8>,
}

impl<W: Write> Blocks<W> {
    /// Two huge pages.
    const BYTES: usize = 2 * WEIGHT_ALIGN as usize;

    fn new(inner: W) -> Self {
        Blocks { inner, buffer: Vec::with_capacity(Self::BYTES) }
    }

    /// Writes what is left, and gives the file back.
    fn finish(mut self) -> io::Result<W> {
        self.inner.write_all(&self.buffer)?;
        self.inner.flush()?;
        Ok(self.inner)
    }
}

impl<W: Write> Write for Blocks<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = bytes.len().min(Self::BYTES - self.buffer.len());
        self.buffer.extend_from_slice(&bytes[..n]);
        if self.buffer.len() == Self::BYTES {
            self.inner.write_all(&self.buffer)?;
            self.buffer.clear();
        }
        Ok(n)
    }

    /// Leaves an unfinished block to [`Blocks::finish`].
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(unix)]
fn make_executable(file: &std::fs::File) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    file.set_permissions(std::fs::Permissions::from_mode(0o755))
}

#[cfg(not(unix))]
fn make_executable(_: &std::fs::File) -> io::Result<()> {
    Ok(())
}

fn summary(lowered: Lowered, written: Written) -> Summary {
    let program = lowered.program;
    let calls = program.steps.iter().map(|step| match step {
        runtime::program::Step::Call(_) => 1,
        runtime::program::Step::Repeat(r) => u64::from(r.count) * r.calls.len() as u64,
    });
    Summary {
        file_bytes: written.file_bytes,
        weight_bytes: lowered.weight_bytes,
        stub_bytes: STUB.len() as u64,
        calls: calls.sum(),
        errors: written.errors,
        without_tables: written.without_tables,
        program,
    }
}
