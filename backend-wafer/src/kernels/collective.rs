//! Broadcasts and reductions along a row of PEs, by the algorithms that have closed forms.
//!
//! Every PE loads a vector from a table in the plan, then the row runs one collective (Luczynski et al.,
//! HPDC 2024). A broadcast is one multicast whatever the algorithm; an allreduce is a reduction and a
//! multicast back. Does not multiply: see [`super::gemv`].

use plan::{
    Affine, Axis, Clause, Color, Combine, CommShape, Instr, Len, LogitsOutput, Port, Ports,
    Predicate, RegionId, Role, Route, Slice, Target, Term, WireFormat,
};
use tensor::DType;

use super::{Built, KernelError, LOAD, input};
use crate::program::builder::{Columns, TemplateBuilder, Vector, reduce_roles};
use crate::program::pins::{Tiling, pin_vector, vector_buffer};
use crate::route::palette;
use crate::route::tree::{Line, Message, Pace, Reach, Tree};

/// What a collective does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// PE 0 to all.
    Broadcast,
    /// The sum of all, at one PE.
    Reduce,
    /// The sum of all, at all.
    Allreduce,
}

/// How a reduction goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// All send to PE 0, which adds one after another.
    Star,
    /// Neighbour by neighbour to PE 0.
    Chain,
    /// In log2 P rounds to PE 0, pairs at distance 1, 2, 4, ...
    Tree,
    /// Chains in groups of about sqrt(P), then a chain of their roots, to PE 0.
    TwoPhase,
    /// The two-level tree to the middle of the row that models use.
    KTree,
}

/// A reduction before it becomes a phase.
struct Reduction {
    roles: Vec<Role>,
    routes: Vec<Route>,
    comm: CommShape,
    root: u32,
}

/// The program of a collective.
///
/// # Errors
/// A star with more senders than colors and queues.
pub(super) fn build(
    (op, algorithm): (Op, Algorithm),
    (pes, n): (u32, u32),
    target: &Target,
) -> Result<Built, KernelError> {
    let name = match op {
        Op::Broadcast => "broadcast",
        Op::Reduce => "reduce",
        Op::Allreduce => "allreduce",
    };
    let mut b = TemplateBuilder::new(name.into(), pes, 1, (1, 1));
    let data = b.vector("data", n);
    load(&mut b, data, pes, n);
    let at = match (op, algorithm) {
        // One PE has nobody to talk to: the result is what it loaded.
        _ if pes == 1 => 0,
        (Op::Broadcast, _) => {
            let (roles, routes) = multicast(palette::STREAM_OUT, data, pes);
            b.routes(routes);
            b.phase(name, Some(shape("multicast x", (data.len, 1), pes - 1, 1)), roles);
            pes - 1
        }
        (_, Algorithm::Star | Algorithm::Tree) => {
            let reduction = match algorithm {
                Algorithm::Star => star(data, pes, target)?,
                _ => binary_tree(data, pes),
            };
            let reduction = match op {
                Op::Allreduce => and_back(reduction, data, pes),
                _ => reduction,
            };
            b.routes(reduction.routes);
            b.phase(name, Some(reduction.comm), reduction.roles);
            if op == Op::Allreduce { pes - 1 } else { reduction.root }
        }
        _ => {
            let tree = chains(algorithm, pes, n, target);
            let reach = if op == Op::Allreduce { Reach::All } else { Reach::Root };
            let message = Message { data: data.all(), combine: Combine::Add };
            let columns = Columns { used: pes, width: pes };
            b.routes(tree.routes());
            let roles = reduce_roles(&[], (&tree, message, reach), columns);
            b.phase(name, Some(tree.comm(reach, data.len)), roles);
            if reach == Reach::All { pes - 1 } else { tree.root() }
        }
    };
    let predicate = Predicate::everywhere().and_x(Clause::range(at, at + 1));
    let start = Affine::constant(0);
    let logits =
        LogitsOutput { region: RegionId(0), predicate, buffer: data.buffer, start, len: n };
    Ok(Built { name, program: b.finish(), logits, results: n })
}

fn load(b: &mut TemplateBuilder, data: Vector, pes: u32, n: u32) {
    let source = vector_buffer(b, "source", n);
    let tiling = Tiling::Columns { tile: n, extent: n * pes };
    let table = input("source", &[(n * pes) as usize], DType::F32);
    // The builder refuses nothing here: the input is one plain piece.
    let _ = pin_vector(b, &table, tiling, (source, 0), Some(1));
    let src = Slice { buffer: source, offset: 0, len: Len::of(n) };
    let program = vec![Instr::Copy { dst: data.all(), src }];
    let all = Role { name: "all".into(), predicate: Predicate::everywhere(), program };
    b.phase(LOAD, None, vec![all]);
}

/// The trees that are chains of chains.
fn chains(algorithm: Algorithm, pes: u32, n: u32, target: &Target) -> Tree {
    let line = Line { axis: Axis::X, len: pes, per_cell: false, extent: pes };
    let colors = palette::row_tree();
    let one_sided = |group| Tree::chains(line, group, colors, Pace::of(target));
    match algorithm {
        Algorithm::Chain => one_sided(pes),
        Algorithm::TwoPhase => one_sided(nearest_root(pes)),
        _ => Tree::best(line, colors, n, target),
    }
}

/// The number nearest to sqrt(p), at least 2.
fn nearest_root(p: u32) -> u32 {
    let root = p.isqrt();
    let up = u64::from(p) > u64::from(root) * u64::from(root + 1);
    (root + u32::from(up)).clamp(2, p.max(2))
}

fn shape(kind: &str, (len, messages): (Len, u32), hops: u32, depth: u32) -> CommShape {
    let serial = Len { constant: messages * len.constant, ..len };
    CommShape { kind: kind.into(), serial, hops, depth, messages }
}

fn at(from: u32, to: u32) -> Predicate {
    Predicate::everywhere().and_x(Clause::range(from, to))
}

fn route(color: Color, predicate: Predicate, input: Port, outputs: &[Port]) -> Route {
    Route { color, predicate, input, outputs: Ports::of(outputs) }
}

fn role(name: &str, predicate: Predicate, program: Vec<Instr>) -> Role {
    Role { name: name.into(), predicate, program }
}

fn send(color: Color, data: Vector) -> Instr {
    Instr::Send { color, src: data.all(), wire: WireFormat::F32 }
}

fn receive(color: Color, data: Vector, combine: Combine) -> Instr {
    Instr::Recv { color, dst: data.all(), combine, wire: WireFormat::F32 }
}

/// PE 0 sends, the router of every PE copies to its core and passes on.
fn multicast(color: Color, data: Vector, pes: u32) -> (Vec<Role>, Vec<Route>) {
    let mut routes = vec![
        route(color, at(0, 1), Port::Ramp, &[Port::East]),
        route(color, at(pes - 1, pes), Port::West, &[Port::Ramp]),
    ];
    if pes > 2 {
        routes.push(route(color, at(1, pes - 1), Port::West, &[Port::Ramp, Port::East]));
    }
    let roles = vec![
        role("root", at(0, 1), vec![send(color, data)]),
        role("leaf", at(1, pes), vec![receive(color, data, Combine::Store)]),
    ];
    (roles, routes)
}

/// Adds the multicast of the result from PE 0.
fn and_back(mut r: Reduction, data: Vector, pes: u32) -> Reduction {
    let used = r.routes.iter().map(|route| route.color.0 + 1).max().unwrap_or(0);
    let color = Color(used);
    let (_, routes) = multicast(color, data, pes);
    r.routes.extend(routes);
    for role in &mut r.roles {
        let root = role.predicate.holds(0, 0);
        let back = if root { send(color, data) } else { receive(color, data, Combine::Store) };
        role.program.push(back);
    }
    r.comm.serial.constant += data.len.constant;
    r.comm.hops += pes - 1;
    r.comm.depth += 1;
    r.comm.messages += 1;
    r
}

/// One color per sender, because a router has one input per color. Sender i begins when the wavelets of
/// those before it are through, so that links are never contended for and the root adds without a pause;
/// the fabric does this with a switch in each router, here the sender waits.
fn star(data: Vector, pes: u32, target: &Target) -> Result<Reduction, KernelError> {
    let fabric = &target.fabric;
    let queues = fabric.input_queues - fabric.reserved_queues;
    // One color is kept for the way back.
    let most = queues.min(target.usable_colors() - 1);
    if pes - 1 > most {
        return Err(KernelError::Star { target: target.name.clone(), pes, most });
    }
    let mut r = Reduction {
        roles: Vec::new(),
        routes: Vec::new(),
        comm: shape("reduce star x", (data.len, pes - 1), 1, 1),
        root: 0,
    };
    let mut gather = Vec::new();
    for sender in 1..pes {
        let color = Color(sender as u8 - 1);
        r.routes.push(route(color, at(sender, sender + 1), Port::Ramp, &[Port::West]));
        if sender > 1 {
            r.routes.push(route(color, at(1, sender), Port::East, &[Port::West]));
        }
        r.routes.push(route(color, at(0, 1), Port::East, &[Port::Ramp]));
        let ahead =
            u64::from(sender - 1) * u64::from(data.len.constant.saturating_sub(fabric.hop_cycles));
        let cycles = u32::try_from(ahead).unwrap_or(u32::MAX);
        let program = vec![Instr::Software { cycles }, send(color, data)];
        r.roles.push(role("sender", at(sender, sender + 1), program));
        gather.push(receive(color, data, Combine::Add));
    }
    r.roles.push(role("root", at(0, 1), gather));
    Ok(r)
}

/// In round r the odd multiples of 2^r send to the multiple of 2^(r+1) before them, each round on a
/// color of its own.
fn binary_tree(data: Vector, pes: u32) -> Reduction {
    let rounds = pes.next_power_of_two().trailing_zeros();
    let mut r = Reduction {
        roles: Vec::new(),
        routes: Vec::new(),
        comm: shape("reduce tree x", (data.len, rounds), pes - 1, rounds),
        root: 0,
    };
    let color = |round: u32| Color(round as u8);
    let gather = |rounds: u32| -> Vec<Instr> {
        (0..rounds).map(|k| receive(color(k), data, Combine::Add)).collect()
    };
    r.roles.push(role("root", at(0, 1), gather(rounds)));
    for round in 0..rounds {
        let (half, pair) = (1u32 << round, 1u32 << (round + 1));
        // Pairs whose sender exists end here.
        let end = (pes - half).div_ceil(pair) * pair;
        let mut rule = |from: u32, to: u32, input, output| {
            let within = Clause { term: Term::Rem(pair), from, to };
            let predicate = at(0, end).and_x(within);
            r.routes.push(route(color(round), predicate, input, &[output]));
        };
        rule(half, half + 1, Port::Ramp, Port::West);
        if half > 1 {
            rule(1, half, Port::East, Port::West);
        }
        rule(0, 1, Port::East, Port::Ramp);
        // Senders of this round; the last one may have missed partners of earlier rounds.
        let sender = Clause::eq(Term::Rem(pair), half);
        let last = end - half;
        let partners = (0..round).take_while(|k| last + (1 << k) < pes).count() as u32;
        let program = |n: u32| {
            let mut program = gather(n);
            program.push(send(color(round), data));
            program
        };
        if partners < round {
            r.roles.push(role("last", at(last, last + 1), program(partners)));
        }
        let full = if partners < round { last } else { pes };
        if full > half {
            r.roles.push(role("sender", at(1, full).and_x(sender), program(round)));
        }
    }
    r
}
