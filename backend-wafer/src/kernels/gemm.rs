//! C \[M, N\] = A \[M, K\] B \[K, N\] by MeshGEMM on a square of PEs, in f16.
//!
//! A is declared transposed, `a` \[K, M\]; both are tables in the plan or, when large, only declared.
//! The result are the tiles of C by columns, PE after PE, row of PEs after row of PEs; blocks of M, K and N
//! lie along their axes in ring order, so that a product can follow another one.

use plan::{
    Affine, Axis, BufferRole, Instr, LogitsOutput, Pin, Predicate, RegionId, Role, Span, Storage,
    WireFormat,
};
use tensor::DType;

use super::Built;
use super::meshgemm::{CELL, Layout, MeshGemm, Operands, Tile, whole};
use crate::partition::WeightRef;
use crate::program::builder::TemplateBuilder;

/// The program for extents (m, k, n) on `grid` x `grid` PEs, at least 2 x 2.
pub(super) fn build(grid: u32, (m, k, n): (u32, u32, u32)) -> Built {
    let tile = Tile { m: m.div_ceil(grid), k: k.div_ceil(grid), n: n.div_ceil(grid) };
    let mut b = TemplateBuilder::new("meshgemm".into(), grid, grid, CELL);
    let mut buffer = |name: &str, role, shape| b.buffer(name, role, Storage::F16, shape);
    let shape = [(tile.k, tile.m), (tile.k, tile.n)];
    let homes = [("a.home", shape[0]), ("b.home", shape[1])]
        .map(|(name, shape)| buffer(name, BufferRole::Weights, shape));
    let mut pair = |names: [&str; 2], shape, len| {
        names.map(|name| whole(buffer(name, BufferRole::Receive, shape), len))
    };
    let operands = Operands {
        a: pair(["a0", "a1"], shape[0], tile.a()),
        b: pair(["b0", "b1"], shape[1], tile.b()),
        c: whole(b.buffer("c", BufferRole::Activation, Storage::F16, (tile.n, tile.m)), tile.c()),
    };
    let mesh = MeshGemm { grid, tile, operands, wire: WireFormat::F16, first_color: 0 };
    for (name, home, shape) in [("a", homes[0], [k, m]), ("b", homes[1], [k, n])] {
        let shape: Vec<usize> = shape.iter().map(|&n| n as usize).collect();
        let weight = b.declare(&WeightRef { name: name.into(), dtype: DType::F16, shape }, 1, None);
        let pin = Pin {
            weight,
            predicate: Predicate::everywhere(),
            axis0: Span::whole(1),
            axis1: Span::whole(1),
            buffer: home,
            at: (0, 0),
            transposed: false,
            gain: None,
            scale: 1.0,
        };
        let pins =
            if name == "a" { mesh.pins_of_a((k, m), &pin) } else { mesh.pins_of_b((k, n), &pin) };
        pins.into_iter().for_each(|pin| b.pin(pin));
    }
    let load = vec![
        Instr::Copy { dst: operands.a[0], src: whole(homes[0], tile.a()) },
        Instr::Copy { dst: operands.b[0], src: whole(homes[1], tile.b()) },
        Instr::Fill { dst: operands.c, value: 0.0 },
    ];
    let predicate = Predicate::everywhere();
    let all = Role { name: "all".into(), predicate: predicate.clone(), program: load };
    b.phase("load", None, vec![all]);
    b.phase("align", None, mesh.align(Axis::X));
    b.phase("steps", None, mesh.steps(Layout::ByColumns));
    b.routes(mesh.routes(&[Axis::X]));
    let tile_of_c = i64::from(tile.c());
    let along = Affine::of_x(0, tile_of_c, CELL);
    let down = Affine::of_y(0, tile_of_c * i64::from(grid), CELL);
    let start = Affine { yq: down.yq, yr: down.yr, ..along };
    let (region, buffer, len) = (RegionId(0), operands.c.buffer, tile.c());
    let logits = LogitsOutput { region, predicate, buffer, start, len };
    Built { name: "meshgemm", program: b.finish(), logits, results: grid * grid * len }
}
