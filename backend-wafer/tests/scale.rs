//! Real model sizes on the wse3 preset, from shapes alone.

mod common;

use common::{Decoder, module};
use sparkc_backend_wafer::{Options, compile};
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
    let page = sparkc_backend_wafer::report::html(&plan);
    assert!(page.len() <= 1 << 20, "the map takes {} bytes", page.len());
    let rate = 1.0 / target.seconds(plan.claims.token_cycles);
    assert!(rate > 1000.0, "{rate} tokens/s claimed");
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
fn debug_levels() {
    use simulator::timing::{time, Level};
    for (w, h) in [(16, 16), (40, 40), (64, 64)] {
        for name in ["wse3", "small"] {
            let mut target = plan::Target::preset(name).expect("preset");
            target.width = w;
            target.height = h;
            let d = Decoder { hidden: 256, heads: 8, kv_heads: 4, head_dim: 32, ffn: 512, vocab: 2000, layers: 2, context: 256, dtype: DType::BF16, ..Decoder::default() };
            let (plan, _) = match compile(&module(&d), &target, &Options::default(), &|_| {}) { Ok(p) => p, Err(e) => { eprintln!("{e}"); continue } };
            let (a, b) = (time(&plan, Level::L0, 255).expect("time"), time(&plan, Level::L1, 255).expect("time"));
            let r = (a.token_cycles, b.token_cycles);
            if w == 40 { for (t, u) in a.templates.iter().zip(&b.templates) {
                let shape = &plan.templates.iter().find(|x| x.name == t.name).expect("t").phases;
                for ((p, q), s) in t.phases.iter().zip(&u.phases).zip(shape) { eprintln!("{} {}: L0 {} L1 {} diff {} | compute {} {:?}", t.name, p.name, p.cycles, q.cycles, p.cycles as i64 - q.cycles as i64, p.compute, s.comm); }
            } }
            eprintln!("{name} {w}x{h}: claim {} levels {r:?}; {:?}", plan.claims.token_cycles, plan.regions.iter().map(|r| (r.rect.x, r.rect.y, r.rect.w, r.rect.h)).collect::<Vec<_>>());
        }
    }
}
