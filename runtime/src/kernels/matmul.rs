//! Matrix products: a packed constant times activations, and activations times activations.
//!
//! One token goes through `gemv`, straight from the packed bytes. Several tokens share widened
//! weights: 128 columns of two tiles at a time, so that weights, activations and sums stay in the
//! first-level cache. Both add the columns in order, so the bits agree.

use super::Kernels;
use super::pack::{Packed, TILE};
use crate::pool::{Columns, Pool, Scratch};

/// Columns widened at a time: 2 tiles of them are 16 KiB.
const BLOCK: usize = 128;
/// Two tiles.
const PAIR: usize = 2 * TILE;
/// Multiplications below which waking threads costs more than it saves.
const THREAD_WORK: usize = 1 << 15;

/// `out[t][n] = sum_k x[t][k] * w[n][k]`: x is `[T, cols]`, out `[T, rows]`.
pub fn linear(kernels: &Kernels, pool: &Pool, w: &Packed<'_>, x: &[f32], out: &mut [f32]) {
    let tokens = x.len().checked_div(w.cols).unwrap_or(0);
    let small = w.rows * w.cols * tokens < THREAD_WORK;
    if tokens == 1 {
        pool.split(out, TILE, small, &|start, part, _| (kernels.gemv)(w, start / TILE, x, part));
        return;
    }
    pool.split_columns(out, w.rows, PAIR, small, &|first, mut columns, scratch| {
        linear_columns(kernels, w, x, first / TILE, &mut columns, scratch);
    });
}

/// The columns of the result that come from the tiles from `tile` on.
fn linear_columns(
    kernels: &Kernels,
    w: &Packed<'_>,
    x: &[f32],
    tile: usize,
    out: &mut Columns<'_>,
    scratch: &mut Scratch,
) {
    let (tokens, width) = (out.rows(), out.width());
    let [weights, sums] = scratch.two(BLOCK * PAIR, tokens * PAIR);
    for pair in 0..width.div_ceil(PAIR) {
        let first = tile + 2 * pair;
        sums.fill(0.0);
        for k in (0..w.cols).step_by(BLOCK) {
            let n = BLOCK.min(w.cols - k);
            let weights = &mut weights[..n * PAIR];
            (kernels.widen)(w.dtype, w.tile(first), k, n, weights, PAIR);
            if first + 1 < w.tiles() {
                (kernels.widen)(w.dtype, w.tile(first + 1), k, n, &mut weights[TILE..], PAIR);
            }
            (kernels.micro)(weights, &x[k..], w.cols, sums);
        }
        let columns = pair * PAIR..((pair + 1) * PAIR).min(width);
        for (t, sums) in sums.chunks_exact(PAIR).enumerate() {
            let target = &mut out.row(t)[columns.clone()];
            target.copy_from_slice(&sums[..target.len()]);
        }
    }
}

/// Extents of a batched product of activations.
#[derive(Clone, Copy, Debug)]
pub struct MatmulShape {
    /// Independent products.
    pub batch: usize,
    /// Rows of a.
    pub m: usize,
    /// Inner extent.
    pub k: usize,
    /// Columns of b.
    pub n: usize,
    /// Whether every product reads the same a.
    pub shared_a: bool,
    /// Whether every product reads the same b.
    pub shared_b: bool,
}

/// `out[b][i][j] = sum_k a[b][i][k] * b[b][k][j]`, k in order.
pub fn matmul(pool: &Pool, shape: MatmulShape, a: &[f32], b: &[f32], out: &mut [f32]) {
    let MatmulShape { batch, m, k, n, shared_a, shared_b } = shape;
    let small = batch * m * k * n < THREAD_WORK;
    pool.split(out, n.max(1), small, &|start, part, _| {
        for (i, row) in part.chunks_mut(n).enumerate() {
            let index = start / n + i;
            let a_row = if shared_a { index % m } else { index };
            let from = if shared_b { 0 } else { index / m * k * n };
            row.fill(0.0);
            for (x, b) in a[a_row * k..][..k].iter().zip(b[from..].chunks_exact(n)) {
                for (o, b) in row.iter_mut().zip(b) {
                    *o += x * b;
                }
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::Isa;
    use crate::kernels::pack::pack_tile;
    use tensor::{DType, Rng, Tensor, compare};

    fn values(rng: &mut Rng, n: usize) -> Vec<f32> {
        (0..n).map(|_| rng.normal()).collect()
    }

    fn packed(dtype: DType, rows: usize, cols: usize, rng: &mut Rng) -> (Vec<u8>, Vec<f32>) {
        let w = Tensor::from_f32(vec![rows, cols], &values(rng, rows * cols)).cast(dtype).unwrap();
        let mut bytes = Vec::new();
        for rows in w.bytes().chunks(dtype.bytes_for(cols).unwrap() * TILE) {
            pack_tile(dtype, cols, rows, &mut bytes);
        }
        (bytes, w.to_f32())
    }

    fn isas() -> impl Iterator<Item = Kernels> {
        Isa::ALL.into_iter().filter_map(Kernels::new)
    }

    #[test]
    fn linear_is_the_product_on_every_instruction_set() {
        let pool = Pool::new(2).unwrap();
        let mut rng = Rng::new(5);
        for dtype in [DType::F32, DType::F16, DType::BF16, DType::Q8, DType::Q4] {
            for (rows, cols, tokens) in
                [(1, 32, 1), (17, 64, 3), (100, 160, 13), (200, 288, 1), (70, 33, 7), (33, 1, 2)]
            {
                let cols = if dtype.is_quantized() { cols / 32 * 32 } else { cols };
                if cols == 0 {
                    continue;
                }
                let (bytes, w) = packed(dtype, rows, cols, &mut rng);
                let weight = Packed::new(dtype, rows, cols, &bytes).unwrap();
                let x = values(&mut rng, tokens * cols);
                let expected: Vec<f32> = (0..tokens * rows)
                    .map(|i| {
                        let (x, w) = (&x[i / rows * cols..][..cols], &w[i % rows * cols..][..cols]);
                        x.iter().zip(w).map(|(a, b)| f64::from(a * b)).sum::<f64>() as f32
                    })
                    .collect();
                for kernels in isas() {
                    let mut out = vec![f32::NAN; tokens * rows];
                    linear(&kernels, &pool, &weight, &x, &mut out);
                    let error = compare::relative_to_max(&out, &expected);
                    let case = format!("{dtype} {rows}x{cols}, {tokens} tokens, {}", kernels.isa);
                    assert!(error < 1e-5, "{case}: {error}");
                }
            }
        }
    }

    #[test]
    fn bits_do_not_depend_on_batch_or_threads() {
        let mut rng = Rng::new(6);
        for dtype in [DType::F32, DType::F16, DType::BF16, DType::Q8, DType::Q4] {
            // Large enough to be split among threads.
            let (rows, cols, tokens) = (37 * 16 + 3, 320, 29);
            let (bytes, _) = packed(dtype, rows, cols, &mut rng);
            let weight = Packed::new(dtype, rows, cols, &bytes).unwrap();
            let x = values(&mut rng, tokens * cols);
            for kernels in isas() {
                let mut whole = vec![0.0; tokens * rows];
                linear(&kernels, &Pool::new(1).unwrap(), &weight, &x, &mut whole);
                for threads in [1, 2, 4] {
                    let pool = Pool::new(threads).unwrap();
                    for step in [1, 2, 5, tokens] {
                        let mut out = vec![0.0; tokens * rows];
                        for (x, out) in x.chunks(step * cols).zip(out.chunks_mut(step * rows)) {
                            linear(&kernels, &pool, &weight, x, out);
                        }
                        let case = format!("{dtype} {} by {step} on {threads}", kernels.isa);
                        assert!(
                            out.iter().zip(&whole).all(|(a, b)| a.to_bits() == b.to_bits()),
                            "{case}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn batched_products_share_operands_where_told() {
        let mut rng = Rng::new(7);
        let pool = Pool::new(2).unwrap();
        for (shared_a, shared_b) in [(false, false), (true, false), (false, true)] {
            let shape = MatmulShape { batch: 3, m: 5, k: 7, n: 4, shared_a, shared_b };
            let a = values(&mut rng, if shared_a { 35 } else { 105 });
            let b = values(&mut rng, if shared_b { 28 } else { 84 });
            let mut out = vec![f32::NAN; 60];
            matmul(&pool, shape, &a, &b, &mut out);
            for (i, o) in out.iter().enumerate() {
                let (batch, row, column) = (i / 20, i / 4 % 5, i % 4);
                let a_at = if shared_a { row * 7 } else { (batch * 5 + row) * 7 };
                let b_at = if shared_b { 0 } else { batch * 28 };
                let sum: f32 = (0..7).map(|k| a[a_at + k] * b[b_at + k * 4 + column]).sum();
                assert!((o - sum).abs() < 1e-5, "element {i}");
            }
        }
    }
}
