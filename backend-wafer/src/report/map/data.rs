//! The plan as JSON for the page: templates, predicates and affine indices as they are.
//!
//! Predicates and programs of a template are tables that roles, routes and pins point into, because
//! most of them occur many times. Nothing depends on the number of PEs; `page/expand.js` reads this.

use std::collections::BTreeMap;

use plan::{
    Affine, Axis, Clause, Instr, Pin, Plan, Port, Ports, Predicate, Region, Repair, Role, Span,
    Storage, Template, Term, WeightData,
};
use serde_json::{Value, json};

use super::{figures, instruction};

/// Dead PEs that a map draws; a wafer with more shows the first ones.
const DEAD_MAX: usize = 20_000;

/// Everything the page shows.
pub(super) fn data(plan: &Plan) -> Value {
    let (model, target, claims) = (&plan.model, &plan.target, &plan.claims);
    json!({
        "model": {
            "name": model.name, "digest": model.digest, "hidden": model.hidden,
            "layers": model.layers, "vocab": model.vocab, "context": model.context,
        },
        "target": {
            "name": target.name, "w": target.width, "h": target.height, "wafers": target.wafers,
            "ghz": target.clock_ghz, "sram": target.sram.bytes,
            "reserved": target.sram.reserved_bytes, "colors": target.usable_colors(),
            "dead": target.dead.iter().take(DEAD_MAX).collect::<Vec<_>>(),
            "dead_more": target.dead.len() > DEAD_MAX,
        },
        "repair": plan.repair.as_ref().map(repair),
        "templates": list(plan.templates.iter().enumerate().map(|(i, t)| template(plan, i, t))),
        "regions": list(plan.regions.iter().map(region)),
        "streams": list(plan.streams.iter().map(|s| json!({
            "name": s.name, "from": s.from.0, "to": s.to.0, "color": s.color.0, "n": s.elements,
        }))),
        "weights": list(plan.weights.iter().map(|w| json!({
            "name": w.name, "shape": w.shape, "storage": storage(w.storage), "copies": w.copies,
            "inline": matches!(w.data, WeightData::Inline(_)),
        }))),
        "outputs": outputs(plan),
        "claims": {
            "pos": claims.at_pos, "token": claims.token_cycles,
            "prefill": claims.prefill_interval_cycles,
            "bounds": list(claims.bounds.iter().filter(|b| b.template.is_none()).map(|b| json!([b.name, b.value]))),
        },
    })
}

/// How the grid lies on the wafers: rows of skipped columns as first ones and bends, detours as link and hops.
fn repair(r: &Repair) -> Value {
    json!({
        "w": r.width, "lanes": r.spare_lanes,
        "dead": r.dead.iter().take(DEAD_MAX).collect::<Vec<_>>(),
        "dead_more": r.dead.len() > DEAD_MAX,
        "wafers": list(r.wafers.iter().map(|w| json!({
            "first": w.first,
            "bends": list(w.bends.iter().map(|b| json!([b.row, b.spare, b.column]))),
        }))),
        "detours": list(r.detours.iter().take(DEAD_MAX).map(|d| {
            json!([d.at.x, d.at.y, u8::from(d.axis == Axis::Y), d.steps.len()])
        })),
    })
}

fn list(items: impl Iterator<Item = Value>) -> Value {
    Value::Array(items.collect())
}

fn region(r: &Region) -> Value {
    json!({
        "name": r.name, "t": r.template.0, "layer": r.layer,
        "x": r.rect.x, "y": r.rect.y, "w": r.rect.w, "h": r.rect.h,
        "mx": r.orientation.mirror_x, "my": r.orientation.mirror_y,
        "colors": list(r.colors.iter().map(|(from, to)| json!([from.0, to.0]))),
    })
}

/// The logits' predicates go into the table of their region's template, after all others: see
/// `template`.
fn outputs(plan: &Plan) -> Value {
    let logits = plan.outputs.logits.iter().filter_map(|o| {
        let region = plan.regions.get(o.region.0 as usize)?;
        let template = plan.template_of(region)?;
        let p = Tables::of(plan, region.template.0 as usize, template).predicate(&o.predicate);
        Some(json!({
            "region": o.region.0, "p": p, "buffer": o.buffer.0,
            "start": affine(&o.start), "len": o.len,
        }))
    });
    let token = plan.outputs.token.map(|t| {
        json!({"region": t.region.0, "x": t.position.0, "y": t.position.1, "buffer": t.buffer.0})
    });
    json!({"logits": list(logits), "token": token})
}

/// The distinct predicates and programs of a template, in order of first appearance.
#[derive(Default)]
struct Tables<'a> {
    predicates: Vec<&'a Predicate>,
    index: BTreeMap<&'a Predicate, usize>,
    programs: Vec<&'a [Instr]>,
}

impl<'a> Tables<'a> {
    fn of(plan: &'a Plan, index: usize, template: &'a Template) -> Self {
        let mut tables = Tables::default();
        for role in template.phases.iter().flat_map(|p| &p.roles) {
            tables.add(&role.predicate);
            if !tables.programs.contains(&role.program.as_slice()) {
                tables.programs.push(&role.program);
            }
        }
        template.routes.iter().for_each(|r| tables.add(&r.predicate));
        template.pins.iter().for_each(|p| tables.add(&p.predicate));
        for output in &plan.outputs.logits {
            let region = plan.regions.get(output.region.0 as usize);
            if region.is_some_and(|r| r.template.0 as usize == index) {
                tables.add(&output.predicate);
            }
        }
        tables
    }

    fn add(&mut self, predicate: &'a Predicate) {
        let next = self.predicates.len();
        if *self.index.entry(predicate).or_insert(next) == next {
            self.predicates.push(predicate);
        }
    }

    fn predicate(&self, predicate: &Predicate) -> usize {
        self.index.get(predicate).copied().unwrap_or(0)
    }

    fn program(&self, program: &[Instr]) -> usize {
        self.programs.iter().position(|p| *p == program).unwrap_or(0)
    }
}

fn template(plan: &Plan, index: usize, t: &Template) -> Value {
    let tables = Tables::of(plan, index, t);
    let claims = &plan.claims.phases;
    let phase = |(i, phase): (usize, &plan::Phase)| {
        let of = |c: &&plan::PhaseClaim| (c.template.0 as usize, c.phase as usize) == (index, i);
        let claim = claims.iter().find(of);
        json!({
            "name": phase.name,
            "kind": phase.comm.as_ref().map(|c| c.kind.as_str()),
            "compute": claim.map_or(0, |c| c.compute_cycles),
            "comm": claim.map_or(0, |c| c.comm_cycles),
            "roles": list(phase.roles.iter().map(|r| role(&tables, r))),
        })
    };
    let buffers = t.buffers.iter().map(|b| {
        json!({
            "name": b.name, "role": role_word(b.role), "storage": storage(b.storage),
            "rows": b.rows, "cols": b.cols, "offset": b.offset, "bytes": b.bytes,
            "live": [b.live.0, b.live.1],
        })
    });
    let routes = t.routes.iter().map(|r| {
        json!([r.color.0, tables.predicate(&r.predicate), port(r.input), ports(r.outputs)])
    });
    let kv = t.kv.map(
        |k| json!({"first": k.first_row, "rows": k.rows, "columns": k.columns, "slots": k.slots, "requests": k.requests, "window": k.window}),
    );
    json!({
        "name": t.name, "w": t.width, "h": t.height, "cell": [t.cell.0, t.cell.1],
        "weights": list(t.weights.iter().map(|w| json!(w.name))),
        "buffers": list(buffers),
        "pins": list(t.pins.iter().map(|p| pin(&tables, p))),
        "routes": list(routes),
        "kv": kv,
        "phases": list(t.phases.iter().enumerate().map(phase)),
        "sram": list(figures::contributors(t).iter().map(|(role, n)| json!([role_word(*role), n]))),
        "predicates": list(tables.predicates.iter().map(|p| predicate(p))),
        "programs": list(tables.programs.iter().map(|p| program(t, p))),
    })
}

fn role(tables: &Tables<'_>, r: &Role) -> Value {
    json!({
        "name": r.name, "p": tables.predicate(&r.predicate), "program": tables.program(&r.program),
    })
}

/// Lines of text with the template colors received from and sent to.
fn program(t: &Template, instructions: &[Instr]) -> Value {
    list(instructions.iter().map(|i| {
        let communication = i.communication();
        let input = communication.and_then(|c| c.input).map(|c| c.0);
        let output = communication.and_then(|c| c.output).map(|c| c.0);
        json!([instruction::text(t, i), input, output])
    }))
}

fn pin(tables: &Tables<'_>, p: &Pin) -> Value {
    json!({
        "w": p.weight, "b": p.buffer.0, "p": tables.predicate(&p.predicate),
        "a0": span(&p.axis0), "a1": span(&p.axis1), "tr": p.transposed,
        "g": p.gain.map(|g| g.weight),
    })
}

fn affine(a: &Affine) -> Value {
    json!([a.base, a.xq, a.xr, a.yq, a.yr])
}

fn span(s: &Span) -> Value {
    json!([affine(&s.start), s.len, affine(&s.limit)])
}

fn predicate(p: &Predicate) -> Value {
    let clauses = |clauses: &[Clause]| list(clauses.iter().map(clause));
    json!({"x": clauses(&p.x), "y": clauses(&p.y), "d": p.diagonal, "a": p.antidiagonal})
}

/// [kind, m, n, from, to].
fn clause(c: &Clause) -> Value {
    let (kind, m, n) = match c.term {
        Term::Pos => (0, 1, 1),
        Term::Rem(m) => (1, m, 1),
        Term::Quot(m) => (2, m, 1),
        Term::RemRem(m, n) => (3, m, n),
        Term::QuotRem(m, n) => (4, m, n),
    };
    json!([kind, m, n, c.from, c.to])
}

fn port(p: Port) -> usize {
    p as usize
}

fn ports(p: Ports) -> Value {
    list(p.iter().map(|p| json!(port(p))))
}

/// As `page/style.css` names its colour.
fn role_word(role: plan::BufferRole) -> &'static str {
    match role {
        plan::BufferRole::Weights => "weights",
        plan::BufferRole::KvCache => "kv-cache",
        plan::BufferRole::Activation => "activation",
        plan::BufferRole::Receive => "receive",
        plan::BufferRole::Scratch => "scratch",
    }
}

fn storage(s: Storage) -> &'static str {
    match s {
        Storage::F32 => "f32",
        Storage::F16 => "f16",
        Storage::BF16 => "bf16",
        Storage::Q8 => "q8",
        Storage::Q4 => "q4",
    }
}
