//! What ops cost on a wafer: the answer to `passes::CostModel`, in cycles of one decode step.
//!
//! A mat-vec is a sweep over a region whatever its size, so fewer sweeps beat fewer operations; every
//! resident byte takes part of a PE, so weights stay as narrow as the model stores them; what no pin
//! or program expresses is infinitely dear, so it is extracted only where nothing else computes the
//! value (and is then refused by `partition`, by name).

use ir::{Bindings, Op, TensorType, Type};
use passes::is_movement;
use passes::{Call, Cost, CostModel};
use plan::Target;

/// The cost model of a target.
#[derive(Clone, Debug)]
pub struct WaferCost {
    name: String,
    sweep: u64,
    special: u64,
}

/// The decode step that costs refer to.
const STEP: Bindings = Bindings { t: 1, c: 1023, r: 1 };
/// Side of the region that sweeps refer to, a layer of an 8B model.
const SIDE: u64 = 160;
/// Cycles of an instruction that every PE runs on its own few elements.
const LOCAL: u64 = 20;
/// Bytes kept resident that weigh as much as one cycle: all PEs together read about a PE's worth of
/// weights per cycle and port.
const BYTES_PER_CYCLE: u64 = 4096;

impl WaferCost {
    /// The cost model of `target`.
    pub fn new(target: &Target) -> Self {
        let fabric = &target.fabric;
        let relay = 2 * u64::from(fabric.ramp_cycles) + 1 + u64::from(target.core.message_cycles);
        // Reduce and multicast: the side out and back in hops, its square root in relays.
        let relays = SIDE.isqrt() + 1;
        let sweep = 2 * SIDE * u64::from(fabric.hop_cycles) / 2 + relays * relay;
        let special = target.core.special.per_group.ceil() as u64;
        WaferCost { name: target.name.clone(), sweep, special }
    }

    /// Sweeps of an op, or `None` when no program computes it.
    fn sweeps(call: &Call<'_>) -> Option<u64> {
        match call.op {
            // One operand must be pinned.
            Op::Matmul if call.operands.iter().any(|o| o.cc) => Some(1),
            Op::Matmul | Op::Softmax | Op::CausalMask { .. } | Op::Reduce { .. } => None,
            Op::RmsNorm { .. } => Some(1),
            // Scores, maximum, values.
            Op::Attention { .. } => Some(3),
            Op::Gather => Some(1),
            _ => Some(0),
        }
    }
}

/// Whether a pin can express a compile-time constant computed by `op`.
fn pinnable(op: &Op) -> bool {
    matches!(
        op,
        Op::Weight { .. }
            | Op::Const(_)
            | Op::Transpose(_)
            | Op::Concat { .. }
            | Op::Slice { .. }
            | Op::Reshape(_)
            | Op::Broadcast(_)
            | Op::Cast(_)
            | Op::Quantize(_)
            | Op::Binary(ir::BinaryOp::Mul)
    )
}

impl CostModel for WaferCost {
    fn name(&self) -> &str {
        &self.name
    }

    fn op(&self, call: &Call<'_>) -> Cost {
        if call.cc {
            return if pinnable(call.op) { Cost::new(1) } else { Cost::INFINITE };
        }
        let Some(sweeps) = WaferCost::sweeps(call) else { return Cost::INFINITE };
        let local = match call.op {
            op if is_movement(op) => 1,
            Op::Unary(_) | Op::Glu(_) | Op::Rope(_) => LOCAL + self.special,
            _ => LOCAL,
        };
        let pes = SIDE * SIDE;
        let work = call.work(&STEP) / pes;
        Cost::new((sweeps * self.sweep).saturating_add(local).saturating_add(work))
    }

    fn resident(&self, ty: &TensorType) -> Cost {
        let bytes = passes::type_bytes(&Type::Tensor(ty.clone()), &STEP);
        Cost::new(bytes / BYTES_PER_CYCLE)
    }
}

#[cfg(test)]
mod tests {
    use ir::{Dim, Symbol};
    use passes::Operand;
    use tensor::DType;

    use super::*;

    fn tensor(dtype: DType, dims: Vec<Dim>) -> Type {
        Type::Tensor(TensorType { dtype, dims })
    }

    #[test]
    fn one_merged_mat_vec_is_cheaper_than_three() {
        let cost = WaferCost::new(&Target::preset("wse3").expect("preset"));
        let of = |n: usize| {
            let x = tensor(DType::F32, vec![Symbol::T.into(), 64.into()]);
            let w = tensor(DType::BF16, vec![64.into(), n.into()]);
            let y = tensor(DType::F32, vec![Symbol::T.into(), n.into()]);
            let operands = [Operand { ty: &x, cc: false }, Operand { ty: &w, cc: true }];
            cost.op(&Call { op: &Op::Matmul, operands: &operands, result: &y, cc: false })
        };
        assert!(of(3 * 64) < of(64).times(3));
    }

    #[test]
    fn a_product_of_two_activations_has_no_program() {
        let cost = WaferCost::new(&Target::preset("wse3").expect("preset"));
        let x = tensor(DType::F32, vec![4.into(), 4.into()]);
        let operands = [Operand { ty: &x, cc: false }, Operand { ty: &x, cc: false }];
        let call = Call { op: &Op::Matmul, operands: &operands, result: &x, cc: false };
        assert_eq!(cost.op(&call), Cost::INFINITE);
        // And no pin multiplies two weights.
        assert_eq!(cost.op(&Call { cc: true, ..call }), Cost::INFINITE);
    }

    #[test]
    fn narrow_weights_are_cheaper_to_keep() {
        let cost = WaferCost::new(&Target::preset("wse3").expect("preset"));
        let of = |dtype| cost.resident(&TensorType::new(dtype, [4096, 4096]));
        assert!(of(DType::Q8) < of(DType::BF16));
        assert!(of(DType::BF16) < of(DType::F32));
    }
}
