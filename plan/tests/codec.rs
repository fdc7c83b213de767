//! Plans survive being stored; damaged bytes are refused without a panic.

use std::collections::{BTreeMap, BTreeSet};

use sparkc_plan::codec::{
    CodecError, VERSION, decode, decode_weights, digest, encode, encode_with_weights,
};
use sparkc_plan::samples::{Collective, LanguageModel, language_model, line};
use sparkc_plan::{Axis, Bend, Clause, Detour, Plan, Point, Port, Repair, Spares, Target};
use tensor::{DType, Rng, Tensor};

fn plans() -> Vec<Plan> {
    let wse3 = || Target::preset("wse3").expect("preset");
    vec![
        language_model(LanguageModel::RAGGED, wse3()),
        line(Collective::TwoPhase(4), Axis::X, 16, 5, wse3()),
    ]
}

#[test]
fn decode_inverts_encode_and_json() {
    for plan in plans() {
        let bytes = encode(&plan);
        let back = decode(&bytes).expect("own bytes");
        assert_eq!(back, plan);
        assert_eq!(encode(&back), bytes);
        assert_eq!(digest(&back), digest(&plan));
        let json = serde_json::to_string(&plan).expect("json");
        assert_eq!(serde_json::from_str::<Plan>(&json).expect("own json"), plan);
    }
    let [a, b] = &plans()[..] else { panic!("two plans") };
    assert_ne!(digest(a), digest(b));
}

#[test]
fn what_repeats_is_stored_once_and_what_is_long_where_it_is_used() {
    let mut plan = plans().remove(0);
    let sizes = |plan: &Plan| {
        (encode(plan).len(), postcard::to_allocvec(plan).expect("only known lengths").len())
    };
    let once = sizes(&plan);
    let template = plan.templates.iter_mut().max_by_key(|t| t.phases.len()).expect("templates");
    let copies: Vec<_> = (2..10)
        .flat_map(|n| {
            let mut phases = template.phases.clone();
            phases.iter_mut().for_each(|p| p.name.push_str(&format!(".{n}")));
            phases
        })
        .collect();
    template.phases.extend(copies);
    assert_eq!(decode(&encode(&plan)).expect("own bytes"), plan);
    let more = sizes(&plan);
    assert!((more.0 - once.0) * 2 < more.1 - once.1, "from {once:?} to {more:?} bytes");
    // Too long for a pool, and used twice.
    let long = "long ".repeat(40);
    for role in plan.templates[0].phases.iter_mut().take(2).flat_map(|p| &mut p.roles) {
        role.name.clone_from(&long);
        role.predicate.x = vec![Clause::range(0, 9); 40];
    }
    assert_eq!(decode(&encode(&plan)).expect("own bytes"), plan);
}

#[test]
fn weights_travel_along() {
    let plan = &plans()[0];
    let mut weights = BTreeMap::new();
    weights.insert("a".to_owned(), Tensor::from_f32(vec![2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]));
    let half = weights["a"].cast(DType::BF16).expect("cast");
    weights.insert("b".to_owned(), half);
    let bytes = encode_with_weights(plan, &weights);
    assert_eq!(&decode(&bytes).expect("plan"), plan);
    let back = decode_weights(&bytes).expect("weights");
    assert_eq!(back.keys().collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(back["b"].to_f32(), weights["b"].to_f32());
    assert!(decode_weights(&encode(plan)).expect("none").is_empty());
}

#[test]
fn every_truncation_and_most_damage_is_noticed() {
    let bytes = encode(&plans()[1]);
    for n in 0..bytes.len() {
        assert!(decode(&bytes[..n]).is_err(), "{n} of {} bytes", bytes.len());
    }
    for i in 0..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[i] ^= 0x40;
        assert!(decode(&damaged).is_err(), "byte {i}");
    }
    let mut longer = bytes.clone();
    longer.push(0);
    assert!(decode(&longer).is_err());
    let mut newer = bytes;
    newer[8] = 9;
    assert_eq!(decode(&newer), Err(CodecError::Version { found: 9 }));
    assert_eq!(decode(b"not a plan at all"), Err(CodecError::Magic));
}

#[test]
fn a_plan_of_another_version_is_refused_by_number() {
    let mut older = encode(&plans()[0]);
    assert_eq!(older[8..12], VERSION.to_le_bytes());
    older[8..12].copy_from_slice(&(VERSION - 1).to_le_bytes());
    let error = decode(&older).expect_err("written by an older program");
    assert_eq!(error, CodecError::Version { found: VERSION - 1 });
    let said = error.to_string();
    assert!(said.contains("PLN0302") && said.contains("compile the model again"), "{said}");
}

/// Every path of keys in `value`, elements of a list alike.
fn keys(value: &serde_json::Value, path: &str, found: &mut BTreeSet<String>) {
    match value {
        serde_json::Value::Object(fields) => {
            for (name, field) in fields {
                let path = format!("{path}.{name}");
                keys(field, &path, found);
                found.insert(path);
            }
        }
        serde_json::Value::Array(items) => items.iter().for_each(|item| keys(item, path, found)),
        _ => {}
    }
}

/// The fields that stored plans have, by an FNV hash of their names.
#[test]
fn the_version_rises_with_the_fields() {
    let mut found = BTreeSet::new();
    let mut repaired = plans().remove(0);
    repaired.repair = Some(Repair {
        width: repaired.target.width,
        spare_lanes: 1,
        dead: vec![(0, 0)],
        wafers: vec![Spares { first: vec![0], bends: vec![Bend { row: 1, spare: 0, column: 1 }] }],
        detours: vec![Detour { at: Point { x: 0, y: 0 }, axis: Axis::X, steps: vec![Port::East] }],
    });
    for plan in plans().iter().chain([&repaired]) {
        keys(&serde_json::to_value(plan).expect("json"), "", &mut found);
    }
    let hash = found.iter().flat_map(|path| path.bytes()).fold(0xcbf2_9ce4_8422_2325u64, |h, b| {
        (h ^ u64::from(b)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    let known = (6, 613_603_844_524_222_707);
    assert_eq!((VERSION, hash), known, "raise codec::VERSION, and write both down here");
}

#[test]
fn hostile_payloads_with_a_right_checksum_are_refused_or_harmless() {
    let fnv = |b: &[u8]| {
        b.iter().fold(0xcbf2_9ce4_8422_2325u64, |h, b| {
            (h ^ u64::from(*b)).wrapping_mul(0x0000_0100_0000_01b3)
        })
    };
    let frame = |payload: &[u8], claimed: u64| {
        let mut out = b"SPKWPLAN".to_vec();
        out.extend(VERSION.to_le_bytes());
        out.extend(1u32.to_le_bytes());
        out.extend(b"PLAN");
        out.extend(claimed.to_le_bytes());
        out.extend(fnv(payload).to_le_bytes());
        out.extend(payload);
        out
    };
    let good = encode(&plans()[0]);
    let payload = &good[36..];
    assert_eq!(frame(payload, payload.len() as u64), good);
    assert!(matches!(decode(&frame(payload, u64::MAX)), Err(CodecError::Truncated { .. })));
    let mut rng = Rng::new(3);
    let mut accepted = 0;
    for _ in 0..20_000 {
        let mut p = payload.to_vec();
        for _ in 0..1 + rng.below(4) {
            let i = rng.below(p.len());
            // Varint lengths grow to billions through runs of 0xff.
            p[i] = if rng.below(2) == 0 { 0xff } else { rng.next_u64() as u8 };
        }
        if let Ok(plan) = decode(&frame(&p, p.len() as u64)) {
            accepted += 1;
            // Whatever it says now, judging it must not panic either.
            if accepted % 50 == 0
                && plan.target.width < 2000
                && plan.templates.iter().all(|t| t.width < 100 && t.height < 100)
            {
                let _ = sparkc_plan::verify(&plan);
            }
        }
    }
    assert!(accepted > 0);
}
