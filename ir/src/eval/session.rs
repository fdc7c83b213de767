//! Running a whole module, token by token or many at once, with its KV caches.

use tensor::{DType, Tensor};

use super::array::Array;
use super::frame::{Machine, Place, Rows, Value};
use super::{EvalError, EvalOptions};
use crate::{
    Bindings, CacheType, Graph, Module, Param, ParamKind, Type, WeightSource, verify, verify_graph,
};

/// A sequence in progress: a module, its weights and the caches of the tokens fed so far.
pub struct Session<'a> {
    module: &'a Module,
    machine: Machine<'a>,
    caches: Vec<Vec<Rows>>,
    position: usize,
}

impl<'a> Session<'a> {
    /// A session at position 0.
    ///
    /// # Errors
    /// When the module does not verify. Weights are read when they are first needed.
    pub fn new(
        module: &'a Module,
        weights: &'a dyn WeightSource,
        options: EvalOptions,
    ) -> Result<Self, EvalError> {
        verify(module)?;
        let machine = Machine::new(&module.blocks, weights, options);
        let mut session = Session { module, machine, caches: Vec::new(), position: 0 };
        session.reset();
        Ok(session)
    }

    /// Tokens fed so far.
    pub fn position(&self) -> usize {
        self.position
    }

    /// Forgets the sequence; decoded weights are kept.
    pub fn reset(&mut self) {
        let states = self.module.main.params().iter().filter(|p| p.kind == ParamKind::State);
        let caches = states.filter_map(|p| self.module.main.ty(p.value).as_cache());
        self.caches = caches.map(|c| vec![Rows::default(); layers(c)]).collect();
        self.position = 0;
        self.machine.reset();
    }

    /// Feeds tokens and returns the logits of the last `rows` of them: f32[rows, vocab].
    ///
    /// # Errors
    /// When the context is full, `rows` is 0 or more than the tokens, a token is unknown, or a
    /// weight is missing. An error inside the step resets the session.
    pub fn step(&mut self, tokens: &[u32], rows: usize) -> Result<Tensor, EvalError> {
        let (new, cached, context) = (tokens.len(), self.position, self.module.context);
        if rows == 0 || rows > new {
            return Err(EvalError::Rows { rows, tokens: new });
        }
        if cached + new > context {
            return Err(EvalError::Context { new, cached, context });
        }
        let ids = tokens.iter().map(|&t| i32::try_from(t).unwrap_or(i32::MAX)).collect::<Vec<_>>();
        let mut inputs = vec![Value::Array(Array::stored(Tensor::from_i32(vec![new], &ids)))];
        inputs.extend(std::mem::take(&mut self.caches).into_iter().map(Value::Cache));
        let place = Place { graph: &self.module.main, layer: None, key: usize::MAX };
        let bindings = Bindings { t: new, c: cached, r: rows };
        let results = match self.machine.run(place, inputs, bindings) {
            Ok(results) => results,
            Err(error) => {
                self.reset();
                return Err(error);
            }
        };
        self.position += new;
        let mut logits = None;
        for value in results {
            match value {
                Value::Array(array) => logits = logits.or(Some(array)),
                Value::Cache(cache) => self.caches.push(cache),
            }
        }
        logits.map(Array::into_tensor).ok_or_else(|| place.malformed("main returns no logits"))
    }

    /// Feeds `prompt`, then the likeliest token again and again, until `n` tokens are generated or
    /// one of `stop` is (it is returned too) or the context is full. Ties take the lowest id.
    ///
    /// # Errors
    /// As [`Session::step`]; an empty prompt is an error.
    pub fn greedy(
        &mut self,
        prompt: &[u32],
        n: usize,
        stop: &[u32],
    ) -> Result<Vec<u32>, EvalError> {
        let mut out = Vec::new();
        let mut next = prompt.to_vec();
        while out.len() < n {
            let token = argmax(&self.step(&next, 1)?.to_f32());
            out.push(token);
            next = vec![token];
            if stop.contains(&token) || self.position == self.module.context {
                break;
            }
        }
        Ok(out)
    }
}

/// The index of the largest value, the lowest of equals; NaN is never larger.
pub fn argmax(values: &[f32]) -> u32 {
    let mut best = 0;
    for (i, &value) in values.iter().enumerate() {
        if value > values[best] {
            best = i;
        }
    }
    u32::try_from(best).unwrap_or(u32::MAX)
}

/// Logits f32[rows, vocab] of the last `rows` of `tokens`, fed at once to an empty cache.
///
/// # Errors
/// As [`Session::new`] and [`Session::step`].
pub fn eval_module(
    module: &Module,
    weights: &dyn WeightSource,
    tokens: &[u32],
    rows: usize,
    options: EvalOptions,
) -> Result<Tensor, EvalError> {
    Session::new(module, weights, options)?.step(tokens, rows)
}

/// Runs one graph without `repeat`, such as a block or a rewrite's example, on given inputs, one
/// per parameter. A cache goes in and comes out as f32 `[len, heads, head_dim]`.
///
/// # Errors
/// When the graph does not verify, an input has not its parameter's type under `bindings`, or as
/// [`Session::step`].
pub fn eval_graph(
    graph: &Graph,
    inputs: &[Tensor],
    bindings: Bindings,
    layer: Option<u32>,
    weights: &dyn WeightSource,
    options: EvalOptions,
) -> Result<Vec<Tensor>, EvalError> {
    verify_graph(graph)?;
    let why = |why: String| EvalError::Inputs { graph: graph.name.clone(), why };
    if inputs.len() != graph.params().len() {
        return Err(why(format!("{} given, {} needed", inputs.len(), graph.params().len())));
    }
    let pairs = graph.params().iter().zip(inputs);
    let values = pairs.map(|(param, tensor)| input(graph, param, tensor, &bindings).map_err(why));
    let values = values.collect::<Result<Vec<_>, _>>()?;
    let mut machine = Machine::new(&[], weights, options);
    let results = machine.run(Place { graph, layer, key: 0 }, values, bindings)?;
    let types = graph.results.iter().map(|&v| graph.ty(v));
    Ok(results.into_iter().zip(types).map(|(value, ty)| value.into_tensor(ty)).collect())
}

/// A tensor as the value of a parameter.
fn input(
    graph: &Graph,
    param: &Param,
    tensor: &Tensor,
    bindings: &Bindings,
) -> Result<Value, String> {
    let ty = graph.ty(param.value);
    let (dtype, dims) = match ty {
        Type::Tensor(t) => (t.dtype, t.dims.clone()),
        Type::Cache(c) => (DType::F32, c.tensor().dims),
    };
    let shape: Option<Vec<usize>> = dims.iter().map(|d| d.eval(bindings)).collect();
    if tensor.dtype() != dtype || Some(tensor.shape()) != shape.as_deref() {
        let found = (tensor.dtype(), tensor.shape());
        return Err(format!("expected {ty}, found {}{:?}", found.0, found.1));
    }
    Ok(match ty {
        Type::Tensor(_) => Value::Array(Array::stored(tensor.clone())),
        Type::Cache(c) if c.layers.is_some() => return Err(format!("{ty} holds many layers")),
        Type::Cache(_) => {
            Value::Cache(vec![Rows { len: tensor.shape()[0], values: tensor.to_f32() }])
        }
    })
}

fn layers(cache: &CacheType) -> usize {
    cache.layers.unwrap_or(1) as usize
}
