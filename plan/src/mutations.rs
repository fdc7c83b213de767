//! Breaks legal plans in known ways, for tests: `verify` must reject every one.
//!
//! [`mutate`] picks a place at random among those where the change is certain to break the plan, so no
//! mutant means the same as the original. `None` when the plan has no such place (a plan without
//! streams has none to lose). Works on any plan that `verify` accepts, compiled ones too.

use tensor::Rng;

use crate::buffer::BufferId;
use crate::geometry::{Port, Ports};
use crate::index::{Affine, Clause, Predicate};
use crate::plan::Plan;
use crate::program::{Combine, Instr, Len, Slice, WireFormat};
use crate::route::{Color, Route};
use crate::template::{Phase, Role};

/// A way to break a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A pin is lost: weight elements are nowhere.
    PinLost,
    /// A pin is there twice.
    PinDoubled,
    /// A slice starts elsewhere.
    SliceShifted,
    /// A slice is longer than its reserved place, or cut short.
    SliceResized,
    /// A declared weight has another shape.
    WeightReshaped,
    /// A weight is declared with more copies than there are.
    CopiesWrong,
    /// A weight that a region uses is not declared.
    WeightUndeclared,
    /// Two live buffers share bytes.
    BuffersOverlap,
    /// A buffer lies beyond SRAM.
    SramOverflow,
    /// A buffer has too few bytes.
    BufferShrunk,
    /// A buffer is dead when it is used.
    BufferDead,
    /// The KV cache has too few slots.
    CacheShrunk,
    /// A region leaves the wafer.
    RegionOutside,
    /// A region lies on another, or is larger than its template.
    RegionMoved,
    /// A PE in use is dead.
    PeDead,
    /// Positions without a role.
    RoleLost,
    /// Positions with two roles.
    RoleDoubled,
    /// A message is not sent.
    SendLost,
    /// A message is not received.
    ReceiveLost,
    /// A message has another length on one side.
    LengthWrong,
    /// A message goes out, or is awaited, on an unused color.
    ColorWrong,
    /// A message is encoded differently on one side.
    WireFormatWrong,
    /// A route that carries messages is lost.
    RouteLost,
    /// A color has two routes at one router.
    ColorClash,
    /// A route leads elsewhere.
    RouteTurned,
    /// A color outside of the budget.
    ColorOverBudget,
    /// An operand lies outside of its buffer.
    OperandOutside,
    /// An instruction names a buffer that is not there.
    BufferDangling,
    /// A weight buffer is written.
    WeightWritten,
    /// Two neighbours wait for each other.
    CyclicWait,
    /// Logits are not covered.
    LogitsLost,
    /// The token output is not on the region.
    TokenOutside,
    /// A stream is not declared, or with another size.
    StreamWrong,
    /// A wire that carries a stream is lost.
    WireLost,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Kind; 34] = [
        Kind::PinLost,
        Kind::PinDoubled,
        Kind::SliceShifted,
        Kind::SliceResized,
        Kind::WeightReshaped,
        Kind::CopiesWrong,
        Kind::WeightUndeclared,
        Kind::BuffersOverlap,
        Kind::SramOverflow,
        Kind::BufferShrunk,
        Kind::BufferDead,
        Kind::CacheShrunk,
        Kind::RegionOutside,
        Kind::RegionMoved,
        Kind::PeDead,
        Kind::RoleLost,
        Kind::RoleDoubled,
        Kind::SendLost,
        Kind::ReceiveLost,
        Kind::LengthWrong,
        Kind::ColorWrong,
        Kind::WireFormatWrong,
        Kind::RouteLost,
        Kind::ColorClash,
        Kind::RouteTurned,
        Kind::ColorOverBudget,
        Kind::OperandOutside,
        Kind::BufferDangling,
        Kind::WeightWritten,
        Kind::CyclicWait,
        Kind::LogitsLost,
        Kind::TokenOutside,
        Kind::StreamWrong,
        Kind::WireLost,
    ];
}

/// A broken copy of `plan`, or `None` when it cannot be broken in this way.
pub fn mutate(plan: &Plan, kind: Kind, rng: &mut Rng) -> Option<Plan> {
    let mut plan = plan.clone();
    let done = match kind {
        Kind::PinLost
        | Kind::PinDoubled
        | Kind::SliceShifted
        | Kind::SliceResized
        | Kind::WeightReshaped
        | Kind::CopiesWrong
        | Kind::WeightUndeclared => weights(&mut plan, kind, rng),
        Kind::BuffersOverlap
        | Kind::SramOverflow
        | Kind::BufferShrunk
        | Kind::BufferDead
        | Kind::CacheShrunk => memory(&mut plan, kind, rng),
        Kind::RegionOutside | Kind::RegionMoved | Kind::PeDead => regions(&mut plan, kind, rng),
        Kind::RoleLost | Kind::RoleDoubled => roles(&mut plan, kind, rng),
        Kind::SendLost
        | Kind::ReceiveLost
        | Kind::LengthWrong
        | Kind::ColorWrong
        | Kind::WireFormatWrong => messages(&mut plan, kind, rng),
        Kind::RouteLost | Kind::ColorClash | Kind::RouteTurned | Kind::ColorOverBudget => {
            routes(&mut plan, kind, rng)
        }
        Kind::OperandOutside | Kind::BufferDangling | Kind::WeightWritten => {
            operands(&mut plan, kind, rng)
        }
        Kind::CyclicWait => cyclic_wait(&mut plan, rng),
        Kind::LogitsLost | Kind::TokenOutside | Kind::StreamWrong | Kind::WireLost => {
            borders(&mut plan, kind, rng)
        }
    };
    done.map(|()| plan)
}

/// A random member of a list; `None` when it is empty.
fn pick<T: Copy>(list: &[T], rng: &mut Rng) -> Option<T> {
    (!list.is_empty()).then(|| list[rng.below(list.len())])
}

/// A template that some region runs.
fn used_template(plan: &Plan, rng: &mut Rng) -> Option<usize> {
    let ids: Vec<usize> = plan.regions.iter().map(|r| r.template.0 as usize).collect();
    pick(&ids, rng)
}

fn weights(plan: &mut Plan, kind: Kind, rng: &mut Rng) -> Option<()> {
    if kind == Kind::WeightReshaped || kind == Kind::CopiesWrong {
        let pinned: Vec<usize> =
            (0..plan.weights.len()).filter(|&i| plan.weights[i].copies > 0).collect();
        let decl = &mut plan.weights[pick(&pinned, rng)?];
        if kind == Kind::CopiesWrong {
            decl.copies += 1 + rng.below(3) as u32;
        } else {
            let axis = rng.below(decl.shape.len());
            decl.shape[axis] += 1 + rng.below(40) as u32;
        }
        return Some(());
    }
    if kind == Kind::WeightUndeclared {
        let i = rng.below(plan.weights.len());
        plan.weights.get(i)?;
        plan.weights.remove(i);
        return Some(());
    }
    let candidates: Vec<usize> = (0..8).filter_map(|_| used_template(plan, rng)).collect();
    let id = candidates.into_iter().find(|&id| !plan.templates[id].pins.is_empty())?;
    let t = &mut plan.templates[id];
    // A pin that holds something: its slices are not empty at its first position.
    let holds = |p: &crate::Pin| {
        let positions = (0..t.height).flat_map(|y| (0..t.width).map(move |x| (x, y)));
        let full = |s: &crate::Span, at| s.at(at, t.cell).is_some_and(|(a, b)| a < b);
        positions
            .filter(|&(x, y)| p.predicate.holds(x, y))
            .take(1)
            .any(|at| full(&p.axis0, at) && full(&p.axis1, at))
    };
    let full: Vec<usize> = (0..t.pins.len()).filter(|&i| holds(&t.pins[i])).collect();
    let i = pick(&full, rng)?;
    match kind {
        Kind::PinLost => {
            t.pins.remove(i);
        }
        Kind::PinDoubled => {
            let pin = t.pins[i].clone();
            t.pins.push(pin);
        }
        _ => {
            let pin = &mut t.pins[i];
            let span = if rng.below(2) == 0 { &mut pin.axis0 } else { &mut pin.axis1 };
            if kind == Kind::SliceShifted {
                span.start.base += [-3, -1, 1, 2][rng.below(4)];
            } else if rng.below(2) == 0 {
                span.len = span.len.checked_sub(1)?;
            } else {
                span.limit.base -= 1;
            }
        }
    }
    Some(())
}

fn memory(plan: &mut Plan, kind: Kind, rng: &mut Rng) -> Option<()> {
    let usable = plan.target.usable_sram();
    let context = plan.model.context;
    let id = used_template(plan, rng)?;
    let t = &mut plan.templates[id];
    if kind == Kind::CacheShrunk {
        let kv = t.kv.as_mut()?;
        let attended = kv.window.map_or(context, |w| w.min(context));
        kv.slots = (attended - 1) / kv.rows;
        return Some(());
    }
    let i = rng.below(t.buffers.len().max(1));
    let b = t.buffers.get(i)?.clone();
    match kind {
        Kind::SramOverflow => {
            t.buffers[i].offset = usable.checked_sub(b.bytes)?.next_multiple_of(4) + 4;
        }
        Kind::BufferShrunk => t.buffers[i].bytes = (b.min_bytes() as u32).checked_sub(1)?,
        Kind::BufferDead => {
            // Live in no phase in which it is used, or not for ever though it must be.
            let phases = t.phases.len() as u32;
            let uses = |p: &Phase| {
                p.roles.iter().any(|r| r.program.iter().any(|c| names(c, BufferId(i as u32))))
            };
            let kept = matches!(b.role, crate::BufferRole::Weights | crate::BufferRole::KvCache);
            let first = t.phases.iter().position(uses)? as u32;
            let last = t.phases.iter().rposition(uses)? as u32;
            if kept {
                t.buffers[i].live = (0, phases.checked_sub(2)?);
            } else if rng.below(2) == 0 {
                t.buffers[i].live = (first + 1, phases.max(first + 2) - 1);
            } else {
                t.buffers[i].live = (0, last.checked_sub(1)?);
            }
        }
        _ => {
            let other: Vec<usize> = (0..t.buffers.len())
                .filter(|&j| j != i && t.buffers[j].bytes > 0 && b.bytes > 0)
                .filter(|&j| b.live.0 <= t.buffers[j].live.1 && t.buffers[j].live.0 <= b.live.1)
                .collect();
            let j = pick(&other, rng)?;
            t.buffers[i].offset = t.buffers[j].offset;
        }
    }
    Some(())
}

/// Whether an instruction reads or writes a buffer through a slice.
fn names(instr: &Instr, id: BufferId) -> bool {
    let mut copy = instr.clone();
    slices(&mut copy).iter().any(|s| s.buffer == id)
}

fn regions(plan: &mut Plan, kind: Kind, rng: &mut Rng) -> Option<()> {
    let i = rng.below(plan.regions.len().max(1));
    let rect = plan.regions.get(i)?.rect;
    match kind {
        Kind::RegionOutside => {
            let region = &mut plan.regions[i];
            if rng.below(2) == 0 {
                region.rect.x = plan.target.total_width() - rect.w + 1 + rng.below(9) as u32;
            } else {
                region.rect.y = plan.target.height - rect.h + 1 + rng.below(9) as u32;
            }
        }
        Kind::RegionMoved => {
            let others: Vec<usize> = (0..plan.regions.len()).filter(|&j| j != i).collect();
            match pick(&others, rng) {
                Some(j) => {
                    (plan.regions[i].rect.x, plan.regions[i].rect.y) = {
                        let r = plan.regions[j].rect;
                        (r.x, r.y)
                    }
                }
                None => plan.regions[i].rect.w += 1,
            }
        }
        _ => {
            let x = rect.x + rng.below(rect.w as usize) as u32;
            let y = rect.y + rng.below(rect.h as usize) as u32;
            plan.target.dead.push((x, y));
            plan.target.dead.sort_by_key(|&(x, y)| (y, x));
        }
    }
    Some(())
}

fn roles(plan: &mut Plan, kind: Kind, rng: &mut Rng) -> Option<()> {
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

fn messages(plan: &mut Plan, kind: Kind, rng: &mut Rng) -> Option<()> {
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

fn routes(plan: &mut Plan, kind: Kind, rng: &mut Rng) -> Option<()> {
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
        | Instr::Unary { dst, src, .. }
        | Instr::Reduce { dst, src, .. }
        | Instr::ArgMax { dst, src, .. } => vec![dst, src],
        Instr::Binary { dst, a, b: Operand::Slice(b) | Operand::PerSegment(b), .. } => {
            vec![dst, a, b]
        }
        Instr::Binary { dst, a, .. } => vec![dst, a],
        Instr::Gemv { y, x, .. } => vec![y, x],
        Instr::Rope { data, inv_freq, .. } => vec![data, inv_freq],
        Instr::KvAppend { src, .. } | Instr::Send { src, .. } => vec![src],
        Instr::Scores { dst, q, .. } => vec![dst, q],
        Instr::AttendValues { dst, p, .. } => vec![dst, p],
        Instr::Recv { dst, .. } => vec![dst],
        Instr::Relay { local, .. } => vec![local],
    }
}

fn operands(plan: &mut Plan, kind: Kind, rng: &mut Rng) -> Option<()> {
    let full = |s: &Slice| s.len.constant > 0;
    let site = match kind {
        Kind::WeightWritten => find(plan, rng, |i| writes(&mut i.clone()).is_some())?,
        _ => find(plan, rng, |i| slices(&mut i.clone()).iter().all(|s| full(s)))?,
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
        | Instr::Unary { dst, .. }
        | Instr::Binary { dst, .. }
        | Instr::Reduce { dst, .. }
        | Instr::Gather { dst, .. }
        | Instr::Recv { dst, .. } => Some(dst),
        Instr::Gemv { y, .. } => Some(y),
        Instr::Scores { dst, .. } | Instr::AttendValues { dst, .. } => Some(dst),
        _ => None,
    }
}

/// Adds a phase in which two neighbours each receive before they send to the other.
fn cyclic_wait(plan: &mut Plan, rng: &mut Rng) -> Option<()> {
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

fn borders(plan: &mut Plan, kind: Kind, rng: &mut Rng) -> Option<()> {
    match kind {
        Kind::LogitsLost => {
            let i = rng.below(plan.outputs.logits.len().max(1));
            let piece = plan.outputs.logits.get_mut(i)?;
            if rng.below(2) == 0 {
                piece.len = piece.len.checked_sub(1)?;
            } else {
                piece.start = Affine { base: piece.start.base + 1, ..piece.start };
            }
        }
        Kind::TokenOutside => {
            let token = plan.outputs.token.as_mut()?;
            match rng.below(3) {
                0 => token.position.0 += 1 << 20,
                1 => token.position.1 += 1 << 20,
                _ => token.element += 1 << 20,
            }
        }
        Kind::StreamWrong => {
            let i = rng.below(plan.streams.len().max(1));
            plan.streams.get(i)?;
            match rng.below(3) {
                0 => drop(plan.streams.remove(i)),
                1 => plan.streams[i].elements += 1,
                _ => plan.streams[i].color.0 ^= 1,
            }
        }
        _ => {
            let i = rng.below(plan.wires.len().max(1));
            plan.wires.get(i)?;
            plan.wires.remove(i);
        }
    }
    Some(())
}
