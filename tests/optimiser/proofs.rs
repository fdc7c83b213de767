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

/// Every word of a certificate replaced by others of its kind, one at a time. What the checker accepts then
/// is a true statement about another model: another weight, another shape of a leaf, other parameters
/// of an op that both sides have. Nothing is accepted that says of this model what was not proven.
#[test]
fn whatever_word_is_changed_nothing_else_is_proven_of_this_model() {
    let folder = harness::root().join("tests/configs/qwen3-0.6b/config.json");
    let proven = prove(models::module(&folder), &CpuCost, Tier::Reassoc);
    let lines: Vec<&str> = proven.text.lines().collect();
    let (mut tried, mut of_another) = (0, BTreeMap::new());
    // Another tier is as true, where no step is above it.
    for (at, line) in lines.iter().enumerate().filter(|(_, l)| !l.starts_with("tier")) {
        let words: Vec<&str> = line.split(' ').collect();
        for place in 0..words.len() {
            for other in others(words[place]).into_iter().filter(|o| o != words[place]) {
                let mut words: Vec<&str> = words.clone();
                words[place] = &other;
                let changed = words.join(" ");
                let mut lines = lines.clone();
                lines[at] = &changed;
                let text = lines.join("\n") + "\n";
                tried += 1;
                assert!(refusal(&text, &proven.graphs).is_some(), "{line} -> {changed}");
                if proof::check(&text).is_ok() {
                    let kind = if line.contains(" = ") { words[2] } else { words[0] };
                    *of_another.entry(kind.to_string()).or_insert(0) += 1;
                }
            }
        }
    }
    assert!(tried > 3000, "{tried}");
    // Leaves may be called anything, and what both sides share may be another op; what is claimed of them,
    // and why, may not change.
    assert!(
        ["step", "before", "after"].iter().all(|k| !of_another.contains_key(*k)),
        "{of_another:?}"
    );
    let renamed = proven.text.replacen("given s1.0 ", "given t5 ", 1);
    assert_ne!(renamed, proven.text);
    let refused = proof::check(&renamed).map_err(|e| e.code());
    assert_eq!(refused.err(), Some("SPK3301"), "a value that the skeleton has not");
}

/// Words that might stand in the place of one.
fn others(word: &str) -> Vec<String> {
    let mut others: Vec<String> =
        ["", "t0", "t1", "t5", "p0", "s0.0", "return", "exact", "lossy", "0", "perm:0,1", "axis:0"]
            .map(str::to_string)
            .to_vec();
    let digit = |by: u8| -> String {
        let turn = |b: u8| if b.is_ascii_digit() { b'0' + (b - b'0' + by) % 10 } else { b };
        String::from_utf8(word.bytes().map(turn).collect()).unwrap_or_default()
    };
    others.extend([digit(1), digit(7), format!("{word}x"), word.chars().skip(1).collect()]);
    others
}
