//! Stage 2: shapes and rectangles. Regions stand in strips of one height, consecutive ones abut.
//!
//! In: a `Partition` and a target. Out: a [`Placement`]: for embedding, layers and head the shape of
//! its region and where it lies. Strips are filled like text ploughed by oxen: east, then west below,
//! so that the activation vector always steps into the neighbour; at a turn the two regions share
//! their outer edge.
//! Method: strip heights are enumerated; per height and block the widths that fit SRAM are priced with
//! the block's own program; the pipeline is cut into one part per wafer (`wafers`) and the shortest
//! token wins. Everything is resident. A region may hold several layers, which take turns: then more
//! PEs work on a token and x crosses fewer borders, but fewer tokens are under way ([`Goal`]).
//! Does not choose colors (`route`) or final programs (`schedule`).

mod candidates;
mod needs;
mod pack;
pub mod repair;
pub mod shape;
mod wafers;

use plan::{Rect, Target};
use tensor::DType;

use crate::WaferError;
use crate::error::{Contributor, Hint, Shortfall, role_name};
use crate::partition::Partition;
use crate::program::builder::sram_by_role;
use crate::route::stream::{Entry, Exit};

use candidates::{Candidate, Candidates};
use needs::Needs;
pub(crate) use needs::costed_position;
use pack::Floor;
use shape::{LayerShape, TableShape};
use wafers::{Cuts, Pipeline, Price};

/// Strip heights below this are not tried on machines that are taller.
const MIN_HEIGHT: u32 = 4;
/// At most this many strip heights are tried, fewest strips first.
const MAX_HEIGHTS: usize = 48;
/// `Wafers::Fewest` tries no more than this: 405B parameters need 26.
const MAX_FEWEST: u32 = 32;
/// At most this many layers share a region.
const MAX_LAYERS: u32 = 8;
/// Regions with several layers have at most this many PEs: larger ones take long to prove legal.
const MAX_SHARED_PES: u32 = 1 << 18;
/// Share of a token's cycles given up for a faster slowest stage, where several requests are under way.
const SLACK: (u64, u64) = (1, 100);

/// Which block a region runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Block {
    /// Token embedding.
    Embedding,
    /// Layers of a spec (index into `Partition::layers`), one after the other.
    Layers {
        /// The spec.
        spec: usize,
        /// How many.
        count: u32,
    },
    /// Final norm, head, argmax.
    Head,
}

impl Block {
    /// Runs decoder layers.
    pub fn is_layers(self) -> bool {
        matches!(self, Block::Layers { .. })
    }
}

/// The shape of a block's regions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Of decoder layers.
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
    /// Index of its first layer.
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

/// What a placement may use, and what it is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Goal {
    /// How many wafers.
    pub wafers: Wafers,
    /// Requests to work on at once: at least so many regions. [`REQUESTS`] when absent; 1 gives the
    /// shortest token.
    pub requests: Option<u32>,
}

impl Goal {
    /// Share of a token's cycles given up for a faster slowest stage: with one request no stage ever waits
    /// for another.
    fn slack(self) -> (u64, u64) {
        if self.requests == Some(1) { (0, 1) } else { SLACK }
    }
}

/// Regions that a pipeline keeps unless asked otherwise: fewer and larger ones with several layers each
/// shorten a token by less than they lengthen the interval between tokens.
pub const REQUESTS: u32 = 24;

/// Places `partition` on wafers like `target`.
///
/// # Errors
/// `DoesNotFit` with the numbers, or a weight that cannot be pinned.
pub fn place(partition: &Partition, target: &Target, goal: Goal) -> Result<Placement, WaferError> {
    let needed = u32::from(crate::route::palette::TURN);
    let available = target.usable_colors();
    if available < needed {
        return Err(WaferError::Colors { target: target.name.clone(), needed, available });
    }
    let pipelines = pipelines(partition, goal.requests.unwrap_or(REQUESTS));
    let search = |surplus| Search {
        partition,
        target,
        wafers: goal.wafers,
        surplus,
        turn_colors: available - needed,
        limit: goal.wafers.limit(target),
        slack: goal.slack(),
        needs: Needs::new(partition, target),
        least: None,
        searched: Vec::new(),
    };
    // A surplus costs time: only where nothing else fits, or the fewest wafers are asked for.
    let possible = partition.layers.iter().any(crate::program::layer::surplus_possible);
    let mut least = None;
    let tries: &[bool] = match (possible, goal.wafers) {
        (false, _) => &[false],
        (true, Wafers::Fewest) => &[true],
        (true, _) => &[false, true],
    };
    for &surplus in tries {
        let search = search(surplus).all(&pipelines)?;
        if let Some((height, cuts, found, price)) = best(&search.searched, search.slack) {
            let regions = cuts.regions(found);
            return Ok(Placement { height, wafers: found.0.0, regions, cycles: price.cycles });
        }
        least = search.least;
    }
    let limit = goal.wafers.limit(target);
    let mut shortfall = shortfall(partition, (target, limit), pipelines[0].len(), least);
    // How many wafers would do is found like a plan for them.
    if shortfall.hints.iter().any(|h| matches!(h, Hint::WafersAtLeast(_)))
        && goal.wafers != Wafers::Fewest
        && let Ok(found) = place(partition, target, Goal { wafers: Wafers::Fewest, ..goal })
    {
        shortfall.hints.retain(|h| !matches!(h, Hint::WafersAtLeast(_)));
        shortfall.hints.insert(0, Hint::Wafers(found.wafers));
    }
    Err(WaferError::DoesNotFit(Box::new(shortfall)))
}

/// The pipelines to try: one layer in a region, then more as long as there are `requests` regions.
fn pipelines(partition: &Partition, requests: u32) -> Vec<Vec<(Block, Option<u32>)>> {
    let all = (1..=MAX_LAYERS).map(|count| sequence(partition, count));
    let mut pipelines: Vec<Vec<_>> = Vec::new();
    for (i, pipeline) in all.enumerate() {
        let enough = pipeline.len() >= requests as usize;
        // More in a row than there are makes the same regions again.
        if i == 0 || enough && pipelines.last().is_none_or(|p| p.len() > pipeline.len()) {
            pipelines.push(pipeline);
        }
    }
    pipelines
}

/// A search over strip heights, for one pipeline after the other.
struct Search<'a> {
    partition: &'a Partition,
    target: &'a Target,
    wafers: Wafers,
    /// Whether columns without heads may hold more of the MLP (decision 17).
    surplus: bool,
    turn_colors: u32,
    /// The most wafers still of interest.
    limit: u32,
    /// Share of a token's cycles given up for a faster slowest stage.
    slack: (u64, u64),
    needs: Needs<'a>,
    /// What is missing where least is missing.
    least: Option<Shortage>,
    /// Heights at which the pipeline fits and is not much longer than the shortest.
    searched: Vec<(u32, Cuts<'a>)>,
}

impl<'a> Search<'a> {
    /// Larger regions want taller strips: a pipeline starts at the best height of those before.
    fn all(mut self, pipelines: &'a [Vec<(Block, Option<u32>)>]) -> Result<Self, WaferError> {
        let mut lowest = 0;
        for blocks in pipelines {
            for height in heights(self.target).into_iter().filter(|&h| h >= lowest) {
                self.height(blocks, height)?;
            }
            lowest = best(&self.searched, self.slack).map_or(lowest, |found| found.0);
        }
        Ok(self)
    }

    fn height(
        &mut self,
        blocks: &'a [(Block, Option<u32>)],
        height: u32,
    ) -> Result<(), WaferError> {
        let target = self.target;
        let candidates = Candidates::new(&mut self.needs, (height, self.surplus), blocks)?;
        let shortage = candidates.shortage(self.partition, blocks, (target, height));
        let rank = |s: &Shortage| (s.estimated, s.pes);
        if self.least.as_ref().is_none_or(|least| rank(&shortage) < rank(least)) {
            self.least = Some(shortage);
        }
        let strips = target.height / height;
        let floor = Floor { width: target.width, height, strips, turn_colors: self.turn_colors };
        let crossing = crossing_cycles(self.partition, target);
        let pipeline = Pipeline { blocks, floor, crossing, wafers: self.limit };
        let cuts = Cuts::new(pipeline, &candidates, self.wafers == Wafers::Fewest);
        let used = cuts.finals().map(|((wafers, ..), ..)| wafers).min();
        let Some(used) = used else { return Ok(()) };
        if self.wafers == Wafers::Fewest && used < self.limit {
            self.limit = used;
            self.searched.clear();
        }
        self.searched.push((height, cuts));
        if let Some((_, _, _, price)) = best(&self.searched, self.slack) {
            let most = with_slack(price.cycles, self.slack);
            self.searched.retain(|(_, c)| c.finals().any(|(_, _, price)| price.cycles <= most));
        }
        Ok(())
    }
}

/// Cycles of a token that a faster slowest stage may cost.
fn with_slack(cycles: u64, (of, all): (u64, u64)) -> u64 {
    cycles + cycles * of / all
}

/// The plan with the shortest token; among those that are as good within `slack`, the one with the
/// fastest slowest stage, which decides how many tokens per second a full pipeline yields.
fn best<'a, 'b>(
    searched: &'a [(u32, Cuts<'b>)],
    slack: (u64, u64),
) -> Option<(u32, &'a Cuts<'b>, Found, Price)> {
    let all = || {
        let of = |(height, cuts): &'a (u32, Cuts<'b>)| {
            cuts.finals().map(move |(state, i, price)| (*height, cuts, (state, i), price))
        };
        searched.iter().flat_map(of)
    };
    let shortest = all().map(|f| f.3.cycles).min()?;
    let good = all().filter(|f| f.3.cycles <= with_slack(shortest, slack));
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

/// The regions in order, each with up to `count` layers: block and first layer.
fn sequence(partition: &Partition, count: u32) -> Vec<(Block, Option<u32>)> {
    let mut all = vec![(Block::Embedding, None)];
    for run in &partition.runs {
        let end = run.first + run.count;
        all.extend((run.first..end).step_by(count as usize).map(|first| {
            let count = count.min(end - first);
            (Block::Layers { spec: run.spec, count }, Some(first))
        }));
    }
    all.push((Block::Head, None));
    all
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
    /// Whether no shape of some block fits, so that its PEs are only its bytes spread evenly.
    estimated: bool,
    /// Columns of the widest region.
    widest: u32,
    /// The block with the largest share, and its contributors in the widest shape tried.
    block: String,
    contributors: Vec<Contributor>,
}

/// What quantised weights would need: q8 where that fits, else q4; `None` when they are as small already.
fn quantized(partition: &Partition, least: &Shortage, available: u64) -> Option<Hint> {
    let bits = |dtype: DType| match dtype {
        DType::Q8 => Some(8.5),
        DType::Q4 => Some(4.5),
        DType::Q4M => Some(5.0),
        DType::F16 | DType::BF16 => Some(16.0),
        DType::F32 => Some(32.0),
        _ => None,
    };
    let stored = bits(partition.layers.first()?.gate.piece()?.weight.dtype)?;
    let bytes = |role: Option<plan::BufferRole>| {
        least.contributors.iter().filter(move |c| role == Some(c.role) || role.is_none())
    };
    let all: u64 = bytes(None).map(|c| c.bytes).sum();
    let weights: u64 = bytes(Some(plan::BufferRole::Weights)).map(|c| c.bytes).sum();
    let share = weights as f64 / all.max(1) as f64;
    let pes = |to| {
        let smaller = bits(to)? / stored;
        let left = (1.0 - share) + share * smaller;
        (smaller < 1.0).then(|| (to, (least.pes as f64 * left).ceil() as u64))
    };
    let tried = [DType::Q8, DType::Q4].map(pes);
    let fitting = tried.into_iter().flatten().find(|(_, pes)| *pes <= available);
    let (to, pes) = fitting.or(tried.into_iter().flatten().last())?;
    Some(Hint::Quantize { to, pes })
}

fn shortfall(
    partition: &Partition,
    (target, wafers): (&Target, u32),
    regions: usize,
    least: Option<Shortage>,
) -> Shortfall {
    let least = least.unwrap_or(Shortage {
        pes: u64::MAX,
        estimated: true,
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
    hints.extend(quantized(partition, &least, available));
    hints.push(Hint::LargerTarget);
    // More wafers help only where one holds the largest block.
    let at_least = least.pes.div_ceil(one.max(1)).max(u64::from(wafers) + 1);
    if least.widest <= target.width {
        hints.push(Hint::WafersAtLeast(at_least));
    }
    Shortfall {
        model: partition.name.clone(),
        target: target.name.clone(),
        regions,
        needed_pes: least.pes,
        available_pes: available,
        needed_bytes: least.pes.saturating_mul(usable),
        available_bytes: available * usable,
        block: least.block,
        largest: largest.map_or("weights", |c| role_name(c.role)),
        hints,
    }
}

/// Contributors of a template in SRAM.
fn contributors(template: &plan::Template) -> Vec<Contributor> {
    sram_by_role(template).into_iter().map(|(role, bytes)| Contributor { role, bytes }).collect()
}
