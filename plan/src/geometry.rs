//! Coordinates, ports and rectangles of the fabric.
//!
//! x grows east, y grows south, (0, 0) is the north-west PE. Several wafers stand side by side:
//! wafer k has x in `k*width .. (k+1)*width`, and the hop between two wafers costs the inter-wafer
//! link instead of a hop. Positions *inside a region* are `u32` pairs (x, y) relative to its
//! north-west corner before mirroring.

use serde::{Deserialize, Serialize};

/// A direction of the mesh: `X` along a row (east-west), `Y` along a column (north-south).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Axis {
    /// Along a row.
    X,
    /// Along a column.
    Y,
}

/// One of the five ports of a router.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Port {
    /// To the PE at y - 1.
    North,
    /// To the PE at x + 1.
    East,
    /// To the PE at y + 1.
    South,
    /// To the PE at x - 1.
    West,
    /// Between the router and its own core.
    Ramp,
}

impl Port {
    /// All ports, in the order of their bits in [`Ports`].
    pub const ALL: [Port; 5] = [Port::North, Port::East, Port::South, Port::West, Port::Ramp];

    /// The port of the neighbour that a wavelet leaving here enters; the ramp is its own.
    pub fn opposite(self) -> Port {
        match self {
            Port::North => Port::South,
            Port::East => Port::West,
            Port::South => Port::North,
            Port::West => Port::East,
            Port::Ramp => Port::Ramp,
        }
    }

    /// (dx, dy) of a hop through this port; (0, 0) for the ramp.
    pub fn step(self) -> (i64, i64) {
        match self {
            Port::North => (0, -1),
            Port::East => (1, 0),
            Port::South => (0, 1),
            Port::West => (-1, 0),
            Port::Ramp => (0, 0),
        }
    }

    /// The axis of travel; `None` for the ramp.
    pub fn axis(self) -> Option<Axis> {
        match self {
            Port::North | Port::South => Some(Axis::Y),
            Port::East | Port::West => Some(Axis::X),
            Port::Ramp => None,
        }
    }
}

/// A set of ports: bit i is `Port::ALL[i]`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Ports(pub u8);

impl Ports {
    /// No port.
    pub const NONE: Ports = Ports(0);

    /// The set of the ports given.
    pub fn of(ports: &[Port]) -> Self {
        ports.iter().fold(Ports::NONE, |set, &p| Ports(set.0 | 1 << p as u8))
    }

    /// Whether `port` is a member.
    pub fn contains(self, port: Port) -> bool {
        self.0 & (1 << port as u8) != 0
    }

    /// The members in the order of [`Port::ALL`].
    pub fn iter(self) -> impl Iterator<Item = Port> {
        Port::ALL.into_iter().filter(move |&p| self.contains(p))
    }

    /// Number of members.
    pub fn len(self) -> usize {
        (self.0 & 31).count_ones() as usize
    }

    /// True for the empty set.
    pub fn is_empty(self) -> bool {
        self.0 & 31 == 0
    }
}

/// A PE of the whole machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Point {
    /// Column, east; `wafer * width + column on that wafer`.
    pub x: u32,
    /// Row, south.
    pub y: u32,
}

/// A rectangle of PEs of the whole machine; never empty in a legal plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Rect {
    /// West-most column.
    pub x: u32,
    /// North-most row.
    pub y: u32,
    /// Columns.
    pub w: u32,
    /// Rows.
    pub h: u32,
}

impl Rect {
    /// Whether `p` lies inside.
    pub fn contains(&self, p: Point) -> bool {
        p.x >= self.x
            && p.y >= self.y
            && u64::from(p.x) < u64::from(self.x) + u64::from(self.w)
            && u64::from(p.y) < u64::from(self.y) + u64::from(self.h)
    }

    /// Whether the two share a PE.
    pub fn intersects(&self, other: &Rect) -> bool {
        let overlap = |a: u32, n: u32, b: u32, m: u32| {
            u64::from(a) < u64::from(b) + u64::from(m) && u64::from(b) < u64::from(a) + u64::from(n)
        };
        overlap(self.x, self.w, other.x, other.w) && overlap(self.y, self.h, other.y, other.h)
    }

    /// Number of PEs.
    pub fn area(&self) -> u64 {
        u64::from(self.w) * u64::from(self.h)
    }
}

/// How a template lies in its region: mirrored or not along each axis.
///
/// Mirroring in x maps template position x to `w - 1 - x` and swaps East with West in its routes;
/// mirroring in y likewise with `h - 1 - y`, North and South. Weights, predicates, the KV row
/// ownership and every index expression keep using the template's own (unmirrored) position.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Orientation {
    /// Mirrored east-west.
    pub mirror_x: bool,
    /// Mirrored north-south.
    pub mirror_y: bool,
}

impl Orientation {
    /// The port of the wafer that the template's `port` becomes.
    pub fn port(self, port: Port) -> Port {
        match port.axis() {
            Some(Axis::X) if self.mirror_x => port.opposite(),
            Some(Axis::Y) if self.mirror_y => port.opposite(),
            _ => port,
        }
    }

    /// The ports of the wafer that the template's `ports` become.
    pub fn ports(self, ports: Ports) -> Ports {
        ports.iter().fold(Ports::NONE, |set, p| Ports(set.0 | 1 << self.port(p) as u8))
    }

    /// Maps a position inside a `w` x `h` rectangle to its mirror image; its own inverse.
    pub fn position(self, (x, y): (u32, u32), w: u32, h: u32) -> (u32, u32) {
        let flip = |v: u32, n: u32, on: bool| if on { n - 1 - v } else { v };
        (flip(x, w, self.mirror_x), flip(y, h, self.mirror_y))
    }
}
