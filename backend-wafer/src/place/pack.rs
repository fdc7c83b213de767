//! Packs regions of known widths into the strips of one wafer, east and west by turns.
//!
//! The first strip runs east, in the first wafer up to its edge; at a turn the first region of the next strip starts at the edge where
//! the last one ended, so that the legs are straight. Strips are taken southwards or northwards,
//! whichever side of the first one has more. A wafer that hands over to the next one ends in a strip
//! that runs east, because the next wafer lies there. Fails when the strips run out or a turn needs
//! more colors than there are.

use plan::Rect;

use super::{Block, Choice, Placed, chosen};
use crate::route::stream::{Entry, Exit, Turn};

/// The strips of a wafer and how a pipeline runs through them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Floor {
    /// Columns of the wafer.
    pub(super) width: u32,
    /// Rows of a strip.
    pub(super) height: u32,
    /// Strips.
    pub(super) strips: u32,
    /// Colors for turns.
    pub(super) turn_colors: u32,
}

/// The part of the pipeline that one wafer takes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Part<'a> {
    /// Blocks with their layer index.
    pub(super) blocks: &'a [(Block, Option<u32>)],
    /// Strip in which it is entered.
    pub(super) start: u32,
    /// The pipeline begins here.
    pub(super) first: bool,
    /// The pipeline ends here.
    pub(super) last: bool,
}

/// The regions of `part` with their rectangles on wafer 0, and the strip of the last; `None` when
/// they do not fit.
pub(super) fn pack(floor: Floor, part: Part<'_>, choice: &Choice) -> Option<(Vec<Placed>, u32)> {
    let count = part.blocks.len();
    let runs_east = |packed: &(Vec<Placed>, u32)| packed.0.last().is_some_and(|r| !r.mirrored);
    let packed = fill(floor, part, choice, count)?;
    if part.last || runs_east(&packed) {
        return Some(packed);
    }
    // The last region, or each of the last two, takes a strip alone, so that it runs east again.
    let alone = |n: usize| fill(floor, part, choice, count.checked_sub(n)?).filter(runs_east);
    alone(1).or_else(|| alone(2))
}

/// `alone`: from this region on each begins a strip although there is room.
fn fill(floor: Floor, part: Part<'_>, choice: &Choice, alone: usize) -> Option<(Vec<Placed>, u32)> {
    let Floor { width: columns, height, strips, turn_colors } = floor;
    let north = part.start + 1 > strips - part.start;
    let room = if north { part.start + 1 } else { strips - part.start };
    let mut regions: Vec<Placed> = Vec::with_capacity(part.blocks.len());
    // Strips taken before the current one, and the edge on the side where the next region enters.
    let (mut taken, mut edge) = (0, 0);
    for (i, &(block, layer)) in part.blocks.iter().enumerate() {
        let shape = chosen(choice, block)?.shape;
        let width = shape.width();
        let mut mirrored = taken % 2 == 1;
        let left = |mirrored: bool, edge: u32| if mirrored { edge } else { columns - edge };
        let mut entry = if part.first && i == 0 { Entry::Start } else { Entry::Row };
        if width > left(mirrored, edge) || i >= alone {
            if part.first && taken == 0 {
                // Nothing enters the first strip, so it can end at the eastern edge.
                regions.iter_mut().for_each(|r| r.rect.x += columns - edge);
                edge = columns;
            }
            taken += 1;
            mirrored = !mirrored;
            let last: &mut Placed = regions.last_mut()?;
            let turn = Turn::new((last.rect.w, width), height, north);
            // A region that is entered and left by turns needs colors for both.
            let both = turn.bands + last.entry.bands();
            if taken >= room || width > left(mirrored, edge) || both > turn_colors {
                return None;
            }
            last.exit = Exit::Turn(turn);
            entry = Entry::Turn(turn);
        }
        let strip = if north { part.start - taken } else { part.start + taken };
        let x = if mirrored { edge - width } else { edge };
        let rect = Rect { x, y: strip * height, w: width, h: height };
        edge = if mirrored { x } else { x + width };
        let exit = Exit::Row;
        regions.push(Placed { block, layer, shape, rect, mirrored, entry, exit, wafer: 0, strip });
    }
    let last = regions.last_mut()?;
    if part.last {
        last.exit = Exit::End;
    }
    let strip = last.strip;
    Some((regions, strip))
}

#[cfg(test)]
mod tests {
    use super::super::Shape;
    use super::super::candidates::Candidate;
    use super::super::shape::TableShape;
    use super::*;

    /// Embedding, `layers` layers and head, all `width` wide.
    fn pipeline(layers: u32, width: u32, height: u32) -> (Vec<(Block, Option<u32>)>, Choice) {
        let shape = Shape::Table(TableShape::new(1, 1, (width, height)));
        let candidate = Candidate { shape, cycles: 1 };
        let layer = Block::Layers { spec: 0, count: 1 };
        let blocks = [Block::Embedding, layer, Block::Head];
        let mut sequence = vec![(Block::Embedding, None)];
        sequence.extend((0..layers).map(|l| (layer, Some(l))));
        sequence.push((Block::Head, None));
        (sequence, blocks.map(|b| (b, candidate)).to_vec())
    }

    const FLOOR: Floor = Floor { width: 10, height: 4, strips: 3, turn_colors: 4 };

    #[test]
    fn strips_turn_like_a_plough() {
        let (blocks, choice) = pipeline(6, 3, 4);
        let part = Part { blocks: &blocks, start: 0, first: true, last: true };
        let (regions, end) = pack(FLOOR, part, &choice).expect("fits");
        let at: Vec<(u32, u32)> = regions.iter().map(|r| (r.rect.x, r.rect.y)).collect();
        let expected = [(1, 0), (4, 0), (7, 0), (7, 4), (4, 4), (1, 4), (1, 8), (4, 8)];
        assert_eq!((at.as_slice(), end), (expected.as_slice(), 2));
        let mirrored: Vec<bool> = regions.iter().map(|r| r.mirrored).collect();
        assert_eq!(mirrored, [false, false, false, true, true, true, false, false]);
        // Four rows on three columns: two bands, on both sides of each turn.
        let turn = Turn { columns: 3, bands: 2, north: false };
        assert_eq!((regions[2].exit, regions[3].entry), (Exit::Turn(turn), Entry::Turn(turn)));
        assert_eq!((regions[0].entry, regions[7].exit), (Entry::Start, Exit::End));
    }

    #[test]
    fn a_wafer_entered_at_the_bottom_is_ploughed_upwards() {
        let (blocks, choice) = pipeline(6, 3, 4);
        let part = Part { blocks: &blocks, start: 2, first: false, last: false };
        let (regions, end) = pack(FLOOR, part, &choice).expect("fits");
        let rows: Vec<u32> = regions.iter().map(|r| r.rect.y).collect();
        assert_eq!((rows.as_slice(), end), ([8, 8, 8, 4, 4, 4, 0, 0].as_slice(), 0));
        let turn = Turn { columns: 3, bands: 2, north: true };
        assert_eq!(regions[2].exit, Exit::Turn(turn));
        assert_eq!((regions[0].entry, regions[7].exit), (Entry::Row, Exit::Row));
    }

    #[test]
    fn a_wafer_that_hands_over_ends_in_a_strip_that_runs_east() {
        let (blocks, choice) = pipeline(3, 3, 4);
        let part = Part { blocks: &blocks, start: 0, first: true, last: false };
        let (regions, end) = pack(FLOOR, part, &choice).expect("fits");
        let last = regions.last().expect("regions");
        assert!(end == 2 && !last.mirrored, "{last:?}");
        let (regions, end) = pack(FLOOR, Part { last: true, ..part }, &choice).expect("fits");
        assert!(end == 1 && regions[4].mirrored);
        // One region alone in the strip that runs west: the one before it moves there.
        let (regions, end) =
            pack(FLOOR, Part { blocks: &blocks[..4], ..part }, &choice).expect("fits");
        assert!(end == 2 && regions[2].mirrored && !regions[3].mirrored);
    }

    #[test]
    fn too_many_regions_or_too_few_colors_do_not_pack() {
        let (blocks, choice) = pipeline(8, 3, 4);
        let part = Part { blocks: &blocks, start: 0, first: true, last: true };
        assert!(pack(FLOOR, part, &choice).is_none());
        let part = Part { blocks: &blocks[..8], ..part };
        assert!(pack(FLOOR, part, &choice).is_some());
        assert!(pack(Floor { turn_colors: 1, ..FLOOR }, part, &choice).is_none());
    }
}
