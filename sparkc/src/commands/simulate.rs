//! `sparkc simulate`: executes a plan, in numbers and in time.

mod kernel;
mod serving;
mod timing;

use anyhow::Result;
use runtime::TextError;
use serde_json::Value;
use simulator::Simulator;

use crate::cli::SimulateArgs;
use crate::driver::plan_file::{self, PlanFile};
use crate::driver::text;
use crate::exit::Fault;
use crate::generate::{self, Generation, Request};
use crate::output;
use crate::report::progress::Progress;

/// Runs it.
///
/// # Errors
/// A file that is no plan, weights that are not found, a plan that cannot be executed.
pub fn run(args: &SimulateArgs) -> Result<()> {
    let Some(path) = &args.plan else {
        return kernel::run(args);
    };
    let file = plan_file::read(path)?;
    if let Some(requests) = args.requests {
        return serving::run(args, requests, &file.plan);
    }
    if args.timing_only {
        return timing_only(args, &file);
    }
    if args.tokens.is_empty() && args.prompt.is_none() {
        let fault = Fault::usage("no tokens to feed");
        return Err(fault.advise("--prompt TEXT, --tokens 1,2,3, or --timing-only").into());
    }
    let progress = Progress::new();
    let run = execute(args, &file, &progress)?;
    if let Some(path) = &args.logits {
        let file = generate::logits_file(&run.generation.logits, run.prompt.len())?;
        output::write_named(path, &file)?;
    }
    let time = |_: &_| timing::time(args, &file.plan, run.prompt.len());
    let report = progress.stage("count cycles", time)?;
    progress.finish();
    if args.json {
        let mut object = generate::as_json(&run.generation, &run.prompt, run.text.as_deref());
        if let (Value::Object(object), Value::Object(times)) =
            (&mut object, timing::as_json(&report, run.prompt.len()))
        {
            object.extend(times);
        }
        return output::print_json(&object);
    }
    output::print(&generate::render(&run.generation, run.text.as_deref()))?;
    crate::say(&timing::render(&report));
    Ok(())
}

fn timing_only(args: &SimulateArgs, file: &PlanFile) -> Result<()> {
    let time = |_: &_| timing::time(args, &file.plan, args.tokens.len());
    let report = Progress::new().stage("count cycles", time)?;
    if args.json {
        return output::print_json(&timing::as_json(&report, args.tokens.len()));
    }
    output::print(&timing::render(&report))
}

/// What a simulated wafer said.
struct Run {
    /// The tokens fed first.
    prompt: Vec<u32>,
    generation: Generation,
    text: Option<String>,
}

fn execute(args: &SimulateArgs, file: &PlanFile, progress: &Progress) -> Result<Run> {
    let plan = &file.plan;
    let sources = progress.stage("find weights", |_| file.sources(args.model.as_deref()))?;
    let tokenizer = sources.model.as_ref().map(text::tokenizer).transpose()?.flatten();
    let prompt = match &args.prompt {
        Some(prompt) => tokenizer.as_ref().ok_or(TextError::NoTokenizer)?.encode(prompt)?,
        None => args.tokens.clone(),
    };
    let mut simulator =
        progress.stage("pin weights", |_| Simulator::new(plan, &sources.weights))?;
    simulator.set_prompt_len(prompt.len() as u32);
    let stop = sources.model.as_ref().map(|m| m.assets.generation.eos_token_ids.clone());
    let stop = stop.unwrap_or_default();
    let request = Request {
        prompt: &prompt,
        n: args.n.unwrap_or(0),
        stop: &stop,
        context: plan.model.context as usize,
        logits: args.logits.is_some(),
    };
    let mut sampler = text::sampler(&args.sampling, plan.model.vocab as usize);
    let generation = progress.stage("simulate", |bar| {
        let mut fed = 0;
        let mut step = |tokens: &[u32], rows: usize| {
            fed += tokens.len();
            bar.set_message(format!("simulate token {fed}"));
            let outputs = simulator.feed(tokens, rows)?;
            Ok(outputs.into_iter().flat_map(|o| o.logits).collect())
        };
        generate::generate(&request, &mut step, &mut |logits| sampler.choose(logits))
    })?;
    let text = tokenizer
        .map(|t| text::continuation(&t, &prompt, &generation.tokens, &stop))
        .transpose()?;
    Ok(Run { prompt, generation, text })
}
