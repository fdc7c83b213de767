//! `sparkc eval`: the reference interpreter on the module as the front end wrote it.

use anyhow::Result;
use ir::eval::{EvalOptions, Session};

use crate::cli::EvalArgs;
use crate::generate::{self, Request};
use crate::report::progress::Progress;
use crate::{driver, output};

/// Runs it.
///
/// # Errors
/// A model that cannot be opened, has no weights, or tokens it does not know.
pub fn run(args: &EvalArgs) -> Result<()> {
    let model = driver::open(&args.model, None)?;
    let weights = driver::weights(&model)?;
    let prompt = args.tokens.clone();
    let mut session = Session::new(&model.module, weights, EvalOptions::default())?;
    let request = Request {
        prompt: &prompt,
        n: args.n,
        stop: &model.assets.generation.eos_token_ids,
        context: model.module.context,
        logits: args.logits.is_some(),
    };
    let progress = Progress::new();
    let mut choose = |logits: &[f32]| ir::eval::argmax(logits);
    let generation = progress.stage("evaluating", |_| {
        let mut step = |tokens: &[u32], rows: usize| Ok(session.step(tokens, rows)?.to_f32());
        generate::generate(&request, &mut step, &mut choose)
    })?;
    progress.finish();
    if let Some(path) = &args.logits {
        output::write_file(path, &generate::logits_file(&generation.logits, prompt.len())?)?;
    }
    output::print_json(&generate::as_json(&generation, &prompt, None))
}
