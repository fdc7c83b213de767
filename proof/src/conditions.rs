//! Side conditions, re-evaluated from the terms that a left side matched.
//!
//! A condition reads types and attributes of what is bound and may bind attributes that the right side
//! needs. `None` refuses.

use crate::pattern::{Bindings, Bound};
use crate::poly::Poly;
use crate::term::{Attr, Term};

/// A match of a left side.
pub(crate) struct Match<'a> {
    pub(crate) terms: &'a [Term],
    /// The term that the left side is.
    pub(crate) whole: usize,
    pub(crate) bindings: Bindings,
}

impl Match<'_> {
    fn term(&self, name: &str) -> Option<&Term> {
        if let Bound::Term(at) = self.bindings.get(name)? { self.terms.get(*at) } else { None }
    }

    fn attr(&self, name: &str) -> Option<&Attr> {
        if let Bound::Attr(attr) = self.bindings.get(name)? { Some(attr) } else { None }
    }

    fn dims(&self, name: &str) -> Option<&[Poly]> {
        self.term(name)?.dims()
    }

    fn rank(&self, name: &str) -> Option<usize> {
        Some(self.dims(name)?.len())
    }

    fn ranks(&self, names: &[&str], rank: usize) -> Option<()> {
        names.iter().all(|n| self.rank(n) == Some(rank)).then_some(())
    }

    fn constant(&self, name: &str) -> Option<()> {
        self.term(name)?.constant.then_some(())
    }

    fn real(&self, name: &str) -> Option<f64> {
        if let Attr::Real(real) = self.attr(name)? { Some(*real) } else { None }
    }

    fn axis(&self, name: &str) -> Option<usize> {
        if let Attr::Axis(axis) = self.attr(name)? { Some(*axis) } else { None }
    }

    fn perm(&self, name: &str) -> Option<&[usize]> {
        if let Attr::Perm(perm) = self.attr(name)? { Some(perm) } else { None }
    }

    fn dim(&self, name: &str) -> Option<&Poly> {
        if let Attr::Dim(dim) = self.attr(name)? { Some(dim) } else { None }
    }

    fn set(&mut self, name: &str, attr: Attr) -> Option<()> {
        self.bindings.insert(name.to_string(), Bound::Attr(attr)).is_none().then_some(())
    }

    fn set_real(&mut self, name: &str, value: f64) -> Option<()> {
        value.is_finite().then(|| self.set(name, Attr::Real(value)))?
    }
}

pub(crate) type Condition = fn(&mut Match<'_>) -> Option<()>;

pub(crate) fn always(_: &mut Match<'_>) -> Option<()> {
    Some(())
}

pub(crate) fn composed(m: &mut Match<'_>) -> Option<()> {
    let (p, q) = (m.perm("?p")?, m.perm("?q")?);
    let r = q.iter().map(|&i| p.get(i).copied()).collect::<Option<_>>()?;
    m.set("?r", Attr::Perm(r))
}

pub(crate) fn identity(m: &mut Match<'_>) -> Option<()> {
    m.perm("?p")?.iter().copied().eq(0..m.perm("?p")?.len()).then_some(())
}

pub(crate) fn same_type(m: &mut Match<'_>) -> Option<()> {
    (m.term("?x")?.ty == m.terms.get(m.whole)?.ty).then_some(())
}

pub(crate) fn shifted(m: &mut Match<'_>) -> Option<()> {
    let start = m.dim("?s")?.plus(m.dim("?t")?)?;
    let end = m.dim("?s")?.plus(m.dim("?f")?)?;
    m.set("?start", Attr::Dim(start))?;
    m.set("?end", Attr::Dim(end))
}

pub(crate) fn whole_axis(m: &mut Match<'_>) -> Option<()> {
    (m.dim("?s")?.value()? == 0).then(|| same_type(m))?
}

pub(crate) fn axis_of_operand(m: &mut Match<'_>) -> Option<()> {
    let axis = *m.perm("?p")?.get(m.axis("?a")?)?;
    m.set("?b", Attr::Axis(axis))
}

pub(crate) fn rows_stay(m: &mut Match<'_>) -> Option<()> {
    let Attr::Dims(to) = m.attr("?d")? else { return None };
    let rows = m.dim("?e")?.minus(m.dim("?s")?)?;
    let (first, rest) = to.split_first()?;
    let dims = std::iter::once(rows).chain(rest.iter().cloned()).collect();
    let stay = m.dims("?x")?.first()? == first;
    stay.then(|| m.set("?f", Attr::Dims(dims)))?
}

pub(crate) fn left_is_whole(m: &mut Match<'_>) -> Option<()> {
    (m.dims("?x")? == m.terms.get(m.whole)?.dims()?).then_some(())
}

pub(crate) fn leading_ones(m: &mut Match<'_>) -> Option<()> {
    let Attr::Dims(to) = m.attr("?d")? else { return None };
    let (front, rest) = to.split_at_checked(to.len().checked_sub(m.rank("?y")?)?)?;
    let ones = front.iter().all(Poly::is_one) && rest == m.dims("?y")?;
    ones.then(|| left_is_whole(m))?
}

pub(crate) fn two_matrices(m: &mut Match<'_>) -> Option<()> {
    m.ranks(&["?a", "?b"], 2)
}

pub(crate) fn not_last(m: &mut Match<'_>) -> Option<()> {
    (m.axis("?a")? + 1 < m.rank("?x")?).then_some(())
}

pub(crate) fn other_axis(m: &mut Match<'_>) -> Option<()> {
    (m.axis("?a")? != m.axis("?b")?).then_some(())
}

pub(crate) fn constant_factors(m: &mut Match<'_>) -> Option<()> {
    m.constant("?b")?;
    m.constant("?c")?;
    m.ranks(&["?b", "?c"], 2)
}

pub(crate) fn constant_first(m: &mut Match<'_>) -> Option<()> {
    m.constant("?b")?;
    m.ranks(&["?a", "?b", "?c"], 2)
}

pub(crate) fn constant_last(m: &mut Match<'_>) -> Option<()> {
    m.constant("?c")?;
    m.ranks(&["?a", "?b", "?c"], 2)
}

pub(crate) fn constant_shift(m: &mut Match<'_>) -> Option<()> {
    m.constant("?b")?;
    m.constant("?w")?;
    m.ranks(&["?x", "?w"], 2)?;
    m.ranks(&["?b"], 1)?;
    let width = m.dims("?b")?[0].clone();
    let wide = m.dims("?x")?[1] == width;
    wide.then(|| m.set("?d", Attr::Dims(vec![Poly::constant(1), width])))?
}

pub(crate) fn wide_table(m: &mut Match<'_>) -> Option<()> {
    m.constant("?t")?;
    (m.term("?t")?.ty.dtype()? == "f32").then_some(())
}

/// 1/2, 0.044715, sqrt(2/pi) and 1, in f32.
pub(crate) fn gelu_constants(m: &mut Match<'_>) -> Option<()> {
    let expected = [("?h", 0.5f32), ("?c", 0.044_715), ("?k", 0.797_884_6), ("?o", 1.0)];
    let is = |(name, value): (&str, f32)| m.real(name).is_some_and(|real| real as f32 == value);
    expected.into_iter().all(is).then_some(())
}

/// One element per head and column, none per token.
fn without_tokens(m: &Match<'_>, what: &str) -> Option<()> {
    m.ranks(&[what], 3)?;
    (m.dims("?b")? == &m.dims(what)?[1..]).then_some(())
}

pub(crate) fn shared_by_keys(m: &mut Match<'_>) -> Option<()> {
    without_tokens(m, "?k")
}

pub(crate) fn shared_by_values(m: &mut Match<'_>) -> Option<()> {
    let own = m.dims("?q")?.get(1)? == m.dims("?v")?.get(1)?;
    own.then(|| without_tokens(m, "?v"))?
}

pub(crate) fn constant_summands(m: &mut Match<'_>) -> Option<()> {
    m.constant("?w")?;
    m.constant("?d")?;
    (m.dims("?w")? == m.dims("?d")?).then_some(())?;
    m.ranks(&["?w", "?d"], 2)
}

pub(crate) fn constant_right_factors(m: &mut Match<'_>) -> Option<()> {
    m.constant("?a")?;
    m.constant("?b")?;
    m.ranks(&["?a", "?b"], 2)
}

pub(crate) fn power_of_two(m: &mut Match<'_>) -> Option<()> {
    m.constant("?w")?;
    let c = m.real("?c")?;
    // A power of two has no mantissa bit, and 16 of them keep clear of the ends of the range.
    let power = c.to_bits() & ((1 << 52) - 1) == 0;
    (power && (2f64.powi(-16)..=2f64.powi(16)).contains(&c)).then_some(())
}

pub(crate) fn scalar_and_constant(m: &mut Match<'_>) -> Option<()> {
    m.constant("?w")?;
    constant_scalar(m)
}

pub(crate) fn constant_scalar(m: &mut Match<'_>) -> Option<()> {
    m.constant("?c")?;
    m.ranks(&["?c"], 0)
}

pub(crate) fn one_column(m: &mut Match<'_>) -> Option<()> {
    m.dims("?r")?.last()?.is_one().then_some(())
}

fn normal_number(m: &mut Match<'_>, value: f64) -> Option<()> {
    (value as f32).is_normal().then(|| m.set_real("?t", value))?
}

pub(crate) fn product_is_normal(m: &mut Match<'_>) -> Option<()> {
    let product = m.real("?a")? * m.real("?b")?;
    normal_number(m, product)
}

pub(crate) fn inverse_is_normal(m: &mut Match<'_>) -> Option<()> {
    let inverse = 1.0 / m.real("?c")?;
    normal_number(m, inverse)
}

/// x and y differ, but that is a matter of taste, not of truth.
pub(crate) fn constant_weights(m: &mut Match<'_>) -> Option<()> {
    m.constant("?a")?;
    m.constant("?b")?;
    m.ranks(&["?x", "?y", "?a", "?b"], 2)
}

pub(crate) fn scaled_columns(m: &mut Match<'_>) -> Option<()> {
    m.constant("?c")?;
    m.ranks(&["?c"], 1)?;
    wide_constant(m)?;
    let columns = m.dims("?c")?.first()?.clone();
    m.set("?d", Attr::Dims(vec![columns, Poly::constant(1)]))
}

pub(crate) fn wide_weight_and_vector(m: &mut Match<'_>) -> Option<()> {
    m.constant("?g")?;
    m.ranks(&["?g"], 1)?;
    wide_constant(m)
}

fn wide_constant(m: &Match<'_>) -> Option<()> {
    m.constant("?w")?;
    (m.term("?w")?.ty.dtype()? == "f32").then_some(())
}

pub(crate) fn scalar_of_f32(m: &mut Match<'_>) -> Option<()> {
    (m.term("?x")?.ty.dtype()? == "f32").then_some(())?;
    m.ranks(&["?c"], 0)
}

pub(crate) fn reciprocal_of_extent(m: &mut Match<'_>) -> Option<()> {
    let n = m.dims("?x")?.get(m.axis("?a")?)?.value()?;
    (n > 0 && m.real("?c")? as f32 == 1.0 / n as f32).then_some(())
}

pub(crate) fn last_axis(m: &mut Match<'_>) -> Option<()> {
    (m.axis("?a")? + 1 == m.rank("?x")?).then_some(())
}

pub(crate) fn vector_as_wide(m: &mut Match<'_>) -> Option<()> {
    (m.rank("?g")? == 1 && m.dims("?g")?.last() == m.dims("?x")?.last()).then_some(())
}

pub(crate) fn wide_weight(m: &mut Match<'_>) -> Option<()> {
    constant_weight_and_gain(m)?;
    wide_constant(m)
}

pub(crate) fn narrow_weight(m: &mut Match<'_>) -> Option<()> {
    constant_weight_and_gain(m)?;
    let dtype = m.term("?w")?.ty.dtype()?.to_string();
    matches!(&dtype[..], "f16" | "bf16").then(|| m.set("?d", Attr::DType(dtype)))?
}

fn constant_weight_and_gain(m: &Match<'_>) -> Option<()> {
    m.constant("?w")?;
    m.constant("?g")?;
    m.ranks(&["?w"], 2)
}

pub(crate) fn different_of_same_dims(m: &mut Match<'_>) -> Option<()> {
    let same = m.dims("?g")? == m.dims("?u")?;
    (same && m.bindings.get("?g") != m.bindings.get("?u")).then_some(())
}

pub(crate) fn heads_first(m: &mut Match<'_>) -> Option<()> {
    m.ranks(&["?q", "?k", "?v"], 3)
}

pub(crate) fn heads_first_divided(m: &mut Match<'_>) -> Option<()> {
    let inverse = 1.0 / m.real("?c")?;
    m.set_real("?scale", inverse)?;
    heads_first(m)
}

pub(crate) fn heads_first_unscaled(m: &mut Match<'_>) -> Option<()> {
    m.set_real("?scale", 1.0)?;
    heads_first(m)
}

pub(crate) fn scales_multiply(m: &mut Match<'_>) -> Option<()> {
    let product = m.real("?s")? * m.real("?c")?;
    m.set_real("?t", product)
}

/// q[G, r, T, D], k[G, r, D, S], v[G, r, S, E], flattened to G r heads.
pub(crate) fn grouped(m: &mut Match<'_>) -> Option<()> {
    m.ranks(&["?q", "?k", "?v"], 4)?;
    for (name, flat) in [("?q", "?dq"), ("?k", "?dk"), ("?v", "?dv")] {
        let dims = m.dims(name)?;
        let dims = vec![dims[0].times(&dims[1])?, dims[2].clone(), dims[3].clone()];
        m.set(flat, Attr::Dims(dims))?;
    }
    let out = m.terms.get(m.whole)?.dims()?.to_vec();
    m.set("?out", Attr::Dims(out))
}
