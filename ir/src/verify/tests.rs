//! Every rule: a module that keeps them all, and for each rule changes that break it.

use super::*;
use crate::testing::{Style, decoder};

#[test]
fn well_formed_modules_have_no_violation() {
    for style in [Style::Primitive, Style::Fused] {
        assert_eq!(verify(&decoder(style)), Ok(()));
    }
}
