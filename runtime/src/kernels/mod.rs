//! Kernels: packed matrix products and attention per instruction set, everything else portable.
//!
//! Contract: the value of one result element is a fixed expression of its inputs. It does not depend
//! on how many tokens or sequences share a step, on tiles, batches or threads. So a prompt fed whole or token by
//! token, on any number of threads, gives the same bits on one instruction set. Sums over the inner
//! extent of a matrix product run column by column in one accumulator; sums of norms and softmax run
//! in 16 lanes that are added in a fixed tree.
//!
//! An instruction set is a [`Kernels`] table, handed out only where the machine has it.

mod activation;
#[allow(
    unsafe_code,
    reason = "vector instructions on raw pointers; each block says why it is safe"
)]
mod arch;
pub mod attention;
pub mod elementwise;
pub mod kv;
pub mod math;
pub mod matmul;
pub mod norm;
pub mod pack;
mod panel;
mod portable;
pub mod rope;
pub mod rows;
pub mod view;

use std::fmt;
use std::str::FromStr;

pub(crate) use arch::peak;

use activation::Block;
use kv::{PageTiles, Rows};
use pack::{Chunk, FloatTile, Packed};
use panel::Panel;

use crate::program::{Activations, Unary};

/// An instruction set that kernels are written for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isa {
    /// Plain Rust, anywhere.
    Portable,
    /// AVX2 with FMA and F16C.
    Avx2,
    /// AVX-512 F, BW and VL.
    Avx512,
    /// Advanced SIMD of AArch64.
    Neon,
}

impl Isa {
    /// Every instruction set, the most capable last.
    pub const ALL: [Isa; 4] = [Isa::Portable, Isa::Neon, Isa::Avx2, Isa::Avx512];

    /// The spelling of `--cpu`: the level of the platform that has the instructions.
    pub fn name(self) -> &'static str {
        match self {
            Isa::Portable => "portable",
            Isa::Avx2 => "x86-64-v3",
            Isa::Avx512 => "x86-64-v4",
            Isa::Neon => "aarch64",
        }
    }

    /// Whether this build has its kernels; the machine may still lack the instructions.
    pub fn is_built(self) -> bool {
        match self {
            Isa::Portable => true,
            Isa::Avx2 | Isa::Avx512 => cfg!(target_arch = "x86_64"),
            Isa::Neon => cfg!(target_arch = "aarch64"),
        }
    }

    /// The most capable instruction set of this machine.
    pub fn best() -> Isa {
        Isa::ALL.into_iter().rev().find(|&isa| Kernels::new(isa).is_some()).unwrap_or(Isa::Portable)
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Isa {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let names = Isa::ALL.map(Isa::name).join(", ");
        let isa = Isa::ALL.into_iter().find(|i| i.name() == text);
        isa.ok_or_else(|| format!("no processor `{text}`: expected native, {names}"))
    }
}

/// The processor that an executable is for: the value of `--cpu`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Cpu {
    /// The one it runs on, whichever that is.
    #[default]
    Native,
    /// One with this instruction set: the same bits everywhere, refused where it is missing.
    Level(Isa),
}

impl fmt::Display for Cpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Cpu::Native => f.write_str("native"),
            Cpu::Level(isa) => isa.fmt(f),
        }
    }
}

impl FromStr for Cpu {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "native" {
            return Ok(Cpu::Native);
        }
        text.parse().map(Cpu::Level)
    }
}

/// `(w, tile, x, out)`: rows `16 * tile..` of quantised weights times one token.
type IntegerGemv = fn(&Packed<'_>, usize, &Block<'_>, &mut [f32]);

/// `(activations, tokens, columns, x, words)`: see [`activation::quantize`].
type Quantize = fn(Activations, usize, usize, &[f32], &mut [u32]);

/// `(w, tile, x, acc)`: the rows `16 * tile..` of a pair of tiles of floats, straight from the packed
/// bytes, times `x[cols][m]`, to `acc[m][32]`. Tile is even; a pair that is one tile leaves half of acc.
type Few = fn(&Packed<'_>, usize, &[f32], &mut [f32]);

/// `(w, tile, words, sums)`: rows `16 * tile..` of quantised weights times at most 8 tokens, each a block
/// of its own in the words, to `sums[m][16]`.
type IntegerFew = fn(&Packed<'_>, usize, &[u32], &mut [f32]);

/// `(tiles, columns, x, sums, row)`: adds to `sums[m][row]` the products of the columns of tiles of keys
/// or values and `x[m][columns]`, columns in order, for at most 12 rows; tile i makes elements `16 * i..`.
type Page = fn(&PageTiles<'_>, usize, Rows<'_>, &mut [f32], usize);

/// `(scores, visible, scale, state)`: see [`attention::soften`].
type Soften = fn(&mut [f32], std::ops::Range<usize>, f32, &mut [f32; 2]) -> f32;

/// `(x, gain, eps, width, out)`: see [`norm::rms_norm`].
pub type RmsNorm = fn(&[f32], Option<&[f32]>, f32, usize, &mut [f32]);

/// The kernels of one instruction set. The functions are safe: they check the lengths they need, and
/// a table exists only where the machine can run it.
#[derive(Clone, Copy, Debug)]
pub struct Kernels {
    /// Which instruction set.
    pub isa: Isa,
    /// Rows `16 * tile..` of a packed matrix times x: `out[i] = sum_k w[16 * tile + i][k] * x[k]`.
    /// Floats only, and an even tile.
    gemv: fn(w: &Packed<'_>, tile: usize, x: &[f32], out: &mut [f32]),
    /// See [`pack::widen`].
    widen: fn(&FloatTile<'_>, first: usize, n: usize, out: &mut [f32], stride: usize),
    /// The pair of tiles from `tile` on times a few tokens, `x[cols][m]` with m at most 12: see `Few`.
    few: Option<Few>,
    /// Adds to `acc[m][32]` the products of `w[k][32]` and `x[k][m]`, columns in order; m is at most
    /// 12.
    micro: fn(w: &[f32], x: &[f32], m: usize, acc: &mut [f32]),
    /// `micro` of keys or values straight from their stored bytes: see `Page`.
    page: Option<Page>,
    /// Fetches bytes that are wanted soon.
    prefetch: fn(&[u8]),
    /// What products see of activations.
    activations: Activations,
    /// See [`activation::quantize`]; in the order that `integer_micro` wants.
    quantize: Quantize,
    /// `gemv` of quantised weights and one token, where it is faster than `integer_micro`.
    integer_gemv: Option<IntegerGemv>,
    /// The same of a few tokens, straight from the packed bytes: see `IntegerFew`.
    integer_few: Option<IntegerFew>,
    /// See [`panel::unpack`].
    unpack: fn(chunk: &Chunk<'_>, codes: &mut [u8], heads: &mut [f32]),
    /// Adds to `acc[m][32]` a panel times the groups of x from `first` on: per group the exact
    /// integer times the product of the scales, then sum times minimum, in order.
    integer_micro: fn(panel: &Panel<'_>, x: &Block<'_>, first: usize, acc: &mut [f32]),
    /// See [`attention::soften`].
    soften: Soften,
    /// See [`elementwise::unary`].
    pub unary: fn(Unary, x: &[f32], out: &mut [f32]),
    /// See [`elementwise::glu`].
    pub glu: fn(Unary, gate: &[f32], up: &[f32], out: &mut [f32]),
    /// See [`norm::rms_norm`].
    pub rms_norm: RmsNorm,
}

/// Scratch of a thread for decode steps of `sequences` with caches of elements up to `width` and
/// `heads` query heads to a key/value head: f32 elements, and bytes.
pub(crate) fn decode_scratch(sequences: usize, heads: usize, width: usize) -> (usize, usize) {
    let attention = attention::scratch_elements(heads, width, width);
    (attention.max(matmul::scratch_elements(sequences)), panel::CODES)
}

impl Kernels {
    /// The kernels of `isa`, or `None` when this machine cannot run them.
    pub fn new(isa: Isa) -> Option<Kernels> {
        match isa {
            Isa::Portable => Some(portable::KERNELS),
            _ => arch::kernels(isa),
        }
    }

    /// These kernels for a program that wants this of activations.
    pub fn with(self, activations: Activations) -> Kernels {
        Kernels { activations, ..self }
    }
}
