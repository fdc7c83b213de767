//! What config.json may say: published models by their shapes, and every spelling of a feature.

mod support;

use std::path::Path;

use ir::{Activation, Op, RopeScaling, RopeSpec, UnaryOp};
use serde_json::{Value, json};
use sparkc_frontend::{Model, OpenOptions, open};
use support::{f32_tensor, llama_config, llama_tensors, with, write, write_model, write_shards};
use tensor::DType;

/// Opens a config without weights.
fn open_config(config: &Value) -> Model {
    let scratch = tempfile::tempdir().expect("a temporary directory");
    let path = write(scratch.path(), "config.json", config.to_string());
    open(&path, &OpenOptions::default()).unwrap_or_else(|e| panic!("{e}"))
}

fn mistral() -> Value {
    let changes = json!({"model_type": "mistral", "architectures": ["MistralForCausalLM"]});
    with(llama_config(), changes)
}

fn qwen2() -> Value {
    let changes = json!({"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"]});
    with(llama_config(), changes)
}

/// Weight names that the module reads.
fn weight_names(model: &Model) -> Vec<String> {
    model.module.weights().into_iter().map(|w| w.name).collect()
}

/// Per repeat: block name, first layer, count.
fn repeats(model: &Model) -> Vec<(String, u32, u32)> {
    let name = |id| model.module.block(id).name.clone();
    model.module.repeats().map(|(id, first, count)| (name(id), first, count)).collect()
}

/// The windows of the masks of a block.
fn window(model: &Model, block: &str) -> Option<usize> {
    let block = model.module.blocks.iter().find(|b| b.name == block).expect("the block exists");
    let mut masks = block.nodes().filter_map(|(_, node)| match node.op {
        Op::CausalMask { window } => Some(window),
        _ => None,
    });
    masks.next().expect("a layer masks its scores")
}

fn rope(model: &Model) -> RopeSpec {
    let mut specs = model.module.blocks[0].nodes().filter_map(|(_, node)| match &node.op {
        Op::Rope(spec) => Some((**spec).clone()),
        _ => None,
    });
    specs.next().expect("a layer rotates q and k")
}

#[test]
fn published_models_open_from_their_config_alone() {
    // Parameter counts as their model cards and the hub state them.
    let published = [
        ("llama-3.1-8b", 8_030_261_248, 131_072),
        ("llama-3.1-70b", 70_553_706_496, 131_072),
        ("llama-3.1-405b", 405_853_388_800, 131_072),
        ("mistral-7b", 7_241_732_096, 32_768),
        ("qwen2.5-0.5b", 494_032_768, 32_768),
        ("qwen3-0.6b", 596_049_920, 40_960),
    ];
    for (name, parameters, context) in published {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/configs").join(name);
        let model = open(&folder.join("config.json"), &OpenOptions::default());
        let model = model.unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(model.info.name, name);
        assert_eq!(model.info.parameters, parameters, "{name}");
        assert_eq!(model.module.context, context, "{name}");
        assert_eq!(model.info.dtype, DType::BF16);
        assert_eq!(model.module.blocks.len(), 1, "{name}: equal layers are one block");
        assert_eq!(ir::verify(&model.module), Ok(()), "{name}");
        assert!(model.warnings.is_empty(), "{:?}", model.warnings);
    }
}

#[test]
fn the_context_option_overrides_the_config() {
    let scratch = tempfile::tempdir().expect("a temporary directory");
    let path = write(scratch.path(), "config.json", llama_config().to_string());
    let context = |n| open(&path, &OpenOptions { context: Some(n), ..OpenOptions::default() });
    assert_eq!(context(32).expect("opens").module.context, 32);
    let beyond = context(65).expect("opens");
    assert_eq!(beyond.module.context, 65);
    assert_eq!(beyond.warnings[0].code, "SPK2807");
    assert!(context(0).is_err());
}

#[test]
fn windows_make_blocks_of_the_layers_that_have_them() {
    let every = open_config(&with(mistral(), json!({"sliding_window": 5})));
    assert_eq!(repeats(&every), [("layer".to_string(), 0, 2)]);
    assert_eq!(window(&every, "layer"), Some(5));
    // As in transformers: Mistral without the field has a window of 4096, with null none.
    assert_eq!(window(&open_config(&mistral()), "layer"), Some(4096));
    let none = open_config(&with(mistral(), json!({"sliding_window": null})));
    assert_eq!(window(&none, "layer"), None);

    let qwen = json!({"num_hidden_layers": 4, "num_key_value_heads": 2, "sliding_window": 6,
                      "use_sliding_window": true, "max_window_layers": 3});
    let upper = open_config(&with(qwen2(), qwen.clone()));
    assert_eq!(
        repeats(&upper),
        [("layer_full".to_string(), 0, 3), ("layer_sliding".to_string(), 3, 1)]
    );
    assert_eq!((window(&upper, "layer_full"), window(&upper, "layer_sliding")), (None, Some(6)));
    let types = ["full_attention", "sliding_attention", "full_attention", "full_attention"];
    let listed = open_config(&with(with(qwen2(), qwen), json!({"layer_types": types})));
    let expected = [("layer_full", 0, 1), ("layer_sliding", 1, 1), ("layer_full", 2, 2)];
    assert_eq!(repeats(&listed), expected.map(|(name, a, n)| (name.to_string(), a, n)));
    assert_eq!(ir::verify(&listed.module), Ok(()));
    let unused = json!({"sliding_window": 6, "max_window_layers": 0, "num_key_value_heads": 2});
    assert_eq!(window(&open_config(&with(qwen2(), unused)), "layer"), None);
}

#[test]
fn ministral_lists_its_sliding_layers_or_slides_everywhere() {
    let family = json!({"model_type": "ministral", "architectures": ["MinistralForCausalLM"], "head_dim": 4});
    let ministral = |changes: Value| with(with(llama_config(), family.clone()), changes);
    assert_eq!(window(&open_config(&ministral(json!({}))), "layer"), Some(4096));
    assert_eq!(window(&open_config(&ministral(json!({"sliding_window": null}))), "layer"), None);
    let types = json!(["full_attention", "sliding_attention"]);
    let listed = json!({"sliding_window": 6, "layer_types": types});
    let listed = open_config(&ministral(listed));
    assert_eq!((window(&listed, "layer_full"), window(&listed, "layer_sliding")), (None, Some(6)));
}

#[test]
fn silence_about_heads_means_what_the_family_means_by_it() {
    let shape = |config: Value, weight: &str| {
        let uses = open_config(&config).module.weights();
        let found = uses.into_iter().find(|w| w.name.ends_with(weight)).expect("the weight exists");
        found.shape
    };
    let silent = json!({"num_key_value_heads": "remove"});
    assert_eq!(shape(with(llama_config(), silent.clone()), "0.self_attn.k_proj.weight"), [8, 8]);
    let eight = json!({"num_attention_heads": 16, "hidden_size": 64});
    let config = with(with(mistral(), silent), eight.clone());
    assert_eq!(shape(config, "0.self_attn.k_proj.weight"), [8 * 4, 64]);
    let config = with(with(mistral(), json!({"num_key_value_heads": null})), eight);
    assert_eq!(shape(config, "0.self_attn.k_proj.weight"), [16 * 4, 64]);
    let qwen3 = json!({"model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"]});
    assert_eq!(shape(with(llama_config(), qwen3), "0.self_attn.q_norm.weight"), [128]);
    let wide = json!({"head_dim": 6});
    assert_eq!(shape(with(llama_config(), wide), "0.self_attn.o_proj.weight"), [8, 12]);
    let null = json!({"head_dim": null});
    assert_eq!(shape(with(llama_config(), null), "0.self_attn.o_proj.weight"), [8, 8]);
}

#[test]
fn biases_are_where_the_family_has_them() {
    let biases = |config: Value| {
        let mut names = weight_names(&open_config(&config));
        names.retain(|n| n.contains("layers.0.") && n.ends_with(".bias"));
        let short = |n: &String| n.split('.').rev().nth(1).map(str::to_string);
        names.iter().filter_map(short).collect::<Vec<_>>()
    };
    assert!(biases(llama_config()).is_empty());
    let attention = with(llama_config(), json!({"attention_bias": true}));
    assert_eq!(biases(attention), ["k_proj", "o_proj", "q_proj", "v_proj"]);
    let mlp = with(llama_config(), json!({"mlp_bias": true}));
    assert_eq!(biases(mlp), ["down_proj", "gate_proj", "up_proj"]);
    assert_eq!(biases(qwen2()), ["k_proj", "q_proj", "v_proj"]);
}

#[test]
fn every_spelling_of_rope_is_read() {
    let scaling = |changes: Value| rope(&open_config(&with(llama_config(), changes)));
    let real = ir::Real::new;
    assert_eq!(scaling(json!({})).scaling, RopeScaling::None);
    assert_eq!(scaling(json!({"rope_scaling": null})).scaling, RopeScaling::None);
    assert_eq!(scaling(json!({"rope_theta": "remove"})).theta, real(10000.0));
    let newer = json!({"rope_theta": "remove",
                       "rope_parameters": {"rope_type": "default", "rope_theta": 500.0}});
    assert_eq!(scaling(newer).theta, real(500.0));
    let linear = RopeScaling::Linear { factor: real(2.0) };
    for key in ["type", "rope_type"] {
        let older = json!({"rope_scaling": {key: "linear", "factor": 2}});
        assert_eq!(scaling(older).scaling, linear);
    }
    let both = json!({"rope_scaling": {"type": "linear", "rope_type": "linear", "factor": 2.0},
                      "rope_parameters": {"rope_type": "linear", "factor": 2.0, "type": "linear"}});
    assert_eq!(scaling(both).scaling, linear);
    // The original context beside the parameters wins, as in transformers.
    let outside = json!({"original_max_position_embeddings": 16, "rope_scaling":
        {"rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
         "original_max_position_embeddings": 32}});
    let (low, high) = (real(1.0), real(4.0));
    let expected = RopeScaling::Llama3 { factor: real(4.0), low, high, original: 16 };
    assert_eq!(scaling(outside).scaling, expected);
    // DeepSeek's null factor is the ratio of the contexts.
    let ratio = json!({"rope_scaling": {"rope_type": "yarn", "factor": null, "beta_fast": 0,
                                        "original_max_position_embeddings": 16}});
    let RopeScaling::Yarn { factor, beta_fast, attention_factor, .. } = scaling(ratio).scaling
    else {
        panic!("yarn is yarn");
    };
    assert_eq!((factor, beta_fast), (real(4.0), real(32.0)));
    assert_eq!(attention_factor, real(0.1 * 4f64.ln() + 1.0));
}

#[test]
fn a_context_that_scaling_stretches_is_the_stretched_one() {
    let context = |scaling: Value, positions: usize| {
        let changes = json!({"rope_scaling": scaling, "max_position_embeddings": positions});
        open_config(&with(llama_config(), changes)).module.context
    };
    assert_eq!(context(json!({"type": "dynamic", "factor": 4.0}), 100), 400);
    assert_eq!(context(json!({"type": "dynamic", "factor": 4.0}), 6), 128);
    assert_eq!(context(json!({"type": "linear", "factor": 4.0}), 200), 200);
    assert_eq!(context(json!({"type": "linear", "factor": 4.0}), 20), 128);
    let yarn = json!({"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 50});
    assert_eq!(context(yarn, 200), 200);
    assert_eq!(context(json!({"type": "yarn", "factor": 4.0}), 100), 400);
}

#[test]
fn activations_keep_their_differences() {
    let expected = [
        ("silu", Activation::Silu),
        ("swish", Activation::Silu),
        ("gelu", Activation::Gelu),
        ("gelu_new", Activation::GeluTanh),
        ("gelu_pytorch_tanh", Activation::GeluTanh),
        ("relu", Activation::Relu),
    ];
    for (name, activation) in expected {
        let model = open_config(&with(llama_config(), json!({"hidden_act": name})));
        let has = |op: &Op| *op == Op::Unary(UnaryOp::Act(activation));
        assert!(model.module.blocks[0].nodes().any(|(_, n)| has(&n.op)), "{name}");
    }
}

#[test]
fn fields_without_effect_are_let_pass() {
    let idle = json!({"attention_dropout": 0.1, "initializer_range": 0.5, "use_cache": false,
        "transformers_version": "9", "pretraining_tp": 2, "_name_or_path": "x", "auto_map": null,
        "is_encoder_decoder": false, "id2label": {"0": "a"}, "partial_rotary_factor": 1.0,
        "temperature": 0.6, "quantization_config": null, "use_sliding_window": false,
        "dtype": "float32", "layer_types": ["full_attention", "full_attention"]});
    assert_eq!(
        open_config(&with(llama_config(), idle)).module.main,
        open_config(&llama_config()).module.main
    );
    let nameless = with(llama_config(), json!({"architectures": "remove"}));
    assert_eq!(open_config(&nameless).info.family, "llama");
    let typeless = with(llama_config(), json!({"model_type": "remove"}));
    assert_eq!(open_config(&typeless).info.family, "llama");
}

#[test]
fn layers_of_different_dtypes_are_different_blocks() {
    let scratch = tempfile::tempdir().expect("a temporary directory");
    let mut tensors = llama_tensors();
    for tensor in tensors.iter_mut().filter(|t| t.name.contains("layers.1.mlp")) {
        tensor.dtype = "BF16";
    }
    write_model(scratch.path(), &llama_config(), &tensors);
    let model = open(scratch.path(), &OpenOptions::default()).expect("opens");
    let expected = [("layer_full", 0, 1), ("layer_full_2", 1, 1)];
    assert_eq!(repeats(&model), expected.map(|(name, a, n)| (name.to_string(), a, n)));
    assert_eq!(ir::verify(&model.module), Ok(()));
    assert_eq!(model.info.dtype, DType::F32);
}

#[test]
fn tied_weights_are_those_that_are_stored() {
    let tied = with(llama_config(), json!({"tie_word_embeddings": true}));
    let stored = |names: &[&str]| {
        let scratch = tempfile::tempdir().expect("a temporary directory");
        let mut tensors = llama_tensors();
        tensors.retain(|t| t.name.contains("layers") || t.name == "model.norm.weight");
        tensors.splice(0..0, names.iter().map(|n| f32_tensor(*n, &[16, 8])));
        write_model(scratch.path(), &tied, &tensors);
        let model = open(scratch.path(), &OpenOptions::default()).unwrap_or_else(|e| panic!("{e}"));
        let mut names = weight_names(&model);
        names.retain(|n| n.contains("embed") || n.contains("head"));
        (names, model.warnings.len())
    };
    let (head, embedding) = ("lm_head.weight", "model.embed_tokens.weight");
    assert_eq!(stored(&[embedding]), (vec![embedding.to_string()], 0));
    assert_eq!(stored(&[head]), (vec![head.to_string()], 0));
    // 512 bytes each and a counter of period 64: the two are equal.
    assert_eq!(stored(&[embedding, head]), (vec![embedding.to_string()], 0));
    // A norm between them shifts the counter: they differ, so they are not tied.
    let scratch = tempfile::tempdir().expect("a temporary directory");
    let mut tensors = llama_tensors();
    tensors.insert(1, f32_tensor("model.layers.0.self_attn.rotary_emb.inv_freq", &[2]));
    write_model(scratch.path(), &tied, &tensors);
    let model = open(scratch.path(), &OpenOptions::default()).expect("opens");
    assert!(weight_names(&model).contains(&head.to_string()));
    assert_eq!(model.warnings[0].code, "SPK2801");
}

#[test]
fn sharding_does_not_change_the_model() {
    let (whole, sharded) = (tempfile::tempdir(), tempfile::tempdir());
    let (whole, sharded) = (whole.expect("a directory"), sharded.expect("a directory"));
    write_model(whole.path(), &llama_config(), &llama_tensors());
    write(sharded.path(), "config.json", llama_config().to_string());
    write_shards(sharded.path(), &llama_tensors());
    let options = OpenOptions::default();
    let a = open(whole.path(), &options).expect("opens");
    let b = open(sharded.path(), &options).expect("opens");
    assert_eq!(a.module, b.module);
    assert_eq!(a.info.digest, b.info.digest);
    // A weight file, a shard and an index stand for the model they belong to.
    let file = open(&whole.path().join("model.safetensors"), &options).expect("opens");
    let shard = open(&sharded.path().join(support::shard_names()[1]), &options).expect("opens");
    let index = open(&sharded.path().join("model.safetensors.index.json"), &options);
    assert_eq!(file.module, a.module);
    assert_eq!(shard.module, a.module);
    assert_eq!(index.expect("opens").module, a.module);
}

#[test]
fn digests_follow_the_content() {
    let digests = |config: &Value, tensors: &[support::Stored]| {
        let scratch = tempfile::tempdir().expect("a temporary directory");
        write_model(scratch.path(), config, tensors);
        let model = open(scratch.path(), &OpenOptions::default()).expect("opens");
        let contents = sparkc_frontend::contents_digest(&model.weights.expect("has weights"));
        (model.info.digest, contents.expect("readable"))
    };
    let plain = digests(&llama_config(), &llama_tensors());
    assert_eq!(plain, digests(&llama_config(), &llama_tensors()));
    let mut swapped = llama_tensors();
    swapped.rotate_left(3);
    let swapped = digests(&llama_config(), &swapped);
    assert_eq!(plain.0, swapped.0, "the same tensors in another order");
    assert_ne!(plain.1, swapped.1, "with other bytes");
    let eps = with(llama_config(), json!({"rms_norm_eps": 1e-6}));
    assert_ne!(plain.0, digests(&eps, &llama_tensors()).0);
}

#[test]
fn a_large_cache_of_a_16_bit_model_is_f16() {
    let cache = |dtype: &str, positions: usize| {
        let sizes = json!({
            "num_hidden_layers": 16, "hidden_size": 2048, "num_attention_heads": 32,
            "num_key_value_heads": 8, "torch_dtype": dtype, "max_position_embeddings": positions,
        });
        let module = open_config(&with(llama_config(), sizes)).module;
        let block = &module.blocks[0];
        let types = block.params().iter().map(|p| &block.value(p.value).ty);
        let caches = types.filter_map(|ty| ty.as_cache().map(|cache| cache.dtype));
        caches.collect::<Vec<DType>>()
    };
    // 64 KiB of f32 a position.
    assert_eq!(cache("bfloat16", 8191), [DType::F32; 2]);
    assert_eq!(cache("bfloat16", 8192), [DType::F16; 2]);
    assert_eq!(cache("float32", 8192), [DType::F32; 2]);
}
