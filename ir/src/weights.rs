//! Where weights come from: a lookup by name, and the simplest source, a map in memory; and what a
//! back end says of a weight that is no number.

use std::collections::BTreeMap;

use tensor::{NonFinite, Tensor};

/// Where weight bytes come from: a lookup by name, lazy and by mapping in the front end.
pub trait WeightSource: Sync {
    /// The tensor called `name`, as stored.
    ///
    /// # Errors
    /// A sentence saying why there is none (missing, unreadable).
    fn load(&self, name: &str) -> Result<Tensor, String>;
}

/// Weights held in memory.
#[derive(Clone, Debug, Default)]
pub struct WeightMap(pub BTreeMap<String, Tensor>);

impl WeightSource for WeightMap {
    fn load(&self, name: &str) -> Result<Tensor, String> {
        self.0.get(name).cloned().ok_or_else(|| "there is no such tensor".to_string())
    }
}

impl FromIterator<(String, Tensor)> for WeightMap {
    fn from_iter<I: IntoIterator<Item = (String, Tensor)>>(tensors: I) -> Self {
        WeightMap(tensors.into_iter().collect())
    }
}

/// A weight with NaN or infinities: a damaged file, or training that went wrong. No model with it has
/// an answer, so whoever reads it refuses it.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("weight \"{name}\": {found}")]
pub struct NonFiniteWeight {
    /// Its name, with the layer index filled in.
    pub name: String,
    /// Where and how many.
    pub found: NonFinite,
}

impl NonFiniteWeight {
    /// The stable code.
    pub const CODE: &str = "SPK1301";

    /// Refuses a weight that is not all numbers; reads it once.
    ///
    /// # Errors
    /// Where and how many elements are none.
    pub fn check(name: &str, tensor: &Tensor) -> Result<(), NonFiniteWeight> {
        let refuse = |found| NonFiniteWeight { name: name.to_string(), found };
        tensor.non_finite().map_or(Ok(()), |found| Err(refuse(found)))
    }
}
