//! Which slice of a weight lies on which PE: tilings of the axes of a mat-vec, turned into pins.
//!
//! A mat-vec cuts K and N each in one of these ways (`Tiling`); a pin is a pair of a K span and an N
//! span. Ragged ends are cut by the span's limit; the elements beyond are zero.
//! Invariant: over all PEs the spans of a tiling cover its axis, each index once along its axis of the
//! fabric.

use plan::{Affine, BufferId, BufferRole, Clause, Gain, Pin, Predicate, Span, Storage};

use super::builder::TemplateBuilder;
use crate::partition::{Linear, Matrix, Piece, PieceGain, WeightRef};
use crate::place::shape::HeadTiling;
use crate::{WaferError, WeightTrouble};

/// A weight that a template pins, and how often each of its elements.
#[derive(Clone, Debug, PartialEq)]
pub struct PinnedWeight {
    /// Name (with `{layer}`), dtype, shape.
    pub weight: WeightRef,
    /// Copies per region; 0 for a vector that is only read as a gain.
    pub copies: u32,
    /// Values of a table that the compiler computed.
    pub inline: Option<Vec<f32>>,
}

/// How the indices of one axis are spread over a region.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Tiling {
    /// Tiles along Y, replicated along X.
    Rows {
        /// Indices per PE.
        tile: u32,
        /// Indices in all.
        extent: u32,
    },
    /// Tiles along X, replicated along Y.
    Columns {
        /// Indices per PE.
        tile: u32,
        /// Indices in all.
        extent: u32,
    },
    /// Tiles along X in some columns, replicated along Y.
    Beyond {
        /// First column, and the end.
        columns: (u32, u32),
        /// Indices per PE.
        tile: u32,
        /// Index at which the first of these columns starts.
        first: u32,
        /// Indices in all.
        extent: u32,
    },
    /// Heads along X: `heads` per cell of columns, each cut into pair-closed slices.
    Heads {
        /// Heads per cell.
        heads: u32,
        /// The slices.
        tiling: HeadTiling,
    },
}

impl Tiling {
    /// The spans on a PE, each with its offset in the PE's tile.
    fn spans(&self, cell: (u32, u32)) -> Vec<(Span, u32)> {
        match *self {
            Tiling::Rows { tile, extent } => {
                let start = Affine::of_y(0, i64::from(tile), cell);
                vec![(Span { start, len: tile, limit: Affine::constant(i64::from(extent)) }, 0)]
            }
            Tiling::Columns { tile, extent } => {
                let start = Affine::of_x(0, i64::from(tile), cell);
                vec![(Span { start, len: tile, limit: Affine::constant(i64::from(extent)) }, 0)]
            }
            Tiling::Beyond { columns, tile, first, extent } => {
                let base = i64::from(first) - i64::from(columns.0) * i64::from(tile);
                let start = Affine::of_x(base, i64::from(tile), cell);
                vec![(Span { start, len: tile, limit: Affine::constant(i64::from(extent)) }, 0)]
            }
            Tiling::Heads { heads, tiling } => {
                let dim = i64::from(tiling.head_dim);
                let xq = i64::from(heads) * dim;
                let parts = (0..heads).flat_map(|h| [(h, 0), (h, 1)]);
                parts
                    .map(|(h, part)| {
                        let base = i64::from(h) * dim + i64::from(part) * dim / 2;
                        let xr = i64::from(tiling.half);
                        let start = Affine { base, xq, xr, ..Affine::default() };
                        let limit = Affine { base: base + dim / 2, xq, ..Affine::default() };
                        let span = Span { start, len: tiling.half, limit };
                        (span, (2 * h + part) * tiling.half)
                    })
                    .collect()
            }
        }
    }

    /// Where the tiling has tiles: heads may leave columns free.
    fn predicate(&self) -> Predicate {
        match self {
            Tiling::Heads { tiling, .. } => {
                Predicate::everywhere().and_x(Clause::range(0, tiling.columns()))
            }
            Tiling::Beyond { columns, .. } => {
                Predicate::everywhere().and_x(Clause::range(columns.0, columns.1))
            }
            _ => Predicate::everywhere(),
        }
    }

    /// Elements on a PE.
    pub(crate) fn tile(&self) -> u32 {
        match *self {
            Tiling::Rows { tile, .. }
            | Tiling::Columns { tile, .. }
            | Tiling::Beyond { tile, .. } => tile,
            Tiling::Heads { heads, tiling } => heads * 2 * tiling.half,
        }
    }

    /// Runs along Y (and is replicated along X).
    fn along_y(&self) -> bool {
        matches!(self, Tiling::Rows { .. })
    }
}

fn shifted(span: Span, by: usize) -> Span {
    let mut span = span;
    span.start.base += by as i64;
    span.limit.base += by as i64;
    span
}

/// The storage a piece is pinned in.
pub(crate) fn storage_of(piece: &Piece) -> Result<Storage, WaferError> {
    Storage::from_dtype(piece.storage).ok_or_else(|| WaferError::Weight {
        weight: piece.weight.name.clone(),
        trouble: WeightTrouble::Storage(piece.storage),
    })
}

/// The one rectangle of one weight that a matrix is.
pub(crate) fn only_piece(matrix: &Matrix) -> Result<&Piece, WaferError> {
    match matrix.pieces.as_slice() {
        [only] => Ok(only),
        pieces => Err(WaferError::Weight {
            weight: pieces.first().map_or_else(String::new, |p| p.weight.name.clone()),
            trouble: WeightTrouble::Assembled(pieces.len()),
        }),
    }
}

fn gain_of(b: &mut TemplateBuilder, piece: &Piece) -> Result<Option<Gain>, WaferError> {
    // A pin multiplies along the weight's last axis.
    let along = |g: &PieceGain| g.along_rows == piece.transposed && g.at == piece.from.1;
    match piece.gains.as_slice() {
        [] => Ok(None),
        [gain] if along(gain) => Ok(Some(Gain { weight: b.declare(&gain.weight, 0, None) })),
        _ => Err(WaferError::Weight {
            weight: piece.weight.name.clone(),
            trouble: WeightTrouble::Gain,
        }),
    }
}

/// Pins matrix `linear` of a mat-vec y\[N\] = x\[K\] W into `buffer` `[K, N]`, at column `column`.
pub(crate) fn pin_matrix(
    b: &mut TemplateBuilder,
    linear: &Linear,
    (k, n): (Tiling, Tiling),
    buffer: BufferId,
    column: u32,
) -> Result<(), WaferError> {
    let piece = only_piece(&linear.matrix)?.clone();
    let gain = gain_of(b, &piece)?;
    let weight = b.declare(&piece.weight, 1, None);
    let cell = b.cell();
    let predicate = merge(k.predicate(), n.predicate());
    for (k_span, row) in k.spans(cell) {
        for (n_span, offset) in n.spans(cell) {
            // Matrix (n, k) is weight (n, k), or (k, n) when the piece is transposed.
            let (axis0, axis1) = if piece.transposed { (k_span, n_span) } else { (n_span, k_span) };
            b.pin(Pin {
                weight,
                predicate: predicate.clone(),
                axis0: shifted(axis0, piece.from.0),
                axis1: shifted(axis1, piece.from.1),
                buffer,
                at: (row, column + offset),
                transposed: !piece.transposed,
                gain,
                scale: piece.scale as f32,
            });
        }
    }
    Ok(())
}

fn merge(mut a: Predicate, b: Predicate) -> Predicate {
    for clause in b.x {
        if !a.x.contains(&clause) {
            a.x.push(clause);
        }
    }
    a
}

/// Pins a vector, cut by `tiling`, into row 0 of `buffer` at `column`. A bias is pinned in the first
/// row or column only, so that a reduction adds it once; other vectors on every PE of the tiling.
pub(crate) fn pin_vector(
    b: &mut TemplateBuilder,
    vector: &Matrix,
    tiling: Tiling,
    (buffer, column): (BufferId, u32),
    copies: Option<u32>,
) -> Result<(), WaferError> {
    let piece = only_piece(vector)?.clone();
    if !piece.gains.is_empty() {
        let trouble = WeightTrouble::Gain;
        return Err(WaferError::Weight { weight: piece.weight.name.clone(), trouble });
    }
    let once = copies.is_none();
    let weight = b.declare(&piece.weight, copies.unwrap_or(1), None);
    let mut predicate = tiling.predicate();
    if once && tiling.along_y() {
        predicate = predicate.and_x(Clause::range(0, 1));
    } else if once {
        predicate = predicate.and_y(Clause::range(0, 1));
    }
    for (span, offset) in tiling.spans(b.cell()) {
        b.pin(Pin {
            weight,
            predicate: predicate.clone(),
            axis0: Span::whole(1),
            axis1: shifted(span, piece.from.1),
            buffer,
            at: (0, column + offset),
            transposed: false,
            gain: None,
            scale: piece.scale as f32,
        });
    }
    Ok(())
}

/// A weights buffer of one f32 row.
pub(crate) fn vector_buffer(b: &mut TemplateBuilder, name: &str, len: u32) -> BufferId {
    b.buffer(name, BufferRole::Weights, Storage::F32, (1, len))
}
