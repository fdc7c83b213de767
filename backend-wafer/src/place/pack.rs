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
