//! What the tests of this crate share: a small decoder written with primitive ops as a front end
//! writes it, random weights, running one pass, comparing modules by meaning.

use ir::eval::{EvalOptions, Session};
use ir::{
    Activation, BinaryOp, BlockId, Builder, CacheType, Dim, Graph, InferError, Module, Op,
    ParamKind, Real, RopeScaling, RopeSpec, Symbol, TensorType, UnaryOp, ValueId, WeightMap,
};
use tensor::{DType, Rng, Tensor};

use crate::manager::{self, RunOptions};
use crate::{NeutralCost, Report, Tier};

/// Ways to write grouped-query attention that mean the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Spelling {
    /// Heads repeated, then moved in front; scores scaled.
    FrontEnd,
    /// Queries scaled before they are rotated.
    ScaledQueries,
    /// Keys and values moved in front, then repeated; scores divided.
    RepeatedBehind,
    /// Groups and heads of a group as two axes; keys broadcast over a group.
    Grouped,
}

/// Shape of a test decoder.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Decoder {
    pub(crate) layers: u32,
    pub(crate) width: usize,
    pub(crate) heads: usize,
    pub(crate) groups: usize,
    pub(crate) head_dim: usize,
    pub(crate) hidden: usize,
    pub(crate) vocab: usize,
    pub(crate) dtype: DType,
    pub(crate) bias: bool,
    pub(crate) head_norm: bool,
    pub(crate) window: Option<usize>,
    pub(crate) tied: bool,
    pub(crate) attention: Spelling,
    /// Norms and activations spelled out in primitives.
    pub(crate) primitive: bool,
}

impl Default for Decoder {
    fn default() -> Self {
        Decoder {
            layers: 2,
            width: 64,
            heads: 4,
            groups: 2,
            head_dim: 16,
            hidden: 96,
            vocab: 50,
            dtype: DType::BF16,
            bias: false,
            head_norm: false,
            window: None,
            tied: true,
            attention: Spelling::FrontEnd,
            primitive: false,
        }
    }
}

type Built = Result<ValueId, InferError>;

fn t() -> Dim {
    Symbol::T.into()
}

impl Decoder {
    /// The module: one block, repeated.
    pub(crate) fn module(&self) -> Module {
        let block = self.block().expect("the block is well typed");
        let main = self.main(&block).expect("main is well typed");
        let mut module = Module::new("test", 64, main);
        module.blocks.push(block);
        ir::verify(&module).expect("the module is valid");
        module
    }

    fn cache(&self, layers: Option<u32>) -> CacheType {
        let (heads, head_dim) = (self.groups, self.head_dim);
        CacheType { layers, dtype: DType::F32, len: Symbol::C.into(), heads, head_dim }
    }

    fn main(&self, block: &Graph) -> Result<Graph, InferError> {
        let mut b = Builder::new("main");
        let tokens = b.param(ParamKind::Input, TensorType::new(DType::I32, [t()]), "tokens");
        let k = b.param(ParamKind::State, self.cache(Some(self.layers)), "k");
        let v = b.param(ParamKind::State, self.cache(Some(self.layers)), "v");
        let table = b.weight("embed", self.dtype, &[self.vocab, self.width])?;
        let x = b.apply(Op::Gather, &[table, tokens])?;
        let positions = b.apply(Op::Positions, &[])?;
        let layers = 0..self.layers;
        let out = b.repeat(BlockId::new(0), block, layers, &[x, positions, k, v])?;
        let normed = self.norm(&mut b, "norm", self.width, out[0])?;
        let head = if self.tied { "embed" } else { "head" };
        let head = b.weight(head, self.dtype, &[self.vocab, self.width])?;
        let all = b.linear(normed, head)?;
        let last = Op::Slice { axis: 0, start: &t() - &Symbol::R.into(), end: t() };
        let logits = b.apply(last, &[all])?;
        b.name(logits, "logits");
        Ok(b.finish(vec![logits, out[1], out[2]]))
    }

    fn block(&self) -> Result<Graph, InferError> {
        let mut b = Builder::new("layer");
        let carry = TensorType::new(DType::F32, [t(), self.width.into()]);
        let x = b.param(ParamKind::Carry, carry, "x");
        let positions = b.param(ParamKind::Input, TensorType::new(DType::I32, [t()]), "positions");
        let k_cache = b.param(ParamKind::State, self.cache(None), "k_cache");
        let v_cache = b.param(ParamKind::State, self.cache(None), "v_cache");
        let normed = self.norm(&mut b, "{layer}.norm1", self.width, x)?;
        let q = self.projection(&mut b, normed, "q", self.heads)?;
        let k = self.projection(&mut b, normed, "k", self.groups)?;
        let v = self.projection(&mut b, normed, "v", self.groups)?;
        let q = self.rotate(&mut b, "q", q, positions)?;
        let k = self.rotate(&mut b, "k", k, positions)?;
        let k_cache = b.apply(Op::CacheAppend, &[k_cache, k])?;
        let v_cache = b.apply(Op::CacheAppend, &[v_cache, v])?;
        let keys = b.apply(Op::CacheRead, &[k_cache])?;
        let values = b.apply(Op::CacheRead, &[v_cache])?;
        let mixed = self.attention(&mut b, q, keys, values)?;
        let out = self.linear(&mut b, "o", mixed, [self.width, self.heads * self.head_dim])?;
        let x = b.binary(BinaryOp::Add, x, out)?;
        let normed = self.norm(&mut b, "{layer}.norm2", self.width, x)?;
        let gate = self.linear(&mut b, "gate", normed, [self.hidden, self.width])?;
        let up = self.linear(&mut b, "up", normed, [self.hidden, self.width])?;
        let gate = if self.primitive {
            let sigmoid = b.unary(UnaryOp::Sigmoid, gate)?;
            b.binary(BinaryOp::Mul, sigmoid, gate)?
        } else {
            b.unary(UnaryOp::Act(Activation::Silu), gate)?
        };
        let product = b.binary(BinaryOp::Mul, gate, up)?;
        let down = self.linear(&mut b, "down", product, [self.width, self.hidden])?;
        let y = b.binary(BinaryOp::Add, x, down)?;
        b.name(y, "y");
        Ok(b.finish(vec![y, k_cache, v_cache]))
    }

    fn linear(&self, b: &mut Builder, name: &str, x: ValueId, shape: [usize; 2]) -> Built {
        let w = b.weight(format!("{{layer}}.{name}"), self.dtype, &shape)?;
        b.linear(x, w)
    }

    fn norm(&self, b: &mut Builder, name: &str, width: usize, x: ValueId) -> Built {
        let gain = b.weight(name, self.dtype, &[width])?;
        if self.primitive {
            let square = b.binary(BinaryOp::Mul, x, x)?;
            let axis =
                if b.graph().ty(x).as_tensor().is_some_and(|t| t.rank() == 3) { 2 } else { 1 };
            let mean = b.apply(Op::Reduce { op: ir::ReduceOp::Mean, axis }, &[square])?;
            let eps = b.constant(1e-5)?;
            let sum = b.binary(BinaryOp::Add, eps, mean)?;
            let root = b.unary(UnaryOp::Rsqrt, sum)?;
            let normed = b.binary(BinaryOp::Mul, root, x)?;
            return b.binary(BinaryOp::Mul, gain, normed);
        }
        b.apply(Op::RmsNorm { eps: Real::new(1e-5) }, &[x, gain])
    }

    fn projection(&self, b: &mut Builder, x: ValueId, name: &str, heads: usize) -> Built {
        let wide = heads * self.head_dim;
        let mut y = self.linear(b, name, x, [wide, self.width])?;
        if self.bias {
            let bias = b.weight(format!("{{layer}}.{name}_bias"), self.dtype, &[wide])?;
            y = b.binary(BinaryOp::Add, y, bias)?;
        }
        b.reshape(y, vec![t(), heads.into(), self.head_dim.into()])
    }

    fn rotate(&self, b: &mut Builder, name: &str, x: ValueId, positions: ValueId) -> Built {
        let mut x = x;
        if self.attention == Spelling::ScaledQueries && name == "q" {
            x = self.scaled(b, x)?;
        }
        let x = match self.head_norm {
            true => self.norm(b, &format!("{{layer}}.{name}_norm"), self.head_dim, x)?,
            false => x,
        };
        let (dim, theta) = (self.head_dim, Real::new(1e4));
        let spec = RopeSpec { dim, theta, scaling: RopeScaling::None };
        b.apply(Op::Rope(Box::new(spec)), &[x, positions])
    }

    fn scale(&self) -> f64 {
        (self.head_dim as f64).powf(-0.5)
    }

    fn attention(&self, b: &mut Builder, q: ValueId, k: ValueId, v: ValueId) -> Built {
        let (k, v) = match self.attention {
            Spelling::Grouped => return self.grouped_attention(b, q, k, v),
            Spelling::RepeatedBehind => (self.repeat_behind(b, k)?, self.repeat_behind(b, v)?),
            _ => (self.repeat_heads(b, k)?, self.repeat_heads(b, v)?),
        };
        let q = b.transpose(q, &[1, 0, 2])?;
        let k = b.transpose(k, &[0, 2, 1])?;
        let scores = b.matmul(q, k)?;
        let scores = match self.attention {
            Spelling::ScaledQueries => scores,
            Spelling::RepeatedBehind => {
                let divisor = b.constant(1.0 / self.scale())?;
                b.binary(BinaryOp::Div, scores, divisor)?
            }
            _ => self.scaled(b, scores)?,
        };
        let mixed = self.weighted(b, scores, v)?;
        let mixed = b.transpose(mixed, &[1, 0, 2])?;
        b.reshape(mixed, vec![t(), (self.heads * self.head_dim).into()])
    }

    fn scaled(&self, b: &mut Builder, x: ValueId) -> Built {
        let scale = b.constant(self.scale())?;
        b.binary(BinaryOp::Mul, x, scale)
    }

    fn weighted(&self, b: &mut Builder, scores: ValueId, v: ValueId) -> Built {
        let mask = b.apply(Op::CausalMask { window: self.window }, &[])?;
        let scores = b.binary(BinaryOp::Add, scores, mask)?;
        let weights = b.apply(Op::Softmax, &[scores])?;
        b.matmul(weights, v)
    }

    fn grouped_attention(&self, b: &mut Builder, q: ValueId, k: ValueId, v: ValueId) -> Built {
        let (groups, each, head_dim) = (self.groups, self.heads / self.groups, self.head_dim);
        let seen = &Dim::from(Symbol::C) + &t();
        let q = b.reshape(q, vec![t(), groups.into(), each.into(), head_dim.into()])?;
        let q = b.transpose(q, &[1, 2, 0, 3])?;
        let mut shared = |x: ValueId| {
            let x = b.transpose(x, &[1, 0, 2])?;
            let dims = |n: usize| vec![groups.into(), n.into(), seen.clone(), head_dim.into()];
            let x = b.reshape(x, dims(1))?;
            b.apply(Op::Broadcast(dims(each)), &[x])
        };
        let (k, v) = (shared(k)?, shared(v)?);
        let k = b.transpose(k, &[0, 1, 3, 2])?;
        let scores = b.matmul(q, k)?;
        let scores = self.scaled(b, scores)?;
        let mixed = self.weighted(b, scores, v)?;
        let mixed = b.transpose(mixed, &[2, 0, 1, 3])?;
        b.reshape(mixed, vec![t(), (self.heads * head_dim).into()])
    }

    /// [S, G, E] -> [G, S, E] -> [H, S, E].
    fn repeat_behind(&self, b: &mut Builder, x: ValueId) -> Built {
        let (groups, each) = (self.groups, self.heads / self.groups);
        let seen = &Dim::from(Symbol::C) + &t();
        let x = b.transpose(x, &[1, 0, 2])?;
        let dims = |n: usize| vec![groups.into(), n.into(), seen.clone(), self.head_dim.into()];
        let x = b.reshape(x, dims(1))?;
        let x = b.apply(Op::Broadcast(dims(each)), &[x])?;
        b.reshape(x, vec![self.heads.into(), seen, self.head_dim.into()])
    }

    fn repeat_heads(&self, b: &mut Builder, mut x: ValueId) -> Built {
        let seen = &Dim::from(Symbol::C) + &t();
        if self.heads != self.groups {
            let (groups, each) = (self.groups, self.heads / self.groups);
            let dims = |n: usize| vec![seen.clone(), groups.into(), n.into(), self.head_dim.into()];
            x = b.reshape(x, dims(1))?;
            x = b.apply(Op::Broadcast(dims(each)), &[x])?;
            x = b.reshape(x, vec![seen, self.heads.into(), self.head_dim.into()])?;
        }
        b.transpose(x, &[1, 0, 2])
    }
}

/// Weights for every name a module reads, from a fixed seed; the same for equal names and shapes.
pub(crate) fn random_weights(module: &Module) -> WeightMap {
    let tensors = module.weights().into_iter().map(|w| {
        let seed = w.name.bytes().fold(7u64, |h, b| h.wrapping_mul(31).wrapping_add(u64::from(b)));
        let tensor = random_tensor(&mut Rng::new(seed), w.dtype, &w.shape);
        (w.name, tensor)
    });
    tensors.collect()
}

/// A tensor of normal numbers of a size that keeps activations near 1.
pub(crate) fn random_tensor(rng: &mut Rng, dtype: DType, shape: &[usize]) -> Tensor {
    let n: usize = shape.iter().product();
    let scale = if shape.len() > 1 { 1.0 / (shape[shape.len() - 1] as f32).sqrt() } else { 1.0 };
    let values: Vec<f32> = (0..n).map(|_| rng.normal() * scale).collect();
    Tensor::from_f32(shape.to_vec(), &values).cast(dtype).expect("whole groups")
}

/// Logits of a prompt, then of two more tokens.
pub(crate) fn logits(module: &Module, weights: &WeightMap) -> Vec<f32> {
    let mut session = Session::new(module, weights, EvalOptions::default()).expect("valid");
    let mut out = session.step(&[3, 1, 4, 1, 5], 3).expect("evaluates").to_f32();
    out.extend(session.step(&[9], 1).expect("evaluates").to_f32());
    out.extend(session.step(&[2, 6], 2).expect("evaluates").to_f32());
    out
}

/// Asserts that two modules compute the same, at a tier.
pub(crate) fn assert_same_meaning(before: &Module, after: &Module, tier: Tier) {
    let weights = random_weights(before);
    let (expected, found) = (logits(before, &weights), logits(after, &weights));
    assert_close(&found, &expected, tier);
}

/// Asserts that numbers agree as a tier promises.
pub(crate) fn assert_close(found: &[f32], expected: &[f32], tier: Tier) {
    if let Err(mismatch) = tensor::compare::check(found, expected, tier.tolerance()) {
        panic!("not the same at {tier}: {mismatch}");
    }
}

/// Runs a pipeline under the neutral model and returns its report.
pub(crate) fn run_pipeline(pipeline: &str, module: &mut Module) -> Report {
    run_at(pipeline, module, Tier::default())
}

/// Runs a pipeline at a tier.
pub(crate) fn run_at(pipeline: &str, module: &mut Module, tier: Tier) -> Report {
    let options = RunOptions { tier, ..RunOptions::default() };
    manager::run(pipeline, module, &NeutralCost, options).expect("the pipeline runs")
}

/// Runs one pass; whether it changed anything.
pub(crate) fn run_pass(pass: &str, module: &mut Module) -> bool {
    run_pipeline(pass, module).passes[0].changed
}
