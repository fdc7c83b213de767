//! The shapes of each block worth considering at one strip height, with their cost.
//!
//! A candidate fits SRAM; of two candidates the wider is kept only when it is faster. Costs come from
//! the block's own program with streams along rows; turns are the same for all.

use std::collections::BTreeSet;

use plan::Target;

use super::needs::{Need, Needs};
use super::shape::{CacheCut, LayerShape, TableShape};
use super::{Block, Choice, Contributor, MAX_SHARED_PES, Shape, Shortage};
use crate::WaferError;
use crate::partition::{LayerSpec, Partition};
use crate::program::{layer, table};
use crate::route::stream::{Entry, Exit};

/// Cells from the narrowest that fits to twice its width.
const TOKEN_STEPS: u32 = 12;

/// A shape that fits, and its predicted cycles per token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Candidate {
    pub(super) shape: Shape,
    pub(super) cycles: u64,
}

/// The candidates of a block, narrowest first; and what fills a PE in the widest shape tried.
struct OfBlock {
    block: Block,
    list: Vec<Candidate>,
    fullest: Vec<Contributor>,
    widest: u64,
}

/// All candidates at one strip height.
pub(super) struct Candidates {
    blocks: Vec<OfBlock>,
}

impl Candidates {
    pub(super) fn new(
        needs: &mut Needs<'_>,
        (height, surplus): (u32, bool),
        pipeline: &[(Block, Option<u32>)],
    ) -> Result<Self, WaferError> {
        let kinds: BTreeSet<Block> = pipeline.iter().map(|(block, _)| *block).collect();
        let mut blocks = Vec::new();
        for block in kinds {
            let mut found = OfBlock { block, list: Vec::new(), fullest: Vec::new(), widest: 0 };
            match block {
                Block::Layers { spec, count } => {
                    let found = &mut found;
                    let layers = Layers { spec, count, needs, height, surplus, found };
                    layers.all(pipeline.len())?;
                }
                Block::Embedding | Block::Head => {
                    table_candidates((needs.partition, needs.target), height, &mut found)?;
                }
            }
            found.prune();
            blocks.push(found);
        }
        Ok(Candidates { blocks })
    }

    /// Combinations to try for the blocks of `kinds`: every pair of width limits for layers and for
    /// tables.
    pub(super) fn choices(&self, kinds: &[Block]) -> Vec<Choice> {
        let widths = |layers: bool| -> BTreeSet<u32> {
            let of_kind = |b: &&OfBlock| kinds.contains(&b.block) && b.block.is_layers() == layers;
            let kind = self.blocks.iter().filter(of_kind);
            let widths = kind.flat_map(|b| b.list.iter().map(|c| c.shape.width()));
            // Without such a block its limit does not matter.
            if widths.clone().next().is_none() { [0].into() } else { widths.collect() }
        };
        let (layers, tables) = (widths(true), widths(false));
        let pairs = layers.iter().flat_map(|&l| tables.iter().map(move |&t| (l, t)));
        pairs.filter_map(|(l, t)| self.choice(kinds, l, t)).collect()
    }

    /// The fastest candidates no wider than the limits.
    fn choice(&self, kinds: &[Block], layer_width: u32, table_width: u32) -> Option<Choice> {
        let pick = |b: &OfBlock| {
            let limit = if b.block.is_layers() { layer_width } else { table_width };
            let fitting = b.list.iter().filter(|c| c.shape.width() <= limit);
            Some((b.block, *fitting.min_by_key(|c| (c.cycles, c.shape.width()))?))
        };
        self.blocks.iter().filter(|b| kinds.contains(&b.block)).map(pick).collect()
    }

    /// The fewest PEs at this height, and what needs most of them.
    pub(super) fn shortage(
        &self,
        partition: &Partition,
        pipeline: &[(Block, Option<u32>)],
        (target, height): (&Target, u32),
    ) -> Shortage {
        let mut needs: Vec<(u64, &OfBlock)> = Vec::new();
        let mut widest = 0;
        for of in &self.blocks {
            let times = pipeline.iter().filter(|(b, _)| *b == of.block).count() as u64;
            let width = match of.list.first() {
                Some(narrowest) => u64::from(narrowest.shape.width()),
                None => of.width_by_bytes(u64::from(target.usable_sram())),
            };
            widest = widest.max(width);
            needs.push((width.saturating_mul(times * u64::from(height)), of));
        }
        let pes = needs.iter().map(|n| n.0).fold(0, u64::saturating_add);
        let worst = needs.iter().max_by_key(|n| n.0).map(|n| n.1);
        let name = |block: Block| match block {
            Block::Embedding => "embedding".to_string(),
            Block::Head => "head".to_string(),
            Block::Layers { spec, .. } => partition.layers[spec].name.clone(),
        };
        Shortage {
            pes,
            estimated: self.blocks.iter().any(|of| of.list.is_empty()),
            widest: u32::try_from(widest).unwrap_or(u32::MAX),
            block: worst.map_or_else(String::new, |b| name(b.block)),
            contributors: worst.map_or_else(Vec::new, |b| b.fullest.clone()),
        }
    }
}

impl OfBlock {
    /// Adds a shape if it fits; whether it does.
    fn add(&mut self, shape: Shape, need: &Need, target: &Target) -> bool {
        let fits = need.bytes <= u64::from(target.usable_sram());
        if fits {
            self.list.push(Candidate { shape, cycles: need.cycles });
        }
        if u64::from(shape.width()) >= self.widest {
            self.fullest.clone_from(&need.contributors);
            self.widest = u64::from(shape.width());
        }
        fits
    }

    /// Columns that would hold the bytes of the widest shape tried, spread evenly.
    fn width_by_bytes(&self, usable: u64) -> u64 {
        let bytes: u64 = self.fullest.iter().map(|c| c.bytes).sum();
        bytes.saturating_mul(self.widest).div_ceil(usable.max(1)).max(self.widest + 1)
    }

    /// Keeps, from the narrowest, only shapes that are faster than all narrower ones.
    fn prune(&mut self) {
        self.list.sort_by_key(|c| (c.shape.width(), c.cycles));
        let mut fastest = u64::MAX;
        self.list.retain(|c| {
            let better = c.cycles < fastest;
            fastest = fastest.min(c.cycles);
            better
        });
    }
}

/// Cells of heads: how many, how wide, and how their caches lie.
type Cells = (u32, u32, CacheCut);

/// Tries shapes of decoder layers.
struct Layers<'a, 'b> {
    /// Index of the spec.
    spec: usize,
    count: u32,
    needs: &'a mut Needs<'b>,
    height: u32,
    /// Whether shapes that do not fit are tried with a surplus.
    surplus: bool,
    found: &'a mut OfBlock,
}

impl<'b> Layers<'_, 'b> {
    fn spec(&self) -> &'b LayerSpec {
        &self.needs.partition.layers[self.spec]
    }

    /// Tries the shapes for a pipeline of so many regions.
    fn all(mut self, regions: usize) -> Result<(), WaferError> {
        // Widths of which a whole number fills a strip.
        let target = self.needs.target;
        let strips = target.height / self.height;
        let most = size(regions).div_ceil(strips) + 1;
        let widths: Vec<u32> = (1..=most).map(|n| target.width / n).collect();
        let context = self.needs.partition.context;
        let attended = self.spec().window.map_or(context, |w| w.min(context));
        self.elements(&widths)?;
        // With fewer tokens on a row than elements in a head, scores travel more cheaply than heads.
        if size(attended).div_ceil(self.height) > size(self.spec().head_dim) {
            self.tokens(&widths)?;
        }
        Ok(())
    }

    /// Tries one shape; whether it fits.
    fn add(&mut self, width: u32, cells: Cells) -> Result<bool, WaferError> {
        let (spec, target) = (self.spec(), self.needs.target);
        let size = (width, self.height);
        let shape = LayerShape::new((spec, self.count), size, cells, self.needs.partition.context);
        let shared = self.count == 1 || shape.width * self.height <= MAX_SHARED_PES;
        if shape.width > target.width || !shared {
            return Ok(false);
        }
        let need = self.needs.layers(self.spec, shape)?;
        if self.found.add(Shape::Layer(shape), &need, target) {
            return Ok(true);
        }
        if !self.surplus {
            return Ok(false);
        }
        let over = need.bytes.saturating_sub(u64::from(target.usable_sram()));
        match shape.with_surplus(spec).filter(|fuller| self.relief(shape, *fuller) >= over) {
            Some(fuller) => {
                let need = self.needs.layers(self.spec, fuller)?;
                Ok(self.found.add(Shape::Layer(fuller), &need, target))
            }
            None => Ok(false),
        }
    }

    /// Bytes that a PE with heads saves by a surplus elsewhere: gate, up and down get smaller.
    fn relief(&self, even: LayerShape, fuller: LayerShape) -> u64 {
        let spec = self.spec();
        if !layer::surplus_possible(spec) {
            return 0;
        }
        let elements = even.ffn_tile.saturating_sub(fuller.ffn_tile) * even.hidden_tile;
        let storage = spec.gate.piece().and_then(|p| p.storage.bytes_for(1)).unwrap_or(4);
        3 * u64::from(self.count) * u64::from(elements) * storage as u64
    }

    /// Shapes whose columns share the tokens of their row.
    fn elements(&mut self, widths: &[u32]) -> Result<(), WaferError> {
        let kv_heads = size(self.spec().kv_heads);
        let cells = LayerShape::cells(self.spec());
        for &cell in &cells {
            for groups in divisors(kv_heads) {
                self.add(groups * cell, (groups, cell, CacheCut::Elements))?;
            }
        }
        for &width in widths {
            let widest = width / kv_heads.max(1);
            if let Some(&cell) = cells.iter().rev().find(|&&c| c <= widest) {
                self.add(width, (kv_heads, cell, CacheCut::Elements))?;
            }
        }
        // Heads cannot use more columns than this; the MLP can.
        let widest = cells.last().copied().unwrap_or(1);
        let mut width = kv_heads.saturating_mul(widest);
        let room = self.needs.target.width;
        while width < room {
            width = (width + width.div_ceil(8)).min(room);
            self.add(width, (kv_heads, widest, CacheCut::Elements))?;
        }
        Ok(())
    }

    /// Shapes whose columns have tokens of their own: any number of columns will do, so from the
    /// narrowest that fits in steps.
    fn tokens(&mut self, widths: &[u32]) -> Result<(), WaferError> {
        let kv_heads = size(self.spec().kv_heads);
        let room = self.needs.target.width;
        let Some(groups) = divisors(kv_heads).rfind(|&g| g <= room) else { return Ok(()) };
        let (mut least, mut most) = (1, room / groups);
        while least < most {
            let cell = least.midpoint(most);
            match self.add(groups * cell, (groups, cell, CacheCut::Tokens))? {
                true => most = cell,
                false => least = cell + 1,
            }
        }
        for step in 0..TOKEN_STEPS {
            let cell = least + (least * step).div_ceil(TOKEN_STEPS);
            self.add(groups * cell, (groups, cell, CacheCut::Tokens))?;
        }
        for &width in widths.iter().filter(|&&w| w >= groups) {
            self.add(width, (groups, width / groups, CacheCut::Tokens))?;
        }
        Ok(())
    }
}

fn size(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

/// Ascending.
fn divisors(n: u32) -> impl DoubleEndedIterator<Item = u32> {
    (1..=n).filter(move |d| n.is_multiple_of(*d))
}

fn table_candidates(
    (partition, target): (&Partition, &Target),
    height: u32,
    found: &mut OfBlock,
) -> Result<(), WaferError> {
    let block = found.block;
    let make = |width: u32| -> Result<(Shape, Need), WaferError> {
        let shape = TableShape::new(partition.vocab, partition.hidden, (width, height));
        let template = match block {
            Block::Embedding => table::embedding(partition, shape, Exit::Row, target)?.template,
            _ => table::head(partition, shape, Entry::Row, target)?.0.template,
        };
        Ok((Shape::Table(shape), Need::of(&template, target, 0)))
    };
    // The narrowest that fits, which counts where little room is left, and wider ones in steps.
    let (mut width, mut most) = (1, target.width);
    while width < most {
        let middle = width.midpoint(most);
        match make(middle)?.1.bytes <= u64::from(target.usable_sram()) {
            true => most = middle,
            false => width = middle + 1,
        }
    }
    loop {
        let (shape, need) = make(width)?;
        found.add(shape, &need, target);
        if width >= target.width {
            return Ok(());
        }
        width = (width + width.div_ceil(6)).min(target.width);
    }
}
