//! `sparkc eval`: the reference interpreter on the module as the front end wrote it.

use anyhow::Result;
use ir::eval::{EvalOptions, Session};
use runtime::TextError;

use crate::cli::EvalArgs;
use crate::driver::text;
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
    let tokenizer = text::tokenizer(&model)?;
    let prompt = match &args.prompt {
        Some(prompt) => tokenizer.as_ref().ok_or(TextError::NoTokenizer)?.encode(prompt)?,
        None => args.tokens.clone(),
    };
    let mut session = Session::new(&model.module, weights, EvalOptions::default())?;
    let stop = &model.assets.generation.eos_token_ids;
    let request = Request {
        prompt: &prompt,
        n: args.n,
        stop,
        context: model.module.context,
        logits: args.logits.is_some(),
    };
    let mut sampler = text::sampler(&args.sampling, 0);
    let generation = Progress::new().stage("evaluate", |_| {
        let mut step = |tokens: &[u32], rows: usize| Ok(session.step(tokens, rows)?.to_f32());
        generate::generate(&request, &mut step, &mut |logits| sampler.choose(logits))
    })?;
    if let Some(path) = &args.logits {
        output::write_named(path, &generate::logits_file(&generation.logits, prompt.len())?)?;
    }
    let written = match &tokenizer {
        Some(tokenizer) => Some(text::continuation(tokenizer, &prompt, &generation.tokens, stop)?),
        None => None,
    };
    if args.json {
        return output::print_json(&generate::as_json(&generation, &prompt, written.as_deref()));
    }
    output::print(&generate::render(&generation, written.as_deref()))
}
