//! What a graph costs: the question every back end answers for its own machine.
//!
//! `passes` knows no target. A back end implements [`CostModel`]; the e-graph extracts the cheapest
//! graph under it. A cost is additive over nodes (a node that several others use is paid once) plus
//! the storage of every compile-time constant that the run-time graph reads. [`NeutralCost`] is the
//! model used when no target speaks: a byte-and-multiply machine with a fixed price per kernel.
//! Costs steer choices only. They are never a claim about time.

use std::fmt;
use std::iter::Sum;
use std::ops::Add;

use ir::{Bindings, Dim, Module, Op, TensorType, Type};

/// A cost in the units of its model. Addition saturates at [`Cost::INFINITE`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cost(u64);

impl Cost {
    /// Nothing to pay.
    pub const ZERO: Cost = Cost(0);
    /// More than any finite cost: what a back end answers for a node it cannot execute. Extraction
    /// takes such a node only where nothing else computes the value.
    pub const INFINITE: Cost = Cost(u64::MAX);

    /// A cost of `units`.
    pub fn new(units: u64) -> Self {
        Cost(units)
    }

    /// The number of units.
    pub fn units(self) -> u64 {
        self.0
    }

    /// This cost `n` times.
    #[must_use]
    pub fn times(self, n: u64) -> Self {
        Cost(self.0.saturating_mul(n))
    }

    /// How much dearer this is than `other`, as a signed difference that saturates.
    pub fn minus(self, other: Cost) -> i64 {
        let difference = i128::from(self.0) - i128::from(other.0);
        i64::try_from(difference).unwrap_or(if difference < 0 { i64::MIN } else { i64::MAX })
    }
}

impl Add for Cost {
    type Output = Cost;

    fn add(self, other: Cost) -> Cost {
        Cost(self.0.saturating_add(other.0))
    }
}

impl Sum for Cost {
    fn sum<I: Iterator<Item = Cost>>(costs: I) -> Cost {
        costs.fold(Cost::ZERO, Add::add)
    }
}

impl fmt::Display for Cost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Cost::INFINITE { f.write_str("infinite") } else { self.0.fmt(f) }
    }
}

/// An operand as a cost model sees it.
#[derive(Clone, Copy, Debug)]
pub struct Operand<'a> {
    /// Its type.
    pub ty: &'a Type,
    /// Whether it is a compile-time constant, ready in memory when the program starts.
    pub cc: bool,
}

/// One node to be priced.
#[derive(Clone, Copy, Debug)]
pub struct Call<'a> {
    /// What is computed.
    pub op: &'a Op,
    /// From what.
    pub operands: &'a [Operand<'a>],
    /// Type of the result.
    pub result: &'a Type,
    /// Whether the result is a compile-time constant: evaluated when packing, free at run time.
    pub cc: bool,
}

impl Call<'_> {
    /// Multiply-adds (of a matmul or attention) or elements computed (of anything else) in the step
    /// `at`; 0 for ops that move data. Saturates.
    pub fn work(&self, at: &Bindings) -> u64 {
        let ty = |i: usize| self.operands.get(i).and_then(|o| o.ty.as_tensor());
        let out = self.result.as_tensor().map_or(0, |t| elements(t, at));
        let extent = |d: Option<&Dim>| d.and_then(|d| d.eval(at)).unwrap_or(0) as u64;
        match self.op {
            Op::Matmul => out.saturating_mul(extent(ty(0).and_then(|t| t.dims.last()))),
            Op::Attention { .. } => {
                let query = ty(0).map_or(0, |t| elements(t, at));
                let keys = extent(ty(1).and_then(|t| t.dims.first()));
                query.saturating_add(out).saturating_mul(keys)
            }
            Op::Reduce { .. } | Op::Softmax | Op::RmsNorm { .. } => {
                ty(0).map_or(0, |t| elements(t, at).saturating_mul(2))
            }
            op if is_movement(op) => 0,
            _ => out,
        }
    }

    /// Bytes of all operands in the step `at`. Of a table that is gathered from, only the rows read.
    pub fn bytes_read(&self, at: &Bindings) -> u64 {
        if matches!(self.op, Op::Gather) {
            return self.bytes_written(at);
        }
        let bytes = |o: &Operand<'_>| type_bytes(o.ty, at);
        self.operands.iter().map(bytes).fold(0, u64::saturating_add)
    }

    /// Bytes of the result in the step `at`.
    pub fn bytes_written(&self, at: &Bindings) -> u64 {
        type_bytes(self.result, at)
    }
}

/// Whether an op only selects or moves bits.
pub fn is_movement(op: &Op) -> bool {
    matches!(
        op,
        Op::Reshape(_)
            | Op::Transpose(_)
            | Op::Slice { .. }
            | Op::Concat { .. }
            | Op::Broadcast(_)
            | Op::Gather
            | Op::CacheRead
            | Op::CacheAppend
    )
}

fn elements(ty: &TensorType, at: &Bindings) -> u64 {
    let extents = ty.dims.iter().map(|d| d.eval(at).unwrap_or(0) as u64);
    extents.fold(1, u64::saturating_mul)
}

/// Bytes of a value of this type in the step `at`; saturates.
pub fn type_bytes(ty: &Type, at: &Bindings) -> u64 {
    match ty {
        Type::Tensor(t) => tensor_bytes(t, at),
        Type::Cache(c) => {
            tensor_bytes(&c.tensor(), at).saturating_mul(u64::from(c.layers.unwrap_or(1)))
        }
    }
}

fn tensor_bytes(ty: &TensorType, at: &Bindings) -> u64 {
    let blocks = elements(ty, at).div_ceil(ty.dtype.block_len() as u64);
    blocks.saturating_mul(ty.dtype.block_bytes() as u64)
}

/// What a target pays for a node. Implementations are pure: the same call, the same cost.
pub trait CostModel: Sync {
    /// A short name for reports: `neutral`, `wse3`, `cpu`.
    fn name(&self) -> &str;

    /// The cost of executing one node, in whatever mix of steps the target cares for.
    fn op(&self, call: &Call<'_>) -> Cost;

    /// The cost of keeping one compile-time constant in memory; charged once per constant that the
    /// run-time graph reads, views of it looked through.
    fn resident(&self, ty: &TensorType) -> Cost;
}

/// The target-agnostic model. One unit is the time to move one byte.
///
/// A decode step at a context of 512 counts 16 times, a prefill of 128 tokens once: generation
/// dominates, but work that grows with the prompt is seen. The figures are of the order of a
/// server CPU (8 multiply-adds per byte of memory traffic, 4 KiB worth of time to start a kernel).
#[derive(Clone, Copy, Debug, Default)]
pub struct NeutralCost;

impl NeutralCost {
    /// Steps and how often each counts.
    pub const STEPS: [(Bindings, u64); 2] =
        [(Bindings { t: 1, c: 511, r: 1 }, 16), (Bindings { t: 128, c: 0, r: 1 }, 1)];
    /// Starting a kernel, in bytes moved in the same time.
    pub const KERNEL: u64 = 4096;
    /// Multiply-adds done in the time of one byte.
    pub const WORK_PER_BYTE: u64 = 8;
    /// Bytes kept resident that weigh as much as one byte moved.
    pub const RESIDENT_PER_BYTE: u64 = 16;

    fn step(call: &Call<'_>, at: &Bindings) -> u64 {
        match call.op {
            // A view costs an address computation.
            Op::Reshape(_) | Op::Slice { .. } | Op::CacheRead => 16,
            Op::Weight { .. } | Op::Const(_) => 0,
            _ => {
                let moved = call.bytes_read(at).saturating_add(call.bytes_written(at));
                let work = call.work(at) / Self::WORK_PER_BYTE;
                Self::KERNEL.saturating_add(moved).saturating_add(work)
            }
        }
    }
}

impl CostModel for NeutralCost {
    fn name(&self) -> &str {
        "neutral"
    }

    fn op(&self, call: &Call<'_>) -> Cost {
        if call.cc {
            // Packing is done once; one unit keeps constant expressions short.
            return Cost::new(1);
        }
        let steps = Self::STEPS.iter();
        steps.map(|(at, n)| Cost::new(Self::step(call, at)).times(*n)).sum()
    }

    fn resident(&self, ty: &TensorType) -> Cost {
        let at = &Self::STEPS[0].0;
        Cost::new(tensor_bytes(ty, at) / Self::RESIDENT_PER_BYTE)
    }
}

/// The cost of a whole module: `main` once, every block once per layer.
pub fn module_cost(module: &Module, model: &dyn CostModel) -> Cost {
    let repeats = module
        .repeats()
        .map(|(block, _, count)| graph_cost(module.block(block), model).times(u64::from(count)));
    repeats.sum::<Cost>() + graph_cost(&module.main, model)
}

/// The cost of one graph: its nodes but `repeat`, and the constants it reads.
pub fn graph_cost(graph: &ir::Graph, model: &dyn CostModel) -> Cost {
    let cc = graph.compile_time_constants();
    let mut total = Cost::ZERO;
    let mut resident = std::collections::BTreeSet::new();
    for (_, node) in graph.nodes() {
        if matches!(node.op, Op::Repeat { .. }) {
            continue;
        }
        let operand = |&v: &ir::ValueId| Operand { ty: graph.ty(v), cc: cc[v.index()] };
        let operands: Vec<_> = node.operands.iter().map(operand).collect();
        let result = node.results[0];
        let is_cc = cc[result.index()];
        let call = Call { op: &node.op, operands: &operands, result: graph.ty(result), cc: is_cc };
        total = total + model.op(&call);
        if !is_cc {
            let read = node.operands.iter().filter(|v| cc[v.index()]);
            resident.extend(read.map(|&v| behind_views(graph, v)));
        }
    }
    let kept = resident.into_iter().filter_map(|v| graph.ty(v).as_tensor());
    total + kept.map(|ty| model.resident(ty)).sum()
}

/// The constant that is stored when `value` is read: reshapes and transposes are ways to read it.
fn behind_views(graph: &ir::Graph, mut value: ir::ValueId) -> ir::ValueId {
    while let Some((_, node)) = graph.producer(value) {
        if !matches!(node.op, Op::Reshape(_) | Op::Transpose(_)) {
            break;
        }
        value = node.operands[0];
    }
    value
}

#[cfg(test)]
mod tests {
    use tensor::DType;

    use super::*;

    #[test]
    fn addition_saturates_and_differences_are_signed() {
        assert_eq!(Cost::INFINITE + Cost::new(1), Cost::INFINITE);
        assert_eq!(Cost::new(u64::MAX / 2).times(3), Cost::INFINITE);
        assert_eq!(Cost::new(3).minus(Cost::new(5)), -2);
        assert_eq!(Cost::INFINITE.minus(Cost::ZERO), i64::MAX);
    }

    #[test]
    fn a_matmul_is_priced_by_work_and_traffic() {
        let x = Type::Tensor(TensorType {
            dtype: DType::F32,
            dims: vec![ir::Symbol::T.into(), 64.into()],
        });
        let w = Type::Tensor(TensorType::new(DType::BF16, [64, 32]));
        let y = Type::Tensor(TensorType {
            dtype: DType::F32,
            dims: vec![ir::Symbol::T.into(), 32.into()],
        });
        let operands = [Operand { ty: &x, cc: false }, Operand { ty: &w, cc: true }];
        let call = Call { op: &Op::Matmul, operands: &operands, result: &y, cc: false };
        let at = Bindings { t: 3, c: 0, r: 1 };
        assert_eq!(call.work(&at), 3 * 32 * 64);
        assert_eq!(call.bytes_read(&at), 3 * 64 * 4 + 64 * 32 * 2);
        assert_eq!(call.bytes_written(&at), 3 * 32 * 4);
    }

    #[test]
    fn a_quantised_tensor_counts_its_groups() {
        let at = NeutralCost::STEPS[0].0;
        let ty = Type::Tensor(TensorType::new(DType::Q4, [2, 64]));
        assert_eq!(type_bytes(&ty, &at), 4 * 18);
    }
}
