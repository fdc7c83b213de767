//! Running one rule on examples: does it fire, do the numbers agree, is a mutant caught.

use std::collections::BTreeSet;

use ir::Graph;

use super::super::cases::Case;
use super::super::extract::Problem;
use super::super::rule::Rule;
use super::super::{Limits, convert, example, saturate};
use crate::{NeutralCost, Tier};

pub(super) const LIMITS: Limits = Limits { nodes: 5_000, iterations: 3, work: 1_000_000 };

/// Whether a rule makes anything equal in a graph.
pub(super) fn fires(rule: &'static Rule, text: &str) -> bool {
    let loaded = example::graph(text).and_then(|graph| convert::load(&graph).ok());
    loaded
        .is_some_and(|mut loaded| saturate(&mut loaded, &[rule], LIMITS).fired.contains(rule.name))
}

/// Seeds of ordinary numbers; those of awkward ones follow.
const SEEDS: u64 = 2;

/// Comparisons of a graph with what the rule makes of it, and how many agreed.
pub(super) fn numbers(rule: &'static Rule, texts: &[&str]) -> (usize, usize) {
    let (mut compared, mut agreed) = (0, 0);
    for text in texts {
        let Some(graph) = example::graph(text) else { return (1, 0) };
        let Ok(mut loaded) = convert::load(&graph) else { return (1, 0) };
        saturate(&mut loaded, &[rule], LIMITS);
        let problem = Problem::new(&loaded.egraph, &loaded.roots, &NeutralCost);
        for choice in problem.alternatives() {
            let Ok((other, _)) = convert::rebuild(&graph, &loaded, &choice) else { return (1, 0) };
            if other == graph.compact() {
                continue;
            }
            for seed in 0..SEEDS {
                compared += 1;
                agreed += usize::from(same(&graph, &other, seed, None, rule.tier));
            }
            // Awkward numbers say something where bits count; elsewhere infinities may cancel.
            if rule.tier == Tier::Exact {
                compared += 1;
                agreed += usize::from(same(&graph, &other, 0, Some(&AWKWARD), rule.tier));
            }
        }
    }
    (compared, agreed)
}

/// Numbers on which sloppy identities break.
const AWKWARD: [f32; 12] = [
    f32::NAN,
    f32::INFINITY,
    f32::NEG_INFINITY,
    -0.0,
    0.0,
    1e-45,
    -1e-40,
    f32::MAX,
    f32::MIN_POSITIVE,
    1.0,
    -3.0,
    1e-3,
];

fn same(a: &Graph, b: &Graph, seed: u64, values: Option<&[f32]>, tier: Tier) -> bool {
    let numbers = example::Numbers { seed, of: values };
    let given = example::inputs(a, numbers).zip(example::weights(a, numbers));
    let Some((given, weights)) = given else { return false };
    let results = (example::evaluate(a, &given, &weights), example::evaluate(b, &given, &weights));
    let (Ok(expected), Ok(found)) = results else { return false };
    let close = |(x, y): (&Vec<f32>, &Vec<f32>)| match (values, tier) {
        (Some(_), _) => x.len() == y.len() && x.iter().zip(y).all(|(x, y)| same_bits(*x, *y)),
        (None, tier) => tensor::compare::check(y, x, tier.tolerance()).is_ok(),
    };
    expected.len() == found.len() && expected.iter().zip(&found).all(close)
}

/// The same bits; NaNs have many, and which one comes out is the machine's.
fn same_bits(x: f32, y: f32) -> bool {
    x.to_bits() == y.to_bits() || (x.is_nan() && y.is_nan())
}

/// The side conditions that a rule asks on its cases, and those of them that can be left out unnoticed. A
/// mutant that lacks one is caught when it fires on a near miss or writes what has another type.
pub(super) fn mutants(
    rule: &'static Rule,
    case: &Case,
) -> (BTreeSet<&'static str>, Vec<&'static str>) {
    let of = |text: &str, waived| {
        let loaded = example::graph(text).and_then(|graph| convert::load(&graph).ok());
        loaded.map_or((false, BTreeSet::new()), |mut loaded| {
            super::super::applies_once(&mut loaded, rule, waived)
        })
    };
    let texts = || case.fires.iter().chain(case.misses);
    let asked: BTreeSet<&'static str> = texts().flat_map(|text| of(text, None).1).collect();
    let unnoticed = |c: &&&'static str| !case.misses.iter().any(|text| of(text, Some(**c)).0);
    let survivors = asked.iter().filter(unnoticed).copied().collect();
    (asked, survivors)
}
