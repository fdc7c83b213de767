//! The colors of a template: a fixed local palette.
//!
//! Two flows may share a color only where they share no router. Collectives of one geometry (all of
//! a column, all of a row, a head group of a row) follow one another and share five colors each; groups of a column
//! have one color more for their own multicast, and two for their chains where they are not the trees' groups;
//! streams in and out have one color each, which neighbouring regions swap; a strip turn has one
//! color per band of rows.

use plan::Color;

use super::tree::TreeColors;

/// First color of the trees along columns.
const COLUMN_TREE: u8 = 0;
/// Multicasts inside the groups of the trees along columns.
pub const COLUMN_GROUP: Color = Color(5);
/// First color of the trees along whole rows.
const ROW_TREE: u8 = 6;
/// First color of the trees along the rows of a head group.
const GROUP_TREE: u8 = 11;
/// The stream that enters along rows.
pub const STREAM_IN: Color = Color(16);
/// The stream that leaves along rows.
pub const STREAM_OUT: Color = Color(17);
/// First color of strip turns.
pub const TURN: u8 = 18;
/// Chains of the groups along columns that share work, where their turns leave these free.
const SHARE_CHAINS: [Color; 2] = [Color(TURN + 1), Color(TURN + 2)];

/// Trees along columns.
pub fn column_tree() -> TreeColors {
    TreeColors::from(COLUMN_TREE)
}

/// Groups along columns that share work, beside the trees along columns; `None` in a region whose
/// turns have `bands` colors, of `usable` ones, that leave none for it.
pub fn share_tree(bands: u32, usable: u32) -> Option<TreeColors> {
    let free = bands <= 1 && SHARE_CHAINS.iter().all(|c| u32::from(c.0) < usable);
    let colors = TreeColors { inner: SHARE_CHAINS, down: COLUMN_GROUP, ..column_tree() };
    free.then_some(colors)
}

/// Trees along whole rows.
pub fn row_tree() -> TreeColors {
    TreeColors::from(ROW_TREE)
}

/// Trees along the rows of a head group.
pub fn group_tree() -> TreeColors {
    TreeColors::from(GROUP_TREE)
}

/// The color of band `band` of a turn into a region (template numbers).
pub fn turn_in(band: u32) -> Color {
    Color(TURN + band as u8)
}

/// The color of band `band` of a turn out of a region that is entered by `bands_in` bands (template
/// numbers).
pub fn turn_out(band: u32, bands_in: u32) -> Color {
    Color(TURN + bands_in as u8 + band as u8)
}
