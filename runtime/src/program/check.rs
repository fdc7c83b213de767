//! Judges a decoded program before anything runs.
//!
//! Checks: every index is in range; tables are rectangular; weights lie inside the segment and have
//! the size their layout asks for; at sample bindings, every call's operands and result have the
//! shapes its op asks for, results do not overlap operands, and views stay inside their slots.
//! What it cannot see (a shape that is wrong at other bindings only) the kernels' bounds checks stop.

use super::{Bindings, Buffer, Call, Index, Layout, MAX_RANK, Op, Operand, Program, Repeat, Step};
use crate::kernels::pack;

/// Why a program is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProgramError {
    /// The bytes are not a program.
    #[error("program bytes: {why}")]
    Codec {
        /// What the decoder met.
        why: String,
    },
    /// The program is no possible one.
    #[error("program: {place}: {why}")]
    Invalid {
        /// Which part.
        place: String,
        /// What is wrong, in numbers.
        why: String,
    },
}

type Checked<T> = Result<T, String>;

/// Bindings at which shapes are checked: decode, a short and a long step, fresh and continued, and
/// one without logits.
const SAMPLES: [Bindings; 5] = [
    Bindings { t: 1, c: 0, r: 1 },
    Bindings { t: 1, c: 5, r: 1 },
    Bindings { t: 4, c: 0, r: 1 },
    Bindings { t: 4, c: 3, r: 4 },
    Bindings { t: 4, c: 3, r: 0 },
];

/// Token ids, positions and extents are kept as f32 integers: each is below this.
pub const INTEGER_LIMIT: u32 = 1 << 24;

impl Program {
    /// Whether this program can run with a weight segment of `weight_bytes`.
    ///
    /// # Errors
    /// The first violation found.
    pub fn check(&self, weight_bytes: u64) -> Result<(), ProgramError> {
        let at = |place: String| move |why: String| ProgramError::Invalid { place, why };
        if self.vocab >= INTEGER_LIMIT || self.context >= INTEGER_LIMIT || self.context == 0 {
            let why = format!("vocab {} and context {}", self.vocab, self.context);
            return Err(at("header".to_string())(why));
        }
        for (i, weight) in self.weights.iter().enumerate() {
            let place = format!("weight {i} ({})", weight.name);
            pack::check_weight(weight, weight_bytes).map_err(at(place))?;
        }
        for (i, buffer) in self.buffers.iter().enumerate() {
            self.check_buffer(buffer).map_err(at(format!("buffer {i}")))?;
        }
        for (i, step) in self.steps.iter().enumerate() {
            let place = |c: usize| format!("step {i}, call {c}");
            match step {
                Step::Call(call) => self.check_call(call, None).map_err(at(place(0)))?,
                Step::Repeat(repeat) => {
                    self.check_tables(repeat).map_err(at(format!("step {i}")))?;
                    for (c, call) in repeat.calls.iter().enumerate() {
                        self.check_call(call, Some(repeat)).map_err(at(place(c)))?;
                    }
                }
            }
        }
        let both = self.caches_read_as(1).into_iter().zip(self.caches_read_as(2));
        if let Some(cache) = both.into_iter().position(|(keys, values)| keys && values) {
            let why = "is read as keys and as values".to_string();
            return Err(at(format!("cache {cache}"))(why));
        }
        if let Some(cache) = self.caches.iter().position(|c| !c.dtype.is_float() || c.heads == 0) {
            let why = format!("{} heads of {}", self.caches[cache].heads, self.caches[cache].dtype);
            return Err(at(format!("cache {cache}"))(why));
        }
        self.check_ends().map_err(at("entry".to_string()))
    }

    fn check_buffer(&self, buffer: &Buffer) -> Checked<()> {
        let slot = self.slots.get(buffer.slot as usize).ok_or("no such slot")?;
        if buffer.dims.len() > MAX_RANK {
            return Err(format!("{} axes", buffer.dims.len()));
        }
        for at in &SAMPLES {
            let sizes = slot.iter().map(|s| s.eval(at).ok_or("a size without value"));
            let room = sizes.collect::<Result<Vec<_>, _>>()?.into_iter().max().unwrap_or(0);
            let range = self.range(buffer, at)?;
            if range.end > room {
                return Err(format!("{range:?} is outside its slot of {room}"));
            }
        }
        Ok(())
    }

    fn dims(&self, buffer: &Buffer, at: &Bindings) -> Checked<Vec<usize>> {
        let dims = buffer.dims.iter().map(|d| d.eval(at).ok_or("an extent without value".into()));
        dims.collect()
    }

    fn range(&self, buffer: &Buffer, at: &Bindings) -> Checked<std::ops::Range<usize>> {
        let start = buffer.offset.eval(at).ok_or("an offset without value")?;
        let len = tensor::element_count(&self.dims(buffer, at)?).ok_or("too many elements")?;
        Ok(start..start.checked_add(len).ok_or("too many elements")?)
    }

    fn buffer(&self, id: u32) -> Checked<&Buffer> {
        self.buffers.get(id as usize).ok_or_else(|| format!("no buffer {id}"))
    }

    fn check_tables(&self, repeat: &Repeat) -> Checked<()> {
        for (name, table, limit) in [
            ("weight", &repeat.weights, self.weights.len()),
            ("cache", &repeat.caches, self.caches.len()),
        ] {
            let width = table.first().map_or(0, Vec::len);
            if table.len() != repeat.count as usize || table.iter().any(|row| row.len() != width) {
                return Err(format!("the {name} table is not {} equal rows", repeat.count));
            }
            if let Some(bad) = table.iter().flatten().find(|&&i| i as usize >= limit) {
                return Err(format!("no {name} {bad}"));
            }
        }
        Ok(())
    }

    /// Every table entry that `index` may mean.
    fn entries(index: Index, table: Option<&Vec<Vec<u32>>>, limit: usize) -> Checked<Vec<usize>> {
        match index {
            Index::Fixed(i) if (i as usize) < limit => Ok(vec![i as usize]),
            Index::Fixed(i) => Err(format!("index {i} of {limit}")),
            Index::Layer(column) => {
                let table = table.ok_or("a layer index outside a repeat")?;
                let cell = |row: &Vec<u32>| row.get(column as usize).map(|&i| i as usize);
                table.iter().map(|row| cell(row).ok_or(format!("no column {column}"))).collect()
            }
        }
    }

    fn check_call(&self, call: &Call, scope: Option<&Repeat>) -> Checked<()> {
        let weights = scope.map(|r| &r.weights);
        let caches = scope.map(|r| &r.caches);
        for at in &SAMPLES {
            let mut dims = Vec::new();
            for operand in &call.operands {
                dims.push(match *operand {
                    Operand::Buffer(id) => self.dims(self.buffer(id)?, at)?,
                    Operand::Scalar(_) => Vec::new(),
                    Operand::Constant(index) => {
                        let ids = Self::entries(index, weights, self.weights.len())?;
                        self.uniform_weight(&ids, Layout::Plain)?
                    }
                    Operand::Cache(index) => {
                        let [heads, width] = self.uniform_cache(index, caches)?;
                        vec![at.c + at.t, heads, width]
                    }
                });
            }
            let weight = match call.op {
                Op::Linear { weight } | Op::Gather { weight } => {
                    let ids = Self::entries(weight, weights, self.weights.len())?;
                    Some(self.uniform_weight(&ids, Layout::Packed)?)
                }
                _ => None,
            };
            if let Op::CacheAppend { cache, at: position } = &call.op {
                let [heads, width] = self.uniform_cache(*cache, caches)?;
                let rows = dims.first().filter(|d| d.len() == 3 && d[1..] == [heads, width]);
                let rows = rows.ok_or_else(|| format!("appends {dims:?} to [{heads}, {width}]"))?;
                let start = position.eval(at).ok_or("a position without value")?;
                if start.saturating_add(rows[0]) > at.c + at.t {
                    return Err(format!("appends {} rows at {start}", rows[0]));
                }
                continue;
            }
            let cached = call.operands.iter().any(|o| matches!(o, Operand::Cache(_)));
            if cached && !matches!(call.op, Op::Attention { .. } | Op::CacheRead) {
                return Err("reads a cache as a tensor".to_string());
            }
            let out = self.dims(self.buffer(call.out)?, at)?;
            self.check_shapes(call, &dims, weight.as_deref(), &out, at)?;
            self.check_overlap(call, at)?;
        }
        Ok(())
    }

    fn uniform_weight(&self, ids: &[usize], layout: Layout) -> Checked<Vec<usize>> {
        let first = ids.first().ok_or("a table without rows")?;
        let dims = &self.weights[*first].dims;
        for &id in ids {
            let weight = &self.weights[id];
            if weight.dims != *dims || weight.layout != layout {
                return Err(format!("{}: expected {layout:?} {dims:?}", weight.name));
            }
        }
        Ok(dims.iter().map(|&d| d as usize).collect())
    }

    fn uniform_cache(&self, index: Index, table: Option<&Vec<Vec<u32>>>) -> Checked<[usize; 2]> {
        let ids = Self::entries(index, table, self.caches.len())?;
        let shape = |id: usize| [self.caches[id].heads as usize, self.caches[id].width as usize];
        let first = shape(*ids.first().ok_or("a table without rows")?);
        if ids.iter().any(|&id| shape(id) != first) {
            return Err("caches of different shapes in one call".to_string());
        }
        Ok(first)
    }

    fn check_overlap(&self, call: &Call, at: &Bindings) -> Checked<()> {
        let target = self.buffer(call.out)?;
        let out = self.range(target, at)?;
        for operand in &call.operands {
            let Operand::Buffer(id) = *operand else { continue };
            let buffer = self.buffer(id)?;
            let range = self.range(buffer, at)?;
            if buffer.slot == target.slot && range.start < out.end && out.start < range.end {
                return Err(format!("the result overlaps operand buffer {id}"));
            }
        }
        Ok(())
    }

    fn check_shapes(
        &self,
        call: &Call,
        x: &[Vec<usize>],
        weight: Option<&[usize]>,
        out: &[usize],
        at: &Bindings,
    ) -> Checked<()> {
        let op = &call.op;
        let expect = |ok: bool| {
            if ok { Ok(()) } else { Err(format!("{op:?} of {x:?} to {out:?}")) }
        };
        let arity = |n: usize| x.len() == n;
        let count = |dims: &[usize]| dims.iter().product::<usize>();
        match op {
            Op::Positions => expect(arity(0) && out == [at.t]),
            Op::CausalMask { .. } => expect(arity(0) && out == [at.t, at.c + at.t]),
            Op::Unary(_) => expect(arity(1) && x[0] == out),
            Op::Round(dtype) => {
                let whole = out.last().is_none_or(|n| n.is_multiple_of(dtype.block_len()));
                expect(arity(1) && x[0] == out && whole)
            }
            Op::Binary(_) => expect(arity(2) && broadcasts(&x[0], out) && broadcasts(&x[1], out)),
            Op::Glu(_) => expect(arity(2) && x[0] == out && x[1] == out),
            Op::Copy(copy) => {
                expect(arity(1))?;
                copy_within(copy, count(&x[0]), count(out), at)
            }
            Op::Linear { .. } => {
                let [n, k] = *weight.unwrap_or(&[]) else { return Err("no matrix".to_string()) };
                let rows = x.first().and_then(|d| d.split_last());
                expect(arity(1) && rows.is_some_and(|(l, r)| *l == k && count(out) == count(r) * n))
            }
            Op::Matmul => expect(arity(2) && matmul_fits(&x[0], &x[1], out)),
            Op::Reduce { axis, .. } => {
                let mut dims = x.first().cloned().unwrap_or_default();
                if let Some(d) = dims.get_mut(usize::from(*axis)) {
                    *d = 1;
                    return expect(arity(1) && dims == out && count(&x[0]) > 0);
                }
                expect(false)
            }
            Op::Softmax => expect(arity(1) && x[0] == out && !out.is_empty()),
            Op::RmsNorm { .. } => {
                let gain = x.get(1).is_none_or(|g| g.as_slice() == &out[out.len().max(1) - 1..]);
                expect(matches!(x.len(), 1 | 2) && x[0] == out && !out.is_empty() && gain)
            }
            Op::Gather { .. } => {
                let [v, d] = *weight.unwrap_or(&[]) else { return Err("no matrix".to_string()) };
                expect(
                    arity(1) && count(out) == count(&x[0]) * d && v >= self.rows_indexed(call, 0),
                )
            }
            Op::GatherPlain => {
                let fits = arity(2) && x[0].len() == 2;
                let rows = fits && x[0][0] >= self.rows_indexed(call, 1);
                expect(rows && count(out) == count(&x[1]) * x[0][1])
            }
            Op::Rope { rope } => expect(arity(2) && self.rope_fits(*rope, &x[0], &x[1], out)),
            Op::Attention { .. } => expect(arity(3) && attention_fits(x, out, at)),
            Op::CacheRead => {
                expect(arity(1) && x[0].len() == 3 && out.len() == 3)?;
                expect(x[0][1..] == out[1..] && out[0] <= x[0][0])
            }
            Op::CacheAppend { .. } => Ok(()),
        }
    }

    /// Rows that a table needs so that operand `ids` of a gather stays inside: one per token id, or
    /// what every other integer (a position) is bounded by.
    fn rows_indexed(&self, call: &Call, ids: usize) -> usize {
        let tokens = call.operands.get(ids) == Some(&Operand::Buffer(self.tokens));
        if tokens { self.vocab as usize } else { self.vocab.min(self.context) as usize }
    }

    fn rope_fits(&self, rope: u32, x: &[usize], positions: &[usize], out: &[usize]) -> bool {
        let Some(rope) = self.ropes.get(rope as usize) else { return false };
        let shapes = x.len() == 3 && x == out && positions == [x[0]];
        shapes && 2 * rope.inverse_frequencies.len() <= x[2]
    }

    fn check_ends(&self) -> Checked<()> {
        for at in &SAMPLES {
            let tokens = self.dims(self.buffer(self.tokens)?, at)?;
            let logits = self.dims(self.buffer(self.logits)?, at)?;
            if tokens != [at.t] || logits != [at.r, self.vocab as usize] {
                return Err(format!("tokens {tokens:?}, logits {logits:?}"));
            }
        }
        Ok(())
    }
}

fn attention_fits(x: &[Vec<usize>], out: &[usize], at: &Bindings) -> bool {
    let [q, k, v] = x else { return false };
    let (&[t, h, d], &[s, g, d2], &[s2, g2, e]) = (q.as_slice(), k.as_slice(), v.as_slice()) else {
        return false;
    };
    let keys = s == s2 && s == at.c + at.t && g == g2 && g > 0 && h.is_multiple_of(g);
    keys && d == d2 && t == at.t && out == [t, h, e]
}

fn broadcasts(from: &[usize], to: &[usize]) -> bool {
    from.len() <= to.len() && from.iter().rev().zip(to.iter().rev()).all(|(a, b)| a == b || *a == 1)
}

fn matmul_fits(a: &[usize], b: &[usize], out: &[usize]) -> bool {
    let ([a_batch @ .., m, k], [b_batch @ .., k2, n]) = (a, b) else { return false };
    let batch = if a_batch.is_empty() { b_batch } else { a_batch };
    let batches = a_batch.is_empty() || b_batch.is_empty() || a_batch == b_batch;
    let [out_batch @ .., m2, n2] = out else { return false };
    batches && k == k2 && out_batch == batch && m == m2 && n == n2
}

fn copy_within(
    copy: &super::StridedCopy,
    src_len: usize,
    dst_len: usize,
    at: &Bindings,
) -> Checked<()> {
    let rank = copy.dims.len();
    if rank > MAX_RANK || copy.src_strides.len() != rank || copy.dst_strides.len() != rank {
        return Err(format!("a copy of {rank} axes"));
    }
    let value = |size: &super::Size| size.eval(at).ok_or("a stride without value");
    let (mut src, mut dst) = (value(&copy.src_offset)?, value(&copy.dst_offset)?);
    for i in 0..rank {
        let extent = value(&copy.dims[i])?;
        let Some(last) = extent.checked_sub(1) else { return Ok(()) };
        let step = |stride: usize| last.checked_mul(stride).ok_or("a stride too large");
        src = src.saturating_add(step(value(&copy.src_strides[i])?)?);
        dst = dst.saturating_add(step(value(&copy.dst_strides[i])?)?);
    }
    if src < src_len && dst < dst_len {
        return Ok(());
    }
    Err(format!("copies element {src} of {src_len} to {dst} of {dst_len}"))
}
