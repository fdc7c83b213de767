//! Random steps from one activation to the next, each f32[T, n] -> f32[T, m].

use tensor::{DType, Rng};

use super::RandomOptions;
use crate::{
    Activation, BinaryOp, Builder, CacheType, Dim, Graph, InferError, Op, ParamKind, Real,
    ReduceOp, RopeScaling, RopeSpec, Symbol, TensorType, UnaryOp, ValueId,
};

type Made = Result<ValueId, InferError>;

/// A pair of caches, for keys and values, before it is consumed.
struct Cache {
    keys: ValueId,
    values: ValueId,
    groups: usize,
    head: usize,
}

/// A graph under construction.
pub(super) struct Scene<'a> {
    pub(super) b: Builder,
    rng: &'a mut Rng,
    options: &'a RandomOptions,
    prefix: &'a str,
    context: usize,
    weights: usize,
    positions: Option<ValueId>,
    cache: Option<Cache>,
    /// Caches to return.
    grown: Vec<ValueId>,
    /// Activations that later steps may come back to, with their widths.
    pool: Vec<(ValueId, usize)>,
}

impl<'a> Scene<'a> {
    pub(super) fn new(
        b: Builder,
        rng: &'a mut Rng,
        options: &'a RandomOptions,
        prefix: &'a str,
        context: usize,
    ) -> Self {
        let (weights, positions, cache) = (0, None, None);
        let (grown, pool) = (Vec::new(), Vec::new());
        Scene { b, rng, options, prefix, context, weights, positions, cache, grown, pool }
    }

    /// True once in `n` times.
    pub(super) fn chance(&mut self, n: usize) -> bool {
        self.rng.below(n) == 0
    }

    fn pick<T: Copy>(&mut self, list: &[T]) -> T {
        list[self.rng.below(list.len())]
    }

    /// Adds the parameters of a pair of caches; `run` will attend with them.
    pub(super) fn add_cache(&mut self) {
        let (groups, head) = (self.pick(&[1, 2]), self.pick(&[4, 8]));
        let dtype = DType::F32;
        let len = Dim::from(Symbol::C);
        let ty = CacheType { layers: None, dtype, len, heads: groups, head_dim: head };
        let keys = self.b.param(ParamKind::State, ty.clone(), "keys");
        let values = self.b.param(ParamKind::State, ty, "values");
        self.cache = Some(Cache { keys, values, groups, head });
    }

    /// Adds a parameter for the positions; without it a graph makes its own.
    pub(super) fn add_positions(&mut self) {
        let ty = TensorType::new(DType::I32, [Symbol::T]);
        self.positions = Some(self.b.param(ParamKind::Input, ty, "positions"));
    }

    /// Operands for the inputs of `block`.
    pub(super) fn inputs(&mut self, block: &Graph) -> Result<Vec<ValueId>, InferError> {
        let inputs = block.params().iter().filter(|p| p.kind == ParamKind::Input).count();
        (0..inputs).map(|_| self.positions()).collect()
    }

    fn positions(&mut self) -> Made {
        if let Some(positions) = self.positions {
            return Ok(positions);
        }
        let positions = self.b.apply(Op::Positions, &[])?;
        self.positions = Some(positions);
        Ok(positions)
    }

    /// Returns `results`, then the caches.
    pub(super) fn finish(self, mut results: Vec<ValueId>) -> Graph {
        results.extend(self.grown);
        let mut graph = self.b.finish(results);
        if self.options.names {
            let odd = ["x", "h", "two words", "7", "", "quote\"\\", "gr\u{fc}n", "T"];
            for i in 0..graph.value_count() {
                let named = graph.value(ValueId::new(i)).name.is_some();
                if !named && self.rng.below(4) == 0 {
                    let name = odd[self.rng.below(odd.len())].to_string();
                    graph.value_mut(ValueId::new(i)).name = Some(name);
                }
            }
        }
        graph
    }

    /// A new weight of a random float dtype.
    pub(super) fn weight(&mut self, shape: &[usize]) -> Made {
        let dtype = self.pick(&[DType::F32, DType::F32, DType::F16, DType::BF16]);
        let name = format!("{}.w{}", self.prefix, self.weights);
        self.weights += 1;
        self.b.weight(name, dtype, shape)
    }

    /// Learned positions added, sometimes.
    pub(super) fn position_embedding(&mut self, x: ValueId, width: usize) -> Made {
        if !self.chance(3) {
            return Ok(x);
        }
        let table = self.weight(&[self.context, width])?;
        let positions = self.positions()?;
        let rows = self.b.apply(Op::Gather, &[table, positions])?;
        self.b.binary(BinaryOp::Add, x, rows)
    }

    /// Random steps, attention among them if there is a cache; the result has `width` again.
    pub(super) fn run(&mut self, x: ValueId, width: usize) -> Made {
        let (mut x, mut n) = (x, width);
        let attend_at = self.rng.below(self.options.steps.max(1));
        for i in 0..self.options.steps.max(1) {
            self.pool.push((x, n));
            if i == attend_at
                && let Some(cache) = self.cache.take()
            {
                (x, n) = self.attend(x, n, cache)?;
            } else {
                (x, n) = self.step(x, n)?;
            }
        }
        let x = self.b.apply(Op::RmsNorm { eps: Real::new(1e-5) }, &[x])?;
        self.linear(x, n, width)
    }

    fn step(&mut self, x: ValueId, n: usize) -> Result<(ValueId, usize), InferError> {
        let same = match self.rng.below(14) {
            0 => self.unary(x)?,
            1 | 2 => self.binary(x, n)?,
            3 => self.statistic(x)?,
            4 => self.b.apply(Op::Softmax, &[x])?,
            5 => {
                let gain = self.weight(&[n])?;
                self.b.apply(Op::RmsNorm { eps: Real::new(1e-6) }, &[x, gain])?
            }
            6 => {
                let act = self.pick(&Activation::ALL);
                let other = self.linear(x, n, n)?;
                self.b.apply(Op::Glu(act), &[x, other])?
            }
            7 => self.shuffle(x, n)?,
            8 => self.rotate(x, n)?,
            9 => self.half(x)?,
            10 => return self.cut(x, n),
            11 => return self.join(x, n),
            _ => {
                let m = self.pick(&[16, 32, 64]);
                return Ok((self.linear(x, n, m)?, m));
            }
        };
        Ok((same, n))
    }

    /// A function, with its argument first brought to where the function is tame.
    fn unary(&mut self, x: ValueId) -> Made {
        let activations = Activation::ALL.map(UnaryOp::Act);
        let all: Vec<UnaryOp> = UnaryOp::PLAIN.into_iter().chain(activations).collect();
        let f = self.pick(&all);
        let tame = match f {
            UnaryOp::Exp | UnaryOp::Square => self.b.unary(UnaryOp::Tanh, x)?,
            UnaryOp::Sqrt | UnaryOp::Rsqrt | UnaryOp::Recip => {
                let positive = self.b.unary(UnaryOp::Sigmoid, x)?;
                let least = self.b.constant(0.25)?;
                self.b.binary(BinaryOp::Add, positive, least)?
            }
            _ => x,
        };
        self.b.unary(f, tame)
    }

    fn binary(&mut self, x: ValueId, n: usize) -> Made {
        let f = self.pick(&BinaryOp::ALL);
        let equals: Vec<ValueId> = self.pool.iter().filter(|p| p.1 == n).map(|p| p.0).collect();
        let other = match self.rng.below(3) {
            0 => self.weight(&[n])?,
            1 => self.b.constant(0.75)?,
            _ => self.pick(&equals),
        };
        let other = if f == BinaryOp::Div {
            let positive = self.b.unary(UnaryOp::Sigmoid, other)?;
            let least = self.b.constant(0.5)?;
            self.b.binary(BinaryOp::Add, positive, least)?
        } else {
            other
        };
        self.b.binary(f, x, other)
    }

    /// x less a statistic of its row.
    fn statistic(&mut self, x: ValueId) -> Made {
        let op = self.pick(&ReduceOp::ALL);
        let one = self.b.apply(Op::Reduce { op, axis: 1 }, &[x])?;
        if self.chance(2) {
            return self.b.binary(BinaryOp::Sub, x, one);
        }
        let dims = self.dims(x);
        let wide = self.b.apply(Op::Broadcast(dims), &[one])?;
        self.b.binary(BinaryOp::Sub, x, wide)
    }

    fn dims(&self, x: ValueId) -> Vec<Dim> {
        self.b.graph().ty(x).as_tensor().map_or(vec![], |t| t.dims.clone())
    }

    /// Elements of each row permuted: [T, a, b] -> [T, b, a].
    fn shuffle(&mut self, x: ValueId, n: usize) -> Made {
        let t = Dim::from(Symbol::T);
        let x = self.b.reshape(x, vec![t.clone(), 2.into(), (n / 2).into()])?;
        let x = self.b.transpose(x, &[0, 2, 1])?;
        self.b.reshape(x, vec![t, n.into()])
    }

    fn rotate(&mut self, x: ValueId, n: usize) -> Made {
        let t = Dim::from(Symbol::T);
        let x = self.b.reshape(x, vec![t.clone(), 2.into(), (n / 2).into()])?;
        // All or about half of a head; an even number either way.
        let dim = self.pick(&[n / 4 * 2, (n / 8 * 2).max(2)]);
        let positions = self.positions()?;
        let op = Op::Rope(Box::new(self.rope(dim)));
        let x = self.b.apply(op, &[x, positions])?;
        self.b.reshape(x, vec![t, n.into()])
    }

    fn rope(&mut self, dim: usize) -> RopeSpec {
        let (factor, original) = (Real::new(4.0), 8);
        let scaling = match self.rng.below(5) {
            0 => RopeScaling::None,
            1 => RopeScaling::Linear { factor },
            // Never beyond the trained context: else answers depend on how a prompt is fed.
            2 => RopeScaling::Dynamic { factor, original: self.context },
            3 => {
                let (low, high) = (Real::new(1.0), Real::new(4.0));
                RopeScaling::Llama3 { factor, low, high, original }
            }
            _ => RopeScaling::Yarn {
                factor,
                beta_fast: Real::new(32.0),
                beta_slow: Real::new(1.0),
                attention_factor: Real::new(1.138_629_436_111_989),
                original,
                truncate: self.chance(2),
            },
        };
        RopeSpec { dim, theta: Real::new(1e4), scaling }
    }

    /// Rounded to 16 bits, where allowed.
    fn half(&mut self, x: ValueId) -> Made {
        if !self.options.half_activations {
            return Ok(x);
        }
        let dtype = self.pick(&[DType::F16, DType::BF16]);
        let rounded = self.b.apply(Op::Cast(dtype), &[x])?;
        self.b.apply(Op::Cast(DType::F32), &[rounded])
    }

    fn cut(&mut self, x: ValueId, n: usize) -> Result<(ValueId, usize), InferError> {
        if n < 32 {
            return Ok((x, n));
        }
        let start = self.rng.below(n / 2 + 1);
        let range = (start.into(), (start + n / 2).into());
        let op = Op::Slice { axis: 1, start: range.0, end: range.1 };
        Ok((self.b.apply(op, &[x])?, n / 2))
    }

    fn join(&mut self, x: ValueId, n: usize) -> Result<(ValueId, usize), InferError> {
        let pool = self.pool.clone();
        let (other, m) = self.pick(&pool);
        if n + m > 96 {
            return Ok((x, n));
        }
        Ok((self.b.apply(Op::Concat { axis: 1 }, &[x, other])?, n + m))
    }

    /// x W^T, W being a weight or an expression over weights.
    fn linear(&mut self, x: ValueId, n: usize, m: usize) -> Made {
        let w = match self.rng.below(6) {
            0 if n.is_multiple_of(32) && self.options.quantized => {
                let w = self.weight(&[m, n])?;
                let dtype = self.pick(&[DType::Q8, DType::Q4]);
                self.b.apply(Op::Quantize(dtype), &[w])?
            }
            1 => {
                let (w, gain) = (self.weight(&[m, n])?, self.weight(&[n])?);
                self.b.binary(BinaryOp::Mul, w, gain)?
            }
            2 => {
                let w = self.weight(&[m / 2, n])?;
                let dtype = self.pick(&[DType::F32, DType::BF16]);
                let other = self.weight(&[m - m / 2, n])?;
                let pair = [
                    self.b.apply(Op::Cast(dtype), &[w])?,
                    self.b.apply(Op::Cast(dtype), &[other])?,
                ];
                self.b.apply(Op::Concat { axis: 0 }, &pair)?
            }
            _ => self.weight(&[m, n])?,
        };
        self.b.linear(x, w)
    }

    /// Attention over the cache, as one op or as its parts.
    fn attend(
        &mut self,
        x: ValueId,
        n: usize,
        cache: Cache,
    ) -> Result<(ValueId, usize), InferError> {
        let Cache { keys, values, groups, head } = cache;
        let heads = groups * self.pick(&[1, 2]);
        let t = Dim::from(Symbol::T);
        let project = |scene: &mut Self, count: usize| {
            let y = scene.linear(x, n, count * head)?;
            scene.b.reshape(y, vec![t.clone(), count.into(), head.into()])
        };
        let q = project(self, heads)?;
        let (new_k, new_v) = (project(self, groups)?, project(self, groups)?);
        let keys = self.b.apply(Op::CacheAppend, &[keys, new_k])?;
        let values = self.b.apply(Op::CacheAppend, &[values, new_v])?;
        self.grown = vec![keys, values];
        let k = self.b.apply(Op::CacheRead, &[keys])?;
        let v = self.b.apply(Op::CacheRead, &[values])?;
        let window = self.pick(&[None, None, Some(1), Some(3)]);
        let scale = Real::new(0.5);
        let mixed = if self.chance(2) {
            self.b.apply(Op::Attention { scale, window }, &[q, k, v])?
        } else {
            self.explicit_attention([q, k, v], [heads, groups, head], (scale, window))?
        };
        let n = heads * head;
        let flat = self.b.reshape(mixed, vec![t, n.into()])?;
        Ok((self.linear(flat, n, 32)?, 32))
    }

    fn explicit_attention(
        &mut self,
        [q, k, v]: [ValueId; 3],
        [heads, groups, head]: [usize; 3],
        (scale, window): (Real, Option<usize>),
    ) -> Made {
        let s = &Dim::from(Symbol::C) + &Symbol::T.into();
        let each = heads / groups;
        let spread = |b: &mut Builder, x| {
            let x = b.reshape(x, vec![s.clone(), groups.into(), 1.into(), head.into()])?;
            let wide = vec![s.clone(), groups.into(), each.into(), head.into()];
            let x = b.apply(Op::Broadcast(wide), &[x])?;
            b.reshape(x, vec![s.clone(), heads.into(), head.into()])
        };
        let (k, v) = (spread(&mut self.b, k)?, spread(&mut self.b, v)?);
        let q = self.b.transpose(q, &[1, 0, 2])?;
        let k = self.b.transpose(k, &[1, 2, 0])?;
        let v = self.b.transpose(v, &[1, 0, 2])?;
        let scores = self.b.matmul(q, k)?;
        let factor = self.b.apply(Op::Const(scale), &[])?;
        let scores = self.b.binary(BinaryOp::Mul, scores, factor)?;
        let mask = self.b.apply(Op::CausalMask { window }, &[])?;
        let scores = self.b.binary(BinaryOp::Add, scores, mask)?;
        let weights = self.b.apply(Op::Softmax, &[scores])?;
        let out = self.b.matmul(weights, v)?;
        self.b.transpose(out, &[1, 0, 2])
    }
}
