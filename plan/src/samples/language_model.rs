//! A two-region language model, small enough to read: embedding -> stream -> attention and head.
//!
//! Rows hold slices of the hidden vector, columns slices of the vocabulary and one attention head
//! each; tokens are cached by row. With hidden size K, D = columns * head_dim, per token:
//!
//! ```text
//! e = table[token]                       h = e / rms(e) * gain
//! q = A h, per head: k = v = q           o = softmax(q . k over cached tokens) v
//! r = e + B o                            logits = table r
//! ```

use crate::geometry::{Axis, Orientation, Point, Port, Ports, Rect};
use crate::index::{Affine, Clause, Predicate, Span};
use crate::program::{
    AttentionShape, BinaryOp, Combine, Instr, Len, Matrix, Operand, ReduceOp, Slice, TableAxis,
    UnaryOp, WireFormat,
};
use crate::{
    BufferId, BufferRole, Claims, Color, CommShape, KvLayout, LogitsOutput, ModelInfo, Outputs,
    Plan, RegionId, Stream, Target, Template, TokenOutput, WeightData, Wire,
};

use super::{Draft, along, decl, region, role, vector};

/// Sizes of [`language_model`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LanguageModel {
    /// Columns of each region: also the number of heads.
    pub width: u32,
    /// Rows of each region.
    pub height: u32,
    /// Hidden size K; need not be a multiple of the rows.
    pub hidden: u32,
    /// Vocabulary; need not be a multiple of the columns.
    pub vocab: u32,
    /// Elements of a head.
    pub head_dim: u32,
    /// Positions.
    pub context: u32,
    /// Sliding window of the attention.
    pub window: Option<u32>,
    /// Columns between the two regions.
    pub gap: u32,
    /// Whether the second region lies mirrored east-west, entered from its far side. Needs gap 0.
    pub mirrored: bool,
}

impl LanguageModel {
    /// Sizes with ragged edges everywhere.
    pub const RAGGED: LanguageModel = LanguageModel {
        width: 4,
        height: 3,
        hidden: 10,
        vocab: 29,
        head_dim: 4,
        context: 24,
        window: None,
        gap: 2,
        mirrored: false,
    };

    fn rows(&self) -> u32 {
        self.hidden.div_ceil(self.height)
    }

    fn cols(&self) -> u32 {
        self.vocab.div_ceil(self.width)
    }

    fn hidden_span(&self) -> Span {
        let rows = self.rows();
        let start = Affine::of_y(0, i64::from(rows), (1, 1));
        Span { start, len: rows, limit: Affine::constant(i64::from(self.hidden)) }
    }

    fn vocab_span(&self) -> Span {
        let cols = self.cols();
        let start = Affine::of_x(0, i64::from(cols), (1, 1));
        Span { start, len: cols, limit: Affine::constant(i64::from(self.vocab)) }
    }

    fn head_span(&self) -> Span {
        let start = Affine::of_x(0, i64::from(self.head_dim), (1, 1));
        let limit = Affine::constant(i64::from(self.head_dim * self.width));
        Span { start, len: self.head_dim, limit }
    }
}

/// Color of the stream between the regions.
const STREAM: u8 = 12;
/// Chain and broadcast colors along x and y.
const X: (u8, u8, u8) = (0, 1, 2);
const Y: (u8, u8, u8) = (3, 4, 5);

/// The model as a plan with regions side by side from (0, 0).
pub fn language_model(m: LanguageModel, target: Target) -> Plan {
    let rect = |x| Rect { x, y: 0, w: m.width, h: m.height };
    let head_x = m.width + m.gap;
    let mut head = region("head", 1, rect(head_x));
    head.orientation = Orientation { mirror_x: m.mirrored, mirror_y: false };
    head.colors = vec![(Color(X.0), Color(X.1)), (Color(X.1), Color(X.0))];
    let wire = Wire {
        color: Color(STREAM),
        rect: Rect { x: m.width, y: 0, w: m.gap, h: m.height },
        input: Port::West,
        outputs: Ports::of(&[Port::East]),
    };
    let stream = Stream {
        name: "hidden".into(),
        from: RegionId(0),
        to: RegionId(1),
        color: Color(STREAM),
        elements: m.rows() * m.height,
    };
    let d = m.head_dim * m.width;
    Plan {
        model: ModelInfo {
            name: "sample".into(),
            digest: String::new(),
            hidden: m.hidden,
            layers: 1,
            vocab: m.vocab,
            context: m.context,
        },
        target,
        weights: vec![
            decl("a", &[d, m.hidden], 1, WeightData::Model),
            decl("b", &[m.hidden, d], 1, WeightData::Model),
            decl("gain", &[m.hidden], m.width, WeightData::Model),
            decl("table", &[m.vocab, m.hidden], 2, WeightData::Model),
        ],
        templates: vec![embedding(m), head_template(m)],
        regions: vec![region("embedding", 0, rect(0)), head],
        repair: None,
        wires: if m.gap > 0 { vec![wire] } else { vec![] },
        streams: vec![stream],
        outputs: outputs(m),
        claims: Claims::default(),
    }
}

fn outputs(m: LanguageModel) -> Outputs {
    let logits = LogitsOutput {
        region: RegionId(1),
        predicate: along(Axis::Y, Clause::range(0, 1)),
        buffer: BufferId(LOGITS),
        start: Affine::of_x(0, i64::from(m.cols()), (1, 1)),
        len: m.cols(),
    };
    let token =
        TokenOutput { region: RegionId(1), position: (0, 0), buffer: BufferId(BEST), element: 1 };
    Outputs { logits: vec![logits], token: Some(token) }
}

fn embedding(m: LanguageModel) -> Template {
    let mut d = Draft::new("embedding", m.width, m.height);
    let table = d.buffer("table", BufferRole::Weights, m.rows(), m.cols());
    let hidden = d.buffer("hidden", BufferRole::Activation, 1, m.rows());
    let weight = d.weight("table");
    d.pin(weight, table, m.vocab_span(), m.hidden_span(), true);
    d.chain_routes(Axis::X, m.width, (X.0, X.1));
    // The root is column 0; the stream crosses the region on its way out.
    let last = m.width - 1;
    let out = |d: &mut Draft, from, to, input, ports: &[Port]| {
        d.route(STREAM, along(Axis::X, Clause::range(from, to)), input, ports);
    };
    out(&mut d, 0, 1, Port::Ramp, &[Port::East]);
    out(&mut d, 1, last + 1, Port::West, &[Port::East]);
    let table_matrix = Matrix { buffer: table, row: 0, col: 0, rows: m.rows(), cols: m.cols() };
    let x = vector(hidden, m.rows());
    d.local(
        "lookup",
        vec![Instr::Gather {
            dst: x,
            table: table_matrix,
            axis: TableAxis::Cols,
            base: Affine::of_x(0, i64::from(m.cols()), (1, 1)),
            limit: m.vocab,
        }],
    );
    d.chain("gather", (Axis::X, m.width), (X.0, X.1), x, Combine::Add);
    let send = Instr::Send { color: Color(STREAM), src: x, wire: WireFormat::F32 };
    let hops = 2 * m.width + m.gap - 1;
    let comm = CommShape { kind: "stream".into(), serial: x.len, hops, depth: 1, messages: 1 };
    let roles = vec![
        role("root", along(Axis::X, Clause::range(0, 1)), vec![send]),
        role("idle", along(Axis::X, Clause::range(1, m.width)), vec![]),
    ];
    d.phase("send", Some(comm), roles);
    d.finish()
}

/// Ids of the head's buffers that outputs refer to.
const LOGITS: u32 = 0;
const BEST: u32 = 1;

struct HeadBuffers {
    logits: BufferId,
    best: BufferId,
    table: BufferId,
    a: BufferId,
    b: BufferId,
    gain: BufferId,
    hidden: BufferId,
    normed: BufferId,
    scalar: BufferId,
    q: BufferId,
    k: BufferId,
    v: BufferId,
    scores: BufferId,
    out: BufferId,
    update: BufferId,
}

fn head_buffers(d: &mut Draft, m: LanguageModel, slots: u32) -> HeadBuffers {
    use BufferRole::{Activation, KvCache, Scratch, Weights};
    let (rows, cols, dim) = (m.rows(), m.cols(), m.head_dim);
    HeadBuffers {
        logits: d.buffer("logits", Activation, 1, cols),
        best: d.buffer("best", Activation, 1, 2),
        table: d.buffer("table", Weights, rows, cols),
        a: d.buffer("a", Weights, rows, dim),
        b: d.buffer("b", Weights, dim, rows),
        gain: d.buffer("gain", Weights, 1, rows),
        hidden: d.buffer("hidden", Activation, 1, rows),
        normed: d.buffer("normed", Activation, 1, rows),
        scalar: d.buffer("scalar", Scratch, 1, 1),
        q: d.buffer("q", Activation, 1, dim),
        k: d.buffer("k", KvCache, slots, dim),
        v: d.buffer("v", KvCache, slots, dim),
        scores: d.buffer("scores", Scratch, 1, slots),
        out: d.buffer("out", Activation, 1, dim + 1),
        update: d.buffer("update", Scratch, 1, rows),
    }
}

fn head_template(m: LanguageModel) -> Template {
    let mut d = Draft::new("head", m.width, m.height);
    let slots = m.window.map_or(m.context, |w| w.min(m.context)).div_ceil(m.height);
    let b = head_buffers(&mut d, m, slots);
    d.template.kv = Some(KvLayout {
        first_row: 0,
        rows: m.height,
        columns: 1,
        slots,
        window: m.window,
        requests: 1,
    });
    pins(&mut d, m, &b);
    routes(&mut d, m);
    receive(&mut d, m, &b);
    normalise(&mut d, m, &b);
    attend(&mut d, m, &b);
    finish(&mut d, m, &b);
    d.finish()
}

fn pins(d: &mut Draft, m: LanguageModel, b: &HeadBuffers) {
    let table = d.weight("table");
    d.pin(table, b.table, m.vocab_span(), m.hidden_span(), true);
    let a = d.weight("a");
    d.pin(a, b.a, m.head_span(), m.hidden_span(), true);
    let w = d.weight("b");
    d.pin(w, b.b, m.hidden_span(), m.head_span(), true);
    let gain = d.weight("gain");
    d.pin(gain, b.gain, Span::whole(1), m.hidden_span(), false);
}

fn routes(d: &mut Draft, m: LanguageModel) {
    d.chain_routes(Axis::X, m.width, (X.0, X.1));
    d.broadcast_routes(Axis::X, X.2);
    d.chain_routes(Axis::Y, m.height, (Y.0, Y.1));
    d.broadcast_routes(Axis::Y, Y.2);
    // A mirrored region is entered through its template's far side.
    let last = m.width - 1;
    let (input, output, far) =
        if m.mirrored { (Port::East, Port::West, 0) } else { (Port::West, Port::East, last) };
    let through = if m.mirrored { Clause::range(1, m.width) } else { Clause::range(0, last) };
    d.route(STREAM, along(Axis::X, through), input, &[output, Port::Ramp]);
    d.route(STREAM, along(Axis::X, Clause::range(far, far + 1)), input, &[Port::Ramp]);
}

fn receive(d: &mut Draft, m: LanguageModel, b: &HeadBuffers) {
    let dst = vector(b.hidden, m.rows());
    let (color, wire) = (Color(STREAM), WireFormat::F32);
    let recv = Instr::Recv { color, dst, combine: Combine::Store, wire };
    d.phase("receive", None, vec![role("all", Predicate::everywhere(), vec![recv])]);
}

fn normalise(d: &mut Draft, m: LanguageModel, b: &HeadBuffers) {
    let (x, s) = (vector(b.hidden, m.rows()), vector(b.scalar, 1));
    let normed = vector(b.normed, m.rows());
    d.local("square", vec![Instr::Reduce { op: ReduceOp::SumSquares, dst: s, src: x }]);
    d.chain("norm.reduce", (Axis::Y, m.height), (Y.0, Y.1), s, Combine::Add);
    d.broadcast("norm.broadcast", Axis::Y, Y.2, s);
    let q = vector(b.q, m.head_dim);
    let rsqrt = UnaryOp::RsqrtMean { count: m.hidden, eps: 1e-5 };
    let gain = Operand::Slice(vector(b.gain, m.rows()));
    let a = Matrix { buffer: b.a, row: 0, col: 0, rows: m.rows(), cols: m.head_dim };
    d.local(
        "norm.scale",
        vec![
            Instr::Unary { op: rsqrt, dst: s, src: s },
            Instr::Binary { op: BinaryOp::Mul, dst: normed, a: x, b: Operand::PerSegment(s) },
            Instr::Binary { op: BinaryOp::Mul, dst: normed, a: normed, b: gain },
            Instr::Gemv { y: q, x: normed, w: a, accumulate: false },
        ],
    );
    d.chain("q.reduce", (Axis::Y, m.height), (Y.0, Y.1), q, Combine::Add);
    d.broadcast("q.broadcast", Axis::Y, Y.2, q);
}

fn attend(d: &mut Draft, m: LanguageModel, b: &HeadBuffers) {
    let shape = AttentionShape { kv_heads: 1, q_per_kv: 1, dim: m.head_dim };
    let (q, s) = (vector(b.q, m.head_dim), vector(b.scalar, 1));
    let scores = Slice { buffer: b.scores, offset: 0, len: Len::kv(1) };
    d.local(
        "scores",
        vec![
            Instr::KvAppend { cache: b.k, src: q },
            Instr::KvAppend { cache: b.v, src: q },
            Instr::Scores { shape, dst: scores, q, k: b.k },
            Instr::Reduce { op: ReduceOp::Max, dst: s, src: scores },
        ],
    );
    d.chain("max.reduce", (Axis::Y, m.height), (Y.0, Y.1), s, Combine::Max);
    d.broadcast("max.broadcast", Axis::Y, Y.2, s);
    // out = sum of weights, then the weighted values.
    let sum = Slice { buffer: b.out, offset: 0, len: Len::of(1) };
    let values = Slice { buffer: b.out, offset: 1, len: Len::of(m.head_dim) };
    let out = vector(b.out, m.head_dim + 1);
    d.local(
        "values",
        vec![
            Instr::Binary {
                op: BinaryOp::ExpSub,
                dst: scores,
                a: scores,
                b: Operand::PerSegment(s),
            },
            Instr::Reduce { op: ReduceOp::Sum, dst: sum, src: scores },
            Instr::AttendValues { shape, dst: values, p: scores, v: b.v },
        ],
    );
    d.chain("values.reduce", (Axis::Y, m.height), (Y.0, Y.1), out, Combine::Add);
    d.broadcast("values.broadcast", Axis::Y, Y.2, out);
    let update = vector(b.update, m.rows());
    let w = Matrix { buffer: b.b, row: 0, col: 0, rows: m.head_dim, cols: m.rows() };
    d.local(
        "project",
        vec![
            Instr::Binary {
                op: BinaryOp::Div,
                dst: values,
                a: values,
                b: Operand::PerSegment(sum),
            },
            Instr::Gemv { y: update, x: values, w, accumulate: false },
        ],
    );
    d.chain("project.reduce", (Axis::X, m.width), (X.0, X.1), update, Combine::Add);
    d.broadcast("project.broadcast", Axis::X, X.2, update);
}

fn finish(d: &mut Draft, m: LanguageModel, b: &HeadBuffers) {
    let x = vector(b.hidden, m.rows());
    let update = Operand::Slice(vector(b.update, m.rows()));
    let (logits, best) = (vector(b.logits, m.cols()), vector(b.best, 2));
    let w = Matrix { buffer: b.table, row: 0, col: 0, rows: m.rows(), cols: m.cols() };
    d.local(
        "logits",
        vec![
            Instr::Binary { op: BinaryOp::Add, dst: x, a: x, b: update },
            Instr::Gemv { y: logits, x, w, accumulate: false },
        ],
    );
    d.chain("logits.reduce", (Axis::Y, m.height), (Y.0, Y.1), logits, Combine::Add);
    let base = Affine::of_x(0, i64::from(m.cols()), (1, 1));
    d.local("best", vec![Instr::ArgMax { dst: best, src: logits, base, limit: m.vocab }]);
    d.chain("best.reduce", (Axis::X, m.width), (X.0, X.1), best, Combine::ArgMax);
}

impl LanguageModel {
    /// Where the second region's template position (0, 0) lies.
    pub fn head_origin(&self) -> Point {
        let x = self.width + self.gap;
        Point { x: if self.mirrored { x + self.width - 1 } else { x }, y: 0 }
    }
}
