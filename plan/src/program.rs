//! Instructions: what one PE executes, in order, each to its end before the next starts.
//!
//! Three markers change that order and nothing else: [`Instr::Start`] lets the next instruction, a
//! message, run in a microthread while the program goes on, [`Instr::Join`] waits for microthreads, and
//! [`Instr::Repeat`] executes the instructions behind it several times. A program is a flat list, so
//! whoever asks only what is sent and received need not know them.
//!
//! All operands are slices of the template's buffers; the two control registers `token` and `pos`
//! are read by the instructions that say so. Arithmetic is f32, one rounding per operation (no fused
//! multiply-add), in the order documented here; that order *is* the plan's numerics.
//! Results are rounded to the destination's storage when written.
//!
//! An instruction may write a slice that it also reads only where this says "in place": the
//! destination is then exactly the same slice.
//!
//! Does not describe time: see [`crate::target`] for cycles per instruction.

use serde::{Deserialize, Serialize};

use crate::buffer::BufferId;
use crate::geometry::Axis;
use crate::index::Affine;
use crate::route::Color;

/// A number of elements: `constant + per_kv_token * T`.
///
/// T is the number of tokens cached on this PE that the current token attends to, the
/// current one included (see [`crate::KvLayout::tokens`]); it varies by PE and position.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Len {
    /// Elements whatever the position.
    pub constant: u32,
    /// Elements per cached token.
    pub per_kv_token: u32,
}

impl Len {
    /// `n` elements.
    pub fn of(n: u32) -> Self {
        Len { constant: n, per_kv_token: 0 }
    }

    /// `n` elements per cached token of the PE.
    pub fn kv(n: u32) -> Self {
        Len { constant: 0, per_kv_token: n }
    }

    /// The number of elements with `kv_tokens` cached tokens.
    pub fn elements(self, kv_tokens: u32) -> u64 {
        u64::from(self.constant) + u64::from(self.per_kv_token) * u64::from(kv_tokens)
    }
}

/// `len` consecutive elements of a buffer, from element `offset` in row-major order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Slice {
    /// The buffer.
    pub buffer: BufferId,
    /// First element.
    pub offset: u32,
    /// How many.
    pub len: Len,
}

/// A sub-matrix of a buffer: `rows` x `cols` elements from (`row`, `col`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Matrix {
    /// The buffer.
    pub buffer: BufferId,
    /// First row.
    pub row: u32,
    /// First column.
    pub col: u32,
    /// Number of rows.
    pub rows: u32,
    /// Number of columns.
    pub cols: u32,
}

/// Element-wise functions of one operand.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub enum UnaryOp {
    /// -x
    Neg,
    /// 1/x
    Recip,
    /// e^x
    Exp,
    /// 1 / (1 + e^-x)
    Sigmoid,
    /// x / (1 + e^-x)
    Silu,
    /// max(x, 0)
    Relu,
    /// x/2 * (1 + erf(x / sqrt 2))
    GeluErf,
    /// x/2 * (1 + tanh(sqrt(2/pi) * (x + 0.044715 x^3)))
    GeluTanh,
    /// tanh(x)
    Tanh,
    /// 1 / sqrt(x / count + eps): from a sum of squares to the RMSNorm factor
    RsqrtMean {
        /// Elements that were summed.
        count: u32,
        /// Added to the mean.
        eps: f32,
    },
}

/// Element-wise functions of two operands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum BinaryOp {
    /// a + b
    Add,
    /// a - b
    Sub,
    /// a * b
    Mul,
    /// a / b
    Div,
    /// max(a, b)
    Max,
    /// e^(a - b): softmax against its maximum; e^(-inf - finite) = 0
    ExpSub,
}

/// The second operand of a binary instruction.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub enum Operand {
    /// Element by element: as long as the first operand.
    Slice(Slice),
    /// The same constant for every element.
    Scalar(f32),
    /// One value per segment: the first operand's n elements are `len` equal, consecutive segments
    /// and element i uses value `i / (n / len)`. `len` must be constant and divide n for every T.
    PerSegment(Slice),
}

/// What [`Instr::Part`] computes per element.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub enum PartOp {
    /// op(a, b)
    Binary(BinaryOp),
    /// op(a) * b: the gate of a gated MLP
    Glu(UnaryOp),
}

/// Reductions of a slice to one value per segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum ReduceOp {
    /// x0 + x1 + ... from left to right starting at +0; empty: 0
    Sum,
    /// x0^2 + x1^2 + ... from left to right starting at +0; empty: 0
    SumSquares,
    /// max from left to right starting at -inf; empty: -inf
    Max,
}

/// What a received element does to the local one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Combine {
    /// received
    Store,
    /// local + received
    Add,
    /// max(local, received)
    Max,
    /// The slice is pairs (value, index): keeps the pair with the larger value, and of equal values the
    /// smaller index. Even length.
    ArgMax,
}

/// How elements travel. Half formats round to nearest even when sent and put two elements in a
/// wavelet (an odd last one travels alone); the receiver widens to f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WireFormat {
    /// One element per wavelet.
    F32,
    /// Two elements per wavelet.
    F16,
    /// Two elements per wavelet.
    BF16,
}

impl WireFormat {
    /// Wavelets that carry `elements` elements.
    pub fn wavelets(self, elements: u64) -> u64 {
        match self {
            WireFormat::F32 => elements,
            WireFormat::F16 | WireFormat::BF16 => elements.div_ceil(2),
        }
    }
}

/// Which way the tokens lie in a pinned table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum TableAxis {
    /// One row per token: dst\[j\] = table\[token - base\]\[j\].
    Rows,
    /// One column per token: dst\[j\] = table\[j\]\[token - base\].
    Cols,
}

/// Heads of an attention computation on one PE. A query head h = g * q_per_kv + j uses KV head g.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct AttentionShape {
    /// KV heads (or pieces of KV heads) on this PE.
    pub kv_heads: u32,
    /// Query heads per KV head.
    pub q_per_kv: u32,
    /// Elements of each head that this PE holds.
    pub dim: u32,
}

/// Dynamic NTK scaling (`rope_type = "dynamic"` of Hugging Face). When the `length` register is
/// above `original`, pair p of a head (of `dim / 2` pairs) has the inverse frequency
/// `1 / base^(2p / dim)`, base = theta * (factor * length / original - (factor - 1))^(dim / (dim - 2)),
/// computed in f64 and rounded to f32.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct DynamicRope {
    /// Base of the frequencies.
    pub theta: f64,
    /// Scaling factor.
    pub factor: f64,
    /// Positions the model was trained on.
    pub original: u32,
    /// Rotated elements of a whole head.
    pub dim: u32,
    /// Number p of this PE's first pair in its head.
    pub first_pair: Affine,
}

/// One instruction. `slot(t)`, T and the tokens of a PE are those of [`crate::KvLayout`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Instr {
    /// dst\[i\] = value
    Fill {
        /// Destination.
        dst: Slice,
        /// The value.
        value: f32,
    },
    /// dst\[i\] = src\[i\]
    Copy {
        /// Destination, as long as `src`.
        dst: Slice,
        /// Source.
        src: Slice,
    },
    /// Copies a whole slice from or to one piece of a longer one, which is cut into `pieces` pieces as long
    /// as the shorter slice (m elements; the last ones shorter or empty); number p = `piece mod pieces`.
    /// `dst` longer: dst\[p*m + i\] = src\[i\], the rest of dst keeps its value, what would lie beyond
    /// its end is dropped. `src` as long or longer: dst\[i\] = src\[p*m + i\], zeros beyond its end. Constant lengths.
    CopyPiece {
        /// Destination.
        dst: Slice,
        /// Source.
        src: Slice,
        /// Number of this PE's piece, before the modulo.
        piece: Affine,
        /// Pieces, at least 1; with m they cover the longer slice.
        pieces: u32,
    },
    /// dst\[i\] = op(src\[i\]); in place allowed
    Unary {
        /// The function.
        op: UnaryOp,
        /// Destination, as long as `src`.
        dst: Slice,
        /// Source.
        src: Slice,
    },
    /// dst\[i\] = op(a\[i\], b\[i\]); `dst` may be the slice `a` or the slice operand `b`
    Binary {
        /// The function.
        op: BinaryOp,
        /// Destination, as long as `a`.
        dst: Slice,
        /// First operand.
        a: Slice,
        /// Second operand.
        b: Operand,
    },
    /// Like `Binary`, on one piece of the slice only: with n = `dst.len` cut into `parts` pieces of
    /// `ceil(n / parts)` elements (the last ones shorter or empty), dst\[i\] = op(a\[i\], b\[i\]) for i in piece
    /// number `part mod parts`; other elements keep their value. PEs that hold the same vector share
    /// the work by taking a piece each.
    Part {
        /// The function.
        op: PartOp,
        /// Destination, as long as `a`.
        dst: Slice,
        /// First operand.
        a: Slice,
        /// Second operand.
        b: Operand,
        /// Number of this PE's piece, before the modulo.
        part: Affine,
        /// Pieces, at least 1.
        parts: u32,
    },
    /// dst\[s\] = op over the s-th of `dst.len` equal, consecutive segments of `src`.
    /// `dst.len` is constant and divides the length of `src` for every T.
    Reduce {
        /// The reduction.
        op: ReduceOp,
        /// One element per segment.
        dst: Slice,
        /// Source.
        src: Slice,
    },
    /// y\[n\] = sum over k ascending of x\[k\] * w\[k\]\[n\], starting from 0 or, with `accumulate`,
    /// from y\[n\]. x has `w.rows` elements, y has `w.cols`.
    Gemv {
        /// Destination.
        y: Slice,
        /// Vector.
        x: Slice,
        /// Matrix.
        w: Matrix,
        /// Start from the old y.
        accumulate: bool,
    },
    /// What [`Instr::Rope`] rotates by at `pos`: with n frequencies and f32 a = pos * inv_freq\[i\],
    /// dst\[i\] = cos(a) * scale and dst\[n + i\] = sin(a) * scale.
    Angles {
        /// Twice as long as `inv_freq`: cosines, then sines.
        dst: Slice,
        /// Inverse frequencies of the pairs of this PE (pinned).
        inv_freq: Slice,
        /// Factor on cosine and sine (YaRN's attention factor), 1.0 for plain RoPE.
        scale: f32,
        /// Frequencies that depend on the length of the sequence, instead of `inv_freq` when the
        /// `length` register exceeds `original`; `None` for every other kind of scaling.
        dynamic: Option<DynamicRope>,
    },
    /// Rotary embedding, in place. `data` is `heads` heads, each `2 * half` elements: the
    /// `half` first members of the pairs, then their partners. With c = angles\[i\], s = angles\[half + i\]:
    /// (u, v) = (data\[i\], data\[half + i\]) becomes (u*c - v*s, v*c + u*s).
    Rope {
        /// `heads * 2 * half` elements.
        data: Slice,
        /// Heads.
        heads: u32,
        /// Pairs per head on this PE.
        half: u32,
        /// `2 * half` elements that [`Instr::Angles`] made.
        angles: Slice,
    },
    /// Row `token` of a pinned table where this PE holds it, else zeros: with i = token - base,
    /// when 0 <= i < extent of `axis` in `table` and token < `limit`. `dst` is as long as the
    /// other axis of `table`.
    Gather {
        /// Destination.
        dst: Slice,
        /// The table.
        table: Matrix,
        /// Which axis counts tokens.
        axis: TableAxis,
        /// First token on this PE.
        base: Affine,
        /// Tokens in the vocabulary.
        limit: u32,
    },
    /// Where this PE's lane owns token `pos`: cache\[slot(pos)\] = src. Else nothing (same time).
    KvAppend {
        /// A buffer of role `KvCache`: `slots` rows of `src.len` elements.
        cache: BufferId,
        /// Elements of this token.
        src: Slice,
    },
    /// dst\[h*T + i\] = sum over d ascending of q\[h*dim + d\] * k\[slot(t_i)\]\[g*dim + d\], t_i the i-th
    /// attended token of this PE, ascending. Partial scores when the head is spread over PEs.
    Scores {
        /// Heads.
        shape: AttentionShape,
        /// `Len::kv(kv_heads * q_per_kv)` elements.
        dst: Slice,
        /// `kv_heads * q_per_kv * dim` elements.
        q: Slice,
        /// Key cache, `kv_heads * dim` elements per token.
        k: BufferId,
    },
    /// dst\[h*dim + d\] = sum over i ascending of p\[h*T + i\] * v\[slot(t_i)\]\[g*dim + d\]; zeros when T = 0.
    AttendValues {
        /// Heads.
        shape: AttentionShape,
        /// `kv_heads * q_per_kv * dim` elements.
        dst: Slice,
        /// `Len::kv(kv_heads * q_per_kv)` elements.
        p: Slice,
        /// Value cache, `kv_heads * dim` elements per token.
        v: BufferId,
    },
    /// dst = (value, index) of the largest of the src\[i\] with base + i < limit; of equal values the
    /// smallest index; (-inf, limit) when there is none. The index is stored as f32: exact below 2^24.
    ArgMax {
        /// Two elements.
        dst: Slice,
        /// Candidates.
        src: Slice,
        /// Global index of src\[0\] on this PE.
        base: Affine,
        /// Number of candidates in all.
        limit: u32,
    },
    /// Scalar code without effect on data: what a library routine does before its first vector
    /// instruction. Takes `cycles` and nothing else.
    Software {
        /// Cycles, at most 1,000,000.
        cycles: u32,
    },
    /// Emits src in order on `color`. Ends when the last wavelet has left; never waits for receivers.
    Send {
        /// A color whose route here has input `Ramp`.
        color: Color,
        /// What to send.
        src: Slice,
        /// How.
        wire: WireFormat,
    },
    /// For i ascending: waits for element i on `color`, dst\[i\] = combine(dst\[i\], element).
    Recv {
        /// A color whose route here has output `Ramp`.
        color: Color,
        /// Destination, as long as what was sent.
        dst: Slice,
        /// What arrives does this.
        combine: Combine,
        /// How it was sent.
        wire: WireFormat,
    },
    /// Streaming combine-and-forward, wavelet by wavelet: for i ascending waits for element i on
    /// `input`, r = combine(local\[i\], element), emits r on `output`; with `store` also local\[i\] = r.
    /// With `Combine::Store` it is a software forward (a turn between two colors).
    Relay {
        /// A color whose route here has output `Ramp`.
        input: Color,
        /// Another color, whose route here has input `Ramp`.
        output: Color,
        /// Local operand; its length is the message's.
        local: Slice,
        /// How.
        combine: Combine,
        /// Keep the result here too.
        store: bool,
        /// Format of both messages.
        wire: WireFormat,
    },
    /// c\[j*m + i\] = sum over l ascending of a\[l*m + i\] * b\[l*n + j\], starting from 0 or, with
    /// `accumulate`, from c\[j*m + i\]: C \[m, n\] and A \[m, k\] by columns, B \[k, n\] by rows.
    Gemm {
        /// Rows of A and C.
        m: u32,
        /// Columns of A, rows of B.
        k: u32,
        /// Columns of B and C.
        n: u32,
        /// `m * n` elements.
        c: Slice,
        /// `m * k` elements.
        a: Slice,
        /// `k * n` elements.
        b: Slice,
        /// Start from the old c.
        accumulate: bool,
    },
    /// Everybody on a line of PEs receives the tile of one of them, the root, which moves up the line:
    /// in turn t of the loop around it the root is at coordinate `root + per_turn * t` of `axis`. There
    /// dst\[i\] = src\[i\], elsewhere dst\[i\] = src\[i\] of the root, rounded to `wire` in both cases.
    ///
    /// The root sends twice: on `down`, which PEs below it hear, and, once its own core has heard the last
    /// of that, on `up`, which those above it hear and it too. Routers merge these colors: what comes along the
    /// line and what their core sends goes on the same way. That is safe because roots follow one another
    /// up the line: the next one has heard this one's `up`, which left when all of `down` had passed this
    /// one's router, and before that all that had been sent on `up` from below. So wavelets of two
    /// roots meet nowhere and keep their order.
    Broadcast {
        /// Along rows or columns, from end to end of the template.
        axis: Axis,
        /// Color towards higher coordinates.
        up: Color,
        /// Color towards lower coordinates.
        down: Color,
        /// What the root sends.
        src: Slice,
        /// Where it arrives, as long as `src`.
        dst: Slice,
        /// Coordinate of the first root.
        root: u32,
        /// Positions that the root moves in a turn.
        per_turn: u32,
        /// How it travels.
        wire: WireFormat,
    },
    /// The next instruction, a Send, Recv, Relay or Broadcast, starts in a microthread and the program goes on
    /// behind it. Until the Join nothing may touch its operand (but reading what it only reads), use
    /// its colors in the same direction, or start the same microthread.
    Start {
        /// Which one, below [`MICROTHREADS`].
        thread: u8,
    },
    /// Waits until the microthreads of a set have ended. None is under way where a phase, the body
    /// of a Repeat or the stretch before one ends.
    Join {
        /// Bit i: microthread i, which has been started.
        threads: u8,
    },
    /// The next `body` instructions are executed `times` times: a loop, without another one inside.
    Repeat {
        /// How often, 0 included; may differ from PE to PE, but not between sender and receiver.
        times: Affine,
        /// Instructions.
        body: u32,
    },
    /// dst\[i\] = src\[i\] where `(when + per_turn * t) mod of` is 0, t the number of the turn of the
    /// loop around it (0 outside of one). Else nothing (same time). How a PE takes its own of the
    /// messages that all of its line receive.
    Keep {
        /// Destination, as long as `src`.
        dst: Slice,
        /// Source.
        src: Slice,
        /// Where and when; may be negative.
        when: Affine,
        /// Factor of the turn.
        per_turn: u32,
        /// The modulus, at least 1.
        of: u32,
    },
}

/// Whether an [`Instr::Keep`] copies: `when` is its expression at the PE's position.
pub fn keeps(when: i64, (per_turn, turn): (u32, u32), of: u32) -> bool {
    let turned = u64::from(per_turn) * u64::from(turn);
    of > 0 && (i128::from(when) + i128::from(turned)).rem_euclid(i128::from(of)) == 0
}

/// Microthreads of a core, by the vendor SDK.
pub const MICROTHREADS: u8 = 8;

/// Instructions of a program with the loop each is in: index, instruction, index of its Repeat.
pub fn in_loops(program: &[Instr]) -> impl Iterator<Item = (usize, &Instr, Option<usize>)> {
    let mut open: Option<(usize, usize)> = None;
    program.iter().enumerate().map(move |(i, instr)| {
        if open.is_some_and(|(_, end)| i >= end) {
            open = None;
        }
        let inside = open.map(|(at, _)| at);
        if let Instr::Repeat { body, .. } = instr {
            open = Some((i, (i + 1).saturating_add(*body as usize)));
        }
        (i, instr, inside)
    })
}

impl Instr {
    /// The color received from and the color sent to, with the length of the message; a broadcast, which may
    /// do either, has none of its own.
    pub fn communication(&self) -> Option<Communication> {
        let (input, output, slice, wire) = match *self {
            Instr::Send { color, src, wire } => (None, Some(color), src, wire),
            Instr::Recv { color, dst, wire, .. } => (Some(color), None, dst, wire),
            Instr::Relay { input, output, local, wire, .. } => {
                (Some(input), Some(output), local, wire)
            }
            _ => return None,
        };
        Some(Communication { input, output, len: slice.len, wire })
    }

    /// The colors `up` and `down` of a broadcast, on both of which a core may send and receive.
    pub fn broadcast(&self) -> Option<[Color; 2]> {
        match *self {
            Instr::Broadcast { up, down, .. } => Some([up, down]),
            _ => None,
        }
    }
}

/// The colors of all broadcasts of some instructions, ascending.
pub fn broadcast_colors<'a>(instrs: impl Iterator<Item = &'a Instr>) -> Vec<Color> {
    let mut colors: Vec<Color> = instrs.filter_map(Instr::broadcast).flatten().collect();
    colors.sort_unstable();
    colors.dedup();
    colors
}

/// What a communicating instruction does to the fabric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Communication {
    /// Color received from.
    pub input: Option<Color>,
    /// Color sent to.
    pub output: Option<Color>,
    /// Elements of the message.
    pub len: Len,
    /// Format of the message.
    pub wire: WireFormat,
}
