//! Random modules that verify, and random weights for them: the fuel of differential tests.
//!
//! A module is a decoder that makes no sense but is one: an embedding, blocks of random ops with or
//! without caches, logits of the last rows. Every op of the language occurs within a few dozen
//! seeds. Tokens meet only in causal attention, so a prompt has one answer fed whole or token by
//! token; values are kept in a range where f32 tells results apart.
//! The same seed gives the same module on every machine.

mod steps;
#[cfg(test)]
mod tests;

use tensor::{DType, Rng, Tensor};

use crate::{
    BlockId, Builder, CacheType, Graph, InferError, Module, Op, ParamKind, Real, Symbol,
    TensorType, WeightMap,
};
use steps::Scene;

/// Which language features random modules use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RandomOptions {
    /// Random ops per graph.
    pub steps: usize,
    /// Most different blocks.
    pub blocks: usize,
    /// Quantised weights.
    pub quantized: bool,
    /// Activations rounded to f16 or bf16.
    pub half_activations: bool,
    /// Strange and repeated value names.
    pub names: bool,
    /// Blocks have a second carry: results may be either carry's old value, in either place.
    pub second_carry: bool,
}

impl Default for RandomOptions {
    /// Eight ops a graph, at most two blocks of one carry, everything else allowed.
    fn default() -> Self {
        RandomOptions {
            steps: 8,
            blocks: 2,
            quantized: true,
            half_activations: true,
            names: true,
            second_carry: false,
        }
    }
}

/// A module that verifies. Its vocabulary is 11 to 42, its context 24.
///
/// # Panics
/// Never, unless this generator has a bug: every op it writes is well typed.
pub fn module(seed: u64, options: &RandomOptions) -> Module {
    let mut rng = Rng::new(seed);
    generate(&mut rng, options).unwrap_or_else(|error| panic!("seed {seed}: {error}"))
}

/// Normally distributed weights for everything `module` reads, scaled by the root of the last axis. Each is
/// a function of its name, its type and the seed, so leaving one out does not change the others.
pub fn weights(module: &Module, seed: u64) -> WeightMap {
    let tensors = module.weights().into_iter().map(|w| {
        let mix = |h: u64, b: u8| h.wrapping_mul(31).wrapping_add(u64::from(b));
        let mut rng = Rng::new(w.name.bytes().fold(seed, mix));
        let scale = (w.shape.last().copied().unwrap_or(1).max(1) as f32).sqrt().recip();
        let count: usize = w.shape.iter().product();
        let values: Vec<f32> = (0..count).map(|_| rng.normal() * scale).collect();
        let wide = Tensor::from_f32(w.shape, &values);
        let stored = wide.cast(w.dtype).unwrap_or(wide);
        (w.name, stored)
    });
    tensors.collect()
}

/// Positions of every random module.
const CONTEXT: usize = 24;

fn generate(rng: &mut Rng, options: &RandomOptions) -> Result<Module, InferError> {
    let width = [32, 64][rng.below(2)];
    let vocab = 11 + rng.below(32);
    let count = rng.below(options.blocks + 1);
    let mut blocks = Vec::new();
    for i in 0..count {
        blocks.push(block(rng, options, width, &format!("block{i}"))?);
    }

    let mut b = Builder::new("main");
    let tokens = b.param(ParamKind::Input, TensorType::new(DType::I32, [Symbol::T]), "tokens");
    // Every repeat owns the caches of its layers; `main` may have one layer's of its own.
    let mut repeats = Vec::new();
    let mut layer = 0;
    for (i, block) in blocks.iter().enumerate() {
        for _ in 0..1 + rng.below(2) {
            let layers = 1 + rng.below(2) as u32;
            let states = states(block).into_iter().enumerate().map(|(j, cache)| {
                let stack = CacheType { layers: Some(layers), ..cache };
                b.param(ParamKind::State, stack, &format!("s{layer}.{j}"))
            });
            repeats.push((i, layer..layer + layers, states.collect::<Vec<_>>()));
            layer += layers;
        }
    }
    let mut scene = Scene::new(b, rng, options, "main", CONTEXT);
    if scene.chance(3) {
        scene.add_cache();
    }
    let table = scene.weight(&[vocab, width])?;
    let mut x = scene.b.apply(Op::Gather, &[table, tokens])?;
    x = scene.position_embedding(x, width)?;
    // Added to itself, so that no chain of ops can lose the tokens.
    let y = scene.run(x, width)?;
    x = scene.b.binary(crate::BinaryOp::Add, x, y)?;
    let mut stacks = Vec::new();
    let mut before = x;
    for (i, layers, states) in repeats {
        let mut operands = vec![x];
        operands.extend(options.second_carry.then_some(before));
        operands.extend(scene.inputs(&blocks[i])?);
        operands.extend(states);
        let out = scene.b.repeat(BlockId::new(i), &blocks[i], layers, &operands)?;
        x = out[0];
        before = if options.second_carry { out[1] } else { x };
        stacks.extend_from_slice(&out[1 + usize::from(options.second_carry)..]);
    }
    if options.second_carry {
        x = scene.b.binary(crate::BinaryOp::Add, x, before)?;
    }
    let end = crate::Dim::from(Symbol::T);
    let start = &end - &Symbol::R.into();
    let last = scene.b.apply(Op::Slice { axis: 0, start, end }, &[x])?;
    let normed = scene.b.apply(Op::RmsNorm { eps: Real::new(1e-5) }, &[last])?;
    let head = if scene.chance(2) { table } else { scene.weight(&[vocab, width])? };
    let logits = scene.b.linear(normed, head)?;
    // States come back in the order of the parameters: the stacks first, then main's own.
    let mut results = vec![logits];
    results.extend(stacks);
    let main = scene.finish(results);
    let mut module = Module::new("random", CONTEXT, main);
    module.blocks = blocks;
    module.meta.insert("source".into(), "ir::random".into());
    Ok(module)
}

/// A block: `carry x`, perhaps another, `input positions`, perhaps two caches.
fn block(
    rng: &mut Rng,
    options: &RandomOptions,
    width: usize,
    name: &str,
) -> Result<Graph, InferError> {
    let mut b = Builder::new(name);
    let dims = [Symbol::T.into(), crate::Dim::from(width)];
    let carry = TensorType::new(DType::F32, dims);
    let x = b.param(ParamKind::Carry, carry.clone(), "x");
    let before = options.second_carry.then(|| b.param(ParamKind::Carry, carry, "before"));
    let prefix = format!("{name}.{{layer}}");
    let mut scene = Scene::new(b, rng, options, &prefix, CONTEXT);
    if scene.chance(2) {
        scene.add_positions();
    }
    if !scene.chance(4) {
        scene.add_cache();
    }
    let Some(before) = before else {
        let y = scene.run(x, width)?;
        let y = scene.b.binary(crate::BinaryOp::Add, x, y)?;
        return Ok(scene.finish(vec![y]));
    };
    // Their mean, so that values do not grow from layer to layer.
    let sum = scene.b.binary(crate::BinaryOp::Add, x, before)?;
    let half = scene.b.constant(0.5)?;
    let both = scene.b.binary(crate::BinaryOp::Mul, sum, half)?;
    let y = scene.run(both, width)?;
    let other = match (scene.chance(2), scene.chance(2)) {
        (true, true) => before,
        (true, false) => x,
        (false, true) => both,
        (false, false) => y,
    };
    let results = if scene.chance(2) { vec![y, other] } else { vec![other, y] };
    Ok(scene.finish(results))
}

/// The cache types of a block's states.
fn states(block: &Graph) -> Vec<CacheType> {
    block.params().iter().filter_map(|p| block.ty(p.value).as_cache().cloned()).collect()
}
