//! The properties of one graph.

use super::attributes;
use super::{MAX_LAYERS, MAX_RANK, Rule, Violation};
use crate::builder::repeat_types;
use crate::{Def, Dim, Graph, Module, Node, Op, ParamKind, Type, ValueId, infer};

/// Collects the violations of one graph.
struct Checker<'a> {
    graph: &'a Graph,
    /// The module, when `graph` is its `main`; only there may `repeat` stand.
    module: Option<&'a Module>,
    found: &'a mut Vec<Violation>,
}

/// Checks `graph`; `module` is given when the graph is its `main`. Returns whether ids are sound, so
/// that others may look into the graph.
pub(super) fn check(graph: &Graph, module: Option<&Module>, found: &mut Vec<Violation>) -> bool {
    let mut checker = Checker { graph, module, found };
    if !checker.structure() {
        return false;
    }
    checker.parameters();
    checker.values();
    checker.nodes();
    checker.quantized();
    checker.caches();
    true
}

impl Checker<'_> {
    fn report(&mut self, rule: Rule, place: impl Into<String>, why: impl Into<String>) {
        let (graph, place, why) = (self.graph.name.clone(), place.into(), why.into());
        self.found.push(Violation { rule, graph, place, why });
    }

    fn spell(&self, value: ValueId) -> String {
        spell(self.graph, value)
    }

    fn structure(&mut self) -> bool {
        let before = self.found.len();
        let graph = self.graph;
        let values = graph.value_count();
        let mut seen = vec![false; graph.node_count()];
        for &id in graph.order() {
            match seen.get_mut(id.index()) {
                None => self.report(Rule::Structure, id.to_string(), "no such node"),
                Some(true) => self.report(Rule::Structure, id.to_string(), "runs twice"),
                Some(first) => *first = true,
            }
        }
        if self.found.len() > before {
            return false;
        }
        let bad = |v: &&ValueId| v.index() >= values;
        for (id, node) in graph.nodes() {
            if let Some(v) = node.operands.iter().chain(&node.results).find(bad) {
                self.report(Rule::Structure, v.to_string(), format!("no such value, in {id}"));
                continue;
            }
            for (i, &v) in node.results.iter().enumerate() {
                if graph.value(v).def != Def::Result(id, i) {
                    self.report(Rule::Structure, v.to_string(), format!("not result {i} of {id}"));
                }
            }
        }
        if let Some(v) = graph.results.iter().find(bad) {
            self.report(Rule::Structure, v.to_string(), "no such value, in the results");
        }
        self.found.len() == before
    }

    fn parameters(&mut self) {
        let rank = |kind| match kind {
            ParamKind::Carry => 0,
            ParamKind::Input => 1,
            ParamKind::State => 2,
        };
        let graph = self.graph;
        for pair in graph.params().windows(2) {
            if rank(pair[0].kind) > rank(pair[1].kind) {
                let place = self.spell(pair[1].value);
                self.report(
                    Rule::Parameters,
                    place,
                    "carries come first, then inputs, then states",
                );
            }
        }
        for param in graph.params() {
            let ty = graph.ty(param.value);
            if (param.kind == ParamKind::State) != ty.as_cache().is_some() {
                let why = format!("{:?} parameter of type {ty}", param.kind).to_lowercase();
                self.report(Rule::Parameters, self.spell(param.value), why);
            }
        }
    }

    /// Extents and ranks of everything that is defined.
    fn values(&mut self) {
        let graph = self.graph;
        let params = graph.params().iter().map(|p| p.value);
        let results = graph.nodes().flat_map(|(_, n)| n.results.iter().copied());
        for value in params.chain(results) {
            let (dims, layers): (Vec<Dim>, _) = match graph.ty(value) {
                Type::Tensor(t) => (t.dims.clone(), None),
                Type::Cache(c) => (c.tensor().dims, c.layers),
            };
            if dims.len() > MAX_RANK {
                let why = format!("{} axes, at most {MAX_RANK} are allowed", dims.len());
                self.report(Rule::Extents, self.spell(value), why);
            }
            if let Some(dim) = dims.iter().find(|d| !d.is_nonnegative()) {
                self.report(Rule::Extents, self.spell(value), format!("{dim} may be negative"));
            }
            if layers.is_some_and(|n| n == 0 || n > MAX_LAYERS) {
                let why = format!("a stack of {} caches", layers.unwrap_or(0));
                self.report(Rule::Repeats, self.spell(value), why);
            }
        }
    }

    fn nodes(&mut self) {
        let graph = self.graph;
        let mut defined = vec![false; graph.value_count()];
        graph.params().iter().for_each(|p| defined[p.value.index()] = true);
        for (_, node) in graph.nodes() {
            for &v in node.operands.iter().filter(|v| !defined[v.index()]) {
                let why = format!("used by {} before it is defined", node.op.info().name);
                self.report(Rule::DefinedBeforeUse, self.spell(v), why);
            }
            node.results.iter().for_each(|v| defined[v.index()] = true);
            self.types(node);
            if let Err(why) = attributes::check(&node.op) {
                self.report(Rule::Attributes, self.place(node), why);
            }
        }
        for &v in graph.results.iter().filter(|v| !defined[v.index()]) {
            self.report(Rule::DefinedBeforeUse, self.spell(v), "returned but never defined");
        }
    }

    /// A node by its first result, or by its op.
    fn place(&self, node: &Node) -> String {
        node.results.first().map_or(node.op.info().name.to_string(), |&v| self.spell(v))
    }

    fn types(&mut self, node: &Node) {
        let operands: Vec<Type> = node.operands.iter().map(|&v| self.graph.ty(v).clone()).collect();
        let types = match node.op {
            Op::Repeat { block, first, count } => {
                let Some(module) = self.module else {
                    return self.report(Rule::Repeats, self.place(node), "only main may repeat");
                };
                let Some(block) = module.blocks.get(block.index()) else {
                    return self.report(Rule::Repeats, self.place(node), "no such block");
                };
                if count > MAX_LAYERS || first.checked_add(count).is_none() {
                    return self.report(Rule::Repeats, self.place(node), "too many layers");
                }
                // A block with broken ids is reported by itself.
                if block.results.iter().any(|v| v.index() >= block.value_count()) {
                    return;
                }
                match repeat_types(block, count, &operands) {
                    Ok(types) => types,
                    Err(why) => return self.report(Rule::Repeats, self.place(node), why),
                }
            }
            _ => match infer(&node.op, &operands) {
                Ok(ty) => vec![ty],
                Err(error) => {
                    return self.report(Rule::Types, self.place(node), error.to_string());
                }
            },
        };
        if types.len() != node.results.len() {
            let why = format!("{} results, {} expected", node.results.len(), types.len());
            return self.report(Rule::Types, self.place(node), why);
        }
        for (&v, inferred) in node.results.iter().zip(types) {
            let stated = self.graph.ty(v);
            if *stated != inferred {
                let why = format!("stated as {stated}, inferred as {inferred}");
                self.report(Rule::Types, self.spell(v), why);
            }
        }
    }

    fn quantized(&mut self) {
        let graph = self.graph;
        let constant = graph.compile_time_constants();
        for param in graph.params() {
            let dtype = match graph.ty(param.value) {
                Type::Tensor(t) if t.dtype.is_quantized() => t.dtype,
                Type::Cache(c) if !c.dtype.is_float() => c.dtype,
                _ => continue,
            };
            let why = format!("a parameter of {dtype}");
            self.report(Rule::Quantized, self.spell(param.value), why);
        }
        for &v in graph.nodes().flat_map(|(_, n)| &n.results) {
            let quantized = graph.ty(v).as_tensor().is_some_and(|t| t.dtype.is_quantized());
            if quantized && !constant[v.index()] {
                let why = format!("{} but not a compile-time constant", graph.ty(v));
                self.report(Rule::Quantized, self.spell(v), why);
            }
        }
    }

    /// Linearity: walks the order with the set of caches that are alive, and of each the state it
    /// continues.
    fn caches(&mut self) {
        let graph = self.graph;
        // The state a live cache continues; `None` once consumed or when never defined.
        let mut live: Vec<Option<usize>> = vec![None; graph.value_count()];
        let states = graph.params().iter().filter(|p| p.kind == ParamKind::State);
        for (i, state) in states.clone().enumerate() {
            live[state.value.index()] = Some(i);
        }
        let is_cache = |v: &&ValueId| graph.ty(**v).as_cache().is_some();
        for (_, node) in graph.nodes() {
            let mut inherited = Vec::new();
            for v in node.operands.iter().filter(is_cache) {
                let state = live[v.index()];
                if state.is_none() {
                    let why = format!("{} of a cache that is consumed", node.op.info().name);
                    self.report(Rule::LinearCaches, self.spell(*v), why);
                }
                if node.op != Op::CacheRead {
                    live[v.index()] = None;
                    inherited.push(state);
                }
            }
            for (v, state) in node.results.iter().filter(is_cache).zip(inherited) {
                live[v.index()] = state;
            }
        }
        for (returned, v) in graph.results.iter().filter(is_cache).enumerate() {
            match live[v.index()].take() {
                Some(state) if state == returned => {}
                Some(state) => {
                    let why = format!("continues state {state}, returned as state {returned}");
                    self.report(Rule::LinearCaches, self.spell(*v), why);
                }
                None => {
                    self.report(
                        Rule::LinearCaches,
                        self.spell(*v),
                        "returned after it is consumed",
                    );
                }
            }
        }
        for index in (0..live.len()).filter(|&i| live[i].is_some()) {
            let place = self.spell(ValueId::new(index));
            self.report(Rule::LinearCaches, place, "a cache that is never consumed or returned");
        }
    }
}

/// A value as the text form spells it, nearly: names are not made unique.
pub(super) fn spell(graph: &Graph, value: ValueId) -> String {
    match &graph.value(value).name {
        Some(name) => format!("%{name}"),
        None => value.to_string(),
    }
}
