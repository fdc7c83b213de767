//! How far a rewritten module may be, and is, from the one that it was: what the tier `reassoc` promises.
//!
//! Two modules of one function of real numbers are no further apart than the errors of both. Both are
//! enclosed twice (`ir::eval::ball`): with every value in f64, where the radii are so small that two
//! functions are told apart, and in the precision of the interpreter. What f32 costs each of the two on this
//! prompt follows from both: the distance of its f32 logits from the f64 ones, and the radius of those. The
//! sum of these two errors is the bound that users are shown. It is about one prompt, as every bound of
//! use is: a bound for all prompts is exponential in depth.

use ir::eval::EvalError;
use ir::eval::ball::{Distance, Enclosure, Rounding, SLACK, enclose};
use ir::{Module, WeightSource};

/// Most elements of values that an enclosure makes, constants included: 2^27, about 2 GiB.
const ELEMENTS: usize = 1 << 27;

/// Two modules on one prompt. Fractions are of the largest logit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Moved {
    /// In f64: a share above 1 says that the two compute different functions.
    pub function: Distance,
    /// In the interpreter's precision, by running error analysis alone.
    pub running: Distance,
    /// The f32 logits of the first module are no further from the real function than this.
    pub before: f64,
    /// The same of the second.
    pub after: f64,
    /// The difference of the f32 logits of the two.
    pub found: f64,
}

impl Moved {
    /// The f32 logits of the two are no further apart.
    pub fn bound(&self) -> f64 {
        self.before + self.after
    }

    /// Whether nothing contradicts that the two compute one function.
    pub fn holds(&self) -> bool {
        let none = f64::EPSILON;
        self.function.share <= 1.0
            && self.running.share <= 1.0
            && self.found <= self.bound() * SLACK + none
    }
}

/// Compares two modules on the logits of the last `rows` of `tokens`, fed at once to empty caches.
///
/// # Errors
/// What evaluating either finds wrong; modules with too many elements.
pub fn distance(
    before: &Module,
    after: &Module,
    weights: &dyn WeightSource,
    tokens: &[u32],
    rows: usize,
) -> Result<Moved, EvalError> {
    let both = |rounding| -> Result<[Enclosure; 2], EvalError> {
        let of = |module| enclose(module, weights, tokens, rows, rounding, ELEMENTS);
        Ok([of(before)?, of(after)?])
    };
    let wide = both(Rounding::Wide)?;
    let narrow = both(Rounding::Reference)?;
    let running = narrow[0].distance(&narrow[1]);
    // f32 values are numbers, not balls; what is not known is where the f64 ones lie.
    let error = |i: usize| {
        let points = Enclosure { radii: wide[i].radii.clone(), ..narrow[i].clone() };
        let center = Enclosure { radii: vec![0.0; wide[i].radii.len()], ..wide[i].clone() };
        let apart = center.distance(&points);
        apart.found + apart.bound
    };
    Ok(Moved {
        function: wide[0].distance(&wide[1]),
        running,
        before: error(0),
        after: error(1),
        found: running.found,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Tier;
    use crate::testing::{Decoder, random_weights, run_at};

    const TOKENS: [u32; 5] = [3, 1, 4, 1, 5];

    #[test]
    fn reassociation_stays_within_a_bound_that_another_function_breaks() {
        let before = Decoder { primitive: true, ..Decoder::default() }.module();
        let weights = random_weights(&before);
        let mut after = before.clone();
        run_at(crate::Level::O2.pipeline(), &mut after, Tier::Reassoc);
        assert_ne!(before, after);
        let moved = distance(&before, &after, &weights, &TOKENS, 3).unwrap();
        assert!(moved.holds(), "{moved:?}");
        assert!(moved.bound() < 1e-3, "{moved:?}");

        // Another eps: a difference that f32 would pass for rounding.
        let text = after.to_string().replace("eps=1e-5", "eps=2e-5");
        let other = ir::parse(&text).unwrap();
        assert_ne!(other, after);
        let moved = distance(&before, &other, &weights, &TOKENS, 3).unwrap();
        assert!(!moved.holds(), "{moved:?}");
    }
}
