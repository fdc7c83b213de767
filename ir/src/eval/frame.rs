//! Runs one graph: values in a frame, caches moved along, blocks once per layer.
//!
//! Invariant: a value is dropped after its last use, so memory follows what is alive, and every
//! new value is counted against [`EvalOptions::max_elements`](super::EvalOptions). Compile-time
//! constants are evaluated at first use and kept, decoded, for the life of the machine.

use std::collections::BTreeMap;

use tensor::{DType, Tensor, element_count};

use super::array::Array;
use super::ops::{self, Step};
use super::{EvalError, EvalOptions, constant};
use crate::{Bindings, Graph, Node, Op, ParamKind, Type, ValueId, WeightSource};

/// What a value of a graph is while the graph runs.
#[derive(Clone, Debug)]
pub(super) enum Value {
    /// A tensor.
    Array(Array),
    /// The caches of one or more layers.
    Cache(Vec<Rows>),
}

/// One layer's cache: `[len, heads, head_dim]`, already rounded to the cache's dtype.
#[derive(Clone, Debug, Default)]
pub(super) struct Rows {
    pub(super) len: usize,
    pub(super) values: Vec<f32>,
}

/// A graph in the place where it runs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place<'a> {
    pub(super) graph: &'a Graph,
    /// The layer index, in a block.
    pub(super) layer: Option<u32>,
    /// Which graph of the module: tells constants of different graphs apart.
    pub(super) key: usize,
}

impl Place<'_> {
    pub(super) fn malformed(&self, why: impl Into<String>) -> EvalError {
        EvalError::Malformed { graph: self.graph.name.clone(), why: why.into() }
    }
}

/// What outlives one run.
pub(super) struct Machine<'a> {
    blocks: &'a [Graph],
    weights: &'a dyn WeightSource,
    options: EvalOptions,
    constants: BTreeMap<(usize, Option<u32>, ValueId), Array>,
    live: usize,
}

/// The values of one run of a graph.
struct Frame {
    values: Vec<Option<Value>>,
    /// Uses still to come, results of the graph included.
    uses: Vec<u32>,
    constant: Vec<bool>,
}

impl<'a> Machine<'a> {
    pub(super) fn new(
        blocks: &'a [Graph],
        weights: &'a dyn WeightSource,
        options: EvalOptions,
    ) -> Self {
        Machine { blocks, weights, options, constants: BTreeMap::new(), live: 0 }
    }

    /// Forgets what was alive; after an error, or when caches are dropped.
    pub(super) fn reset(&mut self) {
        self.live = 0;
    }

    /// Runs a verified graph. Results are in the order of `graph.results`.
    pub(super) fn run(
        &mut self,
        place: Place<'_>,
        inputs: Vec<Value>,
        bindings: Bindings,
    ) -> Result<Vec<Value>, EvalError> {
        let graph = place.graph;
        let step = Step { bindings, accumulate: self.options.accumulate };
        let mut frame = Frame {
            values: vec![None; graph.value_count()],
            uses: graph.use_counts(),
            constant: graph.compile_time_constants(),
        };
        for (param, input) in graph.params().iter().zip(inputs) {
            self.define(&mut frame, param.value, input)?;
        }
        for (_, node) in graph.nodes() {
            // Constants are evaluated when a value that is none asks for them.
            if node.results.iter().all(|v| frame.constant[v.index()]) {
                continue;
            }
            let results = match node.op {
                Op::Repeat { .. } => self.repeat(place, &mut frame, node, bindings)?,
                _ => vec![self.apply(place, &mut frame, node, &step)?],
            };
            for (&id, value) in node.results.iter().zip(results) {
                self.define(&mut frame, id, value)?;
            }
            for &operand in &node.operands {
                self.release(&mut frame, operand);
            }
        }
        let mut results = Vec::with_capacity(graph.results.len());
        for &v in &graph.results {
            // A constant that is returned keeps its dtype, so it is not taken from the store.
            results.push(match frame.constant[v.index()] {
                true => {
                    constant::evaluate(place, v, self.weights, &self.options).map(Value::Array)?
                }
                false => self.take(place, &mut frame, v)?,
            });
        }
        // What is returned is counted again by whoever receives it.
        for array in frame.values.iter().flatten() {
            if let Value::Array(array) = array {
                self.live = self.live.saturating_sub(array.len());
            }
        }
        Ok(results)
    }

    /// Any op but `repeat`.
    fn apply(
        &mut self,
        place: Place<'_>,
        frame: &mut Frame,
        node: &Node,
        step: &Step,
    ) -> Result<Value, EvalError> {
        let x = &node.operands;
        match (&node.op, place.graph.ty(node.results[0])) {
            (Op::CacheAppend, Type::Cache(ty)) => {
                let cache = frame.values[x[0].index()].take();
                let new = self.array(place, frame, x[1])?;
                let Some(Value::Cache(mut layers)) = cache else {
                    return Err(place.malformed(format!("{} was consumed before", x[0])));
                };
                let (rows, dtype) = (new.shape[0], ty.dtype);
                let new = if dtype == DType::F32 { new } else { rounded(place, &new, dtype)? };
                for layer in &mut layers {
                    layer.len += rows;
                    layer.values.extend_from_slice(&new.f32());
                }
                self.count(new.len())?;
                Ok(Value::Cache(layers))
            }
            (Op::CacheRead, Type::Tensor(ty)) => match &frame.values[x[0].index()] {
                Some(Value::Cache(layers)) if layers.len() == 1 => {
                    let shape = step.shape(&ty.dims)?;
                    let values = layers[0].values.clone();
                    if element_count(&shape) != Some(values.len()) {
                        return Err(place.malformed(format!("{} does not hold {shape:?}", x[0])));
                    }
                    Ok(Value::Array(Array::new(&shape, values)))
                }
                _ => Err(place.malformed(format!("{} is not a live cache", x[0]))),
            },
            (op, Type::Tensor(ty)) => {
                let shape = step.shape(&ty.dims)?;
                let elements = element_count(&shape).unwrap_or(usize::MAX);
                self.check(elements)?;
                let operands = x.iter().map(|&v| self.array(place, frame, v));
                let operands = operands.collect::<Result<Vec<_>, _>>()?;
                let name = |e| named(e, place);
                ops::apply(op, &operands, &shape, step).map(Value::Array).map_err(name)
            }
            (op, ty) => Err(place.malformed(format!("{} yields {ty}", op.info().name))),
        }
    }

    /// Runs a block once per layer.
    fn repeat(
        &mut self,
        place: Place<'_>,
        frame: &mut Frame,
        node: &Node,
        bindings: Bindings,
    ) -> Result<Vec<Value>, EvalError> {
        let Op::Repeat { block: id, first, count } = node.op else {
            return Err(place.malformed("not a repeat"));
        };
        if place.layer.is_some() {
            return Err(place.malformed("a block repeats another"));
        }
        let block = &self.blocks[id.index()];
        let operands = node.operands.iter().map(|&v| self.take(place, frame, v));
        let mut operands = operands.collect::<Result<Vec<_>, _>>()?;
        for layer in first..first.saturating_add(count) {
            let inner = Place { graph: block, layer: Some(layer), key: id.index() };
            let at = (layer - first) as usize;
            let deal = |value: &mut Value| match value {
                Value::Array(array) => Value::Array(array.clone()),
                Value::Cache(stack) => Value::Cache(vec![std::mem::take(&mut stack[at])]),
            };
            let inputs = operands.iter_mut().map(deal).collect();
            let mut results = self.run(inner, inputs, bindings)?.into_iter();
            for (param, operand) in block.params().iter().zip(&mut operands) {
                match (param.kind, operand) {
                    (ParamKind::Input, _) => {}
                    (ParamKind::Carry, operand) => {
                        *operand = results.next().ok_or_else(|| inner.malformed("no carry"))?;
                    }
                    (ParamKind::State, Value::Cache(stack)) => match results.next() {
                        Some(Value::Cache(mut one)) => {
                            stack[at] = one.pop().unwrap_or_default();
                        }
                        _ => return Err(inner.malformed("a state is not returned")),
                    },
                    (ParamKind::State, _) => return Err(inner.malformed("a state is a tensor")),
                }
            }
        }
        let kinds = block.params().iter().map(|p| p.kind);
        let returned = operands.into_iter().zip(kinds).filter(|(_, k)| *k != ParamKind::Input);
        Ok(returned.map(|(value, _)| value).collect())
    }

    /// A tensor operand; constants come from the store.
    fn array(&mut self, place: Place<'_>, frame: &Frame, id: ValueId) -> Result<Array, EvalError> {
        if frame.constant[id.index()] {
            return self.constant(place, id);
        }
        match &frame.values[id.index()] {
            Some(Value::Array(array)) => Ok(array.clone()),
            _ => Err(place.malformed(format!("{id} is not a tensor defined before its use"))),
        }
    }

    /// A value for good when it is a cache, a cheap copy when it is a tensor.
    fn take(
        &mut self,
        place: Place<'_>,
        frame: &mut Frame,
        id: ValueId,
    ) -> Result<Value, EvalError> {
        if matches!(place.graph.ty(id), Type::Tensor(_)) {
            return self.array(place, frame, id).map(Value::Array);
        }
        let consumed = || place.malformed(format!("{id} was consumed before"));
        frame.values[id.index()].take().ok_or_else(consumed)
    }

    fn constant(&mut self, place: Place<'_>, id: ValueId) -> Result<Array, EvalError> {
        let key = (place.key, place.layer, id);
        if let Some(array) = self.constants.get(&key) {
            return Ok(array.clone());
        }
        let array = constant::evaluate(place, id, self.weights, &self.options)?.decoded();
        self.constants.insert(key, array.clone());
        Ok(array)
    }

    fn define(&mut self, frame: &mut Frame, id: ValueId, value: Value) -> Result<(), EvalError> {
        if let Value::Array(array) = &value {
            self.count(array.len())?;
        }
        frame.values[id.index()] = Some(value);
        if frame.uses[id.index()] == 0 {
            frame.uses[id.index()] = 1;
            self.release(frame, id);
        }
        Ok(())
    }

    fn release(&mut self, frame: &mut Frame, id: ValueId) {
        let uses = &mut frame.uses[id.index()];
        *uses = uses.saturating_sub(1);
        if *uses == 0
            && let Some(Value::Array(array)) = frame.values[id.index()].take()
        {
            self.live = self.live.saturating_sub(array.len());
        }
    }

    fn check(&self, elements: usize) -> Result<(), EvalError> {
        let (elements, limit) = (self.live.saturating_add(elements), self.options.max_elements);
        if elements > limit { Err(EvalError::TooLarge { elements, limit }) } else { Ok(()) }
    }

    fn count(&mut self, elements: usize) -> Result<(), EvalError> {
        self.check(elements)?;
        self.live += elements;
        Ok(())
    }
}

/// Fills in the graph's name, which the op does not know.
pub(super) fn named(error: EvalError, place: Place<'_>) -> EvalError {
    match error {
        EvalError::Malformed { why, .. } => place.malformed(why),
        other => other,
    }
}

fn rounded(place: Place<'_>, new: &Array, dtype: DType) -> Result<Array, EvalError> {
    new.cast(dtype).map(Array::decoded).map_err(|why| place.malformed(why))
}

impl Value {
    /// The value as a tensor: a cache is `[len, heads, head_dim]`, a stack has one axis more.
    pub(super) fn into_tensor(self, ty: &Type) -> Tensor {
        match (self, ty) {
            (Value::Array(array), Type::Tensor(ty)) if ty.dtype.is_float() => {
                // A constant that was decoded goes back to its dtype, exactly.
                let tensor = array.into_tensor();
                tensor.cast(ty.dtype).unwrap_or(tensor)
            }
            (Value::Array(array), _) => array.into_tensor(),
            (Value::Cache(layers), Type::Cache(ty)) => {
                let len = layers.first().map_or(0, |l| l.len);
                let mut shape = vec![len, ty.heads, ty.head_dim];
                if ty.layers.is_some() {
                    shape.insert(0, layers.len());
                }
                let values: Vec<f32> = layers.into_iter().flat_map(|l| l.values).collect();
                Tensor::from_f32(shape, &values)
            }
            (Value::Cache(layers), Type::Tensor(_)) => {
                let values: Vec<f32> = layers.into_iter().flat_map(|l| l.values).collect();
                Tensor::from_f32(vec![values.len()], &values)
            }
        }
    }
}
