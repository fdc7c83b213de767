//! The properties of a module: roles of its graphs, blocks and repeats, weights.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use tensor::DType;

use super::graph::{self, spell};
use super::{MAX_ITEMS, Rule, Violation};
use crate::{CacheType, Dim, Graph, Module, Op, ParamKind, Symbol, TensorType, Type};

/// All violations of `module`.
pub(super) fn check(module: &Module) -> Vec<Violation> {
    let mut found = Vec::new();
    if module.context == 0 || i32::try_from(module.context).is_err() {
        report(&mut found, Rule::Context, "", "", format!("context is {}", module.context));
    }
    names(module, &mut found);
    for block in &module.blocks {
        if graph::check(block, None, &mut found) {
            block_results(block, &mut found);
        }
    }
    if graph::check(&module.main, Some(module), &mut found) {
        signature(&module.main, &mut found);
        unused(module, &mut found);
        if items(module, &mut found) {
            weight_types(module, &mut found);
        }
    }
    weight_names(module, &mut found);
    found
}

/// Whether lists of all weights and of all caches are of a harmless length.
fn items(module: &Module, found: &mut Vec<Violation>) -> bool {
    let before = found.len();
    let per_layer = |graph: &Graph| weights(graph).len() as u64;
    let repeats = module.repeats().filter_map(|(id, _, count)| {
        Some(per_layer(module.blocks.get(id.index())?).saturating_mul(u64::from(count)))
    });
    let read = repeats.fold(per_layer(&module.main), u64::saturating_add);
    let params = module.main.params().iter().map(|p| module.main.ty(p.value));
    let caches = params.filter_map(Type::as_cache).map(|c| u64::from(c.layers.unwrap_or(1)));
    let caches = caches.fold(0, u64::saturating_add);
    for (what, number) in [("weights", read), ("caches", caches)] {
        if number > MAX_ITEMS {
            let why = format!("{number} {what} in all layers, at most {MAX_ITEMS} are allowed");
            report(found, Rule::Repeats, &module.main.name, "", why);
        }
    }
    found.len() == before
}

fn report(
    found: &mut Vec<Violation>,
    rule: Rule,
    graph: &str,
    place: impl Into<String>,
    why: impl Into<String>,
) {
    found.push(Violation { rule, graph: graph.into(), place: place.into(), why: why.into() });
}

fn names(module: &Module, found: &mut Vec<Violation>) {
    let mut seen = BTreeSet::new();
    for graph in module.graphs() {
        if !crate::text::is_identifier(&graph.name) {
            let why = format!("{:?} is not an identifier", graph.name);
            report(found, Rule::GraphNames, "", "", why);
        }
        if !seen.insert(&graph.name) {
            report(found, Rule::GraphNames, &graph.name, "", "two graphs have this name");
        }
    }
    if module.main.name != "main" {
        report(found, Rule::GraphNames, &module.main.name, "", "the entry is called @main");
    }
}

/// A cache before a step: C tokens; after it: C + T.
fn is_entering(cache: &CacheType) -> bool {
    cache.len == Dim::from(Symbol::C)
}

fn successor(cache: &CacheType) -> Type {
    let len = &Dim::from(Symbol::C) + &Dim::from(Symbol::T);
    Type::Cache(CacheType { len, ..cache.clone() })
}

/// States enter with C tokens; what they must be when they are returned.
fn returned_states(graph: &Graph, found: &mut Vec<Violation>) -> Vec<Type> {
    let mut types = Vec::new();
    for param in graph.params().iter().filter(|p| p.kind == ParamKind::State) {
        let Type::Cache(cache) = graph.ty(param.value) else { continue };
        if !is_entering(cache) {
            let why = format!("enters with {} tokens, not C", cache.len);
            report(found, Rule::BlockResults, &graph.name, spell(graph, param.value), why);
        }
        types.push(successor(cache));
    }
    types
}

fn block_results(block: &Graph, found: &mut Vec<Violation>) {
    let carries = block.params().iter().filter(|p| p.kind == ParamKind::Carry);
    let mut expected: Vec<Type> = carries.map(|p| block.ty(p.value).clone()).collect();
    if expected.is_empty() {
        report(found, Rule::BlockResults, &block.name, "", "a block carries at least one value");
    }
    for param in block.params() {
        let stacked = block.ty(param.value).as_cache().is_some_and(|c| c.layers.is_some());
        if stacked {
            let place = spell(block, param.value);
            report(found, Rule::Parameters, &block.name, place, "a block holds one layer's cache");
        }
    }
    expected.extend(returned_states(block, found));
    results_are(block, &expected, found);
}

/// Reports where the last results of `graph` are not of the `expected` types.
fn results_are(graph: &Graph, expected: &[Type], found: &mut Vec<Violation>) {
    let results: Vec<&Type> = graph.results.iter().map(|&v| graph.ty(v)).collect();
    if results.len() != expected.len() {
        let why = format!("returns {} values, {} expected", results.len(), expected.len());
        return report(found, Rule::BlockResults, &graph.name, "", why);
    }
    for (i, (given, wanted)) in results.into_iter().zip(expected).enumerate() {
        if given != wanted {
            let why = format!("result {i} is {given}, expected {wanted}");
            let place = spell(graph, graph.results[i]);
            report(found, Rule::BlockResults, &graph.name, place, why);
        }
    }
}

fn signature(main: &Graph, found: &mut Vec<Violation>) {
    let tokens = Type::Tensor(TensorType::new(DType::I32, [Symbol::T]));
    for (i, param) in main.params().iter().enumerate() {
        let place = spell(main, param.value);
        match param.kind {
            ParamKind::Carry => {
                report(found, Rule::Parameters, &main.name, place, "main carries nothing");
            }
            ParamKind::Input if i > 0 => {
                report(found, Rule::Signature, &main.name, place, "a second input");
            }
            ParamKind::Input if *main.ty(param.value) != tokens => {
                let why = format!("the input is {}, expected {tokens}", main.ty(param.value));
                report(found, Rule::Signature, &main.name, place, why);
            }
            ParamKind::Input | ParamKind::State => {}
        }
    }
    if main.params().first().is_none_or(|p| p.kind != ParamKind::Input) {
        report(found, Rule::Signature, &main.name, "", format!("no input of type {tokens}"));
    }
    let is_logits = |ty: &Type| {
        ty.as_tensor().is_some_and(|t| {
            t.dtype == DType::F32
                && t.dims.first() == Some(&Dim::from(Symbol::R))
                && t.rank() == 2
                && t.dims[1].as_const().is_some_and(|vocab| vocab > 0)
        })
    };
    let types: Vec<&Type> = main.results.iter().map(|&v| main.ty(v)).collect();
    if !types.first().is_some_and(|ty| is_logits(ty)) {
        let first = types.first().map_or("nothing".to_string(), ToString::to_string);
        let why = format!("returns {first} first, expected f32[R, vocab]");
        report(found, Rule::Signature, &main.name, "", why);
    }
    let outputs = types.iter().take_while(|ty| ty.as_tensor().is_some()).count();
    let mut expected: Vec<Type> = types[..outputs].iter().map(|&ty| ty.clone()).collect();
    expected.extend(returned_states(main, found));
    results_are(main, &expected, found);
}

fn unused(module: &Module, found: &mut Vec<Violation>) {
    for (i, block) in module.blocks.iter().enumerate() {
        if !module.repeats().any(|(id, ..)| id.index() == i) {
            report(found, Rule::UnusedBlock, &block.name, "", "never repeated");
        }
    }
}

fn weight_names(module: &Module, found: &mut Vec<Violation>) {
    for (graph, in_block) in
        module.blocks.iter().map(|b| (b, true)).chain(std::iter::once((&module.main, false)))
    {
        for (name, _) in weights(graph) {
            if name.is_empty() {
                report(found, Rule::WeightNames, &graph.name, "", "a weight without a name");
            } else if !in_block && name.contains("{layer}") {
                let why = format!("{name:?} has no layer index here");
                report(found, Rule::WeightNames, &graph.name, "", why);
            }
        }
    }
}

/// Name and type of every weight read, as written.
fn weights(graph: &Graph) -> Vec<(&str, TensorType)> {
    let known = graph.order().iter().filter(|id| id.index() < graph.node_count());
    let ops = known.map(|&id| &graph.node(id).op);
    ops.filter_map(|op| match op {
        Op::Weight { name, dtype, shape } => {
            Some((name.as_str(), TensorType::new(*dtype, shape.iter().copied())))
        }
        _ => None,
    })
    .collect()
}

/// A weight read: where, its name as written, its type, and the layers it is read in.
struct Read<'a> {
    graph: &'a str,
    template: &'a str,
    ty: TensorType,
    layers: Option<Range<u32>>,
}

/// One name, one type. Names can be equal only where they look alike with numbers left out. Where all that
/// look alike are written alike, ranges of layers are compared, so that this costs the same at any depth;
/// else every name is spelled out.
fn weight_types(module: &Module, found: &mut Vec<Violation>) {
    let main = std::iter::once((&module.main, None));
    let repeats = module.repeats().filter_map(|(id, first, count)| {
        Some((module.blocks.get(id.index())?, Some(first..first.saturating_add(count))))
    });
    let mut alike: BTreeMap<String, Vec<Read<'_>>> = BTreeMap::new();
    for (graph, layers) in main.chain(repeats) {
        for (template, ty) in weights(graph) {
            let read = Read { graph: &graph.name, template, ty, layers: layers.clone() };
            alike.entry(without_numbers(template)).or_default().push(read);
        }
    }
    for reads in alike.values() {
        same_types(reads, found);
    }
}

/// A name with every run of digits and layer indices as one mark.
fn without_numbers(template: &str) -> String {
    let mut out = String::with_capacity(template.len());
    for c in template.replace("{layer}", "0").chars() {
        let mark = if c.is_ascii_digit() { '#' } else { c };
        if mark != '#' || !out.ends_with('#') {
            out.push(mark);
        }
    }
    out
}

fn same_types(reads: &[Read<'_>], found: &mut Vec<Violation>) {
    let one_template = reads.iter().all(|r| r.template == reads[0].template);
    // Two ranges meet if and only if one holds the start of the other.
    let starts: BTreeSet<u32> =
        reads.iter().filter_map(|r| Some(r.layers.clone()?.start)).collect();
    let mut seen: BTreeMap<String, &TensorType> = BTreeMap::new();
    let mut reported = BTreeSet::new();
    for read in reads {
        let layers: Vec<Option<u32>> = match read.layers.clone() {
            None => vec![None],
            Some(range) if one_template => starts.range(range).copied().map(Some).collect(),
            Some(range) => range.map(Some).collect(),
        };
        for layer in layers {
            let name = match layer {
                Some(layer) => read.template.replace("{layer}", &layer.to_string()),
                None => read.template.to_string(),
            };
            let first = *seen.entry(name.clone()).or_insert(&read.ty);
            if *first != read.ty && reported.insert((read.graph, read.template)) {
                let why = format!("weight {name:?} is {} here and {first} elsewhere", read.ty);
                report(found, Rule::WeightTypes, read.graph, "", why);
            }
        }
    }
}
