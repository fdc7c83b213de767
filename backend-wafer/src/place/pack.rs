//! Packs regions of known widths into strips, east and west by turns.
//!
//! At a turn the first region of the new strip starts at the edge where the last one ended, so that
//! the legs south are straight. Fails when the strips run out or a turn needs more colors than there
//! are.

use plan::{Rect, Target};

use super::{Choice, Placed, chosen, sequence};
use crate::partition::Partition;
use crate::route::stream::{Entry, Exit, Turn};

/// The regions with their rectangles; `None` when they do not fit.
pub(super) fn pack(
    partition: &Partition,
    choice: &Choice,
    target: &Target,
    height: u32,
    turn_colors: u32,
) -> Option<Vec<Placed>> {
    let strips = target.height / height;
    let mut regions: Vec<Placed> = Vec::new();
    let mut strip = 0;
    // The next region's edge on the side it is entered from, as a column border 0..=width.
    let mut edge = 0;
    for (block, layer) in sequence(partition) {
        let width = chosen(choice, block)?.shape.width();
        let mut mirrored = strip % 2 == 1;
        let room = |mirrored: bool| if mirrored { edge } else { target.width - edge };
        let mut entry = if regions.is_empty() { Entry::Start } else { Entry::Row };
        if width > room(mirrored) {
            strip += 1;
            mirrored = !mirrored;
            let last = regions.last_mut()?;
            let turn = Turn::new(last.rect.w, width, height);
            // A region that is entered and left by turns needs colors for both.
            let both = turn.bands + last.entry.bands();
            if strip >= strips || width > room(mirrored) || both > turn_colors {
                return None;
            }
            last.exit = Exit::Turn(turn);
            entry = Entry::Turn(turn);
        }
        let x = if mirrored { edge - width } else { edge };
        let rect = Rect { x, y: strip * height, w: width, h: height };
        edge = if mirrored { x } else { x + width };
        regions.push(Placed { block, layer, rect, mirrored, entry, exit: Exit::Row, strip });
    }
    regions.last_mut()?.exit = Exit::End;
    Some(regions)
}

#[cfg(test)]
mod tests {
    use super::super::candidates::Candidate;
    use super::super::shape::TableShape;
    use super::super::{Block, Shape};
    use super::*;
    use crate::partition::{LayerRun, Linear, Matrix, Norm};

    /// Embedding, `layers` layers and head, all `width` wide.
    fn pipeline(layers: u32, width: u32, height: u32) -> (Partition, Choice) {
        let empty = Matrix { rows: 1, cols: 1, pieces: Vec::new() };
        let partition = Partition {
            name: "test".into(),
            hidden: 1,
            vocab: 1,
            context: 1,
            table: empty.clone(),
            embedding_scale: 1.0,
            layers: Vec::new(),
            runs: vec![LayerRun { spec: 0, first: 0, count: layers }],
            final_norm: Norm { eps: 0.0, gain: None },
            head: Linear { matrix: empty, bias: None, scale: 1.0 },
        };
        let shape = Shape::Table(TableShape::new(1, 1, (width, height)));
        let candidate = Candidate { shape, cycles: 1 };
        let blocks = [Block::Embedding, Block::Layer(0), Block::Head];
        (partition, blocks.map(|b| (b, candidate)).to_vec())
    }

    fn target(width: u32, height: u32) -> Target {
        Target { width, height, ..Target::preset("tiny").expect("preset") }
    }

    #[test]
    fn strips_turn_like_a_plough() {
        let (partition, choice) = pipeline(6, 3, 4);
        let regions = pack(&partition, &choice, &target(10, 12), 4, 4).expect("fits");
        let at: Vec<(u32, u32)> = regions.iter().map(|r| (r.rect.x, r.rect.y)).collect();
        let expected = [(0, 0), (3, 0), (6, 0), (6, 4), (3, 4), (0, 4), (0, 8), (3, 8)];
        assert_eq!(at, expected);
        let mirrored: Vec<bool> = regions.iter().map(|r| r.mirrored).collect();
        assert_eq!(mirrored, [false, false, false, true, true, true, false, false]);
        // Four rows on three columns: two bands, on both sides of each turn.
        let turn = Turn { columns: 3, bands: 2 };
        assert_eq!((regions[2].exit, regions[3].entry), (Exit::Turn(turn), Entry::Turn(turn)));
        assert_eq!((regions[0].entry, regions[7].exit), (Entry::Start, Exit::End));
    }

    #[test]
    fn too_many_regions_or_too_few_colors_do_not_pack() {
        let (partition, choice) = pipeline(8, 3, 4);
        assert!(pack(&partition, &choice, &target(10, 12), 4, 4).is_none());
        let (partition, choice) = pipeline(6, 3, 4);
        assert!(pack(&partition, &choice, &target(10, 12), 4, 1).is_none());
    }
}
