//! Cycles of a hop: between neighbours, around dead PEs, and between two wafers.

use plan::{Plan, Point, Port, RepairMap, Target};

/// What hops of a plan cost.
pub struct Hops<'a> {
    target: &'a Target,
    repair: Option<RepairMap<'a>>,
}

impl<'a> Hops<'a> {
    /// Looks up the repair of a plan.
    pub fn new(plan: &'a Plan) -> Self {
        let target = &plan.target;
        let repair = plan.repair.as_ref();
        let repair = repair.map(|r| RepairMap::new(r, target.width, target.height));
        Hops { target, repair }
    }

    /// Whether hops of the mesh can differ from each other.
    pub fn vary(&self) -> bool {
        self.repair.is_some()
    }

    /// Whether a hop leads to another wafer.
    pub fn crosses(&self, at: Point, port: Port) -> bool {
        match port {
            Port::East => (at.x + 1).is_multiple_of(self.target.width),
            Port::West => at.x.is_multiple_of(self.target.width),
            _ => false,
        }
    }

    /// Cycles of the hop from a PE of the grid through a mesh port.
    pub fn cycles(&self, at: Point, port: Port) -> u64 {
        let fabric = &self.target.fabric;
        let hop = u64::from(fabric.hop_cycles);
        let hops = self.repair.as_ref().map_or(1, |r| u64::from(r.hops(at, port)));
        if self.crosses(at, port) {
            return u64::from(fabric.wafer_hop_cycles) + hops.saturating_sub(1) * hop;
        }
        hops * hop
    }
}
