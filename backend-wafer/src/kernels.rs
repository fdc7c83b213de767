//! Bare kernels as ordinary plans: one region that runs one collective or one mat-vec.
//!
//! For calibration and for comparison with closed forms: built from the same trees and pins as the
//! templates of models, executed by the same simulator, with the same claims. Inputs are tables inside
//! the plan, so a kernel needs no model. Results are where the plan's logits are declared.

use plan::{
    Affine, Axis, BufferRole, Clause, Combine, Instr, Len, LogitsOutput, Matrix, ModelInfo,
    Orientation, Outputs, PhaseClaim, Plan, Port, Ports, Predicate, Rect, Region, RegionId, Role,
    Route, Slice, Storage, Target, TemplateId, WeightData, WeightDecl, WireFormat,
};
use tensor::DType;

use crate::partition::{Linear, Matrix as Constant, Piece, WeightRef};
use crate::program::builder::{Columns, Program, TemplateBuilder, Vector};
use crate::program::cost;
use crate::program::pins::{Tiling, pin_matrix, pin_vector, vector_buffer};
use crate::route::palette;
use crate::route::tree::{Line, Message, Reach, Tree};

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
        Kernel::Gemv => gemv(sizes, target),
        _ => collective(kernel, sizes, target),
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

fn collective(kernel: Kernel, sizes: Sizes, target: &Target) -> Built {
    let ((width, height), n) = (sizes.region, sizes.n);
    let mut b = TemplateBuilder::new(kernel.name().into(), width, height, (1, 1));
    let data = b.vector("data", n);
    let source = vector_buffer(&mut b, "source", n);
    let tiling = Tiling::Columns { tile: n, extent: n * width };
    let input = inline("source", &[(n * width) as usize]);
    // The builder refuses nothing here: the input is one plain piece.
    let _ = pin_vector(&mut b, &input, tiling, (source, 0), Some(height));
    let load = [Instr::Copy {
        dst: data.all(),
        src: Slice { buffer: source, offset: 0, len: Len::of(n) },
    }];
    b.phase(
        "load",
        None,
        vec![Role {
            name: "all".into(),
            predicate: Predicate::everywhere(),
            program: load.to_vec(),
        }],
    );
    let line = Line { axis: Axis::X, len: width, per_cell: false, extent: width };
    let colors = palette::row_tree();
    let at = match kernel {
        // One PE has nobody to talk to: the result is what it loaded.
        _ if width == 1 => 0,
        Kernel::Broadcast => {
            broadcast(&mut b, data, width);
            width - 1
        }
        _ => {
            let one_sided =
                |group| Tree { offset: 0, root_group: 0, ..Tree::with_group(line, group, colors) };
            let tree = match kernel {
                Kernel::Chain => one_sided(width),
                Kernel::TwoPhase => one_sided(even_root(width)),
                _ => Tree::best(line, colors, n, target),
            };
            let reach = if kernel == Kernel::Allreduce { Reach::All } else { Reach::Root };
            let message = Message { data: data.all(), combine: Combine::Add };
            let columns = Columns { used: width, width };
            b.reduce_phase(kernel.name(), &[], (&tree, message, reach), columns);
            b.routes(tree.routes());
            if reach == Reach::All { width - 1 } else { tree.root() }
        }
    };
    let mut program = b.finish();
    for weight in &mut program.weights {
        weight.inline = Some(values(n * width));
    }
    let predicate = Predicate::everywhere().and_x(Clause::range(at, at + 1));
    let predicate = predicate.and_y(Clause::range(0, 1));
    let start = Affine::constant(0);
    let region = RegionId(0);
    let logits = LogitsOutput { region, predicate, buffer: data.buffer, start, len: n };
    Built { program, logits, results: n }
}

/// The even number nearest to sqrt(p), at least 2.
fn even_root(p: u32) -> u32 {
    (p.isqrt().div_ceil(2) * 2).clamp(2, p.max(2))
}

fn broadcast(b: &mut TemplateBuilder, data: Vector, width: u32) {
    let wire = WireFormat::F32;
    let color = palette::STREAM_OUT;
    let route = |from, to, input, outputs: &[Port]| Route {
        color,
        predicate: Predicate::everywhere().and_x(Clause::range(from, to)),
        input,
        outputs: Ports::of(outputs),
    };
    let at = |from, to| Predicate::everywhere().and_x(Clause::range(from, to));
    let send = Instr::Send { color, src: data.all(), wire };
    let recv = Instr::Recv { color, dst: data.all(), combine: Combine::Store, wire };
    let role = |name: &str, predicate, program| Role { name: name.into(), predicate, program };
    b.routes(vec![
        route(0, 1, Port::Ramp, &[Port::East]),
        route(width - 1, width, Port::West, &[Port::Ramp]),
    ]);
    if width > 2 {
        b.routes(vec![route(1, width - 1, Port::West, &[Port::Ramp, Port::East])]);
    }
    let comm =
        plan::CommShape { kind: "multicast x".into(), serial: data.len, hops: width - 1, depth: 1 };
    let roles = vec![role("root", at(0, 1), vec![send]), role("leaf", at(1, width), vec![recv])];
    b.phase("broadcast", Some(comm), roles);
}

fn gemv(sizes: Sizes, target: &Target) -> Built {
    let (width, height) = sizes.region;
    let (k_tile, n_tile) = (sizes.k.div_ceil(height), sizes.n.div_ceil(width));
    let mut b = TemplateBuilder::new("gemv".into(), width, height, (1, 1));
    let (k, n) = (
        Tiling::Rows { tile: k_tile, extent: sizes.k },
        Tiling::Columns { tile: n_tile, extent: sizes.n },
    );
    let x = vector_buffer(&mut b, "x", k_tile);
    let _ = pin_vector(&mut b, &inline("x", &[sizes.k as usize]), k, (x, 0), Some(width));
    let w = b.buffer("w", BufferRole::Weights, Storage::F32, (k_tile, n_tile));
    let matrix = inline("w", &[sizes.n as usize, sizes.k as usize]);
    let _ = pin_matrix(&mut b, &Linear { matrix, bias: None, scale: 1.0 }, (k, n), w, 0);
    let y = b.vector("y", n_tile);
    let multiply = [Instr::Gemv {
        y: y.all(),
        x: Slice { buffer: x, offset: 0, len: Len::of(k_tile) },
        w: Matrix { buffer: w, row: 0, col: 0, rows: k_tile, cols: n_tile },
        accumulate: false,
    }];
    let line = Line { axis: Axis::Y, len: height, per_cell: false, extent: height };
    let tree = Tree::best(line, palette::column_tree(), n_tile, target);
    let message = Message { data: y.all(), combine: Combine::Add };
    let columns = Columns { used: width, width };
    b.reduce_phase("gemv", &multiply, (&tree, message, Reach::All), columns);
    b.routes(tree.routes());
    let mut program = b.finish();
    for weight in &mut program.weights {
        let count = weight.weight.shape.iter().product::<usize>() as u32;
        weight.inline = Some(values(count));
    }
    let predicate = Predicate::everywhere().and_y(Clause::range(0, 1));
    let start = Affine::of_x(0, i64::from(n_tile), (1, 1));
    let region = RegionId(0);
    let logits = LogitsOutput { region, predicate, buffer: y.buffer, start, len: n_tile };
    Built { program, logits, results: sizes.n }
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
