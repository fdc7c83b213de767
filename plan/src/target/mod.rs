//! The target: every constant of a wafer that planning and simulation need.
//!
//! A TOML file (presets are in `plan/targets/`): unknown keys are refused by name, every field is
//! required, every number has a unit in its name or its doc. Cycles are primary; the clock only
//! converts them to seconds. Costs of instructions are in [`cost`].

pub mod cost;

use serde::{Deserialize, Serialize};

use crate::buffer::Storage;

/// A wafer-scale machine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Target {
    /// Name for people, e.g. `wse3`.
    pub name: String,
    /// Usable columns of one wafer.
    pub width: u32,
    /// Usable rows of one wafer.
    pub height: u32,
    /// Wafers side by side; wafer k covers columns `k*width .. (k+1)*width`.
    pub wafers: u32,
    /// Cycles per second / 1e9.
    pub clock_ghz: f64,
    /// Memory of one PE.
    pub sram: Sram,
    /// Routers and links.
    pub fabric: Fabric,
    /// Arithmetic and software costs of one PE.
    pub core: Core,
    /// Host side.
    pub host: Host,
    /// Columns of a wafer that are built beyond `width`, to be used in place of dead PEs.
    #[serde(default)]
    pub spare_columns: u32,
    /// Unusable PEs as \[x, y\], sorted by (y, x); x counts built columns: `width + spare_columns` a wafer.
    pub dead: Vec<(u32, u32)>,
}

/// Memory of one PE.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sram {
    /// All of it.
    pub bytes: u32,
    /// Kept for code, stack and queues.
    pub reserved_bytes: u32,
    /// Banks.
    pub banks: u32,
    /// Bits that all read ports together move in a cycle.
    pub read_bits: u32,
    /// Bits that all write ports together move in a cycle.
    pub write_bits: u32,
}

/// Routers and links.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fabric {
    /// h: cycles from a router to the next.
    pub hop_cycles: u32,
    /// T_R: cycles between a router and its core, each way.
    pub ramp_cycles: u32,
    /// Routable colors.
    pub colors: u32,
    /// Of these, kept for host transfer: the highest numbers.
    pub reserved_colors: u32,
    /// Input queues of a PE: different colors it can receive on in one phase, the reserved ones included.
    pub input_queues: u32,
    /// Output queues of a PE: different colors it can send on in one phase, the reserved ones included.
    pub output_queues: u32,
    /// Of the input and of the output queues, kept for host transfer.
    pub reserved_queues: u32,
    /// Cycles of the hop between two wafers, for the first wavelet.
    pub wafer_hop_cycles: u32,
    /// Wavelets per cycle that the link between two wafers carries in each direction, over all rows.
    pub wafer_link_wavelets: u32,
}

/// `setup + per_group * ceil(n / lanes)` cycles for one vector operation over n elements.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VectorCost {
    /// Cycles per operation whatever its length.
    pub setup: f64,
    /// Cycles per `lanes` elements.
    pub per_group: f64,
    /// Elements at once.
    pub lanes: u32,
}

/// Arithmetic and software costs of one PE.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Core {
    /// Multiply-accumulate of a scalar with a vector stored as f32 (one row of a `Gemv`).
    pub mac_f32: VectorCost,
    /// The same, stored as f16.
    pub mac_f16: VectorCost,
    /// The same, stored as bf16.
    pub mac_bf16: VectorCost,
    /// The same, stored as q8 (unpacking included).
    pub mac_q8: VectorCost,
    /// The same, stored as q4 (unpacking included).
    pub mac_q4: VectorCost,
    /// Element-wise operation on f32 (of what it writes; a reduction: of what it reads), copy, reduction.
    pub vector: VectorCost,
    /// The same on f16 and bf16.
    pub vector_f16: VectorCost,
    /// Exponential, reciprocal, square root, sine: one element-wise function.
    pub special: VectorCost,
    /// Cycles to start any instruction that does not communicate.
    pub instruction_cycles: u32,
    /// Cycles of software before the first wavelet of a message is sent, received or relayed.
    pub message_cycles: u32,
    /// Cycles that a relay of a half format takes beyond one of f32: two elements are unpacked before and
    /// packed after they are combined.
    pub pack_cycles: u32,
    /// Cycles of the vendor's collective library from a call to its first vector instruction.
    pub library_call_cycles: u32,
    /// Cycles a core spends per wavelet received or relayed; 1 is the fabric's own rate.
    pub wavelet_cycles: u32,
    /// Cycles to bind a queue to a color: per color a PE uses in a phase and did not use in the last
    /// phase in which it communicated (the last one of the program before the first).
    pub color_bind_cycles: u32,
    /// Cycles to rewrite the route of a color in a PE's router at run time.
    pub route_switch_cycles: u32,
    /// Cycles to wake for a phase (task switch), on every PE with a program in it.
    pub task_switch_cycles: u32,
    /// Least cycles of one multiply-accumulate of a scalar with a vector inside a `Gemm`'s loops.
    pub gemm_floor: f64,
    /// Microthreads and loops.
    pub threads: Threads,
}

/// Software costs of microthreads and loops.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Threads {
    /// Cycles of software before the first wavelet of a message in a microthread, instead of
    /// `message_cycles`.
    pub start: u32,
    /// Cycles of a Join after its microthreads have ended, for each of them.
    pub join: u32,
    /// Cycles of one turn of a loop.
    pub repeat: u32,
}

/// Host side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Host {
    /// Cycles from the argmax in its PE to the `token` and `pos` registers of all PEs, on top of the
    /// hops between them.
    pub feedback_cycles: u32,
}

/// Why a target was refused.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum TargetError {
    /// Not TOML, a field is missing or unknown, or a value has the wrong type.
    #[error("PLN0101: target file: {message}")]
    Syntax {
        /// The parser's words, with line, column and field.
        message: String,
    },
    /// A value that no machine can have.
    #[error("PLN0102: target `{name}`: {field} = {value} is outside {allowed}")]
    Value {
        /// Name of the target.
        name: String,
        /// The field, dotted.
        field: &'static str,
        /// The value found.
        value: String,
        /// What is allowed.
        allowed: &'static str,
    },
}

/// Presets: name and TOML text.
const PRESETS: [(&str, &str); 4] = [
    ("wse3", include_str!("../../targets/wse3.toml")),
    ("wse2", include_str!("../../targets/wse2.toml")),
    ("small", include_str!("../../targets/small.toml")),
    ("tiny", include_str!("../../targets/tiny.toml")),
];

impl Target {
    /// Names of the presets, largest machine first.
    pub fn preset_names() -> impl Iterator<Item = &'static str> {
        PRESETS.iter().map(|(name, _)| *name)
    }

    /// The TOML text of a preset.
    pub fn preset_text(name: &str) -> Option<&'static str> {
        PRESETS.iter().find(|(n, _)| *n == name).map(|(_, text)| *text)
    }

    /// A preset by name.
    pub fn preset(name: &str) -> Option<Self> {
        Target::parse(Target::preset_text(name)?).ok()
    }

    /// Reads a target file.
    ///
    /// # Errors
    /// Syntax, missing or unknown fields, and values out of range.
    pub fn parse(text: &str) -> Result<Self, TargetError> {
        let target: Target = toml::from_str(text)
            .map_err(|e| TargetError::Syntax { message: e.to_string().trim_end().to_owned() })?;
        target.check()?;
        Ok(target)
    }

    /// Checks every value for sense; `verify` calls it on embedded targets.
    ///
    /// # Errors
    /// The first value out of range.
    pub fn check(&self) -> Result<(), TargetError> {
        let bad = |field, value, allowed| self.bad(field, value, allowed);
        if !in_range(self.width, 1, 65_536) {
            return bad("width", self.width.to_string(), "1..=65536");
        }
        if !in_range(self.height, 1, 65_536) {
            return bad("height", self.height.to_string(), "1..=65536");
        }
        if !in_range(self.wafers, 1, 1024) {
            return bad("wafers", self.wafers.to_string(), "1..=1024");
        }
        // Bounds what a hostile plan can make its reader allocate.
        let built = u64::from(self.width) + u64::from(self.spare_columns);
        let pes = built * u64::from(self.height);
        if pes > 1 << 22 || pes * u64::from(self.wafers) > 1 << 26 {
            let value = format!("{built} x {} x {} wafers", self.height, self.wafers);
            return bad("width x height", value, "2^22 PEs a wafer, 2^26 in all");
        }
        if !(self.clock_ghz > 0.0 && self.clock_ghz <= 100.0) {
            return bad("clock_ghz", self.clock_ghz.to_string(), "0..=100, not 0");
        }
        if !in_range(self.sram.bytes, 1024, 1 << 30) {
            return bad("sram.bytes", self.sram.bytes.to_string(), "1 KiB..=1 GiB");
        }
        if self.sram.reserved_bytes >= self.sram.bytes {
            return bad(
                "sram.reserved_bytes",
                self.sram.reserved_bytes.to_string(),
                "0..sram.bytes",
            );
        }
        for (field, bits) in
            [("sram.read_bits", self.sram.read_bits), ("sram.write_bits", self.sram.write_bits)]
        {
            if !in_range(bits, 1, 4096) {
                return bad(field, bits.to_string(), "1..=4096");
            }
        }
        self.check_fabric()?;
        for (field, cost) in self.core.vector_costs() {
            let sane = |v: f64| (0.0..=1e6).contains(&v);
            if !(sane(cost.setup) && sane(cost.per_group) && in_range(cost.lanes, 1, 1024)) {
                return bad(field, format!("{cost:?}"), "setup, per_group 0..=1e6, lanes 1..=1024");
            }
        }
        let c = &self.core;
        if !(0.0..=1e6).contains(&c.gemm_floor) {
            return bad("core.gemm_floor", c.gemm_floor.to_string(), "0..=1e6");
        }
        let columns = self.built_width().saturating_mul(self.wafers);
        let outside = |d: &&(u32, u32)| d.0 >= columns || d.1 >= self.height;
        if let Some(pe) = self.dead.iter().find(outside) {
            return bad("dead", format!("{pe:?}"), "PEs of the grid");
        }
        let mut rows = self.dead.iter().map(|&(x, y)| (y, x));
        if !rows.clone().zip(rows.by_ref().skip(1)).all(|(a, b)| a < b) {
            return bad("dead", format!("{} PEs", self.dead.len()), "sorted by (y, x), no doubles");
        }
        Ok(())
    }

    fn bad<T>(
        &self,
        field: &'static str,
        value: String,
        allowed: &'static str,
    ) -> Result<T, TargetError> {
        Err(TargetError::Value { name: self.name.clone(), field, value, allowed })
    }

    fn check_fabric(&self) -> Result<(), TargetError> {
        let f = &self.fabric;
        let bad = |field, value, allowed| self.bad(field, value, allowed);
        if !in_range(f.hop_cycles, 1, 1000) {
            return bad("fabric.hop_cycles", f.hop_cycles.to_string(), "1..=1000");
        }
        if !in_range(f.ramp_cycles, 1, 1000) {
            return bad("fabric.ramp_cycles", f.ramp_cycles.to_string(), "1..=1000");
        }
        if !in_range(f.colors, 1, 64) {
            return bad("fabric.colors", f.colors.to_string(), "1..=64");
        }
        if f.reserved_colors >= f.colors {
            return bad(
                "fabric.reserved_colors",
                f.reserved_colors.to_string(),
                "0..fabric.colors",
            );
        }
        if f.reserved_queues >= f.input_queues.min(f.output_queues) {
            return bad(
                "fabric.reserved_queues",
                f.reserved_queues.to_string(),
                "below the queues",
            );
        }
        if !in_range(f.wafer_hop_cycles, 1, 10_000_000) {
            return bad("fabric.wafer_hop_cycles", f.wafer_hop_cycles.to_string(), "1..=10000000");
        }
        if !in_range(f.wafer_link_wavelets, 1, 65_536) {
            let value = f.wafer_link_wavelets.to_string();
            return bad("fabric.wafer_link_wavelets", value, "1..=65536");
        }
        if !in_range(self.core.wavelet_cycles, 1, 1000) {
            return bad("core.wavelet_cycles", self.core.wavelet_cycles.to_string(), "1..=1000");
        }
        Ok(())
    }

    /// Columns of all wafers.
    pub fn total_width(&self) -> u32 {
        self.width.saturating_mul(self.wafers)
    }

    /// Columns of one wafer, spare ones included.
    pub fn built_width(&self) -> u32 {
        self.width.saturating_add(self.spare_columns)
    }

    /// SRAM bytes that buffers may use on one PE.
    pub fn usable_sram(&self) -> u32 {
        self.sram.bytes - self.sram.reserved_bytes
    }

    /// Colors that a plan may use: `0..usable_colors()`.
    pub fn usable_colors(&self) -> u32 {
        self.fabric.colors - self.fabric.reserved_colors
    }

    /// Whether PE (x, y) is marked dead.
    pub fn is_dead(&self, x: u32, y: u32) -> bool {
        self.dead.binary_search_by(|&(dx, dy)| (dy, dx).cmp(&(y, x))).is_ok()
    }

    /// Seconds that `cycles` take.
    pub fn seconds(&self, cycles: u64) -> f64 {
        cycles as f64 / (self.clock_ghz * 1e9)
    }
}

fn in_range(v: u32, lo: u32, hi: u32) -> bool {
    (lo..=hi).contains(&v)
}

impl Core {
    /// The multiply-accumulate cost of a storage.
    pub fn mac(&self, storage: Storage) -> VectorCost {
        match storage {
            Storage::F32 => self.mac_f32,
            Storage::F16 => self.mac_f16,
            Storage::BF16 => self.mac_bf16,
            Storage::Q8 => self.mac_q8,
            Storage::Q4 => self.mac_q4,
        }
    }

    /// The cost of an element-wise operation on a storage; quantised storage is read as f32.
    pub fn vector(&self, storage: Storage) -> VectorCost {
        match storage {
            Storage::F16 | Storage::BF16 => self.vector_f16,
            Storage::F32 | Storage::Q8 | Storage::Q4 => self.vector,
        }
    }

    fn vector_costs(&self) -> [(&'static str, VectorCost); 8] {
        [
            ("core.mac_f32", self.mac_f32),
            ("core.mac_f16", self.mac_f16),
            ("core.mac_bf16", self.mac_bf16),
            ("core.mac_q8", self.mac_q8),
            ("core.mac_q4", self.mac_q4),
            ("core.vector", self.vector),
            ("core.vector_f16", self.vector_f16),
            ("core.special", self.special),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn presets_are_valid_and_have_their_own_name() {
        for name in Target::preset_names() {
            let text = Target::preset_text(name).expect("listed");
            let target = Target::parse(text).unwrap_or_else(|e| panic!("{name}: {e}"));
            assert_eq!(target.name, name);
        }
        assert_eq!(Target::preset("wse3").map(|t| t.usable_colors()), Some(21));
        assert!(Target::preset("wse1").is_none());
    }

    #[test]
    fn unknown_and_missing_fields_are_named() {
        let text = Target::preset_text("tiny").expect("preset");
        let extra = format!("warp = 9\n{text}");
        assert!(Target::parse(&extra).unwrap_err().to_string().contains("warp"));
        let missing = text.replace("clock_ghz", "# clock_ghz");
        assert!(Target::parse(&missing).unwrap_err().to_string().contains("clock_ghz"));
        let zero = text.replace("\nhop_cycles = 1", "\nhop_cycles = 0");
        let outside = text.replace("dead = []", "dead = [[16, 3]]");
        assert!(Target::parse(&outside).unwrap_err().to_string().contains("dead = (16, 3)"));
        assert!(Target::parse(&zero).unwrap_err().to_string().contains("fabric.hop_cycles"));
    }
}
