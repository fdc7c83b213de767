//! Compile-time constants: expressions over weights, evaluated when a back end packs.

use tensor::{Tensor, element_count};

use super::array::Array;
use super::frame::{Place, named};
use super::ops::{self, Step};
use super::{EvalError, EvalOptions};
use crate::{Bindings, Graph, Op, TensorType, Type, ValueId, WeightSource, infer};

/// The value of a compile-time constant of `graph`, with `{layer}` in weight names filled in.
///
/// The tensor has the value's dtype: bare weights come back as the source's own bytes, casts and
/// movement keep bf16 and f16 as they are, quantised values keep their bytes as long as whole groups
/// run along the last axis. A quantised value that was transposed or cut within a group has no
/// layout of its own: it comes back dequantised, as f32. So a back end that wants the groups of
/// `transpose(quantize(w))` asks for the operand of the transpose.
///
/// # Errors
/// When the value depends on an input, a weight is missing or of another type, or the expression
/// holds more than `options.max_elements` beyond four times the weights it reads.
pub fn eval_constant(
    graph: &Graph,
    value: ValueId,
    layer: Option<u32>,
    weights: &dyn WeightSource,
    options: &EvalOptions,
) -> Result<Tensor, EvalError> {
    if !graph.compile_time_constants()[value.index()] {
        let spelled =
            graph.value(value).name.clone().map_or(value.to_string(), |n| format!("%{n}"));
        return Err(EvalError::NotConstant { graph: graph.name.clone(), value: spelled });
    }
    evaluate(Place { graph, layer, key: 0 }, value, weights, options).map(Array::into_tensor)
}

/// Evaluates the ancestors of `id`, a constant, in their order.
pub(super) fn evaluate(
    place: Place<'_>,
    id: ValueId,
    weights: &dyn WeightSource,
    options: &EvalOptions,
) -> Result<Array, EvalError> {
    let graph = place.graph;
    let mut needed = vec![false; graph.value_count()];
    needed[id.index()] = true;
    for (_, node) in graph.nodes().rev() {
        if node.results.iter().any(|v| needed[v.index()]) {
            node.operands.iter().for_each(|v| needed[v.index()] = true);
        }
    }
    // A constant's extents hold no symbol, so these bindings are never looked at.
    let bindings = Bindings { t: 1, c: 0, r: 1 };
    let step = Step { bindings, accumulate: options.accumulate };
    let mut values: Vec<Option<Array>> = vec![None; graph.value_count()];
    let (mut elements, mut limit) = (0usize, options.max_elements);
    for (_, node) in graph.nodes() {
        let Some(&result) = node.results.first().filter(|v| needed[v.index()]) else { continue };
        let undefined = |v: &ValueId| place.malformed(format!("{v} is used before it is defined"));
        let operands = node.operands.iter();
        let operands: Vec<Array> = operands
            .map(|v| values[v.index()].clone().ok_or_else(|| undefined(v)))
            .collect::<Result<_, _>>()?;
        let ty = well_typed(place, &node.op, &node.operands)?;
        let shape = ty.const_shape().ok_or_else(|| place.malformed("a symbolic constant"))?;
        let count = element_count(&shape).unwrap_or(usize::MAX);
        if let Op::Weight { name, .. } = &node.op {
            limit = limit.saturating_add(count.saturating_mul(4));
            values[result.index()] = Some(load(&filled(name, place.layer), &ty, weights)?);
            continue;
        }
        elements = elements.saturating_add(count);
        if elements > limit {
            return Err(EvalError::TooLarge { elements, limit });
        }
        let value = ops::apply(&node.op, &operands, &shape, &step).map_err(|e| named(e, place))?;
        values[result.index()] = Some(value);
    }
    values[id.index()].take().ok_or_else(|| place.malformed(format!("{id} is not defined")))
}

/// The type of a node of a graph that nobody need have verified.
fn well_typed(place: Place<'_>, op: &Op, operands: &[ValueId]) -> Result<TensorType, EvalError> {
    let types: Vec<Type> = operands.iter().map(|&v| place.graph.ty(v).clone()).collect();
    match infer(op, &types) {
        Ok(Type::Tensor(ty)) => Ok(ty),
        Ok(ty) => Err(place.malformed(format!("{} yields {ty}", op.info().name))),
        Err(error) => Err(place.malformed(error.to_string())),
    }
}

fn filled(name: &str, layer: Option<u32>) -> String {
    match layer {
        Some(layer) => name.replace("{layer}", &layer.to_string()),
        None => name.to_string(),
    }
}

fn load(name: &str, expected: &TensorType, weights: &dyn WeightSource) -> Result<Array, EvalError> {
    let tensor =
        weights.load(name).map_err(|why| EvalError::Weight { name: name.to_string(), why })?;
    let found = TensorType::new(tensor.dtype(), tensor.shape().iter().copied());
    if found != *expected {
        let (name, expected) = (name.to_string(), expected.clone());
        return Err(EvalError::WeightType { name, found, expected });
    }
    Ok(Array::stored(tensor))
}
