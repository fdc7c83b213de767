//! Graphs from the expressions of `cases`, and their values on random numbers.
//!
//! The expressions are data of this crate; one that does not read is `None` and fails the tests.

use ir::eval::{EvalOptions, eval_graph};
use ir::{
    Activation, Bindings, Builder, Dim, Graph, ParamKind, Real, RopeScaling, RopeSpec, Symbol,
    TensorType, ValueId, WeightMap,
};
use tensor::{DType, Rng, Tensor};

use super::language::{Attr, Head, decode, spelling};

/// The step that examples are evaluated at.
pub(crate) const BINDINGS: Bindings = Bindings { t: 4, c: 3, r: 2 };

/// Builds the graph of an expression.
struct Reader<'a> {
    words: Vec<&'a str>,
    builder: Builder,
    leaves: Vec<(&'a str, ValueId)>,
}

/// The graph of one or more expressions, each a result.
pub(crate) fn graph(text: &str) -> Option<Graph> {
    let words = text.split_inclusive([' ', '(', ')']).flat_map(|piece| {
        let end = piece.len() - usize::from(piece.ends_with([' ', '(', ')']));
        [&piece[..end], piece[end..].trim()]
    });
    let words = words.filter(|w| !w.is_empty()).collect();
    let mut reader = Reader { words, builder: Builder::new("case"), leaves: Vec::new() };
    // Parameters stand first in a graph, leaves anywhere in a case.
    let inputs: Vec<&str> = reader.words.iter().copied().filter(|w| is_input(w)).collect();
    for word in inputs {
        if !reader.leaves.iter().any(|(w, _)| *w == word) {
            let (name, dims) = word.split_once(':')?;
            let dtype = if name == "ids" { DType::I32 } else { DType::F32 };
            let ty = TensorType { dtype, dims: dims_of(dims)? };
            let value = reader.builder.param(ParamKind::Input, ty, name);
            reader.leaves.push((word, value));
        }
    }
    reader.words.reverse();
    let mut results = Vec::new();
    while let Some(word) = reader.words.pop() {
        results.push(reader.value(word)?);
    }
    Some(reader.builder.finish(results))
}

impl<'a> Reader<'a> {
    fn value(&mut self, word: &'a str) -> Option<ValueId> {
        if word != "(" {
            return self.leaf(word);
        }
        let head = Head::Op(spelling(self.words.pop()?)?);
        let (mut operands, mut attrs) = (Vec::new(), Vec::new());
        loop {
            match self.words.pop()? {
                ")" => break,
                word => match attribute(word) {
                    Some(attr) => attrs.push(attr),
                    None => operands.push(self.value(word)?),
                },
            }
        }
        let op = decode(&head, &attrs.iter().collect::<Vec<_>>())?;
        self.builder.apply(op, &operands).ok()
    }

    fn leaf(&mut self, word: &'a str) -> Option<ValueId> {
        if let Some((_, value)) = self.leaves.iter().find(|(w, _)| *w == word) {
            return Some(*value);
        }
        let (name, dims) = word.split_once(':')?;
        let shape: Vec<usize> = dims_of(dims)?.iter().map(Dim::as_const).collect::<Option<_>>()?;
        let dtype = if name.starts_with('H') { DType::BF16 } else { DType::F32 };
        let value = self.builder.weight(name, dtype, &shape).ok()?;
        self.leaves.push((word, value));
        Some(value)
    }
}

fn is_input(word: &str) -> bool {
    let lower = word.starts_with(|c: char| c.is_ascii_lowercase());
    lower && word.contains(':') && attribute(word).is_none()
}

fn dims_of(text: &str) -> Option<Vec<Dim>> {
    if text.is_empty() {
        return Some(Vec::new());
    }
    text.split(',').map(dim_of).collect()
}

fn dim_of(text: &str) -> Option<Dim> {
    let symbol = |s: Symbol| Dim::from(s);
    Some(match text {
        "T" => symbol(Symbol::T),
        "S" => &symbol(Symbol::C) + &symbol(Symbol::T),
        "T-R" => &symbol(Symbol::T) - &symbol(Symbol::R),
        n => Dim::from(n.parse::<usize>().ok()?),
    })
}

fn attribute(word: &str) -> Option<Attr> {
    let (kind, value) = word.split_once(':')?;
    Some(match kind {
        "axis" => Attr::Axis(value.parse().ok()?),
        "real" => Attr::Real(Real::new(value.parse().ok().filter(|v: &f64| !v.is_nan())?)),
        "dim" => Attr::Dim(dim_of(value)?),
        "dims" => Attr::Dims(dims_of(value)?),
        "perm" => Attr::Perm(value.split(',').map(|p| p.parse().ok()).collect::<Option<_>>()?),
        "act" => Attr::Act(Activation::ALL.into_iter().find(|a| a.name() == value)?),
        "dtype" => Attr::DType(DType::ALL.into_iter().find(|d| d.name() == value)?),
        "window" => Attr::Window(value.parse().ok()),
        "rope" => Attr::Rope(Box::new(RopeSpec {
            dim: value.parse().ok()?,
            theta: Real::new(100.0),
            scaling: RopeScaling::None,
        })),
        _ => return None,
    })
}

/// Where the numbers of an example come from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Numbers<'a> {
    /// Of the generator.
    pub(crate) seed: u64,
    /// Picked from these; normal numbers when not given.
    pub(crate) of: Option<&'a [f32]>,
}

/// Random operands for the parameters of a graph.
pub(crate) fn inputs(graph: &Graph, numbers: Numbers<'_>) -> Option<Vec<Tensor>> {
    let mut rng = Rng::new(numbers.seed);
    let mut tensor = |p: &ir::Param| {
        let ty = graph.ty(p.value).as_tensor()?;
        let shape: Vec<usize> = ty.dims.iter().map(|d| d.eval(&BINDINGS)).collect::<Option<_>>()?;
        if ty.dtype == DType::I32 {
            let ids: Vec<i32> = (0..shape[0]).map(|i| i as i32 * 3).collect();
            return Some(Tensor::from_i32(shape, &ids));
        }
        random_tensor(&mut rng, numbers, ty.dtype, &shape)
    };
    graph.params().iter().map(&mut tensor).collect()
}

/// Random tensors for the weights of a graph.
pub(crate) fn weights(graph: &Graph, numbers: Numbers<'_>) -> Option<WeightMap> {
    let module = ir::Module::new("case", 64, graph.clone());
    let weights = module.weights().into_iter().enumerate().map(|(i, w)| {
        let mut rng = Rng::new(numbers.seed.wrapping_add(1000 + i as u64));
        Some((w.name, random_tensor(&mut rng, numbers, w.dtype, &w.shape)?))
    });
    weights.collect()
}

/// Numbers as asked for; normal ones of a size that keeps results near 1.
fn random_tensor(
    rng: &mut Rng,
    numbers: Numbers<'_>,
    dtype: DType,
    shape: &[usize],
) -> Option<Tensor> {
    let n: usize = shape.iter().product();
    let scale = if shape.len() > 1 { 1.0 / (shape[shape.len() - 1] as f32).sqrt() } else { 1.0 };
    let value = |rng: &mut Rng| match numbers.of {
        Some(values) => values[rng.below(values.len())],
        None => rng.normal() * scale,
    };
    let values: Vec<f32> = (0..n).map(|_| value(rng)).collect();
    Tensor::from_f32(shape.to_vec(), &values).cast(dtype).ok()
}

/// The results of a graph.
pub(crate) fn evaluate(
    graph: &Graph,
    given: &[Tensor],
    weights: &WeightMap,
) -> Result<Vec<Vec<f32>>, String> {
    let options = EvalOptions::default();
    let results = eval_graph(graph, given, BINDINGS, None, weights, options);
    let results = results.map_err(|e| e.to_string())?;
    Ok(results.iter().map(Tensor::to_f32).collect())
}
