//! A plan as text for people and for snapshots: stable, complete but for inline values.
//!
//! One line per region, weight, buffer, pin, route and instruction, in the plan's own order. Not meant
//! to be read back: [`crate::codec`] is. JSON comes from serde: `serde_json::to_string(&plan)`.

use std::fmt::Write;

use crate::geometry::{Port, Ports};
use crate::index::{Affine, Clause, Predicate, Span, Term};
use crate::plan::{Plan, WeightData};
use crate::program::{AttentionShape, Instr, Len, Matrix, Operand, Slice};
use crate::template::Template;

/// The whole plan.
pub fn text(plan: &Plan) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = write_plan(&mut out, plan);
    out
}

fn heads(a: AttentionShape) -> String {
    format!("({} x {} x {})", a.kv_heads, a.q_per_kv, a.dim)
}

/// When an [`Instr::Keep`] copies.
fn turn(instr: &Instr) -> String {
    match instr {
        Instr::Keep { when, per_turn, of, .. } => {
            format!("when {} + {per_turn} per turn is 0 mod {of}", affine(when))
        }
        _ => String::new(),
    }
}

/// A communicating instruction; `s` names a slice.
fn message(instr: &Instr, s: impl Fn(Slice) -> String) -> String {
    let wire = |w: crate::WireFormat| format!("{w:?}").to_lowercase();
    match *instr {
        Instr::Send { color, src, wire: w } => format!("send {}, {} {}", color.0, s(src), wire(w)),
        Instr::Recv { color, dst, combine, wire: w } => {
            format!("recv {} {combine:?} {}, {}", color.0, s(dst), wire(w))
        }
        Instr::Relay { input, output, local, combine, store, wire: w } => {
            let kept = if store { " store" } else { "" };
            format!("relay {} -> {} {combine:?}{kept} {}, {}", input.0, output.0, s(local), wire(w))
        }
        Instr::Broadcast { axis, up, down, src, dst, root, per_turn, wire: w } => {
            let (src, dst, w) = (s(src), s(dst), wire(w));
            let from = format!("{axis:?} = {root} + {per_turn} per turn");
            format!("broadcast {} up {} down, {dst} = {src} of {from} {w}", up.0, down.0)
        }
        _ => String::new(),
    }
}

/// One instruction with the names of its buffers, e.g. `send 3, hidden[0..16] f32`.
pub fn instruction(template: &Template, instr: &Instr) -> String {
    let name = |id: crate::BufferId| {
        template.buffers.get(id.0 as usize).map_or_else(|| format!("#{}", id.0), |b| b.name.clone())
    };
    let s = |s: Slice| match s.offset {
        0 => format!("{}[..{}]", name(s.buffer), len(s.len)),
        o => format!("{}[{o}.. {}]", name(s.buffer), len(s.len)),
    };
    let m = |m: Matrix| format!("{}[{}+{}, {}+{}]", name(m.buffer), m.row, m.rows, m.col, m.cols);
    let second = |b: Operand| match b {
        Operand::Slice(b) => s(b),
        Operand::Scalar(v) => v.to_string(),
        Operand::PerSegment(b) => format!("per segment {}", s(b)),
    };
    match *instr {
        Instr::Fill { dst, value } => format!("fill {} = {value}", s(dst)),
        Instr::Software { cycles } => format!("software {cycles} cycles"),
        Instr::Copy { dst, src } => format!("copy {} = {}", s(dst), s(src)),
        Instr::Unary { op, dst, src } => format!("{op:?} {} = {}", s(dst), s(src)),
        Instr::Binary { op, dst, a, b } => {
            format!("{op:?} {} = {}, {}", s(dst), s(a), second(b))
        }
        Instr::Part { op, dst, a, b, part, parts } => {
            let (dst, a, b, part) = (s(dst), s(a), second(b), affine(&part));
            format!("part {op:?} {dst} = {a}, {b} piece {part} of {parts}")
        }
        Instr::Reduce { op, dst, src } => format!("reduce {op:?} {} = {}", s(dst), s(src)),
        Instr::Gemv { y, x, w, accumulate } => {
            let sign = if accumulate { "+=" } else { "=" };
            format!("gemv {} {sign} {} x {}", s(y), s(x), m(w))
        }
        Instr::Angles { dst, inv_freq, scale, dynamic } => {
            let kind = if dynamic.is_some() { " dynamic" } else { "" };
            format!("angles{kind} {} = {} x {scale}", s(dst), s(inv_freq))
        }
        Instr::Rope { data, heads, half, angles } => {
            format!("rope {} {heads} x 2 x {half} by {}", s(data), s(angles))
        }
        Instr::Gather { dst, table, axis, base, limit } => {
            let (dst, table, base) = (s(dst), m(table), affine(&base));
            format!("gather {dst} = {table} {axis:?} from {base} below {limit}")
        }
        Instr::KvAppend { cache, src } => format!("kv-append {} = {}", name(cache), s(src)),
        Instr::Scores { shape, dst, q, k } => {
            format!("scores {} = {} . {} {}", s(dst), s(q), name(k), heads(shape))
        }
        Instr::AttendValues { shape, dst, p, v } => {
            format!("attend-values {} = {} . {} {}", s(dst), s(p), name(v), heads(shape))
        }
        Instr::ArgMax { dst, src, base, limit } => {
            format!("argmax {} = {} from {} below {limit}", s(dst), s(src), affine(&base))
        }
        Instr::Send { .. } | Instr::Recv { .. } | Instr::Relay { .. } | Instr::Broadcast { .. } => {
            message(instr, s)
        }
        Instr::Gemm { m, k, n, c, a, b, accumulate } => {
            let sign = if accumulate { "+=" } else { "=" };
            format!("gemm {} {sign} {} x {} ({m} x {k} x {n})", s(c), s(a), s(b))
        }
        Instr::Start { thread } => format!("start {thread}:"),
        Instr::Join { threads } => format!("join{}", joined(threads)),
        Instr::CopyPiece { dst, src, piece, pieces } => {
            format!("copy-piece {} = {} at {} of {pieces}", s(dst), s(src), affine(&piece))
        }
        Instr::Keep { dst, src, .. } => format!("keep {} = {} {}", s(dst), s(src), turn(instr)),
        Instr::Repeat { times, body } => format!("repeat {} times the next {body}", affine(&times)),
    }
}

/// The microthreads of a mask, each behind a space.
fn joined(threads: u8) -> String {
    (0..8).filter(|t| threads & (1 << t) != 0).map(|t| format!(" {t}")).collect()
}

fn write_plan(out: &mut String, plan: &Plan) -> std::fmt::Result {
    let m = &plan.model;
    writeln!(out, "plan {} on {}", m.name, plan.target.name)?;
    writeln!(
        out,
        "  hidden {} layers {} vocab {} context {}",
        m.hidden, m.layers, m.vocab, m.context
    )?;
    for w in &plan.weights {
        let source = match &w.data {
            WeightData::Model => "model".to_owned(),
            WeightData::Inline(values) => format!("inline ({} values)", values.len()),
        };
        let storage = format!("{:?}", w.storage).to_lowercase();
        writeln!(out, "weight {} {storage}{:?} x {} from {source}", w.name, w.shape, w.copies)?;
    }
    for r in &plan.regions {
        let rect = r.rect;
        write!(out, "region {} at ({}, {}) {} x {}", r.name, rect.x, rect.y, rect.w, rect.h)?;
        write!(out, " runs {}", plan.template_of(r).map_or("nothing", |t| &t.name))?;
        if let Some(layer) = r.layer {
            write!(out, " layer {layer}")?;
        }
        for (on, what) in [(r.orientation.mirror_x, "x"), (r.orientation.mirror_y, "y")] {
            if on {
                write!(out, " mirrored {what}")?;
            }
        }
        r.colors.iter().try_for_each(|(a, b)| write!(out, " {}->{}", a.0, b.0))?;
        writeln!(out)?;
    }
    for w in &plan.wires {
        let r = w.rect;
        write!(out, "wire color {} at ({}, {}) {} x {}", w.color.0, r.x, r.y, r.w, r.h)?;
        writeln!(out, " {} -> {}", port(w.input), ports(w.outputs))?;
    }
    for s in &plan.streams {
        let (from, to) = (s.from.0, s.to.0);
        writeln!(
            out,
            "stream {} from {from} to {to} color {} of {}",
            s.name, s.color.0, s.elements
        )?;
    }
    plan.templates.iter().try_for_each(|t| write_template(out, t))
}

fn write_template(out: &mut String, t: &Template) -> std::fmt::Result {
    writeln!(
        out,
        "template {} {} x {} cell {} x {}",
        t.name, t.width, t.height, t.cell.0, t.cell.1
    )?;
    if let Some(kv) = t.kv {
        let window = kv.window.map_or(String::new(), |w| format!(" window {w}"));
        writeln!(
            out,
            "  kv rows {}+{} slots {} requests {}{window}",
            kv.first_row, kv.rows, kv.slots, kv.requests
        )?;
        if kv.columns > 1 {
            writeln!(out, "  kv columns {}", kv.columns)?;
        }
    }
    for b in &t.buffers {
        let (storage, role) = (format!("{:?}", b.storage).to_lowercase(), b.role);
        write!(out, "  buffer {} {role:?} {storage}[{}, {}]", b.name, b.rows, b.cols)?;
        writeln!(out, " at {} of {} bytes, phases {}..={}", b.offset, b.bytes, b.live.0, b.live.1)?;
    }
    for p in &t.pins {
        let weight = t.weights.get(p.weight as usize).map_or("?", |w| &w.name);
        let buffer = t.buffers.get(p.buffer.0 as usize).map_or("?", |b| &b.name);
        let turned = if p.transposed { " transposed" } else { "" };
        write!(out, "  pin {weight}[{}, {}]{turned}", span(&p.axis0), span(&p.axis1))?;
        write!(out, " in {buffer} at {:?} where {}", p.at, predicate(&p.predicate))?;
        if let Some(gain) = p.gain.and_then(|g| t.weights.get(g.weight as usize)) {
            write!(out, " gain {}", gain.name)?;
        }
        writeln!(
            out,
            "{}",
            if p.scale == 1.0 { String::new() } else { format!(" x {}", p.scale) }
        )?;
    }
    for r in &t.routes {
        write!(out, "  route {} {} -> {}", r.color.0, port(r.input), ports(r.outputs))?;
        writeln!(out, " where {}", predicate(&r.predicate))?;
    }
    for phase in &t.phases {
        write!(out, "  phase {}", phase.name)?;
        match &phase.comm {
            None => writeln!(out)?,
            Some(c) => {
                writeln!(out, ": {} C {} L {} D {}", c.kind, len(c.serial), c.hops, c.depth)?;
            }
        }
        for role in &phase.roles {
            writeln!(out, "    {} where {}", role.name, predicate(&role.predicate))?;
            for instr in &role.program {
                writeln!(out, "      {}", instruction(t, instr))?;
            }
        }
    }
    Ok(())
}

fn len(len: Len) -> String {
    match (len.constant, len.per_kv_token) {
        (n, 0) => n.to_string(),
        (0, k) => format!("{k}T"),
        (n, k) => format!("{n}+{k}T"),
    }
}

fn port(port: Port) -> &'static str {
    ["N", "E", "S", "W", "core"][port as usize]
}

fn ports(set: Ports) -> String {
    set.iter().map(port).collect::<Vec<_>>().join("+")
}

fn predicate(p: &Predicate) -> String {
    let on = |axis: &'static str| move |c: &Clause| clause(axis, c);
    let mut parts: Vec<String> = p.x.iter().map(on("x")).chain(p.y.iter().map(on("y"))).collect();
    parts.extend(p.diagonal.map(|(a, b)| format!("x-y in {a}..{b}")));
    parts.extend(p.antidiagonal.map(|(a, b)| format!("x+y in {a}..{b}")));
    if parts.is_empty() { "everywhere".into() } else { parts.join(" and ") }
}

fn clause(axis: &str, c: &Clause) -> String {
    let term = match c.term {
        Term::Pos => axis.to_owned(),
        Term::Rem(m) => format!("{axis}%{m}"),
        Term::Quot(m) => format!("{axis}/{m}"),
        Term::RemRem(m, n) => format!("{axis}%{m}%{n}"),
        Term::QuotRem(m, n) => format!("{axis}/{m}%{n}"),
    };
    if c.to < c.from {
        format!("{term} not in {}..{}", c.to, c.from)
    } else if c.to == c.from.saturating_add(1) {
        format!("{term} = {}", c.from)
    } else {
        format!("{term} in {}..{}", c.from, c.to)
    }
}

fn affine(a: &Affine) -> String {
    let terms = [(a.xq, "x/cw"), (a.xr, "x%cw"), (a.yq, "y/ch"), (a.yr, "y%ch")];
    let used = terms.iter().filter(|(k, _)| *k != 0);
    let mut parts: Vec<String> = used.map(|(k, name)| format!("{k}*{name}")).collect();
    if a.base != 0 || parts.is_empty() {
        parts.insert(0, a.base.to_string());
    }
    parts.join(" + ")
}

fn span(s: &Span) -> String {
    format!("{} +{} below {}", affine(&s.start), s.len, affine(&s.limit))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::samples::{LanguageModel, language_model};

    #[test]
    fn text_names_what_the_plan_holds() {
        let target = crate::Target::preset("tiny").expect("preset");
        let plan = language_model(LanguageModel::RAGGED, target);
        let text = text(&plan);
        for line in [
            "weight table f32[29, 10] x 2 from model",
            "region head at (6, 0) 4 x 3 runs head 0->1 1->0",
            "  kv rows 0+3 slots 8 requests 1",
            "  pin table[8*x/cw + 8*x%cw +8 below 29, 4*y/ch + 4*y%ch +4 below 10] transposed in table at (0, 0) where everywhere",
            "  route 12 W -> E where x in 1..4",
            "  phase norm.reduce: chain C 1 L 2 D 2",
            "      relay 1 -> 0 Add update[..4], f32",
        ] {
            assert!(text.lines().any(|l| l == line), "{line:?} is not in\n{text}");
        }
    }
}
