//! Continues one prompt.

use std::io::{IsTerminal, Read};
use std::ops::ControlFlow;

use super::logits::LogitsFile;
use super::{Args, CliError, Streams, UsageError, stream};
use crate::generate::{Generation, GenerationOptions, Generator, LogitsSink, StopReason};
use crate::text::{ChatMessage, Text, TextError};

pub(super) fn complete(
    args: &Args,
    generator: &mut Generator,
    streams: &mut Streams<'_>,
) -> Result<(), CliError> {
    let payload = generator.session().payload().clone();
    // With token ids alone a model without tokenizer is of use.
    let text = match Text::of(&payload) {
        Ok(text) => Some(text),
        Err(TextError::NoTokenizer) if args.tokens.is_some() => None,
        Err(error) => return Err(error.into()),
    };
    let prompt = prompt(args, text.as_ref())?;
    let defaults = &payload.assets().generation;
    let asked_for_logits = args.logits.is_some();
    let options = GenerationOptions {
        limit: if asked_for_logits && args.n.is_none() { 0 } else { args.limit(defaults) },
        sampling: args.sampling(defaults),
        stop_tokens: &defaults.stop_tokens,
        guesses: args.guesses(),
    };
    let program = payload.program();
    let mut file = match &args.logits {
        Some(path) => Some(LogitsFile::create(path, prompt.len(), program.vocab as usize)?),
        None => None,
    };
    let mut rows = file.as_mut().map(|file| |rows: &[f32]| file.push(rows));
    let rows = rows.as_mut().map(|rows| rows as &mut LogitsSink<'_>);
    let generation = if args.json || text.is_none() {
        generator.generate(&prompt, &options, rows, &mut |_| ControlFlow::Continue(()))?
    } else {
        // A person reads the text as a whole; a program knows what it asked.
        let echo = args.prompt.as_deref().filter(|_| streams.terminal && !args.chat);
        stream(generator, &prompt, echo, &options, rows, text.as_ref(), streams)?
    };
    if let Some(file) = file {
        file.finish()?;
    }
    if args.json {
        return print_json(&generation, &prompt, text.as_ref(), streams);
    }
    if text.is_none() && !generation.tokens.is_empty() {
        let ids: Vec<String> = generation.tokens.iter().map(u32::to_string).collect();
        writeln!(streams.out, "{}", ids.join(","))?;
    }
    if generation.stop == StopReason::ContextFull {
        let context = generator.session().context();
        writeln!(streams.err, "note: the context of {context} tokens is full")?;
    }
    Ok(())
}

/// The tokens to continue: given, from the prompt, or from standard input.
fn prompt(args: &Args, text: Option<&Text>) -> Result<Vec<u32>, CliError> {
    if let Some(tokens) = &args.tokens {
        return Ok(tokens.clone());
    }
    let text = text.ok_or(TextError::NoTokenizer)?;
    let prompt = match &args.prompt {
        Some(prompt) => prompt.clone(),
        None if std::io::stdin().is_terminal() => {
            let chat = if text.can_chat() { ", or --chat to talk" } else { "" };
            return Err(UsageError(format!("no prompt: give one in quotes{chat}")).into());
        }
        None => {
            let mut prompt = String::new();
            std::io::stdin().read_to_string(&mut prompt).map_err(CliError::Prompt)?;
            prompt
        }
    };
    if args.chat {
        return Ok(text.encode_chat(&[ChatMessage::new("user", &prompt)])?);
    }
    Ok(text.encode(&prompt)?)
}

/// Generates and writes text as it comes, behind `echo`.
fn stream(
    generator: &mut Generator,
    prompt: &[u32],
    echo: Option<&str>,
    options: &GenerationOptions<'_>,
    logits: Option<&mut LogitsSink<'_>>,
    text: Option<&Text>,
    streams: &mut Streams<'_>,
) -> Result<Generation, CliError> {
    let text = text.ok_or(TextError::NoTokenizer)?;
    let out = &mut *streams.out;
    if let Some(echo) = echo {
        out.write_all(echo.as_bytes())?;
        out.flush()?;
    }
    let (generation, _) = stream::generate(generator, prompt, options, logits, text, out)?;
    if !generation.tokens.is_empty() {
        streams.out.write_all(b"\n")?;
    }
    streams.out.flush()?;
    Ok(generation)
}

fn print_json(
    generation: &Generation,
    prompt: &[u32],
    text: Option<&Text>,
    streams: &mut Streams<'_>,
) -> Result<(), CliError> {
    let whole = |text: &Text| text.continuation(prompt, &generation.tokens, generation.stop);
    let text = text.map(whole).transpose()?;
    let timings = &generation.timings;
    let object = serde_json::json!({
        "text": text,
        "tokens": generation.tokens,
        "prompt_tokens": prompt,
        "stop": generation.stop.name(),
        "timings": {
            "prompt_seconds": timings.prompt.as_secs_f64(),
            "prompt_tokens_per_second": timings.prompt_rate(),
            "generate_seconds": timings.decode.as_secs_f64(),
            "tokens_per_second": timings.decode_rate(),
            "guessed_tokens": timings.speculation.guessed,
            "accepted_tokens": timings.speculation.accepted,
        },
    });
    writeln!(streams.out, "{object}")?;
    Ok(streams.out.flush()?)
}
