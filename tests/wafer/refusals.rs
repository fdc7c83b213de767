//! What cannot be planned is refused by name, with numbers and what to try.

use crate::decoder::{Decoder, grid, module};
use backend_wafer::{Options, WaferError, compile};
use ir::{BinaryOp, Builder, Op, ParamKind, TensorType};
use tensor::DType;

fn error(d: &Decoder, target: &plan::Target) -> WaferError {
    compile(&module(d), target, &Options::default(), &|_| {}).expect_err("must be refused")
}

#[test]
fn a_model_that_does_not_fit_says_by_how_much() {
    let big = Decoder { hidden: 512, ffn: 4096, vocab: 5000, layers: 8, ..Decoder::default() };
    let error = error(&big, &grid(8, 8));
    assert!(error.does_not_fit());
    let text = error.to_string();
    assert!(text.starts_with("SPK4101") && text.contains("weights"), "{text}");
    let WaferError::DoesNotFit(shortfall) = error else { panic!("{text}") };
    let (needed_pes, available_pes) = (shortfall.needed_pes, shortfall.available_pes);
    assert!(available_pes == 64 && needed_pes > 64, "{needed_pes} of {available_pes}");
    // More wafers do not help where none holds the largest block.
    let hints: Vec<String> = error_hints(&big);
    assert!(hints.iter().any(|h| h.contains("--quant")), "{hints:?}");
    assert!(!hints.iter().any(|h| h.contains("wafers")), "{hints:?}");
    let deep = Decoder { layers: 40, ..Decoder::default() };
    let hints: Vec<String> = error_hints(&deep);
    let wafers = |h: &String| h.strip_prefix("--wafers ")?.split(',').next()?.parse().ok();
    let wafers: u32 = hints.iter().find_map(wafers).expect("more wafers hold it");
    // So many do, and no fewer.
    let with = |n| {
        let options =
            Options { wafers: backend_wafer::place::Wafers::UpTo(n), ..Options::default() };
        compile(&module(&deep), &grid(8, 8), &options, &|_| {}).is_ok()
    };
    assert!(with(wafers) && !with(wafers - 1), "{wafers}");
}

fn error_hints(d: &Decoder) -> Vec<String> {
    error(d, &grid(8, 8)).hints().iter().map(ToString::to_string).collect()
}

#[test]
fn a_large_context_is_blamed_on_the_cache() {
    let long = Decoder { context: 400_000, ..Decoder::default() };
    let text = error(&long, &grid(8, 8)).to_string();
    assert!(text.contains("KV cache") || text.contains("activations"), "{text}");
    let hints =
        error(&long, &grid(8, 8)).hints().iter().map(ToString::to_string).collect::<String>();
    assert!(hints.contains("--context"), "{hints}");
}

#[test]
fn more_context_than_the_model_has_is_refused() {
    let options = Options { context: Some(25), ..Options::default() };
    let found = compile(&module(&Decoder::default()), &grid(16, 16), &options, &|_| {});
    assert!(matches!(found, Err(WaferError::Context { asked: 25, supported: 24, .. })));
}

#[test]
fn a_graph_that_is_no_decoder_is_refused_by_value() {
    let mut b = Builder::new("main");
    let tokens = b.param(ParamKind::Input, TensorType::new(DType::I32, [ir::Symbol::T]), "tokens");
    let table = b.weight("embed", DType::F32, &[8, 4]).expect("weight");
    let x = b.apply(Op::Gather, &[table, tokens]).expect("gather");
    let doubled = b.apply(Op::Binary(BinaryOp::Add), &[x, x]).expect("add");
    let logits = b.linear(doubled, table).expect("head");
    let module = ir::Module::new("odd", 16, b.finish(vec![logits]));
    let found = compile(&module, &grid(16, 16), &Options::default(), &|_| {});
    let Err(WaferError::Unsupported(why)) = found else { panic!("{found:?}") };
    assert_eq!((why.graph.as_str(), why.op), ("main", "binary"));
}

#[test]
fn too_many_dead_pes_and_missing_colors_are_refused() {
    let mut target = grid(16, 16);
    // One column is alive: none is left beside a spare.
    target.dead = (0..16).flat_map(|y| (0..15).map(move |x| (x, y))).collect();
    assert!(matches!(error(&Decoder::default(), &target), WaferError::Unrepairable { .. }));
    let mut target = grid(16, 16);
    target.fabric.colors = 12;
    assert!(matches!(error(&Decoder::default(), &target), WaferError::Colors { .. }));
}

#[test]
fn dead_pes_beyond_the_wafers_of_a_plan_are_refused_and_those_on_it_counted() {
    let mut target = grid(16, 16);
    target.dead = vec![(3, 3), (9999, 0)];
    let text = error(&Decoder::default(), &target).to_string();
    assert!(text.starts_with("SPK4105") && text.contains("(9999, 0)"), "{text}");
    // One row without a living PE, and a column dead from end to end beside it: all of them count.
    target.dead = (0..16).flat_map(|y| (0..15).map(move |x| (x, y))).collect();
    target.dead.push((15, 7));
    let text = error(&Decoder::default(), &target).to_string();
    assert!(text.starts_with("SPK4102") && text.contains("241 dead PEs on wafer 0"), "{text}");
}

#[test]
fn runs_of_all_tiles_beyond_memory_are_refused_before_they_start() {
    use backend_wafer::kernels::{Kernel, build};
    use simulator::{Level, SimError, timing};
    let target = plan::Target::preset("wse3").expect("preset");
    let kernel = |grid| Kernel::PrefillLayer { grid, d: 9, s: 9, f: 30 };
    let large = build(kernel(755), &target).expect("fits the wafer");
    let Err(SimError::Memory { level: 3, bytes, limit }) =
        timing::time_unchecked(&large, Level::L3, 0)
    else {
        panic!("must be refused")
    };
    assert!(limit <= 4 << 30 && bytes > limit, "{bytes} of {limit}");
    // Every PE of such a layer has loops of its own: what a small one takes is known exactly.
    let bytes =
        |grid| timing::budget::bytes(&build(kernel(grid), &target).expect("fits"), Level::L3, 0);
    let (small, four) = (bytes(16), bytes(32));
    assert!((3 * small..5 * small).contains(&four), "{small} and {four}");
}

#[test]
fn compiling_twice_gives_the_same_plan() {
    let module = module(&Decoder { layers: 3, qk_norm: true, ..Decoder::default() });
    let compile = || compile(&module, &grid(20, 20), &Options::default(), &|_| {}).expect("fits").0;
    assert_eq!(plan::codec::encode(&compile()), plan::codec::encode(&compile()));
}
