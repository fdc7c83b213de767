//! Instructions as people read them, for the tile view of the page.
//!
//! Colors are left out of the text: the page adds the region's own. Loses what a reader does not need
//! (wire formats, bases); `plan`'s dump is complete.

use plan::{
    BinaryOp, BufferId, Combine, Instr, Len, Operand, PartOp, ReduceOp, Slice, Template, UnaryOp,
};

/// One instruction of `template` as a short line.
pub(super) fn text(template: &Template, instruction: &Instr) -> String {
    let of = |slice: &Slice| slice_text(template, slice);
    let name = |buffer: BufferId| buffer_name(template, buffer);
    match instruction {
        Instr::Fill { dst, value } => format!("{} = {value}", of(dst)),
        Instr::Software { cycles } => format!("{cycles} cycles of software"),
        Instr::Keep { dst, src, .. } => format!("{} = {} in its turn", of(dst), of(src)),
        Instr::CopyPiece { dst, src, pieces, .. } => {
            format!("{} = {}, one of {pieces} pieces", of(dst), of(src))
        }
        Instr::Copy { dst, src } => format!("{} = {}", of(dst), of(src)),
        Instr::Unary { op, dst, src } => format!("{} = {}({})", of(dst), unary(*op), of(src)),
        Instr::Binary { op, dst, a, b } => {
            let b = match b {
                Operand::Slice(slice) | Operand::PerSegment(slice) => of(slice),
                Operand::Scalar(value) => value.to_string(),
            };
            format!("{} = {}", of(dst), binary(*op, &of(a), &b))
        }
        Instr::Part { op, dst, a, b, parts, .. } => {
            let b = match b {
                Operand::Slice(slice) | Operand::PerSegment(slice) => of(slice),
                Operand::Scalar(value) => value.to_string(),
            };
            let value = match op {
                PartOp::Binary(op) => binary(*op, &of(a), &b),
                PartOp::Glu(op) => format!("{}({}) · {b}", unary(*op), of(a)),
            };
            format!("{} = {value}, one of {parts} pieces", of(dst))
        }
        Instr::Reduce { op, dst, src } => format!("{} = {}({})", of(dst), reduce(*op), of(src)),
        Instr::Gemv { y, x, w, accumulate } => {
            let sign = if *accumulate { "+=" } else { "=" };
            format!("{} {sign} {} × {} [{} × {}]", of(y), of(x), name(w.buffer), w.rows, w.cols)
        }
        Instr::Angles { dst, inv_freq, .. } => {
            format!("{} = cos, sin of position · {}", of(dst), of(inv_freq))
        }
        Instr::Rope { data, heads, half, .. } => {
            format!("rotate {} ({heads} heads of {half} pairs)", of(data))
        }
        Instr::Gather { dst, table, .. } => format!("{} = {}[token]", of(dst), name(table.buffer)),
        Instr::KvAppend { cache, src } => format!("{}[token] = {}", name(*cache), of(src)),
        Instr::Scores { dst, q, k, .. } => format!("{} = {} · {}", of(dst), of(q), name(*k)),
        Instr::AttendValues { dst, p, v, .. } => format!("{} = {} × {}", of(dst), of(p), name(*v)),
        Instr::ArgMax { dst, src, .. } => format!("{} = argmax {}", of(dst), of(src)),
        Instr::Send { src, .. } => format!("send {}", of(src)),
        Instr::Recv { dst, combine, .. } => format!("{} {} receive", of(dst), sign(*combine)),
        Instr::Relay { local, combine, store, .. } => {
            let keep = if *store { ", keep" } else { "" };
            match combine {
                Combine::Store => format!("pass {} on{keep}", of(local)),
                _ => format!("pass on, {} {}{keep}", sign(*combine), of(local)),
            }
        }
        Instr::Gemm { m, k, n, c, a, b, accumulate } => {
            let sign = if *accumulate { "+=" } else { "=" };
            format!("{} {sign} {} × {} [{m} × {k} × {n}]", of(c), of(a), of(b))
        }
        Instr::Broadcast { src, dst, axis, .. } => {
            let line = if *axis == plan::Axis::X { "row" } else { "column" };
            format!("{} = {} of one PE of the {line}", of(dst), of(src))
        }
        Instr::Start { .. } => "in the background:".to_string(),
        Instr::Join { .. } => "wait for the background".to_string(),
        Instr::Repeat { body, .. } => format!("repeat the next {body}"),
    }
}

fn buffer_name(template: &Template, id: BufferId) -> &str {
    template.buffers.get(id.0 as usize).map_or("?", |b| b.name.as_str())
}

/// The buffer's name, with the elements taken unless they are all of it.
fn slice_text(template: &Template, slice: &Slice) -> String {
    let name = buffer_name(template, slice.buffer);
    let all = template.buffers.get(slice.buffer.0 as usize).map_or(0, plan::Buffer::elements);
    if slice.len.per_kv_token == 0 && slice.offset == 0 && u64::from(slice.len.constant) == all {
        return name.to_string();
    }
    match slice.len {
        Len { constant: 1, per_kv_token: 0 } => format!("{name}[{}]", slice.offset),
        Len { constant, per_kv_token: 0 } => {
            let end = u64::from(slice.offset) + u64::from(constant);
            format!("{name}[{}..{end}]", slice.offset)
        }
        Len { constant: 0, per_kv_token } => format!("{name}[{per_kv_token} per token]"),
        Len { constant, per_kv_token } => format!("{name}[{constant} + {per_kv_token} per token]"),
    }
}

fn unary(op: UnaryOp) -> &'static str {
    match op {
        UnaryOp::Neg => "neg",
        UnaryOp::Recip => "recip",
        UnaryOp::Exp => "exp",
        UnaryOp::Sigmoid => "sigmoid",
        UnaryOp::Silu => "silu",
        UnaryOp::Relu => "relu",
        UnaryOp::GeluErf => "gelu",
        UnaryOp::GeluTanh => "gelu-tanh",
        UnaryOp::Tanh => "tanh",
        UnaryOp::RsqrtMean { .. } => "rsqrt-mean",
    }
}

fn binary(op: BinaryOp, a: &str, b: &str) -> String {
    match op {
        BinaryOp::Add => format!("{a} + {b}"),
        BinaryOp::Sub => format!("{a} - {b}"),
        BinaryOp::Mul => format!("{a} · {b}"),
        BinaryOp::Div => format!("{a} / {b}"),
        BinaryOp::Max => format!("max({a}, {b})"),
        BinaryOp::ExpSub => format!("exp({a} - {b})"),
    }
}

fn reduce(op: ReduceOp) -> &'static str {
    match op {
        ReduceOp::Sum => "sum",
        ReduceOp::SumSquares => "sum-squares",
        ReduceOp::Max => "max",
    }
}

fn sign(combine: Combine) -> &'static str {
    match combine {
        Combine::Store => "=",
        Combine::Add => "+=",
        Combine::Max => "max=",
        Combine::ArgMax => "argmax=",
    }
}
