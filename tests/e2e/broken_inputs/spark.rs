//! .spark files that do not parse, do not verify, or do not fit their weights.
use crate::case::Case;

pub(crate) fn cases() -> Vec<Case> {
    Vec::new()
}
