//! Stage 4: final programs, SRAM maps and claimed cycles.
//!
//! In: a `Routing`. Out: a [`Schedule`]: one program per distinct (block, way in, way out), each with
//! its phases in order, buffer lifetimes and offsets, and the cycles it claims. Identical regions
//! share a program. Does not name weights of single layers: `emit` does.

use plan::{Claims, PhaseClaim, RegionId, SramClaim, Target, TemplateId};

use crate::WaferError;
use crate::bounds::bounds;
use crate::partition::Partition;
use crate::place::{Block, Placed, Shape};
use crate::program::builder::{Program, sram_by_role};
use crate::program::table::HeadOutputs;
use crate::program::{cost, layer, table};
use crate::requests;
use crate::route::Routing;
use crate::route::stream::{Entry, Exit};

/// Programs and what they claim.
#[derive(Clone, Debug, PartialEq)]
pub struct Schedule {
    /// Placement and colors.
    pub routing: Routing,
    /// Distinct programs.
    pub programs: Vec<Program>,
    /// Per region the index of its program.
    pub program_of: Vec<usize>,
    /// Where the head leaves its results.
    pub head: HeadOutputs,
    /// What is claimed.
    pub claims: Claims,
}

/// Schedules the regions of `routing`.
///
/// # Errors
/// When a weight cannot be pinned.
pub fn schedule(
    partition: &Partition,
    mut routing: Routing,
    target: &Target,
) -> Result<Schedule, WaferError> {
    requests::fill(partition, &mut routing.placement, target)?;
    let mut keys: Vec<(Block, Shape, Entry, Exit)> = Vec::new();
    let mut programs = Vec::new();
    let mut program_of = Vec::new();
    let mut head = None;
    for region in &routing.placement.regions {
        let key = (region.block, region.shape, region.entry, region.exit);
        if let Some(known) = keys.iter().position(|k| *k == key) {
            program_of.push(known);
            continue;
        }
        let (mut program, outputs) = program(partition, region, target)?;
        unique_name(&mut program, &programs, region);
        head = head.or(outputs);
        program_of.push(programs.len());
        programs.push(program);
        keys.push(key);
    }
    let head = head.expect("every placement ends in a head");
    let claims = claims(partition, &routing, (&programs, &program_of), target);
    Ok(Schedule { routing, programs, program_of, head, claims })
}

fn program(
    partition: &Partition,
    region: &Placed,
    target: &Target,
) -> Result<(Program, Option<HeadOutputs>), WaferError> {
    match (region.block, region.shape) {
        (Block::Layers { spec, .. }, Shape::Layer(shape)) => {
            let spec = &partition.layers[spec];
            let io = (region.entry, region.exit);
            Ok((layer::layer(spec, shape, io, spec.name.clone(), target)?.routed(), None))
        }
        (Block::Embedding, Shape::Table(shape)) => {
            Ok((table::embedding(partition, shape, region.exit, target)?.routed(), None))
        }
        (_, Shape::Table(shape)) => {
            let (program, outputs) = table::head(partition, shape, region.entry, target)?;
            Ok((program.routed(), Some(outputs)))
        }
        _ => unreachable!("placement gives every block the shape of its kind"),
    }
}

/// `layer`, `layer.turn-out`, ...
fn unique_name(program: &mut Program, others: &[Program], region: &Placed) {
    let name = &mut program.template.name;
    if matches!(region.entry, Entry::Turn(_)) {
        name.push_str(".turn-in");
    }
    if matches!(region.exit, Exit::Turn(_)) {
        name.push_str(".turn-out");
    }
    let taken = |name: &str| others.iter().any(|o| o.template.name == name);
    if taken(name) {
        let number = (2..).find(|n| !taken(&format!("{name}.{n}"))).unwrap_or(0);
        name.push_str(&format!(".{number}"));
    }
}

fn claims(
    partition: &Partition,
    routing: &Routing,
    (programs, program_of): (&[Program], &[usize]),
    target: &Target,
) -> Claims {
    let at_pos = crate::place::costed_position(partition);
    let mut phases = Vec::new();
    let mut sram = Vec::new();
    let mut totals = Vec::new();
    for (i, program) in programs.iter().enumerate() {
        let template = TemplateId(i as u32);
        let cycles = cost::phase_cycles(target, &program.template, at_pos);
        totals.push(cycles.iter().map(|(a, b)| a + b).sum::<u64>());
        for (phase, (compute_cycles, comm_cycles)) in cycles.into_iter().enumerate() {
            let phase = phase as u32;
            phases.push(PhaseClaim { template, phase, compute_cycles, comm_cycles });
        }
        for (role, bytes) in sram_by_role(&program.template) {
            sram.push(SramClaim { template, role, bytes });
        }
    }
    let hops: u64 = routing.gaps.iter().map(|&g| u64::from(g)).sum();
    let crossings = u64::from(routing.placement.wafers - 1);
    let between = crossings * crate::place::crossing_cycles(partition, target)
        + hops * u64::from(target.fabric.hop_cycles);
    let token_cycles = program_of.iter().map(|&p| totals[p]).sum::<u64>() + between;
    // Regions of one program are entered and left alike.
    let interval = |(i, program): (usize, &Program)| {
        let region = &routing.placement.regions[program_of.iter().position(|&p| p == i)?];
        let way = (region.entry, region.exit);
        Some(cost::interval_cycles(target, &program.template, at_pos, way))
    };
    let prefill_interval_cycles =
        programs.iter().enumerate().filter_map(interval).max().unwrap_or(0);
    let gap = |(i, &hops): (u32, &u32)| (RegionId(i), RegionId(i + 1), hops);
    let gaps = (0..).zip(&routing.gaps).map(gap).collect();
    let bounds = bounds(partition, routing, (programs, program_of), target);
    Claims { at_pos, token_cycles, prefill_interval_cycles, phases, sram, bounds, gaps }
}
