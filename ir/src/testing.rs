//! A small decoder for the unit tests: two layers of grouped-query attention and a gated MLP,
//! written with primitive ops as a front end writes it, or with the fused ops.

use tensor::{DType, Rng, Tensor};

use crate::{
    Activation, BinaryOp, BlockId, Builder, CacheType, Dim, Graph, InferError, Module, Op,
    ParamKind, Real, RopeScaling, RopeSpec, Symbol, TensorType, Type, ValueId, WeightMap,
};

pub(crate) const VOCAB: usize = 13;
const WIDTH: usize = 8;
const HEADS: usize = 4;
const GROUPS: usize = 2;
const HEAD: usize = 4;
const HIDDEN: usize = 12;
pub(crate) const CONTEXT: usize = 32;

/// Which ops the decoder is written with.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Style {
    Primitive,
    Fused,
}

fn dims<const N: usize>(list: [Dim; N]) -> Vec<Dim> {
    list.to_vec()
}

fn t() -> Dim {
    Symbol::T.into()
}

pub(crate) fn cache_type(layers: Option<u32>) -> Type {
    let len = Symbol::C.into();
    CacheType { layers, dtype: DType::F32, len, heads: GROUPS, head_dim: HEAD }.into()
}

/// A module of two layers with a sliding window of 5.
pub(crate) fn decoder(style: Style) -> Module {
    let block = layer(style).expect("the layer is well typed");
    let mut module = main(&block).expect("main is well typed");
    module.blocks.push(block);
    module
}

fn main(block: &Graph) -> Result<Module, InferError> {
    let mut b = Builder::new("main");
    let tokens = b.param(ParamKind::Input, TensorType::new(DType::I32, [Symbol::T]), "tokens");
    let k = b.param(ParamKind::State, cache_type(Some(2)), "k");
    let v = b.param(ParamKind::State, cache_type(Some(2)), "v");
    let table = b.weight("embed", DType::BF16, &[VOCAB, WIDTH])?;
    let x = b.apply(Op::Gather, &[table, tokens])?;
    let positions = b.apply(Op::Positions, &[])?;
    let out = b.repeat(BlockId::new(0), block, 0..2, &[x, positions, k, v])?;
    let end: Dim = t();
    let start = &end - &Dim::from(Symbol::R);
    let last = b.apply(Op::Slice { axis: 0, start, end }, &[out[0]])?;
    let gain = b.weight("norm", DType::F32, &[WIDTH])?;
    let normed = b.apply(Op::RmsNorm { eps: Real::new(1e-5) }, &[last, gain])?;
    let logits = b.linear(normed, table)?;
    b.name(logits, "logits");
    Ok(Module::new("tiny", CONTEXT, b.finish(vec![logits, out[1], out[2]])))
}

fn layer(style: Style) -> Result<Graph, InferError> {
    let mut b = Builder::new("layer");
    let x = b.param(ParamKind::Carry, TensorType::new(DType::F32, [t(), WIDTH.into()]), "x");
    let positions =
        b.param(ParamKind::Input, TensorType::new(DType::I32, [Symbol::T]), "positions");
    let k = b.param(ParamKind::State, cache_type(None), "k");
    let v = b.param(ParamKind::State, cache_type(None), "v");
    let gain = b.weight("{layer}.gain", DType::F32, &[WIDTH])?;
    let h = b.apply(Op::RmsNorm { eps: Real::new(1e-5) }, &[x, gain])?;
    let q = heads(&mut b, h, "q", HEADS)?;
    let new_k = heads(&mut b, h, "k", GROUPS)?;
    let new_v = heads(&mut b, h, "v", GROUPS)?;
    let spec = RopeSpec { dim: HEAD, theta: Real::new(100.0), scaling: RopeScaling::None };
    let q = b.apply(Op::Rope(Box::new(spec.clone())), &[q, positions])?;
    let new_k = b.apply(Op::Rope(Box::new(spec)), &[new_k, positions])?;
    let k = b.apply(Op::CacheAppend, &[k, new_k])?;
    let v = b.apply(Op::CacheAppend, &[v, new_v])?;
    let keys = b.apply(Op::CacheRead, &[k])?;
    let values = b.apply(Op::CacheRead, &[v])?;
    let window = Some(5);
    let mixed = match style {
        Style::Fused => {
            b.apply(Op::Attention { scale: Real::new(0.5), window }, &[q, keys, values])?
        }
        Style::Primitive => attention(&mut b, q, keys, values, window)?,
    };
    let flat = b.reshape(mixed, dims([t(), (HEADS * HEAD).into()]))?;
    let w = b.weight("{layer}.o", DType::F32, &[WIDTH, HEADS * HEAD])?;
    let out = b.linear(flat, w)?;
    let x = b.binary(BinaryOp::Add, x, out)?;
    let h = b.apply(Op::RmsNorm { eps: Real::new(1e-5) }, &[x])?;
    let gate = b.weight("{layer}.gate", DType::F16, &[HIDDEN, WIDTH])?;
    let gate = b.linear(h, gate)?;
    let up = b.weight("{layer}.up", DType::F32, &[HIDDEN, WIDTH])?;
    let up = b.linear(h, up)?;
    let act = Activation::Silu;
    let gated = match style {
        Style::Fused => b.apply(Op::Glu(act), &[gate, up])?,
        Style::Primitive => {
            let gate = b.unary(crate::UnaryOp::Act(act), gate)?;
            b.binary(BinaryOp::Mul, gate, up)?
        }
    };
    let down = b.weight("{layer}.down", DType::F32, &[WIDTH, HIDDEN])?;
    let down = b.linear(gated, down)?;
    let y = b.binary(BinaryOp::Add, x, down)?;
    b.name(y, "y");
    Ok(b.finish(vec![y, k, v]))
}

fn heads(b: &mut Builder, x: ValueId, name: &str, count: usize) -> Result<ValueId, InferError> {
    let w = b.weight(format!("{{layer}}.{name}"), DType::F32, &[count * HEAD, WIDTH])?;
    let y = b.linear(x, w)?;
    b.reshape(y, dims([t(), count.into(), HEAD.into()]))
}

/// q[T, H, D], k[S, G, D], v[S, G, D] -> [T, H, D], with the key heads broadcast.
fn attention(
    b: &mut Builder,
    q: ValueId,
    k: ValueId,
    v: ValueId,
    window: Option<usize>,
) -> Result<ValueId, InferError> {
    let k = spread(b, k)?;
    let v = spread(b, v)?;
    let q = b.transpose(q, &[1, 0, 2])?;
    let k = b.transpose(k, &[1, 2, 0])?;
    let v = b.transpose(v, &[1, 0, 2])?;
    let scores = b.matmul(q, k)?;
    let scale = b.constant(0.5)?;
    let scores = b.binary(BinaryOp::Mul, scores, scale)?;
    let mask = b.apply(Op::CausalMask { window }, &[])?;
    let scores = b.binary(BinaryOp::Add, scores, mask)?;
    let weights = b.apply(Op::Softmax, &[scores])?;
    let out = b.matmul(weights, v)?;
    b.transpose(out, &[1, 0, 2])
}

/// [S, G, D] -> [S, H, D]: each key head for all of its query heads.
fn spread(b: &mut Builder, x: ValueId) -> Result<ValueId, InferError> {
    let s = &Dim::from(Symbol::C) + &t();
    let each = HEADS / GROUPS;
    let x = b.reshape(x, dims([s.clone(), GROUPS.into(), 1.into(), HEAD.into()]))?;
    let wide = dims([s.clone(), GROUPS.into(), each.into(), HEAD.into()]);
    let x = b.apply(Op::Broadcast(wide), &[x])?;
    b.reshape(x, dims([s, HEADS.into(), HEAD.into()]))
}

/// Random weights for every weight that `module` reads.
pub(crate) fn weights(module: &Module, seed: u64) -> WeightMap {
    let mut rng = Rng::new(seed);
    let tensors = module.weights().into_iter().map(|w| {
        let values: Vec<f32> = (0..w.shape.iter().product()).map(|_| rng.normal()).collect();
        let tensor = Tensor::from_f32(w.shape, &values).cast(w.dtype);
        (w.name, tensor.expect("shapes are whole groups"))
    });
    tensors.collect()
}
