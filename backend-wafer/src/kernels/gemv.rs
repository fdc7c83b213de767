//! Mat-vecs on a rectangle of PEs: K over rows, N over columns, the sum over K along columns.
//!
//! Three kinds that differ in storage, wire and reduction: the compiler's own, WaferLLM's MeshGEMV
//! (OSDI 2025, section 5) and the vendor library's chain. Weights and vector are pinned as those of a
//! model are.

use plan::{
    Affine, Axis, BufferRole, Clause, Combine, Instr, Len, LogitsOutput, Matrix, Predicate,
    RegionId, Slice, Storage, Target,
};
use tensor::DType;

use super::{Built, input, mesh_tree};
use crate::partition::Linear;
use crate::program::builder::{Columns, TemplateBuilder, Vector};
use crate::program::pins::{Tiling, pin_matrix, pin_vector};
use crate::route::palette;
use crate::route::tree::{Line, Message, Pace, Reach, Tree};

/// A template with its operands, before the reduction.
struct Operands {
    b: TemplateBuilder,
    y: Vector,
    multiply: Instr,
    /// N.
    n: u32,
}

fn operands(
    name: &'static str,
    (width, height): (u32, u32),
    (k, n): (u32, u32),
    dtype: DType,
) -> Operands {
    let storage = Storage::from_dtype(dtype).unwrap_or(Storage::F32);
    let (k_tile, n_tile) = (k.div_ceil(height), n.div_ceil(width));
    let mut b = TemplateBuilder::new(name.into(), width, height, (1, 1));
    let rows = Tiling::Rows { tile: k_tile, extent: k };
    let columns = Tiling::Columns { tile: n_tile, extent: n };
    let x = b.buffer("x", BufferRole::Weights, storage, (1, k_tile));
    // The builder refuses nothing here: the inputs are plain pieces.
    let _ = pin_vector(&mut b, &input("x", &[k as usize], dtype), rows, (x, 0), Some(width));
    let w = b.buffer("w", BufferRole::Weights, storage, (k_tile, n_tile));
    let matrix = input("w", &[n as usize, k as usize], dtype);
    let _ = pin_matrix(&mut b, &Linear { matrix, bias: None, scale: 1.0 }, (rows, columns), w, 0);
    let y = b.buffer("y", BufferRole::Activation, storage, (1, n_tile));
    let y = Vector { buffer: y, len: Len::of(n_tile) };
    let multiply = Instr::Gemv {
        y: y.all(),
        x: Slice { buffer: x, offset: 0, len: Len::of(k_tile) },
        w: Matrix { buffer: w, row: 0, col: 0, rows: k_tile, cols: n_tile },
        accumulate: false,
    };
    Operands { b, y, multiply, n }
}

impl Operands {
    fn reduce(&mut self, name: &str, before: &[Instr], tree: &Tree, reach: Reach, width: u32) {
        let message = Message { data: self.y.all(), combine: Combine::Add };
        let columns = Columns { used: width, width };
        self.b.reduce_phase(name, before, (tree, message, reach), columns);
    }

    fn finish(self, name: &'static str) -> Built {
        let n_tile = self.y.len.constant;
        let predicate = Predicate::everywhere().and_y(Clause::range(0, 1));
        let start = Affine::of_x(0, i64::from(n_tile), (1, 1));
        let (region, buffer) = (RegionId(0), self.y.buffer);
        let logits = LogitsOutput { region, predicate, buffer, start, len: n_tile };
        Built { name, program: self.b.finish(), logits, results: self.n }
    }
}

fn column(height: u32) -> Line {
    Line { axis: Axis::Y, len: height, per_cell: false, extent: height }
}

/// The compiler's own, in f32.
pub(super) fn build((width, height): (u32, u32), (k, n): (u32, u32), target: &Target) -> Built {
    let mut ops = operands("gemv", (width, height), (k, n), DType::F32);
    let n_tile = ops.y.len.constant;
    let tree = Tree::best(column(height), palette::column_tree(), n_tile, target);
    let multiply = ops.multiply.clone();
    ops.reduce("gemv", &[multiply], &tree, Reach::All, width);
    ops.b.routes(tree.routes());
    ops.finish("gemv")
}

/// MeshGEMV: f16 in SRAM and on the wire, groups of about `group` PEs.
pub(super) fn mesh(grid: u32, (k, n): (u32, u32), group: u32, target: &Target) -> Built {
    let mut ops = operands("meshgemv", (grid, grid), (grid * k, grid * n), DType::F16);
    let tree = mesh_tree(column(grid), group, palette::column_tree(), target);
    let multiply = ops.multiply.clone();
    ops.reduce("meshgemv", &[multiply], &tree, Reach::All, grid);
    ops.b.routes(tree.routes());
    ops.finish("meshgemv")
}

/// Two calls of the vendor's collective library in f32: a chain to one end, a broadcast back.
pub(super) fn chain(grid: u32, tile: u32, target: &Target) -> Built {
    let mut ops = operands("chain-gemv", (grid, grid), (grid * tile, grid * tile), DType::F32);
    let tree = Tree::one_sided(column(grid), palette::column_tree(), Pace::of(target));
    let call = Instr::Software { cycles: target.core.library_call_cycles };
    let multiply = ops.multiply.clone();
    ops.reduce("reduce", &[multiply, call.clone()], &tree, Reach::Root, grid);
    if grid > 1 {
        let (comm, roles) = tree.multicast(&[call], ops.y.all());
        ops.b.phase("broadcast", Some(comm), roles);
    }
    ops.b.routes(tree.routes());
    ops.finish("chain-gemv")
}
