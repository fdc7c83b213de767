//! Names of tensors in GGUF files and in checkpoints of transformers.
//!
//! Only names: shapes and presence are `arch::check`'s. A name that is on no list stays as it is and
//! is then reported as not part of the architecture.

/// The output projection; a file without it ties it to the embedding.
pub(super) const TIED_HEAD: &str = "output.weight";
/// Divisors of RoPE frequencies, which become part of the config.
pub(super) const ROPE_DIVISORS: &str = "rope_freqs.weight";

const OUTSIDE_LAYERS: [(&str, &str); 3] = [
    ("token_embd.weight", "model.embed_tokens.weight"),
    ("output_norm.weight", "model.norm.weight"),
    (TIED_HEAD, "lm_head.weight"),
];

/// Behind `blk.N.` and behind `model.layers.N.`; both go on with `.weight` or `.bias`.
const IN_LAYERS: [(&str, &str); 11] = [
    ("attn_norm", "input_layernorm"),
    ("attn_q", Q),
    ("attn_k", K),
    ("attn_v", "self_attn.v_proj"),
    ("attn_q_norm", "self_attn.q_norm"),
    ("attn_k_norm", "self_attn.k_norm"),
    ("attn_output", "self_attn.o_proj"),
    ("ffn_norm", "post_attention_layernorm"),
    ("ffn_gate", "mlp.gate_proj"),
    ("ffn_up", "mlp.up_proj"),
    ("ffn_down", "mlp.down_proj"),
];

const Q: &str = "self_attn.q_proj";
const K: &str = "self_attn.k_proj";

/// The projections whose rows llama.cpp stores interleaved for architectures with its "normal" RoPE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rotated {
    /// Of the queries.
    Query,
    /// Of the keys.
    Key,
}

/// The name of a tensor in checkpoints of transformers.
pub(super) fn translate(name: &str) -> (String, Option<Rotated>) {
    if let Some((_, known)) = OUTSIDE_LAYERS.iter().find(|(n, _)| *n == name) {
        return ((*known).to_string(), None);
    }
    in_layer(name).unwrap_or_else(|| (name.to_string(), None))
}

fn in_layer(name: &str) -> Option<(String, Option<Rotated>)> {
    let (layer, rest) = name.strip_prefix("blk.")?.split_once('.')?;
    // Spelled as a number is, so that no two names become one.
    let number: u32 = layer.parse().ok().filter(|n: &u32| n.to_string() == layer)?;
    let (part, suffix) = rest.split_once('.')?;
    let (_, known) = IN_LAYERS.iter().find(|(n, _)| *n == part)?;
    let rotated = match *known {
        Q => Some(Rotated::Query),
        K => Some(Rotated::Key),
        _ => None,
    };
    matches!(suffix, "weight" | "bias")
        .then(|| (format!("model.layers.{number}.{known}.{suffix}"), rotated))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_strangers_stay() {
        assert_eq!(translate("token_embd.weight").0, "model.embed_tokens.weight");
        let (name, rotated) = translate("blk.12.attn_k.bias");
        assert_eq!(name, "model.layers.12.self_attn.k_proj.bias");
        assert_eq!(rotated, Some(Rotated::Key));
        for name in
            ["blk.01.attn_k.weight", "blk.1.attn_k.scale", "blk.x", "blk.1.ffn_gate_inp.weight"]
        {
            assert_eq!(translate(name), (name.to_string(), None));
        }
    }
}
