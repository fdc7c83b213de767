//! Plans built by hand compute what their formulas say, and stuck plans say where they stick.

use std::collections::BTreeMap;

use plan::samples::{Collective, LanguageModel, language_model, line};
use plan::{Axis, Combine, Gain, Instr, Plan, Storage, Target, WeightData, WireFormat};
use sparkc_simulator::{Feed, Level, Machine, Sequence, SimError, Simulator, time};
use tensor::{Rng, Tensor, Tolerance, compare};

fn tiny() -> Target {
    Target::preset("tiny").expect("preset")
}

fn weights(m: LanguageModel, seed: u64) -> BTreeMap<String, Tensor> {
    let mut rng = Rng::new(seed);
    let d = (m.head_dim * m.width) as usize;
    let (k, v) = (m.hidden as usize, m.vocab as usize);
    let mut make = |shape: &[usize]| {
        let values: Vec<f32> = (0..shape.iter().product()).map(|_| rng.normal()).collect();
        Tensor::from_f32(shape.to_vec(), &values)
    };
    let mut all = BTreeMap::new();
    for (name, shape) in
        [("a", vec![d, k]), ("b", vec![k, d]), ("gain", vec![k]), ("table", vec![v, k])]
    {
        all.insert(name.to_string(), make(&shape));
    }
    all
}

/// The formulas of `plan::samples::language_model`, in f64, over the whole prompt.
fn reference(m: LanguageModel, w: &BTreeMap<String, Tensor>, tokens: &[u32]) -> Vec<f32> {
    let get = |name: &str| w[name].to_f32().iter().map(|&v| f64::from(v)).collect::<Vec<f64>>();
    let (a, b, gain, table) = (get("a"), get("b"), get("gain"), get("table"));
    let (k, dim, heads) = (m.hidden as usize, m.head_dim as usize, m.width as usize);
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let mut cache: Vec<Vec<f64>> = Vec::new();
    let mut logits = Vec::new();
    for (pos, &t) in tokens.iter().enumerate() {
        let e = &table[t as usize * k..][..k];
        let rms = (dot(e, e) / k as f64 + 1e-5).sqrt();
        let h: Vec<f64> = e.iter().zip(&gain).map(|(e, g)| e / rms * g).collect();
        let q: Vec<f64> = (0..dim * heads).map(|i| dot(&a[i * k..][..k], &h)).collect();
        cache.push(q.clone());
        let first = m.window.map_or(0, |w| (pos + 1).saturating_sub(w as usize));
        let mut o = vec![0.0; dim * heads];
        for head in 0..heads {
            let part = |v: &[f64]| v[head * dim..][..dim].to_vec();
            let s: Vec<f64> =
                cache[first..].iter().map(|c| dot(&part(&q), &part(c)).exp()).collect();
            let total: f64 = s.iter().sum();
            for (c, s) in cache[first..].iter().zip(&s) {
                (0..dim).for_each(|i| o[head * dim + i] += c[head * dim + i] * s / total);
            }
        }
        let r: Vec<f64> =
            (0..k).map(|i| e[i] + dot(&b[i * dim * heads..][..dim * heads], &o)).collect();
        logits = (0..m.vocab as usize).map(|i| dot(&table[i * k..][..k], &r) as f32).collect();
    }
    logits
}

fn arg_max(logits: &[f32]) -> u32 {
    (0..logits.len())
        .max_by(|&i, &j| logits[i].total_cmp(&logits[j]).then(j.cmp(&i)))
        .expect("not empty") as u32
}

#[test]
fn language_model_computes_its_formulas() {
    let base = LanguageModel::RAGGED;
    let variants = [
        base,
        LanguageModel { window: Some(5), ..base },
        LanguageModel { mirrored: true, gap: 0, ..base },
        LanguageModel { width: 1, height: 1, gap: 0, ..base },
        LanguageModel { width: 5, height: 4, hidden: 16, vocab: 50, ..base },
    ];
    for (seed, m) in variants.into_iter().enumerate() {
        let plan = language_model(m, tiny());
        let w = weights(m, seed as u64);
        let mut sim = Simulator::new(&plan, &w).unwrap();
        let prompt: Vec<u32> = (0..9).map(|i| (i * 11 + 3) % m.vocab).collect();
        let (generated, logits) = sim.generate(&prompt, 6).unwrap();
        let mut fed = prompt.clone();
        fed.extend(&generated[..5]);
        assert_eq!(logits.len(), fed.len());
        for (n, found) in logits.iter().enumerate() {
            let expected = reference(m, &w, &fed[..=n]);
            compare::check(found, &expected, Tolerance::F32)
                .unwrap_or_else(|e| panic!("{m:?} position {n}: {e}"));
            if n + 1 >= prompt.len() {
                assert_eq!(generated[n + 1 - prompt.len()], arg_max(found));
            }
        }
    }
}

#[test]
fn collectives_move_and_add_values() {
    for axis in [Axis::X, Axis::Y] {
        for (collective, pes) in [
            (Collective::Broadcast, 7),
            (Collective::Chain, 7),
            (Collective::Chain, 2),
            (Collective::Tree, 16),
            (Collective::TwoPhase(3), 9),
            (Collective::TwoPhase(4), 12),
            (Collective::TwoPhase(1), 5),
            (Collective::TwoPhase(5), 5),
        ] {
            let plan = line(collective, axis, pes, 3, tiny());
            let mut sim = Simulator::new(&plan, &BTreeMap::new()).unwrap();
            let found = sim.step(0).unwrap().logits;
            let expected: Vec<f32> = (0..3)
                .map(|i| match collective {
                    Collective::Broadcast => i as f32,
                    _ => (0..pes).map(|p| (p * 3 + i) as f32).sum(),
                })
                .collect();
            assert_eq!(found, expected, "{collective:?} {axis:?}");
        }
    }
}

#[test]
fn requests_in_flight_give_the_bits_of_each_alone() {
    let m = LanguageModel { window: Some(5), ..LanguageModel::RAGGED };
    let mut plan = language_model(m, tiny());
    let w = weights(m, 3);
    // Caches of three requests, behind everything else.
    for t in plan.templates.iter_mut().filter(|t| t.kv.is_some()) {
        t.kv.as_mut().unwrap().requests = 3;
        for i in 0..t.buffers.len() {
            let end = t.buffers.iter().map(|b| b.offset + b.bytes).max().unwrap();
            let b = &mut t.buffers[i];
            if b.role == plan::BufferRole::KvCache {
                (b.rows, b.bytes, b.offset) = (b.rows * 3, b.bytes * 3, end.next_multiple_of(4));
            }
        }
    }
    let prompts: Vec<Vec<u32>> =
        (0..3).map(|s| (0..6 + s).map(|i| (i * 7 + s * 5) % m.vocab).collect()).collect();
    let alone: Vec<Vec<Vec<f32>>> = prompts
        .iter()
        .map(|p| {
            let mut sim = Simulator::new(&plan, &w).unwrap();
            p.iter().map(|&t| sim.step(t).unwrap().logits).collect()
        })
        .collect();
    // A prompt fed whole, in the pipeline, and only the rows that are wanted.
    let whole = Simulator::new(&plan, &w).unwrap().feed(&prompts[0], 2).unwrap();
    let rows: Vec<Vec<f32>> = whole.into_iter().map(|o| o.logits).collect();
    assert!(rows[..4].iter().all(Vec::is_empty));
    assert_eq!(rows[4..], alone[0][4..]);
    // All sequences at once, one token of each after the other.
    let machine = Machine::new(&plan, &w).unwrap();
    let mut sequences: Vec<Sequence> = prompts.iter().map(|_| machine.sequence()).collect();
    let feed = |i: usize| {
        prompts.iter().enumerate().filter_map(move |(sequence, p)| {
            Some(Feed { sequence, token: *p.get(i)?, prompt: 0, logits: true })
        })
    };
    let feeds: Vec<Feed> = (0..8).flat_map(feed).collect();
    let mut found: Vec<Vec<Vec<f32>>> = vec![Vec::new(); 3];
    for (feed, out) in feeds.iter().zip(machine.run(&mut sequences, &feeds).unwrap()) {
        found[feed.sequence].push(out.logits);
    }
    assert_eq!(found, alone);
    assert_eq!(machine.requests(), 3);
    let mut four: Vec<Sequence> = (0..4).map(|_| machine.sequence()).collect();
    assert_eq!(machine.run(&mut four, &[]), Err(SimError::Requests { asked: 4, held: 3 }));
}

#[test]
fn illegal_plans_are_refused_with_the_violation() {
    let mut plan = line(Collective::Chain, Axis::X, 5, 2, tiny());
    plan.templates[0].routes.pop();
    let Err(SimError::Illegal { what }) = Simulator::new(&plan, &BTreeMap::new()) else {
        panic!("accepted");
    };
    assert!(what.starts_with("PLN1"), "{what}");
}

#[test]
fn a_missing_send_is_a_deadlock_with_tiles_and_colors() {
    let mut plan = line(Collective::Chain, Axis::X, 5, 2, tiny());
    let leaf = plan.templates[0].phases[1].roles.iter_mut().find(|r| r.name == "leaf").unwrap();
    leaf.program.clear();
    let mut sim = Simulator::unchecked(&plan, &BTreeMap::new()).unwrap();
    let SimError::Deadlock { waiting, tiles } = sim.step(0).unwrap_err() else {
        panic!("no deadlock")
    };
    assert_eq!(waiting, 4);
    let relay = tiles.iter().find(|t| t.at.x == 3).unwrap();
    assert_eq!((relay.color, relay.found, relay.needed), (1, 0, 2));
    assert_eq!(relay.phase, "chain");
}

#[test]
fn a_panic_of_one_thread_ends_the_run() {
    let mut plan = language_model(LanguageModel::RAGGED, tiny());
    let roles = plan.templates.iter_mut().flat_map(|t| &mut t.phases).flat_map(|p| &mut p.roles);
    let send = roles.flat_map(|r| &mut r.program).find_map(|i| match i {
        Instr::Send { src, .. } => Some(src),
        _ => None,
    });
    send.unwrap().offset = 1 << 20;
    let w = weights(LanguageModel::RAGGED, 1);
    let mut sim = Simulator::unchecked(&plan, &w).unwrap();
    // Several tokens, so that several threads wait for one another.
    let run = std::panic::AssertUnwindSafe(|| sim.feed(&[0; 8], 0));
    assert!(std::panic::catch_unwind(run).is_err());
}

#[test]
fn a_missing_receive_leaves_wavelets() {
    let mut plan = line(Collective::Broadcast, Axis::X, 5, 2, tiny());
    let member = plan.templates[0].phases[1].roles.iter_mut().find(|r| r.name == "member").unwrap();
    member.program.clear();
    let mut sim = Simulator::unchecked(&plan, &BTreeMap::new()).unwrap();
    let error = sim.step(0).unwrap_err();
    assert!(matches!(error, SimError::Unreceived { color: 0, elements: 2, .. }), "{error}");
}

#[test]
fn reading_before_writing_gives_nan() {
    let mut plan = line(Collective::Chain, Axis::X, 3, 2, tiny());
    let root = plan.templates[0].phases[1].roles.iter_mut().find(|r| r.name == "root").unwrap();
    let Instr::Recv { combine, .. } = &mut root.program[0] else { panic!("root receives") };
    assert_eq!(*combine, Combine::Add);
    plan.templates[0].buffers[1].live = (1, 1);
    let mut sim = Simulator::unchecked(&plan, &BTreeMap::new()).unwrap();
    assert!(sim.step(0).unwrap().logits.iter().all(|v| v.is_nan()));
}

#[test]
fn inputs_out_of_range_are_refused() {
    let m = LanguageModel { context: 2, ..LanguageModel::RAGGED };
    let plan = language_model(m, tiny());
    let mut w = weights(m, 1);
    let mut sim = Simulator::new(&plan, &w).unwrap();
    assert!(matches!(sim.step(29), Err(SimError::Token { token: 29, vocab: 29 })));
    sim.step(1).unwrap();
    sim.step(2).unwrap();
    assert!(matches!(sim.step(3), Err(SimError::Context { pos: 2, context: 2 })));
    w.remove("gain");
    assert!(
        matches!(Simulator::new(&plan, &w), Err(SimError::Weight { name, .. }) if name == "gain")
    );
    w.insert("gain".into(), Tensor::from_f32(vec![3], &[0.0; 3]));
    assert!(matches!(Simulator::new(&plan, &w), Err(SimError::Weight { .. })));
}

#[test]
fn quantised_pins_hold_the_codes_of_the_whole_scaled_tensor() {
    for (storage, bytes) in [(Storage::Q8, 36), (Storage::Q4, 20)] {
        let mut plan = line(Collective::Chain, Axis::X, 2, 32, tiny());
        let t = &mut plan.templates[0];
        t.buffers[0].storage = storage;
        t.buffers[0].bytes = bytes;
        t.pins[0].scale = 0.5;
        let mut sim = Simulator::new(&plan, &BTreeMap::new()).unwrap();
        let scaled: Vec<f32> = (0..64).map(|i| i as f32 * 0.5).collect();
        let stored = Tensor::from_f32(vec![1, 64], &scaled).cast(storage.dtype()).unwrap().to_f32();
        let expected: Vec<f32> = (0..32).map(|i| stored[i] + stored[32 + i]).collect();
        assert_eq!(sim.step(0).unwrap().logits, expected);
        // One byte less does not hold the codes and their scale.
        plan.templates[0].buffers[0].bytes -= 4;
        assert!(plan::verify(&plan).is_err());
    }
}

#[test]
fn half_wires_round_what_they_carry_and_take_half_the_wavelets() {
    let mut plan = line(Collective::Broadcast, Axis::X, 4, 7, tiny());
    let WeightData::Inline(values) = &mut plan.weights[0].data else { panic!("inline") };
    values.iter_mut().for_each(|v| *v = *v / 3.0 + 0.1);
    let sent = values[..7].to_vec();
    let cycles = |plan: &Plan| time(plan, Level::L3, 0).unwrap().token_cycles;
    let full = cycles(&plan);
    for role in &mut plan.templates[0].phases[1].roles {
        for instr in &mut role.program {
            let (Instr::Send { wire, .. } | Instr::Recv { wire, .. }) = instr else { continue };
            *wire = WireFormat::BF16;
        }
    }
    let expected = Tensor::from_f32(vec![7], &sent).cast(tensor::DType::BF16).unwrap().to_f32();
    assert_ne!(expected, sent);
    let mut sim = Simulator::new(&plan, &BTreeMap::new()).unwrap();
    assert_eq!(sim.step(0).unwrap().logits, expected);
    assert_eq!(cycles(&plan), full - 3, "4 wavelets instead of 7");
}

#[test]
fn a_gain_scales_the_last_axis_of_a_pinned_weight() {
    let m = LanguageModel { width: 1, height: 1, gap: 0, ..LanguageModel::RAGGED };
    let w = weights(m, 9);
    let reference = language_model(m, tiny());
    let mut folded = reference.clone();
    // Scale A's columns when pinning instead of multiplying by the gain on the tile.
    let t = &mut folded.templates[1];
    let gain = t.weights.iter().position(|w| w.name == "gain").unwrap() as u32;
    t.pins.iter_mut().find(|p| t.weights[p.weight as usize].name == "a").unwrap().gain =
        Some(Gain { weight: gain });
    let scale = t.phases.iter_mut().find(|p| p.name == "norm.scale").unwrap();
    scale.roles[0].program.remove(2);
    let logits = |plan: &Plan| Simulator::new(plan, &w).unwrap().step(5).unwrap().logits;
    compare::check(&logits(&folded), &logits(&reference), Tolerance::F32).unwrap();
}

#[test]
fn values_beyond_memory_are_refused_before_they_are_reserved() {
    let mut plan = language_model(LanguageModel::RAGGED, tiny());
    plan.templates.iter_mut().filter_map(|t| t.kv.as_mut()).for_each(|kv| kv.slots = 1 << 30);
    let Err(SimError::Values { bytes, limit }) =
        Simulator::unchecked(&plan, &weights(LanguageModel::RAGGED, 1))
    else {
        panic!("not refused");
    };
    assert!(bytes > limit);
}
