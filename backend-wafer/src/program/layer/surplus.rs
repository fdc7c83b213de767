//! The surplus of the MLP: what columns without heads hold of it beyond an even share.
//!
//! Columns with heads hold q, k, v and o besides their share of the MLP, the others do not, and the fullest
//! PE decides what fits. So the columns without heads may take more of the MLP, into the very buffers
//! that hold q, k, v and o elsewhere: gate and up where q, k and v lie, down where o lies. That costs
//! latency, because they have more to multiply and to reduce than the others: only shapes that do
//! not fit without it have a surplus. Not for layers with biases or factors in the MLP, nor for quantised
//! weights.

use plan::{BufferId, Clause, Combine, Instr, Matrix, Slice};

use super::Layer;
use super::mlp::activation;
use crate::WaferError;
use crate::partition::LayerSpec;
use crate::program::builder::{Columns, Vector, reduce_roles};
use crate::program::linear::{NormedMatVec, multiply, scale_by};
use crate::program::pins::{Tiling, pin_matrix};
use crate::route::tree::{Message, Reach};

/// Whether the MLP of a layer can have a surplus.
pub(crate) fn possible(spec: &LayerSpec) -> bool {
    let linears = [&spec.gate, &spec.up, &spec.down];
    let storage = |l: &crate::partition::Linear| l.piece().map(|p| p.storage);
    let all = [&spec.q, &spec.k, &spec.v, &spec.o].into_iter().chain(linears);
    let same = all.map(storage).all(|s| s.is_some() && s == storage(&spec.gate));
    let plain = linears.iter().all(|l| l.bias.is_none() && l.scale == 1.0);
    same && plain && storage(&spec.gate).is_some_and(|s| !s.is_quantized())
}

/// The surplus of one layer: elements after the others and the sum of squares.
pub(super) struct Surplus {
    /// Elements per column.
    tile: u32,
    /// Gate and up.
    both: Slice,
    /// Where q, k and v lie in other columns, and where o does.
    buffers: (BufferId, BufferId),
    tiling: Tiling,
}

impl Layer<'_> {
    /// Pins the surplus of a layer whose gate and up gather in `buffer`; `None` without one.
    pub(super) fn surplus(&mut self, buffer: BufferId) -> Result<Option<Surplus>, WaferError> {
        let (tile, spec) = (self.shape.surplus, self.spec);
        let buffers = self.b.buffer_named("w-qkv").zip(self.b.buffer_named("w-o"));
        let Some(buffers) = buffers.filter(|_| tile > 0) else { return Ok(None) };
        let tiling = Tiling::Beyond {
            columns: (self.shape.heads.columns(), self.shape.width),
            tile,
            first: self.shape.width * self.shape.ffn_tile,
            extent: spec.ffn as u32,
        };
        let rows = self.hidden_rows();
        pin_matrix(&mut self.b, &spec.gate, (rows, tiling), buffers.0, 0)?;
        pin_matrix(&mut self.b, &spec.up, (rows, tiling), buffers.0, tile)?;
        pin_matrix(&mut self.b, &spec.down, (tiling, rows), buffers.1, 0)?;
        let all = Vector { buffer, len: plan::Len::of(2 * tile) };
        let both = all.part(2 * self.shape.ffn_tile + 1, 2 * tile);
        Ok(Some(Surplus { tile, both, buffers, tiling }))
    }

    /// The phase of gate and up: columns without heads multiply and reduce their surplus too.
    pub(super) fn gate_up_phase(
        &mut self,
        program: &[Instr],
        work: &NormedMatVec,
        surplus: Option<&Surplus>,
    ) {
        let tree = &self.trees.columns;
        let all = self.all_columns();
        let message = Message { data: work.message, combine: Combine::Add };
        let Some(surplus) = surplus else {
            self.b.reduce_phase("gate-up", program, (tree, message, Reach::All), all);
            return;
        };
        let used = self.shape.heads.columns();
        let within = |program: &[Instr], message: Message, (from, to): (u32, u32)| {
            let columns = Columns { used: to, width: to };
            let mut roles = reduce_roles(program, (tree, message, Reach::All), columns);
            roles.iter_mut().for_each(|r| r.predicate.x.push(Clause::range(from, to)));
            roles
        };
        let mut roles = within(program, message, (0, used));
        let mut program = program.to_vec();
        program.extend(surplus.gate_up(self.shape.hidden_tile, &work.before));
        let len = plan::Len::of(surplus.both.offset + surplus.both.len.constant);
        let message = Message { data: Slice { len, ..work.message }, combine: Combine::Add };
        roles.extend(within(&program, message, (used, self.shape.width)));
        let comm = tree.comm(Reach::All, len);
        self.b.phase("gate-up", (comm.depth > 0).then_some(comm), roles);
    }

    /// act(gate) * up of the surplus and its part of the down projection into `y`, which holds the other.
    pub(super) fn surplus_down(&self, surplus: &Surplus, factor: Slice, y: Slice) -> Vec<Instr> {
        let (gate, up) = surplus.halves();
        let rows = surplus.tile;
        let w = Matrix {
            buffer: surplus.buffers.1,
            row: 0,
            col: 0,
            rows,
            cols: self.shape.hidden_tile,
        };
        debug_assert_eq!(surplus.tiling.tile(), rows);
        vec![
            scale_by(surplus.both, factor),
            Instr::Unary { op: activation(self.spec.activation), dst: gate, src: gate },
            multiply(gate, up),
            Instr::Gemv { y, x: gate, w, accumulate: true },
        ]
    }
}

impl Surplus {
    fn halves(&self) -> (Slice, Slice) {
        let len = plan::Len::of(self.tile);
        let gate = Slice { len, ..self.both };
        (gate, Slice { offset: gate.offset + self.tile, ..gate })
    }

    /// The mat-vec of the surplus, of the input that `before` multiplies.
    fn gate_up(&self, rows: u32, before: &[Instr]) -> Option<Instr> {
        let x = before.iter().find_map(|i| match i {
            Instr::Gemv { x, .. } => Some(*x),
            _ => None,
        })?;
        let w = Matrix { buffer: self.buffers.0, row: 0, col: 0, rows, cols: 2 * self.tile };
        Some(Instr::Gemv { y: self.both, x, w, accumulate: false })
    }
}
