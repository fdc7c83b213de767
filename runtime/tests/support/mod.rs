//! A small decoder written by hand as a program: what the compiler would make of two layers of
//! grouped-query attention, with packed and plain weights.

use sparkc_runtime::kernels::pack::pack_rows;
use sparkc_runtime::program::{
    Activations, Binary, Buffer, CacheSpec, Call, Index, Layout, Op, Operand, Program, Repeat,
    Rope, Size, Step, StridedCopy, Weight,
};
use sparkc_runtime::{Assets, Payload};
use tensor::{DType, Rng, Tensor};

pub(crate) const CONTEXT: usize = 48;
pub(crate) const VOCAB: usize = 50;
const WIDTH: usize = 32;
const HEADS: usize = 4;
const GROUPS: usize = 2;
const HEAD: usize = 16;

struct Weights {
    table: Vec<Weight>,
    bytes: Vec<u8>,
    rng: Rng,
}

impl Weights {
    fn add(&mut self, layout: Layout, dtype: DType, dims: &[usize]) -> u32 {
        let count: usize = dims.iter().product();
        let scale = (dims[dims.len() - 1] as f32).sqrt().recip();
        let values: Vec<f32> = (0..count).map(|_| self.rng.normal() * scale).collect();
        let tensor = Tensor::from_f32(dims.to_vec(), &values).cast(dtype).expect("whole groups");
        self.bytes.resize(self.bytes.len().next_multiple_of(64), 0);
        let offset = self.bytes.len();
        match layout {
            Layout::Plain => self.bytes.extend_from_slice(tensor.bytes()),
            Layout::Packed => pack_rows(dtype, dims[1], tensor.bytes(), &mut self.bytes),
        }
        self.table.push(Weight {
            name: format!("weight {}", self.table.len()),
            offset: offset as u64,
            bytes: (self.bytes.len() - offset) as u64,
            dtype,
            layout,
            dims: dims.iter().map(|&d| d as u32).collect(),
        });
        self.table.len() as u32 - 1
    }
}

fn times(symbol: usize, n: usize) -> Size {
    let mut exponents = [0; 3];
    exponents[symbol] = 1;
    Size(vec![(exponents, n as i64)])
}

fn tokens(n: usize) -> Size {
    times(0, n)
}

/// Buffers, each in a slot of its own.
#[derive(Default)]
struct Buffers(Vec<Buffer>, Vec<Vec<Size>>);

impl Buffers {
    fn add(&mut self, dims: Vec<Size>, elements: Size) -> u32 {
        self.1.push(vec![elements]);
        let slot = self.1.len() as u32 - 1;
        self.0.push(Buffer { slot, offset: Size::constant(0), dims });
        self.0.len() as u32 - 1
    }

    fn view(&mut self, of: u32, offset: Size, dims: Vec<Size>) -> u32 {
        let slot = self.0[of as usize].slot;
        self.0.push(Buffer { slot, offset, dims });
        self.0.len() as u32 - 1
    }

    fn rows(&mut self, width: usize) -> u32 {
        self.add(vec![tokens(1), width.into()], tokens(width))
    }

    fn heads(&mut self, heads: usize) -> u32 {
        self.add(vec![tokens(1), heads.into(), HEAD.into()], tokens(heads * HEAD))
    }
}

fn call(op: Op, operands: &[u32], out: u32) -> Call {
    Call { op, operands: operands.iter().map(|&b| Operand::Buffer(b)).collect(), out }
}

/// Columns `first..first + width` of rows of `of`.
fn columns(of: usize, first: usize, width: usize) -> Op {
    Op::Copy(Box::new(StridedCopy {
        dims: vec![tokens(1), width.into()],
        src_offset: first.into(),
        src_strides: vec![of.into(), 1.into()],
        dst_offset: 0.into(),
        dst_strides: vec![width.into(), 1.into()],
    }))
}

/// Width of the merged query, key and value projections.
const QKV: usize = (HEADS + 2 * GROUPS) * HEAD;

/// Norm gain and projections of each layer; the layers differ in dtype.
fn layer_weights(w: &mut Weights, layers: [DType; 2]) -> Vec<Vec<u32>> {
    let layer = |dtype: DType| {
        vec![
            w.add(Layout::Plain, DType::F32, &[WIDTH]),
            w.add(Layout::Packed, dtype, &[QKV, WIDTH]),
            w.add(Layout::Packed, DType::F16, &[WIDTH, HEADS * HEAD]),
        ]
    };
    layers.map(layer).to_vec()
}

/// Attention with a residual, from `x` to `x`.
fn layer_calls(b: &mut Buffers, x: u32, positions: u32) -> Vec<Call> {
    let (normed, qkv) = (b.rows(WIDTH), b.rows(QKV));
    let (q, k, v) = (b.heads(HEADS), b.heads(GROUPS), b.heads(GROUPS));
    let (q_turned, k_turned) = (b.heads(HEADS), b.heads(GROUPS));
    let mixed = b.heads(HEADS);
    let mixed_rows = b.view(mixed, 0.into(), vec![tokens(1), (HEADS * HEAD).into()]);
    let (projected, sum) = (b.rows(WIDTH), b.rows(WIDTH));
    let append = |column: u32, rows: u32| {
        let at = Size(vec![([0, 1, 0], 1)]);
        call(Op::CacheAppend { cache: Index::Layer(column), at }, &[rows], rows)
    };
    let norm = Call {
        op: Op::RmsNorm { eps: 1e-5 },
        operands: vec![Operand::Buffer(x), Operand::Constant(Index::Layer(0))],
        out: normed,
    };
    let caches = [0, 1].map(|column| Operand::Cache(Index::Layer(column)));
    let attention = Call {
        op: Op::Attention { scale: 0.25, window: Some(20) },
        operands: vec![Operand::Buffer(q_turned), caches[0], caches[1]],
        out: mixed,
    };
    vec![
        norm,
        call(Op::Linear { weight: Index::Layer(1) }, &[normed], qkv),
        call(columns(QKV, 0, HEADS * HEAD), &[qkv], q),
        call(columns(QKV, HEADS * HEAD, GROUPS * HEAD), &[qkv], k),
        call(columns(QKV, (HEADS + GROUPS) * HEAD, GROUPS * HEAD), &[qkv], v),
        call(Op::Rope { rope: 0 }, &[q, positions], q_turned),
        call(Op::Rope { rope: 0 }, &[k, positions], k_turned),
        append(0, k_turned),
        append(1, v),
        attention,
        call(Op::Linear { weight: Index::Layer(2) }, &[mixed_rows], projected),
        call(Op::Binary(Binary::Add), &[x, projected], sum),
        call(columns(WIDTH, 0, WIDTH), &[sum], x),
    ]
}

/// The program and its weights.
pub(crate) fn parts() -> (Program, Vec<u8>) {
    parts_of([DType::BF16, DType::Q8])
}

/// [`parts`] with projections of these dtypes.
pub(crate) fn parts_of(layers: [DType; 2]) -> (Program, Vec<u8>) {
    let mut w = Weights { table: Vec::new(), bytes: Vec::new(), rng: Rng::new(11) };
    let table = w.add(Layout::Packed, DType::BF16, &[VOCAB, WIDTH]);
    let weights = layer_weights(&mut w, layers);
    let mut b = Buffers::default();
    let ids = b.add(vec![tokens(1)], tokens(1));
    let positions = b.add(vec![tokens(1)], tokens(1));
    let x = b.rows(WIDTH);
    let calls = layer_calls(&mut b, x, positions);
    let last_offset = Size(vec![([1, 0, 0], WIDTH as i64), ([0, 0, 1], -(WIDTH as i64))]);
    let last = b.view(x, last_offset, vec![times(2, 1), WIDTH.into()]);
    let logits = b.add(vec![times(2, 1), VOCAB.into()], times(2, VOCAB));
    let cache = CacheSpec { heads: GROUPS as u32, width: HEAD as u32, dtype: DType::F32 };
    let layers = weights.len() as u32;
    let repeat = Repeat {
        count: layers,
        first: 0,
        weights,
        caches: (0..layers).map(|i| vec![2 * i, 2 * i + 1]).collect(),
        calls,
    };
    let rope = Rope {
        inverse_frequencies: (0..HEAD / 2).map(|i| 0.5f32.powi(i as i32)).collect(),
        attention_factor: 1.0,
        dynamic: None,
    };
    let program = Program {
        name: "hand-written".to_string(),
        vocab: VOCAB as u32,
        context: CONTEXT as u32,
        slots: b.1,
        buffers: b.0,
        caches: vec![cache; 2 * layers as usize],
        weights: w.table,
        ropes: vec![rope],
        steps: vec![
            Step::Call(call(Op::Gather { weight: Index::Fixed(table) }, &[ids], x)),
            Step::Call(call(Op::Positions, &[], positions)),
            Step::Repeat(repeat),
            Step::Call(call(Op::Linear { weight: Index::Fixed(table) }, &[last], logits)),
        ],
        tokens: ids,
        logits,
        activations: Activations::default(),
    };
    (program, w.bytes)
}

/// The model, ready to run.
pub(crate) fn decoder() -> Payload {
    let (program, bytes) = parts();
    Payload::new(program, bytes.into(), Assets::default()).expect("a valid program")
}
