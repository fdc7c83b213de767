//! The shape of a region: how sizes of a block are cut over its rows and columns.
//!
//! Pure arithmetic: a shape says how many elements each PE holds, `program` what it does with them.

use crate::partition::LayerSpec;

/// How heads are cut over columns: `groups` cells of `width` columns; each cell serves `kv_heads`
/// key/value heads and their query heads; in a cell, column j holds of every head the elements
/// `j*half .. (j+1)*half` of both halves, so that rotation needs no neighbour.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HeadTiling {
    /// Cells.
    pub groups: u32,
    /// Columns per cell.
    pub width: u32,
    /// Key/value heads per cell.
    pub kv_heads: u32,
    /// Query heads per key/value head.
    pub q_per_kv: u32,
    /// Elements per head.
    pub head_dim: u32,
    /// Pairs of a head per column.
    pub half: u32,
}

impl HeadTiling {
    /// Columns that hold heads.
    pub fn columns(&self) -> u32 {
        self.groups * self.width
    }

    /// Query heads per cell.
    pub fn q_heads(&self) -> u32 {
        self.kv_heads * self.q_per_kv
    }

    /// Elements of a head per column.
    pub fn dim(&self) -> u32 {
        2 * self.half
    }
}

/// How the caches of a head are cut over the columns of its cell; tokens lie over the rows always.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum CacheCut {
    /// By element: a column holds its elements of all tokens of its row. Scores are summed over the
    /// cell, so messages grow with the context.
    Elements,
    /// By token: a column holds whole keys and values of tokens of its own. Queries go to all columns of
    /// the cell, so messages grow with the head, whatever the context.
    Tokens,
}

/// Decoder layers, one after the other on the same `width` x `height` PEs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LayerShape {
    /// Layers.
    pub layers: u32,
    /// Columns.
    pub width: u32,
    /// Rows.
    pub height: u32,
    /// Heads over columns.
    pub heads: HeadTiling,
    /// Elements of the activation vector per row.
    pub hidden_tile: u32,
    /// Elements of the MLP per column.
    pub ffn_tile: u32,
    /// Elements of the MLP that a column without heads has besides.
    pub surplus: u32,
    /// How caches lie.
    pub cut: CacheCut,
    /// Cached tokens per PE and request.
    pub slots: u32,
    /// Requests whose caches are resident.
    pub requests: u32,
}

impl LayerShape {
    /// The shape of `layers` layers of `spec` on `height` rows and at least `width` columns, with heads
    /// in `groups` cells of `cell` columns and their caches cut as given.
    pub fn new(
        (spec, layers): (&LayerSpec, u32),
        (width, height): (u32, u32),
        (groups, cell, cut): (u32, u32, CacheCut),
        context: usize,
    ) -> Self {
        let size = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let half = size(spec.head_dim / 2).div_ceil(cell);
        let heads = HeadTiling {
            groups,
            width: cell,
            kv_heads: size(spec.kv_heads) / groups,
            q_per_kv: size(spec.heads / spec.kv_heads),
            head_dim: size(spec.head_dim),
            half,
        };
        let width = width.max(groups * cell);
        let cached = spec.window.map_or(context, |w| w.min(context));
        let columns = if cut == CacheCut::Tokens { cell } else { 1 };
        LayerShape {
            layers,
            width,
            height,
            heads,
            hidden_tile: size(spec.hidden).div_ceil(height),
            ffn_tile: size(spec.ffn).div_ceil(width),
            surplus: 0,
            cut,
            slots: size(cached).div_ceil(height.saturating_mul(columns)).max(1),
            requests: 1,
        }
    }

    /// The same with as much of the MLP as can be in the columns without heads, where q, k, v and o would lie;
    /// `None` where that does not relieve the others.
    pub fn with_surplus(self, spec: &LayerSpec) -> Option<Self> {
        let heads = self.heads;
        let free = self.width - heads.columns();
        let o = heads.q_heads() * heads.dim();
        let qkv = o + 2 * heads.kv_heads * heads.dim();
        let ffn = u32::try_from(spec.ffn).unwrap_or(u32::MAX);
        let most = o.min(qkv / 2);
        let tile = ffn.saturating_sub(most.saturating_mul(free)).div_ceil(self.width);
        // No more than what is then missing.
        let surplus = ffn.saturating_sub(tile * self.width).checked_div(free)?;
        let surplus = surplus + u32::from(tile * self.width + surplus * free < ffn);
        (tile < self.ffn_tile).then_some(LayerShape { ffn_tile: tile, surplus, ..self })
    }

    /// The useful cell widths of a spec: those that use fewer columns for the same slice.
    pub fn cells(spec: &LayerSpec) -> Vec<u32> {
        let pairs = u32::try_from(spec.head_dim / 2).unwrap_or(u32::MAX).max(1);
        let mut cells: Vec<u32> = (1..=pairs).map(|half| pairs.div_ceil(half)).collect();
        cells.sort_unstable();
        cells.dedup();
        cells
    }
}

/// A token table on `width` x `height` PEs: tokens over columns, elements over rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableShape {
    /// Columns.
    pub width: u32,
    /// Rows.
    pub height: u32,
    /// Elements of the activation vector per row.
    pub hidden_tile: u32,
    /// Tokens per column.
    pub vocab_tile: u32,
}

impl TableShape {
    /// The shape of a `[vocab, hidden]` table.
    pub fn new(vocab: usize, hidden: usize, (width, height): (u32, u32)) -> Self {
        let size = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        TableShape {
            width,
            height,
            hidden_tile: size(hidden).div_ceil(height),
            vocab_tile: size(vocab).div_ceil(width),
        }
    }
}
