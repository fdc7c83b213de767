//! Breaks what is done: roles, messages, routes, operands, and who waits for whom.

use tensor::Rng;

use super::{Kind, pick, used_template};
use crate::buffer::BufferId;
use crate::geometry::{Port, Ports};
use crate::index::{Clause, Predicate};
use crate::plan::Plan;
use crate::program::{Combine, Instr, Len, Slice, WireFormat};
use crate::route::{Color, Route};
use crate::template::{Phase, Role};

/// Whether an instruction reads or writes a buffer through a slice.
pub(super) fn names(instr: &Instr, id: BufferId) -> bool {
    let mut copy = instr.clone();
    slices(&mut copy).iter().any(|s| s.buffer == id)
}

pub(super) fn roles(plan: &mut Plan, kind: Kind, rng: &mut Rng) -> Option<()> {
    let id = used_template(plan, rng)?;
    let t = &mut plan.templates[id];
    let phase = rng.below(t.phases.len());
    let (w, h) = (t.width, t.height);
    let roles = &mut t.phases[phase].roles;
    let somewhere = |r: &Role| (0..h).any(|y| (0..w).any(|x| r.predicate.holds(x, y)));
    let real: Vec<usize> = (0..roles.len()).filter(|&i| somewhere(&roles[i])).collect();
    let i = pick(&real, rng)?;
    if kind == Kind::RoleLost {
        roles.remove(i);
    } else {
        let copy = roles[i].clone();
        roles.push(copy);
    }
    Some(())
}

/// Every instruction of a used template that fits: (template, phase, role, index).
fn find(plan: &Plan, rng: &mut Rng, fits: impl Fn(&Instr) -> bool) -> Option<[usize; 4]> {
    let mut sites = Vec::new();
    let id = used_template(plan, rng)?;
    let t = &plan.templates[id];
    for (p, phase) in t.phases.iter().enumerate() {
        for (r, role) in phase.roles.iter().enumerate() {
            let somewhere = |x: u32, y: u32| role.predicate.holds(x, y);
            if (0..t.height).any(|y| (0..t.width).any(|x| somewhere(x, y))) {
                let fitting = role.program.iter().enumerate().filter(|(_, i)| fits(i));
                sites.extend(fitting.map(|(i, _)| [id, p, r, i]));
            }
        }
    }
    pick(&sites, rng)
}

fn program(plan: &mut Plan, [t, p, r, _]: [usize; 4]) -> &mut Vec<Instr> {
    &mut plan.templates[t].phases[p].roles[r].program
}

pub(super) fn messages(plan: &mut Plan, kind: Kind, rng: &mut Rng) -> Option<()> {
    let carries = |i: &Instr| i.communication().is_some_and(|c| c.len != Len::default());
    let site = match kind {
        Kind::SendLost => find(plan, rng, |i| carries(i) && matches!(i, Instr::Send { .. }))?,
        Kind::ReceiveLost => find(plan, rng, |i| carries(i) && matches!(i, Instr::Recv { .. }))?,
        // One side only: of a relay both change, which still breaks it against its neighbours' sides
        // unless all of a chain are relays; leave relays out.
        _ => find(plan, rng, |i| carries(i) && !matches!(i, Instr::Relay { .. }))?,
    };
    if matches!(kind, Kind::SendLost | Kind::ReceiveLost) {
        program(plan, site).remove(site[3]);
        return Some(());
    }
    let unused = unused_colors(plan, site[0]);
    match &mut program(plan, site)[site[3]] {
        Instr::Send { color, src: slice, wire } | Instr::Recv { color, dst: slice, wire, .. } => {
            match kind {
                Kind::LengthWrong if slice.len.constant > 0 => slice.len.constant -= 1,
                Kind::LengthWrong => slice.len.per_kv_token -= 1,
                Kind::WireFormatWrong => {
                    *wire =
                        if *wire == WireFormat::F32 { WireFormat::BF16 } else { WireFormat::F32 };
                }
                _ => *color = pick(&unused, rng)?,
            }
        }
        _ => return None,
    }
    Some(())
}

/// Colors within the budget that no route of a template uses.
fn unused_colors(plan: &Plan, template: usize) -> Vec<Color> {
    let used: Vec<Color> = plan.templates[template].routes.iter().map(|r| r.color).collect();
    (0..plan.target.usable_colors() as u8).map(Color).filter(|c| !used.contains(c)).collect()
}

pub(super) fn routes(plan: &mut Plan, kind: Kind, rng: &mut Rng) -> Option<()> {
    let usable = plan.target.usable_colors() as u8;
    // A route at a core that sends or receives carries a message.
    let site = find(plan, rng, |i| matches!(i, Instr::Send { .. } | Instr::Recv { .. }))?;
    let instr = program(plan, site)[site[3]].clone();
    let c = instr.communication()?;
    let color = c.input.or(c.output)?;
    let predicate = plan.templates[site[0]].phases[site[1]].roles[site[2]].predicate.clone();
    let t = &mut plan.templates[site[0]];
    let (w, h) = (t.width, t.height);
    let at =
        (0..h).flat_map(|y| (0..w).map(move |x| (x, y))).find(|&(x, y)| predicate.holds(x, y))?;
    let i = t.routes.iter().position(|r| r.color == color && r.predicate.holds(at.0, at.1))?;
    match kind {
        Kind::RouteLost => {
            t.routes.remove(i);
        }
        Kind::ColorClash => {
            let route = &t.routes[i];
            let other =
                Port::ALL.into_iter().find(|&p| p != route.input && !route.outputs.contains(p))?;
            let copy = Route { input: other, ..route.clone() };
            t.routes.push(copy);
        }
        Kind::RouteTurned => {
            let route = &mut t.routes[i];
            if c.input.is_some() {
                // Towards the neighbour instead of the core.
                let without = route.outputs.0 & !Ports::of(&[Port::Ramp]).0;
                route.outputs =
                    if without == 0 { Ports::of(&[route.input]) } else { Ports(without) };
            } else {
                route.input = *Port::ALL[..4].iter().find(|p| !route.outputs.contains(**p))?;
            }
        }
        _ => {
            let id = site[0] as u32;
            let region = plan.regions.iter_mut().find(|r| r.template.0 == id)?;
            region.colors.retain(|(from, _)| *from != color);
            region.colors.push((color, Color(usable + rng.below(3) as u8)));
        }
    }
    Some(())
}

/// All slices of an instruction that it names directly.
fn slices(instr: &mut Instr) -> Vec<&mut Slice> {
    use crate::program::Operand;
    match instr {
        Instr::Fill { dst, .. } | Instr::Gather { dst, .. } => vec![dst],
        Instr::Copy { dst, src }
        | Instr::CopyPiece { dst, src, .. }
        | Instr::Keep { dst, src, .. }
        | Instr::Unary { dst, src, .. }
        | Instr::Reduce { dst, src, .. }
        | Instr::Broadcast { dst, src, .. }
        | Instr::ArgMax { dst, src, .. } => vec![dst, src],
        Instr::Binary { dst, a, b: Operand::Slice(b) | Operand::PerSegment(b), .. } => {
            vec![dst, a, b]
        }
        Instr::Part { dst, a, b: Operand::Slice(b) | Operand::PerSegment(b), .. } => {
            vec![dst, a, b]
        }
        Instr::Binary { dst, a, .. } | Instr::Part { dst, a, .. } => vec![dst, a],
        Instr::Gemv { y, x, .. } => vec![y, x],
        Instr::Angles { dst, inv_freq, .. } => vec![dst, inv_freq],
        Instr::Rope { data, angles, .. } => vec![data, angles],
        Instr::KvAppend { src, .. } | Instr::Send { src, .. } => vec![src],
        Instr::Scores { dst, q, .. } => vec![dst, q],
        Instr::AttendValues { dst, p, .. } => vec![dst, p],
        Instr::Recv { dst, .. } => vec![dst],
        Instr::Relay { local, .. } => vec![local],
        Instr::Gemm { c, a, b, .. } => vec![c, a, b],
        Instr::Software { .. }
        | Instr::Start { .. }
        | Instr::Join { .. }
        | Instr::Repeat { .. } => vec![],
    }
}

pub(super) fn operands(plan: &mut Plan, kind: Kind, rng: &mut Rng) -> Option<()> {
    let full = |s: &Slice| s.len.constant > 0;
    let site = match kind {
        Kind::WeightWritten => find(plan, rng, |i| writes(&mut i.clone()).is_some())?,
        _ => find(plan, rng, |i| {
            let mut copy = i.clone();
            let slices = slices(&mut copy);
            !slices.is_empty() && slices.iter().all(|s| full(s))
        })?,
    };
    let t = &plan.templates[site[0]];
    let elements: Vec<u64> = t.buffers.iter().map(|b| b.elements()).collect();
    let weights: Vec<u32> = (0u32..)
        .zip(&t.buffers)
        .filter(|(_, b)| b.role == crate::BufferRole::Weights)
        .map(|(i, _)| i)
        .collect();
    let instr = &mut program(plan, site)[site[3]];
    if kind == Kind::WeightWritten {
        writes(instr)?.buffer = BufferId(pick(&weights, rng)?);
        return Some(());
    }
    let mut all = slices(instr);
    let i = rng.below(all.len());
    if kind == Kind::BufferDangling {
        all[i].buffer = BufferId(elements.len() as u32 + rng.below(5) as u32);
    } else {
        let n = elements[all[i].buffer.0 as usize];
        all[i].offset = u32::try_from(n).ok()? + 1 - all[i].len.constant;
    }
    Some(())
}

/// The slice a local instruction or a receive writes.
fn writes(instr: &mut Instr) -> Option<&mut Slice> {
    match instr {
        Instr::Fill { dst, .. }
        | Instr::Copy { dst, .. }
        | Instr::CopyPiece { dst, .. }
        | Instr::Keep { dst, .. }
        | Instr::Unary { dst, .. }
        | Instr::Binary { dst, .. }
        | Instr::Reduce { dst, .. }
        | Instr::Gather { dst, .. }
        | Instr::Angles { dst, .. }
        | Instr::Broadcast { dst, .. }
        | Instr::Recv { dst, .. } => Some(dst),
        Instr::Gemv { y, .. } => Some(y),
        Instr::Gemm { c, .. } => Some(c),
        Instr::Scores { dst, .. } | Instr::AttendValues { dst, .. } => Some(dst),
        _ => None,
    }
}

/// Adds a phase in which two neighbours each receive before they send to the other.
pub(super) fn cyclic_wait(plan: &mut Plan, rng: &mut Rng) -> Option<()> {
    let id = used_template(plan, rng)?;
    let unused = unused_colors(plan, id);
    let taken: Vec<Color> =
        plan.regions.iter().flat_map(|r| r.colors.iter().flat_map(|c| [c.0, c.1])).collect();
    let wired: Vec<Color> = plan.wires.iter().map(|w| w.color).collect();
    let free: Vec<Color> =
        unused.into_iter().filter(|c| !taken.contains(c) && !wired.contains(c)).collect();
    let &[there, back, ..] = &free[..] else { return None };
    let t = &mut plan.templates[id];
    let horizontal = t.width > 1;
    let n = if horizontal { t.width } else { t.height };
    let a = rng.below((n as usize).checked_sub(1)?) as u32;
    let at = |i: u32| {
        let clause = Clause::range(i, i + 1);
        if horizontal {
            Predicate::everywhere().and_x(clause)
        } else {
            Predicate::everywhere().and_y(clause)
        }
    };
    let (ahead, behind) =
        if horizontal { (Port::East, Port::West) } else { (Port::South, Port::North) };
    let mut route = |color, predicate, input, output| {
        t.routes.push(Route { color, predicate, input, outputs: Ports::of(&[output]) });
    };
    route(there, at(a), Port::Ramp, ahead);
    route(there, at(a + 1), behind, Port::Ramp);
    route(back, at(a + 1), Port::Ramp, behind);
    route(back, at(a), ahead, Port::Ramp);
    let writable = |b: &crate::Buffer| {
        !b.storage.is_quantized()
            && !matches!(b.role, crate::BufferRole::Weights | crate::BufferRole::KvCache)
    };
    // Its phase must not kill anything: take a buffer that lives to the end already.
    let last = t.phases.len() as u32 - 1;
    let buffer =
        t.buffers.iter().position(|b| writable(b) && b.live.1 == last && b.elements() > 0)?;
    let slice = Slice { buffer: BufferId(buffer as u32), offset: 0, len: Len::of(1) };
    let wire = WireFormat::F32;
    let exchange = |input, output| {
        let recv = Instr::Recv { color: input, dst: slice, combine: Combine::Store, wire };
        vec![recv, Instr::Send { color: output, src: slice, wire }]
    };
    let role = |from: u32, to: u32, program| {
        let clause = Clause::range(from, to);
        let predicate = if horizontal {
            Predicate::everywhere().and_x(clause)
        } else {
            Predicate::everywhere().and_y(clause)
        };
        Role { name: "mutant".into(), predicate, program }
    };
    let roles = vec![
        role(0, a, vec![]),
        role(a, a + 1, exchange(back, there)),
        role(a + 1, a + 2, exchange(there, back)),
        role(a + 2, n, vec![]),
    ];
    t.phases.push(Phase { name: "mutant".into(), comm: None, roles });
    t.buffers.iter_mut().filter(|b| b.live.1 == last).for_each(|b| b.live.1 += 1);
    Some(())
}
