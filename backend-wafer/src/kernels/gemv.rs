//! A mat-vec: K over rows, N over columns, the sum over K by an allreduce along columns.
//!
//! Weights and vector are tables in the plan, pinned as those of a model are.

use plan::{
    Affine, Axis, BufferRole, Clause, Combine, Instr, Len, LogitsOutput, Matrix, Predicate,
    RegionId, Slice, Storage, Target,
};

use super::{Built, Sizes, inline, values};
use crate::partition::Linear;
use crate::program::builder::{Columns, TemplateBuilder};
use crate::program::pins::{Tiling, pin_matrix, pin_vector, vector_buffer};
use crate::route::palette;
use crate::route::tree::{Line, Message, Reach, Tree};

pub(super) fn build(sizes: Sizes, target: &Target) -> Built {
    let (width, height) = sizes.region;
    let (k_tile, n_tile) = (sizes.k.div_ceil(height), sizes.n.div_ceil(width));
    let mut b = TemplateBuilder::new("gemv".into(), width, height, (1, 1));
    let (k, n) = (
        Tiling::Rows { tile: k_tile, extent: sizes.k },
        Tiling::Columns { tile: n_tile, extent: sizes.n },
    );
    let x = vector_buffer(&mut b, "x", k_tile);
    let _ = pin_vector(&mut b, &inline("x", &[sizes.k as usize]), k, (x, 0), Some(width));
    let w = b.buffer("w", BufferRole::Weights, Storage::F32, (k_tile, n_tile));
    let matrix = inline("w", &[sizes.n as usize, sizes.k as usize]);
    let _ = pin_matrix(&mut b, &Linear { matrix, bias: None, scale: 1.0 }, (k, n), w, 0);
    let y = b.vector("y", n_tile);
    let multiply = [Instr::Gemv {
        y: y.all(),
        x: Slice { buffer: x, offset: 0, len: Len::of(k_tile) },
        w: Matrix { buffer: w, row: 0, col: 0, rows: k_tile, cols: n_tile },
        accumulate: false,
    }];
    let line = Line { axis: Axis::Y, len: height, per_cell: false, extent: height };
    let tree = Tree::best(line, palette::column_tree(), n_tile, target);
    let message = Message { data: y.all(), combine: Combine::Add };
    let columns = Columns { used: width, width };
    b.reduce_phase("gemv", &multiply, (&tree, message, Reach::All), columns);
    b.routes(tree.routes());
    let mut program = b.finish();
    for weight in &mut program.weights {
        let count = weight.weight.shape.iter().product::<usize>() as u32;
        weight.inline = Some(values(count));
    }
    let predicate = Predicate::everywhere().and_y(Clause::range(0, 1));
    let start = Affine::of_x(0, i64::from(n_tile), (1, 1));
    let region = RegionId(0);
    let logits = LogitsOutput { region, predicate, buffer: y.buffer, start, len: n_tile };
    Built { program, logits, results: sizes.n }
}
