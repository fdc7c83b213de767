//! Numeric tiers: how far a rewrite may move the numbers.
//!
//! The tier is chosen before any search starts: rules above it are not loaded, so every graph that
//! can be extracted is legal. Nothing is "checked afterwards".

use std::fmt;
use std::str::FromStr;

/// What a transformation may do to a result, weakest promise last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Tier {
    /// The same bits, given the accumulation order that each op's kernel contract fixes.
    Exact,
    /// The same real value; sums and products associate in another order, f32 throughout.
    #[default]
    Reassoc,
    /// A stored value (weight or activation) is rounded differently.
    Reround,
    /// Information is dropped: quantisation.
    Lossy,
}

impl Tier {
    /// Every tier, strictest first.
    pub const ALL: [Tier; 4] = [Tier::Exact, Tier::Reassoc, Tier::Reround, Tier::Lossy];

    /// How far results may be apart: tests and trials of rules compare with it.
    pub fn tolerance(self) -> tensor::Tolerance {
        match self {
            Tier::Exact => tensor::Tolerance::Exact,
            Tier::Reassoc => tensor::Tolerance::RelativeToMax(1e-5),
            Tier::Reround => tensor::Tolerance::RelativeToMax(2e-2),
            Tier::Lossy => tensor::Tolerance::RelativeToMax(0.3),
        }
    }

    /// The spelling of `--numerics`.
    pub fn name(self) -> &'static str {
        match self {
            Tier::Exact => "exact",
            Tier::Reassoc => "reassoc",
            Tier::Reround => "reround",
            Tier::Lossy => "lossy",
        }
    }
}

impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A word that names no tier.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a numeric tier: expected exact, reassoc, reround or lossy")]
pub struct UnknownTier(pub String);

impl FromStr for Tier {
    type Err = UnknownTier;

    fn from_str(text: &str) -> Result<Self, UnknownTier> {
        let found = Tier::ALL.into_iter().find(|t| t.name() == text);
        found.ok_or_else(|| UnknownTier(text.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiers_are_ordered_and_spelled() {
        assert!(Tier::Exact < Tier::Reassoc && Tier::Reround < Tier::Lossy);
        for tier in Tier::ALL {
            assert_eq!(tier.to_string().parse(), Ok(tier));
        }
        assert_eq!("fast".parse::<Tier>(), Err(UnknownTier("fast".to_string())));
    }
}
