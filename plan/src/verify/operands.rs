//! Instruction operands: inside live buffers, of agreeing lengths, written only where allowed.

use super::Violation;
use crate::buffer::{BufferId, Role as BufferRole};
use crate::expand::TemplateMap;
use crate::plan::Plan;
use crate::program::{AttentionShape, Combine, Instr, Len, Matrix, Operand, Slice, TableAxis};
use crate::template::Template;

/// The operands of an instruction by how they are used.
#[derive(Clone, Debug, Default)]
pub(super) struct Operands {
    /// Written.
    pub(super) write: Option<Slice>,
    /// Read; may be exactly the slice written.
    pub(super) in_place: Vec<Slice>,
    /// Read; must not share elements with the slice written.
    pub(super) reads: Vec<Slice>,
    /// Read as a matrix.
    pub(super) matrix: Option<Matrix>,
    /// A KV cache.
    pub(super) cache: Option<BufferId>,
}

impl Operands {
    pub(super) fn of(instr: &Instr) -> Self {
        let mut o = Operands::default();
        match *instr {
            Instr::Fill { dst, .. } => o.write = Some(dst),
            Instr::Software { .. } => {}
            Instr::Copy { dst, src }
            | Instr::Keep { dst, src, .. }
            | Instr::CopyPiece { dst, src, .. }
            | Instr::Broadcast { dst, src, .. }
            | Instr::Reduce { dst, src, .. }
            | Instr::ArgMax { dst, src, .. } => (o.write, o.reads) = (Some(dst), vec![src]),
            Instr::Unary { dst, src, .. } => (o.write, o.in_place) = (Some(dst), vec![src]),
            Instr::Binary { dst, a, b, .. } | Instr::Part { dst, a, b, .. } => {
                (o.write, o.in_place) = (Some(dst), vec![a]);
                match b {
                    Operand::Slice(b) => o.in_place.push(b),
                    Operand::PerSegment(b) => o.reads.push(b),
                    Operand::Scalar(_) => {}
                }
            }
            Instr::Gemv { y, x, w, .. } => {
                (o.write, o.reads, o.matrix) = (Some(y), vec![x], Some(w));
            }
            Instr::Angles { dst, inv_freq: src, .. }
            | Instr::Rope { data: dst, angles: src, .. } => {
                (o.write, o.reads) = (Some(dst), vec![src]);
            }
            Instr::Gather { dst, table, .. } => (o.write, o.matrix) = (Some(dst), Some(table)),
            Instr::KvAppend { cache, src } => (o.reads, o.cache) = (vec![src], Some(cache)),
            Instr::Scores { dst, q, k, .. } => {
                (o.write, o.reads, o.cache) = (Some(dst), vec![q], Some(k));
            }
            Instr::AttendValues { dst, p, v, .. } => {
                (o.write, o.reads, o.cache) = (Some(dst), vec![p], Some(v));
            }
            Instr::Send { src, .. } => o.reads = vec![src],
            Instr::Recv { dst, .. } => o.write = Some(dst),
            Instr::Relay { local, store: true, .. } => o.write = Some(local),
            Instr::Relay { local, .. } => o.reads = vec![local],
            Instr::Gemm { c, a, b, .. } => (o.write, o.reads) = (Some(c), vec![a, b]),
            Instr::Start { .. } | Instr::Join { .. } | Instr::Repeat { .. } => {}
        }
        o
    }

    pub(super) fn slices(&self) -> impl Iterator<Item = &Slice> {
        self.write.iter().chain(&self.in_place).chain(&self.reads)
    }
}

/// The largest T of any PE and position.
pub(super) fn max_tokens(plan: &Plan, t: &Template) -> u32 {
    match t.kv {
        Some(kv) if kv.lanes() > 0 => kv.max_tokens(plan.model.context - 1),
        _ => 0,
    }
}

/// Checks one role's program.
struct Checker<'a> {
    t: &'a Template,
    phase: u32,
    max_tokens: u32,
}

pub(super) fn check(plan: &Plan, map: &TemplateMap<'_>, found: &mut Vec<Violation>) {
    let t = map.template;
    let max_tokens = max_tokens(plan, t);
    for (i, phase) in t.phases.iter().enumerate() {
        let checker = Checker { t, phase: i as u32, max_tokens };
        for role in &phase.roles {
            for (n, instr) in role.program.iter().enumerate() {
                if let Err(what) = checker.instruction(instr) {
                    found.push(Violation::Operand {
                        template: t.name.clone(),
                        phase: phase.name.clone(),
                        role: role.name.clone(),
                        instruction: n,
                        what,
                    });
                }
            }
        }
    }
}

impl Checker<'_> {
    fn instruction(&self, instr: &Instr) -> Result<(), String> {
        let o = Operands::of(instr);
        o.slices().try_for_each(|s| self.slice(s))?;
        if let Some(m) = o.matrix {
            self.matrix(m)?;
        }
        if let Some(w) = o.write {
            self.write(w, &o)?;
        }
        if let Some(cache) = o.cache {
            let b = &self.t.buffers[cache.0 as usize];
            if b.role != BufferRole::KvCache || self.t.kv.is_none() {
                return Err(format!("`{}` is not a KV cache", b.name));
            }
        }
        self.lengths(instr)
    }

    fn slice(&self, s: &Slice) -> Result<(), String> {
        let b = &self.t.buffers[s.buffer.0 as usize];
        if s.len.per_kv_token > 0 && self.t.kv.is_none() {
            return Err("a length counts cached tokens, but the template caches none".into());
        }
        let end = u64::from(s.offset).saturating_add(s.len.elements(self.max_tokens));
        if end > b.elements() {
            return Err(format!(
                "elements {}..{end} of `{}`, which has {}",
                s.offset,
                b.name,
                b.elements()
            ));
        }
        self.live(s.buffer)
    }

    fn matrix(&self, m: Matrix) -> Result<(), String> {
        let b = &self.t.buffers[m.buffer.0 as usize];
        let end = |from: u32, n: u32| u64::from(from) + u64::from(n);
        let (rows, cols) = (end(m.row, m.rows), end(m.col, m.cols));
        if rows > u64::from(b.rows) || cols > u64::from(b.cols) {
            return Err(format!(
                "matrix ends at [{rows}, {cols}] of `{}`, [{}, {}]",
                b.name, b.rows, b.cols
            ));
        }
        self.live(m.buffer)
    }

    fn live(&self, id: BufferId) -> Result<(), String> {
        let b = &self.t.buffers[id.0 as usize];
        if self.phase < b.live.0 || self.phase > b.live.1 {
            let (from, to) = b.live;
            return Err(format!(
                "`{}` is live in phases {from}..={to}, this is {}",
                b.name, self.phase
            ));
        }
        Ok(())
    }

    fn write(&self, w: Slice, o: &Operands) -> Result<(), String> {
        let b = &self.t.buffers[w.buffer.0 as usize];
        if matches!(b.role, BufferRole::Weights | BufferRole::KvCache) {
            return Err(format!("writes to `{}`, a {:?} buffer", b.name, b.role));
        }
        let meets = |s: &&Slice| {
            let end = |s: &Slice| u64::from(s.offset) + s.len.elements(self.max_tokens);
            s.buffer == w.buffer && u64::from(s.offset) < end(&w) && u64::from(w.offset) < end(s)
        };
        if let Some(s) = o.reads.iter().find(meets) {
            return Err(format!(
                "writes `{}` from {} and reads it from {}",
                b.name, w.offset, s.offset
            ));
        }
        if let Some(s) = o.in_place.iter().filter(|s| **s != w).find(meets) {
            return Err(format!(
                "writes `{}` from {} and reads it from {}",
                b.name, w.offset, s.offset
            ));
        }
        if o.matrix.is_some_and(|m| m.buffer == w.buffer) {
            return Err(format!("writes `{}` and reads it as a matrix", b.name));
        }
        Ok(())
    }

    fn lengths(&self, instr: &Instr) -> Result<(), String> {
        match *instr {
            Instr::Software { cycles: 0..=1_000_000 } => Ok(()),
            Instr::Software { cycles } => Err(format!("{cycles} cycles of software")),
            Instr::Copy { dst, src } | Instr::Unary { dst, src, .. } => same(dst.len, src.len),
            Instr::CopyPiece { dst, src, pieces, .. } => pieces_cover(dst.len, src.len, pieces),
            Instr::Keep { of: 0, .. } => Err("keeps by a modulus of 0".to_owned()),
            Instr::Keep { dst, src, .. } => same(dst.len, src.len),
            Instr::Broadcast { src, .. } if src.len.per_kv_token > 0 => {
                Err("broadcasts a length that counts cached tokens".to_owned())
            }
            Instr::Broadcast { dst, src, .. } => same(dst.len, src.len),
            Instr::Part { parts: 0, .. } => Err("cut into no pieces".to_owned()),
            Instr::Binary { dst, a, b, .. } | Instr::Part { dst, a, b, .. } => {
                same(dst.len, a.len)?;
                match b {
                    Operand::Slice(b) => same(a.len, b.len),
                    Operand::PerSegment(b) => segments(a.len, b.len),
                    Operand::Scalar(_) => Ok(()),
                }
            }
            Instr::Reduce { dst, src, .. } => segments(src.len, dst.len),
            Instr::Gemv { y, x, w, .. } => {
                same(x.len, Len::of(w.rows))?;
                same(y.len, Len::of(w.cols))
            }
            Instr::Angles { dst, inv_freq, .. } => {
                exactly(dst.len, 2 * u64::from(inv_freq.len.constant))?;
                same(inv_freq.len, Len::of(inv_freq.len.constant))
            }
            Instr::Rope { data, heads, half, angles } => {
                let n = u64::from(heads) * 2 * u64::from(half);
                exactly(data.len, n)?;
                exactly(angles.len, 2 * u64::from(half))
            }
            Instr::Gather { dst, table, axis, .. } => same(
                dst.len,
                Len::of(if axis == TableAxis::Rows { table.cols } else { table.rows }),
            ),
            Instr::KvAppend { cache, src } => {
                exactly(src.len, u64::from(self.t.buffers[cache.0 as usize].cols))
            }
            Instr::Scores { shape, dst, q, k: cache }
            | Instr::AttendValues { shape, dst: q, p: dst, v: cache } => {
                self.attention(shape, (dst, q), cache)
            }
            Instr::ArgMax { dst, .. } => exactly(dst.len, 2),
            Instr::Recv { dst: s, combine: Combine::ArgMax, .. }
            | Instr::Relay { local: s, combine: Combine::ArgMax, .. } => pairs(s.len),
            Instr::Relay { input, output, .. } if input == output => {
                Err(format!("relays color {} to itself", input.0))
            }
            Instr::Gemm { m, k, n, c, a, b, .. } => {
                let product = |x: u32, y: u32| u64::from(x) * u64::from(y);
                exactly(c.len, product(m, n))?;
                exactly(a.len, product(m, k))?;
                exactly(b.len, product(k, n))
            }
            Instr::Fill { .. }
            | Instr::Send { .. }
            | Instr::Recv { .. }
            | Instr::Relay { .. }
            | Instr::Start { .. }
            | Instr::Join { .. }
            | Instr::Repeat { .. } => Ok(()),
        }
    }

    /// Scores of every cached token on one side, elements of every head on the other.
    fn attention(
        &self,
        shape: AttentionShape,
        (dst, q): (Slice, Slice),
        cache: BufferId,
    ) -> Result<(), String> {
        let heads = u64::from(shape.kv_heads) * u64::from(shape.q_per_kv);
        let per_token = u64::from(shape.kv_heads) * u64::from(shape.dim);
        exactly(q.len, heads * u64::from(shape.dim))?;
        let cols = u64::from(self.t.buffers[cache.0 as usize].cols);
        if cols != per_token {
            return Err(format!("cache rows of {cols} elements for {per_token} per token"));
        }
        if dst.len.constant != 0 || u64::from(dst.len.per_kv_token) != heads {
            return Err(format!("scores of length {:?} for {heads} heads", dst.len));
        }
        Ok(())
    }
}

fn same(a: Len, b: Len) -> Result<(), String> {
    if a == b { Ok(()) } else { Err(format!("lengths {a:?} and {b:?} differ")) }
}

fn exactly(len: Len, n: u64) -> Result<(), String> {
    if len.per_kv_token == 0 && u64::from(len.constant) == n {
        Ok(())
    } else {
        Err(format!("length {len:?} where {n} elements are needed"))
    }
}

/// `len` is a constant number of pairs.
fn pairs(len: Len) -> Result<(), String> {
    if len.per_kv_token == 0 && len.constant.is_multiple_of(2) {
        Ok(())
    } else {
        Err(format!("pairs need an even length, not {len:?}"))
    }
}

/// `pieces` pieces as long as the shorter of two constant lengths cover the longer.
fn pieces_cover(dst: Len, src: Len, pieces: u32) -> Result<(), String> {
    let (a, b) = (u64::from(dst.constant), u64::from(src.constant));
    let constant = dst.per_kv_token == 0 && src.per_kv_token == 0;
    if constant && a.min(b).saturating_mul(u64::from(pieces)) >= a.max(b) && pieces > 0 {
        Ok(())
    } else {
        Err(format!("{pieces} pieces of {dst:?} and {src:?}"))
    }
}

/// `parts` is constant and divides `whole` for every number of tokens.
fn segments(whole: Len, parts: Len) -> Result<(), String> {
    let n = parts.constant;
    let divides = n > 0 && whole.constant.is_multiple_of(n) && whole.per_kv_token.is_multiple_of(n);
    if parts.per_kv_token == 0 && divides {
        Ok(())
    } else {
        Err(format!("{parts:?} segments do not divide {whole:?}"))
    }
}
