//! Streams between regions: how the activation vector enters and leaves a template.
//!
//! The vector is cut over rows and consecutive regions have the same rows, so along a strip every
//! row streams east by itself and is multicast in the next region. At the end of a strip row y
//! leaves southward in a column of its own: column `W-1-(y - j*C)` for band j of C rows, on the color
//! of band j; below it enters the mirrored region in template column `y - j*C`, is relayed by that PE
//! and multicast along the row. No two rows of a band share a column, so nothing merges. On wafers
//! that are ploughed upwards the same turn leads north.

use plan::{
    Clause, Combine, CommShape, Instr, Len, Port, Ports, Predicate, Role, Route, WireFormat,
};

use super::palette::{STREAM_IN, STREAM_OUT, turn_in, turn_out};
use crate::program::builder::{TemplateBuilder, Vector};

/// The geometry of a strip turn, the same on both sides of the border.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Turn {
    /// C: columns used for the legs, and rows per band.
    pub columns: u32,
    /// Bands of rows.
    pub bands: u32,
    /// Leads to the strip above instead of the one below.
    pub north: bool,
}

impl Turn {
    /// The turn between regions of these widths with `height` rows.
    pub fn new((from_width, to_width): (u32, u32), height: u32, north: bool) -> Self {
        let columns = from_width.min(to_width).min(height).max(1);
        Turn { columns, bands: height.div_ceil(columns), north }
    }

    /// The ports by which a leg enters and leaves a router.
    fn ports(&self) -> (Port, Port) {
        if self.north { (Port::South, Port::North) } else { (Port::North, Port::South) }
    }

    fn rows(&self, band: u32, height: u32) -> (u32, u32) {
        (band * self.columns, ((band + 1) * self.columns).min(height))
    }
}

/// How the activation vector enters a region.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Entry {
    /// It starts here.
    Start,
    /// Along rows, from the west (in template coordinates).
    Row,
    /// From the strip above or below.
    Turn(Turn),
}

/// How the activation vector leaves a region.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Exit {
    /// It ends here.
    End,
    /// Along rows, to the east (in template coordinates).
    Row,
    /// To the strip below or above.
    Turn(Turn),
}

impl Entry {
    /// Colors of turns it uses.
    pub fn bands(self) -> u32 {
        match self {
            Entry::Turn(turn) => turn.bands,
            Entry::Start | Entry::Row => 0,
        }
    }
}

impl Exit {
    /// Colors of turns it uses.
    pub fn bands(self) -> u32 {
        match self {
            Exit::Turn(turn) => turn.bands,
            Exit::End | Exit::Row => 0,
        }
    }
}

fn x_range(from: u32, to: u32) -> Predicate {
    Predicate::everywhere().and_x(Clause::range(from, to))
}

fn route(color: plan::Color, predicate: Predicate, input: Port, outputs: &[Port]) -> Route {
    Route { color, predicate, input, outputs: Ports::of(outputs) }
}

/// Adds the phase and routes that fill `x` on every PE.
pub(crate) fn enter(b: &mut TemplateBuilder, entry: Entry, x: Vector, (width, height): (u32, u32)) {
    let recv =
        |color| Instr::Recv { color, dst: x.all(), combine: Combine::Store, wire: WireFormat::F32 };
    match entry {
        Entry::Start => {}
        Entry::Row => {
            b.routes(vec![route(STREAM_IN, x_range(width - 1, width), Port::West, &[Port::Ramp])]);
            if width > 1 {
                let outputs = [Port::Ramp, Port::East];
                b.routes(vec![route(STREAM_IN, x_range(0, width - 1), Port::West, &outputs)]);
            }
            let shape = multicast("stream in", x.len, width, 1);
            let predicate = Predicate::everywhere();
            let roles =
                vec![Role { name: "all".into(), predicate, program: vec![recv(STREAM_IN)] }];
            b.phase("receive", Some(shape), roles);
        }
        Entry::Turn(turn) => {
            let mut roles = Vec::new();
            for band in 0..turn.bands {
                enter_band(b, &mut roles, x, turn, band, (width, height));
            }
            let shape = multicast("turn in", x.len, height + width, 2);
            b.phase("receive", Some(shape), roles);
        }
    }
}

fn multicast(kind: &str, serial: Len, hops: u32, depth: u32) -> CommShape {
    CommShape { kind: kind.to_string(), serial, hops, depth, messages: 1 }
}

fn enter_band(
    b: &mut TemplateBuilder,
    roles: &mut Vec<Role>,
    x: Vector,
    turn: Turn,
    band: u32,
    (width, height): (u32, u32),
) {
    let (first, end) = turn.rows(band, height);
    let color = turn_in(band);
    let diagonal = -i64::from(first);
    let rows = || Predicate::everywhere().and_y(Clause::range(first, end));
    let on = |from: i64, to: i64| Predicate { diagonal: Some((from, to)), ..rows() };
    let far = i64::from(width) + i64::from(height);
    let store =
        |color| Instr::Recv { color, dst: x.all(), combine: Combine::Store, wire: WireFormat::F32 };
    // Forwarded wavelet by wavelet, and kept.
    let relay = Instr::Relay {
        input: color,
        output: STREAM_IN,
        local: x.all(),
        combine: Combine::Store,
        store: true,
        wire: WireFormat::F32,
    };
    // The leg passes all rows before the one where it arrives.
    let columns = end - first;
    let before = if turn.north { (-far, diagonal) } else { (diagonal + 1, far) };
    let pass = Predicate { diagonal: Some(before), ..x_range(0, columns) };
    let (input, onward) = turn.ports();
    b.routes(vec![
        route(color, on(diagonal, diagonal + 1), input, &[Port::Ramp]),
        route(color, pass, input, &[onward]),
    ]);
    let sides = [
        (on(-far, diagonal), Port::East, Port::West, 0u32),
        (on(diagonal + 1, far), Port::West, Port::East, width - 1),
    ];
    let mut roles_of_band = Vec::new();
    for (predicate, input, onward, last) in sides {
        let ends = predicate.clone().and_x(Clause::range(last, last + 1));
        b.routes(vec![route(STREAM_IN, ends, input, &[Port::Ramp])]);
        let inner = if last == 0 { Clause::range(1, width) } else { Clause::range(0, width - 1) };
        let between = predicate.clone().and_x(inner);
        if width > 1 {
            b.routes(vec![route(STREAM_IN, between, input, &[Port::Ramp, onward])]);
        }
        let program = vec![store(STREAM_IN)];
        roles_of_band.push(Role { name: "all".into(), predicate, program });
    }
    // The arrival may stand at an end of the row, where it multicasts to one side only.
    let arrival = on(diagonal, diagonal + 1);
    let program = vec![if width > 1 { relay } else { store(color) }];
    if width > 1 {
        let at = |from, to| arrival.clone().and_x(Clause::range(from, to));
        b.routes(vec![
            route(STREAM_IN, at(0, 1), Port::Ramp, &[Port::East]),
            route(STREAM_IN, at(width - 1, width), Port::Ramp, &[Port::West]),
            route(STREAM_IN, at(1, width - 1), Port::Ramp, &[Port::West, Port::East]),
        ]);
    }
    roles_of_band.push(Role { name: "arrival".into(), predicate: arrival, program });
    roles.extend(roles_of_band);
}

/// What the root column of the last reduction of a region sends with `Exit::Row`, and the routes.
pub(crate) fn leave_row(b: &mut TemplateBuilder, x: Vector, root: u32, width: u32) -> Instr {
    b.routes(vec![route(STREAM_OUT, x_range(root, root + 1), Port::Ramp, &[Port::East])]);
    if root + 1 < width {
        b.routes(vec![route(STREAM_OUT, x_range(root + 1, width), Port::West, &[Port::East])]);
    }
    Instr::Send { color: STREAM_OUT, src: x.all(), wire: WireFormat::F32 }
}

/// Adds the phase and routes of `Exit::Turn`: every PE runs `before`, then one PE per row sends.
pub(crate) fn leave_turn(
    b: &mut TemplateBuilder,
    before: &[Instr],
    x: Vector,
    (turn, bands_in): (Turn, u32),
    (width, height): (u32, u32),
) {
    let mut roles = Vec::new();
    let far = i64::from(width) + i64::from(height);
    for band in 0..turn.bands {
        let (first, end) = turn.rows(band, height);
        let color = turn_out(band, bands_in);
        let sum = i64::from(width) - 1 + i64::from(first);
        let rows = || Predicate::everywhere().and_y(Clause::range(first, end));
        let on = |from: i64, to: i64| Predicate { antidiagonal: Some((from, to)), ..rows() };
        let columns = end - first;
        let after = if turn.north { (0, sum) } else { (sum + 1, far) };
        let pass = Predicate { antidiagonal: Some(after), ..x_range(width - columns, width) };
        let (input, onward) = turn.ports();
        b.routes(vec![
            route(color, on(sum, sum + 1), Port::Ramp, &[onward]),
            route(color, pass, input, &[onward]),
        ]);
        let send = Instr::Send { color, src: x.all(), wire: WireFormat::F32 };
        let program = before.iter().cloned().chain([send]).collect();
        let idle = |predicate| Role { name: "idle".into(), predicate, program: Vec::new() };
        roles.push(idle(on(0, sum)));
        roles.push(Role { name: "departure".into(), predicate: on(sum, sum + 1), program });
        roles.push(idle(on(sum + 1, far)));
    }
    // Its wavelets are counted where they arrive.
    b.phase("send", Some(multicast("turn out", Len::of(0), 0, 0)), roles);
}
