//! Compiled plans are legal and, executed, give the logits of `ir::eval`, over the variants of decoders.

use crate::decoder::{Decoder, check, check_with, grid, module};
use backend_wafer::{Options, Wafers};
use ir::{Activation, Real, RopeScaling};
use tensor::{DType, Rng};

fn small_sram(width: u32, height: u32, usable: u32) -> plan::Target {
    let mut target = grid(width, height);
    target.sram.bytes = usable + target.sram.reserved_bytes;
    target
}

#[test]
fn grouped_query_attention_on_a_small_grid() {
    check(&Decoder::default(), &grid(16, 16), 9);
}

#[test]
fn multi_head_and_multi_query_attention() {
    check(&Decoder { kv_heads: 4, ..Decoder::default() }, &grid(16, 16), 5);
    check(&Decoder { kv_heads: 1, ..Decoder::default() }, &grid(16, 16), 5);
    check(&Decoder { heads: 3, kv_heads: 3, head_dim: 10, ..Decoder::default() }, &grid(20, 9), 5);
}

#[test]
fn biases_norms_and_activations() {
    check(&Decoder { bias: true, ..Decoder::default() }, &grid(16, 16), 5);
    check(&Decoder { qk_norm: true, head_dim: 12, ..Decoder::default() }, &grid(16, 16), 5);
    check(
        &Decoder { bias: true, qk_norm: true, merged: false, ..Decoder::default() },
        &grid(24, 24),
        5,
    );
    for activation in [Activation::Gelu, Activation::GeluTanh] {
        check(&Decoder { activation, ..Decoder::default() }, &grid(16, 16), 3);
    }
}

#[test]
fn gains_folded_into_weights_and_separate() {
    check(&Decoder { folded: true, ..Decoder::default() }, &grid(16, 16), 5);
    check(&Decoder { folded: true, merged: false, ..Decoder::default() }, &grid(16, 16), 5);
    check(&Decoder { folded: true, dtype: DType::BF16, ..Decoder::default() }, &grid(16, 16), 5);
}

#[test]
fn tied_tables_and_bf16() {
    check(&Decoder { tied: true, ..Decoder::default() }, &grid(16, 16), 5);
    check(&Decoder { tied: true, dtype: DType::BF16, ..Decoder::default() }, &grid(16, 16), 5);
}

#[test]
fn sliding_windows_wrap_their_ring() {
    for window in [1, 5, 7, 16, 40] {
        check(
            &Decoder { window: Some(window), context: 30, ..Decoder::default() },
            &grid(16, 5),
            30,
        );
    }
}

#[test]
fn contexts_beyond_the_rows() {
    check(&Decoder { context: 40, ..Decoder::default() }, &grid(30, 4), 40);
    check(&Decoder { context: 40, ..Decoder::default() }, &grid(30, 7), 40);
}

/// Whether columns without heads hold MLP weights where q, k and v lie elsewhere.
fn has_surplus(plan: &plan::Plan) -> bool {
    plan.templates.iter().any(|t| {
        let of = |buffer: plan::BufferId| t.pins.iter().filter(move |p| p.buffer == buffer);
        let named = |name| t.buffers.iter().position(|b| b.name == name);
        let qkv = named("w-qkv").map(|i| plan::BufferId(i as u32));
        qkv.is_some_and(|qkv| {
            let gate = named("w-gate-up").map(|i| plan::BufferId(i as u32));
            gate.is_some_and(|gate| of(gate).any(|p| of(qkv).any(|q| q.weight == p.weight)))
        })
    })
}

/// Where an even share of the MLP does not fit beside q, k, v and o, columns without heads take more of it, when
/// the fewest wafers are asked for; otherwise only where nothing else fits.
#[test]
fn columns_without_heads_hold_more_of_the_mlp_where_memory_decides() {
    let fewest = Options { wafers: Wafers::Fewest, ..Options::default() };
    let base = Decoder { kv_heads: 1, ffn: 160, layers: 1, ..Decoder::default() };
    for d in [base.clone(), Decoder { folded: true, dtype: DType::BF16, layers: 2, ..base.clone() }]
    {
        let plan = |usable| {
            let target = small_sram(24, 8, usable);
            let found = backend_wafer::compile(&module(&d), &target, &fewest, &|_| {});
            found.ok().map(|(plan, _)| plan)
        };
        assert!(!has_surplus(&plan(20_000).expect("fits with room to spare")));
        let tight = (200..6000)
            .rev()
            .step_by(28)
            .filter(|&usable| plan(usable).is_some_and(|plan| has_surplus(&plan)));
        let tight: Vec<u32> = tight.collect();
        assert!(!tight.is_empty());
        // The roomiest and the tightest.
        for &usable in [tight.first(), tight.last()].into_iter().flatten() {
            check_with(&d, &small_sram(24, 8, usable), 5, &fewest);
        }
    }
}

#[test]
fn quantised_weights() {
    for quant in [DType::Q8, DType::Q4] {
        let d =
            Decoder { hidden: 64, ffn: 96, quant: Some(quant), layers: 1, ..Decoder::default() };
        check(&d, &grid(16, 16), 4);
        check(&Decoder { folded: true, ..d }, &grid(20, 11), 4);
    }
}

#[test]
fn rope_scalings() {
    let (factor, original) = (Real::new(2.0), 8);
    for scaling in [
        RopeScaling::Linear { factor },
        RopeScaling::Dynamic { factor, original },
        RopeScaling::Llama3 { factor, low: Real::new(1.0), high: Real::new(4.0), original },
    ] {
        check(&Decoder { scaling, layers: 1, ..Decoder::default() }, &grid(16, 16), 14);
    }
}

#[test]
fn strips_turn_on_narrow_wafers() {
    let mut turns = 0;
    for (width, height, usable) in
        [(12, 24, 4000), (9, 40, 3000), (7, 60, 2600), (16, 30, 3000), (6, 64, 3000)]
    {
        let d = Decoder { layers: 3, ..Decoder::default() };
        let plan = check(&d, &small_sram(width, height, usable), 6);
        let rows: std::collections::BTreeSet<u32> = plan.regions.iter().map(|r| r.rect.y).collect();
        turns += rows.len() - 1;
    }
    assert!(turns >= 5, "the grids were meant to force turns, found {turns}");
}

#[test]
fn ragged_sizes_on_ragged_grids() {
    for (width, height) in [(13, 13), (17, 11), (40, 3), (64, 1), (31, 32)] {
        let d = Decoder {
            hidden: 37,
            ffn: 53,
            vocab: 101,
            head_dim: 6,
            heads: 6,
            kv_heads: 2,
            ..Decoder::default()
        };
        check(&d, &grid(width, height), 4);
    }
}

/// A random decoder; sizes are small, odd and unrelated to each other.
fn random_decoder(rng: &mut Rng) -> Decoder {
    let kv_heads = 1 + rng.below(4);
    let mut coin = {
        let mut bits = rng.next_u64();
        move || {
            bits >>= 1;
            bits & 1 == 1
        }
    };
    Decoder {
        hidden: 5 + rng.below(60),
        heads: kv_heads * (1 + rng.below(3)),
        kv_heads,
        head_dim: 2 + 2 * rng.below(9),
        ffn: 3 + rng.below(90),
        vocab: 11 + rng.below(120),
        layers: 1 + rng.below(4) as u32,
        context: 6 + rng.below(20),
        bias: coin(),
        qk_norm: coin(),
        window: if coin() { Some(1 + rng.below(12)) } else { None },
        tied: coin(),
        merged: coin(),
        folded: coin(),
        ..Decoder::default()
    }
}

#[test]
fn random_decoders_on_random_grids() {
    let mut rng = Rng::new(11);
    let mut turned = 0;
    for _ in 0..60 {
        let d = random_decoder(&mut rng);
        let (width, height) = (4 + rng.below(36) as u32, 1 + rng.below(36) as u32);
        // From roomy to so tight that regions have to be wide and strips have to turn.
        let usable = 1500 + 4 * rng.below(2000) as u32;
        let target = small_sram(width, height, usable);
        let module = crate::decoder::module(&d);
        let options = backend_wafer::Options::default();
        match backend_wafer::compile(&module, &target, &options, &|_| {}) {
            Ok(_) => {
                let plan = check(&d, &target, 6);
                turned += usize::from(plan.regions.iter().any(|r| r.rect.y > 0));
            }
            Err(e) => assert!(e.does_not_fit(), "{d:?}: {e}"),
        }
    }
    assert!(turned >= 10, "only {turned} plans have more than one strip");
}

#[test]
fn exponentials_and_activations_are_shared_along_lines() {
    let d = Decoder {
        hidden: 16,
        heads: 8,
        kv_heads: 1,
        head_dim: 16,
        ffn: 900,
        layers: 1,
        context: 300,
        ..Decoder::default()
    };
    let mut kinds = std::collections::BTreeSet::new();
    let mut overlapped = 0;
    for (width, height) in [(40, 5), (40, 11), (30, 13), (60, 20), (50, 29)] {
        let wse3 = plan::Target::preset("wse3").expect("preset");
        let plan = check(&d, &plan::Target { width, height, ..wse3 }, 6);
        let layer = plan.templates.iter().find(|t| t.kv.is_some()).expect("a layer");
        // Six tokens leave rows without any: their maximum is -inf.
        assert!(layer.height < 6 || layer.kv.is_some_and(|kv| kv.tokens((0, 6), 5).1 == 0));
        let named = |name: &str| layer.phases.iter().any(|p| p.name == name);
        overlapped += u32::from(named("softmax") && !named("softmax-max"));
        for phase in layer.phases.iter().filter(|p| ["softmax", "activation"].contains(&&*p.name)) {
            let comm = phase.comm.as_ref().expect("a share communicates");
            kinds.insert((phase.name.clone(), comm.kind.starts_with("sum in groups")));
        }
    }
    let seen = |name: &str, groups| kinds.contains(&(name.to_string(), groups));
    assert!(overlapped > 0, "{overlapped} plans find the maximum while they share exponentials");
    assert!(seen("softmax", false) && seen("activation", true), "only {kinds:?}");
}
