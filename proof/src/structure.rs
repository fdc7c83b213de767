//! Rules that no pattern can say: any number of operands, chains of views of any length.
//!
//! Views are compared by strides, as array libraries describe them: an axis of a view is a list of
//! (extent, stride) *atoms* over its base, outermost first; a transpose permutes axes, a reshape regroups
//! atoms, a broadcast adds an atom of stride 0. Two views of one base are equal when their atoms are, once
//! atoms that step together are joined. (The optimiser walks the other way and has no strides.)

use crate::poly::Poly;
use crate::term::{BINARY, Term, UNARY, product};

/// A factor of an axis: so many elements, so far apart in the base.
#[derive(Clone, Debug, PartialEq)]
struct Atom {
    extent: Poly,
    stride: Poly,
}

/// Atoms of each axis.
type Strides = Vec<Vec<Atom>>;

/// A tensor as a view of itself.
fn contiguous(dims: &[Poly]) -> Option<Strides> {
    let axis = |i: usize| {
        let stride = product(&dims[i + 1..])?;
        let atom = Atom { extent: dims[i].clone(), stride };
        Some(if dims[i].is_one() { Vec::new() } else { vec![atom] })
    };
    (0..dims.len()).map(axis).collect()
}

/// The strides of a term over one of the terms below it, through views only.
fn strides(terms: &[Term], at: usize, base: usize) -> Option<Strides> {
    let mut chain = Vec::new();
    let mut here = at;
    while here != base {
        let term = &terms[here];
        if !["reshape", "transpose", "broadcast"].contains(&&term.head[..]) {
            return None;
        }
        chain.push(term);
        here = *term.operands.first()?;
    }
    let mut axes = contiguous(terms[base].dims()?)?;
    let mut dims = terms[base].dims()?;
    for term in chain.into_iter().rev() {
        axes = match &term.head[..] {
            "transpose" => term.perm()?.iter().map(|&i| axes[i].clone()).collect(),
            "broadcast" => repeated(axes, dims, term.dims()?),
            _ => regrouped(axes, term.dims()?)?,
        };
        dims = term.dims()?;
    }
    axes.into_iter().map(joined).collect()
}

fn repeated(mut axes: Strides, from: &[Poly], to: &[Poly]) -> Strides {
    for (axis, (from, to)) in axes.iter_mut().zip(from.iter().zip(to)) {
        if from != to {
            axis.push(Atom { extent: to.clone(), stride: Poly::constant(0) });
        }
    }
    axes
}

/// The same atoms in the same order, cut into axes of these extents.
fn regrouped(axes: Strides, dims: &[Poly]) -> Option<Strides> {
    let mut rest: Vec<Atom> = axes.into_iter().flatten().rev().collect();
    let mut out = Vec::with_capacity(dims.len());
    for dim in dims {
        let (mut axis, mut wanted) = (Vec::new(), dim.clone());
        while !wanted.is_one() {
            let atom = rest.pop()?;
            if let Some(left) = wanted.divided_by(&atom.extent) {
                wanted = left;
                axis.push(atom);
                continue;
            }
            // The axis ends inside this atom: its outer part belongs to the axis.
            let inner = atom.extent.divided_by(&wanted)?;
            let outer = Atom { extent: wanted, stride: atom.stride.times(&inner)? };
            rest.push(Atom { extent: inner, stride: atom.stride });
            axis.push(outer);
            wanted = Poly::constant(1);
        }
        out.push(axis);
    }
    rest.is_empty().then_some(out)
}

/// Neighbours that step together become one atom.
fn joined(axis: Vec<Atom>) -> Option<Vec<Atom>> {
    let mut out: Vec<Atom> = Vec::with_capacity(axis.len());
    for atom in axis {
        let together = match out.last() {
            Some(outer) => outer.stride == atom.stride.times(&atom.extent)?,
            None => false,
        };
        match out.last_mut().filter(|_| together) {
            Some(outer) => {
                *outer = Atom { extent: outer.extent.times(&atom.extent)?, stride: atom.stride };
            }
            None => out.push(atom),
        }
    }
    Some(out)
}

/// The right side is a base of the left one, or one view of it, with the same elements in place.
pub(crate) fn same_view(terms: &[Term], left: usize, right: usize) -> Option<()> {
    let bases = [Some(right), terms[right].operands.first().copied()];
    let same = |base: usize| Some(strides(terms, left, base)? == strides(terms, right, base)?);
    bases.into_iter().flatten().any(|base| same(base) == Some(true)).then_some(())
}

/// attention(q, k, v) with heads repeated, each H/G times in a row, and attention(q, k', v') without.
pub(crate) fn shared_heads(terms: &[Term], left: usize, right: usize) -> Option<()> {
    let (repeated, shared) = (&terms[left], &terms[right]);
    let alike =
        repeated.is("attention") && shared.is("attention") && repeated.attrs == shared.attrs;
    let (&[q, k, v], &[p, l, w]) = (&repeated.operands[..], &shared.operands[..]) else {
        return None;
    };
    (alike && q == p && repeats_heads(terms, k, l)? && repeats_heads(terms, v, w)?).then_some(())
}

fn repeats_heads(terms: &[Term], repeated: usize, base: usize) -> Option<bool> {
    let (to, from) = (terms[repeated].dims()?, terms[base].dims()?);
    if to.len() != 3 || from.len() != 3 {
        return None;
    }
    let each = to[1].value()?.checked_div(from[1].value()?)?;
    let mut expected = contiguous(from)?;
    if each > 1 {
        let extent = Poly::constant(i64::try_from(each).ok()?);
        expected[1].push(Atom { extent, stride: Poly::constant(0) });
    }
    let expected: Option<Strides> = expected.into_iter().map(joined).collect();
    Some(strides(terms, repeated, base)? == expected?)
}

/// Start of each part of a concat along its axis, and the end of the last.
fn offsets(terms: &[Term], concat: &Term) -> Option<Vec<usize>> {
    let axis = concat.axis().filter(|_| concat.is("concat"))?;
    let mut at = 0usize;
    let mut all = vec![0];
    for &part in &concat.operands {
        at = at.checked_add(terms[part].dims()?.get(axis)?.value()?)?;
        all.push(at);
    }
    Some(all)
}

/// A range of joined parts: of one of them, or of whole ones.
pub(crate) fn slice_of_concat(terms: &[Term], left: usize, right: usize) -> Option<()> {
    let (axis, start, end) = terms[left].range()?;
    let (start, end) = (start.value()?, end.value()?);
    let concat = &terms[terms[left].operands[0]];
    let at = offsets(terms, concat)?;
    if concat.axis()? != axis {
        return None;
    }
    let result = &terms[right];
    if let Some((own, from, to)) = result.range() {
        let (from, to) = (from.value()?, to.value()?);
        let is_part = |(i, &part): (usize, &usize)| {
            let within = at[i] <= start && end <= at[i + 1];
            within && part == result.operands[0] && from == start - at[i] && to == end - at[i]
        };
        return (own == axis && concat.operands.iter().enumerate().any(is_part)).then_some(());
    }
    let first = at.iter().position(|&a| a == start)?;
    let last = at.iter().rposition(|&a| a == end)?;
    let whole = result.is("concat") && result.axis()? == axis;
    (whole && concat.operands.get(first..last)? == &result.operands[..]).then_some(())
}

/// Adjacent ranges of one tensor, joined, and the range they make up.
pub(crate) fn concat_of_slices(terms: &[Term], left: usize, right: usize) -> Option<()> {
    let (concat, whole) = (&terms[left], &terms[right]);
    let (axis, start, end) = whole.range()?;
    if !concat.is("concat") || concat.axis()? != axis {
        return None;
    }
    let mut at = start;
    for &part in &concat.operands {
        let (own, from, to) = terms[part].range()?;
        if own != axis || from != at || terms[part].operands != whole.operands {
            return None;
        }
        at = to;
    }
    (at == end).then_some(())
}

/// The operand of a transposed matrix.
fn swapped(terms: &[Term], at: usize) -> Option<usize> {
    let term = &terms[at];
    (term.is("transpose") && term.perm()? == [1, 0]).then(|| term.operands[0])
}

pub(crate) fn concat_of_transposes(terms: &[Term], left: usize, right: usize) -> Option<()> {
    let (columns, rows) = (&terms[left], &terms[swapped(terms, right)?]);
    let sides =
        columns.is("concat") && columns.axis()? == 1 && rows.is("concat") && rows.axis()? == 0;
    let parts: Option<Vec<usize>> = columns.operands.iter().map(|&p| swapped(terms, p)).collect();
    (sides && parts? == rows.operands).then_some(())
}

/// x w^T and columns of x [w1; w2; ...]^T; or a matrix and itself transposed twice.
pub(crate) fn merge_projections(terms: &[Term], left: usize, right: usize) -> Option<()> {
    if swapped(terms, right).and_then(|once| swapped(terms, once)) == Some(left) {
        return Some(());
    }
    let factors = |at: usize| match &terms[at].operands[..] {
        &[x, w] if terms[at].is("matmul") && terms[x].dims()?.len() == 2 => {
            Some((x, swapped(terms, w)?))
        }
        _ => None,
    };
    let (x, weight) = factors(left)?;
    let (axis, start, end) = terms[right].range()?;
    let (y, merged) = factors(terms[right].operands[0])?;
    let (start, end) = (start.value()?, end.value()?);
    let same = x == y && axis == 1 && terms[merged].axis()? == 0;
    (same && has_part(terms, merged, weight, start, end)?).then_some(())
}

/// Whether a concat has this part at this range.
fn has_part(terms: &[Term], concat: usize, part: usize, start: usize, end: usize) -> Option<bool> {
    let at = offsets(terms, &terms[concat])?;
    let mut parts = terms[concat].operands.iter().enumerate();
    Some(parts.any(|(i, &p)| p == part && at[i] == start && at[i + 1] == end))
}

/// slice(x) + b and a slice of x + [b1, b2, ...].
pub(crate) fn merge_biases(terms: &[Term], left: usize, right: usize) -> Option<()> {
    let (axis, start, end) = terms[right].range()?;
    let sum = &terms[terms[right].operands[0]];
    let (&[x, joined], &[a, b]) = (&sum.operands[..], &terms[left].operands[..]) else {
        return None;
    };
    let adds = sum.is("add") && terms[left].is("add");
    let last = axis + 1 == terms[x].dims()?.len() && terms[joined].dims()?.len() == 1;
    let wide = terms[joined].dims()?.last() == terms[x].dims()?.last();
    let (from, to) = (start.value()?, end.value()?);
    let is_slice_of_x =
        |s: usize| terms[s].range() == Some((axis, start, end)) && terms[s].operands[0] == x;
    let fits = |slice: usize, bias: usize| {
        is_slice_of_x(slice) && has_part(terms, joined, bias, from, to) == Some(true)
    };
    (adds && last && wide && (fits(a, b) || fits(b, a))).then_some(())
}

/// A range of f(x, y, ...) and f of the ranges, where f treats every element alike.
pub(crate) fn slice_elementwise(terms: &[Term], left: usize, right: usize) -> Option<()> {
    let (axis, start, end) = terms[left].range()?;
    let (whole, part) = (&terms[terms[left].operands[0]], &terms[right]);
    let head = &whole.head[..];
    let alike = UNARY.contains(&head) || BINARY.contains(&head) || ["cast", "glu"].contains(&head);
    if !alike || whole.text != part.text || whole.operands.len() != part.operands.len() {
        return None;
    }
    let rank = whole.dims()?.len();
    let fits = |(&x, &y): (&usize, &usize)| -> Option<bool> {
        let dims = terms[x].dims()?;
        let Some(own) = (axis + dims.len()).checked_sub(rank) else { return Some(x == y) };
        // Broadcast along the axis: every range reads the same.
        if dims[own].is_one() && !whole.dims()?[axis].is_one() {
            return Some(x == y);
        }
        Some(terms[y].range()? == (own, start, end) && terms[y].operands[0] == x)
    };
    let pairs = whole.operands.iter().zip(&part.operands);
    pairs.into_iter().all(|pair| fits(pair) == Some(true)).then_some(())
}
