//! Plans on disk: reading them, and finding the weights they name.
//!
//! Weights are looked for in the model given, in the plan file itself (`--embed-weights`), then where
//! the link `source` beside the plan points. Wherever they come from, a weight whose bytes are not
//! those the plan was made for is refused.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use frontend::Model;
use ir::{NonFiniteWeight, WeightSource};
use plan::{Plan, WeightData, WeightDecl};
use sha2::{Digest, Sha256};
use tensor::Tensor;
use tensor::finite::is_finite;

use super::open;
use crate::cli::ModelArgs;
use crate::commands::compile::names;
use crate::exit::Fault;
use crate::input;

/// A plan and where it was.
#[derive(Debug)]
pub struct PlanFile {
    /// The plan; not proven legal.
    pub plan: Plan,
    /// Weights packed along, by name.
    embedded: BTreeMap<String, Tensor>,
    /// Path of the .wplan file.
    path: PathBuf,
}

/// What a plan runs on.
#[derive(Debug)]
pub struct Sources {
    /// Every weight that the plan reads, by name.
    pub weights: BTreeMap<String, Tensor>,
    /// The model they come from, for its tokenizer; `None` when the plan carried them.
    pub model: Option<Model>,
}

/// The path of the plan at a path: itself, or `model.wplan` in a directory.
pub fn locate(path: &Path) -> PathBuf {
    if path.is_dir() { path.join(names::PLAN) } else { path.to_path_buf() }
}

/// Reads a plan from a .wplan file or from a directory that `compile` wrote.
///
/// # Errors
/// When there is none, or it is damaged.
pub fn read(path: &Path) -> Result<PlanFile> {
    let file = locate(path);
    let shown = file.display();
    if path.is_dir() && !file.exists() {
        let message = format!("`{}` contains no {}", path.display(), names::PLAN);
        let advice = "give a directory that `sparkc compile` wrote, with --emit wafer";
        return Err(Fault::bad_input("SPK5013", message).advise(advice).into());
    }
    let bytes = input::read(&file, input::PLAN)?;
    let plan = plan::codec::decode(&bytes).with_context(|| format!("`{shown}`"))?;
    let embedded = plan::codec::decode_weights(&bytes).with_context(|| format!("`{shown}`"))?;
    Ok(PlanFile { plan, embedded, path: file })
}

impl PlanFile {
    /// The .wplan file it was read from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Weights packed along, by name.
    pub fn embedded(&self) -> &BTreeMap<String, Tensor> {
        &self.embedded
    }

    /// Finds the weights of the plan.
    ///
    /// # Errors
    /// When they are nowhere, or are not those the plan was made for.
    pub fn sources(&self, model: Option<&Path>) -> Result<Sources> {
        if model.is_none() && !self.embedded.is_empty() {
            check(&self.plan, &self.embedded)?;
            return Ok(Sources { weights: self.embedded.clone(), model: None });
        }
        let path = model.map(Path::to_path_buf).or_else(|| self.beside(names::SOURCE));
        let Some(path) = path else {
            let message = format!("the weights of `{}` are not to be found", self.path.display());
            let advice = "say where the model is with --model PATH, or --timing-only";
            return Err(Fault::bad_input("SPK5014", message).advise(advice).into());
        };
        let weights = self.beside(names::SOURCE_WEIGHTS);
        let args = ModelArgs { model: path, weights, kv_cache: None };
        let model = open(&args, None)?;
        let weights = weights_of(&self.plan, super::weights(&model)?)?;
        check(&self.plan, &weights)?;
        Ok(Sources { weights, model: Some(model) })
    }

    /// Something that stands beside the plan, by its own name where it is a link: kinds of models are told
    /// by their names. One step only, since what a model hub keeps is a link to a file without a kind.
    fn beside(&self, name: &str) -> Option<PathBuf> {
        let path = self.path.with_file_name(name);
        let target = path.read_link().map(|to| path.with_file_name(to));
        // It may be a link to what was moved since.
        Some(target.unwrap_or(path)).filter(|p| p.exists())
    }
}

/// The weights that a plan reads from the model, by name.
///
/// # Errors
/// A weight that the model does not have.
pub fn weights_of(plan: &Plan, source: &dyn WeightSource) -> Result<BTreeMap<String, Tensor>> {
    let load = |w: &WeightDecl| {
        let why = |why| {
            Fault::bad_input("SPK5015", format!("weight `{}` of the plan: {why}", w.name))
                .advise("this is not the model the plan was made from")
        };
        Ok((w.name.clone(), source.load(&w.name).map_err(why)?))
    };
    plan.weights.iter().filter(|w| w.data == WeightData::Model).map(load).collect()
}

/// Writes the digests of weights into a plan.
///
/// # Errors
/// A weight with NaN or infinities.
pub fn record_digests(
    plan: &mut Plan,
    weights: &BTreeMap<String, Tensor>,
) -> Result<(), NonFiniteWeight> {
    for declared in &mut plan.weights {
        let tensor = weights.get(&declared.name);
        declared.digest = tensor.map(|t| digest(&declared.name, t)).transpose()?;
    }
    Ok(())
}

/// Bytes hashed at a time: few enough to stay in the cache for the look at their numbers.
const DIGEST_BYTES: usize = 1 << 18;

/// SHA-256 of a tensor's bytes, in hex; refuses one that is not all numbers.
fn digest(name: &str, tensor: &Tensor) -> Result<String, NonFiniteWeight> {
    let block = tensor.dtype().block_bytes();
    let (mut hash, mut finite) = (Sha256::new(), true);
    for bytes in tensor.bytes().chunks(DIGEST_BYTES / block * block) {
        finite &= is_finite(tensor.dtype(), bytes);
        hash.update(bytes);
    }
    if !finite {
        NonFiniteWeight::check(name, tensor)?;
    }
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Refuses weights that are not those the plan was made for.
fn check(plan: &Plan, weights: &BTreeMap<String, Tensor>) -> Result<()> {
    for declared in &plan.weights {
        let Some(tensor) = weights.get(&declared.name) else { continue };
        let Some(expected) = &declared.digest else {
            // The plan of a bare configuration takes any weights that are numbers.
            NonFiniteWeight::check(&declared.name, tensor)?;
            continue;
        };
        let found = digest(&declared.name, tensor)?;
        if found != *expected {
            let message = format!(
                "weight `{}` has digest {}, the plan was made for {}",
                declared.name,
                &found[..16],
                expected.get(..16).unwrap_or(expected)
            );
            let advice = "compile the model again, or give the one it was made from with --model";
            return Err(Fault::bad_input("SPK5015", message).advise(advice).into());
        }
    }
    Ok(())
}
