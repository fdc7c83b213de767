//! Constant folding: arithmetic on scalar constants, and operations with a neutral element.
//!
//! Scalars are f32 and folded by the functions of `ir::eval`, so a folded graph has the bits of the
//! unfolded one. Weights are never folded here: expressions over them stay symbolic, back ends
//! evaluate them when they pack. `x + 0` changes the sign of a zero and needs the tier reassoc.

use ir::{BinaryOp, Module, Op, Real, ValueId};
use tensor::DType;

use crate::canonicalize::constant;
use crate::emit::{Emit, rebuild};
use crate::manager::{Changed, Pass, PassCx};
use crate::{PassError, Tier};

/// See the module.
pub(crate) struct ConstFold;

impl Pass for ConstFold {
    fn run(&self, module: &mut Module, cx: &mut PassCx<'_>) -> Result<Changed, PassError> {
        let mut changed = false;
        for graph in module.graphs_mut() {
            let new = rebuild(graph, |emit, node, operands| {
                if let Some(value) = folded(emit, &node.op, operands) {
                    return Ok(vec![emit.apply(Op::Const(Real::new(value)), &[])?]);
                }
                if let Some(same) = neutral(emit, &node.op, operands, cx.tier) {
                    return Ok(vec![same]);
                }
                Ok(emit.copy(graph, node, operands))
            })?;
            let new = crate::dce::without_dead_nodes(&new);
            changed |= new != graph.compact();
            *graph = new;
        }
        Ok(changed.into())
    }
}

/// The value of an op on scalar constants; `None` when it is not a finite number.
fn folded(emit: &Emit, op: &Op, operands: &[ValueId]) -> Option<f64> {
    let scalar = |v: &ValueId| constant(emit, *v).map(|c| c as f32);
    let x: Vec<f32> = operands.iter().map(scalar).collect::<Option<_>>()?;
    let value = match (op, x.as_slice()) {
        (Op::Unary(function), &[x]) => ir::eval::unary(*function, x),
        (Op::Binary(function), &[a, b]) => match function {
            BinaryOp::Add => a + b,
            BinaryOp::Sub => a - b,
            BinaryOp::Mul => a * b,
            BinaryOp::Div => a / b,
            BinaryOp::Max => a.max(b),
            BinaryOp::Min => a.min(b),
        },
        _ => return None,
    };
    // -0 has no spelling as a constant.
    let sound = value.is_finite() && !(value == 0.0 && value.is_sign_negative());
    sound.then_some(f64::from(value))
}

/// The operand that the op leaves as it is because the other is neutral.
fn neutral(emit: &Emit, op: &Op, operands: &[ValueId], tier: Tier) -> Option<ValueId> {
    let (Op::Binary(function), &[a, b]) = (op, operands) else { return None };
    let (left, right) = (constant(emit, a), constant(emit, b));
    let kept = match function {
        BinaryOp::Mul if right == Some(1.0) => a,
        BinaryOp::Mul if left == Some(1.0) => b,
        BinaryOp::Div if right == Some(1.0) => a,
        BinaryOp::Sub if right == Some(0.0) => a,
        BinaryOp::Add if right == Some(0.0) && tier >= Tier::Reassoc => a,
        BinaryOp::Add if left == Some(0.0) && tier >= Tier::Reassoc => b,
        _ => return None,
    };
    // Arithmetic widens to f32; only an f32 operand is its own result.
    emit.ty(kept).as_tensor().filter(|t| t.dtype == DType::F32).map(|_| kept)
}

#[cfg(test)]
mod tests {
    use ir::{Builder, Dim, ParamKind, Symbol, TensorType, UnaryOp};

    use super::*;
    use crate::testing::{assert_same_meaning, run_at};

    /// Runs the pass on `f(gathered rows)` and returns the ops that are left.
    fn folded_ops(
        tier: Tier,
        f: impl Fn(&mut Builder, ValueId) -> Result<ValueId, ir::InferError>,
    ) -> Vec<Op> {
        let mut b = Builder::new("main");
        let tokens = TensorType::new(DType::I32, [Symbol::T]);
        let tokens = b.param(ParamKind::Input, tokens, "tokens");
        let table = b.weight("e", DType::F32, &[16, 8]).unwrap();
        let x = b.apply(Op::Gather, &[table, tokens]).unwrap();
        let start = &Dim::from(Symbol::T) - &Symbol::R.into();
        let last = Op::Slice { axis: 0, start, end: Symbol::T.into() };
        let x = b.apply(last, &[x]).unwrap();
        let y = f(&mut b, x).unwrap();
        let mut module = Module::new("m", 64, b.finish(vec![y]));
        let before = module.clone();
        run_at("const-fold,dce", &mut module, tier);
        assert_same_meaning(&before, &module, tier);
        module.main.nodes().skip(3).map(|(_, n)| n.op.clone()).collect()
    }

    #[test]
    fn scalars_fold_in_f32() {
        let ops = folded_ops(Tier::Exact, |b, x| {
            let (a, c) = (b.constant(3.0)?, b.constant(0.1)?);
            let product = b.binary(BinaryOp::Mul, a, c)?;
            let root = b.unary(UnaryOp::Sqrt, product)?;
            b.binary(BinaryOp::Mul, x, root)
        });
        let expected = f64::from((3.0f32 * 0.1f32).sqrt());
        assert_eq!(ops, [Op::Const(Real::new(expected)), Op::Binary(BinaryOp::Mul)]);
    }

    #[test]
    fn neutral_elements_go_and_zero_only_where_signs_of_zero_may_change() {
        let times_one = |b: &mut Builder, x| {
            let one = b.constant(1.0)?;
            b.binary(BinaryOp::Mul, one, x)
        };
        let plus_zero = |b: &mut Builder, x| {
            let zero = b.constant(0.0)?;
            b.binary(BinaryOp::Add, x, zero)
        };
        assert_eq!(folded_ops(Tier::Exact, times_one), []);
        assert_eq!(folded_ops(Tier::Reassoc, plus_zero), []);
        assert_eq!(folded_ops(Tier::Exact, plus_zero).len(), 2);
    }

    #[test]
    fn what_is_not_finite_stays() {
        let ops = folded_ops(Tier::Exact, |b, x| {
            let (one, zero) = (b.constant(1.0)?, b.constant(0.0)?);
            let infinite = b.binary(BinaryOp::Div, one, zero)?;
            b.binary(BinaryOp::Min, x, infinite)
        });
        assert_eq!(ops.len(), 4);
    }
}
