//! Terms, their attributes and their types: the meaning of shapes, restated.
//!
//! A term is a head (the spelling of an op, or a leaf) with attributes, over earlier terms. Every term has
//! a type or the certificate is refused, so rules may rely on shapes. Value types other than tensors
//! (caches) are opaque.

use crate::poly::Poly;

/// More axes than any tensor has.
const MAX_RANK: usize = 8;

/// An attribute.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Attr {
    Axis(usize),
    Real(f64),
    Dim(Poly),
    Dims(Vec<Poly>),
    Perm(Vec<usize>),
    DType(String),
    Act(String),
    Window(Option<usize>),
    /// Compared, never looked into.
    Rope(String),
}

impl Attr {
    pub(crate) fn parse(text: &str) -> Option<Attr> {
        let (kind, value) = text.split_once(':')?;
        Some(match kind {
            "axis" => Attr::Axis(value.parse().ok()?),
            "real" => Attr::Real(value.parse().ok().filter(|v: &f64| !v.is_nan())?),
            "dim" => Attr::Dim(Poly::parse(value)?),
            "dims" => Attr::Dims(dims(value)?),
            "perm" if value.is_empty() => Attr::Perm(Vec::new()),
            "perm" => Attr::Perm(value.split(',').map(|p| p.parse().ok()).collect::<Option<_>>()?),
            "dtype" => Attr::DType(value.to_string()),
            "act" => Attr::Act(value.to_string()),
            "window" if value == "none" => Attr::Window(None),
            "window" => Attr::Window(Some(value.parse().ok()?)),
            "rope" => Attr::Rope(value.to_string()),
            _ => return None,
        })
    }
}

fn dims(text: &str) -> Option<Vec<Poly>> {
    if text.is_empty() {
        return Some(Vec::new());
    }
    text.split(',').map(Poly::parse).collect()
}

/// A type.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Type {
    Tensor {
        dtype: String,
        dims: Vec<Poly>,
    },
    /// A cache.
    Opaque(String),
}

const FLOATS: [&str; 3] = ["f32", "bf16", "f16"];
const QUANTISED: [&str; 3] = ["q8", "q4", "q4m"];

impl Type {
    /// `f32[1*T,64]`, or `cache:...`.
    pub(crate) fn parse(text: &str) -> Option<Type> {
        if text.starts_with("cache:") {
            return Some(Type::Opaque(text.to_string()));
        }
        let (dtype, rest) = text.split_once('[')?;
        let dims = dims(rest.strip_suffix(']')?)?;
        let known = FLOATS.contains(&dtype) || QUANTISED.contains(&dtype) || dtype == "i32";
        (known && dims.len() <= MAX_RANK).then(|| Type::Tensor { dtype: dtype.to_string(), dims })
    }

    pub(crate) fn dims(&self) -> Option<&[Poly]> {
        match self {
            Type::Tensor { dims, .. } => Some(dims),
            Type::Opaque(_) => None,
        }
    }

    pub(crate) fn dtype(&self) -> Option<&str> {
        match self {
            Type::Tensor { dtype, .. } => Some(dtype),
            Type::Opaque(_) => None,
        }
    }
}

/// A term.
#[derive(Clone, Debug)]
pub(crate) struct Term {
    /// Spelling; of a leaf also what identifies it.
    pub(crate) head: String,
    pub(crate) operands: Vec<usize>,
    pub(crate) attrs: Vec<Attr>,
    /// Head and attributes as written: equal text, equal meaning.
    pub(crate) text: String,
    pub(crate) ty: Type,
    /// Whether it depends on weights and constants only.
    pub(crate) constant: bool,
}

impl Term {
    pub(crate) fn is(&self, head: &str) -> bool {
        self.head == head
    }

    pub(crate) fn dims(&self) -> Option<&[Poly]> {
        self.ty.dims()
    }

    pub(crate) fn axis(&self) -> Option<usize> {
        self.attrs.iter().find_map(|a| if let Attr::Axis(axis) = a { Some(*axis) } else { None })
    }

    /// The permutation of a transpose.
    pub(crate) fn perm(&self) -> Option<&[usize]> {
        self.attrs
            .iter()
            .find_map(|a| if let Attr::Perm(perm) = a { Some(&perm[..]) } else { None })
    }

    /// Axis, start and end of a slice.
    pub(crate) fn range(&self) -> Option<(usize, &Poly, &Poly)> {
        match self.attrs.as_slice() {
            [Attr::Axis(axis), Attr::Dim(start), Attr::Dim(end)] if self.is("slice") => {
                Some((*axis, start, end))
            }
            _ => None,
        }
    }
}

/// The type of a head applied to operands of these types.
pub(crate) fn infer(head: &str, attrs: &[Attr], x: &[&Type]) -> Result<Type, String> {
    let fail = || format!("{head} has no type for these operands and attributes");
    if let Some(dims) = elementwise(head, attrs, x) {
        return Ok(f32_of(dims));
    }
    let operands: Option<Vec<(&str, &[Poly])>> =
        x.iter().map(|t| t.dtype().zip(t.dims())).collect();
    tensor(head, attrs, &operands.ok_or_else(fail)?).ok_or_else(fail)
}

fn f32_of(dims: Vec<Poly>) -> Type {
    Type::Tensor { dtype: "f32".to_string(), dims }
}

fn is_number(dtype: &str) -> bool {
    FLOATS.contains(&dtype) || QUANTISED.contains(&dtype)
}

/// Heads that treat every element alike.
pub(crate) const UNARY: [&str; 9] =
    ["neg", "exp", "sqrt", "rsqrt", "recip", "square", "tanh", "sigmoid", "act"];
pub(crate) const BINARY: [&str; 6] = ["add", "sub", "mul", "div", "max", "min"];

fn elementwise(head: &str, attrs: &[Attr], x: &[&Type]) -> Option<Vec<Poly>> {
    let number = |t: &Type| t.dtype().is_some_and(is_number);
    match (attrs, x) {
        ([], [a]) if UNARY.contains(&head) && head != "act" && number(a) => {
            Some(a.dims()?.to_vec())
        }
        ([Attr::Act(_)], [a]) if head == "act" && number(a) => Some(a.dims()?.to_vec()),
        ([], [a, b]) if BINARY.contains(&head) && number(a) && number(b) => {
            broadcast(a.dims()?, b.dims()?)
        }
        ([Attr::Act(_)], [a, b]) if head == "glu" && number(a) && number(b) => {
            (a.dims()? == b.dims()?).then(|| a.dims().map(<[Poly]>::to_vec))?
        }
        _ => None,
    }
}

fn broadcast(a: &[Poly], b: &[Poly]) -> Option<Vec<Poly>> {
    let rank = a.len().max(b.len());
    let one = Poly::constant(1);
    let at = |x: &[Poly], i: usize| {
        (i + x.len()).checked_sub(rank).map_or_else(|| one.clone(), |j| x[j].clone())
    };
    (0..rank)
        .map(|i| match (at(a, i), at(b, i)) {
            (x, y) if x == y || y.is_one() => Some(x),
            (x, y) if x.is_one() => Some(y),
            _ => None,
        })
        .collect()
}

fn tensor(head: &str, attrs: &[Attr], x: &[(&str, &[Poly])]) -> Option<Type> {
    let (tokens, cached) = (Poly::tokens(), Poly::cached());
    let seen = cached.plus(&tokens)?;
    let same = |dtype: &str, dims: Vec<Poly>| {
        (dims.len() <= MAX_RANK).then(|| Type::Tensor { dtype: dtype.to_string(), dims })
    };
    let numbers = x.iter().all(|o| is_number(o.0));
    match (head, attrs, x) {
        ("const", [Attr::Real(_)], []) => same("f32", Vec::new()),
        ("positions", [], []) => same("i32", vec![tokens]),
        ("causal_mask", [Attr::Window(_)], []) => same("f32", vec![tokens, seen]),
        ("cast", [Attr::DType(to)], [a]) if numbers && FLOATS.contains(&&to[..]) => {
            same(to, a.1.to_vec())
        }
        ("quantize", [Attr::DType(to)], [a]) if numbers && QUANTISED.contains(&&to[..]) => {
            let groups = a.1.last()?.value()?.is_multiple_of(32);
            groups.then(|| same(to, a.1.to_vec()))?
        }
        ("matmul", [], [a, b]) if numbers => matmul(a.1, b.1).map(f32_of),
        ("reduce_sum" | "reduce_max" | "reduce_mean", [Attr::Axis(axis)], [a]) if numbers => {
            let mut dims = a.1.to_vec();
            *dims.get_mut(*axis)? = Poly::constant(1);
            same("f32", dims)
        }
        ("softmax", [], [a]) if numbers && !a.1.is_empty() => same("f32", a.1.to_vec()),
        ("rms_norm", [Attr::Real(_)], [a]) if numbers && !a.1.is_empty() => {
            same("f32", a.1.to_vec())
        }
        ("rms_norm", [Attr::Real(_)], [a, g]) if numbers && a.1.last()? == g.1.first()? => {
            (g.1.len() == 1).then(|| same("f32", a.1.to_vec()))?
        }
        ("gather", [], [table, ids])
            if is_number(table.0) && ids.0 == "i32" && table.1.len() == 2 =>
        {
            same("f32", ids.1.iter().chain(&table.1[1..]).cloned().collect())
        }
        ("rope", [Attr::Rope(_)], [a, p]) if is_number(a.0) && p.0 == "i32" => {
            (a.1.len() == 3 && p.1 == &a.1[..1]).then(|| same("f32", a.1.to_vec()))?
        }
        ("attention", [Attr::Real(_), Attr::Window(_)], [q, k, v]) if numbers => {
            let ([t, h, d], [s, g, e], [u, i, w]) = (q.1, k.1, v.1) else { return None };
            let fits = *t == tokens && *s == seen && u == s && d == e && g == i;
            let heads = h.value()?.checked_rem(g.value()?)? == 0;
            (fits && heads).then(|| f32_of(vec![t.clone(), h.clone(), w.clone()]))
        }
        _ => view(head, attrs, x),
    }
}

fn matmul(a: &[Poly], b: &[Poly]) -> Option<Vec<Poly>> {
    let (m, n) = (a.len().checked_sub(2)?, b.len().checked_sub(2)?);
    let batches = m == 0 || n == 0 || a[..m] == b[..n];
    let fits = a[m + 1] == b[n] && batches;
    let batch = if m == 0 { &b[..n] } else { &a[..m] };
    fits.then(|| batch.iter().chain([&a[m], &b[n + 1]]).cloned().collect())
}

/// Heads that only move or select.
fn view(head: &str, attrs: &[Attr], x: &[(&str, &[Poly])]) -> Option<Type> {
    let (dtype, first) = x.first()?;
    let same = |dims: Vec<Poly>| {
        (dims.len() <= MAX_RANK).then(|| Type::Tensor { dtype: (*dtype).to_string(), dims })
    };
    match (head, attrs, x) {
        ("reshape", [Attr::Dims(to)], [a]) => {
            let groups = !QUANTISED.contains(dtype) || a.1.last() == to.last();
            (product(a.1)? == product(to)? && groups).then(|| same(to.clone()))?
        }
        ("transpose", [Attr::Perm(perm)], [a]) => {
            let mut sorted = perm.clone();
            sorted.sort_unstable();
            let permutes = sorted.iter().copied().eq(0..a.1.len());
            permutes.then(|| same(perm.iter().map(|&i| a.1[i].clone()).collect()))?
        }
        ("broadcast", [Attr::Dims(to)], [a]) => {
            let pairs = || a.1.iter().zip(to);
            let fits =
                a.1.len() == to.len() && pairs().all(|(from, to)| from == to || from.is_one());
            fits.then(|| same(to.clone()))?
        }
        ("slice", [Attr::Axis(axis), Attr::Dim(start), Attr::Dim(end)], [a]) => {
            let len = end.minus(start)?;
            let rest = a.1.get(*axis)?.minus(end)?;
            let within = [start, &len, &rest].into_iter().all(Poly::is_nonnegative);
            let mut dims = a.1.to_vec();
            dims[*axis] = len;
            within.then(|| same(dims))?
        }
        ("concat", [Attr::Axis(axis)], _) => {
            let mut dims = first.to_vec();
            for (other_dtype, other) in &x[1..] {
                let rest = |d: &[Poly]| {
                    let without = d.iter().enumerate().filter(|(i, _)| i != axis);
                    without.map(|(_, p)| p.clone()).collect::<Vec<_>>()
                };
                if other_dtype != dtype || other.len() != first.len() || rest(other) != rest(first)
                {
                    return None;
                }
                dims[*axis] = dims.get(*axis)?.plus(&other[*axis])?;
            }
            (*axis < dims.len()).then(|| same(dims))?
        }
        _ => None,
    }
}

/// How many elements.
pub(crate) fn product(dims: &[Poly]) -> Option<Poly> {
    dims.iter().try_fold(Poly::constant(1), |n, d| n.times(d))
}
