//! The tensors of a Llama-like decoder: role, name, shape and when there is one.
//!
//! One table for all families, which share their names. `{layer}` in a name is the layer index;
//! such a tensor exists once per layer. Matrices are [rows of output, columns of input], as
//! `torch.nn.Linear` stores them.

use crate::config::ModelConfig;

/// What a tensor is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Role {
    Embedding,
    AttentionNorm,
    Q,
    QBias,
    K,
    KBias,
    V,
    VBias,
    QNorm,
    KNorm,
    Out,
    OutBias,
    MlpNorm,
    Gate,
    GateBias,
    Up,
    UpBias,
    Down,
    DownBias,
    FinalNorm,
    Head,
}

/// A row of the table.
pub(crate) struct Row {
    pub(crate) role: Role,
    pub(crate) name: &'static str,
    shape: fn(&ModelConfig) -> Vec<usize>,
    present: fn(&ModelConfig) -> bool,
}

impl Row {
    /// Whether a decoder of this config has the tensor.
    pub(crate) fn is_in(&self, config: &ModelConfig) -> bool {
        (self.present)(config)
    }

    /// Its extents.
    pub(crate) fn shape(&self, config: &ModelConfig) -> Vec<usize> {
        (self.shape)(config)
    }

    /// Whether it exists once per layer.
    pub(crate) fn is_per_layer(&self) -> bool {
        self.name.contains("{layer}")
    }

    /// Its name in one layer; the name as it is for a tensor outside the layers.
    pub(crate) fn name_in(&self, layer: usize) -> String {
        self.name.replace("{layer}", &layer.to_string())
    }
}

/// The row of a role.
pub(crate) fn row(role: Role) -> &'static Row {
    &TABLE[role as usize]
}

/// Every row, in the order of the roles.
pub(crate) fn table() -> &'static [Row] {
    &TABLE
}

fn always(_: &ModelConfig) -> bool {
    true
}

fn q_rows(c: &ModelConfig) -> usize {
    c.heads * c.head_dim
}

fn kv_rows(c: &ModelConfig) -> usize {
    c.kv_heads * c.head_dim
}

macro_rules! table {
    ($($role:ident $name:literal, $shape:expr, $present:expr;)*) => {
        static TABLE: [Row; [$(Role::$role),*].len()] = [$(Row {
            role: Role::$role,
            name: $name,
            shape: $shape,
            present: $present,
        }),*];
    };
}

table! {
    Embedding "model.embed_tokens.weight", |c| vec![c.vocab_size, c.hidden_size], always;
    AttentionNorm "model.layers.{layer}.input_layernorm.weight", |c| vec![c.hidden_size], always;
    Q "model.layers.{layer}.self_attn.q_proj.weight", |c| vec![q_rows(c), c.hidden_size], always;
    QBias "model.layers.{layer}.self_attn.q_proj.bias", |c| vec![q_rows(c)], |c| c.qkv_bias;
    K "model.layers.{layer}.self_attn.k_proj.weight", |c| vec![kv_rows(c), c.hidden_size], always;
    KBias "model.layers.{layer}.self_attn.k_proj.bias", |c| vec![kv_rows(c)], |c| c.qkv_bias;
    V "model.layers.{layer}.self_attn.v_proj.weight", |c| vec![kv_rows(c), c.hidden_size], always;
    VBias "model.layers.{layer}.self_attn.v_proj.bias", |c| vec![kv_rows(c)], |c| c.qkv_bias;
    QNorm "model.layers.{layer}.self_attn.q_norm.weight", |c| vec![c.head_dim],
        |c| c.family.has_qk_norm;
    KNorm "model.layers.{layer}.self_attn.k_norm.weight", |c| vec![c.head_dim],
        |c| c.family.has_qk_norm;
    Out "model.layers.{layer}.self_attn.o_proj.weight", |c| vec![c.hidden_size, q_rows(c)], always;
    OutBias "model.layers.{layer}.self_attn.o_proj.bias", |c| vec![c.hidden_size], |c| c.out_bias;
    MlpNorm "model.layers.{layer}.post_attention_layernorm.weight", |c| vec![c.hidden_size], always;
    Gate "model.layers.{layer}.mlp.gate_proj.weight",
        |c| vec![c.intermediate_size, c.hidden_size], always;
    GateBias "model.layers.{layer}.mlp.gate_proj.bias", |c| vec![c.intermediate_size],
        |c| c.mlp_bias;
    Up "model.layers.{layer}.mlp.up_proj.weight",
        |c| vec![c.intermediate_size, c.hidden_size], always;
    UpBias "model.layers.{layer}.mlp.up_proj.bias", |c| vec![c.intermediate_size], |c| c.mlp_bias;
    Down "model.layers.{layer}.mlp.down_proj.weight",
        |c| vec![c.hidden_size, c.intermediate_size], always;
    DownBias "model.layers.{layer}.mlp.down_proj.bias", |c| vec![c.hidden_size], |c| c.mlp_bias;
    FinalNorm "model.norm.weight", |c| vec![c.hidden_size], always;
    Head "lm_head.weight", |c| vec![c.vocab_size, c.hidden_size], |c| !c.tied;
}

/// Buffers that old checkpoints store and that the config determines anyway.
pub(crate) fn is_ignorable(name: &str) -> bool {
    name.ends_with("rotary_emb.inv_freq")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_indexed_by_role() {
        for (i, row) in table().iter().enumerate() {
            assert_eq!(row.role as usize, i, "{}", row.name);
        }
    }
}
