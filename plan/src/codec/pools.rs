//! How a plan lies in its section: what many roles repeat is written once.
//!
//! Predicates, instructions and names of roles stand in pools, most used first, and roles, routes and pins refer to
//! them by number. Layers that share a region, and templates that differ only in how they are entered and
//! left, repeat nearly all of theirs, and roles that are products of two trees repeat their factors.
//! Invariant: `read(write(p)) == p`, and equal plans give equal bytes.
//! Bounded: a number of one byte stands for one instruction, one name of at most `NAME_MAX` bytes or a
//! predicate of at most `CLAUSES_MAX` clauses, so reading takes at most a fixed multiple of the bytes read. Longer ones are written
//! where they are used.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::buffer::{Buffer, BufferId};
use crate::claims::Claims;
use crate::geometry::{Port, Ports};
use crate::index::{Predicate, Span};
use crate::pin::{Gain, Pin, WeightUse};
use crate::plan::{ModelInfo, Outputs, Plan, Region, Stream, WeightDecl, Wire};
use crate::program::Instr;
use crate::repair::Repair;
use crate::route::{Color, Route};
use crate::target::Target;
use crate::template::{CommShape, KvLayout, Phase, Role, Template};

/// Most clauses of a predicate in a pool.
const CLAUSES_MAX: usize = 16;
/// Longest name in a pool.
const NAME_MAX: usize = 64;

/// An item of a pool, or one that is not in it.
#[derive(Serialize, Deserialize)]
enum Ref<T> {
    Pooled(u32),
    Own(T),
}

/// The parts of a plan that are written as they are.
type Head =
    (ModelInfo, Target, Option<Repair>, Vec<WeightDecl>, Vec<Region>, Vec<Wire>, Vec<Stream>);

/// Names, predicates, instructions.
type Pools = (Vec<String>, Vec<Predicate>, Vec<Instr>);

type StoredRoute = (Color, Ref<Predicate>, Port, Ports);
type StoredPin = (u32, Ref<Predicate>, Span, Span, BufferId, (u32, u32), bool, Option<Gain>, f32);
/// Name, predicate, program.
type StoredRole = (Ref<String>, Ref<Predicate>, Vec<u32>);
type StoredPhase = (String, Option<CommShape>, Vec<StoredRole>);

#[derive(Serialize, Deserialize)]
struct StoredTemplate {
    name: String,
    size: (u32, u32),
    cell: (u32, u32),
    weights: Vec<WeightUse>,
    buffers: Vec<Buffer>,
    pins: Vec<StoredPin>,
    routes: Vec<StoredRoute>,
    kv: Option<KvLayout>,
    phases: Vec<StoredPhase>,
}

/// The bytes of a plan.
pub(super) fn write(plan: &Plan) -> Vec<u8> {
    let templates = || plan.templates.iter();
    let phases = || templates().flat_map(|t| &t.phases);
    let roles = || phases().flat_map(|p| &p.roles);
    let predicates = templates().flat_map(|t| {
        let of_routes = t.routes.iter().map(|r| &r.predicate);
        t.pins.iter().map(|p| &p.predicate).chain(of_routes)
    });
    let predicates = predicates.chain(roles().map(|r| &r.predicate));
    let writer = Writer {
        names: Pool::new(roles().map(|r| &r.name).filter(|n| n.len() <= NAME_MAX)),
        predicates: Pool::new(predicates.filter(|p| clauses(p) <= CLAUSES_MAX)),
        instrs: Pool::new(roles().flat_map(|r| &r.program)),
    };
    let templates: Vec<StoredTemplate> = templates().map(|t| writer.template(t)).collect();
    let Plan { model, target, repair, weights, regions, wires, streams, .. } = plan;
    let head = (model, target, repair, weights, regions, wires, streams);
    let Writer { names, predicates, instrs } = &writer;
    let pools = (&names.items, &predicates.items, &instrs.items);
    bytes(&(head, pools, templates, &plan.outputs, &plan.claims))
}

/// Reads a plan; what is left of `payload` behind it comes back too.
///
/// # Errors
/// In words: malformed bytes, a number beyond its pool, an item too long for its pool.
pub(super) fn read(payload: &[u8]) -> Result<(Plan, &[u8]), String> {
    type Stored = (Head, Pools, Vec<StoredTemplate>, Outputs, Claims);
    let ((head, pools, templates, outputs, claims), rest) =
        postcard::take_from_bytes::<Stored>(payload).map_err(|e| e.to_string())?;
    if let Some(name) = pools.0.iter().find(|n| n.len() > NAME_MAX) {
        return Err(format!("a name of {} bytes in the pool, {NAME_MAX} at most", name.len()));
    }
    if let Some(n) = pools.1.iter().map(clauses).find(|&n| n > CLAUSES_MAX) {
        return Err(format!("a predicate of {n} clauses in the pool, {CLAUSES_MAX} at most"));
    }
    let templates = templates.into_iter().map(|t| template(t, &pools));
    let templates = templates.collect::<Result<Vec<Template>, String>>()?;
    let (model, target, repair, weights, regions, wires, streams) = head;
    let plan = Plan {
        model,
        target,
        repair,
        weights,
        templates,
        regions,
        wires,
        streams,
        outputs,
        claims,
    };
    Ok((plan, rest))
}

fn clauses(predicate: &Predicate) -> usize {
    predicate.x.len() + predicate.y.len()
}

fn bytes<T: Serialize + ?Sized>(value: &T) -> Vec<u8> {
    postcard::to_allocvec(value).expect("a plan holds only lengths that are known and no maps")
}

/// Distinct items, told apart by their bytes.
struct Pool<'a, T> {
    items: Vec<&'a T>,
    numbers: BTreeMap<Vec<u8>, u32>,
}

impl<'a, T: Serialize + Clone> Pool<'a, T> {
    /// The most used first, of equally used ones the first.
    fn new(all: impl Iterator<Item = &'a T>) -> Self {
        let mut counts: BTreeMap<Vec<u8>, (usize, usize, &'a T)> = BTreeMap::new();
        for (i, item) in all.enumerate() {
            counts.entry(bytes(item)).or_insert((0, i, item)).0 += 1;
        }
        let mut order: Vec<_> = counts.into_iter().collect();
        order.sort_by_key(|(_, (count, first, _))| (std::cmp::Reverse(*count), *first));
        let items = order.iter().map(|(_, (.., item))| *item).collect();
        let numbers = (0..).zip(order).map(|(number, (bytes, _))| (bytes, number)).collect();
        Pool { items, numbers }
    }

    fn number(&self, item: &T) -> Option<u32> {
        self.numbers.get(&bytes(item)).copied()
    }

    fn refer(&self, item: &T) -> Ref<T> {
        self.number(item).map_or_else(|| Ref::Own(item.clone()), Ref::Pooled)
    }
}

struct Writer<'a> {
    names: Pool<'a, String>,
    predicates: Pool<'a, Predicate>,
    instrs: Pool<'a, Instr>,
}

impl Writer<'_> {
    fn template(&self, t: &Template) -> StoredTemplate {
        let pin = |p: &Pin| {
            let predicate = self.predicates.refer(&p.predicate);
            (p.weight, predicate, p.axis0, p.axis1, p.buffer, p.at, p.transposed, p.gain, p.scale)
        };
        let route = |r: &Route| (r.color, self.predicates.refer(&r.predicate), r.input, r.outputs);
        let role = |r: &Role| {
            // All instructions are in the pool.
            let program = r.program.iter().filter_map(|i| self.instrs.number(i)).collect();
            (self.names.refer(&r.name), self.predicates.refer(&r.predicate), program)
        };
        let phase = |p: &Phase| {
            let roles = p.roles.iter().map(role).collect();
            (p.name.clone(), p.comm.clone(), roles)
        };
        StoredTemplate {
            name: t.name.clone(),
            size: (t.width, t.height),
            cell: t.cell,
            weights: t.weights.clone(),
            buffers: t.buffers.clone(),
            pins: t.pins.iter().map(pin).collect(),
            routes: t.routes.iter().map(route).collect(),
            kv: t.kv,
            phases: t.phases.iter().map(phase).collect(),
        }
    }
}

/// What a reference stands for.
fn resolve<T: Clone>(item: Ref<T>, pool: &[T]) -> Result<T, String> {
    match item {
        Ref::Own(item) => Ok(item),
        Ref::Pooled(number) => at(number, pool).cloned(),
    }
}

fn at<T>(number: u32, pool: &[T]) -> Result<&T, String> {
    let item = pool.get(number as usize);
    item.ok_or_else(|| format!("item {number} of a pool of {}", pool.len()))
}

fn template(t: StoredTemplate, (names, predicates, instrs): &Pools) -> Result<Template, String> {
    let pin = |(weight, predicate, axis0, axis1, buffer, at, transposed, gain, scale)| {
        let predicate = resolve(predicate, predicates)?;
        Ok(Pin { weight, predicate, axis0, axis1, buffer, at, transposed, gain, scale })
    };
    let route = |(color, predicate, input, outputs)| {
        Ok(Route { color, predicate: resolve(predicate, predicates)?, input, outputs })
    };
    let role = |(name, predicate, program): StoredRole| {
        let program = program.into_iter().map(|i| at(i, instrs).cloned());
        Ok(Role {
            name: resolve(name, names)?,
            predicate: resolve(predicate, predicates)?,
            program: program.collect::<Result<_, String>>()?,
        })
    };
    let phase = |(name, comm, roles): StoredPhase| {
        let roles = roles.into_iter().map(role).collect::<Result<_, String>>()?;
        Ok(Phase { name, comm, roles })
    };
    Ok(Template {
        name: t.name,
        width: t.size.0,
        height: t.size.1,
        cell: t.cell,
        weights: t.weights,
        buffers: t.buffers,
        pins: t.pins.into_iter().map(pin).collect::<Result<_, String>>()?,
        routes: t.routes.into_iter().map(route).collect::<Result<_, String>>()?,
        kv: t.kv,
        phases: t.phases.into_iter().map(phase).collect::<Result<_, String>>()?,
    })
}
