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
fn llama_8b_fits_one_wse3_at_4k() {
    let module = module(&llama_8b(4096));
    let target = plan::Target::preset("wse3").expect("preset");
    let start = std::time::Instant::now();
    let (plan, _) = compile(&module, &target, &Options::default(), &|s| {
        if std::env::var("SHOW").is_ok() { eprintln!("{s:?} {:?}", start.elapsed()); }
    }).expect("fits");
    eprintln!("{:?}", start.elapsed());
    let token = plan.claims.token_cycles;
    eprintln!("token cycles {token}, {} tokens/s", 1.0 / target.seconds(token));
    for t in &plan.templates { eprintln!("{} {}x{} cell {:?} buffers {}", t.name, t.width, t.height, t.cell, t.buffers.len()); }
    for c in &plan.claims.phases { eprintln!("{:?} {}", c, plan.templates[c.template.0 as usize].phases[c.phase as usize].name); }
    for c in &plan.claims.sram { eprintln!("{:?}", c); }
    let s = std::time::Instant::now();
    if let Err(v) = plan::verify::verify(&plan) { panic!("{} {:#?}", v.len(), &v[..v.len().min(5)]); }
    eprintln!("verify {:?}", s.elapsed());
}
