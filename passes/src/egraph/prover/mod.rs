//! The rules on trial: theorems for all sizes, bits on awkward numbers, mutants, near misses.
//!
//! Per rule: its theorems are proven by comparing normal forms of one element (`normal`): for all sizes of the
//! axes, which are letters, at the ranks and numbers of operands that the table names; or, where that needs more laws than normal
//! forms know, tried over finite fields (`field`); its code writes what the theorem says at several sizes; what it makes equal is evaluated by `ir::eval`, bit for bit where
//! its tier is exact, on numbers with NaN, infinities, zeros of both signs and denormals; without any one of its side
//! conditions it must be caught; on its near misses it must not fire. Users see this as
//! `sparkc passes verify-rules`. Does not trust the rule: everything here runs it from outside.

mod field;
mod meaning;
mod normal;
mod poly;
mod schema;
mod trial;

use self::meaning::{Expr, Indices};
use self::poly::Poly;
use self::schema::{FIELDS, SCHEMAS, Schema};
use super::rule::Rule;
use super::{cases, convert, example, rules};
use crate::Tier;

/// How a rule did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleVerdict {
    /// Name of the rule.
    pub rule: &'static str,
    /// Its tier.
    pub tier: Tier,
    /// Theorems, and how many of them are proven for all sizes and are what the rule writes.
    pub theorems: (usize, usize),
    /// Trials over finite fields, and how many agreed: rules without a theorem have them.
    pub fields: (usize, usize),
    /// Comparisons of numbers, and how many agreed as the tier promises.
    pub numbers: (usize, usize),
    /// Side conditions, each by what must hold. One mutant of the rule lacks each.
    pub conditions: Vec<&'static str>,
    /// Those whose mutant was not caught.
    pub survivors: Vec<&'static str>,
    /// Near misses, and on how many the rule did not fire.
    pub misses: (usize, usize),
}

impl RuleVerdict {
    /// Proven symbolically, for all sizes.
    pub fn is_proven(&self) -> bool {
        self.theorems.0 > 0 && self.theorems.0 == self.theorems.1
    }

    /// Nothing speaks against it.
    pub fn is_sound(&self) -> bool {
        let all = |(of, ok): (usize, usize)| of == ok;
        all(self.theorems)
            && all(self.fields)
            && all(self.numbers)
            && all(self.misses)
            && self.survivors.is_empty()
    }
}

/// Tries every rule.
pub fn verify_rules() -> Vec<RuleVerdict> {
    rules::all().map(verdict).collect()
}

fn verdict(rule: &'static Rule) -> RuleVerdict {
    let theorems: Vec<&Schema> = SCHEMAS.iter().filter(|s| s.rule == rule.name).collect();
    let holds = |s: &&&Schema| is_theorem(s) && agrees(rule, s);
    let proven = theorems.iter().filter(holds).count();
    let fields = FIELDS.iter().filter(|s| s.rule == rule.name);
    let fields = fields.map(|s| match field::trials(s.left, s.right) {
        // What it says must also be what the rule writes.
        Some((tried, agreed)) if agrees(rule, s) => (tried, agreed),
        _ => (1, 0),
    });
    let fields = fields.fold((0, 0), |sum, (tried, agreed)| (sum.0 + tried, sum.1 + agreed));
    let case = cases::of(rule.name);
    let (conditions, survivors) = trial::mutants(rule, &case);
    let refused = case.misses.iter().filter(|text| !trial::fires(rule, text)).count();
    RuleVerdict {
        rule: rule.name,
        tier: rule.tier,
        theorems: (theorems.len(), proven),
        fields,
        numbers: trial::numbers(rule, case.fires),
        conditions: conditions.into_iter().collect(),
        survivors,
        misses: (case.misses.len(), refused),
    }
}

/// Whether both sides are the same element for element, whatever the letters stand for.
fn is_theorem(schema: &Schema) -> bool {
    // Rules on several results say it of the first.
    let left = first_expression(schema.left);
    let sides = Expr::parse(left).zip(Expr::parse(schema.right));
    let Some((left, right)) = sides else { return false };
    let (Some(shape), Some(other)) = (left.shape(), right.shape()) else { return false };
    if shape != other {
        return false;
    }
    let mut indices = Indices::default();
    let Some(at) = shape.iter().map(|e| indices.index(e)).collect::<Option<Vec<Poly>>>() else {
        return false;
    };
    let sides = indices.element(&left, &at).zip(indices.element(&right, &at));
    sides.is_some_and(|(left, right)| left.canonical(0) == right.canonical(0))
}

fn first_expression(text: &str) -> &str {
    let mut depth = 0usize;
    for (i, c) in text.char_indices() {
        match c {
            '(' => depth += 1,
            ')' if depth == 1 => return &text[..=i],
            ')' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    text
}

/// Sizes for the letters, in several ways: small primes, ones among them.
const SIZES: [[usize; 6]; 4] =
    [[3, 5, 2, 7, 4, 6], [2, 3, 5, 3, 2, 2], [1, 4, 3, 1, 5, 2], [7, 1, 1, 2, 3, 2]];
const REALS: [&str; 2] = ["0.5", "0.25"];

/// Whether the rule makes the two sides equal when letters are numbers.
fn agrees(rule: &'static Rule, schema: &Schema) -> bool {
    (0..SIZES.len()).all(|way| {
        let left = with_numbers(schema.left, way);
        let right = with_numbers(schema.right, way);
        let texts = left.zip(right).map(|(left, right)| format!("{left} {right}"));
        texts.is_some_and(|text| sides_meet(rule, &text))
    })
}

/// Whether the first and the last result of a graph are one class once the rule has run.
fn sides_meet(rule: &'static Rule, text: &str) -> bool {
    let loaded = example::graph(text).and_then(|graph| convert::load(&graph).ok());
    let Some(mut loaded) = loaded else { return false };
    super::saturate(&mut loaded, &[rule], trial::LIMITS);
    let class = |id: Option<&egg::Id>| id.map(|&id| loaded.egraph.find(id));
    class(loaded.roots.first()) == class(loaded.roots.last())
}

/// An expression with numbers for its letters; `None` when a size is no number then.
fn with_numbers(text: &str, way: usize) -> Option<String> {
    let word = |word: &str| -> Option<String> {
        let (name, value) = word.split_once(':')?;
        let value = match name {
            "perm" | "axis" | "act" | "window" | "dtype" | "rope" => value.to_string(),
            "real" => real(value, way)?,
            _ => value.split(',').map(|d| number(d, way)).collect::<Option<Vec<_>>>()?.join(","),
        };
        Some(format!("{name}:{value}"))
    };
    let mut out = String::new();
    for piece in text.split_inclusive([' ', '(', ')']) {
        let end = piece.len() - usize::from(piece.ends_with([' ', '(', ')']));
        let (inside, rest) = piece.split_at(end);
        out.push_str(&if inside.contains(':') { word(inside)? } else { inside.to_string() });
        out.push_str(rest);
    }
    Some(out)
}

fn number(text: &str, way: usize) -> Option<String> {
    if ["T", "S", "T-R"].contains(&text) {
        return Some(text.to_string());
    }
    let value = Poly::parse(text)?.value(&|letter| size(letter, way))?;
    Some(value.to_string())
}

fn size(letter: char, way: usize) -> Option<i64> {
    // m and n stay large, l small: low rank is a question of sizes.
    if letter == 'm' || letter == 'n' {
        return Some([8, 9, 16, 11][way]);
    }
    if letter == 'l' {
        return Some([2, 3, 1, 4][way]);
    }
    letter.is_ascii_lowercase().then(|| SIZES[way][(letter as usize - 'a' as usize) % 6] as i64)
}

/// The shortest text of a product of constants.
fn real(text: &str, way: usize) -> Option<String> {
    let mut product = 1.0f64;
    for part in text.split('*') {
        let letter = |part: &str| match part {
            "u" => REALS[0].parse().ok(),
            "v" => REALS[1].parse().ok(),
            _ => part.parse::<f64>().ok(),
        };
        product *= match part.strip_prefix("1/") {
            Some("u" | "v") => 1.0 / letter(&part[2..])?,
            Some(size) => 1.0 / number(size, way)?.parse::<f64>().ok()?,
            None => letter(part)?,
        };
    }
    Some(format!("{product:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rule_is_proven_and_sound() {
        let verdicts = verify_rules();
        for verdict in &verdicts {
            assert!(verdict.is_sound(), "{verdict:?}");
            assert!(verdict.is_proven() || verdict.fields.0 > 0, "{verdict:?}");
        }
        let conditions: usize = verdicts.iter().map(|v| v.conditions.len()).sum();
        assert!(conditions > 60, "{conditions} side conditions");
        let proven = verdicts.iter().filter(|v| v.is_proven()).count();
        assert!(proven * 100 >= verdicts.len() * 85, "{proven} of {} proven", verdicts.len());
    }

    #[test]
    fn what_is_false_is_no_theorem() {
        let says = |left, right| is_theorem(&Schema { rule: "none", left, right });
        assert!(says("(add x:a,b y:a,b)", "(add y:a,b x:a,b)"));
        assert!(!says("(sub x:a,b y:a,b)", "(sub y:a,b x:a,b)"));
        assert!(!says("(matmul x:a,a y:a,a)", "(matmul y:a,a x:a,a)"));
        assert!(!says("(reshape (transpose x:a,b perm:1,0) dims:a,b)", "x:a,b"));
        assert!(!says("(exp (add x:a y:a))", "(add (exp x:a) (exp y:a))"));
        // erf and tanh are different functions; so are a mean and a sum; so is another constant.
        assert!(!says("(act x:a,b act:gelu)", "(act x:a,b act:gelu_tanh)"));
        assert!(!says("(reduce_sum x:a,b axis:1)", "(reduce_mean x:a,b axis:1)"));
        assert!(!says("(rms_norm x:a,b real:u)", "(rms_norm x:a,b real:v)"));
        // Heads tiled instead of repeated.
        assert!(!says(
            "(attention q:T,g*r,d (reshape (broadcast (reshape k:S,g,d dims:S,1,g,d) dims:S,r,g,d) dims:S,g*r,d) (reshape (broadcast (reshape v:S,g,e dims:S,1,g,e) dims:S,r,g,e) dims:S,g*r,e) real:u window:none)",
            "(attention q:T,g*r,d k:S,g,d v:S,g,e real:u window:none)"
        ));
        // Parts of a sum in another order on one side, and one that is counted twice.
        let summed = "(add (matmul x:d,a y:a,c) (matmul z:d,b w:b,c))";
        assert!(says(summed, "(matmul (concat x:d,a z:d,b axis:1) (concat y:a,c w:b,c axis:0))"));
        assert!(says(summed, "(matmul (concat z:d,b x:d,a axis:1) (concat w:b,c y:a,c axis:0))"));
        let equal = "(add (matmul x:d,a y:a,c) (matmul z:d,a w:a,c))";
        assert!(!says(equal, "(matmul (concat x:d,a z:d,a axis:1) (concat w:a,c y:a,c axis:0))"));
        assert!(!says(equal, "(matmul (concat x:d,a x:d,a axis:1) (concat y:a,c w:a,c axis:0))"));
        // A range of the wrong part, and one that reaches into the next.
        assert!(!says("(slice (concat x:a,d y:a,d axis:0) axis:0 dim:a dim:a+a)", "x:a,d"));
        assert!(!says("(slice (concat x:a+b,d y:c,d axis:0) axis:0 dim:b dim:a+b+c)", "y:c,d"));
    }
}
