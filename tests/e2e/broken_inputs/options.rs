//! Options that make no sense.
use crate::case::Case;

pub(crate) fn cases() -> Vec<Case> {
    Vec::new()
}
