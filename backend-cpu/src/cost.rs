//! What ops cost on a CPU: a roofline with a fixed price per kernel.
//!
//! One unit is the time to read one byte of weights from memory. Weights stream from memory,
//! activations stay in caches and count a quarter. Figures are those of a two-core server CPU
//! (32 GB/s, 350 GFLOP/s of f32 FMA, 0.1 us per barrier); they steer choices and claim no time.

use ir::{Bindings, Op, TensorType};
use passes::{Call, Cost, CostModel, type_bytes};

/// The cost model of this back end.
#[derive(Clone, Copy, Debug, Default)]
pub struct CpuCost;

/// Steps and how often each counts: generation dominates, prompts are seen.
const STEPS: [(Bindings, u64); 2] =
    [(Bindings { t: 1, c: 511, r: 1 }, 16), (Bindings { t: 96, c: 0, r: 1 }, 1)];
/// Multiply-adds in the time of one byte: 175 G/s against 32 GB/s.
const WORK_PER_BYTE: u64 = 5;
/// Bytes of activations in the time of one byte of weights.
const CACHED_PER_BYTE: u64 = 4;
/// Starting a kernel on one thread, 50 ns.
const CALL: u64 = 1600;
/// Starting a kernel on all threads, another 0.2 us.
const PARALLEL_CALL: u64 = 8000;
/// Bytes kept resident that weigh as much as one byte moved once.
const RESIDENT_PER_BYTE: u64 = 16;

fn step_cost(call: &Call<'_>, at: &Bindings) -> u64 {
    match call.op {
        // Views and constants: nothing happens when the program runs.
        Op::Reshape(_) | Op::CacheRead | Op::Weight { .. } | Op::Const(_) => 0,
        Op::Slice { axis: 0, .. } => 0,
        Op::Gather => CALL.saturating_add(2 * call.bytes_written(at)),
        op => {
            let constants = call.operands.iter().filter(|o| o.cc);
            let weights = constants.map(|o| type_bytes(o.ty, at)).fold(0, u64::saturating_add);
            let read = call.bytes_read(at).saturating_sub(weights);
            let cached = read.saturating_add(call.bytes_written(at)) / CACHED_PER_BYTE;
            let work = call.work(at) / WORK_PER_BYTE;
            let start = match op {
                Op::Matmul | Op::Attention { .. } => CALL + PARALLEL_CALL,
                _ => CALL,
            };
            // Memory and arithmetic overlap.
            start.saturating_add(cached).saturating_add(weights.max(work))
        }
    }
}

impl CostModel for CpuCost {
    fn name(&self) -> &str {
        "cpu"
    }

    fn op(&self, call: &Call<'_>) -> Cost {
        if call.cc {
            // Packing is done once; one unit keeps constant expressions short.
            return Cost::new(1);
        }
        STEPS.iter().map(|(at, n)| Cost::new(step_cost(call, at)).times(*n)).sum()
    }

    fn resident(&self, ty: &TensorType) -> Cost {
        Cost::new(type_bytes(&ty.clone().into(), &STEPS[0].0) / RESIDENT_PER_BYTE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ir::{Dim, Symbol, Type};
    use passes::Operand;
    use tensor::DType;

    #[test]
    fn one_large_product_is_cheaper_than_two_small_ones() {
        let x: Type =
            TensorType { dtype: DType::F32, dims: vec![Symbol::T.into(), Dim::from(64)] }.into();
        let cost = |n: usize| {
            let w: Type = TensorType::new(DType::BF16, [64, n]).into();
            let dims = vec![Symbol::T.into(), Dim::from(n)];
            let y: Type = TensorType { dtype: DType::F32, dims }.into();
            let operands = [Operand { ty: &x, cc: false }, Operand { ty: &w, cc: true }];
            CpuCost.op(&Call { op: &Op::Matmul, operands: &operands, result: &y, cc: false })
        };
        assert!(cost(128) < cost(64) + cost(64));
        assert!(cost(128) > cost(64));
    }
}
