//! Builds the IR of a Llama-like decoder from primitive ops, the same way for every family.
//!
//! In: a config and the dtypes of its tensors. Out: a module whose layers are blocks; layers that are
//! equal (same window, same dtypes) share a block, and consecutive equal layers share a `repeat`.
//! Emits what the reference computes, step by step, and leaves every improvement (merged
//! projections, attention and SwiGLU as one op, last-token pruning) to the passes.
//! Shapes below: T new tokens, S = C + T tokens seen, D hidden, H query heads, G key/value heads, E
//! elements of a head.

use std::ops::Range;

use ir::{
    BinaryOp, BlockId, Builder, CacheType, Dim, Graph, InferError, Module, Op, ParamKind, Real,
    Symbol, TensorType, UnaryOp, ValueId,
};
use tensor::DType;

use super::check::Tensors;
use super::names::{self, Role};
use crate::config::ModelConfig;

type Built<T> = Result<T, InferError>;

/// Builds the module of a decoder.
///
/// # Errors
/// None for a checked config; an [`InferError`] is a bug of this file.
pub(crate) fn build(
    config: &ModelConfig,
    tensors: &Tensors,
    (context, cache): (usize, DType),
) -> Built<Module> {
    let runs = runs(config, tensors);
    let mut blocks: Vec<(Kind, Graph)> = Vec::new();
    for (kind, layers) in &runs {
        if blocks.iter().all(|(known, _)| known != kind) {
            let (layer, window) = (layers.start, kind.window);
            let graph = Layer { config, tensors, layer, window, cache };
            blocks.push((kind.clone(), graph.build("layer")?));
        }
    }
    name_blocks(&mut blocks);
    let calls: Vec<(BlockId, &Graph, Range<usize>)> = runs
        .iter()
        .filter_map(|(kind, layers)| {
            let i = blocks.iter().position(|(known, _)| known == kind)?;
            Some((BlockId::new(i), &blocks[i].1, layers.clone()))
        })
        .collect();
    let main = build_main(config, tensors, cache, &calls)?;
    let mut module = Module::new(config.family.model_type, context, main);
    module.blocks = blocks.into_iter().map(|(_, graph)| graph).collect();
    Ok(module)
}

/// What may differ between layers.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Kind {
    window: Option<usize>,
    dtypes: Vec<DType>,
}

/// Consecutive layers of the same kind.
fn runs(config: &ModelConfig, tensors: &Tensors) -> Vec<(Kind, Range<usize>)> {
    let mut runs: Vec<(Kind, Range<usize>)> = Vec::new();
    for (layer, &window) in config.windows.iter().enumerate() {
        let kind = Kind { window, dtypes: tensors.layer_dtypes(layer) };
        match runs.last_mut() {
            Some((last, layers)) if *last == kind => layers.end = layer + 1,
            _ => runs.push((kind, layer..layer + 1)),
        }
    }
    runs
}

/// `layer` for the only block; else `layer_full` and `layer_sliding`, numbered where that is not
/// enough.
fn name_blocks(blocks: &mut [(Kind, Graph)]) {
    if blocks.len() < 2 {
        return;
    }
    let stem = |kind: &Kind| if kind.window.is_some() { "layer_sliding" } else { "layer_full" };
    let stems: Vec<&str> = blocks.iter().map(|(kind, _)| stem(kind)).collect();
    for (i, (_, graph)) in blocks.iter_mut().enumerate() {
        let same = |s: &&str| *s == stems[i];
        graph.name = match stems[..i].iter().filter(|s| same(s)).count() {
            0 => stems[i].to_string(),
            n => format!("{}_{}", stems[i], n + 1),
        };
    }
}

fn t() -> Dim {
    Dim::from(Symbol::T)
}

/// A KV cache before the step, of one layer or of a stack.
fn cache(config: &ModelConfig, dtype: DType, layers: Option<u32>) -> CacheType {
    let len = Dim::from(Symbol::C);
    CacheType { layers, dtype, len, heads: config.kv_heads, head_dim: config.head_dim }
}

fn build_main(
    config: &ModelConfig,
    tensors: &Tensors,
    cache_dtype: DType,
    calls: &[(BlockId, &Graph, Range<usize>)],
) -> Built<Graph> {
    let mut b = Builder::new("main");
    let tokens = b.param(ParamKind::Input, TensorType::new(DType::I32, [t()]), "tokens");
    let numbered = |stem: &str, i: usize| match calls.len() {
        1 => stem.to_string(),
        _ => format!("{stem}{i}"),
    };
    let mut states = Vec::new();
    for (i, (_, _, layers)) in calls.iter().enumerate() {
        let stack = cache(config, cache_dtype, u32::try_from(layers.len()).ok());
        let k = b.param(ParamKind::State, stack.clone(), &numbered("k", i));
        let v = b.param(ParamKind::State, stack, &numbered("v", i));
        states.push((k, v));
    }
    let embedding = weight(&mut b, config, tensors, tensors.embedding, 0)?;
    let mut x = b.apply(Op::Gather, &[embedding, tokens])?;
    let positions = b.apply(Op::Positions, &[])?;
    b.name(x, "embedded");
    b.name(positions, "positions");
    let mut successors = Vec::new();
    for ((id, block, layers), (k, v)) in calls.iter().zip(states) {
        let range = index(layers.start)..index(layers.end);
        let results = b.repeat(*id, block, range, &[x, positions, k, v])?;
        x = results[0];
        successors.extend_from_slice(&results[1..]);
    }
    let gain = weight(&mut b, config, tensors, Role::FinalNorm, 0)?;
    let normed = b.apply(Op::RmsNorm { eps: Real::new(config.norm_eps) }, &[x, gain])?;
    let head = weight(&mut b, config, tensors, tensors.head, 0)?;
    let all = b.linear(normed, head)?;
    b.name(all, "all_logits");
    let start = &t() - &Dim::from(Symbol::R);
    let logits = b.apply(Op::Slice { axis: 0, start, end: t() }, &[all])?;
    b.name(logits, "logits");
    let mut results = vec![logits];
    results.extend(successors);
    Ok(b.finish(results))
}

/// A layer index as the IR has it; configs are limited to far fewer layers than 2^32.
fn index(layer: usize) -> u32 {
    u32::try_from(layer).unwrap_or(u32::MAX)
}

/// A weight by role; `layer` is any layer of those that the graph stands for.
fn weight(
    b: &mut Builder,
    config: &ModelConfig,
    tensors: &Tensors,
    role: Role,
    layer: usize,
) -> Built<ValueId> {
    let row = names::row(role);
    let dtype = tensors.dtype(role, layer).unwrap_or(DType::F32);
    b.weight(row.name, dtype, &row.shape(config))
}

/// One decoder layer.
struct Layer<'a> {
    config: &'a ModelConfig,
    tensors: &'a Tensors,
    /// A layer of this kind, to look dtypes up.
    layer: usize,
    window: Option<usize>,
    /// Dtype of the KV cache.
    cache: DType,
}

impl Layer<'_> {
    /// Block: carry x[T, D], input positions[T], states k and v[C, G, E].
    fn build(&self, name: &str) -> Built<Graph> {
        let mut b = Builder::new(name);
        let hidden = Dim::from(self.config.hidden_size);
        let x = b.param(ParamKind::Carry, TensorType::new(DType::F32, [t(), hidden]), "x");
        let positions = TensorType::new(DType::I32, [t()]);
        let positions = b.param(ParamKind::Input, positions, "positions");
        let k_cache = b.param(ParamKind::State, cache(self.config, self.cache, None), "k_cache");
        let v_cache = b.param(ParamKind::State, cache(self.config, self.cache, None), "v_cache");

        let normed = self.norm(&mut b, Role::AttentionNorm, x)?;
        let (heads, kv_heads) = (self.config.heads, self.config.kv_heads);
        let q = self.heads(&mut b, [Role::Q, Role::QBias], normed, heads)?;
        let k = self.heads(&mut b, [Role::K, Role::KBias], normed, kv_heads)?;
        let v = self.heads(&mut b, [Role::V, Role::VBias], normed, kv_heads)?;
        let q = self.rotate(&mut b, Role::QNorm, q, positions)?;
        let k = self.rotate(&mut b, Role::KNorm, k, positions)?;
        let (q, k, v) = (b.name(q, "q"), b.name(k, "k"), b.name(v, "v"));
        let k_cache = b.apply(Op::CacheAppend, &[k_cache, k])?;
        let v_cache = b.apply(Op::CacheAppend, &[v_cache, v])?;
        let k = b.apply(Op::CacheRead, &[k_cache])?;
        let v = b.apply(Op::CacheRead, &[v_cache])?;
        let attended = self.attention(&mut b, q, k, v)?;
        let attended = self.linear(&mut b, [Role::Out, Role::OutBias], attended)?;
        let x = b.binary(BinaryOp::Add, x, attended)?;
        b.name(x, "after_attention");

        let normed = self.norm(&mut b, Role::MlpNorm, x)?;
        let mlp = self.mlp(&mut b, normed)?;
        let y = b.binary(BinaryOp::Add, x, mlp)?;
        b.name(y, "y");
        Ok(b.finish(vec![y, k_cache, v_cache]))
    }

    fn weight(&self, b: &mut Builder, role: Role) -> Built<ValueId> {
        weight(b, self.config, self.tensors, role, self.layer)
    }

    /// RMS norm with gain.
    fn norm(&self, b: &mut Builder, role: Role, x: ValueId) -> Built<ValueId> {
        let gain = self.weight(b, role)?;
        b.apply(Op::RmsNorm { eps: Real::new(self.config.norm_eps) }, &[x, gain])
    }

    /// x W^T, plus the bias where the model has it.
    fn linear(&self, b: &mut Builder, [w, bias]: [Role; 2], x: ValueId) -> Built<ValueId> {
        let w = self.weight(b, w)?;
        let y = b.linear(x, w)?;
        if !names::row(bias).is_in(self.config) {
            return Ok(y);
        }
        let bias = self.weight(b, bias)?;
        b.binary(BinaryOp::Add, y, bias)
    }

    /// A projection cut into heads: [T, D] -> [T, heads, E].
    fn heads(&self, b: &mut Builder, roles: [Role; 2], x: ValueId, heads: usize) -> Built<ValueId> {
        let y = self.linear(b, roles, x)?;
        b.reshape(y, vec![t(), heads.into(), self.config.head_dim.into()])
    }

    /// The norm of q or k where the family has it, then RoPE.
    fn rotate(
        &self,
        b: &mut Builder,
        norm: Role,
        x: ValueId,
        positions: ValueId,
    ) -> Built<ValueId> {
        let present = names::row(norm).is_in(self.config);
        let x = if present { self.norm(b, norm, x)? } else { x };
        b.apply(Op::Rope(Box::new(self.config.rope.clone())), &[x, positions])
    }

    /// softmax(q k^T / sqrt(E) + mask) v: q[T, H, E], k and v[S, G, E] -> [T, H * E].
    fn attention(&self, b: &mut Builder, q: ValueId, k: ValueId, v: ValueId) -> Built<ValueId> {
        let (heads, head_dim) = (self.config.heads, self.config.head_dim);
        let q = b.transpose(q, &[1, 0, 2])?;
        let k = self.per_query_head(b, k)?;
        let v = self.per_query_head(b, v)?;
        let k = b.transpose(k, &[0, 2, 1])?;
        let scores = b.matmul(q, k)?;
        let scale = b.constant((head_dim as f64).powf(-0.5))?;
        let scaled = b.binary(BinaryOp::Mul, scores, scale)?;
        let mask = b.apply(Op::CausalMask { window: self.window }, &[])?;
        let masked = b.binary(BinaryOp::Add, scaled, mask)?;
        let probabilities = b.apply(Op::Softmax, &[masked])?;
        let mixed = b.matmul(probabilities, v)?;
        let rows = b.transpose(mixed, &[1, 0, 2])?;
        b.reshape(rows, vec![t(), (heads * head_dim).into()])
    }

    /// Key/value heads repeated for the query heads that share them: [S, G, E] -> [H, S, E].
    fn per_query_head(&self, b: &mut Builder, x: ValueId) -> Built<ValueId> {
        let ModelConfig { heads, kv_heads, head_dim, .. } = *self.config;
        let seen = &Dim::from(Symbol::C) + &t();
        let mut x = x;
        if heads != kv_heads {
            let dims =
                |shared: usize| vec![seen.clone(), kv_heads.into(), shared.into(), head_dim.into()];
            x = b.reshape(x, dims(1))?;
            x = b.apply(Op::Broadcast(dims(heads / kv_heads)), &[x])?;
            x = b.reshape(x, vec![seen, heads.into(), head_dim.into()])?;
        }
        b.transpose(x, &[1, 0, 2])
    }

    /// down(act(gate(x)) * up(x)).
    fn mlp(&self, b: &mut Builder, x: ValueId) -> Built<ValueId> {
        let gate = self.linear(b, [Role::Gate, Role::GateBias], x)?;
        let up = self.linear(b, [Role::Up, Role::UpBias], x)?;
        let gate = b.unary(UnaryOp::Act(self.config.activation), gate)?;
        let product = b.binary(BinaryOp::Mul, gate, up)?;
        self.linear(b, [Role::Down, Role::DownBias], product)
    }
}
