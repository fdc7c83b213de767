//! Every rule, tested: it fires on its cases and on none of its near misses, and what it writes is
//! compared with `ir::eval` on random numbers at the rule's tier.

use ir::{Graph, WeightMap};
use tensor::Tensor;

use super::cases::CASES;
use super::example;
use super::extract::Problem;
use super::rule::Rule;
use super::{Limits, convert, rules, saturate};
use crate::NeutralCost;
use crate::testing::assert_close;

const NUMBERS: example::Numbers<'static> = example::Numbers { seed: 11, of: None };
const LIMITS: Limits = Limits { nodes: 5_000, iterations: 3, work: 1_000_000 };

fn graph_of(text: &str) -> Graph {
    example::graph(text).unwrap_or_else(|| panic!("does not read: {text}"))
}

fn evaluate(graph: &Graph, given: &[Tensor], weights: &WeightMap) -> Vec<Vec<f32>> {
    let found = example::evaluate(graph, given, weights);
    found.unwrap_or_else(|e| panic!("{e}\n{}", ir::print_graph(graph)))
}

fn rule(name: &str) -> &'static Rule {
    rules::all().find(|r| r.name == name).unwrap_or_else(|| panic!("no rule is called {name}"))
}

fn fires(rule: &'static Rule, text: &str) -> bool {
    let graph = graph_of(text);
    let mut loaded = convert::load(&graph).unwrap();
    saturate(&mut loaded, &[rule], LIMITS).fired.contains(rule.name)
}

/// Everything that the rule made equal in the graph of `text` is equal, at the rule's tier.
fn check_numbers(rule: &'static Rule, text: &str) {
    let graph = graph_of(text);
    let (given, weights) =
        (example::inputs(&graph, NUMBERS).unwrap(), example::weights(&graph, NUMBERS).unwrap());
    let expected = evaluate(&graph, &given, &weights);
    let mut loaded = convert::load(&graph).unwrap();
    saturate(&mut loaded, &[rule], LIMITS);
    let problem = Problem::new(&loaded.egraph, &loaded.roots, &NeutralCost);
    let mut different = 0;
    for choice in problem.alternatives() {
        let (other, _) = convert::rebuild(&graph, &loaded, &choice).unwrap();
        different += usize::from(other != graph.compact());
        for (found, expected) in evaluate(&other, &given, &weights).iter().zip(&expected) {
            assert_close(found, expected, rule.tier);
        }
    }
    assert!(different > 0, "{}: nothing but the graph itself can be extracted: {text}", rule.name);
}

#[test]
fn every_rule_has_its_cases() {
    for rule in rules::all() {
        let case = CASES.iter().filter(|c| c.rule == rule.name).collect::<Vec<_>>();
        assert_eq!(case.len(), 1, "{} needs exactly one row of cases", rule.name);
        assert!(!case[0].fires.is_empty() && !case[0].misses.is_empty(), "{}", rule.name);
        assert!(rule.why.ends_with('.'), "{}: the reason is a sentence", rule.name);
    }
    for case in CASES {
        assert_eq!(rule(case.rule).name, case.rule);
    }
}

#[test]
fn rules_fire_where_they_should_and_nowhere_else() {
    for case in CASES {
        for text in case.fires {
            assert!(fires(rule(case.rule), text), "{} does not fire: {text}", case.rule);
        }
        for text in case.misses {
            assert!(!fires(rule(case.rule), text), "{} fires: {text}", case.rule);
        }
    }
}

#[test]
fn rules_keep_the_numbers_at_their_tier() {
    for case in CASES {
        for text in case.fires {
            check_numbers(rule(case.rule), text);
        }
    }
}

/// With all rules loaded, near misses included, whatever can be extracted has the same meaning.
#[test]
fn all_rules_together_keep_the_numbers() {
    let every: Vec<&'static Rule> =
        rules::all().filter(|r| r.tier < crate::Tier::Reround).collect();
    for text in CASES.iter().flat_map(|c| c.fires.iter().chain(c.misses)) {
        let graph = graph_of(text);
        let (given, weights) =
            (example::inputs(&graph, NUMBERS).unwrap(), example::weights(&graph, NUMBERS).unwrap());
        let expected = evaluate(&graph, &given, &weights);
        let mut loaded = convert::load(&graph).unwrap();
        saturate(&mut loaded, &every, LIMITS);
        let problem = Problem::new(&loaded.egraph, &loaded.roots, &NeutralCost);
        for choice in problem.alternatives() {
            let (other, _) = convert::rebuild(&graph, &loaded, &choice).unwrap();
            for (found, expected) in evaluate(&other, &given, &weights).iter().zip(&expected) {
                assert_close(found, expected, crate::Tier::Reassoc);
            }
        }
    }
}
