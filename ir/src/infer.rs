//! Result types from operand types: the type rule of every op but `repeat`.
//!
//! The rules are also the preconditions: an op whose operands have no result type is ill-formed, so
//! `verify` is "the stored type is the inferred one".

use tensor::DType;

use crate::{CacheType, Dim, Op, Symbol, TensorType, Type};

/// Why an op cannot be applied to its operands.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InferError {
    /// Wrong number of operands.
    #[error("{op} takes {expected} operands, found {found}")]
    Arity {
        /// Spelling of the op.
        op: &'static str,
        /// What the table says.
        expected: String,
        /// What was given.
        found: usize,
    },
    /// An operand of the wrong type or extent.
    #[error("{op}: {why}")]
    Operand {
        /// Spelling of the op.
        op: &'static str,
        /// What is wrong, in numbers.
        why: String,
    },
}

/// The type of the single result of `op` applied to operands of these types.
///
/// # Errors
/// When the op is ill-formed, or is `repeat`, whose types are its block's.
pub fn infer(op: &Op, operands: &[Type]) -> Result<Type, InferError> {
    let info = op.info();
    let (least, most) = info.arity;
    if operands.len() < least || operands.len() > most {
        let expected = if least == most { least.to_string() } else { format!("{least} to {most}") };
        return Err(InferError::Arity { op: info.name, expected, found: operands.len() });
    }
    rule(op, operands).map_err(|why| InferError::Operand { op: info.name, why })
}

type Rule<T> = Result<T, String>;

fn rule(op: &Op, operands: &[Type]) -> Rule<Type> {
    if let Op::CacheAppend = op {
        return cache_append(cache(&operands[0])?, tensor(&operands[1])?).map(Type::Cache);
    }
    if let Op::CacheRead = op {
        return Ok(Type::Tensor(cache(&operands[0])?.tensor()));
    }
    let operands = operands.iter().map(tensor).collect::<Rule<Vec<_>>>()?;
    tensor_rule(op, &operands).map(Type::Tensor)
}

fn tensor_rule(op: &Op, x: &[&TensorType]) -> Rule<TensorType> {
    let (t, c) = (Dim::from(Symbol::T), Dim::from(Symbol::C));
    match op {
        Op::Weight { dtype, shape, .. } => Ok(TensorType::new(*dtype, shape.iter().copied())),
        Op::Const(_) => Ok(TensorType::new(DType::F32, Vec::<Dim>::new())),
        Op::Positions => Ok(TensorType::new(DType::I32, [t])),
        Op::CausalMask { .. } => Ok(TensorType::new(DType::F32, [t.clone(), &c + &t])),
        Op::Unary(_) => Ok(f32_of(number(x[0])?.dims.clone())),
        Op::Binary(_) => broadcast_dims(number(x[0])?, number(x[1])?).map(f32_of),
        Op::Cast(dtype) => cast(number(x[0])?, *dtype),
        Op::Quantize(dtype) => quantize(number(x[0])?, *dtype),
        Op::Matmul => matmul(number(x[0])?, number(x[1])?),
        Op::Reduce { axis, .. } => reduce(number(x[0])?, *axis),
        Op::Softmax => last_axis(number(x[0])?).map(|_| f32_of(x[0].dims.clone())),
        Op::RmsNorm { .. } => rms_norm(number(x[0])?, x.get(1).copied()),
        Op::Reshape(dims) => reshape(x[0], dims),
        Op::Transpose(perm) => transpose(x[0], perm),
        Op::Slice { axis, start, end } => slice(x[0], *axis, start, end),
        Op::Concat { axis } => concat(x, *axis),
        Op::Broadcast(dims) => broadcast(x[0], dims),
        Op::Gather => gather(number(x[0])?, x[1]),
        Op::Rope(spec) => rope(number(x[0])?, x[1], spec.dim),
        Op::Attention { .. } => attention(x[0], x[1], x[2]),
        Op::Glu(_) => glu(number(x[0])?, number(x[1])?),
        Op::CacheAppend | Op::CacheRead | Op::Repeat { .. } => {
            Err("its types are not a function of tensor operands".to_string())
        }
    }
}

fn f32_of(dims: Vec<Dim>) -> TensorType {
    TensorType { dtype: DType::F32, dims }
}

fn tensor(ty: &Type) -> Rule<&TensorType> {
    ty.as_tensor().ok_or_else(|| format!("expected a tensor, found {ty}"))
}

fn cache(ty: &Type) -> Rule<&CacheType> {
    match ty.as_cache() {
        Some(cache) if cache.layers.is_none() => Ok(cache),
        _ => Err(format!("expected the cache of one layer, found {ty}")),
    }
}

/// A float or quantised tensor: what compute ops read.
fn number(ty: &TensorType) -> Rule<&TensorType> {
    if ty.dtype.is_float() || ty.dtype.is_quantized() {
        Ok(ty)
    } else {
        Err(format!("expected floats, found {ty}"))
    }
}

fn last_axis(ty: &TensorType) -> Rule<&Dim> {
    ty.dims.last().ok_or_else(|| "expected at least one axis, found a scalar".to_string())
}

fn same_dim(what: &str, a: &Dim, b: &Dim) -> Rule<()> {
    if a == b { Ok(()) } else { Err(format!("{what} differ: {a} and {b}")) }
}

fn same_rank(ty: &TensorType, rank: usize) -> Rule<()> {
    if ty.rank() == rank { Ok(()) } else { Err(format!("expected {rank} axes, found {ty}")) }
}

fn axis_dim(ty: &TensorType, axis: usize) -> Rule<&Dim> {
    ty.dims.get(axis).ok_or_else(|| format!("axis {axis} of {ty}"))
}

fn broadcast_dims(a: &TensorType, b: &TensorType) -> Rule<Vec<Dim>> {
    let one = Dim::from(1);
    let rank = a.rank().max(b.rank());
    let at = |ty: &TensorType, i: usize| {
        (i + ty.rank()).checked_sub(rank).map_or_else(|| one.clone(), |j| ty.dims[j].clone())
    };
    (0..rank)
        .map(|i| match (at(a, i), at(b, i)) {
            (x, y) if x == y || y == one => Ok(x),
            (x, y) if x == one => Ok(y),
            (x, y) => Err(format!("{a} and {b} do not broadcast: {x} against {y}")),
        })
        .collect()
}

fn cast(x: &TensorType, dtype: DType) -> Rule<TensorType> {
    if !dtype.is_float() {
        return Err(format!("{dtype} is not a float dtype"));
    }
    Ok(TensorType { dtype, dims: x.dims.clone() })
}

fn quantize(x: &TensorType, dtype: DType) -> Rule<TensorType> {
    let last = last_axis(x)?;
    match last.as_const() {
        _ if !dtype.is_quantized() => Err(format!("{dtype} is not a quantised dtype")),
        Some(n) if n.is_multiple_of(dtype.block_len()) => {
            Ok(TensorType { dtype, dims: x.dims.clone() })
        }
        _ => Err(format!("the last axis of {x} is not a multiple of {}", dtype.block_len())),
    }
}

fn matmul(a: &TensorType, b: &TensorType) -> Rule<TensorType> {
    let (Some(a_outer), Some(b_outer)) = (a.rank().checked_sub(2), b.rank().checked_sub(2)) else {
        return Err(format!("expected two matrices, found {a} and {b}"));
    };
    same_dim("inner extents", &a.dims[a_outer + 1], &b.dims[b_outer])?;
    let (a_batch, b_batch) = (&a.dims[..a_outer], &b.dims[..b_outer]);
    if !a_batch.is_empty() && !b_batch.is_empty() && a_batch != b_batch {
        return Err(format!("leading axes of {a} and {b} differ"));
    }
    let batch = if a_batch.is_empty() { b_batch } else { a_batch };
    let mut dims = batch.to_vec();
    dims.extend([a.dims[a_outer].clone(), b.dims[b_outer + 1].clone()]);
    Ok(f32_of(dims))
}

fn reduce(x: &TensorType, axis: usize) -> Rule<TensorType> {
    axis_dim(x, axis)?;
    let mut dims = x.dims.clone();
    dims[axis] = Dim::from(1);
    Ok(f32_of(dims))
}

fn rms_norm(x: &TensorType, gain: Option<&TensorType>) -> Rule<TensorType> {
    let width = last_axis(x)?;
    if let Some(gain) = gain {
        same_rank(number(gain)?, 1)?;
        same_dim("width and gain", width, &gain.dims[0])?;
    }
    Ok(f32_of(x.dims.clone()))
}

fn product(dims: &[Dim]) -> Dim {
    dims.iter().fold(Dim::from(1), |n, d| &n * d)
}

fn reshape(x: &TensorType, dims: &[Dim]) -> Rule<TensorType> {
    same_dim("element counts", &product(&x.dims), &product(dims))?;
    if x.dtype.is_quantized() && x.dims.last() != dims.last() {
        return Err(format!("the groups of {x} would be cut"));
    }
    Ok(TensorType { dtype: x.dtype, dims: dims.to_vec() })
}

fn transpose(x: &TensorType, perm: &[usize]) -> Rule<TensorType> {
    let mut sorted = perm.to_vec();
    sorted.sort_unstable();
    if !sorted.iter().copied().eq(0..x.rank()) {
        return Err(format!("{perm:?} does not permute the axes of {x}"));
    }
    let dims = perm.iter().map(|&i| x.dims[i].clone()).collect();
    Ok(TensorType { dtype: x.dtype, dims })
}

fn slice(x: &TensorType, axis: usize, start: &Dim, end: &Dim) -> Rule<TensorType> {
    let extent = axis_dim(x, axis)?;
    let len = end - start;
    let within = [start, &len, &(extent - end)].into_iter().all(Dim::is_nonnegative);
    if !within {
        return Err(format!("{start}..{end} is not provably within axis {axis} of {x}"));
    }
    let mut dims = x.dims.clone();
    dims[axis] = len;
    Ok(TensorType { dtype: x.dtype, dims })
}

fn concat(x: &[&TensorType], axis: usize) -> Rule<TensorType> {
    let mut total = axis_dim(x[0], axis)?.clone();
    for other in &x[1..] {
        let same_rest = other.rank() == x[0].rank()
            && (0..x[0].rank()).all(|i| i == axis || other.dims[i] == x[0].dims[i]);
        if !same_rest || other.dtype != x[0].dtype {
            return Err(format!("{} and {other} do not join along axis {axis}", x[0]));
        }
        total = &total + &other.dims[axis];
    }
    let mut dims = x[0].dims.clone();
    dims[axis] = total;
    Ok(TensorType { dtype: x[0].dtype, dims })
}

fn broadcast(x: &TensorType, dims: &[Dim]) -> Rule<TensorType> {
    let one = Dim::from(1);
    same_rank(x, dims.len())?;
    if x.dims.iter().zip(dims).any(|(from, to)| from != to && *from != one) {
        return Err(format!("{x} does not broadcast to {}", f32_of(dims.to_vec())));
    }
    Ok(TensorType { dtype: x.dtype, dims: dims.to_vec() })
}

fn gather(table: &TensorType, ids: &TensorType) -> Rule<TensorType> {
    same_rank(table, 2)?;
    if ids.dtype != DType::I32 {
        return Err(format!("expected i32 ids, found {ids}"));
    }
    let mut dims = ids.dims.clone();
    dims.push(table.dims[1].clone());
    Ok(f32_of(dims))
}

fn rope(x: &TensorType, positions: &TensorType, rotated: usize) -> Rule<TensorType> {
    same_rank(x, 3)?;
    same_rank(positions, 1)?;
    if positions.dtype != DType::I32 {
        return Err(format!("expected i32 positions, found {positions}"));
    }
    same_dim("tokens and positions", &x.dims[0], &positions.dims[0])?;
    let head_dim = x.dims[2].as_const().unwrap_or(0);
    if rotated == 0 || rotated % 2 == 1 || rotated > head_dim {
        return Err(format!("cannot rotate {rotated} elements of heads of {head_dim}"));
    }
    Ok(f32_of(x.dims.clone()))
}

fn attention(q: &TensorType, k: &TensorType, v: &TensorType) -> Rule<TensorType> {
    for ty in [q, k, v] {
        same_rank(number(ty)?, 3)?;
    }
    same_dim("head extents of q and k", &q.dims[2], &k.dims[2])?;
    same_dim("tokens of k and v", &k.dims[0], &v.dims[0])?;
    same_dim("heads of k and v", &k.dims[1], &v.dims[1])?;
    let (t, c) = (Dim::from(Symbol::T), Dim::from(Symbol::C));
    same_dim("query tokens and T", &q.dims[0], &t)?;
    same_dim("key tokens and C + T", &k.dims[0], &(&c + &t))?;
    match (q.dims[1].as_const(), k.dims[1].as_const()) {
        (Some(h), Some(g)) if g > 0 && h % g == 0 => {}
        _ => return Err(format!("{} query heads over {} key heads", q.dims[1], k.dims[1])),
    }
    Ok(f32_of(vec![q.dims[0].clone(), q.dims[1].clone(), v.dims[2].clone()]))
}

fn glu(gate: &TensorType, up: &TensorType) -> Rule<TensorType> {
    if gate.dims != up.dims {
        return Err(format!("{gate} and {up} differ in shape"));
    }
    Ok(f32_of(gate.dims.clone()))
}

fn cache_append(cache: &CacheType, new: &TensorType) -> Rule<CacheType> {
    same_rank(number(new)?, 3)?;
    same_dim("heads", &new.dims[1], &cache.heads.into())?;
    same_dim("head extents", &new.dims[2], &cache.head_dim.into())?;
    Ok(CacheType { len: &cache.len + &new.dims[0], ..cache.clone() })
}
