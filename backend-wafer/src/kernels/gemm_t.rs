//! GEMM-T: C = A Bt on a square of PEs; A stays, tiles of B travel along Y, sums go along X (WaferLLM).
//!
//! PE (x, y) at ring positions (p, r) of its row and column holds tile (r, p) of A and, in step s, tile
//! (r - s, p) of B, both \[tokens, features\] by columns. Its product is a part of block (r, r - s) of
//! C, summed over the row by a two-level tree; the root multicasts the sum, and the PE with p = -s
//! (mod P) keeps it: there the blocks of C lie as MeshGEMM wants its aligned A. The sum of one step travels
//! while the next product is computed, and so do the tiles of B. Does not align anything.

use plan::{Affine, Axis, Clause, Color, Combine, Instr, Predicate, Role, Slice, Term, WireFormat};

use super::meshgemm::MeshGemm;
use super::ring::Way;
use crate::route::tree::{Message, Reach, Tree};

/// Microthread of the multicast; those of the exchange are 0 and 1.
const SUM: u8 = 2;

/// A transposed product: tiles, rings and travelling B are those of `mesh`, whose C is the result.
#[derive(Clone, Debug)]
pub(super) struct GemmT {
    pub(super) mesh: MeshGemm,
    pub(super) tree: Tree,
    pub(super) a: Slice,
    /// Products of even and odd steps.
    pub(super) parts: [Slice; 2],
    /// Where the multicast arrives.
    pub(super) landing: Slice,
}

/// What differs between the PEs of a row, but for the turn in which they keep the sum.
struct Place {
    clauses: Vec<Clause>,
    /// Reduces the product of an even step, of an odd one.
    reduce: [Vec<Instr>; 2],
    root: bool,
    odd: bool,
}

impl GemmT {
    /// All steps: roles of one phase.
    pub(super) fn steps(&self) -> Vec<Role> {
        let mut roles = Vec::new();
        for (send, receive, y) in self.mesh.ring(Axis::Y, Way::Forwards).roles() {
            for place in self.places() {
                let name = format!("step {}", roles.len());
                let predicate =
                    Predicate { x: place.clauses.clone(), y: y.clauses(), ..Predicate::default() };
                roles.push(Role {
                    name,
                    predicate,
                    program: self.program((send, receive), &place),
                });
            }
        }
        roles
    }

    fn places(&self) -> Vec<Place> {
        let reduced = self
            .parts
            .map(|data| self.tree.reduce(&Message { data, combine: Combine::Add }, Reach::Root));
        let [even, odd] = reduced;
        let both = even.into_iter().zip(odd).flat_map(|(even, odd)| {
            (0..2).map(move |parity| {
                let mut clauses = even.clauses.clone();
                clauses.push(Clause::eq(Term::Rem(2), parity));
                let reduce = [even.program.clone(), odd.program.clone()];
                Place { clauses, reduce, root: even.name == "root", odd: parity == 1 }
            })
        });
        both.filter(|place| self.tree.line.any(&place.clauses)).collect()
    }

    /// Product 0, then P - 1 times the sum of a product beside the next product, then the last sum.
    fn program(&self, colors: (Color, Color), place: &Place) -> Vec<Instr> {
        let steps = self.mesh.grid;
        let mut program = self.exchange(0, colors);
        program.push(self.multiply(0));
        program.push(Instr::Join { threads: 0b11 });
        let step = |first: u32, per_turn: u32| {
            let (now, before) = (first as usize % 2, 1 - first as usize % 2);
            let mut part = self.exchange(now, colors);
            part.extend(self.sum(before, place));
            part.push(self.multiply(now));
            part.push(Instr::Join { threads: 0b111 });
            part.push(self.keep(place, first - 1, per_turn));
            part
        };
        let body = [step(1, 2), step(2, 2)].concat();
        let times = Affine::constant(i64::from((steps - 1) / 2));
        if steps > 2 {
            program.push(Instr::Repeat { times, body: body.len() as u32 });
            program.extend(body);
        }
        if steps.is_multiple_of(2) {
            program.extend(step(steps - 1, 0));
        }
        program.extend(self.sum((steps as usize - 1) % 2, place));
        program.push(Instr::Join { threads: 1 << SUM });
        program.push(self.keep(place, steps - 1, 0));
        program
    }

    fn exchange(&self, from: usize, (send, receive): (Color, Color)) -> Vec<Instr> {
        let b = self.mesh.operands.b;
        self.mesh.exchange(0, (send, b[from]), (receive, b[1 - from]))
    }

    fn multiply(&self, now: usize) -> Instr {
        let (tile, c) = (self.mesh.tile, self.parts[now]);
        let (m, k, n, b) = (tile.m, tile.k, tile.n, self.mesh.operands.b[now]);
        Instr::Gemm { m, k, n, c, a: self.a, b, accumulate: false }
    }

    /// Reduces a product along the row and starts the multicast of the sum.
    fn sum(&self, of: usize, place: &Place) -> Vec<Instr> {
        let mut program = place.reduce[of].clone();
        let (color, wire) = (self.tree.colors.down, self.wire());
        program.push(Instr::Start { thread: SUM });
        program.push(match place.root {
            true => Instr::Send { color, src: self.parts[of], wire },
            false => Instr::Recv { color, dst: self.landing, combine: Combine::Store, wire },
        });
        program
    }

    /// Takes the sum of step `step` (and of `per_turn` more steps every turn) where it belongs.
    fn keep(&self, place: &Place, step: u32, per_turn: u32) -> Instr {
        // Twice p + s modulo 2 P: p is x / 2 for even x, P - 1 - x / 2 for odd x.
        let twice = 2 * i64::from(step);
        let cell = super::meshgemm::CELL;
        let when = match place.odd {
            false => Affine::of_x(twice, 1, cell),
            true => Affine::of_x(twice - 1, -1, cell),
        };
        let parts = self.parts[step as usize % 2];
        let src = if place.root { parts } else { self.landing };
        let of = 2 * self.mesh.grid;
        Instr::Keep { dst: self.mesh.operands.c, src, when, per_turn: 2 * per_turn, of }
    }

    fn wire(&self) -> WireFormat {
        self.mesh.wire
    }
}
