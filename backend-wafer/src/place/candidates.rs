//! The shapes of each block worth considering at one strip height, with their cost.
//!
//! A candidate fits SRAM; of two candidates the wider is kept only when it is faster. Costs come from
//! the block's own program with streams along rows; turns are the same for all.

use std::collections::BTreeSet;

use plan::{Target, Template};

use super::shape::{CacheCut, LayerShape, TableShape};
use super::{Block, Choice, Contributor, MAX_SHARED_PES, Shape, Shortage, contributors, fits};
use crate::WaferError;
use crate::partition::{LayerSpec, Partition};
use crate::program::{cost, layer, table};
use crate::route::stream::{Entry, Exit};

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
        partition: &Partition,
        target: &Target,
        height: u32,
        pipeline: &[(Block, Option<u32>)],
    ) -> Result<Self, WaferError> {
        let blocks: BTreeSet<Block> = pipeline.iter().map(|(block, _)| *block).collect();
        let of = |&block: &Block| -> Result<OfBlock, WaferError> {
            let mut found = OfBlock { block, list: Vec::new(), fullest: Vec::new(), widest: 0 };
            match block {
                Block::Layers { spec, count } => {
                    let layers = (&partition.layers[spec], count);
                    let regions = pipeline.len();
                    layer_candidates(layers, (partition, target, height), regions, &mut found)?;
                }
                Block::Embedding | Block::Head => {
                    table_candidates(partition, target, height, &mut found)?;
                }
            }
            found.prune();
            Ok(found)
        };
        Ok(Candidates { blocks: blocks.iter().map(of).collect::<Result<_, _>>()? })
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
            widest: u32::try_from(widest).unwrap_or(u32::MAX),
            block: worst.map_or_else(String::new, |b| name(b.block)),
            contributors: worst.map_or_else(Vec::new, |b| b.fullest.clone()),
        }
    }
}

impl OfBlock {
    fn add(&mut self, shape: Shape, template: &Template, target: &Target, pos: u32) {
        if fits(template, target) {
            let cycles = cost::template_cycles(target, template, pos);
            self.list.push(Candidate { shape, cycles });
        }
        if u64::from(shape.width()) >= self.widest {
            self.fullest = contributors(template);
            self.widest = u64::from(shape.width());
        }
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

/// The position at which costs are compared: the last of the context.
pub(crate) fn costed_position(partition: &Partition) -> u32 {
    u32::try_from(partition.context).unwrap_or(u32::MAX).saturating_sub(1)
}

/// Cells of heads: how many, how wide, and how their caches lie.
type Cells = (u32, u32, CacheCut);

fn layer_candidates(
    (spec, layers): (&LayerSpec, u32),
    (partition, target, height): (&Partition, &Target, u32),
    regions: usize,
    found: &mut OfBlock,
) -> Result<(), WaferError> {
    let kv_heads = u32::try_from(spec.kv_heads).unwrap_or(u32::MAX);
    let groups: Vec<u32> = (1..=kv_heads).filter(|g| kv_heads.is_multiple_of(*g)).collect();
    let mut add = |width: u32, (groups, cell, cut): Cells| -> Result<(), WaferError> {
        let size = (width, height);
        let shape = LayerShape::new((spec, layers), size, (groups, cell, cut), partition.context);
        let shared = layers == 1 || shape.width * height <= MAX_SHARED_PES;
        if shape.width > target.width || !shared {
            return Ok(());
        }
        let io = (Entry::Row, Exit::Row);
        let program = layer::layer(spec, shape, io, spec.name.clone(), target)?;
        found.add(Shape::Layer(shape), &program.template, target, costed_position(partition));
        Ok(())
    };
    let cells = LayerShape::cells(spec);
    for cut in [CacheCut::Elements, CacheCut::Tokens] {
        for &cell in &cells {
            for &groups in &groups {
                add(groups * cell, (groups, cell, cut))?;
            }
        }
    }
    // Shapes of which a whole number fills a strip, heads on as many of their columns as can be.
    let strips = target.height / height;
    let regions = u32::try_from(regions).unwrap_or(u32::MAX);
    for n in 1..=regions.div_ceil(strips) + 1 {
        let width = target.width / n;
        let widest = width / kv_heads.max(1);
        if let Some(&cell) = cells.iter().rev().find(|&&c| c <= widest) {
            add(width, (kv_heads, cell, CacheCut::Elements))?;
            // Tokens use any number of columns.
            add(width, (kv_heads, widest, CacheCut::Tokens))?;
        }
    }
    // Heads cannot use more columns than this; the MLP can.
    let widest = cells.last().copied().unwrap_or(1);
    let mut width = kv_heads.saturating_mul(widest);
    while width < target.width {
        width = (width + width.div_ceil(8)).min(target.width);
        add(width, (kv_heads, widest, CacheCut::Elements))?;
        add(width, (kv_heads, width / kv_heads.max(1), CacheCut::Tokens))?;
    }
    Ok(())
}

fn table_candidates(
    partition: &Partition,
    target: &Target,
    height: u32,
    found: &mut OfBlock,
) -> Result<(), WaferError> {
    let mut width = 1;
    loop {
        let shape = TableShape::new(partition.vocab, partition.hidden, (width, height));
        let template = match found.block {
            Block::Embedding => table::embedding(partition, shape, Exit::Row, target)?.template,
            _ => table::head(partition, shape, Entry::Row, target)?.0.template,
        };
        found.add(Shape::Table(shape), &template, target, 0);
        if width >= target.width {
            return Ok(());
        }
        width = (width + width.div_ceil(6)).min(target.width);
    }
}
