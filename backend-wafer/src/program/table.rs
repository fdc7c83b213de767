//! The programs of the two ends of the pipeline: token embedding and language-model head.
//!
//! Both hold a `[vocab, hidden]` table with tokens over columns and elements over rows, as `[K, N]` of
//! a mat-vec. Embedding: the column that holds the token contributes its slice, the others zeros, and
//! rows are summed. Head: a mat-vec reduced along columns leaves the logits on one row, where the
//! largest is found along the row. A tied table is pinned in both regions.

use plan::{
    Affine, Axis, BufferId, BufferRole, Clause, Combine, Instr, Len, Matrix, Predicate, Role,
    TableAxis, Target,
};

use super::builder::{Columns, Program, TemplateBuilder, Vector, reduce_roles};
use super::layer::leave;
use super::linear::{normed_mat_vec, scale};
use super::pins::{Tiling, only_piece, pin_matrix, storage_of};
use crate::WaferError;
use crate::partition::{Linear, Partition};
use crate::place::shape::TableShape;
use crate::route::palette;
use crate::route::stream::{Entry, Exit, enter};
use crate::route::tree::{Line, Message, Reach, Tree};

fn row_tree(shape: TableShape, elements: u32, target: &Target) -> Tree {
    let line = Line { axis: Axis::X, len: shape.width, per_cell: false, extent: shape.width };
    Tree::best(line, palette::row_tree(), elements, target)
}

fn column_tree(shape: TableShape, elements: u32, target: &Target) -> Tree {
    let line = Line { axis: Axis::Y, len: shape.height, per_cell: false, extent: shape.height };
    Tree::best(line, palette::column_tree(), elements, target)
}

/// The embedding of tokens.
///
/// # Errors
/// When the table cannot be pinned.
pub fn embedding(
    partition: &Partition,
    shape: TableShape,
    exit: Exit,
    target: &Target,
) -> Result<Program, WaferError> {
    let mut b = TemplateBuilder::new("embedding".into(), shape.width, shape.height, (1, 1));
    let x = b.vector("x", shape.hidden_tile);
    let storage = storage_of(only_piece(&partition.table)?)?;
    let (rows, cols) = (shape.hidden_tile, shape.vocab_tile);
    let table = b.buffer("table", BufferRole::Weights, storage, (rows, cols));
    let k = Tiling::Rows { tile: shape.hidden_tile, extent: partition.hidden as u32 };
    let n = Tiling::Columns { tile: shape.vocab_tile, extent: partition.vocab as u32 };
    let linear = Linear { matrix: partition.table.clone(), bias: None, scale: 1.0 };
    pin_matrix(&mut b, &linear, (k, n), table, 0)?;
    let gather = Instr::Gather {
        dst: x.all(),
        table: Matrix { buffer: table, row: 0, col: 0, rows, cols },
        axis: TableAxis::Cols,
        base: Affine::of_x(0, i64::from(shape.vocab_tile), (1, 1)),
        limit: partition.vocab as u32,
    };
    let mut after = Vec::new();
    if partition.embedding_scale != 1.0 {
        after.push(scale(x.all(), partition.embedding_scale));
    }
    let tree = row_tree(shape, shape.hidden_tile, target);
    let size = (shape.width, shape.height);
    let columns = [(0, shape.width, vec![gather])];
    leave(&mut b, ("embedding", &columns, x, after), &tree, (x, Entry::Start, exit), size);
    b.tree(&tree);
    Ok(b.finish())
}

/// Where the results of a head are, in template terms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadOutputs {
    /// Buffer of the logits.
    pub logits: BufferId,
    /// The row that holds them.
    pub row: u32,
    /// Buffer of the (value, index) pair.
    pub best: BufferId,
    /// The column that holds the overall best.
    pub column: u32,
}

/// The final norm, the head and the argmax.
///
/// # Errors
/// When a weight cannot be pinned.
pub fn head(
    partition: &Partition,
    shape: TableShape,
    entry: Entry,
    target: &Target,
) -> Result<(Program, HeadOutputs), WaferError> {
    let mut b = TemplateBuilder::new("head".into(), shape.width, shape.height, (1, 1));
    let x = b.vector("x", shape.hidden_tile);
    let buffer = b.vector("logits", shape.vocab_tile + 1).buffer;
    let logits = Vector { buffer, len: Len::of(shape.vocab_tile) };
    let best = b.vector("best", 2);
    enter(&mut b, entry, x, (shape.width, shape.height));
    let columns = Columns { used: shape.width, width: shape.width };
    let tree = column_tree(shape, shape.vocab_tile, target);
    let k = Tiling::Rows { tile: shape.hidden_tile, extent: partition.hidden as u32 };
    let n = Tiling::Columns { tile: shape.vocab_tile, extent: partition.vocab as u32 };
    let norm = (&partition.final_norm, partition.hidden);
    let blocks = [(&partition.head, n)];
    let work =
        normed_mat_vec(&mut b, "head", norm, &blocks, (k, x, shape.width), (logits, shape.height))?;
    let message = Message { data: work.message, combine: Combine::Add };
    b.reduce_phase("head", &work.before, (&tree, message, Reach::Root), columns);
    b.tree(&tree);
    let finish = std::iter::once(work.rsqrt).chain(work.finish).collect();

    let across = row_tree(shape, 2, target);
    argmax_phase(&mut b, partition, (finish, logits, best), &across, (tree.root(), shape));
    b.tree(&across);
    let outputs = HeadOutputs {
        logits: logits.buffer,
        row: tree.root(),
        best: best.buffer,
        column: across.root(),
    };
    Ok((b.finish(), outputs))
}

/// Phase: the largest logit of the root row.
fn argmax_phase(
    b: &mut TemplateBuilder,
    partition: &Partition,
    (finish, logits, best): (Vec<Instr>, Vector, Vector),
    across: &Tree,
    (row, shape): (u32, TableShape),
) {
    let mut program = finish;
    program.push(Instr::ArgMax {
        dst: best.all(),
        src: logits.all(),
        base: Affine::of_x(0, i64::from(shape.vocab_tile), (1, 1)),
        limit: partition.vocab as u32,
    });
    let message = Message { data: best.all(), combine: Combine::ArgMax };
    let columns = Columns { used: shape.width, width: shape.width };
    let mut roles = reduce_roles(&program, (across, message, Reach::Root), columns);
    for role in &mut roles {
        role.predicate.y.push(Clause::range(row, row + 1));
    }
    for (from, to) in [(0, row), (row + 1, shape.height)] {
        if from < to {
            let predicate = Predicate::everywhere().and_y(Clause::range(from, to));
            roles.push(Role { name: "idle".into(), predicate, program: Vec::new() });
        }
    }
    let comm = across.comm_skewed(Reach::Root, Len::of(2));
    b.phase("argmax", (comm.depth > 0).then_some(comm), roles);
}
