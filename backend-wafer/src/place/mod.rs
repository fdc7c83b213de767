//! Stage 2: shapes and rectangles. Regions stand in strips of one height, consecutive ones abut.
//!
//! In: a `Partition` and a target. Out: a [`Placement`]: for embedding, layers and head the shape of
//! its region and where it lies. Strips are filled like text ploughed by oxen: east, then west below,
//! so that the activation vector always steps into the neighbour; at a turn the two regions share
//! their outer edge.
//! Method: strip heights are enumerated; per height and block the widths that fit SRAM are priced with
//! the block's own program; the cheapest combination that packs wins, ties by fewer PEs. Everything is
//! resident: no region is used by two layers.
//! Does not choose colors (`route`) or final programs (`schedule`), and uses the first wafer only.

mod candidates;
mod pack;
pub mod shape;

use plan::{Rect, Target};

use crate::WaferError;
use crate::error::{Contributor, Hint, Shortfall, role_name};
use crate::partition::Partition;
use crate::program::builder::{sram_by_role, sram_bytes};
use crate::route::stream::{Entry, Exit};

pub(crate) use candidates::costed_position;
use candidates::{Candidate, Candidates};
use shape::{LayerShape, TableShape};

/// Strip heights below this are not tried on machines that are taller.
const MIN_HEIGHT: u32 = 4;
/// At most this many strip heights are tried, fewest strips first.
const MAX_HEIGHTS: usize = 48;

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
    /// Where.
    pub rect: Rect,
    /// Whether the template is mirrored east-west: in strips that run west.
    pub mirrored: bool,
    /// How the activation vector comes in.
    pub entry: Entry,
    /// How it goes out.
    pub exit: Exit,
    /// Strip, from the north.
    pub strip: u32,
}

/// Where everything lies.
#[derive(Clone, Debug, PartialEq)]
pub struct Placement {
    /// Rows of every strip.
    pub height: u32,
    /// Shapes by block, in the order of `Block`.
    pub shapes: Vec<(Block, Shape)>,
    /// Regions in the order the activation visits them.
    pub regions: Vec<Placed>,
    /// Predicted cycles of all regions for one token.
    pub cycles: u64,
}

impl Placement {
    /// The shape of a block.
    pub fn shape(&self, block: Block) -> Option<Shape> {
        self.shapes.iter().find(|(b, _)| *b == block).map(|(_, s)| *s)
    }
}

/// Places `partition` on `target`.
///
/// # Errors
/// `DoesNotFit` with the numbers, or a weight that cannot be pinned.
pub fn place(partition: &Partition, target: &Target) -> Result<Placement, WaferError> {
    if !target.dead.is_empty() {
        let count = target.dead.len();
        return Err(WaferError::DeadPes { target: target.name.clone(), count });
    }
    let turn_colors = target.usable_colors().saturating_sub(u32::from(crate::route::palette::TURN));
    if target.usable_colors() < u32::from(crate::route::palette::TURN) {
        let needed = u32::from(crate::route::palette::TURN);
        let available = target.usable_colors();
        return Err(WaferError::Colors { target: target.name.clone(), needed, available });
    }
    let blocks = blocks(partition);
    let mut best: Option<(u64, u64, Placement)> = None;
    let mut least: Option<Shortage> = None;
    for height in heights(target) {
        let found = Candidates::new(partition, target, height, &blocks)?;
        let shortage = found.shortage(partition, (target, height));
        if least.as_ref().is_none_or(|l| shortage.pes < l.pes) {
            least = Some(shortage);
        }
        for choice in found.choices() {
            let area = area(partition, &choice, height);
            let cycles = cycles(partition, &choice);
            if best.as_ref().is_some_and(|(c, a, _)| (*c, *a) <= (cycles, area)) {
                continue;
            }
            let packed = pack::pack(partition, &choice, target, height, turn_colors);
            if let Some(regions) = packed {
                let shapes = choice.iter().map(|(b, c)| (*b, c.shape)).collect();
                best = Some((cycles, area, Placement { height, shapes, regions, cycles }));
            }
        }
    }
    match best {
        Some((_, _, placement)) => Ok(placement),
        None => Err(does_not_fit(partition, target, least)),
    }
}

/// One candidate per block.
type Choice = Vec<(Block, Candidate)>;

fn blocks(partition: &Partition) -> Vec<Block> {
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

fn area(partition: &Partition, choice: &Choice, height: u32) -> u64 {
    let width = |(block, _)| chosen(choice, block).map_or(0, |c| u64::from(c.shape.width()));
    sequence(partition).map(width).sum::<u64>() * u64::from(height)
}

fn cycles(partition: &Partition, choice: &Choice) -> u64 {
    sequence(partition).map(|(block, _)| chosen(choice, block).map_or(0, |c| c.cycles)).sum()
}

/// What is missing at one strip height.
struct Shortage {
    /// PEs needed.
    pes: u64,
    /// The block with the largest share, and its contributors in the widest shape tried.
    block: String,
    contributors: Vec<Contributor>,
}

fn does_not_fit(partition: &Partition, target: &Target, least: Option<Shortage>) -> WaferError {
    let least = least.unwrap_or(Shortage {
        pes: u64::MAX,
        block: partition.name.clone(),
        contributors: Vec::new(),
    });
    // One wafer: regions are not spread over several.
    let available = u64::from(target.width) * u64::from(target.height);
    let usable = u64::from(target.usable_sram());
    let largest = least.contributors.iter().max_by_key(|c| c.bytes);
    let mut hints = Vec::new();
    if largest.is_some_and(|c| c.role != plan::BufferRole::Weights) {
        hints.push(Hint::SmallerContext);
    }
    hints.push(Hint::Quantize);
    hints.push(Hint::LargerTarget);
    hints.push(Hint::Wafers(least.pes.div_ceil(available.max(1))));
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
