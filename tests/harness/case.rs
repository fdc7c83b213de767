//! A `.spark` case: a module, and what its header says must be true of it.
//!
//! ```text
//! // One sentence: what this case is about.
//! // pass: canonicalize,dce     the result of these passes is a snapshot, and means the same
//! // same: O0 O1 O2 cpu wafer   these treatments mean the same
//! // tokens: 3,1,4              what is fed; default 1,2,3,4,5
//! // error: piece of message    the module must be refused, saying this
//! ```
//!
//! Weights are made from their names and shapes, so a case is one file.

use anyhow::{Context, Result, bail};
use ir::{Module, WeightMap};
use tensor::{DType, Rng, Tensor};

/// A way to run a module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Treatment {
    /// Optimised at this level, interpreted.
    Level(passes::Level),
    /// Optimised for the CPU, run by the runtime.
    Cpu,
    /// Optimised for the wafer, simulated on the target `small`.
    Wafer,
}

/// What the header says.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Case {
    /// Pipelines whose result is a snapshot.
    pub passes: Vec<String>,
    /// Treatments that must agree with `eval` of the module as it stands.
    pub same: Vec<Treatment>,
    /// Tokens fed.
    pub tokens: Vec<u32>,
    /// What the message of a refusal contains.
    pub error: Option<String>,
}

/// Reads the header of a case.
///
/// # Errors
/// A directive that is not known: a misspelt one would test nothing.
pub fn parse(text: &str) -> Result<Case> {
    let mut case = Case { tokens: vec![1, 2, 3, 4, 5], ..Case::default() };
    for line in text.lines().map_while(|line| line.strip_prefix("//")) {
        let Some((key, value)) = line.trim().split_once(": ") else { continue };
        if !key.bytes().all(|b| b.is_ascii_lowercase()) {
            // Prose with a colon in it.
            continue;
        }
        match key {
            "pass" => case.passes.push(value.to_string()),
            "same" => case.same = value.split(' ').map(treatment).collect::<Result<_>>()?,
            "tokens" => {
                case.tokens = value.split(',').map(|t| Ok(t.parse()?)).collect::<Result<_>>()?;
            }
            "error" => case.error = Some(value.to_string()),
            _ => bail!("unknown directive `{key}`"),
        }
    }
    if case.passes.is_empty() && case.same.is_empty() && case.error.is_none() {
        bail!("the case says nothing that must be true: // pass:, // same: or // error:");
    }
    Ok(case)
}

fn treatment(word: &str) -> Result<Treatment> {
    Ok(match word {
        "O0" => Treatment::Level(passes::Level::O0),
        "O1" => Treatment::Level(passes::Level::O1),
        "O2" => Treatment::Level(passes::Level::O2),
        "cpu" => Treatment::Cpu,
        "wafer" => Treatment::Wafer,
        _ => bail!("unknown treatment `{word}`"),
    })
}

/// Weights for a module: uniform in ±1/sqrt(K), vectors around 1, from a seed made of the name.
///
/// # Errors
/// A weight of a dtype that is no float.
pub fn weights(module: &Module) -> Result<WeightMap> {
    let mut tensors = std::collections::BTreeMap::new();
    for weight in module.weights() {
        let seed =
            weight.name.bytes().fold(0u64, |s, b| s.wrapping_mul(131).wrapping_add(b.into()));
        let mut rng = Rng::new(seed);
        let elements: usize = weight.shape.iter().product();
        let k = weight.shape.last().copied().unwrap_or(1) as f32;
        let (middle, spread) =
            if weight.shape.len() == 1 { (1.0, 0.25) } else { (0.0, 1.0 / k.sqrt()) };
        let values: Vec<f32> =
            (0..elements).map(|_| middle + spread * (2.0 * rng.uniform() - 1.0)).collect();
        let tensor = Tensor::from_f32(weight.shape.clone(), &values);
        let tensor = match weight.dtype {
            DType::F32 => tensor,
            other => tensor.cast(other).with_context(|| weight.name.clone())?,
        };
        tensors.insert(weight.name, tensor);
    }
    Ok(WeightMap(tensors))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_read_strictly() {
        let case = parse("// About.\n// same: O2 cpu\n// tokens: 7,8\nmodule").unwrap();
        assert_eq!(case.same, [Treatment::Level(passes::Level::O2), Treatment::Cpu]);
        assert_eq!(case.tokens, [7, 8]);
        assert!(parse("// passes: dce\nmodule").is_err());
        assert!(parse("// About.\nmodule").is_err());
    }
}
