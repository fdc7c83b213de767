//! Runs a module on balls: one step of a prompt on empty caches, values dropped after their last use.

use tensor::element_count;

use super::{Balls, Rounding, movement, ops};
use crate::eval::frame::{Place, named};
use crate::eval::ops::Step;
use crate::eval::{Accumulate, EvalError};
use crate::{Bindings, Graph, Module, Node, Op, ParamKind, Type, WeightSource, verify};

/// A tensor, or the rows of each layer's cache; `None` before the first.
#[derive(Clone)]
enum Value {
    Tensor(Balls),
    Cache(Vec<Option<Balls>>),
}

impl Value {
    fn into_f32(self) -> Self {
        match self {
            Value::Tensor(balls) => Value::Tensor(balls.as_f32()),
            cache => cache,
        }
    }
}

struct Machine<'a> {
    module: &'a Module,
    weights: &'a dyn WeightSource,
    step: Step,
    rounding: Rounding,
    /// Elements that may still be made.
    left: usize,
    limit: usize,
}

/// Logits of the last `rows` of `tokens`.
pub(super) fn run(
    module: &Module,
    weights: &dyn WeightSource,
    tokens: &[u32],
    rows: usize,
    rounding: Rounding,
    limit: usize,
) -> Result<Balls, EvalError> {
    verify(module)?;
    let (new, context) = (tokens.len(), module.context);
    if rows == 0 || rows > new {
        return Err(EvalError::Rows { rows, tokens: new });
    }
    if new > context {
        return Err(EvalError::Context { new, cached: 0, context });
    }
    let bindings = Bindings { t: new, c: 0, r: rows };
    let step = Step { bindings, accumulate: Accumulate::F64 };
    let mut machine = Machine { module, weights, step, rounding, left: limit, limit };
    let ids = tokens.iter().map(|&t| f64::from(t)).collect();
    let inputs = module.main.params().iter().map(|p| match module.main.ty(p.value).as_cache() {
        Some(cache) => Value::Cache(vec![None; cache.layers.unwrap_or(1) as usize]),
        None => Value::Tensor(Balls::exact(&[new], Vec::clone(&ids))),
    });
    let place = Place { graph: &module.main, layer: None, key: usize::MAX };
    let results = machine.graph(place, inputs.collect())?;
    let logits = results.into_iter().find_map(|v| match v {
        Value::Tensor(balls) => Some(balls),
        Value::Cache(_) => None,
    });
    logits.ok_or_else(|| place.malformed("main returns no logits"))
}

/// Values that are arithmetic on constants and nothing else. Their f32 values are what the module means,
/// not approximations of it: constant folding may write them down at any tier.
fn scalars(graph: &Graph) -> Vec<bool> {
    let mut found = vec![false; graph.value_count()];
    for (_, node) in graph.nodes() {
        let arithmetic = match node.op {
            Op::Const(_) => true,
            Op::Unary(_) | Op::Binary(_) => node.operands.iter().all(|v| found[v.index()]),
            _ => false,
        };
        node.results.iter().for_each(|v| found[v.index()] = arithmetic);
    }
    found
}

impl Machine<'_> {
    fn graph(&mut self, place: Place<'_>, inputs: Vec<Value>) -> Result<Vec<Value>, EvalError> {
        let graph = place.graph;
        let mut values: Vec<Option<Value>> = vec![None; graph.value_count()];
        let mut uses = graph.use_counts();
        let scalars = scalars(graph);
        for (param, input) in graph.params().iter().zip(inputs) {
            values[param.value.index()] = Some(input);
        }
        for (_, node) in graph.nodes() {
            let undefined = || place.malformed("a value is used before it is defined");
            let operands =
                node.operands.iter().map(|&v| values[v.index()].clone().ok_or_else(undefined));
            let mut operands = operands.collect::<Result<Vec<_>, _>>()?;
            let folds = !matches!(node.op, Op::Const(_)) && scalars[node.results[0].index()];
            if folds {
                operands = operands.into_iter().map(Value::into_f32).collect();
            }
            let mut results = match node.op {
                Op::Repeat { .. } => self.repeat(place, node, operands)?,
                _ => vec![self.apply(place, node, &operands)?],
            };
            if folds {
                results = results.into_iter().map(Value::into_f32).collect();
            }
            for (&id, value) in node.results.iter().zip(results) {
                values[id.index()] = Some(value);
            }
            for &operand in &node.operands {
                let left = &mut uses[operand.index()];
                *left = left.saturating_sub(1);
                if *left == 0 {
                    values[operand.index()] = None;
                }
            }
        }
        let undefined = || place.malformed("a result is not defined");
        let results = graph.results.iter().map(|v| values[v.index()].clone().ok_or_else(undefined));
        results.collect()
    }

    /// Any op but `repeat`.
    fn apply(&mut self, place: Place<'_>, node: &Node, x: &[Value]) -> Result<Value, EvalError> {
        let ty = place.graph.ty(node.results[0]);
        match (&node.op, x, ty) {
            (Op::CacheAppend, [Value::Cache(layers), Value::Tensor(new)], Type::Cache(cache)) => {
                let why = |why: String| place.malformed(why);
                let new = new.cast(cache.dtype, self.rounding).map_err(why)?;
                let append = |old: &Option<Balls>| match old {
                    None => Some(new.clone()),
                    Some(old) => {
                        let mut shape = old.shape.clone();
                        shape[0] += new.shape[0];
                        Some(movement::concat(&[old.clone(), new.clone()], 0, &shape))
                    }
                };
                Ok(Value::Cache(layers.iter().map(append).collect()))
            }
            (Op::CacheRead, [Value::Cache(layers)], Type::Tensor(ty)) => {
                let shape = self.step.shape(&ty.dims)?;
                let rows = layers.first().cloned().flatten();
                let rows = rows.unwrap_or_else(|| Balls::exact(&shape, vec![]));
                if element_count(&shape) != Some(rows.mid.len()) {
                    return Err(place.malformed(format!("a cache does not hold {shape:?}")));
                }
                Ok(Value::Tensor(movement::reshape(&rows, &shape)))
            }
            (Op::Weight { name, .. }, _, Type::Tensor(ty)) => {
                let layer = place.layer.map_or(String::new(), |l| l.to_string());
                let name = name.replace("{layer}", &layer);
                let shape = self.step.shape(&ty.dims)?;
                self.count(element_count(&shape).unwrap_or(usize::MAX))?;
                let tensor = self.weights.load(&name);
                let tensor = tensor.map_err(|why| EvalError::Weight { name: name.clone(), why })?;
                let found = crate::TensorType::new(tensor.dtype(), tensor.shape().iter().copied());
                if found != *ty {
                    return Err(EvalError::WeightType { name, found, expected: ty.clone() });
                }
                Ok(Value::Tensor(Balls::of(&tensor)))
            }
            (op, x, Type::Tensor(ty)) => {
                let shape = self.step.shape(&ty.dims)?;
                self.count(element_count(&shape).unwrap_or(usize::MAX))?;
                let tensors: Option<Vec<Balls>> = x
                    .iter()
                    .map(|v| match v {
                        Value::Tensor(balls) => Some(balls.clone()),
                        Value::Cache(_) => None,
                    })
                    .collect();
                let x = tensors.ok_or_else(|| place.malformed("a cache is used as a tensor"))?;
                let balls = ops::apply(op, &x, &shape, &self.step, self.rounding);
                balls.map(Value::Tensor).map_err(|e| named(e, place))
            }
            (op, ..) => Err(place.malformed(format!("{} yields a cache", op.info().name))),
        }
    }

    /// Runs a block once per layer.
    fn repeat(
        &mut self,
        place: Place<'_>,
        node: &Node,
        mut operands: Vec<Value>,
    ) -> Result<Vec<Value>, EvalError> {
        let Op::Repeat { block: id, first, count } = node.op else {
            return Err(place.malformed("not a repeat"));
        };
        if place.layer.is_some() {
            return Err(place.malformed("a block repeats another"));
        }
        let block = &self.module.blocks[id.index()];
        for layer in first..first.saturating_add(count) {
            let inner = Place { graph: block, layer: Some(layer), key: id.index() };
            let at = (layer - first) as usize;
            let deal = |value: &Value| match value {
                Value::Tensor(balls) => Value::Tensor(balls.clone()),
                Value::Cache(stack) => Value::Cache(vec![stack[at].clone()]),
            };
            let mut results = self.graph(inner, operands.iter().map(deal).collect())?.into_iter();
            for (param, operand) in block.params().iter().zip(&mut operands) {
                if param.kind == ParamKind::Input {
                    continue;
                }
                match (operand, results.next()) {
                    (Value::Cache(stack), Some(Value::Cache(mut one))) => {
                        stack[at] = one.pop().flatten();
                    }
                    (operand @ Value::Tensor(_), Some(result @ Value::Tensor(_))) => {
                        *operand = result;
                    }
                    _ => return Err(inner.malformed("results are not those of a block")),
                }
            }
        }
        let kinds = block.params().iter().map(|p| p.kind);
        let returned = operands.into_iter().zip(kinds).filter(|(_, k)| *k != ParamKind::Input);
        Ok(returned.map(|(value, _)| value).collect())
    }

    fn count(&mut self, elements: usize) -> Result<(), EvalError> {
        let limit = self.limit;
        let short = || EvalError::TooLarge { elements: limit.saturating_add(1), limit };
        self.left = self.left.checked_sub(elements).ok_or_else(short)?;
        Ok(())
    }
}
