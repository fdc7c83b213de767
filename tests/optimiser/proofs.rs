//! Certificates: every compile's is accepted, and states what was compiled; corrupted ones are refused.

use std::collections::BTreeMap;

use backend_cpu::CpuCost;
use backend_wafer::WaferCost;
use ir::Module;
use passes::{CostModel, NeutralCost, RunOptions, Tier};
use plan::Target;
use tensor::Rng;

use crate::models;

/// A certificate, and the graphs it must be about: name, before, after.
struct Proven {
    text: String,
    graphs: Vec<(String, String, String)>,
}

fn statements(module: &Module) -> BTreeMap<String, String> {
    let of = |g: &ir::Graph| (g.name.clone(), passes::statement(g).unwrap());
    module.graphs().map(of).collect()
}

fn prove(mut module: Module, cost: &dyn CostModel, tier: Tier) -> Proven {
    passes::run("roll,canonicalize,const-fold,cse,dce", &mut module, cost, RunOptions::default())
        .unwrap();
    let before = statements(&module);
    let options = RunOptions { tier, prove: true, ..RunOptions::default() };
    let report = passes::run("egraph", &mut module, cost, options).unwrap();
    let after = statements(&module);
    let pair = |(name, before): (String, String)| {
        let after = after[&name].clone();
        (name, before, after)
    };
    Proven { text: report.proof.text, graphs: before.into_iter().map(pair).collect() }
}

/// Why a certificate does not prove what it must; `None` when it does.
fn refusal(text: &str, graphs: &[(String, String, String)]) -> Option<String> {
    let checked = match proof::check(text) {
        Ok(checked) => checked,
        Err(error) => return Some(error.to_string()),
    };
    let found = checked.graphs.into_iter().map(|g| (g.name, (g.before, g.after)));
    let found: BTreeMap<String, (String, String)> = found.collect();
    let expected = graphs.iter().map(|(n, b, a)| (n.clone(), (b.clone(), a.clone()))).collect();
    (found != expected).then(|| "it is about other graphs".to_string())
}

#[test]
fn the_checker_accepts_every_compile() {
    let target = Target::preset("wse3").unwrap();
    let wafer = WaferCost::new(&target);
    let targets: [&dyn CostModel; 3] = [&CpuCost, &wafer, &NeutralCost];
    for path in models::paths() {
        let module = models::module(&path);
        for cost in targets {
            for tier in [Tier::Exact, Tier::Reassoc, Tier::Reround] {
                let proven = prove(module.clone(), cost, tier);
                let refused = refusal(&proven.text, &proven.graphs);
                assert_eq!(refused, None, "{} {} {tier}", path.display(), cost.name());
            }
        }
    }
}

/// Random graphs lead the rules to places that models do not.
#[test]
fn the_checker_accepts_random_graphs() {
    let mut steps = 0;
    for seed in 0..200 {
        let module = ir::random::module(seed, &ir::random::RandomOptions::default());
        let proven = prove(module, &NeutralCost, Tier::Reround);
        assert_eq!(refusal(&proven.text, &proven.graphs), None, "seed {seed}\n{}", proven.text);
        steps += proven.text.lines().filter(|l| l.starts_with("step ")).count();
    }
    assert!(steps > 200, "{steps}");
}

/// The two tables of rules say the same, each in its own words for conditions.
#[test]
fn the_checker_knows_every_rule_as_the_optimiser_does() {
    let rules = passes::rewrite_rules();
    for rule in &rules {
        let stated = proof::rules().iter().find(|r| r.name == rule.name);
        let stated = stated.unwrap_or_else(|| panic!("the checker does not know {}", rule.name));
        assert_eq!(stated.tier.to_string(), rule.tier.name(), "{}", rule.name);
        if let Some((lhs, rhs)) = stated.sides {
            assert_eq!(lhs, rule.lhs, "{}", rule.name);
            assert!(rule.rhs.is_empty() || rhs == rule.rhs, "{}", rule.name);
        }
    }
    assert_eq!(proof::rules().len(), rules.len(), "the checker knows rules that do not exist");
}

/// One change to one line; `None` where this kind of change says nothing else than before.
fn corrupted(lines: &[&str], rng: &mut Rng) -> Option<String> {
    let mut lines: Vec<String> = lines.iter().map(ToString::to_string).collect();
    let at = rng.below(lines.len());
    let mut words: Vec<String> = lines[at].split(' ').map(str::to_string).collect();
    let terms = lines.iter().filter(|l| l.starts_with('t') && l.contains(" = ")).count();
    let is_step = words[0] == "step";
    match rng.below(6) {
        // A step left out.
        0 if is_step => {
            lines.remove(at);
            return Some(lines.join("\n") + "\n");
        }
        // A step by another rule.
        1 if is_step => {
            let rules = proof::rules();
            let other = rules[rng.below(rules.len())].name;
            if other == words[1] {
                return None;
            }
            words[1] = other.to_string();
        }
        // Another term, in a step, a term or what is read.
        2 => {
            let places: Vec<usize> = (1..words.len()).filter(|&i| is_term(&words[i])).collect();
            let place = *places.get(rng.below(places.len().max(1)))?;
            let other = format!("t{}", rng.below(terms));
            if other == words[place] {
                return None;
            }
            words[place] = other;
        }
        // Another digit in an attribute, a name or a type.
        3 => {
            let digits: Vec<usize> = (1..words.len())
                .filter(|&i| !is_term(&words[i]) && words[i].bytes().any(|b| b.is_ascii_digit()))
                .collect();
            let place = *digits.get(rng.below(digits.len().max(1)))?;
            let mut bytes = words[place].clone().into_bytes();
            let digits: Vec<usize> =
                (0..bytes.len()).filter(|&i| bytes[i].is_ascii_digit()).collect();
            let digit = digits[rng.below(digits.len())];
            bytes[digit] = b'0' + (bytes[digit] - b'0' + 1 + rng.below(9) as u8) % 10;
            words[place] = String::from_utf8(bytes).unwrap();
        }
        // Two operands of a term in the other order.
        4 if is_term(&words[0]) && words.len() > 4 && is_term(&words[3]) && is_term(&words[4]) => {
            if words[3] == words[4] {
                return None;
            }
            words.swap(3, 4);
        }
        // The rest of the text missing.
        5 => {
            lines.truncate(at);
            return Some(lines.join("\n") + "\n");
        }
        _ => return None,
    }
    lines[at] = words.join(" ");
    Some(lines.join("\n") + "\n")
}

fn is_term(word: &str) -> bool {
    word.strip_prefix('t').is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
}

#[test]
fn a_thousand_corrupted_certificates_are_refused() {
    let tiny = models::module(&harness::default_model());
    let other = models::module(&harness::root().join("tests/configs/qwen2.5-0.5b/config.json"));
    let proofs = [prove(tiny, &CpuCost, Tier::Reassoc), prove(other, &NeutralCost, Tier::Reround)];
    let mut rng = Rng::new(7);
    let mut refused = 0;
    while refused < 1000 {
        let proven = &proofs[rng.below(proofs.len())];
        let lines: Vec<&str> = proven.text.lines().collect();
        let Some(text) = corrupted(&lines, &mut rng) else { continue };
        assert_ne!(text, proven.text);
        let diff = || {
            let lines = text.lines().zip(proven.text.lines());
            let first = lines.into_iter().find(|(a, b)| a != b);
            format!("accepted: {first:?}")
        };
        assert!(refusal(&text, &proven.graphs).is_some(), "{}", diff());
        refused += 1;
    }
}
