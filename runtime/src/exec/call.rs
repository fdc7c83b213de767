//! One call: finds operands and result in the arena and hands them to a kernel.

use super::bind::Bound;
use super::caches::Caches;
use crate::kernels::attention::{AttentionShape, attention};
use crate::kernels::kv::{Across, PAGE, Tiles, Tiling};
use crate::kernels::matmul::{MatmulShape, linear, linears, matmul};
use crate::kernels::pack::Packed;
use crate::kernels::rope::RopeTable;
use crate::kernels::rows::{self, Span};
use crate::kernels::view::{Copy, copy};
use crate::kernels::{Kernels, elementwise, norm};
use crate::payload::Payload;
use crate::pool::Pool;
use tensor::DType;

use crate::program::{
    Bindings, Call, Index, MAX_RANK, Op, Operand, Reduce, Repeat, Size, StridedCopy,
};

/// What an element of an elementwise call costs, in multiplications.
const ELEMENT_WORK: usize = 2;

/// The layer a call runs in.
pub(super) type Scope<'a> = Option<(&'a Repeat, usize)>;

/// What calls work on: everything of a session but the arena's bookkeeping is borrowed apart.
pub(super) struct Machine<'a> {
    pub(super) payload: &'a Payload,
    pub(super) kernels: &'a Kernels,
    pub(super) pool: &'a Pool,
    pub(super) arena: &'a mut [f32],
    pub(super) caches: &'a mut Caches,
    pub(super) bound: &'a Bound,
    pub(super) ropes: &'a [RopeTable],
    pub(super) step: Bindings,
    /// Whose rows the step has. Several are there only where the program's rows know nothing of each
    /// other; then `step.c` means nothing.
    pub(super) spans: &'a [Span],
    /// The page table of each sequence.
    pub(super) tables: &'a [Vec<u32>],
}

/// An operand: elements and extents.
#[derive(Clone, Copy)]
struct Value<'a> {
    data: &'a [f32],
    dims: &'a [usize],
    /// Set when the operand is a cache: then `data` is the cache and `dims` is empty.
    cache: Option<Tiles<'a>>,
}

const NOTHING: Value<'static> = Value { data: &[], dims: &[], cache: None };
const SCALAR: [usize; 0] = [];

impl Machine<'_> {
    /// Runs calls in order.
    pub(super) fn calls(&mut self, calls: &[Call], scope: Scope<'_>) {
        let mut rest = calls;
        while let Some((first, others)) = rest.split_first() {
            rest = match self.products(rest, scope) {
                0 => {
                    self.call(first, scope);
                    others
                }
                n => &rest[n..],
            };
        }
    }

    /// Runs one call.
    pub(super) fn call(&mut self, call: &Call, scope: Scope<'_>) {
        if let Op::CacheAppend { cache, at } = &call.op {
            return self.append(call, cache_index(*cache, scope), at);
        }
        let out_range = self.bound.ranges[call.out as usize].clone();
        let out_dims = self.bound.shapes[call.out as usize].as_slice();
        let (left, rest) = self.arena.split_at_mut(out_range.start);
        let (out, right) = rest.split_at_mut(out_range.len());
        let mut dims_of_constants = [[0; MAX_RANK]; 3];
        let mut values = [NOTHING; 3];
        for ((operand, value), dims) in
            call.operands.iter().zip(&mut values).zip(&mut dims_of_constants)
        {
            *value = match operand {
                Operand::Buffer(id) => {
                    let range = self.bound.ranges[*id as usize].clone();
                    // `check` refuses a result that overlaps an operand; nothing overlaps nothing.
                    let data = if range.is_empty() {
                        &[]
                    } else if range.start < out_range.start {
                        &left[range]
                    } else {
                        &right[range.start - out_range.end..range.end - out_range.end]
                    };
                    let dims = self.bound.shapes[*id as usize].as_slice();
                    Value { data, dims, cache: None }
                }
                Operand::Scalar(x) => {
                    Value { data: std::slice::from_ref(x), dims: &SCALAR, cache: None }
                }
                Operand::Constant(index) => {
                    let weight = &self.payload.program().weights[weight_index(*index, scope)];
                    let data = self.payload.plain(weight).unwrap_or(&[]);
                    for (d, &extent) in dims.iter_mut().zip(&weight.dims) {
                        *d = extent as usize;
                    }
                    Value { data, dims: &dims[..weight.dims.len()], cache: None }
                }
                Operand::Cache(index) => {
                    let tiles = self.caches.tiles(cache_index(*index, scope), self.tables);
                    Value { cache: Some(tiles), ..NOTHING }
                }
            };
        }
        let run = Run {
            payload: self.payload,
            kernels: self.kernels,
            pool: self.pool,
            ropes: self.ropes,
            step: self.step,
            spans: self.spans,
            x: values,
            operands: call.operands.len(),
            out_dims,
        };
        run.op(&call.op, out, scope);
    }

    /// Runs the calls that begin a list as one job, where they are products of one value with weights
    /// of a kind; returns how many it ran, 0 where the first must be run alone.
    fn products(&mut self, calls: &[Call], scope: Scope<'_>) -> usize {
        let payload = self.payload;
        let Some([Operand::Buffer(x)]) = calls.first().map(|c| c.operands.as_slice()) else {
            return 0;
        };
        let weights = calls.iter().map_while(|call| match call.op {
            Op::Linear { weight } if call.operands == [Operand::Buffer(*x)] => {
                Some(packed(payload, weight, scope))
            }
            _ => None,
        });
        let mut found = [None; 3];
        for (slot, weight) in found.iter_mut().zip(weights) {
            *slot = Some(weight);
        }
        let alike = |a: Packed<'_>, b: Packed<'_>| a.dtype.is_quantized() == b.dtype.is_quantized();
        match found {
            [Some(a), Some(b), Some(c)] if alike(a, b) && alike(a, c) => {
                self.join([a, b, c], &calls[..3], *x)
            }
            [Some(a), Some(b), _] if alike(a, b) => self.join([a, b], &calls[..2], *x),
            _ => 0,
        }
    }

    /// One job of `N` products of buffer x.
    fn join<const N: usize>(&mut self, w: [Packed<'_>; N], calls: &[Call], x: u32) -> usize {
        let range = |id: u32| self.bound.ranges[id as usize].clone();
        let out = |i: usize| calls.get(i).map_or(0..0, |call| range(call.out));
        // `check` saw that no result overlaps x; results that overlap each other are not joined.
        let Ok([a, b, c, x]) = self.arena.get_disjoint_mut([out(0), out(1), out(2), range(x)])
        else {
            return 0;
        };
        let mut outs = [a, b, c].into_iter();
        let outs: [_; N] = std::array::from_fn(|_| outs.next().unwrap_or_default());
        linears(self.kernels, self.pool, w, x, outs);
        N
    }

    fn append(&mut self, call: &Call, cache: usize, at: &Size) {
        let Some(Operand::Buffer(id)) = call.operands.first() else { return };
        let mut x = &self.arena[self.bound.ranges[*id as usize].clone()];
        let row = x.len() / self.step.t;
        for &span in self.spans {
            let here = Bindings { t: span.rows, c: span.first, r: self.step.r };
            let first = at.eval(&here).expect("`check` evaluated it");
            // One sequence alone may store other rows than those of its tokens.
            let len = if self.spans.len() == 1 { x.len() } else { span.rows * row };
            let part = x.split_off(..len).expect("a row for each token");
            self.caches.append(cache, Span { first, ..span }, &self.tables[span.sequence], part);
        }
    }
}

fn weight_index(index: Index, scope: Scope<'_>) -> usize {
    match (index, scope) {
        (Index::Layer(column), Some((repeat, layer))) => repeat.weight(layer, column) as usize,
        (Index::Fixed(i) | Index::Layer(i), _) => i as usize,
    }
}

fn cache_index(index: Index, scope: Scope<'_>) -> usize {
    match (index, scope) {
        (Index::Layer(column), Some((repeat, layer))) => repeat.cache(layer, column) as usize,
        (Index::Fixed(i) | Index::Layer(i), _) => i as usize,
    }
}

/// A packed weight of the program.
fn packed<'a>(payload: &'a Payload, index: Index, scope: Scope<'_>) -> Packed<'a> {
    let weight = &payload.program().weights[weight_index(index, scope)];
    let (rows, cols) = (weight.dims[0] as usize, weight.dims[1] as usize);
    let bytes = payload.weight(weight);
    Packed::new(weight.dtype, rows, cols, bytes).expect("`check` compared the sizes")
}

/// A call whose operands are found.
struct Run<'a> {
    payload: &'a Payload,
    kernels: &'a Kernels,
    pool: &'a Pool,
    ropes: &'a [RopeTable],
    step: Bindings,
    spans: &'a [Span],
    x: [Value<'a>; 3],
    operands: usize,
    out_dims: &'a [usize],
}

impl Run<'_> {
    fn op(&self, op: &Op, out: &mut [f32], scope: Scope<'_>) {
        let [a, b, _] = self.x;
        // Not 0: a tensor without elements has no rows either.
        let width = self.out_dims.last().copied().unwrap_or(1).max(1);
        match op {
            Op::Positions => {
                for (o, (position, _)) in out.iter_mut().zip(rows::positions(self.spans)) {
                    *o = position as f32;
                }
            }
            Op::CausalMask { window } => self.causal_mask(*window, out),
            Op::Unary(f) => self.rows(1, out, |i, out| (self.kernels.unary)(*f, &a.data[i..], out)),
            Op::Binary(f) => {
                elementwise::binary(*f, (a.data, a.dims), (b.data, b.dims), out, self.out_dims);
            }
            Op::Round(dtype) => {
                let grain = dtype.block_len();
                self.rows(grain, out, |i, out| {
                    elementwise::round(*dtype, &a.data[i..i + out.len()], out);
                });
            }
            Op::Glu(act) => self.rows(1, out, |i, out| {
                (self.kernels.glu)(*act, &a.data[i..i + out.len()], &b.data[i..], out);
            }),
            Op::Copy(plan) => self.copy(plan, out),
            Op::Linear { weight } => {
                linear(self.kernels, self.pool, &packed(self.payload, *weight, scope), a.data, out);
            }
            Op::Matmul => matmul(self.pool, matmul_shape(a.dims, b.dims), a.data, b.data, out),
            Op::Reduce { op, axis } => self.reduce(*op, usize::from(*axis), out),
            Op::Softmax => self.rows(width, out, |i, out| {
                out.copy_from_slice(&a.data[i..i + out.len()]);
                out.chunks_exact_mut(width).for_each(norm::softmax);
            }),
            Op::RmsNorm { eps } => {
                let gain = (self.operands > 1).then_some(b.data);
                self.rows(width, out, |i, out| {
                    (self.kernels.rms_norm)(&a.data[i..i + out.len()], gain, *eps, width, out);
                });
            }
            Op::Gather { weight } => {
                let table = packed(self.payload, *weight, scope);
                for (out, &id) in out.chunks_exact_mut(width).zip(a.data) {
                    table.row(id as usize, out);
                }
            }
            Op::GatherPlain => {
                for (out, &id) in out.chunks_exact_mut(width).zip(b.data) {
                    out.copy_from_slice(&a.data[id as usize * width..][..width]);
                }
            }
            Op::Rope { rope } => self.rope(*rope as usize, out),
            Op::Attention { scale, window } => self.attention(*scale, *window, out),
            Op::CacheRead => self.cache_read(out),
            Op::CacheAppend { .. } => {}
        }
    }

    /// Cuts `out` among the threads at multiples of `grain`; `f(first element, part)`.
    fn rows(&self, grain: usize, out: &mut [f32], f: impl Fn(usize, &mut [f32]) + Sync) {
        let work = ELEMENT_WORK * out.len();
        self.pool.split(out, grain, work, &|start, part, _| f(start, part));
    }

    fn causal_mask(&self, window: Option<u32>, out: &mut [f32]) {
        let keys = self.step.c + self.step.t;
        for (i, row) in out.chunks_exact_mut(keys).enumerate() {
            let last = self.step.c + i;
            let first = window.map_or(0, |w| (last + 1).saturating_sub(w as usize));
            row.fill(f32::NEG_INFINITY);
            row[first..=last].fill(0.0);
        }
    }

    fn copy(&self, plan: &StridedCopy, out: &mut [f32]) {
        let value = |size: &Size| size.eval(&self.step).expect("`check` evaluated it");
        let all = |sizes: &[Size]| {
            let mut values = [0; MAX_RANK];
            for (v, size) in values.iter_mut().zip(sizes) {
                *v = value(size);
            }
            values
        };
        let dims = all(&plan.dims);
        let plan = Copy {
            dims: &dims[..plan.dims.len()],
            src_offset: value(&plan.src_offset),
            src_strides: all(&plan.src_strides),
            dst_offset: value(&plan.dst_offset),
            dst_strides: all(&plan.dst_strides),
        };
        copy(&plan, self.x[0].data, out);
    }

    fn reduce(&self, op: Reduce, axis: usize, out: &mut [f32]) {
        let dims = self.x[0].dims;
        let inner: usize = dims[axis + 1..].iter().product();
        norm::reduce(op, self.x[0].data, dims[axis], inner, out);
    }

    fn rope(&self, rope: usize, out: &mut [f32]) {
        let [x, positions, _] = self.x;
        let spec = &self.payload.program().ropes[rope];
        let pairs = spec.inverse_frequencies.len();
        let (heads, width) = (self.out_dims[1], self.out_dims[2]);
        let known = rows::positions(self.spans);
        if positions.data.iter().zip(known).all(|(&p, (known, _))| p == known as f32) {
            return self.ropes[rope].rotate(pairs, x.data, heads, width, out);
        }
        // Positions of the program's own making: no table was prepared.
        let mut table = RopeTable::default();
        let lengths = rows::positions(self.spans).map(|(_, len)| len);
        table.fill(spec, positions.data.iter().copied().zip(lengths));
        table.rotate(pairs, x.data, heads, width, out);
    }

    fn attention(&self, scale: f32, window: Option<u32>, out: &mut [f32]) {
        let [q, k, v] = self.x;
        let (heads, value_width) = (self.out_dims[1], self.out_dims[2]);
        let shape = AttentionShape {
            heads,
            key_width: q.dims[2],
            value_width,
            scale,
            window: window.map(|w| w as usize),
        };
        let mut packed = [Vec::new(), Vec::new()];
        let [keys, values] = &mut packed;
        let keys = as_tiles(k, Across::Positions, keys);
        let values = as_tiles(v, Across::Channels, values);
        attention(self.kernels, self.pool, &shape, self.spans, q.data, keys, values, out);
    }

    fn cache_read(&self, out: &mut [f32]) {
        let (Some(tiles), [span]) = (self.x[0].cache, self.spans) else { return };
        let (heads, width) = (self.out_dims[1], self.out_dims[2]);
        for (i, out) in out.chunks_exact_mut(width).enumerate() {
            tiles.read(span.sequence, i % heads, i / heads, out);
        }
    }
}

/// Keys or values as tiles: a cache in place, computed ones packed into `bytes`.
fn as_tiles<'a>(value: Value<'a>, across: Across, bytes: &'a mut Vec<u8>) -> Tiles<'a> {
    if let Some(tiles) = value.cache {
        return tiles;
    }
    let &[positions, heads, width] = value.dims else { unreachable!("`check` saw three axes") };
    let pages = positions.div_ceil(PAGE);
    let tiling = Tiling::new(across, DType::F32, heads, width).expect("its elements are in memory");
    bytes.resize(pages * tiling.stride, 0);
    for (i, row) in value.data.chunks_exact(width).enumerate() {
        tiling.write(bytes, i % heads, i / heads, row);
    }
    Tiles { tiling, bytes, tables: None }
}

fn matmul_shape(a: &[usize], b: &[usize]) -> MatmulShape {
    let (a_batch, [m, k]) = a.split_at(a.len() - 2) else { unreachable!("two axes split off") };
    let (b_batch, [_, n]) = b.split_at(b.len() - 2) else { unreachable!("two axes split off") };
    let batch = if a_batch.is_empty() { b_batch } else { a_batch };
    MatmulShape {
        batch: batch.iter().product(),
        m: *m,
        k: *k,
        n: *n,
        shared_a: a_batch.is_empty(),
        shared_b: b_batch.is_empty(),
    }
}
