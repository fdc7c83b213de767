//! The meaning of the local instructions on one tile's values, exactly as `plan::program` documents:
//! f32, one rounding per operation, in the documented order.
//!
//! Does not communicate and does not count time.

use plan::{
    AttentionShape, BinaryOp, Combine, DynamicRope, Instr, KvLayout, Matrix, Operand, PartOp,
    ReduceOp, Slice, Storage, TableAxis, UnaryOp,
};

use crate::memory::{Layout, round};

/// The control registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Registers {
    /// Token id fed in.
    pub token: u32,
    /// Its position.
    pub pos: u32,
    /// Tokens of the sequence known so far.
    pub length: u32,
}

/// What a local instruction can see besides its operands.
pub struct Context<'a> {
    /// Where buffers lie.
    pub layout: &'a Layout,
    /// Template position.
    pub position: (u32, u32),
    /// The template's cell.
    pub cell: (u32, u32),
    /// The template's cache distribution.
    pub kv: Option<KvLayout>,
    /// Control registers.
    pub registers: Registers,
    /// The attended tokens of this tile's row: first token and count T.
    pub attended: (u32, u32),
}

impl Context<'_> {
    fn range(&self, slice: Slice) -> std::ops::Range<usize> {
        self.layout.range(slice, self.attended.1)
    }

    /// Writes values to a slice, rounded to its storage.
    fn write(&self, mem: &mut [f32], slice: Slice, values: &[f32]) {
        let range = self.range(slice);
        let storage = self.layout.storage(slice.buffer);
        let out = &mut mem[range];
        if storage == Storage::F32 {
            out.copy_from_slice(values);
        } else {
            out.iter_mut().zip(values).for_each(|(o, &v)| *o = round(storage, v));
        }
    }
}

/// Executes a local instruction; communicating ones do nothing here. `out` is scratch space.
pub fn execute(cx: &Context<'_>, mem: &mut [f32], instr: &Instr, out: &mut Vec<f32>) {
    out.clear();
    let dst = match *instr {
        Instr::Fill { dst, value } => {
            out.resize(cx.range(dst).len(), value);
            dst
        }
        Instr::Copy { dst, src } => {
            out.extend_from_slice(&mem[cx.range(src)]);
            dst
        }
        Instr::Unary { op, dst, src } => {
            out.extend(mem[cx.range(src)].iter().map(|&x| unary(op, x)));
            dst
        }
        Instr::Binary { op, dst, a, b } => {
            binary_slices(cx, mem, op, a, b, out);
            dst
        }
        Instr::Part { op, dst, a, b, part, parts } => {
            let part = part.at(cx.position, cx.cell).unwrap_or(0);
            piece(cx, mem, (op, a, b), (part, parts), (dst, out));
            dst
        }
        Instr::Reduce { op, dst, src } => {
            reduce(op, &mem[cx.range(src)], cx.range(dst).len(), out);
            dst
        }
        Instr::Gemv { y, x, w, accumulate } => {
            gemv(cx, mem, (y, x, w), accumulate, out);
            y
        }
        Instr::Gemm { m, c, a, b, accumulate, .. } => {
            out.extend_from_slice(&mem[cx.range(c)]);
            gemm(m as usize, (&mem[cx.range(a)], &mem[cx.range(b)]), accumulate, out);
            c
        }
        Instr::Rope { data, heads, half, inv_freq, scale, dynamic } => {
            let freq = frequencies(cx, &mem[cx.range(inv_freq)], dynamic);
            let heads = (heads as usize, half as usize);
            rope(&mem[cx.range(data)], heads, &freq, cx.registers.pos, scale, out);
            data
        }
        Instr::Gather { dst, table, axis, base, limit } => {
            let base = base.at(cx.position, cx.cell);
            gather(cx, mem, cx.range(dst).len(), (table, axis), (base, limit), out);
            dst
        }
        Instr::KvAppend { cache, src } => {
            let Some(kv) = cx.kv.filter(|kv| kv.owns(cx.position.1, cx.registers.pos)) else {
                return;
            };
            out.extend_from_slice(&mem[cx.range(src)]);
            let offset = kv.slot(cx.registers.pos) * src.len.constant;
            Slice { buffer: cache, offset, len: src.len }
        }
        Instr::Scores { shape, dst, q, k } => {
            scores(cx, mem, shape, q, k, out);
            dst
        }
        Instr::AttendValues { shape, dst, p, v } => {
            attend_values(cx, mem, shape, p, v, out);
            dst
        }
        Instr::ArgMax { dst, src, base, limit } => {
            let base = base.at(cx.position, cx.cell).unwrap_or(i64::MAX);
            out.extend(arg_max(&mem[cx.range(src)], base, limit));
            dst
        }
        Instr::Send { .. }
        | Instr::Recv { .. }
        | Instr::Relay { .. }
        | Instr::Start { .. }
        | Instr::Join { .. }
        | Instr::Repeat { .. } => return,
    };
    cx.write(mem, dst, out);
}

/// An element-wise function of one operand.
pub fn unary(op: UnaryOp, x: f32) -> f32 {
    match op {
        UnaryOp::Neg => -x,
        UnaryOp::Recip => 1.0 / x,
        UnaryOp::Exp => x.exp(),
        UnaryOp::Sigmoid => 1.0 / (1.0 + (-x).exp()),
        UnaryOp::Silu => x / (1.0 + (-x).exp()),
        UnaryOp::Relu => x.max(0.0),
        UnaryOp::GeluErf => x / 2.0 * (1.0 + erf(x * std::f32::consts::FRAC_1_SQRT_2)),
        UnaryOp::GeluTanh => {
            let inner = (2.0 / std::f32::consts::PI).sqrt() * (x + 0.044715 * (x * x * x));
            x / 2.0 * (1.0 + inner.tanh())
        }
        UnaryOp::Tanh => x.tanh(),
        UnaryOp::RsqrtMean { count, eps } => 1.0 / (x / count as f32 + eps).sqrt(),
    }
}

/// The error function in f64 by its all-positive series (Abramowitz and Stegun 7.1.6).
fn erf(x: f32) -> f32 {
    let x = f64::from(x);
    if x.abs() > 6.0 {
        return x.signum() as f32;
    }
    let mut term = x;
    let mut sum = x;
    for n in 1..200 {
        term *= 2.0 * x * x / f64::from(2 * n + 1);
        sum += term;
        if term.abs() < 1e-18 * sum.abs() {
            break;
        }
    }
    (std::f64::consts::FRAC_2_SQRT_PI * (-x * x).exp() * sum) as f32
}

fn binary(op: BinaryOp, a: f32, b: f32) -> f32 {
    match op {
        BinaryOp::Add => a + b,
        BinaryOp::Sub => a - b,
        BinaryOp::Mul => a * b,
        BinaryOp::Div => a / b,
        BinaryOp::Max => a.max(b),
        BinaryOp::ExpSub => (a - b).exp(),
    }
}

fn binary_slices(
    cx: &Context<'_>,
    mem: &[f32],
    op: BinaryOp,
    a: Slice,
    b: Operand,
    out: &mut Vec<f32>,
) {
    let a = &mem[cx.range(a)];
    match b {
        Operand::Slice(b) => {
            out.extend(a.iter().zip(&mem[cx.range(b)]).map(|(&a, &b)| binary(op, a, b)));
        }
        Operand::Scalar(b) => out.extend(a.iter().map(|&a| binary(op, a, b))),
        Operand::PerSegment(b) => {
            let b = &mem[cx.range(b)];
            let size = (a.len() / b.len().max(1)).max(1);
            for (segment, &b) in a.chunks(size).zip(b) {
                out.extend(segment.iter().map(|&a| binary(op, a, b)));
            }
        }
    }
}

/// All of `dst` after one piece of it was computed.
fn piece(
    cx: &Context<'_>,
    mem: &[f32],
    (op, a, b): (PartOp, Slice, Operand),
    (part, parts): (i64, u32),
    (dst, out): (Slice, &mut Vec<f32>),
) {
    let a = &mem[cx.range(a)];
    let second = |i: usize| match b {
        Operand::Slice(b) => mem[cx.range(b)][i],
        Operand::Scalar(b) => b,
        Operand::PerSegment(b) => {
            let b = &mem[cx.range(b)];
            b[i / (a.len() / b.len().max(1)).max(1)]
        }
    };
    out.extend_from_slice(&mem[cx.range(dst)]);
    let parts = parts.max(1);
    let size = out.len().div_ceil(parts as usize);
    let first = part.rem_euclid(i64::from(parts)) as usize * size;
    for (i, value) in out.iter_mut().enumerate().skip(first).take(size) {
        *value = match op {
            PartOp::Binary(op) => binary(op, a[i], second(i)),
            PartOp::Glu(op) => unary(op, a[i]) * second(i),
        };
    }
}

/// One value per segment; an empty source gives the reduction of nothing.
fn reduce(op: ReduceOp, src: &[f32], segments: usize, out: &mut Vec<f32>) {
    let size = src.len() / segments.max(1);
    let one = |s: &[f32]| match op {
        ReduceOp::Sum => s.iter().fold(0.0, |a, &x| a + x),
        ReduceOp::SumSquares => s.iter().fold(0.0, |a, &x| a + x * x),
        ReduceOp::Max => s.iter().fold(f32::NEG_INFINITY, |a, &x| a.max(x)),
    };
    out.extend((0..segments).map(|i| one(&src[i * size..(i + 1) * size])));
}

/// C by columns of `m`, from A by columns and B by rows, in the order of [`Instr::Gemm`].
fn gemm(m: usize, (a, b): (&[f32], &[f32]), accumulate: bool, c: &mut [f32]) {
    if !accumulate {
        c.fill(0.0);
    }
    if m == 0 || c.is_empty() {
        return;
    }
    let n = c.len() / m;
    for (a, b) in a.chunks(m).zip(b.chunks(n)) {
        for (c, &scalar) in c.chunks_mut(m).zip(b) {
            for (c, &a) in c.iter_mut().zip(a) {
                *c += a * scalar;
            }
        }
    }
}

fn gemv(
    cx: &Context<'_>,
    mem: &[f32],
    (y, x, w): (Slice, Slice, Matrix),
    accumulate: bool,
    acc: &mut Vec<f32>,
) {
    let cols = w.cols as usize;
    if accumulate {
        acc.extend_from_slice(&mem[cx.range(y)]);
    } else {
        acc.resize(cols, 0.0);
    }
    let (start, stride) = matrix(cx, w);
    for (k, &xk) in mem[cx.range(x)].iter().enumerate() {
        let row = &mem[start + k * stride..][..cols];
        acc.iter_mut().zip(row).for_each(|(a, &wk)| *a += xk * wk);
    }
}

/// First value and row stride of a sub-matrix.
fn matrix(cx: &Context<'_>, m: Matrix) -> (usize, usize) {
    let stride = cx.layout.cols(m.buffer);
    (cx.layout.start(m.buffer) + m.row as usize * stride + m.col as usize, stride)
}

fn frequencies(cx: &Context<'_>, table: &[f32], dynamic: Option<DynamicRope>) -> Vec<f32> {
    let Some(d) = dynamic.filter(|d| cx.registers.length > d.original) else {
        return table.to_vec();
    };
    let (dim, length) = (f64::from(d.dim), f64::from(cx.registers.length));
    let stretch = d.factor * length / f64::from(d.original) - (d.factor - 1.0);
    let base = d.theta * stretch.powf(dim / (dim - 2.0));
    let first = d.first_pair.at(cx.position, cx.cell).unwrap_or(0) as f64;
    let freq = |i: usize| (1.0 / base.powf(2.0 * (first + i as f64) / dim)) as f32;
    (0..table.len()).map(freq).collect()
}

fn rope(
    data: &[f32],
    (heads, half): (usize, usize),
    freq: &[f32],
    pos: u32,
    scale: f32,
    out: &mut Vec<f32>,
) {
    out.extend_from_slice(data);
    for (i, &f) in freq.iter().enumerate().take(half) {
        let angle = pos as f32 * f;
        let (c, s) = (angle.cos() * scale, angle.sin() * scale);
        for head in 0..heads {
            let at = head * 2 * half + i;
            let (u, v) = (data[at], data[at + half]);
            out[at] = u * c - v * s;
            out[at + half] = v * c + u * s;
        }
    }
}

fn gather(
    cx: &Context<'_>,
    mem: &[f32],
    n: usize,
    (table, axis): (Matrix, TableAxis),
    (base, limit): (Option<i64>, u32),
    out: &mut Vec<f32>,
) {
    let token = cx.registers.token;
    let extent = match axis {
        TableAxis::Rows => table.rows,
        TableAxis::Cols => table.cols,
    };
    let index = base.and_then(|b| u32::try_from(i64::from(token) - b).ok());
    let Some(i) = index.filter(|&i| i < extent && token < limit) else {
        out.resize(n, 0.0);
        return;
    };
    let (start, stride) = matrix(cx, table);
    let at = |j: usize| match axis {
        TableAxis::Rows => start + i as usize * stride + j,
        TableAxis::Cols => start + j * stride + i as usize,
    };
    out.extend((0..n).map(|j| mem[at(j)]));
}

/// Start of each attended token's entry in a cache, ascending by token.
fn entries<'a>(
    cx: &'a Context<'_>,
    cache: plan::BufferId,
    per_token: usize,
) -> impl Iterator<Item = usize> + 'a {
    let (first, count) = cx.attended;
    let start = cx.layout.start(cache);
    cx.kv.into_iter().flat_map(move |kv| {
        (0..count).map(move |i| start + kv.slot(first + i * kv.rows) as usize * per_token)
    })
}

fn scores(
    cx: &Context<'_>,
    mem: &[f32],
    shape: AttentionShape,
    q: Slice,
    k: plan::BufferId,
    out: &mut Vec<f32>,
) {
    let (dim, q_per_kv) = (shape.dim as usize, shape.q_per_kv as usize);
    let q = &mem[cx.range(q)];
    for (h, query) in q.chunks_exact(dim.max(1)).enumerate() {
        let g = h / q_per_kv;
        for entry in entries(cx, k, shape.kv_heads as usize * dim) {
            let key = &mem[entry + g * dim..][..dim];
            out.push(query.iter().zip(key).fold(0.0, |s, (&a, &b)| s + a * b));
        }
    }
}

fn attend_values(
    cx: &Context<'_>,
    mem: &[f32],
    shape: AttentionShape,
    p: Slice,
    v: plan::BufferId,
    out: &mut Vec<f32>,
) {
    let (dim, q_per_kv) = (shape.dim as usize, shape.q_per_kv as usize);
    let heads = shape.kv_heads as usize * q_per_kv;
    let p = &mem[cx.range(p)];
    let tokens = cx.attended.1 as usize;
    out.resize(heads * dim, 0.0);
    for (h, acc) in out.chunks_exact_mut(dim.max(1)).enumerate() {
        let g = h / q_per_kv;
        for (i, entry) in entries(cx, v, shape.kv_heads as usize * dim).enumerate() {
            let weight = p[h * tokens + i];
            let value = &mem[entry + g * dim..][..dim];
            acc.iter_mut().zip(value).for_each(|(a, &b)| *a += weight * b);
        }
    }
}

fn arg_max(src: &[f32], base: i64, limit: u32) -> [f32; 2] {
    let mut best = [f32::NEG_INFINITY, limit as f32];
    for (i, &v) in src.iter().enumerate() {
        let index = base.saturating_add(i as i64);
        if index < i64::from(limit) && v > best[0] {
            best = [v, index as f32];
        }
    }
    best
}

/// What arriving elements do to the local ones; `local` and `received` are equally long.
pub fn combine(op: Combine, local: &mut [f32], received: &[f32]) {
    match op {
        Combine::Store => local.copy_from_slice(received),
        Combine::Add => local.iter_mut().zip(received).for_each(|(l, &r)| *l += r),
        Combine::Max => local.iter_mut().zip(received).for_each(|(l, &r)| *l = l.max(r)),
        Combine::ArgMax => {
            for (l, r) in local.chunks_exact_mut(2).zip(received.chunks_exact(2)) {
                if r[0] > l[0] || (r[0] == l[0] && r[1] < l[1]) {
                    l.copy_from_slice(r);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn erf_matches_known_values() {
        // Abramowitz and Stegun, table 7.1.
        for (x, y) in [(0.5, 0.520_499_9), (1.0, 0.842_700_8), (2.0, 0.995_322_3), (7.0, 1.0)] {
            assert!((erf(x) - y).abs() < 1e-7, "erf({x}) = {}", erf(x));
            assert!((erf(-x) + y).abs() < 1e-7);
        }
    }

    #[test]
    fn dynamic_rope_stretches_the_base_beyond_the_original_length() {
        let layout = Layout::new(
            &plan::samples::line(
                plan::samples::Collective::Chain,
                plan::Axis::X,
                2,
                2,
                plan::Target::preset("tiny").expect("preset"),
            )
            .templates[0],
        );
        let d = DynamicRope {
            theta: 10_000.0,
            factor: 2.0,
            original: 8,
            dim: 4,
            first_pair: plan::Affine::constant(1),
        };
        let at = |length| {
            let registers = Registers { token: 0, pos: 0, length };
            let (position, cell) = ((0, 0), (1, 1));
            let cx =
                Context { layout: &layout, position, cell, kv: None, registers, attended: (0, 0) };
            frequencies(&cx, &[0.25], Some(d))
        };
        assert_eq!(at(8), [0.25]);
        // base = 1e4 * (2 * 12 / 8 - 1)^(4 / 2) = 4e4; pair 1 of 2: 1 / base^(2 / 4).
        assert!((at(12)[0] - 0.005).abs() < 1e-9);
    }

    #[test]
    fn reductions_of_nothing_are_neutral() {
        let mut out = Vec::new();
        reduce(ReduceOp::Max, &[], 2, &mut out);
        reduce(ReduceOp::Sum, &[], 1, &mut out);
        reduce(ReduceOp::SumSquares, &[1.0, 2.0, 3.0, 4.0], 2, &mut out);
        assert_eq!(out, [f32::NEG_INFINITY, f32::NEG_INFINITY, 0.0, 5.0, 25.0]);
    }

    #[test]
    fn ties_go_to_the_smaller_index() {
        assert_eq!(arg_max(&[1.0, 3.0, 3.0, 9.0], 4, 7), [3.0, 5.0]);
        let mut local = [3.0, 5.0, 1.0, 0.0];
        combine(Combine::ArgMax, &mut local, &[3.0, 4.0, 0.5, 7.0]);
        assert_eq!(local, [3.0, 4.0, 1.0, 0.0]);
    }
}
