//! `.spark` files: a module in text form, with weights from `OpenOptions::weights`.
//!
//! The weights may hold more than the module reads (an optimised module drops some), but whatever
//! it reads must be there with the stated dtype and shape.

use std::path::Path;

use tensor::DType;

use crate::assets::Assets;
use crate::error::{ErrorKind, FrontendError, TensorProblem};
use crate::model::{Model, ModelInfo, OpenOptions};
use crate::open::short_name;
use crate::weights::Weights;
use crate::{digest, file};

/// Opens a `.spark` file.
///
/// # Errors
/// When the text is no module, does not verify, or the weights do not fit it.
pub(crate) fn open(path: &Path, options: &OpenOptions) -> Result<Model, FrontendError> {
    let text = file::read_text(path)?;
    let mut module = parse(&text).map_err(|e| e.at(path))?;
    ir::verify(&module).map_err(|e| ErrorKind::Verify { why: e.to_string() }.at(path))?;
    if let Some(context) = options.context {
        module.context = context;
    }
    let mut warnings = Vec::new();
    let (weights, assets) = match &options.weights {
        None => (None, Assets::default()),
        Some(place) => {
            let (weights, directory) = Weights::open_at(place)?;
            check(&module, &weights).map_err(|e| e.at(place))?;
            (Some(weights), Assets::read_texts(&directory, None, &mut warnings)?)
        }
    };
    let uses = module.weights();
    let count = |dtype: DType| uses.iter().filter(|w| w.dtype == dtype).count();
    let info = ModelInfo {
        name: short_name(path),
        family: "spark".to_string(),
        dtype: DType::ALL.into_iter().rev().max_by_key(|&d| count(d)).unwrap_or(DType::F32),
        parameters: uses
            .iter()
            .map(|w| tensor::element_count(&w.shape).unwrap_or(usize::MAX) as u64)
            .fold(0, u64::saturating_add),
        digest: digest::headers(None, weights.as_ref()),
    };
    Ok(Model { module, weights, assets, info, warnings })
}

fn parse(text: &str) -> Result<ir::Module, ErrorKind> {
    ir::parse(text).map_err(|e| ErrorKind::Spark {
        line: e.line,
        column: e.column,
        why: e.kind.to_string(),
    })
}

/// Compares what the module reads with what there is.
fn check(module: &ir::Module, weights: &Weights) -> Result<(), ErrorKind> {
    let mut problems = Vec::new();
    for wanted in module.weights() {
        let tensor = wanted.name;
        match weights.header(&tensor) {
            None => problems.push(TensorProblem::Missing { tensor, expected: wanted.shape }),
            Some(header) if header.shape != wanted.shape => {
                let (file, found, expected) = (header.file, header.shape, wanted.shape);
                problems.push(TensorProblem::Shape { tensor, file, found, expected });
            }
            Some(header) if header.dtype != Some(wanted.dtype) => {
                let (file, found) = (header.file, header.stored_dtype);
                let expected = vec![wanted.dtype];
                problems.push(TensorProblem::DType { tensor, file, found, expected });
            }
            Some(_) => {}
        }
    }
    if problems.is_empty() { Ok(()) } else { Err(ErrorKind::Tensors { problems }) }
}
