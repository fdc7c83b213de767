//! Bare kernels as ordinary plans: one region that runs one collective or one mat-vec.
//!
//! For calibration and for comparison with closed forms: built from the same trees and pins as the
//! templates of models, executed by the same simulator, with the same claims. Inputs are tables inside
//! the plan, so a kernel needs no model. Results are where the plan's logits are declared.

mod collective;
mod gemv;

use plan::{
    LogitsOutput, ModelInfo, Orientation, Outputs, PhaseClaim, Plan, Rect, Region, Storage, Target,
    TemplateId, WeightData, WeightDecl,
};
use tensor::DType;

use crate::partition::{Matrix as Constant, Piece, WeightRef};
use crate::program::builder::Program;
use crate::program::cost;

/// A kernel by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kernel {
    /// PE 0 of a row to all.
    Broadcast,
    /// Sum along a row to PE 0, neighbour by neighbour.
    Chain,
    /// Sum along a row to PE 0: chains in groups of about sqrt(P), then a chain of their roots.
    TwoPhase,
    /// Sum along a row to its middle by the K-tree.
    Reduce,
    /// The same, and back to all.
    Allreduce,
    /// y\[N\] = x\[K\] W with K over rows, N over columns, allreduce along columns.
    Gemv,
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
}

/// The sizes of a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Columns and rows of the region.
    pub region: (u32, u32),
    /// K of a mat-vec.
    pub k: u32,
    /// N of a mat-vec; of a collective, elements per PE.
    pub n: u32,
}

impl Kernel {
    /// Every kernel.
    pub const ALL: [Kernel; 6] = [
        Kernel::Broadcast,
        Kernel::Chain,
        Kernel::TwoPhase,
        Kernel::Reduce,
        Kernel::Allreduce,
        Kernel::Gemv,
    ];

    /// The name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Kernel::Broadcast => "broadcast",
            Kernel::Chain => "chain",
            Kernel::TwoPhase => "two-phase",
            Kernel::Reduce => "reduce",
            Kernel::Allreduce => "allreduce",
            Kernel::Gemv => "gemv",
        }
    }

    /// The kernel called `name`.
    ///
    /// # Errors
    /// When there is none.
    pub fn from_name(name: &str) -> Result<Self, KernelError> {
        Kernel::ALL.into_iter().find(|k| k.name() == name).ok_or_else(|| KernelError::Unknown {
            name: name.to_string(),
            known: Kernel::ALL.map(Kernel::name).join(", "),
        })
    }
}

/// The plan of a kernel.
///
/// # Errors
/// Sizes that are empty, larger than the wafer, or do not fit SRAM.
pub fn build(kernel: Kernel, sizes: Sizes, target: &Target) -> Result<Plan, KernelError> {
    let (width, height) = sizes.region;
    for (what, extent) in [("k", sizes.k), ("n", sizes.n)] {
        if extent == 0 {
            return Err(KernelError::Empty { what });
        }
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
    let fits = |needed: u64| {
        let available = u64::from(target.usable_sram());
        let error = || KernelError::Sram { target: target.name.clone(), needed, available };
        (needed <= available).then_some(()).ok_or_else(error)
    };
    // Before anything is built: inline inputs are as large as the sizes say.
    fits(least_bytes(kernel, sizes))?;
    let built = match kernel {
        Kernel::Gemv => gemv::build(sizes, target),
        _ => collective::build(kernel, sizes, target),
    };
    fits(crate::program::builder::sram_bytes(&built.program.template))?;
    Ok(plan_of(kernel, built, sizes, target))
}

/// Bytes that the operands alone need on a PE: the f32 tile of a matrix, or the vector that is
/// communicated and the one it is loaded from.
fn least_bytes(kernel: Kernel, sizes: Sizes) -> u64 {
    let (width, height) = sizes.region;
    let elements = match kernel {
        Kernel::Gemv => u64::from(sizes.k.div_ceil(height)) * u64::from(sizes.n.div_ceil(width)),
        _ => 2 * u64::from(sizes.n),
    };
    elements.saturating_mul(4)
}

/// A program and where its result is.
struct Built {
    program: Program,
    logits: LogitsOutput,
    /// Length of the result.
    results: u32,
}

fn inline(name: &str, shape: &[usize]) -> Constant {
    let cols = *shape.last().unwrap_or(&1);
    let rows = if shape.len() == 2 { shape[0] } else { 1 };
    let weight = WeightRef { name: name.into(), dtype: DType::F32, shape: shape.to_vec() };
    let piece = Piece {
        at: (0, 0),
        size: (rows, cols),
        weight,
        from: (0, 0),
        transposed: false,
        scale: 1.0,
        gains: Vec::new(),
        storage: DType::F32,
        rounded: false,
    };
    Constant { rows, cols, pieces: vec![piece] }
}

/// Small integers, so that sums are exact: the table of an inline weight.
fn values(count: u32) -> Vec<f32> {
    (0..count).map(|i| ((i * 7 + 3) % 11) as f32 - 5.0).collect()
}

fn plan_of(kernel: Kernel, built: Built, sizes: Sizes, target: &Target) -> Plan {
    let (w, h) = sizes.region;
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
        weights.push(WeightDecl {
            name: pinned.weight.name,
            shape: pinned.weight.shape.iter().map(|&n| n as u32).collect(),
            storage: Storage::F32,
            digest: None,
            copies: pinned.copies,
            data: WeightData::Inline(pinned.inline.unwrap_or_default()),
        });
    }
    weights.sort_by(|a, b| a.name.cmp(&b.name));
    Plan {
        model: ModelInfo {
            name: kernel.name().into(),
            digest: String::new(),
            hidden: sizes.n,
            layers: 0,
            vocab: built.results,
            context: 1024,
        },
        target: target.clone(),
        weights,
        templates: vec![built.program.template],
        regions: vec![Region {
            name: kernel.name().into(),
            template,
            rect: Rect { x: 0, y: 0, w, h },
            orientation: Orientation::default(),
            layer: None,
            colors: Vec::new(),
        }],
        wires: Vec::new(),
        streams: Vec::new(),
        outputs: Outputs { logits: vec![built.logits], token: None },
        claims,
    }
}
