//! Wafer placement plans: the complete program of every processing element (PE) of a wafer.
//!
//! A [`Plan`] is small because wafers are regular:
//!
//! ```text
//! Plan -> Region (a rectangle) -> Template (what one distinct block does)
//!           Template -> buffers (SRAM map) , pins (which weights lie where) , routes (colors) ,
//!                       phases -> roles (predicate on the position) -> instructions
//! ```
//!
//! What one PE holds and does is a pure function of the plan, expanded lazily
//! ([`expand`]);
//! 900,000 PEs are never a list. Reading order: [`target`], [`geometry`], [`index`], [`template`],
//! [`buffer`], [`pin`], [`route`], [`program`], [`plan`](mod@plan).
//!
//! # How a plan executes
//!
//! Once per token every PE of every region runs its program: phase 0, phase 1, ... of its template,
//! in each phase the instructions of the one role whose predicate holds at its position, in order,
//! each instruction to its end before the next one starts. There is **no barrier** between phases:
//! a PE waits only where it receives. A color at a router is a FIFO with exactly one input port, so
//! a plan is a Kahn process network: its results do not depend on timing.
//!
//! Three control registers are set on every PE before its program starts: `token` (the id of the
//! token fed in), `pos` (its position, 0-based) and `length` (tokens of the sequence known so far:
//! the larger of the prompt's length and pos + 1). Buffers of role `Weights` and `KvCache` persist from
//! token to token; a cache is zero before the first token. Any other buffer has undefined content when
//! its live range begins: a program writes before it reads (the simulator fills in NaN).
//! Prefill feeds prompt tokens one after another through the same program, in a pipeline of
//! regions; decode feeds the last token's argmax.
//!
//! All arithmetic is f32, one rounding per operation, in the order the instruction documents.
//!
//! The crate knows no model, no IR and no placer. `verify` proves a plan legal, `codec` stores it.

pub mod buffer;
pub mod claims;
pub mod codec;
pub mod dump;
pub mod expand;
pub mod expander;
pub mod geometry;
pub mod index;
#[doc(hidden)]
pub mod mutations;
mod parallel;
pub mod pin;
pub mod plan;
pub mod program;
pub mod repair;
pub mod route;
#[doc(hidden)]
pub mod samples;
pub mod span_map;
pub mod target;
pub mod template;
pub mod unroll;
pub mod verify;

pub use buffer::{Buffer, BufferId, Role as BufferRole, Storage};
pub use claims::{Bound, Claims, PhaseClaim, SramClaim};
pub use expand::{PlanMap, TemplateMap, Tile};
pub use expander::{Expander, PinnedSlice};
pub use geometry::{Axis, Orientation, Point, Port, Ports, Rect};
pub use index::{Affine, Clause, Predicate, Span, Term};
pub use pin::{Gain, Pin, WeightUse};
pub use plan::{
    LogitsOutput, ModelInfo, Outputs, Plan, Region, RegionId, Stream, TemplateId, TokenOutput,
    WeightData, WeightDecl, WeightId, Wire,
};
pub use program::{
    AttentionShape, BinaryOp, Combine, DynamicRope, Instr, Len, MICROTHREADS, Matrix, Operand,
    PartOp, ReduceOp, Slice, TableAxis, UnaryOp, WireFormat, broadcast_colors, in_loops, keeps,
};
pub use repair::{Bend, Detour, Repair, RepairMap, Spares};
pub use route::{Color, Route};
pub use span_map::{AffineMap, SpanMap};
pub use target::Target;
pub use template::{CommShape, KvLayout, Phase, Role, Template};
pub use unroll::{runs_in_program_order, unroll};
pub use verify::{Violation, verify, verify_repair};
