//! Both sides of a theorem over finite fields, for rules whose proof needs laws that normal forms do not
//! know: exp(a + b) = exp(a) exp(b), sums that cancel.
//!
//! After Mirage (Wu et al., OSDI 2025): a value is a pair, modulo p and modulo q, with p = 2q + 1 prime; all ops
//! act on both, exp takes the part modulo q to w^x modulo p, w of order q, so that exp(a + b) =
//! exp(a) exp(b) holds exactly. What has been an exponent has no part modulo q any more. No tolerance: two sides
//! agree or not. Sides that differ as functions of the fields are ratios of polynomials of degree d at most in each part;
//! a random point hides that with probability d / q at most (Schwartz and Zippel), here d < 100 and q
//! about 2^30: below 10^-7 per trial. Sizes are small and random too.

use std::collections::BTreeMap;

use tensor::Rng;

use super::meaning::{Attr, Expr};
use super::poly::Poly;

const P: u64 = 2_147_483_579;
const Q: u64 = 1_073_741_789;
/// A square, so of order q.
const W: u64 = 4;

/// A number modulo p, and modulo q while it may become an exponent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Pair(u64, Option<u64>);

impl Pair {
    fn with(self, other: Pair, f: fn(u64, u64, u64) -> u64) -> Pair {
        Pair(f(self.0, other.0, P), self.1.zip(other.1).map(|(a, b)| f(a, b, Q)))
    }

    fn plus(self, other: Pair) -> Pair {
        self.with(other, |a, b, n| (a + b) % n)
    }

    fn minus(self, other: Pair) -> Pair {
        self.with(other, |a, b, n| (a + n - b) % n)
    }

    fn times(self, other: Pair) -> Pair {
        self.with(other, |a, b, n| a * b % n)
    }

    fn exp(self) -> Option<Pair> {
        Some(Pair(power(W, self.1?), None))
    }

    fn inverse(self) -> Option<Pair> {
        (self.0 != 0).then(|| Pair(power(self.0, P - 2), None))
    }
}

fn power(base: u64, mut exponent: u64) -> u64 {
    let (mut result, mut square) = (1, base % P);
    while exponent > 0 {
        if exponent & 1 == 1 {
            result = result * square % P;
        }
        square = square * square % P;
        exponent >>= 1;
    }
    result
}

struct Grid {
    dims: Vec<usize>,
    values: Vec<Pair>,
}

/// Evaluates expressions at random sizes and operands.
struct Fields {
    rng: Rng,
    sizes: BTreeMap<char, usize>,
    given: BTreeMap<String, Vec<Pair>>,
    window: Option<usize>,
}

/// Trials of a theorem, and in how many both sides are the same; `None` when it has an op that is not
/// modelled here.
pub(super) fn trials(left: &str, right: &str) -> Option<(usize, usize)> {
    let (left, right) = (Expr::parse(left)?, Expr::parse(right)?);
    let mut agreed = 0;
    for seed in 0..TRIALS as u64 {
        let window = [None, Some(2)][seed as usize % 2];
        let (sizes, given) = (BTreeMap::new(), BTreeMap::new());
        let mut fields = Fields { rng: Rng::new(seed), sizes, given, window };
        let (a, b) = (fields.grid(&left)?, fields.grid(&right)?);
        let same = |(x, y): (&Pair, &Pair)| x.0 == y.0;
        agreed += usize::from(a.dims == b.dims && a.values.iter().zip(&b.values).all(same));
    }
    Some((TRIALS, agreed))
}

const TRIALS: usize = 16;

impl Fields {
    fn number(&mut self) -> Pair {
        let mut next = || (self.rng.below(1 << 20) as u64) << 20 | self.rng.below(1 << 20) as u64;
        Pair(next() % P, Some(next() % Q))
    }

    /// T tokens after C in the cache; other letters at random.
    fn size(&mut self, letter: char) -> usize {
        let rng = &mut self.rng;
        match letter {
            'T' => 3,
            'S' => 5,
            _ => *self.sizes.entry(letter).or_insert_with(|| 1 + rng.below(3)),
        }
    }

    fn extent(&mut self, extent: &Poly) -> Option<usize> {
        let letters: Vec<char> = ('a'..='z').chain(['T', 'S']).collect();
        let sizes: BTreeMap<char, i64> =
            letters.into_iter().map(|l| (l, self.size(l) as i64)).collect();
        usize::try_from(extent.value(&|letter| sizes.get(&letter).copied())?).ok()
    }

    fn named(&mut self, name: &str, count: usize) -> Vec<Pair> {
        if let Some(known) = self.given.get(name) {
            return known.clone();
        }
        let values: Vec<Pair> = (0..count).map(|_| self.number()).collect();
        self.given.insert(name.to_string(), values.clone());
        values
    }

    fn grid(&mut self, expr: &Expr) -> Option<Grid> {
        let dims = expr.shape()?;
        let dims: Vec<usize> = dims.iter().map(|d| self.extent(d)).collect::<Option<_>>()?;
        let count = dims.iter().product();
        let values = match expr {
            Expr::Leaf(name, _) => self.named(name, count),
            Expr::Node(head, operands, attrs) => match (&head[..], &operands[..], &attrs[..]) {
                ("add" | "sub" | "mul", [a, b], _) => {
                    let (a, b) = (self.grid(a)?, self.grid(b)?);
                    let f = match &head[..] {
                        "add" => Pair::plus,
                        "sub" => Pair::minus,
                        _ => Pair::times,
                    };
                    let at = |i: usize| f(a.stretched(&dims, i), b.stretched(&dims, i));
                    (0..count).map(at).collect()
                }
                ("attention", [q, k, v], [Attr::Text(scale), Attr::Text(_)]) => {
                    let scale = self.named(&format!("real {scale}"), 1)[0];
                    let (q, k, v) = (self.grid(q)?, self.grid(k)?, self.grid(v)?);
                    attention([&q, &k, &v], scale, self.window)?
                }
                _ => return None,
            },
        };
        Some(Grid { dims, values })
    }
}

impl Grid {
    /// The element that stands at a flat index of a larger shape.
    fn stretched(&self, dims: &[usize], mut flat: usize) -> Pair {
        let (mut at, mut stride) = (0, 1);
        let own = self.dims.iter().rev().map(Some).chain(std::iter::repeat(None));
        for (&extent, own) in dims.iter().rev().zip(own) {
            let index = flat % extent;
            flat /= extent;
            if let Some(&own) = own {
                at += if own == 1 { 0 } else { index * stride };
                stride *= own;
            }
        }
        self.values[at]
    }

    fn at(&self, index: [usize; 3]) -> Pair {
        self.values[(index[0] * self.dims[1] + index[1]) * self.dims[2] + index[2]]
    }
}

/// softmax(s q k + mask) v: a masked weight is 0, as exp of minus infinity is.
fn attention([q, k, v]: [&Grid; 3], scale: Pair, window: Option<usize>) -> Option<Vec<Pair>> {
    let ([tokens, heads, width], [keys, groups, _]) =
        (<[usize; 3]>::try_from(&q.dims[..]).ok()?, <[usize; 3]>::try_from(&k.dims[..]).ok()?);
    let zero = Pair(0, Some(0));
    let mut out = Vec::new();
    for token in 0..tokens {
        let here = keys - tokens + token;
        let seen = (0..=here).filter(|key| window.is_none_or(|w| here - key < w));
        let seen: Vec<usize> = seen.collect();
        for head in 0..heads {
            let group = head / (heads / groups);
            let weight = |&key: &usize| {
                let product = |d: usize| q.at([token, head, d]).times(k.at([key, group, d]));
                let score = (0..width).map(product).fold(zero, Pair::plus);
                score.times(scale).exp()
            };
            let weights: Vec<Pair> = seen.iter().map(weight).collect::<Option<_>>()?;
            let below = weights.iter().copied().fold(zero, Pair::plus).inverse()?;
            for element in 0..v.dims[2] {
                let value = |(&key, &w): (&usize, &Pair)| w.times(v.at([key, group, element]));
                let above = seen.iter().zip(&weights).map(value).fold(zero, Pair::plus);
                out.push(above.times(below));
            }
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_true_agrees_and_what_is_false_does_not() {
        let shared = "(attention q:T,h,d (add k:S,h,d W1:h,d) v:S,h,e real:u window:none)";
        let plain = "(attention q:T,h,d k:S,h,d v:S,h,e real:u window:none)";
        assert_eq!(trials(shared, plain), Some((TRIALS, TRIALS)));
        // A shift per token is seen; so is another scale, and a shift of queries.
        let own = "(attention q:T,h,d (add k:S,h,d y:S,h,d) v:S,h,e real:u window:none)";
        let scaled = "(attention q:T,h,d k:S,h,d v:S,h,e real:v window:none)";
        let query = "(attention (add q:T,h,d W1:h,d) k:S,h,d v:S,h,e real:u window:none)";
        for wrong in [own, scaled, query] {
            assert!(trials(wrong, plain).is_some_and(|(_, agreed)| agreed < TRIALS / 2), "{wrong}");
        }
        assert_eq!(trials("(tanh x:a)", "x:a"), None);
    }
}
