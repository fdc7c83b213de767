//! MeshGEMM: C = A B on a square of PEs; tiles of A travel along X, tiles of B along Y (WaferLLM).
//!
//! PE (x, y) at ring positions (p, r) of its row and column computes tile (r, p) of C. In step s it
//! multiplies the tiles of A and B whose block of K is p + r - s (mod P); both come from the ring
//! position before, and the exchange for the next step runs in microthreads meanwhile. The host
//! places B so that step 0 needs no move; A starts in ring order, block p at position p, and is aligned
//! at run time: even rows move it y/2 positions backwards, odd ones (y+1)/2 forwards.

use plan::{
    Affine, Axis, Clause, Color, Combine, Instr, Len, Pin, Predicate, Role, Slice, Span, Term,
    WireFormat,
};

use super::ring::{Ring, Way};

/// Cell of a template with such products: ring positions and turns of the alignments go by quarters.
pub(super) const CELL: (u32, u32) = (4, 4);
/// Colors of a ring.
const RING: u8 = 3;

/// The tile sizes of a product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tile {
    /// Rows of a tile of A and C.
    pub(super) m: u32,
    /// Columns of a tile of A, rows of one of B.
    pub(super) k: u32,
    /// Columns of a tile of B and C.
    pub(super) n: u32,
}

impl Tile {
    pub(super) fn a(self) -> u32 {
        self.m * self.k
    }

    pub(super) fn b(self) -> u32 {
        self.k * self.n
    }

    pub(super) fn c(self) -> u32 {
        self.m * self.n
    }

    /// C += A B.
    pub(super) fn multiply(self, (a, b): (Slice, Slice), c: Slice, layout: Layout) -> Instr {
        let Tile { m, k, n } = self;
        match layout {
            Layout::ByColumns => Instr::Gemm { m, k, n, c, a, b, accumulate: true },
            // The transposed product of the transposed operands, which lie the other way round already.
            Layout::ByRows => Instr::Gemm { m: n, k, n: m, c, a: b, b: a, accumulate: true },
        }
    }
}

/// How a tile of C is to lie in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Layout {
    /// As an A.
    ByColumns,
    /// As a B.
    ByRows,
}

/// The buffers of a product: two of A and B, one of C.
#[derive(Clone, Copy, Debug)]
pub(super) struct Operands {
    pub(super) a: [Slice; 2],
    pub(super) b: [Slice; 2],
    pub(super) c: Slice,
}

/// Colors on which a PE sends and receives, per axis.
#[derive(Clone, Copy, Debug)]
struct Colors {
    x: (Color, Color),
    y: (Color, Color),
}

/// A product on a grid of `grid` x `grid` PEs, at least 2 x 2.
#[derive(Clone, Copy, Debug)]
pub(super) struct MeshGemm {
    pub(super) grid: u32,
    pub(super) tile: Tile,
    pub(super) operands: Operands,
    pub(super) wire: WireFormat,
    /// The first of its colors.
    pub(super) first_color: u8,
}

impl MeshGemm {
    pub(super) fn ring(&self, axis: Axis, way: Way) -> Ring {
        let index = match (axis, way) {
            (Axis::X, Way::Forwards) => 0,
            (Axis::X, Way::Backwards) => 1,
            (Axis::Y, Way::Forwards) => 2,
            (Axis::Y, Way::Backwards) => 3,
        };
        let first_color = self.first_color + index * RING;
        Ring { axis, len: self.grid, first_color, way }
    }

    /// The routes of its rings: both axes forwards, and backwards where tiles are aligned along it.
    pub(super) fn routes(&self, aligned: &[Axis]) -> Vec<plan::Route> {
        let even = [Clause::eq(Term::Rem(2), 0)];
        let mut routes = self.ring(Axis::X, Way::Forwards).routes(&[]);
        routes.extend(self.ring(Axis::Y, Way::Forwards).routes(&[]));
        for &axis in aligned {
            routes.extend(self.ring(axis, Way::Backwards).routes(&even));
        }
        routes
    }

    /// Moves A along X, or B along Y, to where step 0 needs it: roles of one phase. Line i of the
    /// other axis, whose extent of the template's cell is 4, moves by its ring position.
    pub(super) fn align(&self, axis: Axis) -> Vec<Role> {
        let tiles = if axis == Axis::X { self.operands.a } else { self.operands.b };
        let mut roles = Vec::new();
        for rem in 0..4 {
            let way = if rem % 2 == 0 { Way::Backwards } else { Way::Forwards };
            // Positions to move: 2 * (i/4) + 0, 1, 1, 2.
            let base = i64::from(rem == 3);
            let times = match axis {
                Axis::X => Affine { base, yq: 1, ..Affine::default() },
                Axis::Y => Affine { base, xq: 1, ..Affine::default() },
            };
            let single = rem == 1 || rem == 2;
            for (send, receive, along) in self.ring(axis, way).roles() {
                let shift = |from: usize| {
                    let mut part =
                        self.exchange(0, (send, tiles[from]), (receive, tiles[1 - from]));
                    part.push(Instr::Join { threads: 0b11 });
                    part
                };
                let body = [shift(0), shift(1)].concat();
                let mut program = vec![Instr::Repeat { times, body: body.len() as u32 }];
                program.extend(body);
                if single {
                    program.extend(shift(0));
                    program.push(Instr::Copy { dst: tiles[0], src: tiles[1] });
                }
                let line = vec![Clause::eq(Term::Rem(4), rem)];
                let (x, y) = match axis {
                    Axis::X => (along.clauses(), line),
                    Axis::Y => (line, along.clauses()),
                };
                let predicate = Predicate { x, y, ..Predicate::default() };
                roles.push(Role { name: format!("align {}", roles.len()), predicate, program });
            }
        }
        roles
    }

    /// All steps: roles of one phase.
    pub(super) fn steps(&self, layout: Layout) -> Vec<Role> {
        self.turns(|colors, from| {
            let (o, to) = (&self.operands, 1 - from);
            let mut part = self.exchange(0, (colors.x.0, o.a[from]), (colors.x.1, o.a[to]));
            part.extend(self.exchange(2, (colors.y.0, o.b[from]), (colors.y.1, o.b[to])));
            part.push(self.multiply(from, layout));
            part.push(Instr::Join { threads: 0b1111 });
            part
        })
    }

    /// P steps that alternate between two buffers, per pair of send and receive colors of both rings.
    fn turns(&self, step: impl Fn(Colors, usize) -> Vec<Instr>) -> Vec<Role> {
        let mut roles = Vec::new();
        for (send_y, receive_y, y) in self.ring(Axis::Y, Way::Forwards).roles() {
            for (send_x, receive_x, x) in self.ring(Axis::X, Way::Forwards).roles() {
                let colors = Colors { x: (send_x, receive_x), y: (send_y, receive_y) };
                let mut program = Vec::new();
                let times = Affine::constant(i64::from(self.grid / 2));
                let body = [step(colors, 0), step(colors, 1)].concat();
                program.push(Instr::Repeat { times, body: body.len() as u32 });
                program.extend(body);
                if self.grid % 2 == 1 {
                    program.extend(step(colors, 0));
                }
                let predicate =
                    Predicate { x: x.clauses(), y: y.clauses(), ..Predicate::default() };
                roles.push(Role { name: format!("step {}", roles.len()), predicate, program });
            }
        }
        roles
    }

    fn multiply(&self, from: usize, layout: Layout) -> Instr {
        let o = &self.operands;
        self.tile.multiply((o.a[from], o.b[from]), o.c, layout)
    }

    /// Sends one buffer and receives into another, in two microthreads.
    pub(super) fn exchange(
        &self,
        thread: u8,
        (send, src): (Color, Slice),
        (receive, dst): (Color, Slice),
    ) -> Vec<Instr> {
        let wire = self.wire;
        vec![
            Instr::Start { thread },
            Instr::Send { color: send, src, wire },
            Instr::Start { thread: thread + 1 },
            Instr::Recv { color: receive, dst, combine: Combine::Store, wire },
        ]
    }

    /// Ring position of PEs i with i % 4 == rem: base + coefficient * (i / 4).
    fn position(&self, rem: u32) -> (i64, i64) {
        let half = i64::from(rem / 2);
        if rem.is_multiple_of(2) { (half, 2) } else { (i64::from(self.grid) - 1 - half, -2) }
    }

    /// Blocks of `tile` indices in ring order along an axis, on PEs with a remainder by 4.
    fn blocks(&self, axis: Axis, rem: u32, tile: u32, extent: u32) -> Span {
        let (base, quotient) = self.position(rem);
        let block = match axis {
            Axis::X => Affine { base, xq: quotient, ..Affine::default() },
            Axis::Y => Affine { base, yq: quotient, ..Affine::default() },
        };
        span(tile, block, extent)
    }

    /// Where the blocks of A \[K, M\] (transposed) lie before the alignment: those of K and of M in ring
    /// order.
    pub(super) fn pins_of_a(&self, (k, m): (u32, u32), pin: &Pin) -> Vec<Pin> {
        let part = |(x, y): (u32, u32)| {
            let axis0 = self.blocks(Axis::X, x, self.tile.k, k);
            let axis1 = self.blocks(Axis::Y, y, self.tile.m, m);
            Pin { predicate: of_remainders(x, y), axis0, axis1, ..pin.clone() }
        };
        remainders().map(part).collect()
    }

    /// Where the blocks of B \[K, N\] lie in step 0: K block p + r (mod P), N block p.
    pub(super) fn pins_of_b(&self, (k, n): (u32, u32), pin: &Pin) -> Vec<Pin> {
        let far = 1 << 20;
        let mut pins = Vec::new();
        for (x, y) in remainders() {
            let ((px, xq), (py, yq)) = (self.position(x), self.position(y));
            let block = |wrap: i64| {
                let base = px + py - wrap * i64::from(self.grid);
                Affine { base, xq, yq, ..Affine::default() }
            };
            // p + r reaches P on one side of the diagonal when parities differ, always when both are odd.
            let sides: &[(i64, Option<(i64, i64)>)] = match (x % 2, y % 2) {
                (0, 0) => &[(0, None)],
                (1, 1) => &[(1, None)],
                (0, _) => &[(0, Some((-far, 0))), (1, Some((0, far)))],
                _ => &[(0, Some((0, far))), (1, Some((-far, 0)))],
            };
            let axis1 = self.blocks(Axis::X, x, self.tile.n, n);
            for &(wrap, diagonal) in sides {
                let predicate = Predicate { diagonal, ..of_remainders(x, y) };
                let axis0 = span(self.tile.k, block(wrap), k);
                pins.push(Pin { predicate, axis0, axis1, ..pin.clone() });
            }
        }
        pins
    }
}

/// All pairs of remainders by 4.
fn remainders() -> impl Iterator<Item = (u32, u32)> {
    (0..4).flat_map(|y| (0..4).map(move |x| (x, y)))
}

fn of_remainders(x: u32, y: u32) -> Predicate {
    let is = |rem| Clause::eq(Term::Rem(4), rem);
    Predicate::everywhere().and_x(is(x)).and_y(is(y))
}

/// Block `block` of `tile` indices of an axis of `extent`.
fn span(tile: u32, block: Affine, extent: u32) -> Span {
    let t = i64::from(tile);
    let Affine { base, xq, xr, yq, yr } = block;
    let start = Affine { base: base * t, xq: xq * t, xr: xr * t, yq: yq * t, yr: yr * t };
    Span { start, len: tile, limit: Affine::constant(i64::from(extent)) }
}

/// The first elements of a buffer.
pub(super) fn whole(buffer: plan::BufferId, len: u32) -> Slice {
    Slice { buffer, offset: 0, len: Len::of(len) }
}
