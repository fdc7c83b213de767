//! What blocks of a shape need: cycles of a token and bytes of a PE, from their own programs.
//!
//! Of layers that share a region the first is entered, the last is left, and those between are alike: n layers
//! take what one takes and n - 1 times what a second one adds. So programs of one and of two layers
//! price any number, each worked out once for all pipelines.
//! Does not choose shapes: `candidates` does.

use std::collections::BTreeMap;

use plan::{BufferRole, Target, Template};

use super::contributors;
use super::shape::LayerShape;
use crate::WaferError;
use crate::error::Contributor;
use crate::partition::Partition;
use crate::program::builder::sram_bytes;
use crate::program::{cost, layer};
use crate::route::stream::{Entry, Exit};

/// What a block needs.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Need {
    /// Predicted cycles of a token.
    pub(super) cycles: u64,
    /// Bytes of SRAM of a PE.
    pub(super) bytes: u64,
    /// Who fills the fullest phase.
    pub(super) contributors: Vec<Contributor>,
}

impl Need {
    /// Of a template, for a token at position `pos`.
    pub(super) fn of(template: &Template, target: &Target, pos: u32) -> Self {
        Need {
            cycles: cost::template_cycles(target, template, pos),
            bytes: sram_bytes(template),
            contributors: contributors(template),
        }
    }
}

/// One layer, and what each further one keeps on a PE for itself.
#[derive(Clone, Debug)]
struct Single {
    need: Need,
    own: Vec<Contributor>,
}

/// Needs of layers, each distinct shape worked out once.
pub(super) struct Needs<'a> {
    pub(super) partition: &'a Partition,
    pub(super) target: &'a Target,
    /// By spec and shape of one layer.
    singles: BTreeMap<(usize, LayerShape), Single>,
    /// Two layers.
    pairs: BTreeMap<(usize, LayerShape), Need>,
}

impl<'a> Needs<'a> {
    pub(super) fn new(partition: &'a Partition, target: &'a Target) -> Self {
        Needs { partition, target, singles: BTreeMap::new(), pairs: BTreeMap::new() }
    }

    /// Of the layers of `shape`; the cycles of several that do not fit are not worked out.
    ///
    /// # Errors
    /// When a weight cannot be pinned.
    pub(super) fn layers(&mut self, spec: usize, shape: LayerShape) -> Result<Need, WaferError> {
        let key = (spec, LayerShape { layers: 1, ..shape });
        let more = u64::from(shape.layers.saturating_sub(1));
        if !self.singles.contains_key(&key) {
            let template = self.template(key)?;
            let need = self.need(&template);
            self.singles.insert(key, Single { need, own: own(&template) });
        }
        let Single { need: mut total, own } = self.singles[&key].clone();
        for contributor in own {
            let bytes = more * contributor.bytes;
            total.bytes += bytes;
            let known = total.contributors.iter_mut().find(|c| c.role == contributor.role);
            match known {
                Some(known) => known.bytes += bytes,
                None => total.contributors.push(Contributor { bytes, ..contributor }),
            }
        }
        if more == 0 || total.bytes > u64::from(self.target.usable_sram()) {
            return Ok(total);
        }
        if !self.pairs.contains_key(&key) {
            let template = self.template((spec, LayerShape { layers: 2, ..shape }))?;
            self.pairs.insert(key, self.need(&template));
        }
        let (one, two) = (&self.singles[&key], &self.pairs[&key]);
        let own: u64 = one.own.iter().map(|c| c.bytes).sum();
        // A vector that one layer leaves to the next may ask for more than either alone.
        total.bytes = total.bytes.max(two.bytes + (more - 1) * own);
        total.cycles += more * two.cycles.saturating_sub(one.need.cycles);
        Ok(total)
    }

    fn need(&self, template: &Template) -> Need {
        Need::of(template, self.target, costed_position(self.partition))
    }

    fn template(&self, (spec, shape): (usize, LayerShape)) -> Result<Template, WaferError> {
        let spec = &self.partition.layers[spec];
        let io = (Entry::Row, Exit::Row);
        Ok(layer::layer(spec, shape, io, spec.name.clone(), self.target)?.template)
    }
}

/// The weights and caches of a single layer, without what all layers of a region share.
fn own(template: &Template) -> Vec<Contributor> {
    let of_layer = |id: usize| {
        let pins = template.pins.iter().filter(move |p| p.buffer.0 as usize == id);
        pins.map(|p| &template.weights[p.weight as usize].name).any(|name| name.contains("{layer"))
    };
    let total = |role: BufferRole| {
        let of_role = template.buffers.iter().enumerate().filter(move |(_, b)| b.role == role);
        let own = of_role.filter(|(id, _)| role == BufferRole::KvCache || of_layer(*id));
        Contributor { role, bytes: own.map(|(_, b)| u64::from(b.bytes)).sum() }
    };
    vec![total(BufferRole::Weights), total(BufferRole::KvCache)]
}

/// The position at which costs are compared: the last of the context.
pub(crate) fn costed_position(partition: &Partition) -> u32 {
    u32::try_from(partition.context).unwrap_or(u32::MAX).saturating_sub(1)
}
