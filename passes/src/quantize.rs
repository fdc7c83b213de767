//! Weight-only quantisation: `matmul(x, transpose(w))` becomes `matmul(x, transpose(quantize(w)))`.
//!
//! Groups of 32 along K (`tensor::quant`). What is quantised: constant matrices that a matmul reads
//! transposed, as checkpoints store them, and tables that are gathered from (an embedding, tied to
//! the head or not). A matrix that a file stores quantised counts too, unless it is of that kind
//! already. What is not: gains, biases, products of activations, and weights whose K is not
//! a whole number of groups, which are left as they are and reported. Lossy, so only on request. With
//! a weight source, the error of every tensor is measured, layer by layer; who packs all weights
//! measures on the way and gives none.

use std::collections::BTreeSet;
use std::ops::Range;

use ir::{Graph, Module, Op, ValueId, WeightSource};
use tensor::compare::SquaredError;
use tensor::{DType, Tensor};

use crate::emit::rebuild;
use crate::manager::{Changed, Pass, PassCx, PassOptions};
use crate::report::QuantizedTensor;
use crate::{PassError, Tier};

/// See the module. `None`: what the user asked for, which may be nothing.
pub(crate) struct Quantize {
    dtype: Option<DType>,
}

impl Quantize {
    pub(crate) fn build(options: &PassOptions) -> Result<Box<dyn Pass>, PassError> {
        let dtype = match options.text("to") {
            "asked" => None,
            "q8" => Some(DType::Q8),
            "q4" => Some(DType::Q4),
            "q4m" => Some(DType::Q4M),
            other => {
                let why = format!("expected q8, q4, q4m or asked, found {other:?}");
                return Err(options.refuse("to", why));
            }
        };
        Ok(Box::new(Quantize { dtype }))
    }
}

impl Pass for Quantize {
    fn run(&self, module: &mut Module, cx: &mut PassCx<'_>) -> Result<Changed, PassError> {
        let Some(dtype) = self.dtype.or(cx.quant) else { return Ok(Changed::No) };
        // `--quant` is an explicit request; a dtype in a pipeline string needs the tier as well.
        if cx.quant.is_none() && cx.tier < Tier::Lossy {
            return Err(PassError::Tier { pass: "quantize", needs: Tier::Lossy, allowed: cx.tier });
        }
        if !dtype.is_quantized() {
            return Err(PassError::internal(format!("{dtype} is not a quantised dtype")));
        }
        let mut changed = false;
        let mut done: Vec<(Option<usize>, Target)> = Vec::new();
        let blocks = module.blocks.len();
        for (i, graph) in module.graphs_mut().enumerate() {
            let targets = targets(graph, dtype);
            changed |= targets.iter().any(|t| t.skipped.is_none());
            *graph = quantized(graph, &targets, dtype)?;
            done.extend(targets.into_iter().map(|t| ((i < blocks).then_some(i), t)));
        }
        let mut entries = Vec::new();
        for (block, target) in &done {
            for name in names(module, *block, &target.name) {
                entries.push(measure(name, target, dtype, cx.weights)?);
            }
        }
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        entries.dedup_by(|a, b| a.name == b.name);
        let skipped = entries.iter().filter(|e| e.skipped.is_some()).count();
        if skipped > 0 {
            cx.warn("SPK3102", format!("{skipped} of {} tensors are not quantised", entries.len()));
        }
        cx.report.quantized.extend(entries);
        Ok(changed.into())
    }
}

/// A constant matrix that could be quantised.
struct Target {
    value: ValueId,
    /// Weight name with `{layer}`, or the spelling of a constant that is none.
    name: String,
    from: DType,
    is_weight: bool,
    skipped: Option<String>,
}

/// The matrices [N, K] that run-time matmuls and gathers of a graph read.
fn targets(graph: &Graph, dtype: DType) -> Vec<Target> {
    let cc = graph.compile_time_constants();
    let mut found = BTreeSet::new();
    for (_, node) in graph.nodes().filter(|(_, n)| !cc[n.results[0].index()]) {
        match node.op {
            Op::Matmul => found.extend(stored_rows(graph, node.operands[1])),
            Op::Gather => found.extend([node.operands[0]]),
            _ => {}
        }
    }
    let constant = found.into_iter().filter(|v| cc[v.index()]);
    constant.filter_map(|value| target(graph, value, dtype)).collect()
}

/// `w` of `transpose(w)`: the matrix whose last axis is K.
fn stored_rows(graph: &Graph, value: ValueId) -> Option<ValueId> {
    let (_, node) = graph.producer(value)?;
    let swaps = matches!(&node.op, Op::Transpose(perm) if perm[..] == [1, 0]);
    swaps.then(|| node.operands[0])
}

fn target(graph: &Graph, value: ValueId, dtype: DType) -> Option<Target> {
    let ty = graph.ty(value).as_tensor()?;
    let &[rows, k] = ty.const_shape()?.as_slice() else { return None };
    if ty.dtype == dtype || rows == 0 {
        return None;
    }
    let group = dtype.block_len();
    let skipped = (!k.is_multiple_of(group))
        .then(|| format!("K = {k} is not a multiple of the group of {group}"));
    let op = graph.producer(value).map(|(_, n)| &n.op);
    let (name, is_weight) = match op {
        Some(Op::Weight { name, .. }) => (name.clone(), true),
        _ => (format!("{value} of @{}", graph.name), false),
    };
    Some(Target { value, name, from: ty.dtype, is_weight, skipped })
}

/// The graph with `quantize` put between each target and those who read it as a matrix.
fn quantized(graph: &Graph, targets: &[Target], dtype: DType) -> Result<Graph, PassError> {
    let wanted = |v: ValueId| targets.iter().any(|t| t.value == v && t.skipped.is_none());
    let cc = graph.compile_time_constants();
    rebuild(graph, |emit, node, operands| {
        let mut operands = operands.to_vec();
        let run_time = !cc[node.results[0].index()];
        match node.op {
            Op::Matmul if run_time => {
                if let Some(w) = stored_rows(graph, node.operands[1]).filter(|&w| wanted(w)) {
                    // The operand in the new graph is a transpose of the new w.
                    let transposed = emit.def(operands[1]).map(|n| n.operands[0]);
                    let new = transposed.ok_or_else(|| {
                        PassError::internal(format!("the transpose of {w} is gone"))
                    })?;
                    let small = emit.apply(Op::Quantize(dtype), &[new])?;
                    operands[1] = emit.apply(Op::Transpose(vec![1, 0]), &[small])?;
                }
            }
            Op::Gather if wanted(node.operands[0]) => {
                operands[0] = emit.apply(Op::Quantize(dtype), &[operands[0]])?;
            }
            _ => {}
        }
        Ok(emit.copy(graph, node, &operands))
    })
    .map(|g| crate::dce::without_dead_nodes(&g))
}

/// The names a weight has in the source: one per layer that the block stands for.
fn names(module: &Module, block: Option<usize>, name: &str) -> Vec<String> {
    let Some(block) = block.filter(|_| name.contains("{layer}")) else {
        return vec![name.to_string()];
    };
    let layers = module.repeats().filter(|(id, _, _)| id.index() == block);
    let layers = layers.flat_map(|(_, first, count)| first..first.saturating_add(count));
    layers.map(|layer| name.replace("{layer}", &layer.to_string())).collect()
}

fn measure(
    name: String,
    target: &Target,
    dtype: DType,
    weights: Option<&dyn WeightSource>,
) -> Result<QuantizedTensor, PassError> {
    let skipped = target.skipped.clone();
    let to = if skipped.is_some() { target.from } else { dtype };
    let error = match weights.filter(|_| target.is_weight && skipped.is_none()) {
        Some(source) => Some(relative_rms_error(source, &name, dtype)?),
        None => None,
    };
    Ok(QuantizedTensor { name, from: target.from, to, relative_rms_error: error, skipped })
}

/// Elements of a block whose error is measured at a time.
const BLOCK_ELEMENTS: usize = 1 << 18;

/// `sqrt(sum((q - w)^2) / sum(w^2))` over a tensor; 0 for a tensor of zeros.
fn relative_rms_error(
    weights: &dyn WeightSource,
    name: &str,
    dtype: DType,
) -> Result<f64, PassError> {
    let fail = |why: String| PassError::Weight { name: name.to_string(), why };
    let tensor = weights.load(name).map_err(&fail)?;
    let (rows, cols) = match *tensor.shape() {
        [rows, cols] if rows > 0 && cols > 0 => (rows, cols),
        _ => return Ok(0.0),
    };
    // Blocks of rows, so that a large tensor never is in memory as f32. Fixed sizes, and sums in the
    // order of the blocks: the result does not depend on the number of cores.
    let step = (BLOCK_ELEMENTS / cols).max(1);
    let row_bytes = tensor.bytes().len() / rows;
    let blocks: Vec<_> = (0..rows).step_by(step).map(|r| r..(r + step).min(rows)).collect();
    let sums = |rows: &Range<usize>| {
        let bytes = tensor.bytes().slice(rows.start * row_bytes..rows.end * row_bytes);
        let bytes = bytes.ok_or_else(|| fail("rows beyond the tensor".to_string()))?;
        let block = Tensor::new(tensor.dtype(), vec![rows.len(), cols], bytes.clone());
        let block = block.map_err(|e| fail(e.to_string()))?;
        let exact = block.to_f32();
        let rounded = block.cast(dtype).map_err(|e| fail(e.to_string()))?.to_f32();
        bytes.release();
        Ok(SquaredError::new(&rounded, &exact))
    };
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let share = blocks.len().div_ceil(cores).max(1);
    let found: Vec<Result<SquaredError, PassError>> = std::thread::scope(|scope| {
        let threads: Vec<_> = blocks
            .chunks(share)
            .map(|blocks| scope.spawn(|| blocks.iter().map(sums).collect::<Vec<_>>()))
            .collect();
        let join = |t: std::thread::ScopedJoinHandle<'_, _>| {
            t.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        threads.into_iter().flat_map(join).collect()
    });
    let mut total = SquaredError::default();
    for sums in found {
        total += sums?;
    }
    Ok(total.relative_rms())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{
        Decoder, assert_same_meaning, logits, random_weights, run_at, run_pipeline,
    };
    use crate::{NeutralCost, Options, Tier, optimize};

    fn quantized_ops(module: &Module) -> usize {
        let ops = module.graphs().flat_map(|g| g.nodes()).map(|(_, n)| &n.op);
        ops.filter(|op| matches!(op, Op::Quantize(_))).count()
    }

    #[test]
    fn every_matmul_weight_and_the_tied_embedding_are_quantised_with_their_error() {
        let module = Decoder::default().module();
        let weights = random_weights(&module);
        let options = Options {
            quant: Some(DType::Q8),
            weights: Some(&weights),
            level: crate::Level::O2,
            ..Options::default()
        };
        let (after, report) = optimize(module.clone(), &options, &NeutralCost).unwrap();
        // 7 projections of 2 layers and the embedding.
        assert_eq!(report.quantized.len(), 15);
        assert_eq!(quantized_ops(&after), 8);
        for entry in &report.quantized {
            let error = entry.relative_rms_error.unwrap();
            assert!(error > 1e-4 && error < 0.01, "{entry:?}");
            assert_eq!((entry.from, entry.to), (DType::BF16, DType::Q8));
        }
        assert_same_meaning(&module, &after, Tier::Lossy);
        let (exact, found) = (logits(&module, &weights), logits(&after, &weights));
        assert!(tensor::compare::relative_to_max(&found, &exact) > 1e-5, "nothing was rounded");
    }

    #[test]
    fn q4_is_coarser_than_q8() {
        let module = Decoder::default().module();
        let weights = random_weights(&module);
        let error = |dtype| {
            let options =
                Options { quant: Some(dtype), weights: Some(&weights), ..Options::default() };
            let (_, report) = optimize(module.clone(), &options, &NeutralCost).unwrap();
            report.quantized[0].relative_rms_error.unwrap()
        };
        assert!(error(DType::Q4) > 5.0 * error(DType::Q8));
    }

    #[test]
    fn ragged_rows_and_gains_are_left_as_they_are() {
        let mut module = Decoder { hidden: 90, ..Decoder::default() }.module();
        let report = run_at("quantize{to=q4},dce", &mut module, Tier::Lossy);
        let skipped: Vec<_> = report.quantized.iter().filter(|q| q.skipped.is_some()).collect();
        assert_eq!(
            skipped.iter().map(|q| q.name.as_str()).collect::<Vec<_>>(),
            ["0.down", "1.down"]
        );
        assert!(report.passes[0].warnings.iter().any(|w| w.code == "SPK3102"));
        assert!(report.quantized.iter().all(|q| !q.name.contains("norm")));
    }

    #[test]
    fn nothing_is_quantised_unasked() {
        let mut module = Decoder::default().module();
        let report = run_pipeline("quantize", &mut module);
        assert!(!report.passes[0].changed && report.quantized.is_empty());
        let refused =
            crate::run("quantize{to=q4}", &mut module, &NeutralCost, crate::RunOptions::default());
        assert_eq!(refused.unwrap_err().code(), "SPK3004");
    }
}
