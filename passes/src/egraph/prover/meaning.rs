//! The meaning of every op for one element, over the reals: what `ir::eval` computes, for any size.
//!
//! An expression is that of `cases`, with letters for sizes (`x:a,b`, `dims:a*b`) and for real constants
//! (`real:u`, `real:1/u`, `real:u*v`). Rounding is not modelled: casts are identities here, tiers are tested
//! with numbers. `None`: the expression has no type, or an op that is not modelled.

use super::normal::{Factor, Normal};
use super::poly::{Poly, Symbol};

/// An expression.
#[derive(Clone, Debug)]
pub(super) enum Expr {
    /// A given tensor.
    Leaf(String, Vec<Poly>),
    Node(String, Vec<Expr>, Vec<Attr>),
}

/// An attribute.
#[derive(Clone, Debug)]
pub(super) enum Attr {
    Axis(usize),
    Perm(Vec<usize>),
    Dim(Poly),
    Dims(Vec<Poly>),
    /// Everything that is compared only, and reals.
    Text(String),
}

fn dims(text: &str) -> Option<Vec<Poly>> {
    text.split(',').map(Poly::parse).collect()
}

impl Expr {
    pub(super) fn parse(text: &str) -> Option<Expr> {
        let spaced = text.replace('(', " ( ").replace(')', " ) ");
        let mut words = spaced.split_whitespace();
        let expr = Expr::read(words.next()?, &mut words)?;
        words.next().is_none().then_some(expr)
    }

    fn read<'a>(word: &str, words: &mut impl Iterator<Item = &'a str>) -> Option<Expr> {
        if word != "(" {
            let (name, of) = word.split_once(':')?;
            return Some(Expr::Leaf(name.to_string(), dims(of)?));
        }
        let head = words.next()?.to_string();
        let (mut operands, mut attrs) = (Vec::new(), Vec::new());
        loop {
            let word = words.next()?;
            if word == ")" {
                return Some(Expr::Node(head, operands, attrs));
            }
            match attribute(word) {
                Some(attr) => attrs.push(attr),
                None => operands.push(Expr::read(word, words)?),
            }
        }
    }

    /// The extents.
    pub(super) fn shape(&self) -> Option<Vec<Poly>> {
        let (head, x, attrs) = match self {
            Expr::Leaf(_, dims) => return Some(dims.clone()),
            Expr::Node(head, operands, attrs) => (&head[..], operands, attrs),
        };
        let first = || x.first()?.shape();
        let [t, s] = [Poly::parse("T")?, Poly::parse("S")?];
        Some(match (head, &attrs[..]) {
            ("const", _) => Vec::new(),
            ("causal_mask", _) => vec![t, s],
            ("positions", _) => vec![t],
            ("add" | "sub" | "mul" | "div" | "max" | "min", _) => {
                broadcast(&first()?, &x.get(1)?.shape()?)?
            }
            ("matmul", _) => {
                let (a, b) = (first()?, x.get(1)?.shape()?);
                let (m, n) = (a.len().checked_sub(2)?, b.len().checked_sub(2)?);
                if a[m + 1] != b[n] || (m > 0 && n > 0 && a[..m] != b[..n]) {
                    return None;
                }
                let batch = if m == 0 { &b[..n] } else { &a[..m] };
                batch.iter().chain([&a[m], &b[n + 1]]).cloned().collect()
            }
            ("reduce_sum" | "reduce_max" | "reduce_mean", [Attr::Axis(axis)]) => {
                let mut dims = first()?;
                *dims.get_mut(*axis)? = Poly::constant(1);
                dims
            }
            ("reshape" | "broadcast", [Attr::Dims(to)]) => to.clone(),
            ("transpose", [Attr::Perm(perm)]) => {
                let dims = first()?;
                perm.iter().map(|&i| dims.get(i).cloned()).collect::<Option<_>>()?
            }
            ("slice", [Attr::Axis(axis), Attr::Dim(start), Attr::Dim(end)]) => {
                let mut dims = first()?;
                *dims.get_mut(*axis)? = end.minus(start);
                dims
            }
            ("concat", [Attr::Axis(axis)]) => {
                let mut dims = first()?;
                for other in &x[1..] {
                    dims[*axis] = dims.get(*axis)?.plus(other.shape()?.get(*axis)?);
                }
                dims
            }
            ("gather", _) => {
                let width = first()?.get(1)?.clone();
                x.get(1)?.shape()?.into_iter().chain([width]).collect()
            }
            ("attention", _) => {
                let (q, v) = (first()?, x.get(2)?.shape()?);
                vec![q.first()?.clone(), q.get(1)?.clone(), v.get(2)?.clone()]
            }
            _ => first()?,
        })
    }
}

fn attribute(word: &str) -> Option<Attr> {
    let (kind, value) = word.split_once(':')?;
    Some(match kind {
        "axis" => Attr::Axis(value.parse().ok()?),
        "perm" => Attr::Perm(value.split(',').map(|p| p.parse().ok()).collect::<Option<_>>()?),
        "dim" => Attr::Dim(Poly::parse(value)?),
        "dims" => Attr::Dims(dims(value)?),
        "real" | "act" | "window" | "dtype" | "rope" => Attr::Text(value.to_string()),
        _ => return None,
    })
}

fn broadcast(a: &[Poly], b: &[Poly]) -> Option<Vec<Poly>> {
    let rank = a.len().max(b.len());
    let at = |x: &[Poly], i: usize| {
        (i + x.len()).checked_sub(rank).map_or(Poly::constant(1), |j| x[j].clone())
    };
    let dim = |i: usize| match (at(a, i), at(b, i)) {
        (x, y) if x == y || y.is(1) => Some(x),
        (x, y) if x.is(1) => Some(y),
        _ => None,
    };
    (0..rank).map(dim).collect()
}

/// The index variables in use, by number, with their extents.
#[derive(Default)]
pub(super) struct Indices {
    extents: Vec<Poly>,
}

impl Indices {
    fn fresh(&mut self, extent: &Poly) -> u32 {
        self.extents.push(extent.clone());
        self.extents.len() as u32 - 1
    }

    fn extent(&self, variable: u32) -> Poly {
        self.extents.get(variable as usize).cloned().unwrap_or_default()
    }

    /// An index over an extent, digit by digit when that is a product of sizes; 0 where there is one.
    pub(super) fn index(&mut self, extent: &Poly) -> Option<Poly> {
        if extent.is(1) {
            return Some(Poly::default());
        }
        let factors = extent.factors().unwrap_or_else(|| vec![extent.clone()]);
        let mut index = Poly::default();
        for factor in factors {
            let digit = self.fresh(&factor);
            index = index.times(&factor).plus(&Poly::symbol(Symbol::Index(digit)));
        }
        Some(index)
    }

    /// A sum over a fresh index of an extent.
    fn sum(
        &mut self,
        extent: &Poly,
        body: impl FnOnce(&mut Self, Poly) -> Option<Normal>,
    ) -> Option<Normal> {
        let first = self.extents.len() as u32;
        let index = self.index(extent)?;
        let digits = first..self.extents.len() as u32;
        let sum = body(self, index)?;
        Some(digits.fold(sum, |sum, d| {
            let extent = self.extent(d);
            sum.summed(d, &extent)
        }))
    }

    /// The element of an expression at an index per axis.
    pub(super) fn element(&mut self, expr: &Expr, at: &[Poly]) -> Option<Normal> {
        let (head, x, attrs) = match expr {
            Expr::Leaf(name, _) => {
                return Some(Normal::factor(Factor::Element(name.clone(), at.to_vec())));
            }
            Expr::Node(head, operands, attrs) => (&head[..], &operands[..], &attrs[..]),
        };
        match (head, x, attrs) {
            ("const", [], [Attr::Text(value)]) => real(value),
            ("causal_mask", [], [Attr::Text(window)]) => {
                Some(Normal::factor(Factor::Element(format!("mask {window}"), at.to_vec())))
            }
            ("cast" | "quantize", [a], _) => self.element(a, at),
            ("neg", [a], _) => Some(self.element(a, at)?.times(&Normal::number(-1))),
            ("square", [a], _) => Some(self.element(a, at)?.times(&self.element(a, at)?)),
            ("act", [a], [Attr::Text(name)]) => self.activation(name, a, at),
            ("glu", [gate, up], [Attr::Text(name)]) => {
                Some(self.activation(name, gate, at)?.times(&self.element(up, at)?))
            }
            ("add" | "sub" | "mul" | "div" | "max" | "min", [a, b], _) => {
                self.binary(head, expr, [a, b], at)
            }
            ("rsqrt", [a], _) => Some(inverse_root(self.element(a, at)?)),
            ("exp" | "sqrt" | "recip" | "tanh" | "sigmoid", [a], _) => {
                Some(Normal::function(head, vec![self.element(a, at)?]))
            }
            ("matmul", [a, b], _) => self.matmul(a, b, at),
            ("reduce_sum" | "reduce_mean" | "reduce_max", [a], [Attr::Axis(axis)]) => {
                self.reduce(head, a, *axis, at)
            }
            ("softmax", [a], _) => self.softmax(a, at),
            ("rms_norm", [a, gain @ ..], [Attr::Text(eps)]) => {
                let normed = self.rms_norm(a, eps, at)?;
                match gain {
                    [gain] => Some(normed.times(&self.element(gain, &at[at.len() - 1..])?)),
                    _ => Some(normed),
                }
            }
            ("gather", [table, ids], _) => {
                // The sum over all rows of the one whose number is the id.
                let (column, rest) = at.split_last()?;
                self.sum(table.shape()?.first()?, |cx, row| {
                    let number = Factor::Element("number".to_string(), vec![row.clone()]);
                    let id = cx.element(ids, rest)?;
                    let is = Normal::function("is", vec![id, Normal::factor(number)]);
                    Some(is.times(&cx.element(table, &[row, column.clone()])?))
                })
            }
            ("rope", [a, positions], [Attr::Text(spec)]) => self.rope(a, positions, spec, at),
            ("attention", [q, k, v], [Attr::Text(scale), Attr::Text(window)]) => {
                self.attention([q, k, v], scale, window, at)
            }
            _ => self.view(head, x, attrs, at),
        }
    }

    fn view(&mut self, head: &str, x: &[Expr], attrs: &[Attr], at: &[Poly]) -> Option<Normal> {
        let first = x.first()?;
        let shape = first.shape()?;
        match (head, attrs) {
            ("transpose", [Attr::Perm(perm)]) => {
                let mut below = vec![Poly::default(); perm.len()];
                perm.iter().zip(at).for_each(|(&from, index)| below[from] = index.clone());
                self.element(first, &below)
            }
            ("broadcast", [Attr::Dims(_)]) => self.element(first, &stretched(&shape, at)),
            ("slice", [Attr::Axis(axis), Attr::Dim(start), _]) => {
                let mut below = at.to_vec();
                below[*axis] = below.get(*axis)?.plus(start);
                self.element(first, &below)
            }
            ("reshape", [Attr::Dims(to)]) => {
                let flat = to
                    .iter()
                    .zip(at)
                    .fold(Poly::default(), |flat, (extent, index)| flat.times(extent).plus(index));
                let mut below = Vec::with_capacity(shape.len());
                let mut rest = flat;
                for axis in 0..shape.len() {
                    let one = Poly::constant(1);
                    let stride = shape[axis + 1..].iter().fold(one, |n, d| n.times(d));
                    let (index, left) = rest.divided(&stride, &|v| self.extent(v));
                    below.push(index);
                    rest = left;
                }
                self.element(first, &below)
            }
            ("concat", [Attr::Axis(axis)]) => self.concat(x, *axis, at),
            _ => None,
        }
    }

    /// The part that holds the index; a choice of the parts that may.
    fn concat(&mut self, parts: &[Expr], axis: usize, at: &[Poly]) -> Option<Normal> {
        let index = at.get(axis)?;
        let least = index.with(&|_| Poly::default());
        let most = index.with(&|v| self.extent(v).minus(&Poly::constant(1)));
        let (mut start, mut kept) = (Poly::default(), Vec::new());
        for part in parts {
            let end = start.plus(part.shape()?.get(axis)?);
            let before = most.plus(&Poly::constant(1));
            let outside =
                start.minus(&before).is_nonnegative() || least.minus(&end).is_nonnegative();
            if !outside {
                kept.push((start.clone(), end.clone(), part));
            }
            start = end;
        }
        let (first, _, _) = kept.first()?.clone();
        let mut bodies = Vec::new();
        for (start, end, part) in &kept {
            let mut below = at.to_vec();
            below[axis] = index.minus(start);
            let inside = least.minus(start).is_nonnegative()
                && end.minus(&most).minus(&Poly::constant(1)).is_nonnegative();
            let body = self.element(part, &below)?;
            if inside {
                return Some(body);
            }
            bodies.push((start.minus(&first), body));
        }
        // Parts that read the same element leave no choice.
        let (_, one) = bodies.first()?;
        if bodies.iter().all(|(_, body)| body.canonical(0) == one.canonical(0)) {
            return Some(one.clone());
        }
        Some(Normal::factor(Factor::Choice(index.minus(&first), bodies)))
    }

    fn binary(
        &mut self,
        head: &str,
        whole: &Expr,
        [a, b]: [&Expr; 2],
        at: &[Poly],
    ) -> Option<Normal> {
        let rank = whole.shape()?.len();
        let of = |cx: &mut Self, x: &Expr| {
            let shape = x.shape()?;
            let own = at.get(rank - shape.len()..)?;
            cx.element(x, &stretched(&shape, own))
        };
        let (x, y) = (of(self, a)?, of(self, b)?);
        Some(match head {
            "add" => x.plus(y),
            "sub" => x.plus(y.times(&Normal::number(-1))),
            "mul" => x.times(&y),
            "div" => x.times(&inverse(y)),
            _ => Normal::function(head, vec![x, y]),
        })
    }

    fn matmul(&mut self, a: &Expr, b: &Expr, at: &[Poly]) -> Option<Normal> {
        let (left, right) = (a.shape()?, b.shape()?);
        let (batch, ij) = at.split_at(at.len().checked_sub(2)?);
        let inner = left.last()?.clone();
        let with = |rank: usize, tail: [&Poly; 2]| -> Vec<Poly> {
            let own = if rank == 2 { &[][..] } else { batch };
            own.iter().chain(tail).cloned().collect()
        };
        self.sum(&inner, |cx, k| {
            let x = cx.element(a, &with(left.len(), [&ij[0], &k]))?;
            let y = cx.element(b, &with(right.len(), [&k, &ij[1]]))?;
            Some(x.times(&y))
        })
    }

    fn reduce(&mut self, head: &str, a: &Expr, axis: usize, at: &[Poly]) -> Option<Normal> {
        let extent = a.shape()?.get(axis)?.clone();
        let below = |index: Poly| {
            let mut below = at.to_vec();
            below[axis] = index;
            below
        };
        if head == "reduce_max" {
            let variable = self.fresh(&extent);
            let body = self.element(a, &below(Poly::symbol(Symbol::Index(variable))))?;
            let max = Factor::Reduction("max".to_string(), variable, extent, Box::new(body));
            return Some(Normal::factor(max));
        }
        let sum = self.sum(&extent, |cx, index| cx.element(a, &below(index)))?;
        Some(if head == "reduce_mean" { sum.times(&one_over(&extent)) } else { sum })
    }

    fn softmax(&mut self, a: &Expr, at: &[Poly]) -> Option<Normal> {
        let extent = a.shape()?.last()?.clone();
        let above = Normal::function("exp", vec![self.element(a, at)?]);
        let below = self.sum(&extent, |cx, index| {
            let mut other = at.to_vec();
            *other.last_mut()? = index;
            Some(Normal::function("exp", vec![cx.element(a, &other)?]))
        })?;
        Some(above.times(&inverse(below)))
    }

    fn rms_norm(&mut self, a: &Expr, eps: &str, at: &[Poly]) -> Option<Normal> {
        let extent = a.shape()?.last()?.clone();
        let squares = self.sum(&extent, |cx, index| {
            let mut other = at.to_vec();
            *other.last_mut()? = index;
            Some(cx.element(a, &other)?.times(&cx.element(a, &other)?))
        })?;
        let mean = squares.times(&one_over(&extent)).plus(real(eps)?);
        Some(self.element(a, at)?.times(&inverse_root(mean)))
    }

    fn activation(&mut self, name: &str, x: &Expr, at: &[Poly]) -> Option<Normal> {
        let value = self.element(x, at)?;
        Some(match name {
            "silu" => {
                let other = self.element(x, at)?;
                value.times(&Normal::function("sigmoid", vec![other]))
            }
            "relu" => Normal::function("max", vec![value, Normal::number(0)]),
            "gelu_tanh" => {
                // x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))
                let mut cube = self.element(x, at)?;
                for _ in 0..2 {
                    cube = cube.times(&self.element(x, at)?);
                }
                let inner = self.element(x, at)?.plus(cube.times(&real("0.044715")?));
                let tanh =
                    Normal::function("tanh", vec![inner.times(&real("0.7978845608028654")?)]);
                value.times(&real("0.5")?).times(&Normal::number(1).plus(tanh))
            }
            name => Normal::function(name, vec![value]),
        })
    }

    /// A rotation is linear: a matrix that depends on the position.
    fn rope(&mut self, a: &Expr, positions: &Expr, spec: &str, at: &[Poly]) -> Option<Normal> {
        let [token, head, element] = at else { return None };
        let extent = a.shape()?.last()?.clone();
        self.sum(&extent, |cx, index| {
            let position = cx.element(positions, std::slice::from_ref(token))?;
            let entry =
                Factor::Element(format!("turn {spec}"), vec![element.clone(), index.clone()]);
            let turn = Normal::function("rope", vec![position, Normal::factor(entry)]);
            Some(turn.times(&cx.element(a, &[token.clone(), head.clone(), index])?))
        })
    }

    fn attention(
        &mut self,
        [q, k, v]: [&Expr; 3],
        scale: &str,
        window: &str,
        at: &[Poly],
    ) -> Option<Normal> {
        let [token, head, element] = at else { return None };
        let (queries, keys) = (q.shape()?, k.shape()?);
        let groups = keys.get(1)?;
        // Heads of a group: H = G r, and head h reads group floor(h / r).
        let each = match queries.get(1)? {
            heads if heads == groups => Poly::constant(1),
            heads => {
                let factors = heads.factors()?;
                let own = groups.factors()?;
                let rest = factors.into_iter().filter(|f| !own.contains(f));
                rest.fold(Poly::constant(1), |n, f| n.times(&f))
            }
        };
        let (group, _) = head.divided(&each, &|i| self.extent(i));
        let score = |cx: &mut Self, key: &Poly| -> Option<Normal> {
            let product = cx.sum(queries.last()?, |cx, d| {
                let a = cx.element(q, &[token.clone(), head.clone(), d.clone()])?;
                let b = cx.element(k, &[key.clone(), group.clone(), d])?;
                Some(a.times(&b))
            })?;
            let mask = Factor::Element(format!("mask {window}"), vec![token.clone(), key.clone()]);
            let masked = product.times(&real(scale)?).plus(Normal::factor(mask));
            Some(Normal::function("exp", vec![masked]))
        };
        let length = keys.first()?;
        let below = self.sum(length, |cx, key| score(cx, &key))?;
        let above = self.sum(length, |cx, key| {
            let weight = score(cx, &key)?;
            let value = cx.element(v, &[key, group.clone(), element.clone()])?;
            Some(weight.times(&value))
        })?;
        Some(above.times(&inverse(below)))
    }
}

fn stretched(shape: &[Poly], at: &[Poly]) -> Vec<Poly> {
    let index = |(extent, index): (&Poly, &Poly)| {
        if extent.is(1) { Poly::default() } else { index.clone() }
    };
    shape.iter().zip(at).map(index).collect()
}

fn inverse(of: Normal) -> Normal {
    Normal::function("recip", vec![of])
}

fn inverse_root(of: Normal) -> Normal {
    inverse(Normal::function("sqrt", vec![of]))
}

fn one_over(extent: &Poly) -> Normal {
    Normal::factor(Factor::Element("one over".to_string(), vec![extent.clone()]))
}

/// A real constant: a product of numbers, letters and `1/letter`.
fn real(text: &str) -> Option<Normal> {
    let factor = |part: &str| {
        if let Some(size) = part.strip_prefix("1/").filter(|s| !s.starts_with(['u', 'v'])) {
            return Poly::parse(size).map(|size| one_over(&size));
        }
        match part.parse::<f64>() {
            Ok(value) if value == 0.0 || value == 1.0 => Some(Normal::number(value as i64)),
            _ if part.starts_with("1/") => {
                let of = Factor::Element(format!("real {}", &part[2..]), Vec::new());
                Some(inverse(Normal::factor(of)))
            }
            _ => Some(Normal::factor(Factor::Element(format!("real {part}"), Vec::new()))),
        }
    };
    text.split('*').map(factor).try_fold(Normal::number(1), |product, f| Some(product.times(&f?)))
}
