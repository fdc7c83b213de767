//! Everything that can be wrong with a plan: stable codes, names and numbers.

use thiserror::Error;

/// One broken property. The code (`PLN....`) never changes its meaning.
#[derive(Clone, Debug, PartialEq, Error)]
pub enum Violation {
    /// The embedded target makes no sense.
    #[error("PLN1001: {0}")]
    Target(#[from] crate::target::TargetError),
    /// An id that refers to nothing.
    #[error("PLN1002: {place}: {what} {id} does not exist, there are {count}")]
    DanglingId {
        /// Where it stands.
        place: String,
        /// What it should refer to.
        what: &'static str,
        /// The id.
        id: u64,
        /// How many there are.
        count: usize,
    },
    /// Any other malformed value.
    #[error("PLN1003: {place}: {what}")]
    Malformed {
        /// Where.
        place: String,
        /// What is wrong, with numbers.
        what: String,
    },
    /// A region that is not where regions can be.
    #[error("PLN1101: region `{region}`: {what}")]
    RegionPlacement {
        /// The region.
        region: String,
        /// Outside of the wafer, across wafers, or not its template's size.
        what: String,
    },
    /// Two regions share PEs.
    #[error("PLN1102: regions `{first}` and `{second}` overlap")]
    RegionsOverlap {
        /// One.
        first: String,
        /// The other.
        second: String,
    },
    /// A dead PE is used.
    #[error("PLN1103: {user} uses dead PE ({x}, {y})")]
    DeadPe {
        /// Region or wire.
        user: String,
        /// Column.
        x: u32,
        /// Row.
        y: u32,
    },
    /// A link of a repaired grid that is no path of the wafer.
    #[error("PLN1105: repair: the link {axis} of ({x}, {y}) {what}")]
    RepairPath {
        /// Column of the grid.
        x: u32,
        /// Row.
        y: u32,
        /// `east` or `south`.
        axis: &'static str,
        /// What is wrong.
        what: String,
    },
    /// A position with no role, or with several.
    #[error(
        "PLN1104: template `{template}`, phase `{phase}`: position ({x}, {y}) and {others} more have {roles} roles"
    )]
    RoleCover {
        /// The template.
        template: String,
        /// The phase.
        phase: String,
        /// First such position.
        x: u32,
        /// First such position.
        y: u32,
        /// How many more.
        others: u64,
        /// Roles at that position.
        roles: usize,
    },
    /// A buffer does not fit SRAM.
    #[error(
        "PLN1201: template `{template}`: buffer `{buffer}` ends at byte {end} of {usable} usable; live with it: {contributors}"
    )]
    SramOverflow {
        /// The template.
        template: String,
        /// The buffer.
        buffer: String,
        /// One past its last byte.
        end: u64,
        /// Usable SRAM bytes.
        usable: u32,
        /// The largest buffers live in its first phase, with bytes.
        contributors: String,
    },
    /// Two live buffers share bytes.
    #[error(
        "PLN1202: template `{template}`: buffers `{first}` and `{second}` share bytes {from}..{to} and are both live in phase {phase}"
    )]
    BuffersOverlap {
        /// The template.
        template: String,
        /// One.
        first: String,
        /// The other.
        second: String,
        /// First shared byte.
        from: u64,
        /// One past the last.
        to: u64,
        /// First phase in which both live.
        phase: u32,
    },
    /// A buffer with too few bytes, a wrong alignment or a wrong live range.
    #[error("PLN1203: template `{template}`: buffer `{buffer}`: {what}")]
    Buffer {
        /// The template.
        template: String,
        /// The buffer.
        buffer: String,
        /// What is wrong, with numbers.
        what: String,
    },
    /// The KV cache cannot hold what attention reads.
    #[error("PLN1204: template `{template}`: KV cache: {what}")]
    KvCapacity {
        /// The template.
        template: String,
        /// What is wrong, with numbers.
        what: String,
    },
    /// A pin outside of its weight or buffer, or over another pin.
    #[error("PLN1301: template `{template}`, pin {pin} of `{weight}`: {what}")]
    Pin {
        /// The template.
        template: String,
        /// Index of the pin.
        pin: usize,
        /// Name of the weight, `{{layer}}` included.
        weight: String,
        /// What is wrong, with numbers.
        what: String,
    },
    /// A weight element that is pinned too rarely or too often.
    #[error(
        "PLN1302: weight `{weight}`: elements {axis0:?} x {axis1:?} are pinned {found} times, declared {declared}"
    )]
    Coverage {
        /// The weight.
        weight: String,
        /// Indices along axis 0.
        axis0: std::ops::Range<u64>,
        /// Indices along axis 1.
        axis1: std::ops::Range<u64>,
        /// How often.
        found: u64,
        /// How often it should be.
        declared: u32,
    },
    /// A region names a weight that is not declared, or of the wrong shape.
    #[error("PLN1303: region `{region}`: weight `{weight}`: {what}")]
    Weight {
        /// The region.
        region: String,
        /// Full name.
        weight: String,
        /// What is wrong.
        what: String,
    },
    /// An operand outside of its buffer, of the wrong length, dead, or written where it must not be.
    #[error(
        "PLN1401: template `{template}`, phase `{phase}`, role `{role}`, instruction {instruction}: {what}"
    )]
    Operand {
        /// The template.
        template: String,
        /// The phase.
        phase: String,
        /// The role.
        role: String,
        /// Index of the instruction.
        instruction: usize,
        /// What is wrong, with numbers.
        what: String,
    },
    /// A color outside of the budget.
    #[error("PLN1501: {user} uses color {color}, the target has {usable}")]
    ColorBudget {
        /// Region or wire.
        user: String,
        /// Wafer color.
        color: u8,
        /// Usable colors.
        usable: u32,
    },
    /// Two routes of one color on one router.
    #[error("PLN1502: color {color} has two routes at PE ({x}, {y}): {first} and {second}")]
    ColorClash {
        /// The color.
        color: u8,
        /// Column (of the template's position for routes inside one template).
        x: u32,
        /// Row.
        y: u32,
        /// One user.
        first: String,
        /// The other.
        second: String,
    },
    /// A route that routers cannot be set to.
    #[error("PLN1503: {user}: {what}")]
    Route {
        /// Template and route, or wire.
        user: String,
        /// What is wrong.
        what: String,
    },
    /// A broadcast whose wavelets could lose their order, or in which not everybody takes part.
    #[error("PLN1504: template `{template}`: broadcast: {what}")]
    Broadcast {
        /// The template.
        template: String,
        /// What is wrong, with numbers.
        what: String,
    },
    /// A message that nobody, or not everybody, receives.
    #[error("PLN1601: region `{region}`: color {color} sent from position ({x}, {y}): {what}")]
    Send {
        /// Region or template.
        region: String,
        /// Color.
        color: u8,
        /// Sender.
        x: u32,
        /// Sender.
        y: u32,
        /// What is wrong.
        what: String,
    },
    /// A receive that nothing is sent to.
    #[error(
        "PLN1602: region `{region}`: color {color} received at position ({x}, {y}) in phase `{phase}`: {what}"
    )]
    Receive {
        /// Region or template.
        region: String,
        /// Color.
        color: u8,
        /// Receiver.
        x: u32,
        /// Receiver.
        y: u32,
        /// First phase that receives it.
        phase: String,
        /// What is wrong.
        what: String,
    },
    /// More colors in a phase than queues.
    #[error(
        "PLN1603: template `{template}`, phase `{phase}`, role `{role}`: {used} {direction} colors, {available} queues"
    )]
    Queues {
        /// The template.
        template: String,
        /// The phase.
        phase: String,
        /// The role.
        role: String,
        /// `input` or `output`.
        direction: &'static str,
        /// Colors used.
        used: usize,
        /// Queues.
        available: u32,
    },
    /// A stream that is not what flows between two regions.
    #[error("PLN1604: stream from `{from}` to `{to}` on color {color}: {what}")]
    Stream {
        /// Sending region.
        from: String,
        /// Receiving region.
        to: String,
        /// Wafer color.
        color: u8,
        /// Missing, superfluous, or another size.
        what: String,
    },
    /// Programs that wait for each other.
    #[error("PLN1701: cyclic wait: {cycle}")]
    CyclicWait {
        /// Positions, phases and colors along the cycle.
        cycle: String,
    },
    /// An output that is not where it is said to be.
    #[error("PLN1801: output {output}: {what}")]
    Output {
        /// `logits 0`, `token`.
        output: String,
        /// What is wrong, with numbers.
        what: String,
    },
}

impl Violation {
    /// The stable code, e.g. `PLN1302`.
    pub fn code(&self) -> String {
        self.to_string().chars().take_while(|c| *c != ':').collect()
    }
}
