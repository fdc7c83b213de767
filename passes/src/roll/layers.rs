//! Where the layers of a flat graph are, and which of them are of one kind.
//!
//! The first node that reads a weight of layer 0, 1, 2, ... marks each layer, but a layer may begin before it
//! (its norm may be spelled in ops without weights). So all marks are moved back together, step by step, and the cut
//! that puts the most layers into kinds of two or more is taken; among those the one with the fewest
//! values crossing it, then the nearest to the weights.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use ir::{Graph, NodeId, Op, ValueId};

use super::form::{Boundary, Form, Forms};

/// A layer: its index in weight names, and the range of body nodes that it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Layer {
    pub(super) index: u32,
    pub(super) start: usize,
    pub(super) end: usize,
}

/// Layers of equal form.
pub(super) struct Kind {
    pub(super) form: Form,
    /// Adjacent layers, carries threaded through; each with its boundary.
    pub(super) rows: Vec<Vec<(Layer, Boundary)>>,
    /// Slots that change from layer to layer, each with the offset of the output that the next layer
    /// takes in its place.
    pub(super) carries: Vec<(usize, usize)>,
    /// Slots that hold one value in all layers.
    pub(super) shared: Vec<usize>,
}

/// The nodes with operands, in order; leaves are copied where they are needed.
pub(super) struct Body {
    pub(super) nodes: Vec<NodeId>,
    /// Position in `nodes` of the node that defines a value.
    pub(super) position: BTreeMap<ValueId, usize>,
    /// Where the first weight of each layer is read.
    first_use: BTreeMap<u32, usize>,
}

impl Body {
    fn of(graph: &Graph) -> Body {
        let nodes = graph.nodes().filter(|(_, n)| !n.operands.is_empty());
        let nodes: Vec<NodeId> = nodes.map(|(id, _)| id).collect();
        let (mut position, mut first_use) = (BTreeMap::new(), BTreeMap::new());
        for (at, &id) in nodes.iter().enumerate() {
            let node = graph.node(id);
            position.extend(node.results.iter().map(|&v| (v, at)));
            for index in node.operands.iter().filter_map(|&v| weight_index(graph, v)) {
                first_use.entry(index).or_insert(at);
            }
        }
        Body { nodes, position, first_use }
    }

    /// The layers when every mark is moved back so far; the last one is as long as one before it.
    fn layers(&self, back: usize) -> Vec<Layer> {
        let marks: Vec<(u32, usize)> = self.first_use.iter().map(|(&i, &at)| (i, at)).collect();
        let mut layers = Vec::with_capacity(marks.len());
        for (i, &(index, at)) in marks.iter().enumerate() {
            let next = marks.get(i + 1).filter(|next| next.0 == index + 1 && next.1 > at);
            let (Some(start), Some(end)) = (at.checked_sub(back), next.map(|n| n.1 - back)) else {
                continue;
            };
            layers.push(Layer { index, start, end });
        }
        layers
    }

    /// Layers that no other follows: index and start.
    fn ends(&self, back: usize) -> Vec<(u32, usize)> {
        let marks: Vec<(u32, usize)> = self.first_use.iter().map(|(&i, &at)| (i, at)).collect();
        let followed =
            |i: usize| marks.get(i + 1).is_some_and(|n| n.0 == marks[i].0 + 1 && n.1 > marks[i].1);
        let ends = (0..marks.len()).filter(|&i| !followed(i));
        ends.filter_map(|i| Some((marks[i].0, marks[i].1.checked_sub(back)?))).collect()
    }

    /// By how much marks may move: less than the shortest layer.
    fn slack(&self) -> usize {
        self.layers(0).iter().map(|l| l.end - l.start).min().unwrap_or(0)
    }
}

/// The kinds with at least two layers, in the order of their first layers.
pub(super) fn kinds(graph: &Graph) -> Vec<Kind> {
    let body = Body::of(graph);
    let forms = Forms::new(graph, &body);
    let cuts = (0..body.slack()).map(|back| (back, kinds_at(&body, &forms, back)));
    let worth = |kinds: &[Kind]| {
        let rows = kinds.iter().flat_map(|k| &k.rows);
        let rolled: usize = rows.map(Vec::len).sum();
        let crossing: usize = kinds.iter().map(|k| k.form.slots.len() + k.form.outputs.len()).sum();
        (rolled, Reverse(crossing))
    };
    let best = cuts.max_by_key(|(back, kinds)| (worth(kinds), Reverse(*back)));
    best.map(|(_, kinds)| kinds).unwrap_or_default()
}

fn kinds_at(body: &Body, forms: &Forms<'_>, back: usize) -> Vec<Kind> {
    let mut groups: Vec<(Form, Vec<(Layer, Boundary)>)> = Vec::new();
    for layer in body.layers(back) {
        let Some((form, boundary)) = forms.of(layer) else { continue };
        match groups.iter_mut().find(|(known, _)| *known == form) {
            Some((_, layers)) => layers.push((layer, boundary)),
            None => groups.push((form, vec![(layer, boundary)])),
        }
    }
    // A layer that no other follows is one of a known kind, or stays as it is.
    for (index, start) in body.ends(back) {
        for (known, layers) in &mut groups {
            let end = start + known.steps.len();
            let layer = Layer { index, start, end };
            let found = (end <= body.nodes.len()).then(|| forms.of(layer)).flatten();
            if let Some((form, boundary)) = found
                && form == *known
            {
                layers.push((layer, boundary));
                break;
            }
        }
    }
    let mut kinds: Vec<Kind> =
        groups.into_iter().filter_map(|(form, layers)| kind(form, layers, forms)).collect();
    kinds.sort_by_key(|k| k.rows[0][0].0.start);
    kinds
}

/// The kind that layers of one form are, unless their boundary is not that of a block.
fn kind(form: Form, layers: Vec<(Layer, Boundary)>, forms: &Forms<'_>) -> Option<Kind> {
    if layers.len() < 2 {
        return None;
    }
    let first = &layers[0].1;
    let same = |slot: &usize| layers.iter().all(|l| l.1.slots[*slot] == first.slots[*slot]);
    let (shared, carried): (Vec<usize>, Vec<usize>) = (0..form.slots.len()).partition(same);
    if carried.is_empty() || carried.len() != form.outputs.len() {
        return None;
    }
    let by_name = layers.windows(2).find_map(|pair| forms.threads(&carried, &form, pair));
    let in_order = || carried.iter().copied().zip(form.outputs.iter().copied()).collect();
    let carries: Vec<(usize, usize)> = by_name.unwrap_or_else(in_order);
    let fits = |&(slot, output): &(usize, usize)| {
        layers.iter().all(|l| forms.ty_at(l.0, output) == Some(&form.slots[slot]))
    };
    if !carries.iter().all(fits) {
        return None;
    }
    let mut rows: Vec<Vec<(Layer, Boundary)>> = Vec::new();
    for layer in layers {
        let follows = |row: &Vec<(Layer, Boundary)>| {
            row.last().is_some_and(|last| forms.follows(&carries, &form, last, &layer))
        };
        match rows.last_mut() {
            Some(row) if follows(row) => row.push(layer),
            _ => rows.push(vec![layer]),
        }
    }
    Some(Kind { form, rows, carries, shared })
}

/// A weight name around its layer index: the first number between dots.
pub(super) fn split_name(name: &str) -> Option<(String, u32, String)> {
    let parts: Vec<&str> = name.split('.').collect();
    let at = parts.iter().position(|p| !p.is_empty() && p.bytes().all(|b| b.is_ascii_digit()))?;
    let index = parts[at].parse().ok().filter(|n: &u32| n.to_string() == parts[at])?;
    Some((parts[..at].join("."), index, parts[at + 1..].join(".")))
}

fn weight_index(graph: &Graph, value: ValueId) -> Option<u32> {
    match &graph.producer(value)?.1.op {
        Op::Weight { name, .. } => Some(split_name(name)?.1),
        _ => None,
    }
}
