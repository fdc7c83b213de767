//! Fields of config.json that are known not to change what these decoders compute.
//!
//! Two lists: fields that may say anything, and fields that may only say what these decoders do
//! anyway. A field on neither list that nobody reads is refused by name.

use serde_json::json;

use super::fields::Fields;
use crate::error::FrontendError;

/// Fields without effect on the logits, whatever they say.
pub(super) const ANY_VALUE: [&str; 72] = [
    // Provenance.
    "_name_or_path",
    "name_or_path",
    "_commit_hash",
    "transformers_version",
    "unsloth_fixed",
    "unsloth_version",
    // Training: dropout is off in inference.
    "attention_dropout",
    "hidden_dropout",
    "embd_pdrop",
    "resid_pdrop",
    "initializer_range",
    "gradient_checkpointing",
    // What the Python object returns, and by which kernels.
    "output_hidden_states",
    "output_attentions",
    "output_scores",
    "return_dict",
    "return_dict_in_generate",
    "use_cache",
    "torchscript",
    "use_bfloat16",
    "attn_implementation",
    "_attn_implementation",
    "_attn_implementation_autoset",
    "_flash_attn_2_enabled",
    "experts_implementation",
    "chunk_size_feed_forward",
    "tie_last_hidden_states",
    // pretraining_tp cuts the projections into slices and joins the results: the same function.
    "pretraining_tp",
    // Classification heads and fine-tuning.
    "id2label",
    "label2id",
    "num_labels",
    "problem_type",
    "finetuning_task",
    "task_specific_params",
    "classifier_dropout",
    // Tokens: read as generation defaults, or of other kinds of model.
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
    "sep_token_id",
    "decoder_start_token_id",
    "tokenizer_class",
    "prefix",
    // Generation parameters of old configs; transformers 5 drops them.
    "max_length",
    "min_length",
    "max_new_tokens",
    "do_sample",
    "early_stopping",
    "num_beams",
    "num_beam_groups",
    "diversity_penalty",
    "temperature",
    "top_k",
    "top_p",
    "typical_p",
    "repetition_penalty",
    "length_penalty",
    "no_repeat_ngram_size",
    "encoder_no_repeat_ngram_size",
    "bad_words_ids",
    "num_return_sequences",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "remove_invalid_values",
    "exponential_decay_length_penalty",
    "suppress_tokens",
    "begin_suppress_tokens",
    "cache_implementation",
    // Of other frameworks and of encoder-decoders.
    "tf_legacy_loss",
    "is_decoder",
    "tie_encoder_decoder",
    "cross_attention_hidden_size",
    "max_sequence_length",
];

/// Takes the fields that may only have the one value that these decoders implement.
///
/// # Errors
/// Those that have another.
pub(super) fn take_neutral(fields: &mut Fields<'_>) -> Result<(), FrontendError> {
    let neutral = [
        ("is_encoder_decoder", json!(false)),
        ("add_cross_attention", json!(false)),
        ("pruned_heads", json!({})),
        ("per_layer_config", json!({})),
        // Declared by one family of these and possibly copied into another's config.
        ("attention_bias", json!(false)),
        ("mlp_bias", json!(false)),
        ("use_mrope", json!(false)),
        ("rope_interleaved", json!(false)),
    ];
    for (key, accepted) in neutral {
        let Some(found) = fields.value(key) else { continue };
        if found != accepted {
            return Err(fields.wrong(key, &found, &format!("{accepted} for this architecture")));
        }
    }
    Ok(())
}
