//! What ends both halves of a layer: a mat-vec reduced along rows, whose sum is added to x, and the way
//! out of x into the next region.
//!
//! Partial sums gather in x itself: no vector beside it and no addition after the reduction.

use plan::{Clause, Combine, CommShape, Instr, Role, Slice};

use super::Layer;
use crate::WaferError;
use crate::partition::Linear;
use crate::program::builder::{Columns, TemplateBuilder, Vector, reduce_roles};
use crate::program::linear::{add_to, mat_vec, pin_biases, scales};
use crate::program::pins::Tiling;
use crate::route::stream::{Entry, Exit, leave_row, leave_turn};
use crate::route::tree::{Message, Reach, Tree};

/// A mat-vec whose results are added to x.
pub(super) struct ResidualMatVec {
    /// Where the results gather.
    pub(super) y: Vector,
    /// The local work of the first column.
    pub(super) first: Vec<Instr>,
    /// The local work of the other columns.
    pub(super) others: Vec<Instr>,
    /// What completes x after the reduction.
    pub(super) after: Vec<Instr>,
}

impl Layer<'_> {
    /// x += W input, reduced along rows: partial sums gather in x itself, to which the first column
    /// adds its own and the others do not, unless a bias or a factor stands in between.
    pub(super) fn residual_mat_vec(
        &mut self,
        name: &str,
        linear: &Linear,
        (k, input): (Tiling, Slice),
    ) -> Result<ResidualMatVec, WaferError> {
        let blocks = [(linear, self.hidden_rows())];
        let plain = linear.bias.is_none() && linear.scale == 1.0;
        let x = self.x;
        let y = if plain { x } else { self.b.vector(&format!("{name}-out"), x.len.constant) };
        let bias = pin_biases(&mut self.b, name, &blocks, None)?;
        let others = mat_vec(&mut self.b, name, &blocks, (k, input), (y, bias))?;
        let mut first = others.clone();
        for instr in &mut first {
            if let Instr::Gemv { accumulate, .. } = instr {
                *accumulate = true;
            }
        }
        if plain {
            return Ok(ResidualMatVec { y, first, others, after: Vec::new() });
        }
        let mut after = scales(&[(linear, y.all())]);
        after.push(add_to(x.all(), y.all()));
        Ok(ResidualMatVec { y, first: others.clone(), others, after })
    }
}

/// What the columns `from..to` of a region do before a reduction.
pub(crate) type ColumnWork = (u32, u32, Vec<Instr>);

/// The roles of a reduction along rows of `width` columns whose work before it differs by column.
fn column_roles(
    columns: &[ColumnWork],
    (tree, message, reach): (&Tree, Message, Reach),
    width: u32,
) -> Vec<Role> {
    let all = Columns { used: width, width };
    let mut roles = Vec::new();
    for (from, to, work) in columns.iter().filter(|(from, to, _)| from < to) {
        let mut some = reduce_roles(work, (tree, message, reach), all);
        if to - from < width {
            some.iter_mut().for_each(|r| r.predicate.x.push(Clause::range(*from, *to)));
            some.retain(|r| (*from..*to).any(|x| r.predicate.holds_x(x)));
        }
        roles.extend(some);
    }
    roles
}

/// Phase `name`: the work of the columns, and a reduction of `y` along rows that gives everybody the sum.
pub(crate) fn stay(
    b: &mut TemplateBuilder,
    (name, columns, y): (&str, &[ColumnWork], Vector),
    (tree, comm): (&Tree, CommShape),
) {
    let message = Message { data: y.all(), combine: Combine::Add };
    let roles = column_roles(columns, (tree, message, Reach::All), tree.line.extent);
    b.phase(name, (comm.depth > 0).then_some(comm), roles);
}

/// Phase `name`: the work of the columns, a reduction of `y` along rows, `after`, and the way out of x.
pub(crate) fn leave(
    b: &mut TemplateBuilder,
    (name, columns, y, after): (&str, &[ColumnWork], Vector, Vec<Instr>),
    tree: &Tree,
    (x, entry, exit): (Vector, Entry, Exit),
    (width, height): (u32, u32),
) {
    if let Exit::Turn(turn) = exit {
        stay(b, (name, columns, y), (tree, tree.comm(Reach::All, y.len)));
        leave_turn(b, &after, x, (turn, entry.bands()), (width, height));
        return;
    }
    let message = Message { data: y.all(), combine: Combine::Add };
    // Only the root goes on: it sends the sum straight into the next region.
    let send = leave_row(b, x, tree.root(), width);
    let mut roles = column_roles(columns, (tree, message, Reach::Root), width);
    for role in roles.iter_mut().filter(|r| r.name == "root") {
        role.program.extend(after.iter().cloned());
        role.program.push(send.clone());
    }
    // The wavelets it sends are counted where they arrive, with the next region's receive.
    let mut comm = tree.comm(Reach::Root, y.len);
    comm.hops += width - 1 - tree.root();
    b.phase(name, Some(comm), roles);
}
