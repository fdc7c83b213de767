//! Routes: the static configuration of the routers, per color.
//!
//! For one color a router has one input port and any set of output ports (multicast is
//! free). Routes never change while a plan runs: no switches, no reprogramming. All flows of a
//! color are therefore trees: one sending core at the root, receiving cores at the leaves, and
//! wavelets of one color arrive in the order they were sent.
//!
//! The colors of [`crate::Instr::Broadcast`] alone may have several inputs at a router, one rule for each: the
//! router's input set is that of all of them, its output set likewise, and nothing goes back through
//! the port it came from. There the instruction says why wavelets keep their order.
//!
//! A flow may leave a region: its color continues in the neighbouring region's routes or over
//! [`crate::Wire`]s through PEs of no region.

use serde::{Deserialize, Serialize};

use crate::geometry::{Port, Ports};
use crate::index::Predicate;

/// A color. In a template it is the template's own number; [`crate::Region::colors`] maps it to the
/// wafer's number, which must be below the target's usable colors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Color(pub u8);

/// One rule for one color: on PEs where `predicate` holds, wavelets of `color` that enter through
/// `input` leave through all of `outputs`.
///
/// `input` is `Ramp` where the core sends; `outputs` contains `Ramp` where the core receives.
/// At one position at most one rule of a color may hold (of a color that broadcasts one per input); where
/// none holds the color is unused.
/// `outputs` never contains `input` and is never empty.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// The color configured.
    pub color: Color,
    /// Where.
    pub predicate: Predicate,
    /// The one port wavelets come from.
    pub input: Port,
    /// The ports they leave through.
    pub outputs: Ports,
}
