//! The reference models of `tests/fixtures/hf` and what `transformers` computed for them.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use safetensors::{Dtype, SafeTensors};
use tensor::Tolerance;

/// A reference model.
#[derive(Clone, Debug)]
pub struct Fixture {
    /// Name of its directory.
    pub name: String,
    /// The directory.
    pub path: PathBuf,
    /// Token ids fed.
    pub prompt: Vec<u32>,
    /// Logits at each prompt position, `[prompt, vocab]`.
    pub logits: Vec<f32>,
    /// Greedy continuation, not stopped by EOS.
    pub greedy: Vec<u32>,
    /// How far logits may be off, by the dtype of the weights (design section 4).
    pub tolerance: Tolerance,
}

/// Every fixture, by name.
///
/// # Errors
/// When one cannot be read.
pub fn all() -> Result<Vec<Fixture>> {
    let folder = crate::root().join("tests/fixtures/hf");
    let entries = fs::read_dir(&folder).with_context(|| folder.display().to_string())?;
    let mut fixtures = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if path.join("expected.safetensors").is_file() {
            fixtures.push(read(&path).with_context(|| path.display().to_string())?);
        }
    }
    if fixtures.is_empty() {
        bail!("no fixture in {}", folder.display());
    }
    fixtures.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(fixtures)
}

/// The fixture called `name`.
///
/// # Errors
/// When there is none.
pub fn named(name: &str) -> Result<Fixture> {
    read(&crate::root().join("tests/fixtures/hf").join(name))
}

fn read(path: &Path) -> Result<Fixture> {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let bytes = fs::read(path.join("expected.safetensors"))?;
    let tensors = SafeTensors::deserialize(&bytes)?;
    let half = name.ends_with("bf16") || name.ends_with("f16");
    Ok(Fixture {
        path: path.to_path_buf(),
        prompt: ids(&tensors, "prompt")?,
        logits: floats(&tensors, "logits")?,
        greedy: ids(&tensors, "greedy")?,
        tolerance: if half { Tolerance::HALF } else { Tolerance::F32 },
        name,
    })
}

/// The one tensor of a file that `--logits` wrote, with its shape.
///
/// # Errors
/// When the file holds anything else.
pub fn logits_file(path: &Path) -> Result<(Vec<usize>, Vec<f32>)> {
    let bytes = fs::read(path).with_context(|| path.display().to_string())?;
    let tensors = SafeTensors::deserialize(&bytes)?;
    if tensors.names() != ["logits"] {
        bail!("expected one tensor \"logits\", found {:?}", tensors.names());
    }
    Ok((tensors.tensor("logits")?.shape().to_vec(), floats(&tensors, "logits")?))
}

fn words(tensors: &SafeTensors<'_>, name: &str, dtype: Dtype) -> Result<Vec<[u8; 4]>> {
    let tensor = tensors.tensor(name)?;
    if tensor.dtype() != dtype {
        bail!("{name} is {:?}, expected {dtype:?}", tensor.dtype());
    }
    Ok(tensor.data().chunks_exact(4).map(|c| [c[0], c[1], c[2], c[3]]).collect())
}

fn floats(tensors: &SafeTensors<'_>, name: &str) -> Result<Vec<f32>> {
    Ok(words(tensors, name, Dtype::F32)?.into_iter().map(f32::from_le_bytes).collect())
}

fn ids(tensors: &SafeTensors<'_>, name: &str) -> Result<Vec<u32>> {
    Ok(words(tensors, name, Dtype::I32)?.into_iter().map(u32::from_le_bytes).collect())
}
