//! Real model sizes on the wse3 preset, from shapes alone.

use crate::decoder::{Decoder, module};
use backend_wafer::{Options, compile};
use simulator::timing::{Level, time};
use tensor::DType;

fn llama_8b(context: usize) -> Decoder {
    Decoder {
        hidden: 4096,
        heads: 32,
        kv_heads: 8,
        head_dim: 128,
        ffn: 14336,
        vocab: 128_256,
        layers: 32,
        context,
        dtype: DType::BF16,
        cache: DType::F16,
        ..Decoder::default()
    }
}

#[test]
fn llama_8b_fits_one_wse3_at_4k_as_a_small_legal_plan() {
    let module = module(&llama_8b(4096));
    let target = plan::Target::preset("wse3").expect("preset");
    let (plan, report) = compile(&module, &target, &Options::default(), &|_| {}).expect("fits");
    if let Err(found) = plan::verify::verify(&plan) {
        panic!("{} violations, first: {}", found.len(), found[0]);
    }
    assert_eq!(plan.regions.len(), 34);
    // One template per way in and out of a strip, whatever the number of layers.
    assert!(report.templates.len() <= 8, "{} templates", report.templates.len());
    let bytes = plan::codec::encode(&plan).len();
    assert!(bytes <= 256 << 10, "the plan takes {bytes} bytes");
    let page = backend_wafer::report::html(&plan);
    assert!(page.len() <= 1 << 20, "the map takes {} bytes", page.len());
    let rate = 1.0 / target.seconds(plan.claims.token_cycles);
    assert!(rate > 2600.0, "{rate} tokens/s claimed");
    let full = time(&plan, Level::L0, plan.claims.at_pos).expect("times");
    for (what, claimed, timed) in [
        ("token", plan.claims.token_cycles, full.token_cycles),
        ("interval", plan.claims.prefill_interval_cycles, full.prefill_interval_cycles),
    ] {
        let error = (claimed as f64 / timed as f64 - 1.0).abs();
        assert!(error < 0.02, "{what}: {claimed} cycles claimed, {timed} timed");
    }
    let kv = plan.templates.iter().filter_map(|t| t.kv);
    let requests: Vec<u32> = kv.map(|kv| kv.requests).collect();
    assert!(requests.iter().all(|&r| r == requests[0] && r >= 24), "{requests:?} requests");
}

#[test]
fn llama_8b_keeps_a_full_16k_cache_on_one_wse3() {
    let module = module(&llama_8b(16_384));
    let target = plan::Target::preset("wse3").expect("preset");
    match compile(&module, &target, &Options::default(), &|_| {}) {
        Ok((plan, _)) => assert!(plan::verify::verify(&plan).is_ok()),
        Err(e) => panic!("{e}"),
    }
}

#[test]
fn llama_8b_with_layers_in_8_bits_keeps_a_full_128k_cache_on_one_wse3() {
    let module = module(&Decoder { quant: Some(DType::Q8), ..llama_8b(131_072) });
    let target = plan::Target::preset("wse3").expect("preset");
    let options = Options { requests: Some(1), ..Options::default() };
    let (plan, _) = compile(&module, &target, &options, &|_| {}).expect("fits");
    assert!(plan::verify::verify(&plan).is_ok());
    assert!(plan.templates.iter().all(|t| t.kv.is_none_or(|kv| kv.columns > 1)));
    let full = time(&plan, Level::L0, plan.claims.at_pos).expect("times");
    // With the tables in 8 bits too, as `--quant q8` has them, there is room for larger regions: 1,700.
    assert!(full.tokens_per_second >= 1_350.0, "{} tokens/s", full.tokens_per_second);
    let error = (plan.claims.token_cycles as f64 / full.token_cycles as f64 - 1.0).abs();
    assert!(error < 0.05, "the claim is off by {:.2} %", 100.0 * error);
}

#[test]
fn claims_and_levels_agree_with_every_wavelet_of_every_tile() {
    for (side, name) in [(16, "wse3"), (40, "wse3"), (64, "wse3"), (40, "small")] {
        let mut target = plan::Target::preset(name).expect("preset");
        (target.width, target.height) = (side, side);
        let d = Decoder::medium();
        let (plan, _) = compile(&module(&d), &target, &Options::default(), &|_| {}).expect("fits");
        let at = |level| time(&plan, level, plan.claims.at_pos).expect("times").token_cycles as f64;
        let exact = at(Level::L3);
        assert_eq!(at(Level::L2), exact, "{name} {side}");
        for (what, cycles) in [
            ("claim", plan.claims.token_cycles as f64),
            ("L0", at(Level::L0)),
            ("L1", at(Level::L1)),
        ] {
            let error = (cycles / exact - 1.0).abs();
            let bound = if what == "claim" { 0.05 } else { 0.01 };
            assert!(error < bound, "{name} {side}: {what} is off by {:.2} %", 100.0 * error);
        }
    }
}
