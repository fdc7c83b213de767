//! Printing and parsing agree; errors have a place; hostile text does no harm.

use tensor::{DType, Rng, element_count};

use super::*;
use crate::eval::{EvalOptions, Session};
use crate::random::{self, RandomOptions};
use crate::testing::{Style, decoder};
use crate::{
    Builder, Dim, Op, OpKind, ParamKind, Real, RopeScaling, RopeSpec, Symbol, TensorType, op_table,
    verify,
};

const SMALL: &str = r#"module "small" context 16 {
  meta "architecture" = "none \"really\""
  block @layer(carry %x: f32[T, 4], input %pos: i32[T], state %k: cache f32[C, 1, 2]) {
    %w = weight "{layer}.w" : bf16[2, 4]
    %4 = transpose %w {perm=[1, 0]} : bf16[4, 2]
    %5 = matmul %x, %4 : f32[T, 2]
    %6 = reshape %5 : f32[T, 1, 2]
    %7 = rope %6, %pos {dim=2, theta=10000.0} : f32[T, 1, 2]
    %k#8 = cache_append %k, %7 : cache f32[C + T, 1, 2]
    %9 = cache_read %k#8 : f32[C + T, 1, 2]
    %10 = attention %7, %9, %9 {scale=0.5, window=4} : f32[T, 1, 2]
    %11 = reshape %10 : f32[T, 2]
    %12 = concat %11, %11 {axis=1} : f32[T, 4]
    %13 = silu %12 : f32[T, 4]
    %14 = add %x, %13 : f32[T, 4]
    return %14, %k#8
  }
  graph @main(input %tokens: i32[T], state %1: cache x2 f32[C, 1, 2]) {
    %table = weight "table" : q8[7, 32]
    %3 = gather %table, %tokens : f32[T, 32]
    %4 = slice %3 {axis=1, start=0, end=4} : f32[T, 4]
    %5 = positions : i32[T]
    %6, %7 = repeat @layer 0..2 (%4, %5, %1) : f32[T, 4], cache x2 f32[C + T, 1, 2]
    %8 = slice %6 {axis=0, start=T - R, end=T} : f32[R, 4]
    %9 = reduce_mean %8 {axis=1} : f32[R, 1]
    %half = const -0.5 : f32[]
    %11 = mul %9, %half : f32[R, 1]
    %"the logits" = broadcast %11 : f32[R, 7]
    return %"the logits", %7
  }
}
"#;

#[test]
fn a_small_module_reads_and_prints_as_it_is_written() {
    // The first state and its successor share a name, so both carry their number.
    let text = SMALL.replace("state %k: ", "state %k#2: ").replace("append %k,", "append %k#2,");
    let module = parse(&text).unwrap();
    assert_eq!(verify(&module), Ok(()));
    assert_eq!(print(&module), text);
    assert_eq!(module.meta["architecture"], "none \"really\"");
    assert_eq!(module.blocks[0].value(module.blocks[0].results[1]).name.as_deref(), Some("k"));
    // A name that only looks shared may be written without its number.
    assert_eq!(parse(SMALL).unwrap(), module);
}

#[test]
fn space_and_comments_mean_nothing() {
    let text = "module \"m\"context 1{// a comment\ngraph@main(input%t:i32[T]){return%t}}";
    let module = parse(text).unwrap();
    assert_eq!(parse(&print(&module)).unwrap(), module);
    assert_eq!(parse(&text.replace(" a comment", "")).unwrap(), module);
}

#[test]
fn printing_and_parsing_are_inverse_on_random_modules() {
    let mut seen = vec![false; op_table().len()];
    // The last one rotates half of a head of ten.
    for seed in (0..300).chain([2_029_845]) {
        let module = random::module(seed, &RandomOptions::default());
        let text = print(&module);
        match parse(&text) {
            Ok(back) => assert_eq!(back, module, "seed {seed}\n{text}"),
            Err(error) => panic!("seed {seed}: {error}\n{text}"),
        }
        for (_, node) in module.graphs().flat_map(|g| g.nodes()) {
            seen[node.op.kind() as usize] = true;
        }
    }
    let missing: Vec<OpKind> =
        op_table().iter().map(|row| row.kind).filter(|&k| !seen[k as usize]).collect();
    assert_eq!(missing, []);
}

#[test]
fn modules_with_dead_nodes_come_back_compacted() {
    let mut module = decoder(Style::Primitive);
    let dead = Op::Const(Real::new(3.0));
    let ty = TensorType::new(DType::F32, Vec::<usize>::new()).into();
    module.main.add_node(dead, vec![], vec![ty]);
    let order = module.main.order();
    let kept = order[..order.len() - 1].to_vec();
    module.main.set_order(kept);
    let back = parse(&print(&module)).unwrap();
    assert_ne!(back, module);
    assert_eq!(back, module.compact());
}

#[test]
fn every_attribute_survives() {
    let real = Real::new;
    let mut b = Builder::new("g");
    let dims = [Symbol::T.into(), Dim::from(2), Dim::from(8)];
    let x = b.param(ParamKind::Input, TensorType::new(DType::F32, dims), "x");
    let p = b.param(ParamKind::Input, TensorType::new(DType::I32, [Symbol::T]), "p");
    let mut results = Vec::new();
    for scaling in [
        RopeScaling::None,
        RopeScaling::Linear { factor: real(2.0) },
        RopeScaling::Dynamic { factor: real(2.5), original: 64 },
        RopeScaling::Llama3 { factor: real(8.0), low: real(1.0), high: real(4.0), original: 8192 },
        RopeScaling::Yarn {
            factor: real(40.0),
            beta_fast: real(32.0),
            beta_slow: real(1.0),
            attention_factor: real(1.368_887_945_411_393_8),
            original: 4096,
            truncate: false,
        },
    ] {
        let spec = RopeSpec { dim: 4, theta: real(1e-7), scaling };
        results.push(b.apply(Op::Rope(Box::new(spec)), &[x, p]).unwrap());
    }
    for value in [0.0, -1.0, 0.1, 1e300, -2.5e-9, f64::INFINITY, f64::NEG_INFINITY] {
        results.push(b.constant(value).unwrap());
    }
    results.push(b.apply(Op::CausalMask { window: None }, &[]).unwrap());
    results.push(b.apply(Op::CausalMask { window: Some(3) }, &[]).unwrap());
    let rest = Op::Slice { axis: 0, start: 0.into(), end: &Dim::from(Symbol::T) - &1.into() };
    results.push(b.apply(rest, &[x]).unwrap());
    let graph = b.finish(results);
    let text = print_graph(&graph);
    assert_eq!(parse_graph(&text).unwrap(), graph, "{text}");
    // Numbers as people write them.
    let loose = text.replace("theta=1e-7", "theta=0.0000001").replace("const -1.0", "const -1");
    assert_eq!(parse_graph(&loose).unwrap(), graph);
}

/// The error in the body of a graph with a value `%x: f32[T, 4]`, with its code.
fn error(body: &str) -> String {
    let text = format!("graph @g(input %x: f32[T, 4]) {{\n{body}\nreturn %x }}");
    match parse_graph(&text) {
        Ok(graph) => panic!("{graph}"),
        Err(error) => format!("{} {error}", error.code()),
    }
}

#[test]
fn errors_say_where_and_what() {
    for (body, expected) in [
        ("%y = add %x, %z : f32[T, 4]", "SPK1003 2:14: unknown value %z"),
        ("%y = plus %x, %x : f32[T, 4]", "SPK1003 2:6: unknown op plus"),
        ("%y = unary %x : f32[T, 4]", "SPK1003 2:6: unknown op unary"),
        ("%y = cast %x : f64[T, 4]", "SPK1003 2:16: unknown dtype f64"),
        ("%y = repeat @b 0..1 () : f32[]", "SPK1003 2:13: unknown block @b"),
        ("%x = neg %x : f32[T, 4]", "SPK1004 2:1: %x is defined twice"),
        ("%y = neg %x : f32[T, 5]", "SPK1005 2:13: stated as f32[T, 5], but it is f32[T, 4]"),
        ("%y = matmul %x : f32[T, 4]", "SPK1005 2:6: matmul takes 2 operands, found 1"),
        ("%y, %z = neg %x : f32[T, 4]", "SPK1005 2:1: 2 names for 1 results"),
        ("%y = weight \"w\" : f32[T]", "SPK1005 2:6: the weight \"w\" has no fixed shape"),
        ("%y = concat %x : f32[T, 4]", "SPK1006 2:6: the attribute `axis` is missing"),
        ("%y = neg %x {axis=0} : f32[T, 4]", "SPK1006 2:6: neg has no attribute `axis`"),
        ("%y = glu %x, %x {act=sin} : f32[T, 4]", "SPK1006 2:6: \"sin\" is no activation"),
        ("%y = neg %x {a=0, a=1} : f32[T, 4]", "SPK1004 2:19: `a` is defined twice"),
        ("%y = neg %x", "SPK1002 3:1: expected `:`, found `return`"),
        ("neg %x", "SPK1002 2:1: expected a value or `return`, found `neg`"),
        ("%y = neg %x : f32[T; 4]", "SPK1001 2:20: unexpected character ';'"),
        ("%y = weight \"w : f32[]", "SPK1001 2:23: a string without its closing quote"),
        (
            "%y = weight \"\\q\" : f32[]",
            "SPK1001 2:16: the escapes are `\\\"`, `\\\\`, `\\n` and `\\u{hex}`",
        ),
        ("%y = const 1e999 : f32[]", "SPK1007 2:12: 1e999 is too large"),
        ("%y = const nan : f32[]", "SPK1002 2:12: expected a number, found `nan`"),
        (
            "%y = weight \"w\" : f32[99999999999999999999]",
            "SPK1007 2:23: 99999999999999999999 is too large",
        ),
        ("%y = weight \"w\" : f32[1,1,1,1,1,1,1,1,1]", "SPK1007 2:39: more than 8 axes"),
        (
            "%y = slice %x {axis=0, start=T+T+T+T+T+T+T+T+T, end=T} : f32[T, 4]",
            "SPK1007 2:30: an extent of more than 8 terms",
        ),
    ] {
        assert_eq!(error(body), expected);
    }
    assert_eq!(
        parse("").unwrap_err().to_string(),
        "1:1: expected `module`, found the end of the text"
    );
    let text = parse("module \"m\" context 4 { graph @main() { return } } extra").unwrap_err();
    assert_eq!(text.to_string(), "1:51: expected the end of the text, found `extra`");
    let twice = "module \"m\" context 4 { block @b() { return } block @b() { return }";
    assert_eq!(parse(twice).unwrap_err().to_string(), "1:52: @b is defined twice");
}

#[test]
fn damaged_text_is_refused_or_read_but_never_fatal() {
    let rounds = 4000;
    let mut rng = Rng::new(5);
    let pieces =
        ["{", "}", "%", "#9", "\"", "T*T*T*T", "x4294967295", "0..4294967295", "-", "\u{e9}"];
    let (mut refused, mut verified) = (0, 0);
    for round in 0..rounds {
        let options = RandomOptions { steps: 3, ..RandomOptions::default() };
        let mut text = match round % 20 {
            0 => SMALL.to_string(),
            _ => print(&random::module(round % 40, &options)),
        };
        for _ in 0..1 + rng.below(3) {
            let boundary = |at: usize| (0..=at).rev().find(|&i| text.is_char_boundary(i));
            let a = boundary(rng.below(text.len())).unwrap_or(0);
            let z = boundary((a + rng.below(12)).min(text.len())).unwrap_or(a).max(a);
            match rng.below(3) {
                0 => text.replace_range(a..z, ""),
                1 => text.insert_str(a, pieces[rng.below(pieces.len())]),
                _ => {
                    let (copied, at) = (text[a..z].to_string(), boundary(rng.below(text.len())));
                    text.insert_str(at.unwrap_or(0), &copied);
                }
            }
            if text.is_empty() {
                break;
            }
        }
        let Ok(module) = parse(&text) else {
            refused += 1;
            continue;
        };
        if verify(&module).is_ok() {
            verified += 1;
            evaluate(&module);
        }
    }
    assert!(refused > rounds / 2, "{refused} of {rounds} refused");
    assert!(verified > rounds / 50, "only {verified} of {rounds} damages were harmless");
}

/// Runs a module that verifies, whatever it says: an answer or an error.
fn evaluate(module: &Module) {
    let weights = module.weights();
    let sizes = weights.iter().map(|w| element_count(&w.shape).unwrap_or(usize::MAX));
    if sizes.fold(0, usize::saturating_add) > 1 << 18 {
        return;
    }
    let weights = random::weights(module, 0);
    let options = EvalOptions { max_elements: 1 << 20, ..EvalOptions::default() };
    let mut session = Session::new(module, &weights, options).expect("it verifies");
    let _ = session.step(&[1, 2], 2);
    let _ = session.step(&[3], 1);
}

#[test]
fn depth_and_length_of_text_cost_no_stack() {
    for piece in ["(", "{", "[", "%a = neg ", "T * ", "- ", "//", "module \"m\" "] {
        let _ = parse(&piece.repeat(200_000));
        let body = format!("graph @g() {{ {}", piece.repeat(200_000));
        assert!(parse_graph(&body).is_err());
    }
}
