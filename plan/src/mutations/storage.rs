//! Breaks what lies where: weights, memory, regions, outputs, streams and wires.

use tensor::Rng;

use super::programs::names;
use super::{Kind, pick, used_template};
use crate::buffer::BufferId;
use crate::index::Affine;
use crate::plan::Plan;
use crate::template::Phase;

pub(super) fn weights(plan: &mut Plan, kind: Kind, rng: &mut Rng) -> Option<()> {
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

pub(super) fn memory(plan: &mut Plan, kind: Kind, rng: &mut Rng) -> Option<()> {
    let usable = plan.target.usable_sram();
    let context = plan.model.context;
    let id = used_template(plan, rng)?;
    let t = &mut plan.templates[id];
    if kind == Kind::CacheShrunk {
        let kv = t.kv.as_mut()?;
        let attended = kv.window.map_or(context, |w| w.min(context));
        match rng.below(2) {
            0 => kv.slots = (attended - 1) / kv.lanes(),
            _ => kv.requests += 1 + kv.requests * rng.below(3) as u32,
        }
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

pub(super) fn regions(plan: &mut Plan, kind: Kind, rng: &mut Rng) -> Option<()> {
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

pub(super) fn borders(plan: &mut Plan, kind: Kind, rng: &mut Rng) -> Option<()> {
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
