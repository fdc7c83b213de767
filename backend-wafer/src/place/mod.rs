//! Stage 2: shapes and rectangles. Regions stand in strips of one height, consecutive ones abut.
//!
//! In: a `Partition` and a target. Out: a [`Placement`]: for embedding, layers and head the shape of
//! its region and where it lies. Strips are filled like text ploughed by oxen: east, then west below,
//! so that the activation vector always steps into the neighbour; at a turn the two regions share
//! their outer edge.
//! Method: strip heights are enumerated; per height and block the widths that fit SRAM are priced with
//! the block's own program; the pipeline is cut into one part per wafer (`wafers`) and the shortest
//! token wins. Everything is resident: no region is used by two layers.
//! Does not choose colors (`route`) or final programs (`schedule`).

mod candidates;
mod pack;
pub mod repair;
pub mod shape;
mod wafers;

use plan::{Rect, Target};

use crate::WaferError;
use crate::error::{Contributor, Hint, Shortfall, role_name};
use crate::partition::Partition;
use crate::program::builder::{sram_by_role, sram_bytes};
use crate::route::stream::{Entry, Exit};

pub(crate) use candidates::costed_position;
use candidates::{Candidate, Candidates};
use pack::Floor;
use shape::{LayerShape, TableShape};
use wafers::{Cuts, Pipeline, Price};

/// Strip heights below this are not tried on machines that are taller.
const MIN_HEIGHT: u32 = 4;
/// At most this many strip heights are tried, fewest strips first.
const MAX_HEIGHTS: usize = 48;
/// `Wafers::Fewest` tries no more than this: 405B parameters need 26.
const MAX_FEWEST: u32 = 32;
/// Share of a token's cycles given up for a faster slowest stage.
const SLACK: (u64, u64) = (1, 100);

/// Which block a region runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Block {
    /// Token embedding.
    Embedding,
    /// Layer of a spec (index into `Partition::layers`).
    Layer(usize),
    /// Final norm, head, argmax.
    Head,
}

/// The shape of a block's regions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Of a decoder layer.
    Layer(LayerShape),
    /// Of embedding or head.
    Table(TableShape),
}

impl Shape {
    /// Columns.
    pub fn width(&self) -> u32 {
        match self {
            Shape::Layer(s) => s.width,
            Shape::Table(s) => s.width,
        }
    }
}

/// A region with a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placed {
    /// What it runs.
    pub block: Block,
    /// Layer index.
    pub layer: Option<u32>,
    /// Its shape.
    pub shape: Shape,
    /// Where, in columns of all wafers.
    pub rect: Rect,
    /// Whether the template is mirrored east-west: in strips that run west.
    pub mirrored: bool,
    /// How the activation vector comes in.
    pub entry: Entry,
    /// How it goes out.
    pub exit: Exit,
    /// Wafer, from the west.
    pub wafer: u32,
    /// Strip, from the north.
    pub strip: u32,
}

/// Where everything lies.
#[derive(Clone, Debug, PartialEq)]
pub struct Placement {
    /// Rows of every strip.
    pub height: u32,
    /// Wafers used; they stand side by side, each with the columns of the target.
    pub wafers: u32,
    /// Regions in the order the activation visits them.
    pub regions: Vec<Placed>,
    /// Predicted cycles of all regions, and between wafers, for one token.
    pub cycles: u64,
}

/// How many wafers a plan may take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Wafers {
    /// As many as the target has.
    #[default]
    Target,
    /// As few as hold the model.
    Fewest,
    /// At most this many.
    UpTo(u32),
}

impl Wafers {
    /// The most wafers that are considered.
    fn limit(self, target: &Target) -> u32 {
        match self {
            Wafers::Target => target.wafers,
            Wafers::Fewest => MAX_FEWEST.max(target.wafers),
            Wafers::UpTo(n) => n,
        }
    }
}

/// Places `partition` on wafers like `target`.
///
/// # Errors
/// `DoesNotFit` with the numbers, or a weight that cannot be pinned.
pub fn place(
    partition: &Partition,
    target: &Target,
    wafers: Wafers,
) -> Result<Placement, WaferError> {
    let needed = u32::from(crate::route::palette::TURN);
    let available = target.usable_colors();
    if available < needed {
        return Err(WaferError::Colors { target: target.name.clone(), needed, available });
    }
    let blocks: Vec<(Block, Option<u32>)> = sequence(partition).collect();
    let kinds = kinds(partition);
    let mut limit = wafers.limit(target);
    let mut least: Option<Shortage> = None;
    let mut searched: Vec<(u32, Cuts<'_>)> = Vec::new();
    for height in heights(target) {
        let candidates = Candidates::new(partition, target, height, &kinds)?;
        let shortage = candidates.shortage(partition, (target, height));
        if least.as_ref().is_none_or(|l| shortage.pes < l.pes) {
            least = Some(shortage);
        }
        let strips = target.height / height;
        let floor = Floor { width: target.width, height, strips, turn_colors: available - needed };
        let crossing = crossing_cycles(partition, target);
        let pipeline = Pipeline { blocks: &blocks, floor, crossing, wafers: limit };
        let cuts = Cuts::new(pipeline, &candidates, wafers == Wafers::Fewest);
        let used = cuts.finals().map(|((wafers, ..), ..)| wafers).min();
        let Some(used) = used else { continue };
        if wafers == Wafers::Fewest && used < limit {
            limit = used;
            searched.clear();
        }
        searched.push((height, cuts));
    }
    match best(&searched) {
        Some((height, cuts, found, price)) => {
            let regions = cuts.regions(found);
            Ok(Placement { height, wafers: found.0.0, regions, cycles: price.cycles })
        }
        None => Err(does_not_fit(partition, target, (least, wafers.limit(target)))),
    }
}

/// The plan with the shortest token; among those that are as good within `SLACK`, the one with the
/// fastest slowest stage, which decides how many tokens per second a full pipeline yields.
fn best<'a, 'b>(searched: &'a [(u32, Cuts<'b>)]) -> Option<(u32, &'a Cuts<'b>, Found, Price)> {
    let all = || {
        let of = |(height, cuts): &'a (u32, Cuts<'b>)| {
            cuts.finals().map(move |(state, i, price)| (*height, cuts, (state, i), price))
        };
        searched.iter().flat_map(of)
    };
    let shortest = all().map(|f| f.3.cycles).min()?;
    let good = all().filter(|f| f.3.cycles <= shortest + shortest * SLACK.0 / SLACK.1);
    good.min_by_key(|f| (f.3.stage, f.3.cycles, f.3.area))
}

/// A state of the search and an index in its front.
type Found = ((u32, usize, u32), usize);

/// Cycles from the last region of a wafer to the first of the next: the link's latency, and its
/// bandwidth shared by all rows.
pub(crate) fn crossing_cycles(partition: &Partition, target: &Target) -> u64 {
    let fabric = &target.fabric;
    let wavelets = partition.hidden as u64;
    u64::from(fabric.wafer_hop_cycles) + wavelets.div_ceil(u64::from(fabric.wafer_link_wavelets))
}

/// One candidate per block.
type Choice = Vec<(Block, Candidate)>;

fn kinds(partition: &Partition) -> Vec<Block> {
    let layers = (0..partition.layers.len()).map(Block::Layer);
    std::iter::once(Block::Embedding).chain(layers).chain([Block::Head]).collect()
}

/// The regions in order: block and layer index.
fn sequence(partition: &Partition) -> impl Iterator<Item = (Block, Option<u32>)> + '_ {
    let layers = partition.sequence().map(|(spec, layer)| (Block::Layer(spec), Some(layer)));
    std::iter::once((Block::Embedding, None)).chain(layers).chain([(Block::Head, None)])
}

fn heights(target: &Target) -> Vec<u32> {
    let mut heights: Vec<u32> = (1..=target.height)
        .map(|strips| target.height / strips)
        .filter(|&h| h >= MIN_HEIGHT.min(target.height))
        .collect();
    heights.dedup();
    heights.truncate(MAX_HEIGHTS);
    heights
}

fn chosen(choice: &Choice, block: Block) -> Option<&Candidate> {
    choice.iter().find(|(b, _)| *b == block).map(|(_, c)| c)
}

/// What is missing at one strip height.
struct Shortage {
    /// PEs needed.
    pes: u64,
    /// Columns of the widest region.
    widest: u32,
    /// The block with the largest share, and its contributors in the widest shape tried.
    block: String,
    contributors: Vec<Contributor>,
}

fn does_not_fit(
    partition: &Partition,
    target: &Target,
    (least, wafers): (Option<Shortage>, u32),
) -> WaferError {
    let least = least.unwrap_or(Shortage {
        pes: u64::MAX,
        widest: 0,
        block: partition.name.clone(),
        contributors: Vec::new(),
    });
    let one = u64::from(target.width) * u64::from(target.height);
    let available = one * u64::from(wafers);
    let usable = u64::from(target.usable_sram());
    let largest = least.contributors.iter().max_by_key(|c| c.bytes);
    let mut hints = Vec::new();
    if largest.is_some_and(|c| c.role != plan::BufferRole::Weights) {
        hints.push(Hint::SmallerContext);
    }
    hints.push(Hint::Quantize);
    hints.push(Hint::LargerTarget);
    // More wafers help only where one holds the largest block.
    let at_least = least.pes.div_ceil(one.max(1)).max(u64::from(wafers) + 1);
    if least.widest <= target.width {
        hints.push(Hint::Wafers(at_least));
    }
    WaferError::DoesNotFit(Box::new(Shortfall {
        model: partition.name.clone(),
        target: target.name.clone(),
        regions: sequence(partition).count(),
        needed_pes: least.pes,
        available_pes: available,
        needed_bytes: least.pes.saturating_mul(usable),
        available_bytes: available * usable,
        block: least.block,
        largest: largest.map_or("weights", |c| role_name(c.role)),
        hints,
    }))
}

/// Contributors of a template in SRAM.
fn contributors(template: &plan::Template) -> Vec<Contributor> {
    sram_by_role(template).into_iter().map(|(role, bytes)| Contributor { role, bytes }).collect()
}

/// Whether a template fits a PE.
fn fits(template: &plan::Template, target: &Target) -> bool {
    sram_bytes(template) <= u64::from(target.usable_sram())
}
