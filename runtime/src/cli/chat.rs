//! A conversation on the terminal. The KV cache is kept from turn to turn: what the template renders
//! as before is not computed again.

use std::io::BufRead;

use super::{Args, CliError, Streams, stream};
use crate::exec::SessionError;
use crate::generate::{GenerationOptions, Generator, StopReason};
use crate::text::{ChatMessage, Text, TextError};

pub(super) fn converse(
    args: &Args,
    generator: &mut Generator,
    streams: &mut Streams<'_>,
) -> Result<(), CliError> {
    let payload = generator.session().payload().clone();
    let text = Text::of(&payload)?;
    if !text.can_chat() {
        return Err(TextError::NoTemplate.into());
    }
    if streams.terminal {
        writeln!(
            streams.err,
            "{}: an empty line or Ctrl-D ends the talk.",
            payload.program().name
        )?;
    }
    let mut messages = Vec::new();
    let mut lines = std::io::stdin().lock().lines();
    loop {
        if streams.terminal {
            write!(streams.err, "> ")?;
            streams.err.flush()?;
        }
        let line = match lines.next() {
            Some(line) => line.map_err(CliError::Prompt)?,
            None => return Ok(()),
        };
        if line.trim().is_empty() {
            return Ok(());
        }
        messages.push(ChatMessage::new("user", &line));
        let prompt = text.encode_chat(&messages)?;
        let (answer, stop) = answer(args, generator, &text, &prompt, streams)?;
        messages.push(ChatMessage::new("assistant", &answer));
        if stop == StopReason::ContextFull {
            let context = generator.session().context();
            return Err(SessionError::ContextFull { wanted: context + 1, context }.into());
        }
    }
}

/// Generates one answer and writes it as it comes.
fn answer(
    args: &Args,
    generator: &mut Generator,
    text: &Text,
    prompt: &[u32],
    streams: &mut Streams<'_>,
) -> Result<(String, StopReason), CliError> {
    let payload = generator.session().payload().clone();
    let defaults = &payload.assets().generation;
    let options = GenerationOptions {
        limit: args.n.unwrap_or(generator.session().context()),
        sampling: args.sampling(defaults),
        stop_tokens: &defaults.stop_tokens,
        guesses: args.guesses(),
    };
    let out = &mut *streams.out;
    let (generation, answer) = stream::generate(generator, prompt, &options, None, text, out)?;
    writeln!(streams.out)?;
    streams.out.flush()?;
    Ok((answer, generation.stop))
}
