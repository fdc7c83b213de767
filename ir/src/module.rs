//! A module: `main`, its blocks and what the graph alone does not say.

use std::collections::BTreeMap;

use tensor::DType;

use crate::{BlockId, Graph, Op};

/// A graph that `main` repeats.
pub type Block = Graph;

/// A whole model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Module {
    /// A short name, for artefacts and reports.
    pub name: String,
    /// Most positions a sequence may have: C + T <= context.
    pub context: usize,
    /// Repeated graphs; a block never repeats another.
    pub blocks: Vec<Block>,
    /// Entry: its first parameter is `tokens: i32[T]`, its first result `logits: f32[R, vocab]`.
    pub main: Graph,
    /// Facts for reports (architecture, source dtype); sorted; never part of the meaning.
    pub meta: BTreeMap<String, String>,
}

/// A tensor of the weight source that the module reads.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct WeightUse {
    /// Name, with the layer index filled in.
    pub name: String,
    /// Dtype as stored.
    pub dtype: DType,
    /// Extents.
    pub shape: Vec<usize>,
}

impl Module {
    /// A block.
    pub fn block(&self, id: BlockId) -> &Block {
        &self.blocks[id.index()]
    }

    /// All graphs, blocks first, `main` last.
    pub fn graphs(&self) -> impl Iterator<Item = &Graph> {
        self.blocks.iter().chain(std::iter::once(&self.main))
    }

    /// All graphs, mutably, blocks first, `main` last.
    pub fn graphs_mut(&mut self) -> impl Iterator<Item = &mut Graph> {
        self.blocks.iter_mut().chain(std::iter::once(&mut self.main))
    }

    /// The same module with every graph compacted ([`Graph::compact`]).
    #[must_use]
    pub fn compact(&self) -> Module {
        Module {
            blocks: self.blocks.iter().map(Graph::compact).collect(),
            main: self.main.compact(),
            ..self.clone()
        }
    }

    /// `(block, first layer, count)` of every repeat, in the order of execution.
    pub fn repeats(&self) -> impl Iterator<Item = (BlockId, u32, u32)> + '_ {
        self.main.nodes().filter_map(|(_, node)| match node.op {
            Op::Repeat { block, first, count } => Some((block, first, count)),
            _ => None,
        })
    }

    /// Every weight read, layer indices filled in, sorted by name, each once.
    pub fn weights(&self) -> Vec<WeightUse> {
        let mut uses = Vec::new();
        collect(&self.main, None, &mut uses);
        for (block, first, count) in self.repeats() {
            for layer in first..first.saturating_add(count) {
                collect(self.block(block), Some(layer), &mut uses);
            }
        }
        uses.sort();
        uses.dedup();
        uses
    }
}

fn collect(graph: &Graph, layer: Option<u32>, uses: &mut Vec<WeightUse>) {
    for (_, node) in graph.nodes() {
        if let Op::Weight { name, dtype, shape } = &node.op {
            let name = match layer {
                Some(layer) => name.replace("{layer}", &layer.to_string()),
                None => name.clone(),
            };
            uses.push(WeightUse { name, dtype: *dtype, shape: shape.clone() });
        }
    }
}
