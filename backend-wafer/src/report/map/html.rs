//! The wafer as one offline HTML page: the data of the plan in JSON, and a script that draws it.
//!
//! The page expands a tile as the plan does: predicates, spans and affine positions are evaluated by
//! the script where the pointer is, so the page's size does not depend on the number of PEs.

use plan::{Affine, Clause, Pin, Plan, Predicate, Span, Template, Term};
use serde_json::{Value, json};

use super::region_color;
use crate::program::builder::sram_by_role;
use crate::report::Report;

/// The page, with `/*DATA*/` where the data goes.
const PAGE: &str = include_str!("map.html");

/// One HTML file without any external resource.
pub fn html(plan: &Plan) -> String {
    let report = Report::new(plan);
    let templates: Vec<Value> =
        plan.templates.iter().enumerate().map(|(i, t)| template(t, &report, i)).collect();
    let regions: Vec<Value> = plan
        .regions
        .iter()
        .enumerate()
        .map(|(i, r)| {
            let (red, green, blue) = region_color(plan, i);
            json!({
                "name": r.name, "t": r.template.0, "layer": r.layer,
                "x": r.rect.x, "y": r.rect.y, "w": r.rect.w, "h": r.rect.h,
                "mx": r.orientation.mirror_x, "my": r.orientation.mirror_y,
                "color": format!("rgb({red},{green},{blue})"),
            })
        })
        .collect();
    let streams: Vec<Value> = plan
        .streams
        .iter()
        .map(|s| json!({"from": s.from.0, "to": s.to.0, "color": s.color.0, "n": s.elements}))
        .collect();
    let target = &plan.target;
    let data = json!({
        "model": {
            "name": plan.model.name, "hidden": plan.model.hidden, "layers": plan.model.layers,
            "vocab": plan.model.vocab, "context": plan.model.context,
        },
        "target": {
            "name": target.name, "w": target.width, "wafers": target.wafers, "h": target.height,
            "ghz": target.clock_ghz, "sram": target.usable_sram(),
        },
        "pos": plan.claims.at_pos, "cycles": plan.claims.token_cycles,
        "bounds": plan.claims.bounds.iter().map(|b| json!([b.name, b.cycles])).collect::<Vec<_>>(),
        "templates": templates, "regions": regions, "streams": streams,
    });
    // Inside a script element only "</" could end it early.
    let text = data.to_string().replace('<', "\\u003c");
    PAGE.replace("/*DATA*/null", &text)
}

fn template(t: &Template, report: &Report, index: usize) -> Value {
    let phases: Vec<Value> = report.templates[index]
        .phases
        .iter()
        .map(|p| json!([p.name, p.compute_cycles, p.comm_cycles, p.kind]))
        .collect();
    let buffers: Vec<Value> = t
        .buffers
        .iter()
        .map(|b| {
            json!([b.name, word(&b.role), word(&b.storage), b.rows, b.cols, b.bytes, b.offset,
                   b.live.0, b.live.1])
        })
        .collect();
    let sram: Vec<Value> =
        sram_by_role(t).iter().map(|(role, bytes)| json!([word(role), bytes])).collect();
    let kv = t.kv.map(|kv| json!({"rows": kv.rows, "slots": kv.slots, "window": kv.window}));
    json!({
        "name": t.name, "w": t.width, "h": t.height, "cell": [t.cell.0, t.cell.1],
        "phases": phases, "buffers": buffers, "sram": sram, "kv": kv,
        "weights": t.weights.iter().map(|w| w.name.as_str()).collect::<Vec<_>>(),
        "pins": t.pins.iter().map(pin).collect::<Vec<_>>(),
        "colors": report.templates[index].colors,
    })
}

/// `KvCache` as `kv cache`: the lower-case words of a variant.
fn word(variant: &impl std::fmt::Debug) -> String {
    let mut out = String::new();
    for c in format!("{variant:?}").chars() {
        let starts_word = c.is_ascii_uppercase()
            && out.chars().last().is_some_and(|p| p.is_ascii_lowercase());
        if starts_word {
            out.push(' ');
        }
        out.push(c.to_ascii_lowercase());
    }
    out
}

/// [weight, buffer, axis0, axis1, predicate].
fn pin(p: &Pin) -> Value {
    json!([p.weight, p.buffer.0, span(&p.axis0), span(&p.axis1), predicate(&p.predicate)])
}

fn affine(a: &Affine) -> Value {
    json!([a.base, a.xq, a.xr, a.yq, a.yr])
}

fn span(s: &Span) -> Value {
    json!([affine(&s.start), s.len, affine(&s.limit)])
}

/// {x: [[kind, m, n, from, to]], y: ...}.
fn predicate(p: &Predicate) -> Value {
    let clause = |c: &Clause| {
        let (kind, m, n) = match c.term {
            Term::Pos => (0, 1, 1),
            Term::Rem(m) => (1, m, 1),
            Term::Quot(m) => (2, m, 1),
            Term::RemRem(m, n) => (3, m, n),
            Term::QuotRem(m, n) => (4, m, n),
        };
        json!([kind, m, n, c.from, c.to])
    };
    let clauses = |list: &[Clause]| list.iter().map(clause).collect::<Vec<_>>();
    json!({"x": clauses(&p.x), "y": clauses(&p.y)})
}
