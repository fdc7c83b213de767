//! Bare kernels as ordinary plans: one region that runs one collective, one mat-vec or one layer.
//!
//! For calibration and for comparison with measurements and closed forms: built from the same trees and
//! pins as the templates of models, executed by the same simulator, with the same claims. Small inputs
//! are tables inside the plan; large ones are declared only, which is enough for time. Results are where
//! the plan's logits are declared.

mod collective;
mod decode_layer;
mod gemm;
mod gemm_t;
mod gemv;
mod meshgemm;
mod prefill_layer;
mod ring;
mod summa;

use plan::target::cost::instruction_cycles;
use plan::{
    BinaryOp, Instr, Len, LogitsOutput, ModelInfo, Operand, Orientation, Outputs, PhaseClaim, Plan,
    Rect, Region, Slice, Storage, Target, TemplateId, WeightData, WeightDecl, WireFormat,
};
use tensor::DType;

pub use collective::{Algorithm, Op};

use crate::partition::{Matrix as Constant, Piece, WeightRef};
use crate::program::builder::Program;
use crate::program::cost;
use crate::route::tree::{Line, Pace, Tree, TreeColors};

/// Elements up to which an input is a table inside the plan.
const INLINE_ELEMENTS: usize = 1 << 20;
/// Name of the phase in which a collective's operands are loaded.
const LOAD: &str = "load";

/// A kernel with its sizes, all of them at least 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kernel {
    /// One collective along a row of PEs.
    Collective {
        /// What it does.
        op: Op,
        /// How it reduces.
        algorithm: Algorithm,
        /// PEs of the row.
        pes: u32,
        /// f32 elements, that is wavelets, per PE.
        length: u32,
    },
    /// y\[n\] = x\[k\] W in f32, K over rows, N over columns, allreduce along columns by the tree that
    /// models use.
    Gemv {
        /// Columns and rows.
        region: (u32, u32),
        /// K.
        k: u32,
        /// N.
        n: u32,
    },
    /// WaferLLM's MeshGEMV: f16, allreduce by a two-level tree with groups of `group` PEs.
    MeshGemv {
        /// Side of the square of PEs.
        grid: u32,
        /// Rows (K) and columns (N) of the tile of one PE.
        tile: (u32, u32),
        /// PEs per group, or the nearest number that gives each group a root.
        group: u32,
    },
    /// The vendor library's GEMV: f32, a chain reduction to one end and a broadcast back.
    ChainGemv {
        /// Side of the square of PEs.
        grid: u32,
        /// Rows and columns of the tile of one PE.
        tile: u32,
    },
    /// WaferLLM's decode layer on one square of PEs.
    DecodeLayer {
        /// Side of the square of PEs.
        grid: u32,
        /// Hidden elements per PE.
        d: u32,
        /// Cached tokens per PE.
        s: u32,
        /// Feed-forward elements per PE.
        f: u32,
        /// Groups of each tree.
        groups: u32,
    },
    /// C \[m, n\] = A \[m, k\] B \[k, n\] in f16 by WaferLLM's MeshGEMM.
    MeshGemm {
        /// Side of the square of PEs, at least 2.
        grid: u32,
        /// Rows of A and C.
        m: u32,
        /// Columns of A, rows of B.
        k: u32,
        /// Columns of B and C.
        n: u32,
    },
    /// C \[m, n\] = A \[m, k\] B \[k, n\] in f16 by SUMMA, broadcasts and products overlapped.
    Summa {
        /// Side of the square of PEs.
        grid: u32,
        /// Rows of A and C.
        m: u32,
        /// Columns of A, rows of B.
        k: u32,
        /// Columns of B and C.
        n: u32,
    },
    /// WaferLLM's prefill layer on one square of PEs.
    PrefillLayer {
        /// Side of the square of PEs, at least 2.
        grid: u32,
        /// Hidden elements per PE.
        d: u32,
        /// Tokens per PE.
        s: u32,
        /// Feed-forward elements per PE.
        f: u32,
    },
}

/// Why a kernel cannot be built.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KernelError {
    /// No such kernel.
    #[error("SPK4201: no kernel `{name}`; there are {known}")]
    Unknown {
        /// What was asked for.
        name: String,
        /// All names.
        known: String,
    },
    /// The region is empty or larger than the wafer.
    #[error(
        "SPK4202: a region of {width} x {height} is not within `{target}` ({columns} x {rows})"
    )]
    Region {
        /// Name of the target.
        target: String,
        /// Columns asked for.
        width: u32,
        /// Rows asked for.
        height: u32,
        /// Columns of a wafer.
        columns: u32,
        /// Rows of a wafer.
        rows: u32,
    },
    /// The tiles exceed SRAM.
    #[error("SPK4203: a tile needs {needed} bytes, {available} are usable on `{target}`")]
    Sram {
        /// Name of the target.
        target: String,
        /// Bytes needed.
        needed: u64,
        /// Bytes usable.
        available: u64,
    },
    /// An extent of zero.
    #[error("SPK4204: {what} must not be zero")]
    Empty {
        /// Which.
        what: &'static str,
    },
    /// A star needs a color and a queue per sender.
    #[error(
        "SPK4205: a star of {pes} PEs needs {pes} - 1 colors and queues at its root; `{target}` has {most}"
    )]
    Star {
        /// Name of the target.
        target: String,
        /// PEs asked for.
        pes: u32,
        /// Senders that the target allows.
        most: u32,
    },
    /// A ring of one PE.
    #[error("SPK4207: a ring needs a grid of at least 2 x 2 PEs")]
    Ring,
    /// An extent beyond what a plan can say.
    #[error("SPK4206: {what} = {value} is above 2^31")]
    Extent {
        /// Which.
        what: &'static str,
        /// The product of tile and grid.
        value: u64,
    },
}

impl Kernel {
    /// Columns and rows of its region.
    pub fn region(&self) -> (u32, u32) {
        match *self {
            Kernel::Collective { pes, .. } => (pes, 1),
            Kernel::Gemv { region, .. } => region,
            Kernel::MeshGemv { grid, .. }
            | Kernel::ChainGemv { grid, .. }
            | Kernel::DecodeLayer { grid, .. }
            | Kernel::MeshGemm { grid, .. }
            | Kernel::Summa { grid, .. }
            | Kernel::PrefillLayer { grid, .. } => (grid, grid),
        }
    }

    /// Sizes by name, for checks.
    fn sizes(&self) -> Vec<(&'static str, u32)> {
        match *self {
            Kernel::Collective { pes, length, .. } => vec![("pes", pes), ("length", length)],
            Kernel::Gemv { k, n, .. } => vec![("k", k), ("n", n)],
            Kernel::MeshGemv { grid, tile: (k, n), group } => {
                vec![("grid", grid), ("tile", k), ("tile-n", n), ("group-size", group)]
            }
            Kernel::ChainGemv { grid, tile } => vec![("grid", grid), ("tile", tile)],
            Kernel::DecodeLayer { grid, d, s, f, groups } => {
                vec![("grid", grid), ("d", d), ("s", s), ("f", f), ("groups", groups)]
            }
            Kernel::MeshGemm { grid, m, k, n } | Kernel::Summa { grid, m, k, n } => {
                vec![("grid", grid), ("m", m), ("k", k), ("n", n)]
            }
            Kernel::PrefillLayer { grid, d, s, f } => {
                vec![("grid", grid), ("d", d), ("s", s), ("f", f)]
            }
        }
    }

    /// Bytes that the operands alone need on a PE, before anything is built.
    fn least_bytes(&self) -> u64 {
        let product = |a: u32, b: u32| u64::from(a) * u64::from(b);
        match *self {
            Kernel::Collective { length, .. } => product(length, 8),
            Kernel::Gemv { region: (w, h), k, n } => 4 * product(k.div_ceil(h), n.div_ceil(w)),
            Kernel::MeshGemv { tile: (k, n), .. } => 2 * product(k, n),
            Kernel::ChainGemv { tile, .. } => 4 * product(tile, tile),
            Kernel::DecodeLayer { d, s, f, .. } => {
                let weights = 4 * product(d, d) + 2 * product(d, s) + 3 * product(d, f);
                2 * weights
            }
            Kernel::MeshGemm { grid, m, k, n } | Kernel::Summa { grid, m, k, n } => {
                let (m, k, n) = (m.div_ceil(grid), k.div_ceil(grid), n.div_ceil(grid));
                6 * product(m, k) + 6 * product(k, n) + 2 * product(m, n)
            }
            Kernel::PrefillLayer { d, s, f, .. } => {
                8 * product(d, d) + 6 * product(d, f) + 8 * product(s, d) + 8 * product(s, s)
            }
        }
    }
}

/// The plan of a kernel.
///
/// # Errors
/// Sizes that are empty, larger than the wafer, or do not fit SRAM.
pub fn build(kernel: Kernel, target: &Target) -> Result<Plan, KernelError> {
    check(kernel, target)?;
    let bare = without_starts(target);
    let target = if matches!(kernel, Kernel::Collective { .. }) { &bare } else { target };
    let fits = |needed: u64| {
        let available = u64::from(target.usable_sram());
        let error = || KernelError::Sram { target: target.name.clone(), needed, available };
        (needed <= available).then_some(()).ok_or_else(error)
    };
    // Before anything is built: inline inputs are as large as the sizes say.
    fits(kernel.least_bytes())?;
    let built = match kernel {
        Kernel::Collective { op, algorithm, pes, length } => {
            collective::build((op, algorithm), (pes, length), target)?
        }
        Kernel::Gemv { region, k, n } => gemv::build(region, (k, n), target),
        Kernel::MeshGemv { grid, tile, group } => gemv::mesh(grid, tile, group, target),
        Kernel::ChainGemv { grid, tile } => gemv::chain(grid, tile, target),
        Kernel::MeshGemm { grid, m, k, n } => gemm::build(grid, (m, k, n)),
        Kernel::Summa { grid, m, k, n } => summa::build(grid, (m, k, n)),
        Kernel::PrefillLayer { grid, d, s, f } => {
            prefill_layer::build(prefill_layer::Sizes { grid, d, s, f }, target)
        }
        Kernel::DecodeLayer { grid, d, s, f, groups } => {
            decode_layer::build(decode_layer::Sizes { grid, d, s, f, groups }, target)
        }
    };
    fits(crate::program::builder::sram_bytes(&built.program.template))?;
    Ok(plan_of(built, kernel.region(), target))
}

fn check(kernel: Kernel, target: &Target) -> Result<(), KernelError> {
    for (what, extent) in kernel.sizes() {
        if extent == 0 {
            return Err(KernelError::Empty { what });
        }
    }
    let (width, height) = kernel.region();
    if matches!(kernel, Kernel::MeshGemm { .. } | Kernel::PrefillLayer { .. }) && width == 1 {
        return Err(KernelError::Ring);
    }
    if width == 0 || height == 0 || width > target.width || height > target.height {
        return Err(KernelError::Region {
            target: target.name.clone(),
            width,
            height,
            columns: target.width,
            rows: target.height,
        });
    }
    for (what, extent) in kernel.sizes() {
        let value = u64::from(extent) * u64::from(width.max(height));
        if value >= 1 << 31 {
            return Err(KernelError::Extent { what, value });
        }
    }
    Ok(())
}

/// Cycles of a plan of [`build`] that do not count for its kernel: what loads the operands of a
/// collective.
pub fn setup_cycles(plan: &Plan) -> u64 {
    let Some(template) = plan.templates.first() else { return 0 };
    let Some(load) = template.phases.first().filter(|p| p.name == LOAD) else { return 0 };
    let cycles = |r: &plan::Role| {
        r.program.iter().map(|i| instruction_cycles(&plan.target, template, i, 0)).sum::<u64>()
    };
    load.roles.iter().map(cycles).max().unwrap_or(0)
}

/// The target without the software that starts a message: closed forms of collectives, and the
/// measurements they are compared with, begin when every PE stands ready.
fn without_starts(target: &Target) -> Target {
    let mut target = target.clone();
    target.core.message_cycles = 0;
    target.core.task_switch_cycles = 0;
    target.core.color_bind_cycles = 0;
    target
}

/// The half-precision tree whose groups are nearest to `group` PEs, each with its root.
fn mesh_tree(line: Line, group: u32, colors: TreeColors, target: &Target) -> Tree {
    let near = |d: u32| [group.saturating_add(d), group.saturating_sub(d)];
    let sizes = (0..line.len.max(group)).flat_map(near).filter(|s| (1..=line.len).contains(s));
    let of = |size| Tree::with_group(line, size, colors, Pace::of(target));
    let mut trees = sizes.map(of);
    // One group is always regular.
    let mut tree = trees.find(Tree::is_regular).unwrap_or_else(|| of(line.len));
    tree.wire = WireFormat::F16;
    tree
}

/// Rotates the pairs of `data`, elements i and i + `half`, by a table of cosines and then sines, as long: six
/// element-wise operations on halves.
fn rope(half: u32, data: Slice, (table, scratch): (Slice, Slice)) -> Vec<Instr> {
    if half == 0 {
        return Vec::new();
    }
    let part = |s: Slice, i: u32| Slice { offset: s.offset + i * half, len: Len::of(half), ..s };
    let [(u, v), (cos, sin), (us, vs)] = [data, table, scratch].map(|s| (part(s, 0), part(s, 1)));
    let binary = |op, dst, a, b| Instr::Binary { op, dst, a, b: Operand::Slice(b) };
    vec![
        binary(BinaryOp::Mul, us, u, sin),
        binary(BinaryOp::Mul, vs, v, sin),
        binary(BinaryOp::Mul, u, u, cos),
        binary(BinaryOp::Mul, v, v, cos),
        binary(BinaryOp::Sub, u, u, vs),
        binary(BinaryOp::Add, v, v, us),
    ]
}

/// A program and where its result is.
struct Built {
    name: &'static str,
    program: Program,
    logits: LogitsOutput,
    /// Length of the result.
    results: u32,
}

/// A weight of the kernel, all of it one piece: a vector, or a matrix \[N, K\].
fn input(name: &str, shape: &[usize], dtype: DType) -> Constant {
    let (rows, cols) = (if shape.len() == 2 { shape[0] } else { 1 }, *shape.last().unwrap_or(&1));
    let weight = WeightRef { name: name.into(), dtype, shape: shape.to_vec() };
    Constant { rows, cols, pieces: vec![Piece::whole(weight, (rows, cols))] }
}

/// Small integers, so that sums are exact: the table of an inline weight.
fn values(count: usize) -> Vec<f32> {
    (0..count).map(|i| ((i * 7 + 3) % 11) as f32 - 5.0).collect()
}

fn plan_of(built: Built, (w, h): (u32, u32), target: &Target) -> Plan {
    let template = TemplateId(0);
    let mut claims = plan::Claims::default();
    for (phase, (compute_cycles, comm_cycles)) in
        cost::phase_cycles(target, &built.program.template, 0).into_iter().enumerate()
    {
        let phase = phase as u32;
        claims.token_cycles += compute_cycles + comm_cycles;
        claims.phases.push(PhaseClaim { template, phase, compute_cycles, comm_cycles });
    }
    let mut weights: Vec<WeightDecl> = Vec::new();
    for pinned in built.program.weights {
        let elements = pinned.weight.shape.iter().product::<usize>();
        let inline = elements <= INLINE_ELEMENTS;
        weights.push(WeightDecl {
            name: pinned.weight.name,
            shape: pinned.weight.shape.iter().map(|&n| n as u32).collect(),
            storage: Storage::from_dtype(pinned.weight.dtype).unwrap_or(Storage::F32),
            digest: None,
            copies: pinned.copies,
            data: if inline { WeightData::Inline(values(elements)) } else { WeightData::Model },
        });
    }
    weights.sort_by(|a, b| a.name.cmp(&b.name));
    Plan {
        model: ModelInfo {
            name: built.name.into(),
            digest: String::new(),
            hidden: built.logits.len,
            layers: 0,
            vocab: built.results,
            context: 1024,
        },
        target: target.clone(),
        weights,
        templates: vec![built.program.template],
        regions: vec![Region {
            name: built.name.into(),
            template,
            rect: Rect { x: 0, y: 0, w, h },
            orientation: Orientation::default(),
            layer: None,
            colors: Vec::new(),
        }],
        repair: None,
        wires: Vec::new(),
        streams: Vec::new(),
        outputs: Outputs { logits: vec![built.logits], token: None },
        claims,
    }
}
