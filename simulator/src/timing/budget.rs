//! What a run of all tiles may take of memory: estimated before it starts, counted while it goes on.
//!
//! Most of it grows with the tiles: routes, queues, and programs, of which loops with turns of their own
//! make one per PE. How many programs differ is estimated from a sample before any of them is stored. Runs and
//! events under way cannot be foreseen: engines stop when there are too many ([`Outcome::exhausted`]).
//! Does not count what folded and compressed runs take: they hold a few lines.
//!
//! [`Outcome::exhausted`]: super::engine::Outcome

use plan::{Plan, TemplateMap};

use super::domain::Sampler;
use super::report::Level;
use crate::error::SimError;

/// Most bytes of what is there before a run starts; runs and events take as much again at most.
pub const BYTES_MAX: u64 = 2 << 30;
/// Most runs of wavelets under way, of 24 bytes each.
pub const RUNS_MAX: usize = 1 << 25;
/// Most events under way, of 8 bytes each.
pub const EVENTS_MAX: usize = 1 << 26;

/// Positions at which programs are compared.
const SAMPLES: u64 = 512;
/// Bytes per tile of cores, links and neighbours, in `domain`, `cores` and `wavelets`.
const PER_TILE: u64 = 640;
/// Bytes per tile and color of routes, queues and flows.
const PER_COLOR: u64 = 32;

/// Refuses a run of all tiles that would take more than [`BYTES_MAX`].
///
/// # Errors
/// `Memory`, with the level to use instead.
pub fn check(plan: &Plan, level: Level, pos: u32) -> Result<(), SimError> {
    let bytes = bytes(plan, level, pos);
    if bytes > BYTES_MAX {
        return Err(SimError::Memory { level: level.number(), bytes, limit: BYTES_MAX });
    }
    Ok(())
}

/// A run that was stopped.
pub fn exhausted(level: Level) -> SimError {
    SimError::Memory { level: level.number(), bytes: BYTES_MAX, limit: BYTES_MAX }
}

/// Bytes that a run of all tiles takes before it starts; levels below 3 hold each template once.
pub fn bytes(plan: &Plan, level: Level, pos: u32) -> u64 {
    let times = |id: usize| match level {
        Level::L3 => plan.regions.iter().filter(|r| r.template.0 as usize == id).count() as u64,
        _ => 1,
    };
    let templates = plan.templates.iter().enumerate();
    let of = |(id, template): (usize, &plan::Template)| {
        let tiles = u64::from(template.width) * u64::from(template.height);
        let map = TemplateMap::new(template);
        let colors = match level {
            Level::L3 => u64::from(plan.target.fabric.colors.min(64)),
            _ => map.color_count() as u64,
        };
        let phases = template.phases.len() as u64;
        let each = PER_TILE + PER_COLOR * colors + 4 * phases;
        let programs = programs(plan, &map, pos, tiles);
        times(id).saturating_mul(tiles.saturating_mul(each).saturating_add(programs))
    };
    templates.map(of).fold(0, u64::saturating_add)
}

/// Bytes of the distinct programs of a template. Of n positions drawn, c look like an earlier one: of N
/// equally frequent programs n^2 / 2N would.
fn programs(plan: &Plan, map: &TemplateMap<'_>, pos: u32, tiles: u64) -> u64 {
    let mut sampler = Sampler::new(&plan.target, map.template, pos);
    let samples = SAMPLES.min(tiles);
    let width = u64::from(map.template.width);
    for i in 0..samples {
        // Steps of the golden ratio meet rows and columns evenly.
        let fraction = (i.wrapping_mul(0x9e37_79b9_7f4a_7c15)) >> 32;
        let tile = if samples == tiles { i } else { (fraction * tiles) >> 32 };
        sampler.add(map, ((tile % width) as u32, (tile / width) as u32));
    }
    let (distinct, bytes) = sampler.found();
    let seen = samples - distinct;
    let estimate = (samples * samples / 2).checked_div(seen).unwrap_or(tiles);
    let count = if samples == tiles { distinct } else { estimate.clamp(distinct, tiles) };
    count.saturating_mul(bytes / distinct.max(1))
}
