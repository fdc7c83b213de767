//! Constants: which expressions over weights a program needs, in which layout, each stored once.

use std::collections::{BTreeMap, BTreeSet};

use ir::{Graph, Op, ValueId};
use runtime::kernels::pack;
use runtime::program::{Layout, Weight};
use tensor::DType;

/// How the value of an expression becomes a stored weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Form {
    /// Row-major f32.
    Plain,
    /// The value `[N, K]` packed by rows.
    Rows,
    /// The value `[K, N]` packed by columns.
    Columns,
}

/// How to make one weight.
#[derive(Clone, Debug)]
pub(crate) struct Recipe {
    /// Block of the module, or `None` for `main`.
    pub(crate) block: Option<ir::BlockId>,
    /// The expression.
    pub(crate) value: ValueId,
    /// Layer that fills in `{layer}`.
    pub(crate) layer: Option<u32>,
    /// Layout.
    pub(crate) form: Form,
}

/// The constants met so far.
#[derive(Default)]
pub(super) struct Constants {
    weights: Vec<Weight>,
    recipes: Vec<Recipe>,
    /// From what a constant is to its weight.
    known: BTreeMap<(Form, String), u32>,
    end: u64,
}

/// Weights start at multiples of a cache line.
const ALIGN: u64 = 64;

impl Constants {
    /// The weight of a constant of `graph`; made once for equal expressions.
    pub(super) fn add(&mut self, graph: &Graph, recipe: Recipe) -> Result<u32, String> {
        let spelled = spell(graph, recipe.value, recipe.layer);
        let key = (recipe.form, spelled);
        if let Some(&id) = self.known.get(&key) {
            return Ok(id);
        }
        let ty = graph.ty(recipe.value).as_tensor().ok_or("a cache is no constant")?;
        let shape = ty.const_shape().ok_or("a constant of symbolic size")?;
        let (layout, dtype, dims) = match (recipe.form, shape.as_slice()) {
            (Form::Plain, _) => (Layout::Plain, DType::F32, shape),
            (Form::Rows, &[n, k]) => (Layout::Packed, stored(graph, recipe.value), vec![n, k]),
            (Form::Columns, &[k, n]) => {
                let float = ty.dtype.is_float();
                (Layout::Packed, if float { ty.dtype } else { DType::F32 }, vec![n, k])
            }
            _ => return Err(format!("packs {shape:?}")),
        };
        let bytes = match layout {
            Layout::Plain => tensor::element_count(&dims).and_then(|n| n.checked_mul(4)),
            Layout::Packed => pack::packed_bytes(dtype, dims[0], dims[1]),
        };
        let bytes = bytes.ok_or_else(|| format!("{dtype} {dims:?} has no size"))? as u64;
        let dims = dims.into_iter().map(u32::try_from).collect::<Result<_, _>>();
        let dims = dims.map_err(|_| "an extent beyond 32 bits".to_string())?;
        let id = u32::try_from(self.weights.len()).map_err(|_| "too many weights".to_string())?;
        let offset = self.end.next_multiple_of(ALIGN);
        self.end = offset + bytes;
        let name = label(graph, recipe.value, recipe.layer);
        self.weights.push(Weight { name, offset, bytes, dtype, layout, dims });
        self.recipes.push(recipe);
        self.known.insert(key, id);
        Ok(id)
    }

    /// Weights, their recipes and the length of the segment.
    pub(super) fn finish(self) -> (Vec<Weight>, Vec<Recipe>, u64) {
        (self.weights, self.recipes, self.end)
    }
}

/// The dtype in which rows of a value are packed: its own, unless groups of 32 were cut across,
/// which `ir::eval::eval_constant` answers with f32.
fn stored(graph: &Graph, value: ValueId) -> DType {
    let dtype = graph.ty(value).as_tensor().map_or(DType::F32, |t| t.dtype);
    if !pack::is_packed(dtype) || !dtype.is_quantized() {
        return if dtype.is_float() { dtype } else { DType::F32 };
    }
    let mut pending = vec![value];
    while let Some((_, node)) = pending.pop().and_then(|v| graph.producer(v)) {
        match &node.op {
            Op::Weight { .. } | Op::Quantize(_) => {}
            Op::Concat { axis: 0 } | Op::Slice { axis: 0, .. } => pending.extend(&node.operands),
            _ => return DType::F32,
        }
    }
    dtype
}

/// The expression in full, operands first and each once: equal text, equal bytes.
fn spell(graph: &Graph, value: ValueId, layer: Option<u32>) -> String {
    let (mut numbers, mut text) = (BTreeMap::new(), String::new());
    let mut pending = vec![value];
    while let Some(&top) = pending.last() {
        let (op, operands) = match graph.producer(top) {
            Some((_, node)) => (Some(&node.op), node.operands.as_slice()),
            None => (None, &[][..]),
        };
        let missing = operands.iter().find(|v| !numbers.contains_key(*v));
        if let Some(&operand) = missing.filter(|_| !numbers.contains_key(&top)) {
            pending.push(operand);
            continue;
        }
        pending.pop();
        let number = numbers.len();
        if numbers.contains_key(&top) {
            continue;
        }
        let operands: Vec<usize> = operands.iter().map(|v| numbers[v]).collect();
        let op = match op {
            Some(Op::Weight { name, .. }) => format!("weight {}", filled(name, layer)),
            Some(op) => format!("{op:?}"),
            None => "?".to_string(),
        };
        text.push_str(&format!("{op}{operands:?};"));
        numbers.insert(top, number);
    }
    text
}

/// A short name for messages: the names of the weights inside.
fn label(graph: &Graph, value: ValueId, layer: Option<u32>) -> String {
    weight_names(graph, value, layer).join(" + ")
}

/// The names of the weights that a constant is made of.
pub(crate) fn weight_names(graph: &Graph, value: ValueId, layer: Option<u32>) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    let (mut pending, mut seen) = (vec![value], BTreeSet::new());
    while let Some(value) = pending.pop() {
        let Some((_, node)) = graph.producer(value).filter(|_| seen.insert(value)) else {
            continue;
        };
        if let Op::Weight { name, .. } = &node.op {
            names.push(filled(name, layer));
        }
        pending.extend(node.operands.iter().rev());
    }
    names.dedup();
    names
}

/// A name with the layer in place.
pub(crate) fn filled(name: &str, layer: Option<u32>) -> String {
    match layer {
        Some(layer) => name.replace("{layer}", &layer.to_string()),
        None => name.to_string(),
    }
}
