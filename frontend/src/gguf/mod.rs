//! GGUF files: header, metadata, blocks, names, tokenizer; from an untrusted file to a model.
//!
//! `read` checks the container, `config` says the metadata in the words of config.json, `names`
//! those of the tensors, `block` decodes, `tokenizer` writes a tokenizer.json. After that a GGUF
//! file is a model like any other. Weights keep their stored precision: a kind of block that sparkc
//! has no dtype for is widened, without rounding, and a warning says what that costs.
//! Does not read: files split over several, mixtures of experts, other architectures than Llama's.

mod block;
mod config;
mod names;
mod read;
mod tokenizer;

use std::collections::BTreeMap;
use std::path::Path;

pub(crate) use block::BlockType;

use crate::assets::Assets;
use crate::config::ModelConfig;
use crate::error::{ErrorKind, FrontendError, Warning};
use crate::file;
use crate::json::Object;
use crate::weights::{Container, Encoding, Stored, Weights};
use names::Rotated;
use read::Gguf;

/// The first bytes of every file.
pub(crate) const MAGIC: &[u8; 4] = b"GGUF";

/// A file taken apart.
pub(crate) struct Parts {
    /// Its metadata in the words of config.json.
    pub(crate) object: Object,
    /// The same, read.
    pub(crate) config: ModelConfig,
    /// Its tensors under the names of transformers.
    pub(crate) weights: Weights,
    /// Tokenizer, template, stop tokens.
    pub(crate) assets: Assets,
}

/// Opens a GGUF file. Reads header and metadata, no weights.
///
/// # Errors
/// Everything that is wrong with the file.
pub(crate) fn open(path: &Path, warnings: &mut Vec<Warning>) -> Result<Parts, FrontendError> {
    let at = |kind: ErrorKind| kind.at(path);
    let gguf = Gguf::read(file::map(path)?).map_err(at)?;
    refuse_split(&gguf).map_err(at)?;
    let architecture = config::architecture(&gguf).map_err(at)?;
    let object = config::translate(&gguf).map_err(at)?;
    let config = ModelConfig::read(path, object.clone())
        .map_err(|error| config::renamed(error, architecture))?;
    let interleaved = matches!(architecture, "llama" | "mistral");
    let tensors = tensors(&gguf, interleaved.then_some(&config)).map_err(at)?;
    warn_of_widening(&tensors, path, warnings);
    let bytes = gguf.bytes().clone();
    let weights = Weights::join(vec![Container { path: path.to_path_buf(), tensors, bytes }])?;
    let assets = tokenizer::assets(&gguf, path, warnings).map_err(at)?;
    Ok(Parts { object, config, weights, assets })
}

fn refuse_split(gguf: &Gguf) -> Result<(), ErrorKind> {
    let key = "split.count";
    match gguf.metadata.get(key).map(read::Value::unsigned) {
        None | Some(Some(0 | 1)) => Ok(()),
        Some(found) => Err(ErrorKind::FieldUnsupported {
            field: key.to_string(),
            found: found.map_or_else(|| "no count".to_string(), |n| n.to_string()),
            supported: "1 (join the files with llama-gguf-split --merge)".to_string(),
        }),
    }
}

/// The tensors under the names of transformers. With `interleaved`, rows of q and k are in the order
/// of llama.cpp's "normal" RoPE.
fn tensors(
    gguf: &Gguf,
    interleaved: Option<&ModelConfig>,
) -> Result<BTreeMap<String, Stored>, ErrorKind> {
    let mut tensors = BTreeMap::new();
    for (name, info) in gguf.tensors.iter().filter(|(name, _)| *name != names::ROPE_DIVISORS) {
        let (known, rotated) = names::translate(name);
        let interleaved_heads = match (interleaved, rotated) {
            (Some(config), Some(Rotated::Query)) => Some(config.heads),
            (Some(config), Some(Rotated::Key)) => Some(config.kv_heads),
            _ => None,
        };
        let stored = Stored {
            encoding: Encoding::Gguf(info.block),
            shape: info.shape.clone(),
            range: info.range.clone(),
            interleaved_heads,
        };
        if tensors.insert(known, stored).is_some() {
            return Err(ErrorKind::GgufTwice { what: "tensor", name: name.clone() });
        }
    }
    Ok(tensors)
}

fn warn_of_widening(tensors: &BTreeMap<String, Stored>, path: &Path, warnings: &mut Vec<Warning>) {
    let mut widened: BTreeMap<&str, (usize, tensor::DType)> = BTreeMap::new();
    for stored in tensors.values() {
        if let Encoding::Gguf(block) = stored.encoding
            && block.widens()
        {
            widened.entry(block.name()).or_insert((0, block.dtype())).0 += 1;
        }
    }
    for (name, (count, dtype)) in widened {
        let message = format!(
            "{count} tensors of {name} are widened to {dtype}, which keeps every value and takes \
             more memory: --quant q8 or q4 makes them small again"
        );
        warnings.push(Warning { code: "SPK2808", path: path.to_path_buf(), message });
    }
}
