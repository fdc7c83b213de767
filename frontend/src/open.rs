//! `open`: recognises what is at a path and reads it.
//!
//! A directory and a `.safetensors` file need config.json; a `.json` file is a bare config; a
//! `.spark` file brings its own module. Other formats are recognised by their first bytes, so that
//! the message can name them.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use tensor::DType;

use crate::assets::Assets;
use crate::config::{self, ModelConfig, POSITIONS_MAX};
use crate::error::{ErrorKind, FrontendError, Warning};
use crate::json::Object;
use crate::model::{Model, ModelInfo, OpenOptions};
use crate::weights::{self, Weights};
use crate::{arch, digest, file, gguf, json, spark};

/// Opens the model at `path`: a directory with config.json and safetensors files (sharded too), a
/// `.safetensors` file with config.json beside it, a bare config.json (shapes only), a GGUF file (or
/// a directory with one and no config.json), or a `.spark` file. Reads headers, never weights.
///
/// # Errors
/// Everything that is wrong with the files: see [`ErrorKind`].
pub fn open(path: &Path, options: &OpenOptions) -> Result<Model, FrontendError> {
    if let Some(context) = options.context
        && !(1..=POSITIONS_MAX).contains(&(context as u64))
    {
        let field = "context (option)".to_string();
        let expected = format!("an integer from 1 to {POSITIONS_MAX}");
        return Err(ErrorKind::FieldValue { field, found: context.to_string(), expected }.at(path));
    }
    if file::is_directory(path)? {
        return open_directory(path, options);
    }
    match path.extension().and_then(OsStr::to_str) {
        Some("safetensors") => open_safetensors(path, options),
        Some("json") => open_json(path, options),
        Some("spark") => spark::open(path, options),
        _ if file::first_bytes(path, 4)? == gguf::MAGIC => open_gguf(path, options),
        _ => Err(unknown_format(path)?),
    }
}

fn open_directory(path: &Path, options: &OpenOptions) -> Result<Model, FrontendError> {
    let config = path.join("config.json");
    if !file::exists(&config) {
        return match only_gguf(path)? {
            Some(only) => open_gguf(&only, options),
            None => Err(no_config(path)),
        };
    }
    let object = config::read_object(&config)?;
    let parsed = ModelConfig::read(&config, object.clone())?;
    let weights = match &options.weights {
        Some(place) => Weights::open_at(place)?.0,
        None => weights::find(path).map_err(|e| pytorch_weights(path).unwrap_or(e))?,
    };
    finish(path, &config, object, parsed, Some(weights), options)
}

fn open_gguf(path: &Path, options: &OpenOptions) -> Result<Model, FrontendError> {
    if options.weights.is_some() {
        let (field, why) = ("weights (option)".to_string(), "a GGUF file has its own");
        return Err(ErrorKind::FieldConflict { field, why: why.to_string() }.at(path));
    }
    let mut warnings = Vec::new();
    let gguf::Parts { object, config, weights, assets } = gguf::open(path, &mut warnings)?;
    assemble(path, path, Read { object, config, weights: Some(weights), assets, warnings }, options)
}

/// The GGUF file of a directory, where there is one.
fn only_gguf(directory: &Path) -> Result<Option<PathBuf>, FrontendError> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| Path::new(name).extension() == Some(OsStr::new("gguf")))
        .collect();
    names.sort();
    match names.as_slice() {
        [] => Ok(None),
        [only] => Ok(Some(directory.join(only))),
        _ => Err(ErrorKind::AmbiguousWeights { files: names }.at(directory)),
    }
}

fn open_safetensors(path: &Path, options: &OpenOptions) -> Result<Model, FrontendError> {
    if options.weights.is_some() {
        let (field, why) = ("weights (option)".to_string(), "the model is weights already");
        return Err(ErrorKind::FieldConflict { field, why: why.to_string() }.at(path));
    }
    let config = path.with_file_name("config.json");
    let weights = match weights::index_beside(path) {
        // One shard of several stands for all of them.
        Some(index) => weights::find(index.parent().unwrap_or(Path::new(".")))?,
        None => Weights::open(&[path.to_path_buf()])?,
    };
    if !file::exists(&config) {
        return Err(ErrorKind::NotFound.at(&config));
    }
    let object = config::read_object(&config)?;
    let parsed = ModelConfig::read(&config, object.clone())?;
    finish(path, &config, object, parsed, Some(weights), options)
}

fn open_json(path: &Path, options: &OpenOptions) -> Result<Model, FrontendError> {
    let object = json::read_object(path)?;
    if object.contains_key("weight_map") {
        // An index: the model is the directory it lies in.
        return open_directory(&file::parent(path), options);
    }
    if !config::looks_like_config(&object) {
        return Err(ErrorKind::UnknownFormat.at(path));
    }
    let parsed = ModelConfig::read(path, object.clone())?;
    let weights = match &options.weights {
        Some(place) => Some(Weights::open_at(place)?.0),
        None => None,
    };
    finish(path, path, object, parsed, weights, options)
}

/// Reads the assets beside config.json, then builds the model.
fn finish(
    path: &Path,
    config_path: &Path,
    object: Object,
    config: ModelConfig,
    weights: Option<Weights>,
    options: &OpenOptions,
) -> Result<Model, FrontendError> {
    let mut warnings = Vec::new();
    let assets = match &weights {
        Some(_) => Assets::read(&file::parent(config_path), &config, &object, &mut warnings)?,
        None => Assets::default(),
    };
    let read = Read { object, config, weights, assets, warnings };
    assemble(path, config_path, read, options)
}

/// What the files of a model say.
struct Read {
    object: Object,
    config: ModelConfig,
    weights: Option<Weights>,
    assets: Assets,
    warnings: Vec<Warning>,
}

/// Builds the model once all files are read.
fn assemble(
    path: &Path,
    config_path: &Path,
    read: Read,
    options: &OpenOptions,
) -> Result<Model, FrontendError> {
    let Read { object, config, weights, assets, mut warnings } = read;
    let tensors = match &weights {
        Some(weights) => {
            let place = weights.paths().next().filter(|_| weights.paths().count() == 1);
            arch::from_weights(&config, weights, place.unwrap_or(path), &mut warnings)?
        }
        None => arch::from_config(&config),
    };
    let context = context(&config, options, config_path, &mut warnings);
    let cache =
        options.kv_cache.unwrap_or_else(|| default_cache(&config, tensors.main_dtype(), context));
    let mut module = arch::build(&config, &tensors, (context, cache))
        .map_err(|e| ErrorKind::Internal { why: e.to_string() }.at(config_path))?;
    let info = ModelInfo {
        name: short_name(path),
        family: config.family.model_type.to_string(),
        dtype: tensors.main_dtype(),
        parameters: tensors.parameters,
        digest: digest::headers(Some(&object), weights.as_ref()),
    };
    module.meta.insert("family".to_string(), info.family.clone());
    module.meta.insert("dtype".to_string(), info.dtype.to_string());
    module.meta.insert("parameters".to_string(), info.parameters.to_string());
    module.meta.insert("digest".to_string(), info.digest.to_string());
    Ok(Model { module, weights, assets, info, warnings })
}

/// From this many bytes, as f32 at the full context, the KV cache of a model with 16-bit weights is
/// f16. Rounding a small cache buys nothing; a large one must fit a wafer, and is read per token.
const F32_CACHE_END: usize = 512 << 20;

/// Dtype of the KV cache where nobody chose one: f32, or f16 where that would be large and the
/// weights are no more precise. f16, not bf16: keys and values are far from the ends of its range,
/// and it has three bits more.
fn default_cache(config: &ModelConfig, weights: DType, context: usize) -> DType {
    let factors = [2, config.layers, config.kv_heads, config.head_dim, DType::F32.block_bytes()];
    let bytes = factors.iter().fold(context, |product, &factor| product.saturating_mul(factor));
    let is_small = bytes < F32_CACHE_END;
    if is_small || weights == DType::F32 { DType::F32 } else { DType::F16 }
}

fn context(
    config: &ModelConfig,
    options: &OpenOptions,
    path: &Path,
    warnings: &mut Vec<Warning>,
) -> usize {
    let context = options.context.unwrap_or(config.context);
    if context > config.context {
        let message = format!(
            "a context of {context} is asked for, the model is made for {}: beyond that its \
             output may be poor",
            config.context
        );
        warnings.push(Warning { code: "SPK2807", path: path.to_path_buf(), message });
    }
    context
}

/// The last component of a path that says something: not `.`, `config.json` or `model.safetensors`.
pub(crate) fn short_name(path: &Path) -> String {
    let full = path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
    let is_generic = |stem: &OsStr| stem == "config" || stem == "model";
    let name = if full.is_dir() {
        full.file_name()
    } else {
        full.file_stem()
            .filter(|stem| !is_generic(stem))
            .or_else(|| full.parent().and_then(Path::file_name))
    };
    name.map_or_else(|| "model".to_string(), |n| n.to_string_lossy().into_owned())
}

/// What to say of a directory without config.json.
fn no_config(path: &Path) -> FrontendError {
    let mut endings = std::fs::read_dir(path).into_iter().flatten().flatten().filter_map(|entry| {
        Path::new(&entry.file_name()).extension()?.to_str().map(str::to_string)
    });
    match endings.find_map(|ending| format_by_ending(&ending)) {
        Some(format) => ErrorKind::UnsupportedFormat { format }.at(path),
        None => ErrorKind::NoConfig.at(path),
    }
}

/// The error for a directory whose weights are PyTorch's pickles.
fn pytorch_weights(path: &Path) -> Option<FrontendError> {
    let names = ["pytorch_model.bin", "pytorch_model.bin.index.json"];
    let format = "the pickle format of PyTorch (pytorch_model.bin)";
    names
        .iter()
        .any(|name| file::exists(&path.join(name)))
        .then(|| ErrorKind::UnsupportedFormat { format }.at(path))
}

/// The format of a file that `open` does not read, by its first bytes or its ending.
fn unknown_format(path: &Path) -> Result<FrontendError, FrontendError> {
    let bytes = file::first_bytes(path, 8)?;
    let ending = path.extension().and_then(OsStr::to_str).unwrap_or("");
    let by_bytes = match bytes.as_slice() {
        [b'P', b'K', 3, 4, ..] => Some("the pickle format of PyTorch"),
        _ => None,
    };
    Ok(match by_bytes.or_else(|| format_by_ending(ending)) {
        Some(format) => ErrorKind::UnsupportedFormat { format }.at(path),
        None => ErrorKind::UnknownFormat.at(path),
    })
}

fn format_by_ending(ending: &str) -> Option<&'static str> {
    match ending {
        "onnx" => Some("ONNX"),
        "bin" | "pt" | "pth" => Some("the pickle format of PyTorch"),
        "h5" | "msgpack" | "tflite" => Some("the format of TensorFlow and Flax"),
        _ => None,
    }
}
