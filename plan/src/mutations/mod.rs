//! Breaks legal plans in known ways, for tests: `verify` must reject every one.
//!
//! [`mutate`] picks a place at random among those where the change is certain to break the plan, so no
//! mutant means the same as the original. `None` when the plan has no such place (a plan without
//! streams has none to lose). Works on any plan that `verify` accepts, compiled ones too.

mod programs;
mod storage;

use tensor::Rng;

use crate::plan::Plan;

/// A way to break a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A pin is lost: weight elements are nowhere.
    PinLost,
    /// A pin is there twice.
    PinDoubled,
    /// A slice starts elsewhere.
    SliceShifted,
    /// A slice is longer than its reserved place, or cut short.
    SliceResized,
    /// A declared weight has another shape.
    WeightReshaped,
    /// A weight is declared with more copies than there are.
    CopiesWrong,
    /// A weight that a region uses is not declared.
    WeightUndeclared,
    /// Two live buffers share bytes.
    BuffersOverlap,
    /// A buffer lies beyond SRAM.
    SramOverflow,
    /// A buffer has too few bytes.
    BufferShrunk,
    /// A buffer is dead when it is used.
    BufferDead,
    /// The KV cache has too few slots.
    CacheShrunk,
    /// A region leaves the wafer.
    RegionOutside,
    /// A region lies on another, or is larger than its template.
    RegionMoved,
    /// A PE in use is dead.
    PeDead,
    /// Positions without a role.
    RoleLost,
    /// Positions with two roles.
    RoleDoubled,
    /// A message is not sent.
    SendLost,
    /// A message is not received.
    ReceiveLost,
    /// A message has another length on one side.
    LengthWrong,
    /// A message goes out, or is awaited, on an unused color.
    ColorWrong,
    /// A message is encoded differently on one side.
    WireFormatWrong,
    /// A route that carries messages is lost.
    RouteLost,
    /// A color has two routes at one router.
    ColorClash,
    /// A route leads elsewhere.
    RouteTurned,
    /// A color outside of the budget.
    ColorOverBudget,
    /// An operand lies outside of its buffer.
    OperandOutside,
    /// An instruction names a buffer that is not there.
    BufferDangling,
    /// A weight buffer is written.
    WeightWritten,
    /// Two neighbours wait for each other.
    CyclicWait,
    /// Logits are not covered.
    LogitsLost,
    /// The token output is not on the region.
    TokenOutside,
    /// A stream is not declared, or with another size.
    StreamWrong,
    /// A wire that carries a stream is lost.
    WireLost,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Kind; 34] = [
        Kind::PinLost,
        Kind::PinDoubled,
        Kind::SliceShifted,
        Kind::SliceResized,
        Kind::WeightReshaped,
        Kind::CopiesWrong,
        Kind::WeightUndeclared,
        Kind::BuffersOverlap,
        Kind::SramOverflow,
        Kind::BufferShrunk,
        Kind::BufferDead,
        Kind::CacheShrunk,
        Kind::RegionOutside,
        Kind::RegionMoved,
        Kind::PeDead,
        Kind::RoleLost,
        Kind::RoleDoubled,
        Kind::SendLost,
        Kind::ReceiveLost,
        Kind::LengthWrong,
        Kind::ColorWrong,
        Kind::WireFormatWrong,
        Kind::RouteLost,
        Kind::ColorClash,
        Kind::RouteTurned,
        Kind::ColorOverBudget,
        Kind::OperandOutside,
        Kind::BufferDangling,
        Kind::WeightWritten,
        Kind::CyclicWait,
        Kind::LogitsLost,
        Kind::TokenOutside,
        Kind::StreamWrong,
        Kind::WireLost,
    ];
}

/// A broken copy of `plan`, or `None` when it cannot be broken in this way.
pub fn mutate(plan: &Plan, kind: Kind, rng: &mut Rng) -> Option<Plan> {
    let mut plan = plan.clone();
    let done = match kind {
        Kind::PinLost
        | Kind::PinDoubled
        | Kind::SliceShifted
        | Kind::SliceResized
        | Kind::WeightReshaped
        | Kind::CopiesWrong
        | Kind::WeightUndeclared => storage::weights(&mut plan, kind, rng),
        Kind::BuffersOverlap
        | Kind::SramOverflow
        | Kind::BufferShrunk
        | Kind::BufferDead
        | Kind::CacheShrunk => storage::memory(&mut plan, kind, rng),
        Kind::RegionOutside | Kind::RegionMoved | Kind::PeDead => {
            storage::regions(&mut plan, kind, rng)
        }
        Kind::RoleLost | Kind::RoleDoubled => programs::roles(&mut plan, kind, rng),
        Kind::SendLost
        | Kind::ReceiveLost
        | Kind::LengthWrong
        | Kind::ColorWrong
        | Kind::WireFormatWrong => programs::messages(&mut plan, kind, rng),
        Kind::RouteLost | Kind::ColorClash | Kind::RouteTurned | Kind::ColorOverBudget => {
            programs::routes(&mut plan, kind, rng)
        }
        Kind::OperandOutside | Kind::BufferDangling | Kind::WeightWritten => {
            programs::operands(&mut plan, kind, rng)
        }
        Kind::CyclicWait => programs::cyclic_wait(&mut plan, rng),
        Kind::LogitsLost | Kind::TokenOutside | Kind::StreamWrong | Kind::WireLost => {
            storage::borders(&mut plan, kind, rng)
        }
    };
    done.map(|()| plan)
}

/// A random member of a list; `None` when it is empty.
fn pick<T: Copy>(list: &[T], rng: &mut Rng) -> Option<T> {
    (!list.is_empty()).then(|| list[rng.below(list.len())])
}

/// A template that some region runs.
fn used_template(plan: &Plan, rng: &mut Rng) -> Option<usize> {
    let ids: Vec<usize> = plan.regions.iter().map(|r| r.template.0 as usize).collect();
    pick(&ids, rng)
}
