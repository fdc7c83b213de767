//! One spelling per meaning: views merged, operations that do nothing removed, operands ordered.
//!
//! Exact and confluent: every step makes the graph smaller or moves an operand to its place, so one
//! walk suffices. The clean-up before and after the e-graph; what needs a choice by cost is a rule
//! there, not a step here.

use ir::{BinaryOp, Dim, Module, Op, Real, Type, UnaryOp, ValueId};
use tensor::DType;

use crate::PassError;
use crate::emit::{Emit, rebuild};
use crate::manager::{Changed, Pass, PassCx};

/// See the module.
pub(crate) struct Canonicalize;

impl Pass for Canonicalize {
    fn run(&self, module: &mut Module, _cx: &mut PassCx<'_>) -> Result<Changed, PassError> {
        let mut changed = false;
        for graph in module.graphs_mut() {
            let new = rebuild(graph, |emit, node, operands| {
                if node.op.info().pure {
                    Ok(vec![canonical(emit, node.op.clone(), operands)?])
                } else {
                    Ok(emit.copy(graph, node, operands))
                }
            })?;
            let new = crate::dce::without_dead_nodes(&new);
            changed |= new != graph.compact();
            *graph = new;
        }
        Ok(changed.into())
    }
}

/// The canonical spelling of `op` applied to canonical operands.
fn canonical(emit: &mut Emit, op: Op, operands: &[ValueId]) -> Result<ValueId, PassError> {
    if let Some(same) = nothing_done(emit, &op, operands) {
        return Ok(same);
    }
    if let Some((op, operands)) = through_producer(emit, &op, operands) {
        return canonical(emit, op, &operands);
    }
    if let (Op::Binary(BinaryOp::Div), &[x, c]) = (&op, operands)
        && let Some(inverse) = constant(emit, c).and_then(exact_inverse)
    {
        let inverse = emit.apply(Op::Const(Real::new(inverse)), &[])?;
        return canonical(emit, Op::Binary(BinaryOp::Mul), &[x, inverse]);
    }
    let ordered = ordered(emit, &op, operands);
    emit.apply(op, &ordered)
}

/// The operand, when the op leaves it as it is.
fn nothing_done(emit: &Emit, op: &Op, operands: &[ValueId]) -> Option<ValueId> {
    let &[x] = operands else { return None };
    let ty = emit.ty(x).as_tensor()?;
    let same = match op {
        Op::Reshape(dims) | Op::Broadcast(dims) => *dims == ty.dims,
        Op::Transpose(perm) => perm.iter().enumerate().all(|(i, &p)| i == p),
        Op::Slice { axis, start, end } => *start == Dim::from(0) && *end == ty.dims[*axis],
        Op::Concat { .. } => true,
        Op::Cast(dtype) => *dtype == ty.dtype,
        _ => false,
    };
    same.then_some(x)
}

/// The same value computed from the operand's operand.
fn through_producer(emit: &Emit, op: &Op, operands: &[ValueId]) -> Option<(Op, Vec<ValueId>)> {
    let &[x] = operands else { return None };
    let inner = emit.def(x)?;
    let from = inner.operands.clone();
    let merged = match (op, &inner.op) {
        (Op::Reshape(_), Op::Reshape(_)) => op.clone(),
        (Op::Broadcast(_), Op::Broadcast(_)) => op.clone(),
        (Op::Transpose(outer), Op::Transpose(inner)) => {
            Op::Transpose(outer.iter().map(|&i| inner[i]).collect())
        }
        (Op::Slice { axis, start, end }, Op::Slice { axis: same, start: first, .. })
            if axis == same =>
        {
            Op::Slice { axis: *axis, start: first + start, end: first + end }
        }
        (Op::Slice { axis, start, end }, Op::Concat { axis: same }) if axis == same => {
            return part_of_concat(emit, &from, *axis, start, end);
        }
        (Op::Unary(UnaryOp::Neg), Op::Unary(UnaryOp::Neg)) if is_f32(emit, from[0]) => {
            Op::Cast(DType::F32)
        }
        // Widening loses nothing, so narrowing back is where it began.
        (Op::Cast(to), Op::Cast(DType::F32)) if emit.ty(from[0]).as_tensor()?.dtype == *to => {
            op.clone()
        }
        _ => return None,
    };
    Some((merged, from))
}

fn is_f32(emit: &Emit, value: ValueId) -> bool {
    matches!(emit.ty(value), Type::Tensor(t) if t.dtype == DType::F32)
}

/// The range of the one part that holds it.
fn part_of_concat(
    emit: &Emit,
    parts: &[ValueId],
    axis: usize,
    start: &Dim,
    end: &Dim,
) -> Option<(Op, Vec<ValueId>)> {
    let (start, end) = (start.as_const()?, end.as_const()?);
    let mut at = 0;
    for &part in parts {
        let len = emit.ty(part).as_tensor()?.dims[axis].as_const()?;
        if at <= start && end <= at + len {
            let (start, end) = ((start - at).into(), (end - at).into());
            return Some((Op::Slice { axis, start, end }, vec![part]));
        }
        at += len;
    }
    None
}

/// The value of an f32 scalar constant.
pub(crate) fn constant(emit: &Emit, value: ValueId) -> Option<f64> {
    match emit.def(value)?.op {
        Op::Const(c) => Some(c.get()),
        _ => None,
    }
}

/// 1/c when multiplying by it gives the bits that dividing by c gives: powers of two.
fn exact_inverse(c: f64) -> Option<f64> {
    let exponent = c.abs().log2();
    (c != 0.0 && exponent.fract() == 0.0 && exponent.abs() < 64.0).then(|| 1.0 / c)
}

/// Operands of commutative ops: tensors before scalars, variables before constants, else as given.
fn ordered(emit: &Emit, op: &Op, operands: &[ValueId]) -> Vec<ValueId> {
    let mut operands = operands.to_vec();
    let commutes =
        matches!(op, Op::Binary(BinaryOp::Add | BinaryOp::Mul | BinaryOp::Max | BinaryOp::Min));
    if commutes {
        let rank = |v: ValueId| emit.ty(v).as_tensor().map_or(0, |t| t.rank());
        operands.sort_by_key(|&v| (std::cmp::Reverse(rank(v)), constant(emit, v).is_some()));
    }
    operands
}

#[cfg(test)]
mod tests {
    use crate::Tier;
    use crate::testing::{Decoder, assert_same_meaning, run_pass};

    /// A module whose logits pass through the given lines, from %x to %y, f32[T, 8] both.
    fn module(lines: &str) -> ir::Module {
        let text = format!(
            r#"module "t" context 64 {{
  graph @main(input %tokens: i32[T]) {{
    %e = weight "e" : f32[16, 8]
    %x = gather %e, %tokens : f32[T, 8]
    {lines}
    %all = matmul %y, %head : f32[T, 16]
    %logits = slice %all {{axis=0, start=T - R, end=T}} : f32[R, 16]
    return %logits
  }}
}}
"#
        );
        let head = "%head = transpose %e {perm=[1, 0]} : f32[8, 16]\n    %all";
        ir::parse(&text.replacen("%all", head, 1)).expect("the test is well written")
    }

    fn ops(lines: &str) -> Vec<String> {
        let mut module = module(lines);
        let before = module.clone();
        run_pass("canonicalize", &mut module);
        assert!(!run_pass("canonicalize", &mut module), "not confluent");
        assert_same_meaning(&before, &module, Tier::Exact);
        let ops = module.main.nodes().map(|(_, n)| n.op.info().name.to_string());
        let frame = ["weight", "gather", "transpose", "matmul", "slice"];
        let mut ops: Vec<String> = ops.collect();
        for f in frame {
            let at = ops.iter().rposition(|o| o == f).expect("the frame stays");
            ops.remove(at);
        }
        ops
    }

    #[test]
    fn chains_of_views_merge_and_cancel() {
        let none: Vec<String> = Vec::new();
        assert_eq!(
            ops("%a = transpose %x {perm=[1, 0]} : f32[8, T]
                 %y = transpose %a {perm=[1, 0]} : f32[T, 8]"),
            none
        );
        assert_eq!(
            ops("%a = reshape %x : f32[T, 2, 4]
                 %b = reshape %a : f32[T, 4, 2]
                 %y = reshape %b : f32[T, 8]"),
            none
        );
        assert_eq!(
            ops("%a = concat %x, %x {axis=1} : f32[T, 16]
                 %b = slice %a {axis=1, start=4, end=16} : f32[T, 12]
                 %y = slice %b {axis=1, start=4, end=12} : f32[T, 8]"),
            none
        );
        assert_eq!(
            ops("%a = cast %x : f32[T, 8]
                 %y = concat %a {axis=0} : f32[T, 8]"),
            none
        );
    }

    #[test]
    fn views_that_do_something_stay() {
        assert_eq!(
            ops("%a = slice %x {axis=1, start=0, end=4} : f32[T, 4]
                 %y = concat %a, %a {axis=1} : f32[T, 8]"),
            ["concat", "slice"].map(String::from).iter().rev().cloned().collect::<Vec<_>>()
        );
        assert_eq!(
            ops("%a = cast %x : bf16[T, 8]
                 %y = cast %a : f32[T, 8]"),
            ["cast", "cast"].map(String::from)
        );
    }

    #[test]
    fn a_division_by_a_power_of_two_is_a_product_with_the_scalar_last() {
        assert_eq!(
            ops("%c = const 4.0 : f32[]
                 %y = div %x, %c : f32[T, 8]"),
            ["const", "binary"].map(String::from)
        );
        let mut changed = module(
            "%c = const 0.5 : f32[]
             %y = mul %c, %x : f32[T, 8]",
        );
        assert!(run_pass("canonicalize", &mut changed));
        let third = "%c = const 3.0 : f32[]
                     %y = div %x, %c : f32[T, 8]";
        let mut kept = module(third);
        assert!(!run_pass("canonicalize", &mut kept), "1/3 is not exact");
    }

    #[test]
    fn a_decoder_is_written_canonically_already() {
        let mut module = Decoder::default().module();
        run_pass("cse", &mut module);
        run_pass("canonicalize", &mut module);
        assert!(!run_pass("canonicalize", &mut module));
    }
}
