//! Random small decoders as optimised modules, their weights, and the three-way comparison: the compiled
//! plan is legal, and executed it gives the logits of `ir::eval`.

use std::collections::BTreeMap;

use ir::{
    Activation, BinaryOp, BlockId, Builder, CacheType, Dim, Module, Op, ParamKind, Real,
    RopeScaling, RopeSpec, Symbol, TensorType, Type, ValueId,
};
use tensor::{DType, Rng, Tensor, Tolerance, compare};

/// What a random decoder looks like.
#[derive(Clone, Debug)]
pub(crate) struct Decoder {
    pub(crate) hidden: usize,
    pub(crate) heads: usize,
    pub(crate) kv_heads: usize,
    pub(crate) head_dim: usize,
    pub(crate) ffn: usize,
    pub(crate) vocab: usize,
    pub(crate) layers: u32,
    pub(crate) context: usize,
    pub(crate) bias: bool,
    pub(crate) qk_norm: bool,
    pub(crate) window: Option<usize>,
    pub(crate) tied: bool,
    pub(crate) merged: bool,
    pub(crate) folded: bool,
    pub(crate) dtype: DType,
    pub(crate) cache: DType,
    pub(crate) quant: Option<DType>,
    pub(crate) activation: Activation,
    pub(crate) scaling: RopeScaling,
}

impl Default for Decoder {
    fn default() -> Self {
        Decoder {
            hidden: 32,
            heads: 4,
            kv_heads: 2,
            head_dim: 8,
            ffn: 48,
            vocab: 67,
            layers: 2,
            context: 24,
            bias: false,
            qk_norm: false,
            window: None,
            tied: false,
            merged: true,
            folded: false,
            dtype: DType::F32,
            cache: DType::F32,
            quant: None,
            activation: Activation::Silu,
            scaling: RopeScaling::None,
        }
    }
}

impl Decoder {
    /// One that gives every PE of a 64x64 grid something to do.
    pub(crate) fn medium() -> Self {
        Decoder {
            hidden: 256,
            heads: 8,
            kv_heads: 4,
            head_dim: 32,
            ffn: 512,
            vocab: 2000,
            context: 256,
            dtype: DType::BF16,
            ..Decoder::default()
        }
    }
}

/// Weights by name; bytes of `dtype`.
pub(crate) struct Weights(pub(crate) BTreeMap<String, Tensor>);

impl ir::WeightSource for Weights {
    fn load(&self, name: &str) -> Result<Tensor, String> {
        self.0.get(name).cloned().ok_or_else(|| format!("no weight {name}"))
    }
}

fn dim(n: usize) -> Dim {
    Dim::from(n)
}

struct Layer<'a> {
    b: Builder,
    d: &'a Decoder,
}

impl Layer<'_> {
    fn w(&mut self, name: &str, shape: &[usize]) -> ValueId {
        let dtype = self.d.dtype;
        self.b.weight(name, dtype, shape).expect("weight")
    }

    fn op(&mut self, op: Op, x: &[ValueId]) -> ValueId {
        self.b.apply(op, x).expect("well-formed test module")
    }

    fn matrix(&mut self, name: &str, n: usize, k: usize, gain: Option<ValueId>) -> ValueId {
        let mut w = self.w(&format!("{name}.weight"), &[n, k]);
        if let Some(gain) = gain {
            w = self.op(Op::Binary(BinaryOp::Mul), &[w, gain]);
        }
        if let Some(quant) = self.d.quant {
            w = self.op(Op::Quantize(quant), &[w]);
        }
        w
    }

    /// Projections of x, merged into one mat-vec or not.
    fn project(
        &mut self,
        x: ValueId,
        names: &[(&str, usize)],
        k: usize,
        gain: Option<ValueId>,
        bias: bool,
    ) -> Vec<ValueId> {
        let matrices: Vec<ValueId> =
            names.iter().map(|(name, n)| self.matrix(name, *n, k, gain)).collect();
        let biases: Vec<ValueId> = if bias {
            names.iter().map(|(name, n)| self.w(&format!("{name}.bias"), &[*n])).collect()
        } else {
            Vec::new()
        };
        if !self.d.merged || names.len() == 1 {
            let mut out = Vec::new();
            for (i, w) in matrices.into_iter().enumerate() {
                let mut y = self.b.linear(x, w).expect("linear");
                if bias {
                    y = self.op(Op::Binary(BinaryOp::Add), &[y, biases[i]]);
                }
                out.push(y);
            }
            return out;
        }
        let all = self.op(Op::Concat { axis: 0 }, &matrices);
        let mut y = self.b.linear(x, all).expect("linear");
        if bias {
            let all = self.op(Op::Concat { axis: 0 }, &biases);
            y = self.op(Op::Binary(BinaryOp::Add), &[y, all]);
        }
        let mut start = 0;
        let mut out = Vec::new();
        for (_, n) in names {
            let op = Op::Slice { axis: 1, start: dim(start), end: dim(start + n) };
            out.push(self.op(op, &[y]));
            start += n;
        }
        out
    }

    /// A norm whose gain is separate, or returned to be folded.
    fn norm(&mut self, x: ValueId, name: &str, width: usize) -> (ValueId, Option<ValueId>) {
        let gain = self.w(name, &[width]);
        let op = Op::RmsNorm { eps: Real::new(1e-5) };
        if self.d.folded {
            (self.op(op, &[x]), Some(gain))
        } else {
            (self.op(op, &[x, gain]), None)
        }
    }

    fn heads(&mut self, x: ValueId, heads: usize) -> ValueId {
        let t = Dim::from(Symbol::T);
        self.op(Op::Reshape(vec![t, dim(heads), dim(self.d.head_dim)]), &[x])
    }
}

fn block(d: &Decoder) -> ir::Graph {
    let t = Dim::from(Symbol::T);
    let mut l = Layer { b: Builder::new("layer"), d };
    let x =
        l.b.param(ParamKind::Carry, TensorType::new(DType::F32, [t.clone(), dim(d.hidden)]), "x");
    let pos = l.b.param(ParamKind::Input, TensorType::new(DType::I32, [t.clone()]), "pos");
    let cache = CacheType {
        layers: None,
        dtype: d.cache,
        len: Dim::from(Symbol::C),
        heads: d.kv_heads,
        head_dim: d.head_dim,
    };
    let k_cache = l.b.param(ParamKind::State, cache.clone(), "k");
    let v_cache = l.b.param(ParamKind::State, cache, "v");
    let (q_len, kv_len) = (d.heads * d.head_dim, d.kv_heads * d.head_dim);
    let (normed, gain) = l.norm(x, "l.{layer}.norm1", d.hidden);
    let names = [("l.{layer}.q", q_len), ("l.{layer}.k", kv_len), ("l.{layer}.v", kv_len)];
    let [q, k, v]: [ValueId; 3] =
        l.project(normed, &names, d.hidden, gain, d.bias).try_into().expect("three");
    let (mut q, mut k, v) = (l.heads(q, d.heads), l.heads(k, d.kv_heads), l.heads(v, d.kv_heads));
    if d.qk_norm {
        let op = || Op::RmsNorm { eps: Real::new(1e-6) };
        let gain = l.w("l.{layer}.q_norm", &[d.head_dim]);
        q = l.op(op(), &[q, gain]);
        let gain = l.w("l.{layer}.k_norm", &[d.head_dim]);
        k = l.op(op(), &[k, gain]);
    }
    let rope = RopeSpec { dim: d.head_dim, theta: Real::new(10000.0), scaling: d.scaling.clone() };
    let q = l.op(Op::Rope(Box::new(rope.clone())), &[q, pos]);
    let k = l.op(Op::Rope(Box::new(rope)), &[k, pos]);
    let k_next = l.op(Op::CacheAppend, &[k_cache, k]);
    let v_next = l.op(Op::CacheAppend, &[v_cache, v]);
    let (k, v) = (l.op(Op::CacheRead, &[k_next]), l.op(Op::CacheRead, &[v_next]));
    let scale = Real::new(1.0 / (d.head_dim as f64).sqrt());
    let o = l.op(Op::Attention { scale, window: d.window }, &[q, k, v]);
    let o = l.op(Op::Reshape(vec![t, dim(q_len)]), &[o]);
    let o = l.project(o, &[("l.{layer}.o", d.hidden)], q_len, None, d.bias)[0];
    let x = l.op(Op::Binary(BinaryOp::Add), &[x, o]);
    let (normed, gain) = l.norm(x, "l.{layer}.norm2", d.hidden);
    let names = [("l.{layer}.gate", d.ffn), ("l.{layer}.up", d.ffn)];
    let gate_up = l.project(normed, &names, d.hidden, gain, d.bias);
    let m = l.op(Op::Glu(d.activation), &gate_up);
    let m = l.project(m, &[("l.{layer}.down", d.hidden)], d.ffn, None, d.bias)[0];
    let x = l.op(Op::Binary(BinaryOp::Add), &[x, m]);
    l.b.finish(vec![x, k_next, v_next])
}

/// The module of a decoder.
pub(crate) fn module(d: &Decoder) -> Module {
    let (t, c, r) = (Dim::from(Symbol::T), Dim::from(Symbol::C), Dim::from(Symbol::R));
    let block = block(d);
    let mut l = Layer { b: Builder::new("main"), d };
    let tokens = l.b.param(ParamKind::Input, TensorType::new(DType::I32, [t.clone()]), "tokens");
    let cache = |name: &str, b: &mut Builder| {
        let ty = CacheType {
            layers: Some(d.layers),
            dtype: d.cache,
            len: c.clone(),
            heads: d.kv_heads,
            head_dim: d.head_dim,
        };
        b.param(ParamKind::State, Type::Cache(ty), name)
    };
    let (k, v) = (cache("k", &mut l.b), cache("v", &mut l.b));
    let table = l.w("embed", &[d.vocab, d.hidden]);
    let x = l.op(Op::Gather, &[table, tokens]);
    let pos = l.op(Op::Positions, &[]);
    let out = l.b.repeat(BlockId::new(0), &block, 0..d.layers, &[x, pos, k, v]).expect("repeat");
    let last = Op::Slice { axis: 0, start: &t - &r, end: t };
    let x = l.op(last, &[out[0]]);
    let gain = l.w("norm", &[d.hidden]);
    let x = l.op(Op::RmsNorm { eps: Real::new(1e-5) }, &[x, gain]);
    let head = if d.tied { table } else { l.w("head", &[d.vocab, d.hidden]) };
    let logits = l.b.linear(x, head).expect("head");
    let main = l.b.finish(vec![logits, out[1], out[2]]);
    let mut module = Module::new("random", d.context, main);
    module.blocks.push(block);
    module
}

/// Random weights for every weight a module reads.
pub(crate) fn weights(module: &Module, seed: u64) -> Weights {
    let mut rng = Rng::new(seed);
    let mut out = BTreeMap::new();
    for used in module.weights() {
        let count: usize = used.shape.iter().product();
        let gain = used.shape.len() == 1 && !used.name.ends_with("bias");
        let scale = 1.0 / (*used.shape.last().expect("rank") as f32).sqrt();
        let values: Vec<f32> = (0..count)
            .map(|_| if gain { 1.0 + 0.3 * rng.normal() } else { scale * rng.normal() })
            .collect();
        let tensor = match used.dtype {
            DType::BF16 => {
                let bytes: Vec<u8> = values
                    .iter()
                    .flat_map(|v| ((v.to_bits() >> 16) as u16).to_le_bytes())
                    .collect();
                Tensor::new(DType::BF16, used.shape.clone(), bytes.into()).expect("bytes")
            }
            _ => Tensor::from_f32(used.shape.clone(), &values),
        };
        out.insert(used.name, tensor);
    }
    Weights(out)
}

/// Compiles, verifies, simulates `tokens` one by one, and compares every position with `ir::eval`.
pub(crate) fn check(d: &Decoder, target: &plan::Target, tokens: usize) -> plan::Plan {
    check_with(d, target, tokens, &backend_wafer::Options::default())
}

/// As [`check`], with options.
pub(crate) fn check_with(
    d: &Decoder,
    target: &plan::Target,
    tokens: usize,
    options: &backend_wafer::Options,
) -> plan::Plan {
    let module = module(d);
    if let Err(errors) = ir::verify(&module) {
        panic!("test module: {errors:?}");
    }
    let weights = weights(&module, 7);
    let (plan, _) = backend_wafer::compile(&module, target, options, &|_| {})
        .unwrap_or_else(|e| panic!("{d:?}: {e}"));
    if let Err(violations) = plan::verify::verify(&plan) {
        let first: Vec<String> = violations.iter().take(8).map(|v| v.to_string()).collect();
        panic!("{d:?}: {} violations: {first:#?}", violations.len());
    }
    let mut rng = Rng::new(3);
    let prompt: Vec<u32> = (0..tokens).map(|_| rng.below(d.vocab) as u32).collect();
    let mut session = ir::eval::Session::new(&module, &weights, Default::default()).expect("eval");
    let expected = session.step(&prompt, tokens).expect("eval").to_f32();
    let mut sim = simulator::Simulator::new(&plan, &weights.0).expect("simulator");
    sim.set_prompt_len(tokens as u32);
    let mut found = Vec::new();
    for (i, &token) in prompt.iter().enumerate() {
        let out = sim.step(token).unwrap_or_else(|e| panic!("{d:?}: position {i}: {e}"));
        assert_eq!(out.token, Some(ir::eval::argmax(&out.logits)), "argmax at {i}");
        found.extend(out.logits);
    }
    // The sums before a rounded cache come in another order, so that a value may round the other way.
    let tolerance = if d.cache == DType::F32 { Tolerance::F32 } else { Tolerance::HALF };
    if let Err(e) = compare::check(&found, &expected, tolerance) {
        panic!("{d:?}: {e}");
    }
    plan
}

/// A preset with another grid.
pub(crate) fn grid(width: u32, height: u32) -> plan::Target {
    let mut target = plan::Target::preset("tiny").expect("preset");
    target.width = width;
    target.height = height;
    target
}
