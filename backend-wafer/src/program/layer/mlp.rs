//! The gated MLP of a layer: gate and up in one mat-vec, the activation, the down projection.
//!
//! The activation of a column is the same on all of its rows, so the rows of a tree's group share it
//! where that pays.

use plan::{Affine, BinaryOp, Combine, Instr, Len, Operand, PartOp, Slice, UnaryOp};

use super::Layer;
use super::residual::{leave, stay};
use crate::WaferError;
use crate::program::builder::{Vector, roles};
use crate::program::linear::{NormedMatVec, multiply, normed_mat_vec};
use crate::program::pins::Tiling;
use crate::route::palette;
use crate::route::stream::{Entry, Exit};
use crate::route::tree::{Message, Reach};

impl Layer<'_> {
    /// Phases: gate and up, activation, down projection; then the way out, or x stays here and what
    /// completes it is returned. `before` completes x for this half.
    pub(super) fn mlp(
        &mut self,
        before: Vec<Instr>,
        way: Option<(Entry, Exit)>,
    ) -> Result<Vec<Instr>, WaferError> {
        let spec = self.spec;
        let tile = self.shape.ffn_tile;
        let buffer = self.b.vector("gate-up", 2 * (tile + self.shape.surplus) + 1).buffer;
        let gate_up = Vector { buffer, len: Len::of(2 * tile) };
        let (gate, up) = (gate_up.part(0, tile), gate_up.part(tile, tile));
        let n = Tiling::Columns { tile, extent: spec.ffn as u32 };
        let blocks = [(&spec.gate, n), (&spec.up, n)];
        let norm = (&spec.mlp_norm, spec.hidden);
        let input = (self.hidden_rows(), self.x, self.shape.width);
        let output = (gate_up, self.shape.height);
        let work = normed_mat_vec(&mut self.b, "gate-up", norm, &blocks, input, output)?;
        let surplus = self.surplus(buffer)?;
        let program: Vec<Instr> = before.into_iter().chain(work.before.iter().cloned()).collect();
        self.gate_up_phase(&program, &work, surplus.as_ref());

        let (h, program) = self.activate(&work, gate, up);
        let factor = work.factor;
        let work = self.residual_mat_vec("down", &spec.down, (n, h))?;
        let with = |rest: Vec<Instr>| program.iter().cloned().chain(rest).collect();
        let (width, height) = (self.shape.width, self.shape.height);
        let more = surplus.map_or(Vec::new(), |s| self.surplus_down(&s, factor, work.y.all()));
        let even = if more.is_empty() { width } else { self.shape.heads.columns() };
        let rest = work.others.iter().cloned().chain(more).collect();
        let columns =
            [(0, 1, with(work.first)), (1, even, with(work.others)), (even, width, with(rest))];
        let tree = &self.trees.rows;
        let Some((entry, exit)) = way else {
            stay(
                &mut self.b,
                ("down", &columns, work.y),
                (tree, tree.comm(Reach::All, work.y.len)),
            );
            return Ok(work.after);
        };
        let step = ("down", columns.as_slice(), work.y, work.after);
        leave(&mut self.b, step, tree, (self.x, entry, exit), (width, height));
        Ok(Vec::new())
    }

    /// act(gate) * up, the same on all rows of a column: shared by the rows of a tree's group in a
    /// phase of its own where that pays. Returns where it is and what the next phase does first.
    fn activate(&mut self, work: &NormedMatVec, gate: Slice, up: Slice) -> (Slice, Vec<Instr>) {
        let unary = activation(self.spec.activation);
        let mut alone = vec![work.rsqrt.clone()];
        alone.extend(work.finish.iter().cloned());
        alone.push(Instr::Unary { op: unary, dst: gate, src: gate });
        alone.push(multiply(gate, up));
        let buffer = self.b.vector("activated", self.shape.ffn_tile).buffer;
        let h = Slice { buffer, ..Slice { offset: 0, ..gate } };
        let factor = Operand::PerSegment(work.factor);
        let piece = |part: Affine, parts: u32| {
            let of = |op, dst, a, b| Instr::Part { op, dst, a, b, part, parts };
            let mut program = vec![work.rsqrt.clone()];
            if work.plain {
                let mul = PartOp::Binary(BinaryOp::Mul);
                program.extend([of(mul, gate, gate, factor), of(mul, up, up, factor)]);
            } else {
                program.extend(work.finish.iter().cloned());
            }
            program.push(of(PartOp::Glu(unary), h, gate, Operand::Slice(up)));
            program
        };
        let tree = &self.trees.shares;
        let comm = tree.group_comm(h.len);
        let least = tree.group_kinds().iter().map(|k| k.1).min().unwrap_or(1);
        if !self.share_pays(&alone, &piece(Affine::default(), least), &comm) {
            self.b.forget(buffer);
            return (gate, alone);
        }
        self.b.while_waiting(&Instr::Fill { dst: h, value: 0.0 });
        let message = Message { data: h, combine: Combine::Add };
        let mut all = Vec::new();
        for (clause, size, first) in tree.group_kinds() {
            let part = Affine::of_y(-i64::from(first), 1, self.b.cell());
            let mut parts = tree.group_sum(&message, palette::COLUMN_GROUP);
            parts.iter_mut().for_each(|p| p.clauses.push(clause));
            parts.retain(|p| tree.line.any(&p.clauses));
            all.extend(roles(&piece(part, size), (tree.line, parts), self.all_columns()));
        }
        self.b.phase("activation", Some(comm), all);
        (h, Vec::new())
    }
}

pub(super) fn activation(act: ir::Activation) -> UnaryOp {
    match act {
        ir::Activation::Silu => UnaryOp::Silu,
        ir::Activation::Gelu => UnaryOp::GeluErf,
        ir::Activation::GeluTanh => UnaryOp::GeluTanh,
        ir::Activation::Relu => UnaryOp::Relu,
    }
}
