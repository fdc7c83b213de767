//! The program of decoder layers on a rectangle of PEs, for one token: one, or several in turn.
//!
//! The activation vector is cut over rows and replicated along them. A mat-vec reads its input where
//! it lies and reduces along the other axis, so axes alternate and nothing is ever re-laid out:
//! q/k/v and gate/up reduce along columns, their norms with them; the output and down projections
//! along rows. Heads live in cells of columns, so rotation is local and scores reduce inside a cell;
//! cached tokens are dealt over the rows, so softmax and values reduce along columns; or over the columns
//! of a cell too, where the context is long (`CacheCut`).
//! What a line of PEs would all compute alike (exponentials, activations) is shared: each PE does a
//! piece and a short sum puts the pieces together, where that is cheaper than doing all of it.
//! Seven reductions, eight with q/k norms, and up to two shares; each is a phase, and local work
//! precedes it. Several layers in turn share trees, colors and scratch space; between two of them x
//! stays where it is.

mod attention;
mod mlp;
mod residual;
mod softmax;
mod surplus;

use plan::target::cost::instruction_cycles;
use plan::{Axis, CommShape, Instr, Len, Slice, Target};

use super::builder::{Columns, Program, TemplateBuilder, Vector};
use super::cost::comm_cycles;
use super::pins::Tiling;
use crate::WaferError;
use crate::partition::LayerSpec;
use crate::place::shape::{CacheCut, LayerShape};
use crate::route::palette;
use crate::route::stream::{Entry, Exit, enter};
use crate::route::tree::{Line, Pace, Reach, Tree};

pub(super) use residual::leave;
pub(crate) use surplus::possible as surplus_possible;

/// Everything the phases of a layer share.
struct Layer<'a> {
    b: TemplateBuilder,
    spec: &'a LayerSpec,
    shape: LayerShape,
    trees: Trees,
    target: &'a Target,
    x: Vector,
    /// Cosines and sines of rotation, the same for all layers.
    angles: Option<Slice>,
}

/// Trees of one geometry share colors and therefore routes: their groups are chosen once, for the
/// messages that weigh most.
#[derive(Clone, Debug)]
struct Trees {
    columns: Tree,
    /// Groups of a column that share work: those of `columns`, or others with chains of their own.
    shares: Tree,
    rows: Tree,
    groups: Tree,
}

impl Trees {
    /// For a region whose turns have `bands` colors.
    fn new(shape: LayerShape, bands: u32, target: &Target) -> Self {
        let heads = shape.heads;
        let columns =
            Line { axis: Axis::Y, len: shape.height, per_cell: false, extent: shape.height };
        let rows = Line { axis: Axis::X, len: shape.width, per_cell: false, extent: shape.width };
        let groups =
            Line { axis: Axis::X, len: heads.width, per_cell: true, extent: heads.columns() };
        let scores = heads.q_heads() * shape.slots;
        let groups = match shape.cut {
            CacheCut::Elements => Tree::best(groups, palette::group_tree(), scores, target),
            CacheCut::Tokens => cell_tree(groups, shape, target),
        };
        let maxima = |tree: &Tree| {
            let together =
                shape.cut == CacheCut::Elements && softmax::roots_fit(&groups, tree, target);
            if together { 0 } else { tree.cycles(Reach::All, heads.q_heads()) }
        };
        let pace = Pace::of(target);
        let shared = |tree: &Tree| share_cycles(tree, shape, target);
        let even = Tree::candidates(columns, palette::column_tree(), pace);
        let alike =
            even.into_iter().min_by_key(|t| column_cycles(t, shape) + maxima(t) + shared(t));
        let alike = alike.expect("one group is always possible");
        let apart = palette::share_tree(bands, target.usable_colors()).map(|colors| {
            let trees = Tree::candidates(columns, colors, pace);
            trees.into_iter().min_by_key(shared).expect("one group is always possible")
        });
        let growing = Tree::growing(columns, palette::column_tree(), &column_lengths(shape), pace);
        let growing = growing.into_iter().min_by_key(|t| column_cycles(t, shape) + maxima(t));
        let cycles =
            |tree: &Tree, shares: &Tree| column_cycles(tree, shape) + maxima(tree) + shared(shares);
        let alone = (alike.clone(), alike.clone());
        let chosen = growing.zip(apart).filter(|(t, s)| cycles(t, s) < cycles(&alike, &alike));
        let (columns, shares) = chosen.unwrap_or(alone);
        let rows = Tree::fastest(rows, palette::row_tree(), shape.hidden_tile, target);
        Trees { columns, shares, rows, groups }
    }
}

/// The tree over a cell whose columns hold tokens: long messages want a root that takes them once.
fn cell_tree(line: Line, shape: LayerShape, target: &Target) -> Tree {
    let colors = palette::group_tree();
    let cost = |tree: &Tree| -> u64 {
        let comm = |n: u32| comm_cycles(target, &tree.comm(Reach::All, Len::of(n)), 0);
        attention::cell_messages(shape.heads).into_iter().map(comm).sum()
    };
    let pace = Pace::of(target);
    let one_sided = Tree::one_sided(line, colors, pace);
    let candidates = Tree::candidates(line, colors, pace).into_iter().chain([one_sided.clone()]);
    candidates.min_by_key(cost).unwrap_or(one_sided)
}

/// Elements of the sums along columns, but for the softmax's maxima.
fn column_lengths(shape: LayerShape) -> [u32; 3] {
    let heads = shape.heads;
    let q = heads.q_heads() * heads.dim();
    let kv = heads.kv_heads * heads.dim();
    [q + 2 * kv + 1, q + heads.q_heads(), 2 * (shape.ffn_tile + shape.surplus) + 1]
}

/// What the phases of a layer spend on a tree along columns, but for the softmax's maxima and what groups
/// share.
fn column_cycles(tree: &Tree, shape: LayerShape) -> u64 {
    column_lengths(shape).iter().map(|&n| tree.cycles(Reach::All, n)).sum()
}

/// The activation, alone or shared by the groups of a tree along columns.
fn share_cycles(tree: &Tree, shape: LayerShape, target: &Target) -> u64 {
    // Two special functions per element, whatever the activation.
    let special = target.core.special;
    let activate = |n: u32| 2 * (special.setup + special.per_group * f64::from(n)).ceil() as u64;
    let members = tree.group_kinds().iter().map(|kind| kind.1).min().unwrap_or(1);
    let shared = activate(shape.ffn_tile.div_ceil(members))
        + comm_cycles(target, &tree.group_comm(Len::of(shape.ffn_tile)), 0);
    shared.min(activate(shape.ffn_tile))
}

/// The program of the layers of `shape`, all of `spec`, entered and left as given.
///
/// # Errors
/// When a weight cannot be pinned.
pub fn layer(
    spec: &LayerSpec,
    shape: LayerShape,
    (entry, exit): (Entry, Exit),
    name: String,
    target: &Target,
) -> Result<Program, WaferError> {
    let mut b = TemplateBuilder::new(name, shape.width, shape.height, (shape.heads.width, 1));
    let x = b.vector("x", shape.hidden_tile);
    enter(&mut b, entry, x, (shape.width, shape.height));
    let bands = entry.bands() + exit.bands();
    let trees = Trees::new(shape, bands, target);
    let mut layer = Layer { b, spec, shape, trees, target, x, angles: None };
    let mut completes = Vec::new();
    for number in 0..shape.layers {
        layer.b.begin_layer(number);
        completes = layer.attention(completes)?;
        let way = (number + 1 == shape.layers).then_some((entry, exit));
        completes = layer.mlp(completes, way)?;
    }
    Ok(layer.finish())
}

impl Layer<'_> {
    fn finish(mut self) -> Program {
        let trees = &self.trees;
        for tree in [&trees.columns, &trees.rows, &trees.groups] {
            self.b.tree(tree);
        }
        let apart = trees.shares.colors != trees.columns.colors;
        self.b.tree_groups(&trees.shares, palette::COLUMN_GROUP, apart);
        self.b.finish()
    }

    fn all_columns(&self) -> Columns {
        Columns { used: self.shape.width, width: self.shape.width }
    }

    fn head_columns(&self) -> Columns {
        Columns { used: self.shape.heads.columns(), width: self.shape.width }
    }

    /// Cycles of local work at the last position.
    fn cycles(&self, program: &[Instr]) -> u64 {
        let of = |i| instruction_cycles(self.target, self.b.template(), i, self.shape.slots);
        program.iter().map(of).sum()
    }

    /// Whether sharing work along a line pays: `alone` on every PE, or `piece` and `comm`.
    fn share_pays(&self, alone: &[Instr], piece: &[Instr], comm: &CommShape) -> bool {
        let software = u64::from(self.target.core.task_switch_cycles)
            + 3 * u64::from(self.target.core.color_bind_cycles);
        let shared = self.cycles(piece) + comm_cycles(self.target, comm, self.shape.slots);
        comm.depth > 0 && shared + software < self.cycles(alone)
    }

    fn hidden_rows(&self) -> Tiling {
        Tiling::Rows { tile: self.shape.hidden_tile, extent: self.spec.hidden as u32 }
    }

    fn heads(&self, heads: u32) -> Tiling {
        Tiling::Heads { heads, tiling: self.shape.heads }
    }
}
