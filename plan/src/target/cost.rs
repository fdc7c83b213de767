//! Cycles of instructions: the part of the machine model that the compiler and the simulator share.
//!
//! A local instruction takes `instruction_cycles` and its vector operations, rounded up to a whole
//! cycle once per instruction. Costs are computed in thousandths of a cycle with integers, so they
//! are the same on every host.
//!
//! A communicating instruction costs `message_cycles` here; what it waits for, and its wavelets, are
//! the simulator's subject: a Send started at cycle s puts wavelet i (from 1) on the ramp at
//! `s + message_cycles + i`; a wavelet on the ramp at t enters its router at t + T_R, each hop takes h,
//! the way up takes T_R again; a Recv or Relay finishes wavelet i at `max(arrival_i, end_(i-1), start +
//! message_cycles) + wavelet_cycles`, and a Relay puts its result on the ramp in that very cycle, in a
//! half format `pack_cycles` later.

use crate::buffer::Storage;
use crate::program::{BinaryOp, Instr, Operand, PartOp, UnaryOp, WireFormat};
use crate::target::{Core, Target, VectorCost};
use crate::template::Template;

/// A vector cost of n elements in thousandths of a cycle.
fn millis(cost: VectorCost, n: u64) -> u64 {
    if n == 0 {
        return 0;
    }
    let fixed = |v: f64| (v * 1000.0).round() as u64;
    let groups = n.div_ceil(u64::from(cost.lanes.max(1)));
    fixed(cost.setup).saturating_add(fixed(cost.per_group).saturating_mul(groups))
}

/// Cycles of `instr` on a PE that attends to `kv_tokens` tokens of its own; for a communicating
/// instruction the software start only.
pub fn instruction_cycles(
    target: &Target,
    template: &Template,
    instr: &Instr,
    kv_tokens: u32,
) -> u64 {
    let core = &target.core;
    match instr {
        Instr::Send { .. } | Instr::Recv { .. } | Instr::Relay { .. } => {
            return u64::from(core.message_cycles);
        }
        Instr::Broadcast { .. } => return moved_root_cycles(core) + u64::from(core.message_cycles),
        Instr::Start { .. } => return 0,
        Instr::Join { .. } => return u64::from(core.threads.join),
        Instr::Repeat { .. } => return u64::from(core.threads.repeat),
        Instr::Software { cycles } => return u64::from(*cycles),
        _ => {}
    }
    let work = local_millis(core, template, instr, kv_tokens);
    u64::from(core.instruction_cycles).saturating_add(work.div_ceil(1000))
}

/// Storage of a buffer, f32 when the id is out of range (`verify` reports it).
fn storage(template: &Template, buffer: crate::BufferId) -> Storage {
    template.buffers.get(buffer.0 as usize).map_or(Storage::F32, |b| b.storage)
}

/// As [`instruction_cycles`], of a message in a microthread.
pub fn started_cycles(target: &Target, instr: &Instr) -> u64 {
    let moved = match instr {
        Instr::Broadcast { .. } => moved_root_cycles(&target.core),
        _ => 0,
    };
    moved + u64::from(target.core.threads.start)
}

/// Thousandths of a cycle for which a wavelet of a message keeps vector instructions from the memory: what is
/// sent or relayed is read, what is received is written. A message in a microthread takes them
/// from the instructions beside it.
pub fn port_millis(target: &Target, instr: &Instr) -> u64 {
    let receives = |i: &Instr| i.communication().is_some_and(|c| c.output.is_none());
    let written = matches!(instr, Instr::Broadcast { .. }) || receives(instr);
    let bits = if written { target.sram.write_bits } else { target.sram.read_bits };
    (1000 * u64::from(u32::BITS)).div_ceil(u64::from(bits.max(1)))
}

/// Software before a broadcast but for its message: the root has moved, so a task writes the routes of both
/// colors and binds their queues anew, on every PE of the line.
fn moved_root_cycles(core: &Core) -> u64 {
    let per_color = u64::from(core.route_switch_cycles) + u64::from(core.color_bind_cycles);
    u64::from(core.task_switch_cycles) + 2 * per_color
}

/// Cycles between the two messages of a broadcast's root: a task wakes and starts the second.
pub fn broadcast_again_cycles(target: &Target) -> u64 {
    u64::from(target.core.task_switch_cycles) + u64::from(target.core.message_cycles)
}

/// Cycles between the end of a received wavelet in a relay and its result on the ramp: what packing
/// takes in a half format.
pub fn relay_latency_cycles(target: &Target, instr: &Instr) -> u64 {
    match *instr {
        Instr::Relay { wire: WireFormat::F16 | WireFormat::BF16, .. } => {
            u64::from(target.core.pack_cycles)
        }
        _ => 0,
    }
}

fn local_millis(core: &Core, template: &Template, instr: &Instr, kv_tokens: u32) -> u64 {
    let n = |len: crate::Len| len.elements(kv_tokens);
    // An element-wise operation works at the rate of what it writes.
    let vector = |dst: crate::Slice| core.vector(storage(template, dst.buffer));
    match *instr {
        Instr::Fill { dst, .. } => millis(vector(dst), n(dst.len)),
        Instr::Copy { dst, .. } => millis(vector(dst), n(dst.len)),
        Instr::CopyPiece { dst, src, .. } => millis(vector(dst), n(dst.len).min(n(src.len))),
        Instr::Unary { op, dst, .. } => unary_millis(core, vector(dst), op, n(dst.len)),
        Instr::Binary { op, dst, b, .. } => {
            let len = n(dst.len);
            segmented(
                binary_cost(core, vector(dst), op),
                len,
                match b {
                    Operand::PerSegment(s) => n(s.len),
                    _ => 1,
                },
            )
        }
        Instr::Part { op, dst, b, parts, .. } => {
            let len = n(dst.len);
            let piece = len.div_ceil(u64::from(parts.max(1)));
            let segments = match b {
                Operand::PerSegment(s) => pieces_met(piece, len, n(s.len)),
                _ => 1,
            };
            part_millis(core, op, piece, segments)
        }
        Instr::Reduce { dst, src, .. } => segmented(vector(src), n(src.len), n(dst.len)),
        Instr::Gemv { w, .. } => {
            let row = millis(core.mac(storage(template, w.buffer)), u64::from(w.cols));
            row.saturating_mul(u64::from(w.rows))
        }
        // A cosine and a sine of every frequency.
        Instr::Angles { inv_freq, .. } => millis(core.special, n(inv_freq.len)) * 2,
        Instr::Rope { heads, half, .. } => {
            let pairs = u64::from(heads) * u64::from(half);
            // Six vector operations over all pairs.
            millis(core.vector, pairs) * 6
        }
        Instr::Gather { dst, .. } => millis(core.vector, n(dst.len)),
        Instr::KvAppend { src, .. } => millis(core.vector, n(src.len)),
        Instr::Keep { dst, .. } => millis(vector(dst), n(dst.len)),
        Instr::Scores { shape, k, .. } => {
            // Keys lie element by element, so each element of q multiplies a vector over tokens.
            let rows = u64::from(shape.kv_heads) * u64::from(shape.q_per_kv) * u64::from(shape.dim);
            rows * millis(core.mac(storage(template, k)), u64::from(kv_tokens))
        }
        Instr::AttendValues { shape, v, .. } => {
            let rows = u64::from(shape.kv_heads) * u64::from(shape.q_per_kv) * u64::from(kv_tokens);
            rows * millis(core.mac(storage(template, v)), u64::from(shape.dim))
        }
        Instr::ArgMax { src, .. } => millis(core.vector, n(src.len)),
        Instr::Gemm { m, k, n, a, .. } => {
            let call = millis(core.mac(storage(template, a.buffer)), u64::from(m));
            let floor = (core.gemm_floor * 1000.0).round() as u64;
            call.max(floor).saturating_mul(u64::from(k)).saturating_mul(u64::from(n))
        }
        Instr::Software { .. }
        | Instr::Send { .. }
        | Instr::Recv { .. }
        | Instr::Relay { .. }
        | Instr::Broadcast { .. }
        | Instr::Start { .. }
        | Instr::Join { .. }
        | Instr::Repeat { .. } => 0,
    }
}

fn binary_cost(core: &Core, vector: VectorCost, op: BinaryOp) -> VectorCost {
    match op {
        BinaryOp::Div | BinaryOp::ExpSub => core.special,
        _ => vector,
    }
}

/// Of `segments` equal segments of `len` elements: how many `piece` consecutive elements can meet.
fn pieces_met(piece: u64, len: u64, segments: u64) -> u64 {
    let size = (len / segments.max(1)).max(1);
    (1 + piece.saturating_sub(1).div_ceil(size)).min(segments.max(1))
}

/// An `Instr::Part` whose piece meets `segments` segments.
fn part_millis(core: &Core, op: PartOp, piece: u64, segments: u64) -> u64 {
    let (cost, extra) = match op {
        PartOp::Binary(op) => (binary_cost(core, core.vector, op), 0),
        PartOp::Glu(op) => (core.vector, unary_millis(core, core.vector, op, piece)),
    };
    // One more start per segment boundary inside the piece.
    let starts = (segments - 1) * (millis(cost, 1) - millis(VectorCost { setup: 0.0, ..cost }, 1));
    extra + millis(cost, piece) + starts
}

/// `segments` vector operations of equal length over `n` elements together.
fn segmented(cost: VectorCost, n: u64, segments: u64) -> u64 {
    let segments = segments.max(1);
    segments * millis(cost, n / segments)
}

fn unary_millis(core: &Core, vector: VectorCost, op: UnaryOp, n: u64) -> u64 {
    match op {
        UnaryOp::Neg | UnaryOp::Relu => millis(vector, n),
        UnaryOp::Recip | UnaryOp::Exp | UnaryOp::RsqrtMean { .. } => millis(core.special, n),
        // exp, add, reciprocal.
        UnaryOp::Sigmoid | UnaryOp::Tanh => 2 * millis(core.special, n) + millis(vector, n),
        UnaryOp::Silu => 2 * millis(core.special, n) + 2 * millis(vector, n),
        UnaryOp::GeluErf | UnaryOp::GeluTanh => 2 * millis(core.special, n) + 5 * millis(vector, n),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn costs_round_up_once() {
        let cost = VectorCost { setup: 3.0, per_group: 1.2, lanes: 4 };
        assert_eq!(millis(cost, 0), 0);
        assert_eq!(millis(cost, 1), 4200);
        assert_eq!(millis(cost, 9), 6600);
    }
}
