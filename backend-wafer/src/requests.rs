//! How many requests a placement keeps resident: SRAM that is left holds more KV caches.
//!
//! In: a placement whose layers cache one sequence. Out: the same with `LayerShape::requests` as high as
//! every region allows, and no higher than there are regions: a pipeline of S stages works on S tokens
//! at once, more requests would only wait. Windows and contexts stay as declared.
//! Does not move regions: shapes are chosen for one request's latency.

use plan::{BufferRole, Target, Template};

use crate::WaferError;
use crate::partition::Partition;
use crate::place::{Block, Placement, Shape};
use crate::program::builder::sram_bytes;
use crate::program::layer;

/// Sets the number of resident requests in the shapes of `placement`.
///
/// # Errors
/// When a weight cannot be pinned.
pub(crate) fn fill(
    partition: &Partition,
    placement: &mut Placement,
    target: &Target,
) -> Result<(), WaferError> {
    let mut requests = u32::try_from(placement.regions.len()).unwrap_or(u32::MAX);
    let mut seen = Vec::new();
    for region in &placement.regions {
        let (Block::Layers { spec: i, .. }, Shape::Layer(shape)) = (region.block, region.shape)
        else {
            continue;
        };
        let io = (region.entry, region.exit);
        if seen.contains(&(i, shape, io)) {
            continue;
        }
        seen.push((i, shape, io));
        let spec = &partition.layers[i];
        let program = layer::layer(spec, shape, io, spec.name.clone(), target)?;
        requests = requests.min(room(&program.template, target));
    }
    for region in &mut placement.regions {
        if let Shape::Layer(shape) = &mut region.shape {
            shape.requests = requests.max(1);
        }
    }
    Ok(())
}

/// Requests whose caches fit the SRAM that `template` leaves, its one included.
fn room(template: &Template, target: &Target) -> u32 {
    let caches = template.buffers.iter().filter(|b| b.role == BufferRole::KvCache);
    let per_request: u64 = caches.map(|b| u64::from(b.bytes)).sum();
    let free = u64::from(target.usable_sram()).saturating_sub(sram_bytes(template));
    let more = free.checked_div(per_request).unwrap_or(0);
    u32::try_from(more).unwrap_or(u32::MAX - 1).saturating_add(1)
}
