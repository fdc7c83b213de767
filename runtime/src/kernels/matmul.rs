//! Matrix products: a packed constant times activations, and activations times activations.
//!
//! One token goes through `gemv`, straight from the packed bytes. Several tokens share widened
//! weights: a chunk of columns of two tiles at a time, so that weights and sums stay in near caches,
//! and the next chunk is fetched meanwhile. Both add the columns in order, so the bits agree. Products
//! of one x with several weights are one job.

use super::Kernels;
use super::activation::{BLOCK as TOKENS, Block, TOKEN_WORDS};
use super::pack::{CHUNK, PAIR, Packed, TILE, chunk};
use super::panel::{CODES, HEAD, HEADS, Panel};
use crate::pool::{Columns, Pool, Scratch};

/// Columns widened at a time: 2 tiles of them are 64 KiB of the second-level cache.
const BLOCK: usize = 512;
/// Tokens whose sums for two tiles fit the registers of AVX-512.
pub(crate) const FLOAT_TOKENS: usize = 12;
/// Tokens, at most, that are multiplied with weights straight from their packed bytes; for more it
/// pays to widen or unpack them first.
const FEW_TOKENS: [usize; 2] = [2 * FLOAT_TOKENS, 2 * INTEGER_TOKENS];
/// Tokens that a kernel multiplies with quantised weights straight from their packed bytes.
pub(crate) const INTEGER_TOKENS: usize = 8;
/// What making one element an integer or moving it costs, in multiplications.
const ELEMENT_WORK: usize = 2;

/// Scratch elements of a thread for products of `tokens` rows.
pub(crate) fn scratch_elements(tokens: usize) -> usize {
    // One token takes none of it.
    let weights = if tokens > 1 { BLOCK * PAIR } else { 0 };
    weights.max(HEADS) + tokens * PAIR
}

/// `out[t][n] = sum_k x[t][k] * w[n][k]`: x is `[T, cols]`, out `[T, rows]`.
pub fn linear(kernels: &Kernels, pool: &Pool, w: &Packed<'_>, x: &[f32], out: &mut [f32]) {
    linears(kernels, pool, [*w], x, [out]);
}

/// [`linear`] of several weights and the same x, as one job. The weights have equally many columns,
/// and all or none are quantised.
///
/// # Panics
/// When they have not.
pub fn linears<const N: usize>(
    kernels: &Kernels,
    pool: &Pool,
    w: [Packed<'_>; N],
    x: &[f32],
    out: [&mut [f32]; N],
) {
    let (cols, quantized) = (w[0].cols, w[0].dtype.is_quantized());
    assert!(w.iter().all(|w| w.cols == cols && w.dtype.is_quantized() == quantized));
    if x.is_empty() {
        // No tokens, or sums of nothing.
        return out.into_iter().for_each(|out| out.fill(0.0));
    }
    let tokens = x.len() / cols;
    let rows: usize = w.iter().map(|w| w.rows).sum();
    // Products with few-bit weights go about four times as fast as those with 16 bits.
    let work = rows * cols * tokens / if quantized { 4 } else { 1 };
    let mut i = 0;
    let out = out.map(|out| {
        i += 1;
        (out, w[i - 1].rows)
    });
    if quantized {
        return integer_linears(kernels, pool, w, x, work, out);
    }
    if tokens == 1 {
        pool.split_matrices(out, PAIR, work, &|i, first, mut columns, _| {
            (kernels.gemv)(&w[i], first / TILE, x, columns.row(0));
        });
        return;
    }
    let mut activations = pool.activations();
    let blocks = activations.get(x.len());
    let block_len = FLOAT_TOKENS * cols;
    pool.split(blocks, block_len, ELEMENT_WORK * x.len(), &|start, blocks, _| {
        for (x, block) in x[start..].chunks(block_len).zip(blocks.chunks_mut(block_len)) {
            interleave(x, cols, block);
        }
    });
    let blocks = &*blocks;
    if let Some(few) = kernels.few.filter(|_| tokens <= FEW_TOKENS[0]) {
        pool.split_matrices(out, PAIR, work, &|i, first, mut columns, _| {
            let mut sums = [0.0; FEW_TOKENS[0] * PAIR];
            let sums = &mut sums[..tokens * PAIR];
            for pair in 0..columns.width().div_ceil(PAIR) {
                let parts = blocks.chunks(block_len).zip(sums.chunks_mut(FLOAT_TOKENS * PAIR));
                for (block, sums) in parts {
                    few(&w[i], first / TILE + 2 * pair, block, sums);
                }
                store_pair(pair, sums, &mut columns);
            }
        });
        return;
    }
    pool.split_matrices(out, PAIR, work, &|i, first, mut columns, scratch| {
        linear_columns(kernels, &w[i], blocks, first / TILE, &mut columns, scratch);
    });
}

/// `x[m][cols]` to `block[cols][m]`.
fn interleave(x: &[f32], cols: usize, block: &mut [f32]) {
    let m = x.len() / cols;
    for (t, x) in x.chunks_exact(cols).enumerate() {
        for (to, &from) in block[t..].iter_mut().step_by(m).zip(x) {
            *to = from;
        }
    }
}

/// Quantised weights: activations become integers first, once for all threads.
fn integer_linears<const N: usize>(
    kernels: &Kernels,
    pool: &Pool,
    w: [Packed<'_>; N],
    x: &[f32],
    work: usize,
    out: [(&mut [f32], usize); N],
) {
    let (groups, cols) = (w[0].groups(), w[0].cols);
    let tokens = x.len() / cols;
    let few = kernels.integer_few.filter(|_| tokens > 1 && tokens <= FEW_TOKENS[1]);
    let block_tokens = if few.is_some() { 1 } else { TOKENS };
    let block_words = block_tokens * groups * TOKEN_WORDS;
    let mut activations = pool.activations();
    let words = activations.words(tokens * groups * TOKEN_WORDS);
    pool.split(words, block_words, ELEMENT_WORK * x.len(), &|start, words, _| {
        let x = &x[start / block_words * block_tokens * cols..];
        let blocks = words.chunks_mut(block_words);
        for (x, words) in x.chunks(block_tokens * cols).zip(blocks) {
            let m = words.len() / (groups * TOKEN_WORDS);
            (kernels.quantize)(kernels.activations, m, cols, x, words);
        }
    });
    let words = &*words;
    if let (1, Some(gemv)) = (tokens, kernels.integer_gemv) {
        let x = Block::new(1, groups, words);
        pool.split_matrices(out, TILE, work, &|i, first, mut columns, _| {
            gemv(&w[i], first / TILE, &x, columns.row(0));
        });
        return;
    }
    if let Some(few) = few {
        pool.split_matrices(out, TILE, work, &|i, first, mut columns, _| {
            for start in (0..columns.width()).step_by(TILE) {
                let end = (start + TILE).min(columns.width());
                // A tile is read from memory once for all tokens.
                for (b, words) in words.chunks(INTEGER_TOKENS * block_words).enumerate() {
                    let mut sums = [0.0; INTEGER_TOKENS * TILE];
                    let sums = &mut sums[..words.len() / block_words * TILE];
                    few(&w[i], (first + start) / TILE, words, sums);
                    for (t, sums) in sums.chunks_exact(TILE).enumerate() {
                        let out = &mut columns.row(b * INTEGER_TOKENS + t)[start..end];
                        out.copy_from_slice(&sums[..end - start]);
                    }
                }
            }
        });
        return;
    }
    pool.split_matrices(out, PAIR, work, &|i, first, mut columns, scratch| {
        integer_columns(kernels, &w[i], words, first / TILE, &mut columns, scratch);
    });
}

/// The columns of the result that come from the tiles from `tile` on.
fn integer_columns(
    kernels: &Kernels,
    w: &Packed<'_>,
    words: &[u32],
    tile: usize,
    out: &mut Columns<'_>,
    scratch: &mut Scratch,
) {
    let (tokens, width, groups) = (out.rows(), out.width(), w.groups());
    let token_words = groups * TOKEN_WORDS;
    let ([heads, sums], codes) = scratch.floats_and_bytes([HEADS, tokens * PAIR], CODES);
    for pair in 0..width.div_ceil(PAIR) {
        let first = tile + 2 * pair;
        // A last odd tile stands in for its neighbour, whose results nobody reads.
        let tiles = [first, (first + 1).min(w.tiles() - 1)];
        sums.fill(0.0);
        for c in 0..groups.div_ceil(CHUNK) {
            let chunks = tiles.map(|t| chunk(w.dtype, w.tile(t), groups, c));
            let (a, b) = codes.split_at_mut(CODES / 2);
            (kernels.unpack)(&chunks[0], a, heads);
            (kernels.unpack)(&chunks[1], b, &mut heads[HEAD..]);
            let panel = Panel { groups: chunks[0].groups, codes: [a, b], heads, dtype: w.dtype };
            let next = tiles.map(|t| chunk_after(w, t, c));
            let blocks = words.chunks(TOKENS * token_words).zip(sums.chunks_mut(TOKENS * PAIR));
            let parts = blocks.len();
            for (i, (words, sums)) in blocks.enumerate() {
                next.iter().for_each(|n| (kernels.prefetch)(share(n, i, parts)));
                let x = Block::new(words.len() / token_words, groups, words);
                (kernels.integer_micro)(&panel, &x, c * CHUNK, sums);
            }
        }
        store_pair(pair, sums, out);
    }
}

/// The bytes that a pass over a pair of float tiles, or the next pair, reads after the columns at k.
fn columns_after<'a>(w: &Packed<'a>, tile: usize, k: usize) -> &'a [u8] {
    let (k, tile) = if k + BLOCK < w.cols { (k + BLOCK, tile) } else { (0, tile + 2) };
    if tile >= w.tiles() {
        return &[];
    }
    let (pair, step) = (w.tiles_from(tile, w.pair_tiles(tile)), w.floats(tile).step);
    &pair[k * step..(k + BLOCK).min(w.cols) * step]
}

/// The bytes that a pass over a tile, or the pair after its own, reads after chunk `c`.
fn chunk_after<'a>(w: &Packed<'a>, tile: usize, c: usize) -> &'a [u8] {
    let (at, tile) = if (c + 1) * CHUNK < w.groups() { (c + 1, tile) } else { (0, tile + 2) };
    if tile < w.tiles() { chunk(w.dtype, w.tile(tile), w.groups(), at).bytes } else { &[] }
}

/// Part `i` of `n` of some bytes.
fn share(bytes: &[u8], i: usize, n: usize) -> &[u8] {
    &bytes[bytes.len() * i / n..bytes.len() * (i + 1) / n]
}

/// Copies the sums of a pair of tiles to their columns.
fn store_pair(pair: usize, sums: &[f32], out: &mut Columns<'_>) {
    let columns = pair * PAIR..((pair + 1) * PAIR).min(out.width());
    for (t, sums) in sums.chunks_exact(PAIR).enumerate() {
        let target = &mut out.row(t)[columns.clone()];
        target.copy_from_slice(&sums[..target.len()]);
    }
}

/// The columns of the result that come from the tiles from `tile` on.
fn linear_columns(
    kernels: &Kernels,
    w: &Packed<'_>,
    blocks: &[f32],
    tile: usize,
    out: &mut Columns<'_>,
    scratch: &mut Scratch,
) {
    let (tokens, width) = (out.rows(), out.width());
    let [weights, sums] = scratch.two(BLOCK * PAIR, tokens * PAIR);
    for pair in 0..width.div_ceil(PAIR) {
        let first = tile + 2 * pair;
        sums.fill(0.0);
        let tiles = [first, (first + 1).min(w.tiles() - 1)].map(|t| w.floats(t));
        for k in (0..w.cols).step_by(BLOCK) {
            let n = BLOCK.min(w.cols - k);
            let weights = &mut weights[..n * PAIR];
            (kernels.widen)(&tiles[0], k, n, weights, PAIR);
            (kernels.widen)(&tiles[1], k, n, &mut weights[TILE..], PAIR);
            let next = columns_after(w, first, k);
            let blocks = blocks.chunks(FLOAT_TOKENS * w.cols);
            let parts = blocks.len();
            for (i, (block, sums)) in blocks.zip(sums.chunks_mut(FLOAT_TOKENS * PAIR)).enumerate() {
                (kernels.prefetch)(share(next, i, parts));
                let m = block.len() / w.cols;
                (kernels.micro)(weights, &block[k * m..][..n * m], m, sums);
            }
        }
        store_pair(pair, sums, out);
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
    pool.split(out, n.max(1), batch * m * k * n, &|start, part, _| {
        for (i, row) in part.chunks_mut(n.max(1)).enumerate() {
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
    use crate::kernels::pack::pack_rows;
    use crate::program::Activations;
    use tensor::{DType, Rng, Tensor, compare};

    const DTYPES: [DType; 6] =
        [DType::F32, DType::F16, DType::BF16, DType::Q8, DType::Q4, DType::Q4M];

    fn values(rng: &mut Rng, n: usize) -> Vec<f32> {
        (0..n).map(|_| rng.normal()).collect()
    }

    fn packed(dtype: DType, rows: usize, cols: usize, rng: &mut Rng) -> (Vec<u8>, Vec<f32>) {
        let w = Tensor::from_f32(vec![rows, cols], &values(rng, rows * cols)).cast(dtype).unwrap();
        let mut bytes = Vec::new();
        pack_rows(dtype, cols, w.bytes(), &mut bytes);
        (bytes, w.to_f32())
    }

    /// What products with quantised weights see of x: 16 bits of a group, or 8 where no element is
    /// far beyond the others (`activation`).
    fn as_seen(dtype: DType, bits: Activations, x: &[f32]) -> Vec<f32> {
        let mut x = x.to_vec();
        if !dtype.is_quantized() {
            return x;
        }
        for group in x.chunks_mut(32) {
            let largest = group.iter().fold(0f32, |a, v| a.max(v.abs()));
            let round = |v: f32, code: f32| (v * (code / largest)).round_ties_even();
            let sum: f32 = group.iter().map(|&v| round(v, 127.0).abs()).sum();
            let short = bits == Activations::Short && sum >= 127.0 * 32.0 / 8.0;
            let code = if short { 127.0 } else { 32639.0 };
            group.iter_mut().for_each(|v| *v = round(*v, code) * (largest / code));
        }
        x
    }

    /// Every instruction set with both kinds of activations.
    fn isas() -> impl Iterator<Item = Kernels> {
        let kinds = |k: Kernels| [Activations::Full, Activations::Short].map(|a| k.with(a));
        Isa::ALL.into_iter().filter_map(Kernels::new).flat_map(kinds)
    }

    /// Values of which every seventh group has an outlier.
    fn uneven(rng: &mut Rng, n: usize) -> Vec<f32> {
        let mut x = values(rng, n);
        x.iter_mut().step_by(7 * 32).for_each(|v| *v *= 100.0);
        x
    }

    #[test]
    fn linear_is_the_product_on_every_instruction_set() {
        let pool = Pool::new(2).unwrap();
        let mut rng = Rng::new(5);
        for dtype in DTYPES {
            for (rows, cols, tokens) in [
                (1, 32, 1),
                (17, 64, 3),
                (100, 160, 13),
                (200, 288, 1),
                (70, 33, 7),
                (33, 1, 2),
                (80, 32 * 35, 8),
                (64, 32 * 35, 1),
            ] {
                let cols = if dtype.is_quantized() { cols / 32 * 32 } else { cols };
                if cols == 0 {
                    continue;
                }
                let (bytes, w) = packed(dtype, rows, cols, &mut rng);
                let weight = Packed::new(dtype, rows, cols, &bytes).unwrap();
                let x = uneven(&mut rng, tokens * cols);
                for kernels in isas() {
                    let seen = as_seen(dtype, kernels.activations, &x);
                    let expected: Vec<f32> = (0..tokens * rows)
                        .map(|i| {
                            let (x, w) =
                                (&seen[i / rows * cols..][..cols], &w[i % rows * cols..][..cols]);
                            x.iter().zip(w).map(|(a, b)| f64::from(a * b)).sum::<f64>() as f32
                        })
                        .collect();
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
        for dtype in DTYPES {
            // Large enough to be split among threads.
            let (rows, cols, tokens) = (37 * 16 + 3, 320, 29);
            let (bytes, _) = packed(dtype, rows, cols, &mut rng);
            let weight = Packed::new(dtype, rows, cols, &bytes).unwrap();
            let x = uneven(&mut rng, tokens * cols);
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
    fn several_weights_are_one_job_with_the_same_bits() {
        let mut rng = Rng::new(8);
        for (dtype, tokens) in [(DType::BF16, 1), (DType::BF16, 7), (DType::Q4, 1), (DType::Q8, 9)]
        {
            let x = values(&mut rng, tokens * 320);
            let weights = [100, 37, 520].map(|rows| (rows, packed(dtype, rows, 320, &mut rng).0));
            let w =
                [0, 1, 2].map(|i| Packed::new(dtype, weights[i].0, 320, &weights[i].1).unwrap());
            for kernels in isas() {
                for threads in [1, 3] {
                    let pool = Pool::new(threads).unwrap();
                    let mut one = w.map(|w| vec![0.0; tokens * w.rows]);
                    for (w, out) in w.iter().zip(&mut one) {
                        linear(&kernels, &pool, w, &x, out);
                    }
                    let mut all = w.map(|w| vec![0.0; tokens * w.rows]);
                    linears(&kernels, &pool, w, &x, all.each_mut().map(Vec::as_mut_slice));
                    assert_eq!(one, all, "{dtype} {} on {threads}", kernels.isa);
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
