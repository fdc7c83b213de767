//! The PEs of a plan as a dense array: position, role per phase, routes per color, receivers.
//!
//! Tiles are numbered region by region, row by row in template positions; routers that only wires
//! pass come last and have no program. Colors here are wafer colors, ports are wafer ports.

use plan::{Color, Instr, Plan, PlanMap, Point, Port, Ports, Template};

use crate::error::SimError;
use crate::hops::Hops;

/// No tile.
const NONE: u32 = u32::MAX;
/// No role: a router without a program.
const NO_ROLE: u16 = u16::MAX;

/// Static facts about every tile of a plan.
pub struct Fabric<'a> {
    /// The plan.
    pub plan: &'a Plan,
    /// Per region: its first tile.
    pub region_base: Vec<u32>,
    /// Per tile: where it is.
    pub points: Vec<Point>,
    /// Per tile: its region; `u32::MAX` for a wire's router.
    pub regions: Vec<u32>,
    /// Wafer colors in use: 0..colors.
    pub colors: usize,
    /// Per tile and color: input port bit and output port bits, 0 when unused.
    routes: Vec<(u8, u8)>,
    /// Per tile: where its roles start in `roles`.
    role_base: Vec<u32>,
    /// Role index per tile and phase.
    roles: Vec<u16>,
    /// Tile per PE of the machine, row by row.
    cells: Vec<u32>,
    width: usize,
    hops: Hops<'a>,
}

impl<'a> Fabric<'a> {
    /// Looks up everything once.
    ///
    /// # Errors
    /// When ids or rectangles of the plan are out of range.
    pub fn new(plan: &'a Plan) -> Result<Self, SimError> {
        let illegal = |what: String| SimError::Illegal { what };
        let map = PlanMap::new(plan);
        let width = plan.target.total_width() as usize;
        let height = plan.target.height as usize;
        let mut fabric = Fabric {
            plan,
            region_base: Vec::new(),
            points: Vec::new(),
            regions: Vec::new(),
            colors: plan.target.fabric.colors.min(64) as usize,
            routes: Vec::new(),
            role_base: Vec::new(),
            roles: Vec::new(),
            cells: vec![NONE; width * height],
            width,
            hops: Hops::new(plan),
        };
        for (i, region) in plan.regions.iter().enumerate() {
            let t = map.templates.get(region.template.0 as usize);
            let t =
                t.ok_or_else(|| illegal(format!("region `{}` has no template", region.name)))?;
            let r = region.rect;
            let inside = u64::from(r.x) + u64::from(r.w) <= width as u64
                && u64::from(r.y) + u64::from(r.h) <= height as u64;
            if !inside || (r.w, r.h) != (t.template.width, t.template.height) {
                return Err(illegal(format!("rectangle of region `{}`", region.name)));
            }
            fabric.add_region(i, t)?;
        }
        fabric.add_wires();
        Ok(fabric)
    }

    fn add_region(&mut self, i: usize, map: &plan::TemplateMap<'a>) -> Result<(), SimError> {
        let region = &self.plan.regions[i];
        let template = map.template;
        self.region_base.push(self.points.len() as u32);
        for y in 0..template.height {
            for x in 0..template.width {
                let point = region.point((x, y));
                let cell = &mut self.cells[point.y as usize * self.width + point.x as usize];
                if *cell != NONE {
                    let what = format!("region `{}` overlaps another", region.name);
                    return Err(SimError::Illegal { what });
                }
                *cell = self.points.len() as u32;
                self.points.push(point);
                self.regions.push(i as u32);
                self.role_base.push(self.roles.len() as u32);
                for phase in 0..template.phases.len() {
                    let role = map.role_index(phase, x, y).ok_or_else(|| SimError::Illegal {
                        what: format!(
                            "({x}, {y}) of template `{}` has no role in phase `{}`",
                            template.name, template.phases[phase].name
                        ),
                    })?;
                    self.roles.push(role as u16);
                }
                let base = self.routes.len();
                self.routes.resize(base + self.colors, (0, 0));
                for color in map.colors() {
                    let slot = region.color(color).0 as usize;
                    let Some(slot) = self.routes[base..].get_mut(slot) else { continue };
                    for route in map.routes_at(color, x, y) {
                        let o = region.orientation;
                        slot.0 |= 1 << o.port(route.input) as u8;
                        slot.1 |= o.ports(route.outputs).0;
                    }
                }
            }
        }
        Ok(())
    }

    fn add_wires(&mut self) {
        let plan = self.plan;
        for wire in &plan.wires {
            for y in wire.rect.y..wire.rect.y.saturating_add(wire.rect.h).min(plan.target.height) {
                let end = wire.rect.x.saturating_add(wire.rect.w).min(plan.target.total_width());
                for x in wire.rect.x..end {
                    let cell = y as usize * self.width + x as usize;
                    if self.cells[cell] == NONE {
                        self.cells[cell] = self.points.len() as u32;
                        self.points.push(Point { x, y });
                        self.regions.push(NONE);
                        self.role_base.push(0);
                        self.routes.resize(self.routes.len() + self.colors, (0, 0));
                    }
                    let slot = self.cells[cell] as usize * self.colors + wire.color.0 as usize;
                    if (wire.color.0 as usize) < self.colors && self.routes[slot] == (0, 0) {
                        self.routes[slot] = (1 << wire.input as u8, wire.outputs.0);
                    }
                }
            }
        }
    }

    /// Number of tiles.
    pub fn len(&self) -> usize {
        self.points.len()
    }

    /// True for a plan without regions.
    pub fn is_empty(&self) -> bool {
        self.points.is_empty()
    }

    /// The template of a tile; `None` for a wire's router.
    pub fn template(&self, tile: usize) -> Option<&'a Template> {
        let region = self.plan.regions.get(self.regions[tile] as usize)?;
        self.plan.template_of(region)
    }

    /// The template position of a tile of a region.
    pub fn position(&self, tile: usize) -> (u32, u32) {
        let region = self.regions[tile] as usize;
        let local = tile as u32 - self.region_base[region];
        let w = self.plan.regions[region].rect.w;
        (local % w, local / w)
    }

    /// The tile of region `region` at a template position.
    pub fn tile_in(&self, region: usize, (x, y): (u32, u32)) -> usize {
        (self.region_base[region] + y * self.plan.regions[region].rect.w + x) as usize
    }

    /// Index of the role of a tile in a phase; `None` for a wire's router.
    pub fn role_index(&self, tile: usize, phase: usize) -> Option<usize> {
        if self.regions[tile] == NONE {
            return None;
        }
        let role = self.roles[self.role_base[tile] as usize + phase];
        (role != NO_ROLE).then_some(role as usize)
    }

    /// The program of a tile in a phase.
    pub fn program(&self, tile: usize, phase: usize) -> &'a [Instr] {
        let find = || {
            let role = self.role_index(tile, phase)?;
            self.template(tile)?.phases.get(phase)?.roles.get(role)
        };
        find().map_or(&[], |role| &role.program)
    }

    /// The wafer color of a template color on a tile, when it is in range.
    pub fn color(&self, tile: usize, color: Color) -> Option<usize> {
        let region = self.plan.regions.get(self.regions[tile] as usize)?;
        let c = region.color(color).0 as usize;
        (c < self.colors).then_some(c)
    }

    /// Where wavelets of a color that enter `tile` through `from` go; none when they are not routed.
    pub fn outputs(&self, tile: usize, color: usize, from: Port) -> Ports {
        let (input, outputs) = self.routes[tile * self.colors + color];
        if input == 1 << from as u8 { Ports(outputs) } else { Ports::NONE }
    }

    /// Input port bit and output port bits of a color on a tile's router; zeros when unused.
    pub fn route_bits(&self, tile: usize, color: usize) -> (u8, u8) {
        self.routes[tile * self.colors + color]
    }

    /// The tile a hop away.
    pub fn neighbor(&self, tile: usize, port: Port) -> Option<usize> {
        let (dx, dy) = port.step();
        let p = self.points[tile];
        let (x, y) = (i64::from(p.x) + dx, i64::from(p.y) + dy);
        if x < 0 || y < 0 || x >= self.width as i64 || y >= i64::from(self.plan.target.height) {
            return None;
        }
        let cell = self.cells[y as usize * self.width + x as usize];
        (cell != NONE).then_some(cell as usize)
    }

    /// Cycles of the hop from `tile` through `port`: dearer between two wafers and around dead PEs.
    pub fn hop_cycles(&self, tile: usize, port: Port) -> u64 {
        self.hops.cycles(self.points[tile], port)
    }

    /// Whether the hop from `tile` through `port` leads to another wafer.
    pub fn crosses(&self, tile: usize, port: Port) -> bool {
        self.hops.crosses(self.points[tile], port)
    }

    /// Tiles whose core receives what the core of `tile` sends on `color`.
    ///
    /// # Errors
    /// When the flow runs into a router that does not take it.
    pub fn receivers(&self, tile: usize, color: usize) -> Result<Vec<u32>, SimError> {
        let mut receivers = Vec::new();
        let mut open = vec![(tile, Port::Ramp)];
        let mut steps = 0;
        while let Some((at, from)) = open.pop() {
            let outputs = self.outputs(at, color, from);
            steps += 1;
            if outputs.is_empty() || steps > self.len() {
                let p = self.points[at];
                let what = format!("color {color} from {from:?} is lost at PE ({}, {})", p.x, p.y);
                return Err(SimError::Illegal { what });
            }
            for port in outputs.iter() {
                if port == Port::Ramp {
                    receivers.push(at as u32);
                } else if let Some(next) = self.neighbor(at, port) {
                    open.push((next, port.opposite()));
                } else {
                    let p = self.points[at];
                    let what = format!("color {color} leaves PE ({}, {}) to nowhere", p.x, p.y);
                    return Err(SimError::Illegal { what });
                }
            }
        }
        receivers.sort_unstable();
        Ok(receivers)
    }
}
