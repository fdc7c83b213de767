//! SRAM by byte, live ranges, and the KV cache's capacity.

use super::Violation;
use crate::buffer::{Buffer, BufferId, Role};
use crate::expand::Mask;
use crate::plan::Plan;
use crate::template::Template;

/// Buffers named in an overflow report.
const CONTRIBUTORS: usize = 5;

pub(super) fn check(plan: &Plan, t: &Template, found: &mut Vec<Violation>) {
    let last = t.phases.len() as u32 - 1;
    for (i, b) in t.buffers.iter().enumerate() {
        check_buffer(t, BufferId(i as u32), b, last, found);
        let end = u64::from(b.offset) + u64::from(b.bytes);
        let usable = plan.target.usable_sram();
        if end > u64::from(usable) {
            let contributors = contributors(t, b.live.0);
            let (template, buffer) = (t.name.clone(), b.name.clone());
            found.push(Violation::SramOverflow { template, buffer, end, usable, contributors });
        }
    }
    for (i, a) in t.buffers.iter().enumerate() {
        for b in &t.buffers[i + 1..] {
            let phase = a.live.0.max(b.live.0);
            let from = u64::from(a.offset.max(b.offset));
            let end = |b: &Buffer| u64::from(b.offset) + u64::from(b.bytes);
            let to = end(a).min(end(b));
            if phase <= a.live.1.min(b.live.1) && from < to {
                let (first, second) = (a.name.clone(), b.name.clone());
                let template = t.name.clone();
                found.push(Violation::BuffersOverlap { template, first, second, from, to, phase });
            }
        }
    }
    check_kv(plan, t, found);
}

fn check_buffer(t: &Template, id: BufferId, b: &Buffer, last: u32, found: &mut Vec<Violation>) {
    let mut bad = |what: String| {
        found.push(Violation::Buffer { template: t.name.clone(), buffer: b.name.clone(), what });
    };
    if !b.offset.is_multiple_of(4) {
        bad(format!("offset {} is not a multiple of 4", b.offset));
    }
    let scales = scale_bytes(t, id, b);
    let needed = b.min_bytes().saturating_add(scales);
    if u64::from(b.bytes) < needed {
        bad(format!("{} bytes reserved, {needed} needed ({scales} of them for scales)", b.bytes));
    }
    if b.live.0 > b.live.1 || b.live.1 > last {
        bad(format!("live in phases {}..={}, the last phase is {last}", b.live.0, b.live.1));
    } else if matches!(b.role, Role::Weights | Role::KvCache) && b.live != (0, last) {
        bad(format!(
            "live in phases {}..={} only, but kept from token to token",
            b.live.0, b.live.1
        ));
    }
    if b.storage.is_quantized() && b.role != Role::Weights {
        bad(format!("{:?} storage for something that is written", b.storage));
    }
}

/// Scale bytes of a quantised buffer on the PE where its pins need most.
fn scale_bytes(t: &Template, id: BufferId, b: &Buffer) -> u64 {
    if !b.storage.is_quantized() {
        return 0;
    }
    let pins = t.pins.iter().filter(|p| p.buffer == id);
    let pins: Vec<(Mask, u64)> = pins
        .map(|p| (Mask::new(&p.predicate, t.width, t.height), p.scale_bytes(b.storage)))
        .collect();
    let mut most = 0;
    for y in 0..t.height {
        for x in 0..t.width {
            let here = pins.iter().filter(|(m, _)| m.holds(x, y)).map(|(_, bytes)| bytes).sum();
            most = most.max(here);
        }
    }
    most
}

fn contributors(t: &Template, phase: u32) -> String {
    let mut live: Vec<&Buffer> =
        t.buffers.iter().filter(|b| b.live.0 <= phase && phase <= b.live.1).collect();
    live.sort_by(|a, b| b.bytes.cmp(&a.bytes).then_with(|| a.name.cmp(&b.name)));
    let named: Vec<String> =
        live.iter().take(CONTRIBUTORS).map(|b| format!("{} {} B", b.name, b.bytes)).collect();
    named.join(", ")
}

fn check_kv(plan: &Plan, t: &Template, found: &mut Vec<Violation>) {
    let mut bad = |what: String| {
        found.push(Violation::KvCapacity { template: t.name.clone(), what });
    };
    let Some(kv) = t.kv else {
        if let Some(b) = t.buffers.iter().find(|b| b.role == Role::KvCache) {
            bad(format!("buffer `{}` is a cache, but tokens are not distributed", b.name));
        }
        return;
    };
    if u64::from(kv.first_row) + u64::from(kv.rows) > u64::from(t.height) || kv.rows == 0 {
        bad(format!("rows {} from {} of {} rows", kv.rows, kv.first_row, t.height));
        return;
    }
    if kv.slots == 0 || kv.window == Some(0) || kv.requests == 0 {
        let (slots, requests) = (kv.slots, kv.requests);
        bad(format!("{slots} slots, window {:?}, {requests} requests", kv.window));
        return;
    }
    if kv.columns == 0 || kv.columns > t.cell.0 || kv.rows.checked_mul(kv.columns).is_none() {
        bad(format!("{} columns of cells of {}", kv.columns, t.cell.0));
        return;
    }
    let context = plan.model.context;
    let attended = kv.window.map_or(context, |w| w.min(context));
    let capacity = u64::from(kv.lanes()) * u64::from(kv.slots);
    if capacity < u64::from(attended) {
        bad(format!(
            "{} lanes of {} slots hold {capacity} tokens of {attended}",
            kv.lanes(),
            kv.slots
        ));
    }
    let needed = u64::from(kv.slots) * u64::from(kv.requests);
    let short = |b: &&Buffer| b.role == Role::KvCache && u64::from(b.rows) < needed;
    for b in t.buffers.iter().filter(short) {
        let (slots, requests) = (kv.slots, kv.requests);
        bad(format!("buffer `{}` has {} rows for {slots} slots x {requests}", b.name, b.rows));
    }
}
