//! A small decoder written by hand as a program: what the compiler would make of two layers of
//! grouped-query attention, with packed and plain weights.

use sparkc_runtime::kernels::pack::{TILE, pack_tile};
use sparkc_runtime::program::{
    Binary, Buffer, CacheSpec, Call, Index, Layout, Op, Operand, Program, Repeat, Rope, Size, Step,
    StridedCopy, Weight,
};
use sparkc_runtime::{Assets, Payload};
use tensor::{DType, Rng, Tensor};

pub(crate) const CONTEXT: usize = 48;
pub(crate) const VOCAB: usize = 50;
const WIDTH: usize = 32;
const HEADS: usize = 4;
const GROUPS: usize = 2;
const HEAD: usize = 16;
const LAYERS: usize = 2;

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
        let tensor = Tensor::from_f32(dims.to_vec(), &values).cast(dtype).unwrap();
        self.bytes.resize(self.bytes.len().next_multiple_of(64), 0);
        let offset = self.bytes.len();
        match layout {
            Layout::Plain => self.bytes.extend_from_slice(tensor.bytes()),
            Layout::Packed => {
                let rows = dtype.bytes_for(dims[1]).unwrap() * TILE;
                for rows in tensor.bytes().chunks(rows) {
                    pack_tile(dtype, dims[1], rows, &mut self.bytes);
                }
            }
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

/// The program and its weights.
pub(crate) fn parts() -> (Program, Vec<u8>) {
    let mut w = Weights { table: Vec::new(), bytes: Vec::new(), rng: Rng::new(11) };
    let qkv_width = (HEADS + 2 * GROUPS) * HEAD;
    let table = w.add(Layout::Packed, DType::BF16, &[VOCAB, WIDTH]);
    let layers: Vec<Vec<u32>> = [DType::BF16, DType::Q8]
        .into_iter()
        .map(|dtype| {
            vec![
                w.add(Layout::Plain, DType::F32, &[WIDTH]),
                w.add(Layout::Packed, dtype, &[qkv_width, WIDTH]),
                w.add(Layout::Packed, DType::F16, &[WIDTH, HEADS * HEAD]),
            ]
        })
        .collect();
    let mut b = Buffers::default();
    let ids = b.add(vec![tokens(1)], tokens(1));
    let positions = b.add(vec![tokens(1)], tokens(1));
    let x = b.rows(WIDTH);
    let normed = b.rows(WIDTH);
    let qkv = b.rows(qkv_width);
    let (q, k, v) = (b.heads(HEADS), b.heads(GROUPS), b.heads(GROUPS));
    let (q_turned, k_turned) = (b.heads(HEADS), b.heads(GROUPS));
    let mixed = b.heads(HEADS);
    let mixed_rows = b.view(mixed, 0.into(), vec![tokens(1), (HEADS * HEAD).into()]);
    let projected = b.rows(WIDTH);
    let sum = b.rows(WIDTH);
    let last_offset = Size(vec![([1, 0, 0], WIDTH as i64), ([0, 0, 1], -(WIDTH as i64))]);
    let last = b.view(x, last_offset, vec![times(2, 1), WIDTH.into()]);
    let logits = b.add(vec![times(2, 1), VOCAB.into()], times(2, VOCAB));
    let attention = Call {
        op: Op::Attention { scale: 0.25, window: Some(20) },
        operands: vec![
            Operand::Buffer(q_turned),
            Operand::Cache(Index::Layer(0)),
            Operand::Cache(Index::Layer(1)),
        ],
        out: mixed,
    };
    let append = |column: u32, rows: u32| {
        let at = Size(vec![([0, 1, 0], 1)]);
        call(Op::CacheAppend { cache: Index::Layer(column), at }, &[rows], rows)
    };
    let norm = Call {
        op: Op::RmsNorm { eps: 1e-5 },
        operands: vec![Operand::Buffer(x), Operand::Constant(Index::Layer(0))],
        out: normed,
    };
    let copy_back = Op::Copy(Box::new(StridedCopy {
        dims: vec![tokens(WIDTH)],
        src_offset: 0.into(),
        src_strides: vec![1.into()],
        dst_offset: 0.into(),
        dst_strides: vec![1.into()],
    }));
    let calls = vec![
        norm,
        call(Op::Linear { weight: Index::Layer(1) }, &[normed], qkv),
        call(columns(qkv_width, 0, HEADS * HEAD), &[qkv], q),
        call(columns(qkv_width, HEADS * HEAD, GROUPS * HEAD), &[qkv], k),
        call(columns(qkv_width, (HEADS + GROUPS) * HEAD, GROUPS * HEAD), &[qkv], v),
        call(Op::Rope { rope: 0 }, &[q, positions], q_turned),
        call(Op::Rope { rope: 0 }, &[k, positions], k_turned),
        append(0, k_turned),
        append(1, v),
        attention,
        call(Op::Linear { weight: Index::Layer(2) }, &[mixed_rows], projected),
        call(Op::Binary(Binary::Add), &[x, projected], sum),
        call(copy_back, &[sum], x),
    ];
    let caches =
        vec![CacheSpec { heads: GROUPS as u32, width: HEAD as u32, dtype: DType::F32 }; 2 * LAYERS];
    let repeat = Repeat {
        count: LAYERS as u32,
        first: 0,
        weights: layers,
        caches: (0..LAYERS as u32).map(|i| vec![2 * i, 2 * i + 1]).collect(),
        calls,
    };
    let frequencies = (0..HEAD / 2).map(|i| 0.5f32.powi(i as i32)).collect();
    let program = Program {
        name: "hand-written".to_string(),
        vocab: VOCAB as u32,
        context: CONTEXT as u32,
        slots: b.1,
        buffers: b.0,
        caches,
        weights: w.table,
        ropes: vec![Rope {
            inverse_frequencies: frequencies,
            attention_factor: 1.0,
            dynamic: None,
        }],
        steps: vec![
            Step::Call(call(Op::Gather { weight: Index::Fixed(table) }, &[ids], x)),
            Step::Call(call(Op::Positions, &[], positions)),
            Step::Repeat(repeat),
            Step::Call(call(Op::Linear { weight: Index::Fixed(table) }, &[last], logits)),
        ],
        tokens: ids,
        logits,
    };
    (program, w.bytes)
}

/// The model, ready to run.
pub(crate) fn decoder() -> Payload {
    let (program, bytes) = parts();
    Payload::new(program, bytes.into(), Assets::default()).unwrap()
}
