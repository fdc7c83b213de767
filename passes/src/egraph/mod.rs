//! The e-graph pass: equality saturation over the pure part of each graph, then extraction.
//!
//! One e-graph per distinct graph: a block is searched once, however many layers it has. Caches,
//! parameters and repeats are a skeleton outside (`convert`). Rules are data (`rule`, `rules/`),
//! chosen by numeric tier before the search; facts of classes assert on merge (`facts`); extraction
//! counts shared nodes once under the target's cost model (`extract`). Limits are counts, never
//! seconds, and every container is ordered, so the result is a function of graph, tier and model.

mod cases;
mod convert;
mod example;
mod extract;
mod facts;
mod language;
mod proof;
mod prover;
mod recipe;
mod replay;
mod rule;
mod rules;
mod views;

#[cfg(test)]
mod rule_tests;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use egg::{Runner, Searcher, SimpleScheduler, StopReason};
use ir::{Graph, Module};

use self::convert::{Loaded, Written};
use self::extract::Problem;
use self::facts::{Facts, Trial};
use self::language::Term;
pub(crate) use self::proof::{GraphProof, HEADER};
pub use self::proof::{ProofStep, statement};
pub use self::prover::{RuleVerdict, verify_rules};
use self::rule::Rule;
use crate::manager::{Changed, Pass, PassCx, PassOptions};
use crate::report::{RewriteUse, SearchReport};
use crate::{CostModel, PassError, Tier, describe};

/// See the module.
pub(crate) struct EGraphPass {
    limits: Limits,
    /// Families of rules left out.
    without: Vec<&'static str>,
}

/// When a search ends.
#[derive(Clone, Copy, Debug)]
struct Limits {
    /// E-nodes.
    nodes: usize,
    /// Rounds of applying every rule.
    iterations: usize,
    /// Work of the extraction.
    work: u64,
}

impl EGraphPass {
    pub(crate) fn build(options: &PassOptions) -> Result<Box<dyn Pass>, PassError> {
        let limits = Limits {
            nodes: options.count("nodes")?,
            iterations: options.count("iterations")?,
            work: options.count("work")? as u64,
        };
        let family = |name: &str| {
            let known = rules::FAMILIES.into_iter().find(|(family, _)| *family == name);
            known.map(|(family, _)| family).ok_or_else(|| {
                let names = rules::FAMILIES.map(|(family, _)| family).join("+");
                options
                    .refuse("without", format!("no family is called {name:?}; there are {names}"))
            })
        };
        let names = options.text("without").split('+').filter(|n| !n.is_empty());
        let without = names.map(family).collect::<Result<_, _>>()?;
        Ok(Box::new(EGraphPass { limits, without }))
    }
}

impl Pass for EGraphPass {
    fn run(&self, module: &mut Module, cx: &mut PassCx<'_>) -> Result<Changed, PassError> {
        let mut layers = vec![0u64; module.blocks.len()];
        for (block, _, count) in module.repeats() {
            layers[block.index()] += u64::from(count);
        }
        let wanted =
            |r: &&'static Rule| r.tier <= cx.tier && !self.without.contains(&rules::family(r.name));
        let rules: Vec<&'static Rule> = rules::all().filter(wanted).collect();
        let mut changed = false;
        let mut known: BTreeMap<String, (Vec<String>, Found)> = BTreeMap::new();
        for (i, graph) in module.graphs_mut().enumerate() {
            let (recipe, weights) = recipe::of(graph, &rules, self.limits, cx)?;
            let found = match known.get(&recipe) {
                // The same graph over other weights. A proof names its weights, so it is made anew.
                Some((names, found)) if !cx.prove => found.renamed(&graph.name, names, &weights),
                _ => {
                    let mut found =
                        search(graph, &rules, self.limits, cx.model, cx.prove, cx.attribute)?;
                    found.report.tier = self.tier(graph, &found, &rules, cx.model)?;
                    found
                }
            };
            let found =
                Found { report: SearchReport { recipe: recipe.clone(), ..found.report }, ..found };
            known.entry(recipe).or_insert_with(|| (weights, found.clone()));
            if let Some(proof) = &found.proof {
                cx.report.proof.add(cx.tier, &graph.name, proof);
            }
            if found.report.stop != SATURATED {
                let SearchReport { graph, size, iterations, stop, .. } = &found.report;
                let text =
                    format!("@{graph}: {stop} at {} e-nodes, {iterations} iterations", size.0);
                cx.warn("SPK3101", text);
            }
            if found.report.bound < found.report.cost.1 {
                let SearchReport { graph, cost, bound, .. } = &found.report;
                let text = format!(
                    "@{graph}: extraction stopped at cost {}, proven not below {bound}",
                    cost.1
                );
                cx.warn("SPK3102", text);
            }
            let layers = layers.get(i).copied().unwrap_or(1);
            let uses = self.uses(graph, &found, &rules, layers, cx)?;
            cx.report.rewrites.extend(uses);
            cx.report.searches.push(found.report);
            changed |= found.graph != *graph;
            *graph = found.graph;
        }
        Ok(changed.into())
    }
}

impl EGraphPass {
    /// What a result may differ by. Rules of weaker tiers often fire and lead nowhere, so where any did, the
    /// search is repeated without them.
    fn tier(
        &self,
        graph: &Graph,
        found: &Found,
        rules: &[&'static Rule],
        model: &dyn CostModel,
    ) -> Result<Tier, PassError> {
        let fired = rules.iter().filter(|r| found.fired.contains(r.name));
        let weakest = fired.map(|r| r.tier).max().unwrap_or(Tier::Exact);
        if weakest == Tier::Exact {
            return Ok(weakest);
        }
        let exact: Vec<_> = rules.iter().copied().filter(|r| r.tier == Tier::Exact).collect();
        let without = search(graph, &exact, self.limits, model, false, false)?;
        Ok(if without.graph == found.graph { Tier::Exact } else { weakest })
    }

    /// The rules that wrote a node of the result, or without which it is dearer.
    fn uses(
        &self,
        before: &Graph,
        found: &Found,
        rules: &[&'static Rule],
        layers: u64,
        cx: &PassCx<'_>,
    ) -> Result<Vec<RewriteUse>, PassError> {
        let mut uses = Vec::new();
        let behind = found.rules_behind();
        for rule in rules.iter().filter(|r| found.fired.contains(r.name)) {
            let mine = found.written.iter().filter(|w| w.rule == rule.name);
            let nodes: Vec<String> = mine.map(|w| describe::node(&found.graph, w.node)).collect();
            let mut saved = None;
            if cx.attribute {
                let others: Vec<_> =
                    rules.iter().copied().filter(|r| r.name != rule.name).collect();
                let without = search(before, &others, self.limits, cx.model, false, false)?;
                saved = Some(without.report.cost.1.minus(found.report.cost.1));
            }
            // Measured savings decide; without them, every rule that others built on is named.
            let matters = saved.map_or(behind.contains(rule.name), |s| s > 0);
            if matters || !nodes.is_empty() {
                uses.push(RewriteUse {
                    rule: rule.name,
                    tier: rule.tier,
                    why: rule.why,
                    graph: before.name.clone(),
                    layers,
                    nodes,
                    saved,
                });
            }
        }
        Ok(uses)
    }
}

/// What a search came up with.
#[derive(Clone)]
struct Found {
    graph: Graph,
    written: Vec<Written>,
    /// Names of the rules that made something equal.
    fired: BTreeSet<&'static str>,
    /// Which rule matched what which other wrote.
    built_on: BTreeSet<(&'static str, &'static str)>,
    report: SearchReport,
    proof: Option<GraphProof>,
}

impl Found {
    /// The same for the same graph of another name, over other weights.
    fn renamed(&self, name: &str, from: &[String], to: &[String]) -> Found {
        let mut graph = recipe::with_weights(&self.graph, from, to);
        graph.name = name.to_string();
        let report = SearchReport { graph: name.to_string(), ..self.report.clone() };
        Found { graph, report, ..self.clone() }
    }

    /// The rules that wrote nodes of the result, those they built on, and so forth.
    fn rules_behind(&self) -> BTreeSet<&'static str> {
        let mut behind: BTreeSet<_> = self.written.iter().map(|w| w.rule).collect();
        loop {
            let known = behind.len();
            let earlier = self.built_on.iter().filter(|(rule, _)| behind.contains(rule));
            let earlier: Vec<_> = earlier.map(|(_, earlier)| *earlier).collect();
            behind.extend(earlier);
            if behind.len() == known {
                return behind;
            }
        }
    }
}

const SATURATED: &str = "saturated";

fn search(
    graph: &Graph,
    rules: &[&'static Rule],
    limits: Limits,
    model: &dyn CostModel,
    prove: bool,
    price_steps: bool,
) -> Result<Found, PassError> {
    let mut loaded = convert::load(graph)?;
    loaded.egraph.analysis.equations = prove.then(Vec::new);
    let before = Problem::new(&loaded.egraph, &loaded.roots, model).original_cost();
    let saturation = saturate(&mut loaded, rules, limits);
    let problem = Problem::new(&loaded.egraph, &loaded.roots, model);
    let solved = problem
        .solve(crate::extract::Limits { work: limits.work })
        .ok_or_else(|| PassError::internal("no choice of terms is free of cycles"))?;
    let (rebuilt, written) = convert::rebuild(graph, &loaded, &solved.choice)?;
    let size = (loaded.egraph.total_size(), loaded.egraph.number_of_classes());
    let report = SearchReport {
        recipe: String::new(),
        graph: graph.name.clone(),
        size,
        iterations: saturation.iterations,
        stop: saturation.stop,
        cost: (before, solved.cost),
        bound: solved.bound,
        tier: rules.iter().map(|r| r.tier).max().unwrap_or(Tier::Exact),
    };
    let built_on = std::mem::take(&mut loaded.egraph.analysis.built_on);
    let equations = loaded.egraph.analysis.equations.take();
    let proof = match equations {
        None => None,
        Some(equations) => {
            let mut proof = proof::prove(graph, &rebuilt, &loaded.egraph, &equations)?;
            if price_steps {
                let used = proof.used.iter().map(|&i| &equations[i]);
                let costs = replay::costs(graph, &loaded.egraph, used, limits, model)?;
                for (step, cost) in proof.steps.iter_mut().zip(costs) {
                    step.cost = Some(cost);
                }
            }
            Some(proof)
        }
    };
    Ok(Found { graph: rebuilt, written, fired: saturation.fired, built_on, report, proof })
}

struct Saturation {
    iterations: usize,
    stop: &'static str,
    fired: BTreeSet<&'static str>,
}

/// Applies the rules until nothing changes or a limit is reached.
fn saturate(loaded: &mut Loaded, rules: &[&'static Rule], limits: Limits) -> Saturation {
    loaded.egraph.analysis.node_limit = limits.nodes;
    let empty = egg::EGraph::new(Facts::default());
    let egraph = std::mem::replace(&mut loaded.egraph, empty);
    let runner: Runner<Term, Facts> = Runner::new(Facts::default())
        .with_egraph(egraph)
        .with_scheduler(SimpleScheduler)
        .with_node_limit(limits.nodes)
        .with_iter_limit(limits.iterations)
        // Seconds never decide: the same input gives the same output on any machine.
        .with_time_limit(Duration::MAX)
        .run(rule::rewrites(rules));
    let stop = match &runner.stop_reason {
        Some(StopReason::NodeLimit(_)) => "node limit",
        Some(StopReason::IterationLimit(_)) => "iteration limit",
        Some(StopReason::Saturated) => SATURATED,
        _ => "stopped",
    };
    let names = runner.iterations.iter().flat_map(|i| i.applied.keys());
    let names: BTreeSet<String> = names.map(|n| n.to_string()).collect();
    let fired = |r: &&&Rule| names.iter().any(|n| n.split('#').next() == Some(r.name));
    let fired = rules.iter().filter(fired).map(|r| r.name).collect();
    let iterations = runner.iterations.len();
    loaded.egraph = runner.egraph;
    Saturation { iterations, stop, fired }
}

/// Whether a rule makes anything equal in a graph, or would if the types allowed it, with one of its side
/// conditions waived; and the side conditions that it asked.
fn applies_once(
    loaded: &mut Loaded,
    rule: &Rule,
    waived: Option<&'static str>,
) -> (bool, BTreeSet<&'static str>) {
    loaded.egraph.analysis.ill_typed = Some(0);
    loaded.egraph.analysis.node_limit = usize::MAX;
    loaded.egraph.analysis.trial = Some(Trial { waived, ..Trial::default() });
    // Search first: applying makes the e-graph unfit for searching.
    let sides = rule::sides(rule);
    let found: Vec<_> = sides.iter().map(|(lhs, _)| lhs.search(&loaded.egraph)).collect();
    let mut applied = false;
    for ((lhs, rhs), matches) in sides.iter().zip(found) {
        for found in matches {
            for subst in &found.substs {
                applied |= rule::apply(&mut loaded.egraph, rule, lhs, rhs, found.eclass, subst);
            }
        }
    }
    let asked = loaded.egraph.analysis.trial.take().map(|t| t.asked.into_inner());
    let ill_typed = loaded.egraph.analysis.ill_typed != Some(0);
    (applied || ill_typed, asked.unwrap_or_default())
}

/// What users are told of a rule: `sparkc passes`, documentation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RuleInfo {
    /// Name.
    pub name: &'static str,
    /// Family: rules about the same ops; `egraph{without=FAMILY}` leaves them out.
    pub family: &'static str,
    /// What it may do to numbers.
    pub tier: Tier,
    /// Why it is true.
    pub why: &'static str,
    /// Left side, as a pattern.
    pub lhs: &'static str,
    /// Right side, as a pattern; empty where it is code.
    pub rhs: &'static str,
    /// Side condition in words.
    pub condition: &'static str,
    /// Graphs in which it fires, as expressions.
    pub fires: &'static [&'static str],
    /// Graphs that look alike, in which it must not.
    pub misses: &'static [&'static str],
}

/// Every rewrite rule, by family.
pub fn rewrite_rules() -> Vec<RuleInfo> {
    let info = |r: &Rule| RuleInfo {
        fires: cases::of(r.name).fires,
        misses: cases::of(r.name).misses,
        name: r.name,
        family: rules::family(r.name),
        tier: r.tier,
        why: r.why,
        lhs: r.lhs,
        rhs: match r.rhs {
            rule::Rhs::Pattern(text) => text,
            rule::Rhs::Code(_) => "",
        },
        condition: r.condition,
    };
    rules::all().map(info).collect()
}
