//! Expands a plan position by position: which role, which routes, which slices.
//!
//! [`TemplateMap`] evaluates every predicate of a template once per column and once per row, so a
//! lookup at a position is a few bit tests. [`PlanMap`] answers the same for PEs of the wafer, and
//! follows flows across regions and wires. Nothing here is ever a list of all PEs of a wafer.
//!
//! Works on illegal plans too (that is what `verify` calls it for): an index out of range gives
//! `None`, never a panic.

use std::collections::BTreeMap;

use crate::geometry::{Point, Port, Ports};
use crate::index::Predicate;
use crate::plan::{Plan, Region, RegionId};
use crate::program::Instr;
use crate::route::{Color, Route};
use crate::template::{Role, Template};

/// A predicate evaluated over all columns and rows of a rectangle.
#[derive(Clone, Debug)]
pub struct Mask {
    /// Per column: whether the x clauses hold.
    pub x: Vec<bool>,
    /// Per row: whether the y clauses hold.
    pub y: Vec<bool>,
    /// The predicate itself, for its diagonals; `None` when it has none.
    pub diagonals: Option<Predicate>,
}

impl Mask {
    /// Evaluates `predicate` over `w` x `h` positions.
    pub fn new(predicate: &Predicate, w: u32, h: u32) -> Self {
        Mask {
            x: (0..w).map(|x| predicate.holds_x(x)).collect(),
            y: (0..h).map(|y| predicate.holds_y(y)).collect(),
            diagonals: (!predicate.is_separable()).then(|| predicate.clone()),
        }
    }

    /// Whether the predicate holds at (x, y); false outside of the rectangle.
    pub fn holds(&self, x: u32, y: u32) -> bool {
        let on = |v: &[bool], i: u32| v.get(i as usize).copied().unwrap_or(false);
        on(&self.x, x)
            && on(&self.y, y)
            && self.diagonals.as_ref().is_none_or(|p| p.holds_diagonals(x, y))
    }
}

/// A template with its predicates evaluated.
#[derive(Clone, Debug)]
pub struct TemplateMap<'a> {
    /// The template.
    pub template: &'a Template,
    roles: Vec<Vec<Mask>>,
    routes: BTreeMap<Color, Vec<(usize, Mask)>>,
}

impl<'a> TemplateMap<'a> {
    /// Evaluates the predicates of `template`.
    pub fn new(template: &'a Template) -> Self {
        let mask = |p: &Predicate| Mask::new(p, template.width, template.height);
        let roles = |phase: &crate::Phase| phase.roles.iter().map(|r| mask(&r.predicate)).collect();
        let mut routes: BTreeMap<Color, Vec<(usize, Mask)>> = BTreeMap::new();
        for (i, route) in template.routes.iter().enumerate() {
            routes.entry(route.color).or_default().push((i, mask(&route.predicate)));
        }
        TemplateMap { template, roles: template.phases.iter().map(roles).collect(), routes }
    }

    /// Index of the first role of `phase` that covers (x, y).
    pub fn role_index(&self, phase: usize, x: u32, y: u32) -> Option<usize> {
        self.roles.get(phase)?.iter().position(|m| m.holds(x, y))
    }

    /// The role of (x, y) in `phase`.
    pub fn role(&self, phase: usize, x: u32, y: u32) -> Option<&'a Role> {
        self.template.phases.get(phase)?.roles.get(self.role_index(phase, x, y)?)
    }

    /// All masks of the roles of `phase`.
    pub fn role_masks(&self, phase: usize) -> &[Mask] {
        self.roles.get(phase).map_or(&[], Vec::as_slice)
    }

    /// Every route of `color` that holds at (x, y): at most one in a legal plan.
    pub fn routes_at(&self, color: Color, x: u32, y: u32) -> impl Iterator<Item = &'a Route> {
        let template = self.template;
        self.routes
            .get(&color)
            .into_iter()
            .flatten()
            .filter(move |(_, m)| m.holds(x, y))
            .map(move |(i, _)| &template.routes[*i])
    }

    /// The route of `color` at (x, y), the first of those that merge.
    pub fn route(&self, color: Color, x: u32, y: u32) -> Option<&'a Route> {
        self.routes_at(color, x, y).next()
    }

    /// The role of every position in `phase`, row by row: as [`Self::role_index`], all at once.
    /// `u16::MAX` where no role holds.
    pub fn role_table(&self, phase: usize) -> Vec<u16> {
        let masks = self.role_masks(phase);
        let mut table = vec![u16::MAX; self.tiles()];
        // Backwards: of several roles the first is the one that counts.
        for (i, mask) in masks.iter().enumerate().rev() {
            self.visit(mask, |tile| table[tile] = i as u16);
        }
        table
    }

    /// Colors of [`Self::route_table`]: one more than the highest that has routes.
    pub fn color_count(&self) -> usize {
        self.routes.keys().next_back().map_or(0, |c| usize::from(c.0) + 1)
    }

    /// Input port bits (one, but for a broadcast's colors) and output port bits of every position (row by
    /// row) and color below [`Self::color_count`], in template ports; zeros where a color is not routed.
    pub fn route_table(&self) -> Vec<(u8, u8)> {
        let colors = self.color_count();
        let mut table = vec![(0, 0); self.tiles() * colors];
        for (color, rules) in &self.routes {
            for (i, mask) in rules {
                let route = &self.template.routes[*i];
                let bits = (1 << route.input as u8, route.outputs.0);
                self.visit(mask, |tile| {
                    let slot = &mut table[tile * colors + usize::from(color.0)];
                    *slot = (slot.0 | bits.0, slot.1 | bits.1);
                });
            }
        }
        table
    }

    /// Positions of the template.
    pub fn tiles(&self) -> usize {
        self.template.width as usize * self.template.height as usize
    }

    /// Every position where `mask` holds, as its number row by row.
    fn visit(&self, mask: &Mask, mut f: impl FnMut(usize)) {
        let columns: Vec<u32> = (0u32..).zip(&mask.x).filter(|c| *c.1).map(|c| c.0).collect();
        for (y, _) in (0u32..).zip(&mask.y).filter(|r| *r.1) {
            let row = y as usize * self.template.width as usize;
            for &x in &columns {
                if mask.diagonals.as_ref().is_none_or(|p| p.holds_diagonals(x, y)) {
                    f(row + x as usize);
                }
            }
        }
    }

    /// Colors that have routes, ascending.
    pub fn colors(&self) -> impl Iterator<Item = Color> {
        self.routes.keys().copied()
    }
}

/// A plan with the predicates of all templates evaluated.
#[derive(Clone, Debug)]
pub struct PlanMap<'a> {
    /// The plan.
    pub plan: &'a Plan,
    /// One per template.
    pub templates: Vec<TemplateMap<'a>>,
    /// Per region: wafer color -> template colors that map to it (one in a legal plan).
    template_colors: Vec<BTreeMap<Color, Vec<Color>>>,
}

/// Where a flow ends and what is wrong with it on the way.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Flow {
    /// Receiving cores with their distance in hops from the sender, by (y, x).
    pub receivers: Vec<(Point, u32)>,
    /// Routers the flow passes, the sender's included.
    pub routers: u32,
    /// Routers where it arrives at a port its color does not listen to there.
    pub lost: Vec<Point>,
}

impl<'a> PlanMap<'a> {
    /// Evaluates the predicates of all templates of `plan`.
    pub fn new(plan: &'a Plan) -> Self {
        let templates: Vec<_> = plan.templates.iter().map(TemplateMap::new).collect();
        let template_colors = plan.regions.iter().map(|region| {
            let mut map: BTreeMap<Color, Vec<Color>> = BTreeMap::new();
            if let Some(t) = templates.get(region.template.0 as usize) {
                for color in t.colors() {
                    map.entry(region.color(color)).or_default().push(color);
                }
            }
            map
        });
        let template_colors = template_colors.collect();
        PlanMap { plan, templates, template_colors }
    }

    /// The region of PE `p`.
    pub fn region_at(&self, p: Point) -> Option<(RegionId, &'a Region)> {
        let i = self.plan.regions.iter().position(|r| r.rect.contains(p))?;
        Some((RegionId(i as u32), &self.plan.regions[i]))
    }

    /// Every (input, outputs) that `color` has on the router of `p`, from the region's routes and the
    /// wires, in wafer ports: at most one in a legal plan.
    pub fn routes(&self, p: Point, color: Color) -> Vec<(Port, Ports)> {
        let mut found = Vec::new();
        if let Some((id, region)) = self.region_at(p)
            && let Some(position) = region.position(p)
            && let Some(map) = self.templates.get(region.template.0 as usize)
        {
            let colors = self.template_colors[id.0 as usize].get(&color);
            for &c in colors.into_iter().flatten() {
                let turn = |r: &Route| {
                    (region.orientation.port(r.input), region.orientation.ports(r.outputs))
                };
                found.extend(map.routes_at(c, position.0, position.1).map(turn));
            }
        }
        let wires = self.plan.wires.iter().filter(|w| w.color == color && w.rect.contains(p));
        found.extend(wires.map(|w| (w.input, w.outputs)));
        found
    }

    /// The (input, outputs) of `color` on the router of `p`.
    pub fn route(&self, p: Point, color: Color) -> Option<(Port, Ports)> {
        self.routes(p, color).into_iter().next()
    }

    /// The PE a hop away, `None` at the edge of the machine.
    pub fn neighbor(&self, p: Point, port: Port) -> Option<Point> {
        let (dx, dy) = port.step();
        let x = u32::try_from(i64::from(p.x) + dx).ok()?;
        let y = u32::try_from(i64::from(p.y) + dy).ok()?;
        let target = &self.plan.target;
        (x < target.total_width() && y < target.height).then_some(Point { x, y })
    }

    /// Follows what the core of `start` sends on wafer color `color`.
    ///
    /// A flow that would pass more routers than the machine has (a cycle) stops and is `lost`.
    pub fn trace(&self, start: Point, color: Color) -> Flow {
        let mut flow = Flow::default();
        let target = &self.plan.target;
        let limit = u64::from(target.total_width()) * u64::from(target.height);
        let mut open = vec![(start, Port::Ramp, 0u32)];
        while let Some((p, from, hops)) = open.pop() {
            flow.routers += 1;
            let here = self.routes(p, color).into_iter().find(|(input, _)| *input == from);
            let outputs = match here {
                Some((_, outputs)) if u64::from(flow.routers) <= limit => outputs,
                _ => {
                    flow.lost.push(p);
                    continue;
                }
            };
            for port in outputs.iter() {
                match self.neighbor(p, port) {
                    _ if port == Port::Ramp => flow.receivers.push((p, hops)),
                    Some(next) => open.push((next, port.opposite(), hops + 1)),
                    None => flow.lost.push(p),
                }
            }
        }
        flow.receivers.sort_by_key(|(p, _)| (p.y, p.x));
        flow.lost.sort_by_key(|p| (p.y, p.x));
        flow
    }

    /// Everything about one PE; `None` when it is in no region.
    pub fn tile(&self, p: Point) -> Option<Tile<'a>> {
        let (region_id, region) = self.region_at(p)?;
        let map = self.templates.get(region.template.0 as usize)?;
        let template = map.template;
        let position = region.position(p)?;
        let (x, y) = position;
        let programs = (0..template.phases.len()).filter_map(|i| {
            let role = map.role(i, x, y)?;
            Some(TileProgram {
                phase: &template.phases[i].name,
                role: &role.name,
                program: &role.program,
            })
        });
        let pins = template.pins.iter().filter(|pin| pin.predicate.holds(x, y)).filter_map(|pin| {
            let weight = template.weights.get(pin.weight as usize)?;
            Some(TilePin {
                weight: Plan::weight_name(&weight.name, region.layer),
                buffer: &template.buffers.get(pin.buffer.0 as usize)?.name,
                axis0: pin.axis0.at(position, template.cell)?,
                axis1: pin.axis1.at(position, template.cell)?,
                transposed: pin.transposed,
            })
        });
        let routes = map.colors().flat_map(|c| map.routes_at(c, x, y)).map(|r| {
            let o = region.orientation;
            (region.color(r.color), o.port(r.input), o.ports(r.outputs))
        });
        Some(Tile {
            point: p,
            region: region_id,
            position,
            template,
            programs: programs.collect(),
            pins: pins.collect(),
            routes: routes.collect(),
        })
    }
}

impl Plan {
    /// Everything about the PE at (x, y); `None` when it is in no region. For many PEs make one
    /// [`PlanMap`] and ask it.
    pub fn tile(&self, x: u32, y: u32) -> Option<Tile<'_>> {
        PlanMap::new(self).tile(Point { x, y })
    }
}

/// One PE of a plan, expanded.
#[derive(Clone, Debug, PartialEq)]
pub struct Tile<'a> {
    /// The PE.
    pub point: Point,
    /// Its region.
    pub region: RegionId,
    /// Its position in the template.
    pub position: (u32, u32),
    /// Its template: the memory map is `template.buffers`.
    pub template: &'a Template,
    /// What it does, phase by phase.
    pub programs: Vec<TileProgram<'a>>,
    /// What is pinned on it.
    pub pins: Vec<TilePin<'a>>,
    /// Wafer color, input, outputs of its router (wires not included).
    pub routes: Vec<(Color, Port, Ports)>,
}

/// What one PE does in one phase.
#[derive(Clone, Debug, PartialEq)]
pub struct TileProgram<'a> {
    /// Name of the phase.
    pub phase: &'a str,
    /// Name of the role.
    pub role: &'a str,
    /// The instructions.
    pub program: &'a [Instr],
}

/// A slice of a weight on one PE.
#[derive(Clone, Debug, PartialEq)]
pub struct TilePin<'a> {
    /// Full name of the weight.
    pub weight: String,
    /// Name of the buffer.
    pub buffer: &'a str,
    /// Indices of tensor axis 0, end exclusive.
    pub axis0: (u64, u64),
    /// Indices of tensor axis 1, end exclusive.
    pub axis1: (u64, u64),
    /// Whether the buffer holds the transposed slice.
    pub transposed: bool,
}
