//! Where weights come from: a lookup by name, and the simplest source, a map in memory.

use std::collections::BTreeMap;

use tensor::Tensor;

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
