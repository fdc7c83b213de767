//! Lower bounds of a plan: what no program on the same rectangles could beat, and how far it is.
//!
//! In: a `Routing` and the claimed cycles. Out: `plan::Bound`s per template and for the token.
//! A block is a chain of dependent steps; each is a mat-vec (or attention) whose results depend on all
//! PEs of a line. Per step: *work*, multiply-adds over PEs and lanes, no overhead; *distance*, half a
//! line in and half out; *ingress*, the elements every core must take off its ramp, two 16-bit ones
//! a wavelet; *reduction*, two dependent messages, at least a ramp down and up each. Work and
//! communication of one step can overlap at best, so a block takes at least the sum over its steps of the larger
//! (`critical path`). *Area* is the fewest PEs that hold the bytes; *colors* the most flows through one
//! router. Hops between abutting regions count as zero. Nothing here is used to choose a plan.

use plan::{Bound, BufferRole, Storage, Target, Template, TemplateId};

use crate::partition::{LayerSpec, Partition};
use crate::place::{Block, Placed};
use crate::program::builder::Program;
use crate::route::Routing;

/// One dependent step of a block.
struct Step {
    /// Multiply-adds of the whole region.
    macs: u64,
    /// Hops from the farthest input to the farthest user of a result.
    hops: u64,
    /// Elements that every core takes in.
    elements: u64,
}

/// Cycles of the parts of a block.
#[derive(Default)]
struct Sum {
    work: u64,
    distance: u64,
    ingress: u64,
    reduction: u64,
    critical: u64,
}

/// Bounds of every template and of a token.
pub(crate) fn bounds(
    partition: &Partition,
    routing: &Routing,
    (programs, program_of): (&[Program], &[usize]),
    target: &Target,
) -> Vec<Bound> {
    let mut list = Vec::new();
    let mut token = Sum::default();
    let regions = &routing.placement.regions;
    for (i, program) in programs.iter().enumerate() {
        let users = || regions.iter().zip(program_of).filter(|(_, p)| **p == i);
        let Some((region, _)) = users().next() else { continue };
        let sum =
            Sum::of(&steps(partition, region), rate(target, &program.template), region, target);
        let n = users().count() as u64;
        token.work += n * sum.work;
        token.distance += n * sum.distance;
        token.ingress += n * sum.ingress;
        token.reduction += n * sum.reduction;
        token.critical += n * sum.critical;
        let template = Some(TemplateId(i as u32));
        list.extend(sum.named(template));
        let area = area(&program.template, target);
        list.push(Bound { template, name: "area PEs".into(), value: area });
        let colors = crowded(&program.template);
        list.push(Bound { template, name: "colors".into(), value: colors });
    }
    let crossings = u64::from(routing.placement.wafers - 1);
    let link = crossings * u64::from(target.fabric.wafer_hop_cycles);
    token.distance += link;
    token.critical += link;
    list.extend(token.named(None));
    list
}

impl Sum {
    fn of(steps: &[Step], rate: f64, region: &Placed, target: &Target) -> Sum {
        let fabric = &target.fabric;
        // Down and up the ramp, and a cycle in the core, for the message in and the one out.
        let messages = 2 * (2 * u64::from(fabric.ramp_cycles) + 1);
        let mut sum = Sum::default();
        for step in steps {
            let pes = region.rect.area().max(1) as f64;
            let work = (step.macs as f64 / (pes * rate)).ceil() as u64;
            let distance = step.hops * u64::from(fabric.hop_cycles);
            // Where a line is one PE nothing has to come in.
            let (ingress, reduction) = match step.hops {
                0 => (0, 0),
                _ => (step.elements.div_ceil(2), messages),
            };
            sum.work += work;
            sum.distance += distance;
            sum.ingress += ingress;
            sum.reduction += reduction;
            sum.critical += work.max(distance + ingress + reduction);
        }
        sum
    }

    fn named(&self, template: Option<TemplateId>) -> impl Iterator<Item = Bound> {
        let all = [
            ("work", self.work),
            ("distance", self.distance),
            ("ingress", self.ingress),
            ("reduction", self.reduction),
            ("critical path", self.critical),
        ];
        all.into_iter().map(move |(name, value)| Bound { template, name: name.into(), value })
    }
}

/// Multiply-adds per cycle of a PE without any overhead, in the fastest storage it has weights in.
fn rate(target: &Target, template: &Template) -> f64 {
    let weights = template.buffers.iter().filter(|b| b.role == BufferRole::Weights && b.rows > 1);
    let of = |storage: Storage| {
        let cost = target.core.mac(storage);
        f64::from(cost.lanes) / cost.per_group.max(1e-3)
    };
    weights.map(|b| of(b.storage)).fold(0.0, f64::max).max(1.0)
}

fn steps(partition: &Partition, region: &Placed) -> Vec<Step> {
    // Links along a row and along a column.
    let (across, down) = (u64::from(region.rect.w - 1), u64::from(region.rect.h - 1));
    let hidden = partition.hidden as u64;
    let vocab = partition.vocab as u64;
    match region.block {
        Block::Embedding => {
            vec![Step { macs: 0, hops: across, elements: hidden.div_ceil(down + 1) }]
        }
        Block::Head => vec![
            Step { macs: vocab * hidden, hops: down / 2, elements: 0 },
            Step { macs: 0, hops: across / 2, elements: 2 },
        ],
        Block::Layers { spec, count } => {
            let one = || layer_steps(&partition.layers[spec], partition.context, (across, down));
            (0..count).flat_map(|_| one()).collect()
        }
    }
}

fn layer_steps(spec: &LayerSpec, context: usize, (across, down): (u64, u64)) -> Vec<Step> {
    let (w, h) = (across + 1, down + 1);
    let hidden = spec.hidden as u64;
    let (q, kv) = ((spec.heads * spec.head_dim) as u64, (spec.kv_heads * spec.head_dim) as u64);
    let ffn = spec.ffn as u64;
    let attended = spec.window.map_or(context, |window| window.min(context)) as u64;
    let rows = hidden.div_ceil(h);
    vec![
        // q, k, v: along columns, and every head gets its slice.
        Step { macs: hidden * (q + 2 * kv), hops: down, elements: (q + 2 * kv).div_ceil(w) },
        // Scores and values: tokens lie on all rows.
        Step { macs: 2 * q * attended, hops: down, elements: q.div_ceil(w) },
        Step { macs: q * hidden, hops: across, elements: rows },
        Step { macs: 2 * hidden * ffn, hops: down, elements: (2 * ffn).div_ceil(w) },
        Step { macs: ffn * hidden, hops: across, elements: rows },
    ]
}

/// Fewest PEs that hold the weights and caches of a region, in usable SRAM to the last byte.
fn area(template: &Template, target: &Target) -> u64 {
    let kept = |b: &&plan::Buffer| matches!(b.role, BufferRole::Weights | BufferRole::KvCache);
    let bytes: u64 = template.buffers.iter().filter(kept).map(|b| u64::from(b.bytes)).sum();
    let pes = u64::from(template.width) * u64::from(template.height);
    (bytes * pes).div_ceil(u64::from(target.usable_sram()).max(1))
}

/// The most flows through one router of a template: no coloring has fewer colors.
fn crowded(template: &Template) -> u64 {
    let map = plan::TemplateMap::new(template);
    // Roles repeat along a region: rows and columns at its edges and around its middle show all kinds,
    // and any router gives a valid bound.
    let sample = |n: u32| -> Vec<u32> {
        let step = (n / 64).max(1) as usize;
        let mut all: Vec<u32> = (0..n).step_by(step).chain([n / 2, n - 1]).collect();
        all.dedup();
        all
    };
    let mut most = 0;
    for y in sample(template.height) {
        for x in sample(template.width) {
            let flows = map.colors().filter(|&c| map.route(c, x, y).is_some()).count();
            most = most.max(flows as u64);
        }
    }
    most
}
