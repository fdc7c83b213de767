//! C \[M, N\] = A \[M, K\] B \[K, N\] by SUMMA on a square of PEs, in f16, broadcasts and products overlapped.
//!
//! PE (x, y) holds block (y, x) of A, B and C. In step k column k of the PEs broadcasts its tiles of A along the rows
//! and row k its tiles of B along the columns; everybody adds their product to C. The root moves every step, so
//! routers merge: a color each way along each axis, four in all ([`plan::Instr::Broadcast`]). The tiles of
//! step k + 1 travel in microthreads while those of step k are multiplied. Needs no alignment. A is
//! declared transposed, `a` \[K, M\]; the result are the tiles of C by columns, PE after PE.

use plan::{
    Affine, Axis, BufferRole, Clause, Color, Instr, LogitsOutput, Pin, Port, Ports, Predicate,
    RegionId, Role, Route, Slice, Span, Storage, WireFormat,
};
use tensor::DType;

use super::Built;
use super::meshgemm::{Layout, Operands, Tile, whole};
use crate::partition::WeightRef;
use crate::program::builder::TemplateBuilder;

/// Colors up and down each axis.
const COLORS: [(Axis, Color, Color); 2] =
    [(Axis::X, Color(0), Color(1)), (Axis::Y, Color(2), Color(3))];

/// A product on a grid of `grid` x `grid` PEs.
struct Summa {
    grid: u32,
    tile: Tile,
    /// Where a PE's own tiles of A and B lie.
    homes: [Slice; 2],
    operands: Operands,
}

/// The program for extents (m, k, n) on `grid` x `grid` PEs.
pub(super) fn build(grid: u32, (m, k, n): (u32, u32, u32)) -> Built {
    let tile = Tile { m: m.div_ceil(grid), k: k.div_ceil(grid), n: n.div_ceil(grid) };
    let mut b = TemplateBuilder::new("summa".into(), grid, grid, (1, 1));
    let shapes = [(tile.k, tile.m), (tile.k, tile.n)];
    let mut buffer = |name: &str, role, shape: (u32, u32)| {
        whole(b.buffer(name, role, Storage::F16, shape), shape.0 * shape.1)
    };
    let homes = [0, 1].map(|i| buffer(["a.home", "b.home"][i], BufferRole::Weights, shapes[i]));
    let mut pair = |names: [&str; 2], shape| names.map(|n| buffer(n, BufferRole::Receive, shape));
    let operands = Operands {
        a: pair(["a0", "a1"], shapes[0]),
        b: pair(["b0", "b1"], shapes[1]),
        c: buffer("c", BufferRole::Activation, (tile.n, tile.m)),
    };
    let summa = Summa { grid, tile, homes, operands };
    // Blocks of K lie along X in A, along Y in B.
    let block = |axis, tile: u32, extent: u32| {
        let start = match axis {
            Axis::X => Affine::of_x(0, i64::from(tile), (1, 1)),
            Axis::Y => Affine::of_y(0, i64::from(tile), (1, 1)),
        };
        Span { start, len: tile, limit: Affine::constant(i64::from(extent)) }
    };
    let tables = [
        ("a", [k, m], block(Axis::X, tile.k, k), block(Axis::Y, tile.m, m)),
        ("b", [k, n], block(Axis::Y, tile.k, k), block(Axis::X, tile.n, n)),
    ];
    for ((name, shape, axis0, axis1), home) in tables.into_iter().zip(homes) {
        let shape: Vec<usize> = shape.iter().map(|&n| n as usize).collect();
        let weight = b.declare(&WeightRef { name: name.into(), dtype: DType::F16, shape }, 1, None);
        let (predicate, buffer) = (Predicate::everywhere(), home.buffer);
        let (at, transposed, gain, scale) = ((0, 0), false, None, 1.0);
        b.pin(Pin { weight, predicate, axis0, axis1, buffer, at, transposed, gain, scale });
    }
    let all =
        |program| vec![Role { name: "all".into(), predicate: Predicate::everywhere(), program }];
    b.phase("load", None, all(vec![Instr::Fill { dst: operands.c, value: 0.0 }]));
    b.phase("steps", None, all(summa.steps()));
    b.routes(COLORS.iter().flat_map(|&pair| summa.routes(pair)).collect());
    let (region, buffer, len) = (RegionId(0), operands.c.buffer, tile.c());
    let down = i64::from(len) * i64::from(grid);
    let start = Affine { yq: down, ..Affine::of_x(0, i64::from(len), (1, 1)) };
    let predicate = Predicate::everywhere();
    let logits = LogitsOutput { region, predicate, buffer, start, len };
    Built { name: "summa", program: b.finish(), logits, results: grid * grid * len }
}

impl Summa {
    /// All steps, the same program on every PE.
    fn steps(&self) -> Vec<Instr> {
        let mut program = self.broadcast(0, 0, 0);
        program.push(Instr::Join { threads: 0b11 });
        let body = [self.step(1, 2), self.step(2, 2)].concat();
        let times = (self.grid - 1) / 2;
        if times > 0 {
            let times = Affine::constant(i64::from(times));
            program.push(Instr::Repeat { times, body: body.len() as u32 });
            program.extend(body);
        }
        if self.grid.is_multiple_of(2) {
            program.extend(self.step(self.grid - 1, 0));
        }
        program.push(self.multiply(self.grid - 1));
        program
    }

    /// Multiplies the tiles of step `next - 1` while those of step `next` arrive.
    fn step(&self, next: u32, per_turn: u32) -> Vec<Instr> {
        let mut part = self.broadcast(next as usize % 2, next, per_turn);
        part.push(self.multiply(next - 1));
        part.push(Instr::Join { threads: 0b11 });
        part
    }

    fn multiply(&self, step: u32) -> Instr {
        let (from, o) = (step as usize % 2, &self.operands);
        self.tile.multiply((o.a[from], o.b[from]), o.c, Layout::ByColumns)
    }

    /// Starts the broadcasts of a step, of both axes, into one of the buffers.
    fn broadcast(&self, into: usize, root: u32, per_turn: u32) -> Vec<Instr> {
        let (o, wire) = (&self.operands, WireFormat::F16);
        let arrives = [o.a[into], o.b[into]];
        let mut program = Vec::new();
        for (i, (axis, up, down)) in COLORS.into_iter().enumerate() {
            let (src, dst) = (self.homes[i], arrives[i]);
            program.push(Instr::Start { thread: i as u8 });
            program.push(Instr::Broadcast { axis, up, down, src, dst, root, per_turn, wire });
        }
        program
    }

    /// What comes along a line goes on and to the core, what the core sends goes the same way.
    fn routes(&self, (axis, up, down): (Axis, Color, Color)) -> Vec<Route> {
        let (low, high) = match axis {
            Axis::X => (Port::West, Port::East),
            Axis::Y => (Port::North, Port::South),
        };
        let (first, last) = (0, self.grid - 1);
        let mut routes = Vec::new();
        for (color, from, to, end) in [(up, low, high, last), (down, high, low, first)] {
            // Between its ends, at the far end, and what cores send; the first PE hears nobody.
            let (heard, sent) = match end {
                0 => ((1, last), (1, self.grid)),
                _ => ((1, last), (0, last)),
            };
            let rules = [
                (heard, from, Ports::of(&[to, Port::Ramp])),
                ((end, end + 1), from, Ports::of(&[Port::Ramp])),
                (sent, Port::Ramp, Ports::of(&[to])),
            ];
            for ((a, b), input, outputs) in rules.into_iter().filter(|r| r.0.0 < r.0.1) {
                let range = Clause::range(a, b);
                let predicate = match axis {
                    Axis::X => Predicate::everywhere().and_x(range),
                    Axis::Y => Predicate::everywhere().and_y(range),
                };
                routes.push(Route { color, predicate, input, outputs });
            }
        }
        // A single PE has no line.
        if self.grid == 1 { Vec::new() } else { routes }
    }
}
