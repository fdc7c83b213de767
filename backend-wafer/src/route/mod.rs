//! Stage 3: colors of regions and the streams between them.
//!
//! In: a `Placement`. Out: a [`Routing`]: for every region the map from its template's colors to the
//! wafer's, and the streams as the plan declares them. The palette is fixed ([`palette`]), so coloring
//! is a matter of neighbours: regions alternate the two stream colors, and a region between two turns
//! keeps their colors apart. Collectives ([`tree`]) and streams ([`stream`]) bring their own routes.
//! Does not route around obstacles: strips abut.

pub mod palette;
pub mod stream;
pub mod tree;

use plan::{Color, Port, Ports, Rect, RegionId, Stream, Wire};

use crate::WaferError;
use crate::partition::Partition;
use crate::place::{Placed, Placement};
use palette::{STREAM_IN, STREAM_OUT, TURN};
use stream::Exit;

/// A placement with colors.
#[derive(Clone, Debug, PartialEq)]
pub struct Routing {
    /// The placement.
    pub placement: Placement,
    /// Per region: template color -> wafer color where they differ.
    pub colors: Vec<Vec<(Color, Color)>>,
    /// Streams in the order of regions.
    pub streams: Vec<Stream>,
    /// From the last region of a wafer to its eastern edge, where they do not meet.
    pub wires: Vec<Wire>,
    /// Per pair of consecutive regions: hops from the exit of one to the entry of the next beyond the
    /// one to a neighbour.
    pub gaps: Vec<u32>,
}

/// Colors the regions of `placement`.
///
/// # Errors
/// When a turn needs more colors than the target has.
pub fn route(
    partition: &Partition,
    placement: Placement,
    target: &plan::Target,
) -> Result<Routing, WaferError> {
    let regions = &placement.regions;
    let usable = target.usable_colors();
    let mut colors: Vec<Vec<(Color, Color)>> = Vec::new();
    let (mut streams, mut wires, mut gaps) = (Vec::new(), Vec::new(), Vec::new());
    // Wafer color of the first band of the turn by which the current region is entered.
    let mut entered_at = u32::from(TURN);
    for (i, region) in regions.iter().enumerate() {
        let mut map = Vec::new();
        if i % 2 == 1 {
            map.extend([(STREAM_IN, STREAM_OUT), (STREAM_OUT, STREAM_IN)]);
        }
        let bands_in = region.entry.bands();
        let mut left_at = entered_at;
        let mut turns: Vec<(u32, u32)> =
            (0..bands_in).map(|b| (u32::from(TURN) + b, entered_at + b)).collect();
        if let Exit::Turn(turn) = region.exit {
            left_at = free_block(turn.bands, (entered_at, bands_in));
            let first = u32::from(TURN) + bands_in;
            turns.extend((0..turn.bands).map(|b| (first + b, left_at + b)));
        }
        let highest = turns.iter().map(|t| t.1 + 1).max().unwrap_or(0);
        if highest > usable {
            return Err(WaferError::Colors {
                target: target.name.clone(),
                needed: highest,
                available: usable,
            });
        }
        map.extend(permutation(&turns));
        if let Some(next) = regions.get(i + 1) {
            streams.extend(leaving(i, region, &map, (partition, &placement)));
            let gap = gap(region, next, &map);
            gaps.push(gap.map_or(0, |wire| wire.rect.w));
            wires.extend(gap);
        }
        colors.push(map);
        entered_at = left_at;
    }
    Ok(Routing { placement, colors, streams, wires, gaps })
}

/// The color that a template color becomes.
fn mapped(map: &[(Color, Color)], color: Color) -> Color {
    map.iter().find(|(from, _)| *from == color).map_or(color, |&(_, to)| to)
}

/// The free columns between two regions of one strip, each row passed straight: at the edge of a
/// wafer whose strip is not full.
fn gap(region: &Placed, next: &Placed, map: &[(Color, Color)]) -> Option<Wire> {
    let (a, b) = (region.rect, next.rect);
    if region.exit != Exit::Row || region.mirrored || a.x + a.w >= b.x {
        return None;
    }
    let rect = Rect { x: a.x + a.w, y: a.y, w: b.x - a.x - a.w, h: a.h };
    let outputs = Ports::of(&[Port::East]);
    Some(Wire { color: mapped(map, STREAM_OUT), rect, input: Port::West, outputs })
}

/// First of `bands` consecutive turn colors that avoid the block `(first, count)`.
fn free_block(bands: u32, (first, count): (u32, u32)) -> u32 {
    let base = u32::from(TURN);
    if count == 0 || base + bands <= first { base } else { first + count }
}

/// The pairs that are not identities, completed to a permutation so that the map stays injective.
fn permutation(turns: &[(u32, u32)]) -> Vec<(Color, Color)> {
    let from: Vec<u32> = turns.iter().map(|t| t.0).collect();
    let to: Vec<u32> = turns.iter().map(|t| t.1).collect();
    let free_from = to.iter().filter(|c| !from.contains(c));
    let free_to = from.iter().filter(|c| !to.contains(c));
    let completed = free_from.copied().zip(free_to.copied());
    let pairs = turns.iter().copied().chain(completed);
    let mut out: Vec<(Color, Color)> =
        pairs.filter(|(a, b)| a != b).map(|(a, b)| (Color(a as u8), Color(b as u8))).collect();
    out.sort_unstable();
    out
}

/// The streams from region `i` to the next, one per wafer color.
fn leaving(
    i: usize,
    region: &Placed,
    map: &[(Color, Color)],
    (partition, placement): (&Partition, &Placement),
) -> Vec<Stream> {
    let wafer = |c: Color| mapped(map, c);
    let height = placement.height;
    let tile = u32::try_from(partition.hidden).unwrap_or(u32::MAX).div_ceil(height);
    let stream = |color: Color, rows: u32| Stream {
        name: format!("hidden {i} -> {}", i + 1),
        from: RegionId(i as u32),
        to: RegionId(i as u32 + 1),
        color: wafer(color),
        elements: rows * tile,
    };
    match region.exit {
        Exit::End => Vec::new(),
        Exit::Row => vec![stream(STREAM_OUT, height)],
        Exit::Turn(turn) => (0..turn.bands)
            .map(|band| {
                let rows = turn.columns.min(height - band * turn.columns);
                stream(palette::turn_out(band, region.entry.bands()), rows)
            })
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_of_colors_stay_injective() {
        // Entered on 17, 18 and left on 19, 20, seen from templates that count from 17.
        let map = permutation(&[(17, 19), (18, 20), (19, 17), (20, 18)]);
        assert_eq!(map.len(), 4);
        let map = permutation(&[(17, 19), (18, 20)]);
        let mut targets: Vec<u8> = map.iter().map(|(_, to)| to.0).collect();
        targets.sort_unstable();
        assert_eq!(targets, [17, 18, 19, 20]);
    }

    #[test]
    fn turns_of_one_region_keep_their_colors_apart() {
        let base = u32::from(TURN);
        assert_eq!(free_block(2, (base, 0)), base);
        assert_eq!(free_block(2, (base, 2)), base + 2);
        assert_eq!(free_block(2, (base + 2, 2)), base);
    }
}
