//! What every tile of a template holds and does, for walks over whole wafers.
//!
//! Roles and routes are tables over the positions, pins bit sets over columns and rows, spans one
//! addition each ([`SpanMap`]): a look at a tile costs about 100 ns and allocates nothing. Memory is
//! that of one template, whatever the number of its regions. For one tile with names and text see
//! [`crate::PlanMap::tile`].

use crate::expand::{Mask, TemplateMap};
use crate::program::Instr;
use crate::span_map::SpanMap;

/// A template ready to be walked over.
#[derive(Clone, Debug)]
pub struct Expander<'a> {
    map: &'a TemplateMap<'a>,
    /// Per position and phase.
    roles: Vec<u16>,
    colors: usize,
    routes: Vec<(u8, u8)>,
    /// Words of a set of pins.
    words: usize,
    /// Per column and word: pins whose x clauses hold.
    columns: Vec<u64>,
    /// Per row and word: pins whose y clauses hold.
    rows: Vec<u64>,
    pins: Vec<PinMap>,
}

#[derive(Clone, Debug)]
struct PinMap {
    mask: Mask,
    axis0: Option<SpanMap>,
    axis1: Option<SpanMap>,
}

/// A slice of a weight on a tile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PinnedSlice {
    /// Index of the pin in the template.
    pub pin: usize,
    /// Indices of tensor axis 0, end exclusive.
    pub axis0: (u64, u64),
    /// Indices of tensor axis 1, end exclusive.
    pub axis1: (u64, u64),
}

impl<'a> Expander<'a> {
    /// Evaluates everything that depends on one coordinate alone.
    pub fn new(map: &'a TemplateMap<'a>) -> Self {
        let t = map.template;
        let phases = t.phases.len();
        let mut roles = vec![u16::MAX; map.tiles() * phases];
        for phase in 0..phases {
            for (tile, role) in map.role_table(phase).into_iter().enumerate() {
                roles[tile * phases + phase] = role;
            }
        }
        let pin = |p: &crate::Pin| PinMap {
            mask: Mask::new(&p.predicate, t.width, t.height),
            axis0: SpanMap::new(&p.axis0, t.width, t.height, t.cell),
            axis1: SpanMap::new(&p.axis1, t.width, t.height, t.cell),
        };
        let pins: Vec<PinMap> = t.pins.iter().map(pin).collect();
        let words = pins.len().div_ceil(64).max(1);
        let set = |n: u32, axis: fn(&Mask) -> &Vec<bool>| {
            let mut set = vec![0u64; n as usize * words];
            for (i, pin) in pins.iter().enumerate() {
                for (p, _) in axis(&pin.mask).iter().enumerate().filter(|(_, on)| **on) {
                    set[p * words + i / 64] |= 1 << (i % 64);
                }
            }
            set
        };
        let (columns, rows) = (set(t.width, |m| &m.x), set(t.height, |m| &m.y));
        let (colors, routes) = (map.color_count(), map.route_table());
        Expander { map, roles, colors, routes, words, columns, rows, pins }
    }

    fn tile(&self, x: u32, y: u32) -> Option<usize> {
        let t = self.map.template;
        (x < t.width && y < t.height).then(|| y as usize * t.width as usize + x as usize)
    }

    /// Index of the role in every phase (`u16::MAX`: none); empty outside of the template.
    pub fn roles(&self, x: u32, y: u32) -> &[u16] {
        let phases = self.map.template.phases.len();
        self.tile(x, y).map_or(&[], |t| &self.roles[t * phases..(t + 1) * phases])
    }

    /// The program of a tile in a phase.
    pub fn program(&self, phase: usize, x: u32, y: u32) -> &'a [Instr] {
        let role = self.roles(x, y).get(phase).copied().map_or(usize::MAX, usize::from);
        let phases = self.map.template.phases.get(phase);
        phases.and_then(|p| p.roles.get(role)).map_or(&[], |r| r.program.as_slice())
    }

    /// Per template color: input port bit and output port bits in template ports, zeros where it has
    /// no route; empty outside of the template.
    pub fn routes(&self, x: u32, y: u32) -> &[(u8, u8)] {
        self.tile(x, y).map_or(&[], |t| &self.routes[t * self.colors..(t + 1) * self.colors])
    }

    /// What is pinned on a tile, in the order of the template's pins. Slices that cannot be
    /// evaluated, or start below zero, are left out.
    pub fn pins(&self, x: u32, y: u32) -> impl Iterator<Item = PinnedSlice> + '_ {
        let words = if self.tile(x, y).is_some() { self.words } else { 0 };
        let at = |p: u32, word: usize| p as usize * self.words + word;
        (0..words).flat_map(move |word| {
            let mut set = self.columns[at(x, word)] & self.rows[at(y, word)];
            std::iter::from_fn(move || {
                let bit = (set != 0).then(|| set.trailing_zeros() as usize)?;
                set &= set - 1;
                Some(word * 64 + bit)
            })
            .filter_map(move |i| self.slice(i, x, y))
        })
    }

    fn slice(&self, pin: usize, x: u32, y: u32) -> Option<PinnedSlice> {
        let map = &self.pins[pin];
        if map.mask.diagonals.as_ref().is_some_and(|p| !p.holds_diagonals(x, y)) {
            return None;
        }
        let (axis0, axis1) = (map.axis0.as_ref()?.at(x, y)?, map.axis1.as_ref()?.at(x, y)?);
        Some(PinnedSlice { pin, axis0, axis1 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::samples::{LanguageModel, language_model};
    use crate::{Plan, PlanMap, Point, Ports, Target};

    #[test]
    fn a_walk_sees_what_the_expansion_of_each_tile_says() {
        let plan: Plan = language_model(
            LanguageModel { mirrored: true, ..LanguageModel::RAGGED },
            Target::preset("tiny").expect("preset"),
        );
        let map = PlanMap::new(&plan);
        let walks: Vec<Expander<'_>> = map.templates.iter().map(Expander::new).collect();
        let mut tiles = 0;
        for region in &plan.regions {
            let walk = &walks[region.template.0 as usize];
            for y in 0..region.rect.h {
                for x in 0..region.rect.w {
                    let Point { x: px, y: py } = region.point((x, y));
                    let tile = map.tile(Point { x: px, y: py }).expect("in a region");
                    let programs: Vec<_> = tile.programs.iter().map(|p| p.program).collect();
                    let walked: Vec<_> =
                        (0..programs.len()).map(|p| walk.program(p, x, y)).collect();
                    assert_eq!(walked, programs);
                    let slices: Vec<_> = tile.pins.iter().map(|p| (p.axis0, p.axis1)).collect();
                    let walked: Vec<_> = walk.pins(x, y).map(|p| (p.axis0, p.axis1)).collect();
                    assert_eq!(walked, slices);
                    let o = region.orientation;
                    let mut routes = tile.routes.clone();
                    routes.retain(|(color, input, outputs)| {
                        !walk.routes(x, y).iter().enumerate().any(|(c, &(i, to))| {
                            region.color(crate::Color(c as u8)) == *color
                                && i != 0
                                && 1 << o.port(*input) as u8 == i
                                && o.ports(*outputs) == Ports(to)
                        })
                    });
                    assert!(routes.is_empty(), "{routes:?}");
                    tiles += 1;
                }
            }
        }
        assert!(tiles > 10);
        assert_eq!(walks[0].pins(1000, 0).count() + walks[0].routes(0, 1000).len(), 0);
    }
}
