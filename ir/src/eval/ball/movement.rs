//! Reshape, transpose, slice, concat, broadcast and gather of balls.

use super::Balls;
use crate::eval::EvalError;
use crate::eval::movement::{strided, strides};

/// The elements of operand and place that `emit` is told of, in order.
fn moved(
    x: &[&Balls],
    shape: &[usize],
    runs: impl Fn(&mut dyn FnMut((usize, usize, usize))),
) -> Balls {
    let count = shape.iter().product();
    let mut mid = Vec::with_capacity(count);
    let known = x.iter().all(|b| b.rad.is_none());
    let mut rad = Vec::with_capacity(if known { 0 } else { count });
    runs(&mut |(operand, start, len)| {
        mid.extend_from_slice(&x[operand].mid[start..start + len]);
        if !known {
            match &x[operand].rad {
                Some(r) => rad.extend_from_slice(&r[start..start + len]),
                None => rad.resize(rad.len() + len, 0.0),
            }
        }
    });
    Balls { shape: shape.to_vec(), mid: mid.into(), rad: (!known).then(|| rad.into()) }
}

/// The same elements under another shape.
pub(super) fn reshape(x: &Balls, shape: &[usize]) -> Balls {
    Balls { shape: shape.to_vec(), ..x.clone() }
}

/// Axes permuted: result axis i is operand axis `perm[i]`.
pub(super) fn transpose(x: &Balls, perm: &[usize], shape: &[usize]) -> Balls {
    let from = strides(&x.shape);
    let from: Vec<usize> = perm.iter().map(|&p| from[p]).collect();
    moved(&[x], shape, |emit| strided(shape, &from, emit))
}

/// Axes of extent 1 repeated.
pub(super) fn broadcast(x: &Balls, shape: &[usize]) -> Balls {
    let mut from = strides(&x.shape);
    for (stride, (&own, &whole)) in from.iter_mut().zip(x.shape.iter().zip(shape)) {
        if own == 1 && whole != 1 {
            *stride = 0;
        }
    }
    moved(&[x], shape, |emit| strided(shape, &from, emit))
}

/// Elements `start..start + n` of `axis`, n being the result's extent.
pub(super) fn slice(x: &Balls, axis: usize, start: usize, shape: &[usize]) -> Balls {
    let inner: usize = x.shape[axis + 1..].iter().product();
    let outer: usize = x.shape[..axis].iter().product();
    moved(&[x], shape, |emit| {
        for i in 0..outer {
            emit((0, (i * x.shape[axis] + start) * inner, shape[axis] * inner));
        }
    })
}

/// Operands one after the other along `axis`.
pub(super) fn concat(x: &[Balls], axis: usize, shape: &[usize]) -> Balls {
    let inner: usize = shape[axis + 1..].iter().product();
    let outer: usize = shape[..axis].iter().product();
    moved(&x.iter().collect::<Vec<_>>(), shape, |emit| {
        for i in 0..outer {
            for (operand, part) in x.iter().enumerate() {
                let len = part.shape[axis] * inner;
                emit((operand, i * len, len));
            }
        }
    })
}

/// Rows of a table.
pub(super) fn gather(table: &Balls, ids: &Balls, shape: &[usize]) -> Result<Balls, EvalError> {
    let (rows, width) = (table.shape[0], table.shape[1]);
    if let Some(&id) = ids.mid.iter().find(|&&id| id < 0.0 || id >= rows as f64) {
        return Err(EvalError::Id { id: id as i64, rows });
    }
    Ok(moved(&[table], shape, |emit| {
        for &id in ids.mid.iter() {
            emit((0, id as usize * width, width));
        }
    }))
}
