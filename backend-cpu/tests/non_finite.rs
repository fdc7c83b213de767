//! Weights that are no numbers have no executable: every layout, dtype and rounding says which tensor,
//! where and how many. Infinities that a graph computes itself are its own affair.

use ir::{NonFiniteWeight, WeightMap};
use runtime::Assets;
use runtime::program::Activations;
use sparkc_backend_cpu::{CpuError, compile_in_memory};
use tensor::{DType, Tensor};

const VOCAB: usize = 64;
const WIDTH: usize = 96;

/// Compiles a table, a row that is added to it, and a matrix that is stored as one dtype and becomes
/// `%matrix` of another by `made`.
fn compiled(stored: DType, made: &str, dtype: DType, weights: &WeightMap) -> Result<(), CpuError> {
    let text = format!(
        "module \"weights\" context 8 {{
  graph @main(input %tokens: i32[T]) {{
    %table = weight \"table\" : f32[{VOCAB}, {WIDTH}]
    %x = gather %table, %tokens : f32[T, {WIDTH}]
    %row = weight \"row\" : f32[{WIDTH}]
    %y = add %x, %row : f32[T, {WIDTH}]
    %stored = weight \"matrix\" : {stored}[{VOCAB}, {WIDTH}]
    %matrix = {made} %stored : {dtype}[{VOCAB}, {WIDTH}]
    %across = transpose %matrix {{perm=[1, 0]}} : {dtype}[{WIDTH}, {VOCAB}]
    %all = matmul %y, %across : f32[T, {VOCAB}]
    %logits = slice %all {{axis=0, start=T - R, end=T}} : f32[R, {VOCAB}]
    return %logits
  }}
}}"
    );
    let module = ir::parse(&text).unwrap_or_else(|e| panic!("{stored} {dtype}: {e}"));
    compile_in_memory(&module, Activations::Full, weights, Assets::default()).map(|_| ())
}

/// As [`compiled`], by rounding alone.
fn rounded(stored: DType, dtype: DType, weights: &WeightMap) -> Result<(), CpuError> {
    let made = match dtype {
        _ if dtype == stored => "reshape",
        _ if dtype.is_quantized() => "quantize",
        _ => "cast",
    };
    compiled(stored, made, dtype, weights)
}

fn numbers(shape: &[usize]) -> Tensor {
    let count = shape.iter().product();
    let values: Vec<f32> = (0..count).map(|i| (i % 17) as f32 / 8.0 - 1.0).collect();
    Tensor::from_f32(shape.to_vec(), &values)
}

fn weights(dtype: DType) -> WeightMap {
    let matrix = numbers(&[VOCAB, WIDTH]).cast(dtype).expect("whole groups");
    let table = numbers(&[VOCAB, WIDTH]);
    [("table", table), ("row", numbers(&[WIDTH])), ("matrix", matrix)]
        .into_iter()
        .map(|(name, tensor)| (name.to_string(), tensor))
        .collect()
}

/// A tensor with another element.
fn with(tensor: &Tensor, at: usize, value: f32) -> Tensor {
    let mut values = tensor.to_f32();
    values[at] = value;
    Tensor::from_f32(tensor.shape().to_vec(), &values).cast(tensor.dtype()).expect("whole groups")
}

fn refused(result: Result<(), CpuError>) -> NonFiniteWeight {
    match result {
        Err(error @ CpuError::NonFinite(_)) => {
            assert_eq!(error.code(), "SPK1301");
            let CpuError::NonFinite(weight) = error else { unreachable!("matched above") };
            weight
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_weight_with_nan_or_infinity_is_refused_by_name() {
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        for by in [DType::F32, DType::BF16, DType::Q8, DType::Q4, DType::Q4M] {
            let good = weights(dtype);
            rounded(dtype, by, &good).unwrap_or_else(|e| panic!("{dtype} {by}: {e}"));
            for (name, at, bad) in [
                ("matrix", 5 * WIDTH + 7, f32::NAN),
                ("matrix", VOCAB * WIDTH - 1, f32::INFINITY),
                ("table", 0, f32::NEG_INFINITY),
                ("row", 9, f32::NAN),
            ] {
                let mut broken = good.clone();
                let tensor = with(&good.0[name], at, bad);
                let shape = tensor.shape().to_vec();
                broken.0.insert(name.to_string(), tensor);
                let error = refused(rounded(dtype, by, &broken));
                let index = if shape.len() == 1 { vec![at] } else { vec![at / WIDTH, at % WIDTH] };
                assert_eq!((error.name.as_str(), error.found.first), (name, index), "{dtype} {by}");
                assert_eq!(error.found.count, 1);
            }
        }
    }
}

#[test]
fn stored_groups_without_a_scale_are_refused() {
    for dtype in [DType::Q8, DType::Q4, DType::Q4M] {
        let mut weights = weights(dtype);
        rounded(dtype, dtype, &weights).expect("numbers");
        let mut bytes = weights.0["matrix"].bytes().to_vec();
        let at = 4 * dtype.block_bytes();
        bytes[at..at + 2].copy_from_slice(&[0xff, 0x7f]);
        let broken = Tensor::new(dtype, vec![VOCAB, WIDTH], bytes.into()).expect("as long");
        weights.0.insert("matrix".to_string(), broken);
        let error = refused(rounded(dtype, dtype, &weights));
        assert_eq!((error.name.as_str(), error.found.first), ("matrix", vec![1, 32]));
        assert_eq!(error.found.count, 32);
    }
}

#[test]
fn numbers_that_rounding_makes_infinite_are_refused() {
    for by in [DType::Q8, DType::Q4, DType::Q4M, DType::F16] {
        let mut weights = weights(DType::F32);
        let broken = with(&weights.0["matrix"], 40 * WIDTH, 1e30);
        weights.0.insert("matrix".to_string(), broken);
        rounded(DType::F32, DType::F32, &weights).expect("f32 holds it");
        let error = rounded(DType::F32, by, &weights).unwrap_err();
        assert!(matches!(error, CpuError::Overflow { .. }), "{by}: {error:?}");
        let message = error.to_string();
        assert_eq!(message, format!("matrix: rows 0 to 63 hold values too large for {by}"));
    }
}

#[test]
fn infinities_that_a_graph_computes_are_its_own() {
    let mut weights = weights(DType::F32);
    let zeros = Tensor::from_f32(vec![VOCAB, WIDTH], &[0.0; VOCAB * WIDTH]);
    weights.0.insert("matrix".to_string(), zeros);
    let made = compiled(DType::F32, "rsqrt", DType::F32, &weights);
    made.expect("so does a mask that is a logarithm of zeros and ones");
}
