//! `verify` accepts the hand-built plans and rejects every generated broken copy of them.

use std::collections::BTreeMap;

use sparkc_plan::mutations::{Kind, mutate};
use sparkc_plan::samples::{Collective, LanguageModel, language_model, line};
use sparkc_plan::{Axis, Plan, Target, verify};
use tensor::Rng;

/// Copies per plan and kind.
const PER_KIND: usize = 12;

fn plans() -> Vec<Plan> {
    let tiny = || Target::preset("tiny").expect("preset");
    let base = LanguageModel::RAGGED;
    vec![
        language_model(base, tiny()),
        language_model(LanguageModel { window: Some(5), ..base }, tiny()),
        language_model(LanguageModel { mirrored: true, gap: 0, ..base }, tiny()),
        language_model(LanguageModel { width: 7, height: 5, hidden: 33, ..base }, tiny()),
        line(Collective::Chain, Axis::X, 9, 4, tiny()),
        line(Collective::Broadcast, Axis::Y, 5, 3, tiny()),
        line(Collective::Tree, Axis::X, 16, 4, tiny()),
        line(Collective::TwoPhase(4), Axis::Y, 16, 4, tiny()),
    ]
}

#[test]
fn samples_are_legal() {
    for plan in plans() {
        if let Err(found) = verify(&plan) {
            panic!("{}: {}", plan.model.name, found[0]);
        }
    }
}

#[test]
fn every_broken_plan_is_rejected() {
    let mut rng = Rng::new(1);
    let mut made: BTreeMap<Kind, usize> = BTreeMap::new();
    for (i, plan) in plans().iter().enumerate() {
        for kind in Kind::ALL {
            for _ in 0..PER_KIND {
                let Some(broken) = mutate(plan, kind, &mut rng) else { continue };
                *made.entry(kind).or_insert(0) += 1;
                assert!(verify(&broken).is_err(), "plan {i}: {kind:?} was accepted");
            }
        }
    }
    let total: usize = made.values().sum();
    assert!(total >= 1000, "{total} broken plans");
    for kind in Kind::ALL {
        assert!(made.get(&kind).is_some_and(|n| *n > 0), "{kind:?} never applied");
    }
}

#[test]
fn violations_say_what_is_wrong() {
    let plan = language_model(LanguageModel::RAGGED, Target::preset("tiny").expect("preset"));
    let mut rng = Rng::new(2);
    for (kind, code) in [
        (Kind::PinLost, "PLN1302"),
        (Kind::PinDoubled, "PLN1301"),
        (Kind::CopiesWrong, "PLN1302"),
        (Kind::WeightUndeclared, "PLN1303"),
        (Kind::BuffersOverlap, "PLN1202"),
        (Kind::SramOverflow, "PLN1201"),
        (Kind::CacheShrunk, "PLN1204"),
        (Kind::RegionOutside, "PLN1101"),
        (Kind::PeDead, "PLN1103"),
        (Kind::RoleLost, "PLN1104"),
        (Kind::LengthWrong, "PLN1601"),
        (Kind::ColorClash, "PLN1502"),
        (Kind::ColorOverBudget, "PLN1501"),
        (Kind::OperandOutside, "PLN1401"),
        (Kind::BufferDangling, "PLN1002"),
        (Kind::CyclicWait, "PLN1701"),
        (Kind::LogitsLost, "PLN1801"),
        (Kind::StreamWrong, "PLN1604"),
    ] {
        for _ in 0..5 {
            let Some(broken) = (0..20).find_map(|_| mutate(&plan, kind, &mut rng)) else {
                panic!("{kind:?} does not apply to this plan");
            };
            let found = verify(&broken).expect_err("broken");
            let codes: Vec<String> = found.iter().map(|v| v.code()).collect();
            let accepted = codes.iter().any(|c| c == code)
                // Lengths of operands are checked before messages.
                || kind == Kind::LengthWrong && codes[0] == "PLN1401";
            assert!(accepted, "{kind:?}: {code} expected, found {:?}", found[0].to_string());
        }
    }
}
