//! The meaning of the local instructions on one tile's values, exactly as `plan::program` documents:
//! f32, one rounding per operation, in the documented order.
//!
//! Reads and writes through a [`Frame`]: a region's arrays while one token is computed. Does not
//! communicate and does not count time.

use half::slice::HalfFloatSliceExt;
use plan::{
    AttentionShape, BinaryOp, BufferId, Combine, DynamicRope, Instr, KvLayout, Matrix, Operand,
    PartOp, ReduceOp, Slice, Storage, TableAxis, Template, UnaryOp,
};

use crate::memory::{Array, Layout, round};

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

/// The arrays of a region while one token is computed, and what else local instructions see.
pub struct Frame<'a> {
    /// Where buffers lie in their arrays.
    pub layout: &'a Layout,
    /// Per buffer: pinned weights.
    pub weights: &'a [Array],
    /// Per buffer: caches of the sequence.
    pub caches: &'a mut [Array],
    /// Per buffer: everything else.
    pub values: &'a mut [Vec<f32>],
    /// Columns of the region.
    pub width: u32,
    /// The template's cell.
    pub cell: (u32, u32),
    /// The template's cache distribution.
    pub kv: Option<KvLayout>,
    /// The attended tokens of every tile.
    pub attended: &'a Attended,
    /// Control registers.
    pub registers: Registers,
}

/// The attended tokens of every tile at one position in the sequence.
#[derive(Clone, Debug)]
pub struct Attended {
    /// Columns of a cell that differ.
    columns: u32,
    /// Per row and such column: first token and count T.
    tokens: Vec<(u32, u32)>,
}

impl Attended {
    /// Those of `template` at sequence position `pos`.
    pub fn new(template: &Template, pos: u32) -> Self {
        let columns = match template.kv {
            Some(kv) if kv.columns > 1 => template.cell.0,
            _ => 1,
        };
        let at = (0..template.height).flat_map(|y| (0..columns).map(move |x| (x, y)));
        Attended { columns, tokens: at.map(|at| template.kv_tokens(at, pos)).collect() }
    }

    /// First token and count T at a template position.
    pub fn of(&self, (x, y): (u32, u32)) -> (u32, u32) {
        let at = y as usize * self.columns as usize + (x % self.columns) as usize;
        self.tokens.get(at).copied().unwrap_or((0, 0))
    }

    /// The largest T of any tile.
    pub fn most(&self) -> u32 {
        self.tokens.iter().map(|t| t.1).max().unwrap_or(0)
    }
}

/// Space for operands and results of one instruction.
#[derive(Debug, Default)]
pub struct Scratch {
    a: Vec<f32>,
    b: Vec<f32>,
    out: Vec<f32>,
}

impl Scratch {
    /// Space for one operand.
    pub fn spare(&mut self) -> &mut Vec<f32> {
        &mut self.a
    }
}

impl Frame<'_> {
    /// The template position of a tile.
    pub fn position(&self, tile: u32) -> (u32, u32) {
        (tile % self.width, tile / self.width)
    }

    /// The attended tokens of a tile: first and count T.
    pub fn tokens(&self, tile: u32) -> (u32, u32) {
        self.attended.of(self.position(tile))
    }

    /// The values of a slice on a tile; `spare` holds them when they are stored narrower.
    pub fn read<'b>(&'b self, slice: Slice, tile: u32, spare: &'b mut Vec<f32>) -> &'b [f32] {
        let tokens = if slice.len.per_kv_token > 0 { self.tokens(tile).1 } else { 0 };
        let range = self.layout.range(slice, tile as usize, tokens);
        let buffer = slice.buffer.0 as usize;
        match self.layout.buffers[buffer].role {
            plan::BufferRole::Weights => self.weights[buffer].read(range, spare),
            plan::BufferRole::KvCache => self.caches[buffer].read(range, spare),
            _ => &self.values[buffer][range],
        }
    }

    /// The values of a slice on a tile, to be written; nothing for weights and caches.
    pub fn values(&mut self, slice: Slice, tile: u32) -> &mut [f32] {
        let tokens = if slice.len.per_kv_token > 0 { self.tokens(tile).1 } else { 0 };
        let range = self.layout.range(slice, tile as usize, tokens);
        self.values[slice.buffer.0 as usize].get_mut(range).unwrap_or(&mut [])
    }

    /// Writes values to a slice, rounded to its storage.
    fn write(&mut self, slice: Slice, tile: u32, values: &[f32]) {
        let storage = self.layout.buffers[slice.buffer.0 as usize].storage;
        let out = self.values(slice, tile);
        if storage == Storage::F32 {
            out.copy_from_slice(values);
        } else {
            out.iter_mut().zip(values).for_each(|(o, &v)| *o = round(storage, v));
        }
    }

    /// Combines received values into a slice, rounding to its storage.
    pub fn absorb(&mut self, slice: Slice, tile: u32, op: Combine, received: &[f32]) {
        let storage = self.layout.buffers[slice.buffer.0 as usize].storage;
        let local = self.values(slice, tile);
        combine(op, local, received);
        if storage != Storage::F32 {
            local.iter_mut().for_each(|v| *v = round(storage, *v));
        }
    }

    /// Elements of a slice on a tile.
    fn len(&self, slice: Slice, tile: u32) -> usize {
        slice.len.elements(self.tokens(tile).1) as usize
    }
}

/// Executes a local instruction on a tile; communicating ones, loops and microthreads do nothing here.
pub fn execute(frame: &mut Frame<'_>, instr: &Instr, tile: u32, scratch: &mut Scratch) {
    scratch.out.clear();
    if let Instr::KvAppend { cache, src } = *instr {
        append(frame, tile, cache, src, scratch);
    } else if let Some(dst) =
        vector(frame, instr, tile, scratch).or_else(|| product(frame, instr, tile, scratch))
    {
        frame.write(dst, tile, &scratch.out);
    }
}

/// Instructions on vectors: the result goes to `scratch.out`, the destination is returned; `None` for
/// other instructions.
fn vector(frame: &Frame<'_>, instr: &Instr, tile: u32, scratch: &mut Scratch) -> Option<Slice> {
    let Scratch { a: spare, b: second, out } = scratch;
    Some(match *instr {
        Instr::Fill { dst, value } => {
            out.resize(frame.len(dst, tile), value);
            dst
        }
        Instr::Copy { dst, src } => {
            out.extend_from_slice(frame.read(src, tile, spare));
            dst
        }
        Instr::CopyPiece { dst, src, piece, pieces } => {
            let piece = piece.at(frame.position(tile), frame.cell).unwrap_or(0);
            let piece = piece.rem_euclid(i64::from(pieces.max(1))) as usize;
            out.extend_from_slice(frame.read(dst, tile, spare));
            copy_piece(frame.read(src, tile, second), piece, out);
            dst
        }
        Instr::Keep { dst, src, when, of, .. } => {
            // Turn 0: what is executed has no loops.
            let when = when.at(frame.position(tile), frame.cell);
            let kept = when.is_some_and(|w| plan::keeps(w, (0, 0), of));
            out.extend_from_slice(frame.read(if kept { src } else { dst }, tile, spare));
            dst
        }
        Instr::Unary { op, dst, src } => {
            out.extend(frame.read(src, tile, spare).iter().map(|&x| unary(op, x)));
            dst
        }
        Instr::Binary { op, dst, a, b } => {
            binary_slices(op, frame.read(a, tile, spare), b, |b| frame.read(b, tile, second), out);
            dst
        }
        Instr::Part { op, dst, a, b, part, parts } => {
            let part = part.at(frame.position(tile), frame.cell).unwrap_or(0);
            out.extend_from_slice(frame.read(dst, tile, spare));
            let operands = (op, frame.read(a, tile, spare), b);
            piece(operands, |b| frame.read(b, tile, second), (part, parts), out);
            dst
        }
        Instr::Reduce { op, dst, src } => {
            reduce(op, frame.read(src, tile, spare), frame.len(dst, tile), out);
            dst
        }
        Instr::Angles { dst, inv_freq, scale, dynamic } => {
            let freq = frequencies(frame, tile, frame.read(inv_freq, tile, spare), dynamic);
            let pos = frame.registers.pos as f32;
            out.extend(freq.iter().map(|f| (pos * f).cos() * scale));
            out.extend(freq.iter().map(|f| (pos * f).sin() * scale));
            dst
        }
        Instr::Rope { data, heads, half, angles } => {
            let heads = (heads as usize, half as usize);
            rope(frame.read(data, tile, second), heads, frame.read(angles, tile, spare), out);
            data
        }
        Instr::ArgMax { dst, src, base, limit } => {
            let base = base.at(frame.position(tile), frame.cell).unwrap_or(i64::MAX);
            out.extend(arg_max(frame.read(src, tile, spare), base, limit));
            dst
        }
        _ => return None,
    })
}

/// Instructions on matrices, tables and caches, as [`vector`].
fn product(frame: &Frame<'_>, instr: &Instr, tile: u32, scratch: &mut Scratch) -> Option<Slice> {
    let Scratch { a: spare, b: second, out } = scratch;
    Some(match *instr {
        Instr::Gemv { y, x, w, accumulate } => {
            if accumulate {
                out.extend_from_slice(frame.read(y, tile, spare));
            } else {
                out.resize(w.cols as usize, 0.0);
            }
            gemv(frame, tile, frame.read(x, tile, spare), w, (out, second));
            y
        }
        Instr::Gemm { m, c, a, b, accumulate, .. } => {
            out.extend_from_slice(frame.read(c, tile, spare));
            let operands = (frame.read(a, tile, spare), frame.read(b, tile, second));
            gemm(m as usize, operands, accumulate, out);
            c
        }
        Instr::Gather { dst, table, axis, base, limit } => {
            let base = base.at(frame.position(tile), frame.cell);
            let n = frame.len(dst, tile);
            gather(frame, tile, n, (table, axis), (base, limit), (out, spare));
            dst
        }
        Instr::Scores { shape, dst, q, k } => {
            scores(frame, tile, shape, frame.read(q, tile, spare), k, (out, second));
            dst
        }
        Instr::AttendValues { shape, dst, p, v } => {
            attend_values(frame, tile, shape, frame.read(p, tile, spare), v, (out, second));
            dst
        }
        Instr::Fill { .. }
        | Instr::Copy { .. }
        | Instr::CopyPiece { .. }
        | Instr::Keep { .. }
        | Instr::Unary { .. }
        | Instr::Binary { .. }
        | Instr::Part { .. }
        | Instr::Reduce { .. }
        | Instr::Angles { .. }
        | Instr::Rope { .. }
        | Instr::ArgMax { .. }
        | Instr::KvAppend { .. }
        | Instr::Software { .. }
        | Instr::Send { .. }
        | Instr::Recv { .. }
        | Instr::Relay { .. }
        | Instr::Broadcast { .. }
        | Instr::Start { .. }
        | Instr::Join { .. }
        | Instr::Repeat { .. } => return None,
    })
}

/// [`Instr::CopyPiece`] with a known piece; `dst` holds the destination's values.
fn copy_piece(src: &[f32], piece: usize, dst: &mut [f32]) {
    if dst.len() > src.len() {
        let from = (piece * src.len()).min(dst.len());
        dst[from..].iter_mut().zip(src).for_each(|(d, &s)| *d = s);
        return;
    }
    let from = (piece * dst.len()).min(src.len());
    let values = src[from..].iter().copied().chain(std::iter::repeat(0.0));
    dst.iter_mut().zip(values).for_each(|(d, s)| *d = s);
}

/// Stores an entry of a cache on the PEs that own the current position.
fn append(frame: &mut Frame<'_>, tile: u32, cache: BufferId, src: Slice, scratch: &mut Scratch) {
    let (pos, (x, y)) = (frame.registers.pos, frame.position(tile));
    let at = (x % frame.cell.0.max(1), y);
    let Some(kv) = frame.kv.filter(|kv| kv.owns(at, pos)) else { return };
    scratch.out.extend_from_slice(frame.read(src, tile, &mut scratch.a));
    let elements = frame.layout.buffers[cache.0 as usize].elements;
    let at = tile as usize * elements + (kv.slot(pos) * src.len.constant) as usize;
    frame.caches[cache.0 as usize].write(at, &scratch.out);
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

/// `read` gives the values of the second operand when it is a slice.
fn binary_slices<'a>(
    op: BinaryOp,
    a: &[f32],
    b: Operand,
    read: impl FnOnce(Slice) -> &'a [f32],
    out: &mut Vec<f32>,
) {
    match b {
        Operand::Slice(b) => {
            out.extend(a.iter().zip(read(b)).map(|(&a, &b)| binary(op, a, b)));
        }
        Operand::Scalar(b) => out.extend(a.iter().map(|&a| binary(op, a, b))),
        Operand::PerSegment(b) => {
            let b = read(b);
            let size = (a.len() / b.len().max(1)).max(1);
            for (segment, &b) in a.chunks(size).zip(b) {
                out.extend(segment.iter().map(|&a| binary(op, a, b)));
            }
        }
    }
}

/// Computes one piece of `out`, which holds the destination's values.
fn piece<'a>(
    (op, a, b): (PartOp, &[f32], Operand),
    read: impl FnOnce(Slice) -> &'a [f32],
    (part, parts): (i64, u32),
    out: &mut [f32],
) {
    let (values, scalar) = match b {
        Operand::Slice(b) | Operand::PerSegment(b) => (read(b), 0.0),
        Operand::Scalar(b) => (&[][..], b),
    };
    let second = |i: usize| match b {
        Operand::Slice(_) => values[i],
        Operand::Scalar(_) => scalar,
        Operand::PerSegment(_) => values[i / (a.len() / values.len().max(1)).max(1)],
    };
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

/// `acc` += `x` times a matrix of weights, row by row.
fn gemv(
    frame: &Frame<'_>,
    tile: u32,
    x: &[f32],
    w: Matrix,
    (acc, row): (&mut [f32], &mut Vec<f32>),
) {
    let (start, stride) = matrix(frame, tile, w);
    let cols = w.cols as usize;
    let rows = x.iter().enumerate().map(|(k, &xk)| (start + k * stride, xk));
    let axpy = |acc: &mut [f32], xk: f32, row: &[f32]| {
        acc.iter_mut().zip(row).for_each(|(a, &wk)| *a += xk * wk);
    };
    let buffer = w.buffer.0 as usize;
    if frame.layout.buffers[buffer].role != plan::BufferRole::Weights {
        rows.for_each(|(at, xk)| axpy(acc, xk, &frame.values[buffer][at..at + cols]));
        return;
    }
    match &frame.weights[buffer] {
        Array::F32(values) => rows.for_each(|(at, xk)| axpy(acc, xk, &values[at..at + cols])),
        Array::BF16(values) => rows.for_each(|(at, xk)| {
            let row = &values[at..at + cols];
            let widened = |w: half::bf16| f32::from_bits(u32::from(w.to_bits()) << 16);
            acc.iter_mut().zip(row).for_each(|(a, &wk)| *a += xk * widened(wk));
        }),
        Array::F16(values) => {
            row.resize(cols, 0.0);
            rows.for_each(|(at, xk)| {
                values[at..at + cols].convert_to_f32_slice(row);
                axpy(acc, xk, row);
            });
        }
    }
}

/// Index of the first value of a sub-matrix on a tile, and its row stride.
fn matrix(frame: &Frame<'_>, tile: u32, m: Matrix) -> (usize, usize) {
    let buffer = &frame.layout.buffers[m.buffer.0 as usize];
    let first = tile as usize * buffer.elements;
    (first + m.row as usize * buffer.cols + m.col as usize, buffer.cols)
}

fn frequencies(
    frame: &Frame<'_>,
    tile: u32,
    table: &[f32],
    dynamic: Option<DynamicRope>,
) -> Vec<f32> {
    let length = frame.registers.length;
    let Some(d) = dynamic.filter(|d| length > d.original) else {
        return table.to_vec();
    };
    let (dim, length) = (f64::from(d.dim), f64::from(length));
    let stretch = d.factor * length / f64::from(d.original) - (d.factor - 1.0);
    let base = d.theta * stretch.powf(dim / (dim - 2.0));
    let first = d.first_pair.at(frame.position(tile), frame.cell).unwrap_or(0) as f64;
    let freq = |i: usize| (1.0 / base.powf(2.0 * (first + i as f64) / dim)) as f32;
    (0..table.len()).map(freq).collect()
}

fn rope(data: &[f32], (heads, half): (usize, usize), angles: &[f32], out: &mut Vec<f32>) {
    out.extend_from_slice(data);
    let (cosines, sines) = angles.split_at(half);
    for (i, (&c, &s)) in cosines.iter().zip(sines).enumerate() {
        for head in 0..heads {
            let at = head * 2 * half + i;
            let (u, v) = (data[at], data[at + half]);
            out[at] = u * c - v * s;
            out[at + half] = v * c + u * s;
        }
    }
}

fn gather(
    frame: &Frame<'_>,
    tile: u32,
    n: usize,
    (table, axis): (Matrix, TableAxis),
    (base, limit): (Option<i64>, u32),
    (out, spare): (&mut Vec<f32>, &mut Vec<f32>),
) {
    let token = frame.registers.token;
    let extent = match axis {
        TableAxis::Rows => table.rows,
        TableAxis::Cols => table.cols,
    };
    let index = base.and_then(|b| u32::try_from(i64::from(token) - b).ok());
    let Some(i) = index.filter(|&i| i < extent && token < limit) else {
        out.resize(n, 0.0);
        return;
    };
    let (start, stride) = matrix(frame, tile, table);
    let array = &frame.weights[table.buffer.0 as usize];
    match axis {
        TableAxis::Rows => {
            let from = start + i as usize * stride;
            out.extend_from_slice(array.read(from..from + n, spare));
        }
        TableAxis::Cols => {
            for j in 0..n {
                let at = start + j * stride + i as usize;
                out.extend_from_slice(array.read(at..at + 1, spare));
            }
        }
    }
}

/// Index of the first value of each attended token's entry in a cache, ascending by token.
fn entries(
    frame: &Frame<'_>,
    tile: u32,
    cache: BufferId,
    per_token: usize,
) -> impl Iterator<Item = usize> {
    let (first, count) = frame.tokens(tile);
    let start = tile as usize * frame.layout.buffers[cache.0 as usize].elements;
    frame.kv.into_iter().flat_map(move |kv| {
        (0..count).map(move |i| start + kv.slot(first + i * kv.lanes()) as usize * per_token)
    })
}

fn scores(
    frame: &Frame<'_>,
    tile: u32,
    shape: AttentionShape,
    q: &[f32],
    k: BufferId,
    (out, spare): (&mut Vec<f32>, &mut Vec<f32>),
) {
    let (dim, q_per_kv) = (shape.dim as usize, shape.q_per_kv as usize);
    let cache = &frame.caches[k.0 as usize];
    for (h, query) in q.chunks_exact(dim.max(1)).enumerate() {
        let g = h / q_per_kv;
        for entry in entries(frame, tile, k, shape.kv_heads as usize * dim) {
            let from = entry + g * dim;
            let key = cache.read(from..from + dim, spare);
            out.push(query.iter().zip(key).fold(0.0, |s, (&a, &b)| s + a * b));
        }
    }
}

fn attend_values(
    frame: &Frame<'_>,
    tile: u32,
    shape: AttentionShape,
    p: &[f32],
    v: BufferId,
    (out, spare): (&mut Vec<f32>, &mut Vec<f32>),
) {
    let (dim, q_per_kv) = (shape.dim as usize, shape.q_per_kv as usize);
    let heads = shape.kv_heads as usize * q_per_kv;
    let tokens = frame.tokens(tile).1 as usize;
    let cache = &frame.caches[v.0 as usize];
    out.resize(heads * dim, 0.0);
    for (h, acc) in out.chunks_exact_mut(dim.max(1)).enumerate() {
        let g = h / q_per_kv;
        for (i, entry) in entries(frame, tile, v, shape.kv_heads as usize * dim).enumerate() {
            let weight = p[h * tokens + i];
            let from = entry + g * dim;
            let value = cache.read(from..from + dim, spare);
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
    fn pieces_are_copied_both_ways_and_end_where_the_longer_does() {
        let mut whole = [9.0; 7];
        copy_piece(&[1.0, 2.0, 3.0], 1, &mut whole);
        assert_eq!(whole, [9.0, 9.0, 9.0, 1.0, 2.0, 3.0, 9.0]);
        copy_piece(&[4.0, 5.0, 6.0], 2, &mut whole);
        assert_eq!(whole, [9.0, 9.0, 9.0, 1.0, 2.0, 3.0, 4.0]);
        let mut piece = [0.0; 3];
        copy_piece(&whole, 2, &mut piece);
        assert_eq!(piece, [4.0, 0.0, 0.0]);
        copy_piece(&whole, 5, &mut piece);
        assert_eq!(piece, [0.0; 3]);
    }

    #[test]
    fn dynamic_rope_stretches_the_base_beyond_the_original_length() {
        let layout = Layout { buffers: Vec::new(), begins: Vec::new(), tiles: 1 };
        let d = DynamicRope {
            theta: 10_000.0,
            factor: 2.0,
            original: 8,
            dim: 4,
            first_pair: plan::Affine::constant(1),
        };
        let at = |length| {
            let frame = Frame {
                layout: &layout,
                weights: &[],
                caches: &mut [],
                values: &mut [],
                width: 1,
                cell: (1, 1),
                kv: None,
                attended: &Attended { columns: 1, tokens: Vec::new() },
                registers: Registers { token: 0, pos: 0, length },
            };
            frequencies(&frame, 0, &[0.25], Some(d))
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
