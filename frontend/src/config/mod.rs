//! config.json of a decoder, checked and in one neutral form.
//!
//! In: the JSON of any supported family in any spelling. Out: a [`ModelConfig`] in which every
//! question that the builder asks has an answer. Nothing is ignored silently: see `fields` and
//! `without_effect`. Knows nothing of tensors in files; `arch::check` does that.

mod fields;
mod rope;
mod without_effect;

use std::ops::Range;
use std::path::Path;

use ir::{Activation, RopeScaling, RopeSpec};
use serde_json::Value;
use tensor::DType;

use crate::arch::{self, AttentionBias, Family, NORM_EPS_DEFAULT, WindowRule};
use crate::error::{ErrorKind, FrontendError};
use crate::json::{self, Object};

pub(crate) use fields::Fields;

/// Largest extent that a config may ask for. Far above any model, and small enough that the product
/// of two is an element count and token ids fit in an i32.
const EXTENT_MAX: u64 = 1 << 28;
/// Most layers. The deepest published decoders have about 130; per-layer tables stay small.
const LAYERS_MAX: u64 = 4096;
/// Most positions: they are i32 in the IR.
pub(crate) const POSITIONS_MAX: u64 = i32::MAX as u64;
/// Fewest positions that a model with RoPE scaling gets by default. Stretching has no hard end, so a
/// tiny trained context (as in tests) need not make for a tiny usable one.
const SCALED_POSITIONS_MIN: usize = 128;

/// A Llama-like decoder, in numbers.
#[derive(Clone, Debug)]
pub(crate) struct ModelConfig {
    /// Its row of the registry.
    pub(crate) family: &'static Family,
    /// Rows of the embedding.
    pub(crate) vocab_size: usize,
    /// Width of the residual stream.
    pub(crate) hidden_size: usize,
    /// Width of the MLP.
    pub(crate) intermediate_size: usize,
    /// Decoder layers.
    pub(crate) layers: usize,
    /// Query heads.
    pub(crate) heads: usize,
    /// Key/value heads; divides `heads`.
    pub(crate) kv_heads: usize,
    /// Elements of a head; even.
    pub(crate) head_dim: usize,
    /// Positions a sequence may have by default.
    pub(crate) context: usize,
    /// Epsilon of every RMS norm.
    pub(crate) norm_eps: f64,
    /// Activation of the gate.
    pub(crate) activation: Activation,
    /// Rotary embedding of q and k.
    pub(crate) rope: RopeSpec,
    /// Biases on q, k and v.
    pub(crate) qkv_bias: bool,
    /// Bias on the attention output.
    pub(crate) out_bias: bool,
    /// Biases on gate, up and down.
    pub(crate) mlp_bias: bool,
    /// Per layer: keys that a query sees, its own included; `None` for all.
    pub(crate) windows: Vec<Option<usize>>,
    /// Whether the embedding is also the output weight.
    pub(crate) tied: bool,
    /// Dtype that the config says the weights have. The files decide; this stands in without them.
    pub(crate) dtype: Option<DType>,
}

impl ModelConfig {
    /// Reads a config.
    ///
    /// # Errors
    /// The first field that is missing, ill-typed, out of range, contradictory or not understood.
    pub(crate) fn read(path: &Path, object: Object) -> Result<Self, FrontendError> {
        let mut fields = Fields::new(path, object);
        let family = family(&mut fields)?;
        let (vocab_size, hidden_size, intermediate_size) = (
            fields.required_integer("vocab_size", 1..=EXTENT_MAX)?,
            fields.required_integer("hidden_size", 1..=EXTENT_MAX)?,
            fields.required_integer("intermediate_size", 1..=EXTENT_MAX)?,
        );
        let layers = fields.required_integer("num_hidden_layers", 1..=LAYERS_MAX)?;
        let heads = fields.required_integer("num_attention_heads", 1..=EXTENT_MAX)?;
        let kv_heads = kv_heads(&mut fields, family, heads)?;
        let head_dim = head_dim(&mut fields, family, hidden_size, heads)?;
        let max_positions = fields
            .integer("max_position_embeddings", 1..=POSITIONS_MAX)?
            .unwrap_or(family.max_positions_default);
        let rope = rope::read(&mut fields, family.model_type, head_dim, max_positions)?;
        let norm_eps =
            fields.number("rms_norm_eps", "a number from 0 to 1", |v| (0.0..=1.0).contains(&v))?;
        let windows = windows(&mut fields, family, layers)?;
        let attention_bias = match family.attention_bias {
            AttentionBias::FromConfig => fields.flag("attention_bias")?.unwrap_or(false),
            AttentionBias::Qkv | AttentionBias::Never => false,
        };
        let mlp_bias = family.has_mlp_bias && fields.flag("mlp_bias")?.unwrap_or(false);
        let config = ModelConfig {
            family,
            vocab_size,
            hidden_size,
            intermediate_size,
            layers,
            heads,
            kv_heads,
            head_dim,
            context: context(max_positions, &rope),
            norm_eps: norm_eps.unwrap_or(NORM_EPS_DEFAULT),
            activation: activation(&mut fields)?,
            rope: rope.spec,
            qkv_bias: attention_bias || family.attention_bias == AttentionBias::Qkv,
            out_bias: attention_bias,
            mlp_bias,
            windows,
            tied: fields.flag("tie_word_embeddings")?.unwrap_or(false),
            dtype: dtype(&mut fields)?,
        };
        without_effect::take_neutral(&mut fields)?;
        fields.finish(family.model_type, &without_effect::ANY_VALUE)?;
        Ok(config)
    }
}

/// The family, from `model_type` or else from `architectures`; both must agree.
fn family(fields: &mut Fields<'_>) -> Result<&'static Family, FrontendError> {
    let model_type = fields.text("model_type")?;
    let mut architecture = None;
    for entry in fields.array("architectures")?.unwrap_or_default() {
        match entry {
            Value::String(name) if architecture.is_none() => architecture = Some(name),
            other => return Err(fields.wrong("architectures", &other, "a list of one class name")),
        }
    }
    let family = match (&model_type, &architecture) {
        (Some(name), _) => arch::by_model_type(name)
            .ok_or_else(|| fields.unsupported("model_type", name, &arch::supported()))?,
        (None, Some(name)) => arch::by_architecture(name)
            .ok_or_else(|| fields.unsupported("architectures", name, &arch::supported()))?,
        (None, None) => return Err(fields.missing("model_type")),
    };
    match architecture {
        Some(name) if !family.architectures.contains(&name.as_str()) => {
            Err(fields.unsupported("architectures", &name, &family.architectures.join(", ")))
        }
        _ => Ok(family),
    }
}

fn kv_heads(
    fields: &mut Fields<'_>,
    family: &Family,
    heads: usize,
) -> Result<usize, FrontendError> {
    const KEY: &str = "num_key_value_heads";
    let silent = !fields.has(KEY);
    let given = fields.integer(KEY, 1..=EXTENT_MAX)?;
    let default = if silent { family.kv_heads_default.unwrap_or(heads) } else { heads };
    let kv_heads = given.unwrap_or(default);
    if !heads.is_multiple_of(kv_heads) {
        let origin = if given.is_none() { " (the default of the family)" } else { "" };
        let why = format!("{heads} query heads are not a multiple of {kv_heads}{origin}");
        return Err(fields.conflict(KEY, why));
    }
    Ok(kv_heads)
}

fn head_dim(
    fields: &mut Fields<'_>,
    family: &Family,
    hidden_size: usize,
    heads: usize,
) -> Result<usize, FrontendError> {
    let given = fields.integer("head_dim", 1..=EXTENT_MAX)?;
    let head_dim = match given.or(family.head_dim_default) {
        Some(head_dim) => head_dim,
        None if hidden_size.is_multiple_of(heads) => hidden_size / heads,
        None => {
            let why = format!("{hidden_size} is not a multiple of {heads} attention heads");
            return Err(fields.conflict("hidden_size", why));
        }
    };
    if !head_dim.is_multiple_of(2) {
        let why = format!("heads of {head_dim} cannot be rotated in pairs");
        return Err(fields.conflict("head_dim", why));
    }
    let width = heads.checked_mul(head_dim).and_then(|n| u64::try_from(n).ok());
    if width.is_none_or(|n| n > EXTENT_MAX) {
        let why = format!("{heads} heads of {head_dim} are more than {EXTENT_MAX} elements");
        return Err(fields.conflict("head_dim", why));
    }
    Ok(head_dim)
}

/// Default context: what the model was made for, stretched where its RoPE scaling says so.
fn context(max_positions: usize, rope: &rope::Rope) -> usize {
    if rope.spec.scaling == RopeScaling::None {
        return max_positions;
    }
    // A float too large for usize saturates; then the bound holds.
    let stretched = (max_positions as f64 * rope.stretch).ceil() as usize;
    stretched.max(SCALED_POSITIONS_MIN).min(POSITIONS_MAX as usize)
}

fn windows(
    fields: &mut Fields<'_>,
    family: &Family,
    layers: usize,
) -> Result<Vec<Option<usize>>, FrontendError> {
    const KEY: &str = "sliding_window";
    let silent = !fields.has(KEY);
    let given = fields.integer(KEY, 1..=POSITIONS_MAX)?;
    let types = layer_types(fields, layers)?;
    let by_rule: Vec<Option<usize>> = match family.window {
        WindowRule::Never => {
            let used = fields.flag("use_sliding_window")?.unwrap_or(false);
            if let Some(window) = given {
                return Err(fields.unsupported(KEY, &window.to_string(), "null for this family"));
            }
            if used {
                return Err(fields.unsupported("use_sliding_window", "true", "false"));
            }
            vec![None; layers]
        }
        WindowRule::EveryLayer(default) => vec![given.or(silent.then_some(default)); layers],
        WindowRule::ByLayer { window, first_layer } => {
            let used = fields.flag("use_sliding_window")?.unwrap_or(false);
            let first = fields.integer("max_window_layers", 0..=EXTENT_MAX)?.unwrap_or(first_layer);
            let window = given.or(silent.then_some(window)).filter(|_| used);
            return listed(fields, types, window, first..layers);
        }
        WindowRule::Listed(default) => {
            return listed(fields, types, given.or(silent.then_some(default)), 0..layers);
        }
    };
    match types {
        Some(types) if types.iter().zip(&by_rule).any(|(&slides, w)| slides != w.is_some()) => {
            let why = "this family ignores it, and the other fields say otherwise".to_string();
            Err(fields.conflict("layer_types", why))
        }
        _ => Ok(by_rule),
    }
}

/// The window of the layers that `layer_types` says slide; where it lists none, of those in `otherwise`,
/// which ends with the last layer.
fn listed(
    fields: &Fields<'_>,
    types: Option<Vec<bool>>,
    window: Option<usize>,
    otherwise: Range<usize>,
) -> Result<Vec<Option<usize>>, FrontendError> {
    match types {
        None => Ok((0..otherwise.end).map(|i| window.filter(|_| otherwise.contains(&i))).collect()),
        Some(types) if window.is_none() && types.contains(&true) => {
            let why = "it has sliding layers, but there is no window in use".to_string();
            Err(fields.conflict("layer_types", why))
        }
        Some(types) => Ok(types.iter().map(|&slides| window.filter(|_| slides)).collect()),
    }
}

/// Per layer, whether it slides; `None` where the config does not list layers.
fn layer_types(fields: &mut Fields<'_>, layers: usize) -> Result<Option<Vec<bool>>, FrontendError> {
    const KEY: &str = "layer_types";
    let Some(types) = fields.array(KEY)? else { return Ok(None) };
    if types.len() != layers {
        let why = format!("it lists {} layers, num_hidden_layers is {layers}", types.len());
        return Err(fields.conflict(KEY, why));
    }
    let slides = types.iter().map(|entry| match entry.as_str() {
        Some("full_attention" | "attention") => Ok(false),
        Some("sliding_attention") => Ok(true),
        Some(other) => Err(fields.unsupported(KEY, other, "full_attention, sliding_attention")),
        None => Err(fields.wrong(KEY, entry, "a list of strings")),
    });
    slides.collect::<Result<Vec<_>, _>>().map(Some)
}

fn activation(fields: &mut Fields<'_>) -> Result<Activation, FrontendError> {
    let name = fields.text("hidden_act")?.unwrap_or_else(|| "silu".to_string());
    match name.as_str() {
        "silu" | "swish" => Ok(Activation::Silu),
        "gelu" | "gelu_python" => Ok(Activation::Gelu),
        // One function, spelled with other roundings of its constants.
        "gelu_new" | "gelu_pytorch_tanh" | "gelu_python_tanh" | "gelu_fast" | "gelu_accurate" => {
            Ok(Activation::GeluTanh)
        }
        "relu" => Ok(Activation::Relu),
        other => {
            Err(fields.unsupported("hidden_act", other, "silu, gelu, gelu_pytorch_tanh, relu"))
        }
    }
}

/// `dtype`, or `torch_dtype` as it was called before transformers 4.56.
fn dtype(fields: &mut Fields<'_>) -> Result<Option<DType>, FrontendError> {
    let (older, newer) = (fields.text("torch_dtype")?, fields.text("dtype")?);
    let key = if newer.is_some() { "dtype" } else { "torch_dtype" };
    let Some(name) = newer.or(older) else { return Ok(None) };
    match name.strip_prefix("torch.").unwrap_or(&name) {
        "float32" | "float" => Ok(Some(DType::F32)),
        "float16" | "half" => Ok(Some(DType::F16)),
        "bfloat16" => Ok(Some(DType::BF16)),
        "auto" => Ok(None),
        other => Err(fields.unsupported(key, other, "float32, float16, bfloat16")),
    }
}

/// Whether a JSON object looks like the config of a model.
pub(crate) fn looks_like_config(object: &Object) -> bool {
    object.contains_key("model_type") || object.contains_key("architectures")
}

/// Reads config.json beside or in a model.
///
/// # Errors
/// When it is missing, no JSON object, or no config.
pub(crate) fn read_object(path: &Path) -> Result<Object, FrontendError> {
    let object = json::read_object(path)?;
    if looks_like_config(&object) {
        return Ok(object);
    }
    Err(ErrorKind::FieldMissing { field: "model_type".to_string() }.at(path))
}
