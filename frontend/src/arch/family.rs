//! The registry of architectures: what distinguishes the families of Llama-like decoders.
//!
//! To add a family of this kind, add a row; what a row cannot say needs a field here, its reading in
//! `config` and its effect in `names` and `decoder`. Defaults are those of the family's
//! `configuration_*.py` in transformers, and hold where the config is silent.

/// One row of the registry.
#[derive(Debug)]
pub struct Family {
    /// `model_type` of config.json; also the name in messages and reports.
    pub model_type: &'static str,
    /// Accepted spellings in `architectures`.
    pub architectures: &'static [&'static str],
    /// Elements of a head where `head_dim` is not given; `None` for hidden_size / heads.
    pub head_dim_default: Option<usize>,
    /// Key/value heads where not given at all (null always means: as many as query heads).
    pub kv_heads_default: Option<usize>,
    /// Where attention has biases.
    pub attention_bias: AttentionBias,
    /// Whether the config has `mlp_bias`.
    pub has_mlp_bias: bool,
    /// RMS norms on the heads of q and k, before RoPE.
    pub has_qk_norm: bool,
    /// How windows are spelled.
    pub window: WindowRule,
    /// `max_position_embeddings` where not given.
    pub max_positions_default: usize,
}

/// Where attention has biases.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttentionBias {
    /// Nowhere, and the config has no say.
    Never,
    /// On q, k and v, always; never on o.
    Qkv,
    /// On q, k, v and o when `attention_bias` is true.
    FromConfig,
}

/// How a family says which layers attend to a window only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WindowRule {
    /// No layer does.
    Never,
    /// `sliding_window` holds for every layer; this value where it is not given, null for none.
    EveryLayer(usize),
    /// As `EveryLayer`, but where `layer_types` lists layers, for those it calls `sliding_attention`.
    Listed(usize),
    /// `sliding_window` holds when `use_sliding_window`, from layer `max_window_layers` on, or for
    /// the layers that `layer_types` calls `sliding_attention`.
    ByLayer {
        /// `sliding_window` where not given.
        window: usize,
        /// `max_window_layers` where not given.
        first_layer: usize,
    },
}

/// RMS norm epsilon where `rms_norm_eps` is not given: the same in all families.
pub(crate) const NORM_EPS_DEFAULT: f64 = 1e-6;

/// Every family.
pub static FAMILIES: [Family; 5] = [
    Family {
        model_type: "llama",
        architectures: &["LlamaForCausalLM", "LLaMAForCausalLM"],
        head_dim_default: None,
        kv_heads_default: None,
        attention_bias: AttentionBias::FromConfig,
        has_mlp_bias: true,
        has_qk_norm: false,
        window: WindowRule::Never,
        max_positions_default: 2048,
    },
    Family {
        model_type: "mistral",
        architectures: &["MistralForCausalLM"],
        head_dim_default: None,
        kv_heads_default: Some(8),
        attention_bias: AttentionBias::Never,
        has_mlp_bias: false,
        has_qk_norm: false,
        window: WindowRule::EveryLayer(4096),
        max_positions_default: 4096 * 32,
    },
    Family {
        model_type: "ministral",
        architectures: &["MinistralForCausalLM"],
        head_dim_default: None,
        kv_heads_default: Some(8),
        attention_bias: AttentionBias::Never,
        has_mlp_bias: false,
        has_qk_norm: false,
        window: WindowRule::Listed(4096),
        max_positions_default: 4096 * 32,
    },
    Family {
        model_type: "qwen2",
        architectures: &["Qwen2ForCausalLM"],
        head_dim_default: None,
        kv_heads_default: Some(32),
        attention_bias: AttentionBias::Qkv,
        has_mlp_bias: false,
        has_qk_norm: false,
        window: WindowRule::ByLayer { window: 4096, first_layer: 28 },
        max_positions_default: 32768,
    },
    Family {
        model_type: "qwen3",
        architectures: &["Qwen3ForCausalLM"],
        head_dim_default: Some(128),
        kv_heads_default: Some(32),
        attention_bias: AttentionBias::FromConfig,
        has_mlp_bias: false,
        has_qk_norm: true,
        window: WindowRule::ByLayer { window: 4096, first_layer: 28 },
        max_positions_default: 32768,
    },
];

/// The family of a `model_type`.
pub(crate) fn by_model_type(model_type: &str) -> Option<&'static Family> {
    FAMILIES.iter().find(|f| f.model_type == model_type)
}

/// The family that an `architectures` entry belongs to.
pub(crate) fn by_architecture(name: &str) -> Option<&'static Family> {
    FAMILIES.iter().find(|f| f.architectures.contains(&name))
}

/// All `model_type`s, for messages.
pub(crate) fn supported() -> String {
    FAMILIES.iter().map(|f| f.model_type).collect::<Vec<_>>().join(", ")
}
