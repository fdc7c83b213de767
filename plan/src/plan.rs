//! The plan itself: model, target, weights, templates, regions, wires, streams, outputs, claims.

use serde::{Deserialize, Serialize};

use crate::buffer::{BufferId, Storage};
use crate::claims::Claims;
use crate::geometry::{Orientation, Point, Port, Ports, Rect};
use crate::index::{Affine, Predicate};
use crate::repair::Repair;
use crate::route::Color;
use crate::target::Target;
use crate::template::Template;

/// Index into [`Plan::templates`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct TemplateId(pub u32);

/// Index into [`Plan::regions`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RegionId(pub u32);

/// Index into [`Plan::weights`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct WeightId(pub u32);

/// Where a layer's number goes in the name of a weight begins like this.
pub(crate) const LAYER: &str = "{layer";

/// A complete, self-contained placement plan.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// The model that was planned.
    pub model: ModelInfo,
    /// The machine, whole: a plan needs no target file.
    pub target: Target,
    /// How the target's grid lies on wafers with dead PEs; `None` when it is the wafer itself.
    pub repair: Option<Repair>,
    /// Every weight tensor of the model that must be on the wafer, ordered by name.
    pub weights: Vec<WeightDecl>,
    /// One per distinct block.
    pub templates: Vec<Template>,
    /// Rectangles, disjoint, in the order the activation visits them.
    pub regions: Vec<Region>,
    /// Routes through PEs outside of every region, or straight through a region's routers.
    pub wires: Vec<Wire>,
    /// Flows between regions, declared for maps and checked against the routes.
    pub streams: Vec<Stream>,
    /// Where results lie.
    pub outputs: Outputs,
    /// What the compiler claims; checked by nobody's trust.
    pub claims: Claims,
}

/// Identity and sizes of the planned model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelInfo {
    /// Name for people.
    pub name: String,
    /// Hex digest over configuration and weights (or over the configuration alone when it was
    /// compiled without weights).
    pub digest: String,
    /// Hidden size.
    pub hidden: u32,
    /// Decoder layers.
    pub layers: u32,
    /// Vocabulary size: length of the logits.
    pub vocab: u32,
    /// Declared context: positions `0..context` can be fed.
    pub context: u32,
}

/// A weight tensor of the model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WeightDecl {
    /// Full name (layer index filled in).
    pub name: String,
    /// Rank 1 or 2.
    pub shape: Vec<u32>,
    /// As the model stores it.
    pub storage: Storage,
    /// Hex digest of its bytes, when the weights were at hand.
    pub digest: Option<String>,
    /// How often every element is pinned, over all regions: 1, or more when replicated.
    /// A weight that is only read as a gain has 0.
    pub copies: u32,
    /// Where its values come from.
    pub data: WeightData,
}

/// Where the values of a weight come from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum WeightData {
    /// From the model, by name.
    Model,
    /// From the plan: small tables the compiler computed, e.g. RoPE's inverse frequencies.
    Inline(Vec<f32>),
}

/// A rectangle of PEs that runs a template.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Region {
    /// Unique name, e.g. `layer.7`.
    pub name: String,
    /// The template.
    pub template: TemplateId,
    /// Where; width and height are the template's. Lies on one wafer.
    pub rect: Rect,
    /// How the template lies in it.
    pub orientation: Orientation,
    /// What `{layer}` in weight names becomes, and what `{layer+N}` counts from: the first layer of a
    /// region that holds several. `None` where no name contains it.
    pub layer: Option<u32>,
    /// Template color -> wafer color, for the colors that are not mapped to themselves. The whole
    /// mapping is injective. Neighbours swap two colors so that in and out streams alternate.
    pub colors: Vec<(Color, Color)>,
}

impl Region {
    /// The wafer color that the template's `color` becomes here.
    pub fn color(&self, color: Color) -> Color {
        self.colors.iter().find(|(from, _)| *from == color).map_or(color, |&(_, to)| to)
    }

    /// The template position of wafer PE `p`; `None` outside.
    pub fn position(&self, p: Point) -> Option<(u32, u32)> {
        let r = self.rect;
        r.contains(p).then(|| self.orientation.position((p.x - r.x, p.y - r.y), r.w, r.h))
    }

    /// The wafer PE at a template position inside the region.
    pub fn point(&self, position: (u32, u32)) -> Point {
        let (x, y) = self.orientation.position(position, self.rect.w, self.rect.h);
        Point { x: self.rect.x + x, y: self.rect.y + y }
    }
}

/// A route at wafer level: on every PE of `rect`, wavelets of `color` entering through `input`
/// leave through `outputs`. Wafer colors and wafer ports. `input` and `outputs` exclude the ramp: PEs of
/// a wire need no program. May cross a region whose template does not use that color there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wire {
    /// Wafer color.
    pub color: Color,
    /// PEs configured.
    pub rect: Rect,
    /// The one port wavelets come from.
    pub input: Port,
    /// The ports they leave through.
    pub outputs: Ports,
}

/// Data that flows from one region to another once per token.
///
/// Every flow that leaves a region for another one belongs to the one stream of that pair of
/// regions and wafer color; its senders are in `from`, its receivers in `to`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stream {
    /// For people, e.g. `hidden 3 -> 4`.
    pub name: String,
    /// Sending region.
    pub from: RegionId,
    /// Receiving region.
    pub to: RegionId,
    /// Wafer color in which it enters `to`.
    pub color: Color,
    /// Elements per token, over all rows.
    pub elements: u32,
}

/// Where the results of a token are when all programs have ended.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Outputs {
    /// Pieces of the logits. Together they cover `0..vocab` exactly once.
    pub logits: Vec<LogitsOutput>,
    /// The argmax token; `None` for a plan without a language-model head.
    pub token: Option<TokenOutput>,
}

/// A piece of the logits: on each PE where `predicate` holds, element i of `buffer` is logit
/// `start + i`, for i in `0..len` with `start + i < vocab`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LogitsOutput {
    /// The region.
    pub region: RegionId,
    /// Where in it (template positions).
    pub predicate: Predicate,
    /// The buffer, from its first element.
    pub buffer: BufferId,
    /// First logit on each PE.
    pub start: Affine,
    /// Logits per PE, before cutting at the vocabulary.
    pub len: u32,
}

/// Where the token id of the largest logit ends up, as the f32 element `element` of `buffer`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenOutput {
    /// The region.
    pub region: RegionId,
    /// Template position.
    pub position: (u32, u32),
    /// The buffer.
    pub buffer: BufferId,
    /// Which element of it.
    pub element: u32,
}

impl Plan {
    /// The full name of template weight `name` in a region whose first layer is `layer`: `{layer}` and
    /// `{layer+N}` become numbers.
    pub fn weight_name(name: &str, layer: Option<u32>) -> String {
        let Some(first) = layer else { return name.to_owned() };
        let mut full = String::with_capacity(name.len());
        let mut rest = name;
        while let Some(at) = rest.find(LAYER) {
            full.push_str(&rest[..at]);
            let number = rest[at + LAYER.len()..].split_once('}').and_then(|(offset, end)| {
                let offset = match offset.strip_prefix('+') {
                    Some(n) => n.parse().ok()?,
                    None => Some(0).filter(|_| offset.is_empty())?,
                };
                Some((first.checked_add(offset)?, end))
            });
            // Not a place for a number: stays as it is, and resolves to no weight.
            let Some((number, end)) = number else { return full + &rest[at..] };
            full.push_str(&number.to_string());
            rest = end;
        }
        full.push_str(rest);
        full
    }

    /// Cycles from the argmax PE to the registers of the farthest PE that starts without input, 0 without an
    /// argmax. Wafers hang on one switch, so any other wafer is one hop of the link away from the edge.
    pub fn feedback_cycles(&self) -> u64 {
        let Some(token) = self.outputs.token else { return 0 };
        let Some(region) = self.regions.get(token.region.0 as usize) else { return 0 };
        let width = self.target.width;
        let from: Point = region.point(token.position);
        let fed = self.regions.iter().enumerate();
        let fed = fed.filter(|(i, _)| self.streams.iter().all(|s| s.to.0 as usize != *i));
        let far = |lo: u32, n: u32, p: u32| u64::from(p.abs_diff(lo).max(p.abs_diff(lo + n - 1)));
        let f = &self.target.fabric;
        let distance = |r: Rect| {
            let hops = |n: u64| n * u64::from(f.hop_cycles);
            if r.x / width == from.x / width {
                return hops(far(r.x, r.w, from.x) + far(r.y, r.h, from.y));
            }
            // East out of one wafer, west into the other.
            let out = u64::from(width - 1 - from.x % width);
            let into = u64::from(r.x % width + r.w - 1) + far(r.y, r.h, from.y);
            hops(out + into) + u64::from(f.wafer_hop_cycles)
        };
        let distance = fed.map(|(_, r)| distance(r.rect)).max().unwrap_or(0);
        // Two wavelets: token and position.
        distance + 2 * u64::from(f.ramp_cycles) + 2 + u64::from(self.target.host.feedback_cycles)
    }

    /// The layers of region `i`: from its own first to the next region's.
    pub fn layers_of(&self, i: usize) -> std::ops::Range<u32> {
        let Some(first) = self.regions.get(i).and_then(|r| r.layer) else { return 0..0 };
        let next = self.regions.iter().filter_map(|r| r.layer).filter(|&l| l > first).min();
        first..next.unwrap_or(self.model.layers).max(first)
    }

    /// The template of a region, `None` when its id is out of range.
    pub fn template_of(&self, region: &Region) -> Option<&Template> {
        self.templates.get(region.template.0 as usize)
    }

    /// The declared weight called `name`; declarations are ordered by name.
    pub fn weight(&self, name: &str) -> Option<(WeightId, &WeightDecl)> {
        let i = self.weights.binary_search_by(|w| w.name.as_str().cmp(name)).ok()?;
        Some((WeightId(i as u32), &self.weights[i]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_of_later_layers_count_from_the_first() {
        let name = |text, layer| Plan::weight_name(text, layer);
        assert_eq!(name("l.{layer}.q", Some(7)), "l.7.q");
        assert_eq!(name("l.{layer+2}.q", Some(7)), "l.9.q");
        assert_eq!(name("l.{layer+2}.q", None), "l.{layer+2}.q");
        for odd in ["l.{layer-1}", "l.{layer+}", "l.{layers}", "l.{layer+4294967295}", "l.{layer"] {
            assert_eq!(name(odd, Some(7)), odd);
        }
    }
}
