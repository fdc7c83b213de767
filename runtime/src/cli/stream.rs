//! Text as it is generated: each token's piece is written and flushed at once.
//!
//! Serves prompts and conversations alike. The first failure to decode or to write ends the
//! generation. Does not end the line: callers differ in when they want one.

use std::io::Write;
use std::ops::ControlFlow;

use super::CliError;
use crate::generate::{Generation, GenerationOptions, Generator, LogitsSink};
use crate::text::Text;

/// Continues `prompt`, writing to `out`; also returns all that was written.
pub(super) fn generate(
    generator: &mut Generator,
    prompt: &[u32],
    options: &GenerationOptions<'_>,
    logits: Option<&mut LogitsSink<'_>>,
    text: &Text,
    out: &mut dyn Write,
) -> Result<(Generation, String), CliError> {
    let mut stream = text.stream(prompt);
    let mut written = String::new();
    let mut failure: Option<CliError> = None;
    let generation = generator.generate(prompt, options, logits, &mut |token| {
        let result = stream.push(token).map_err(CliError::from).and_then(|piece| {
            written.push_str(&piece);
            out.write_all(piece.as_bytes())?;
            Ok(out.flush()?)
        });
        match result {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => {
                failure = Some(error);
                ControlFlow::Break(())
            }
        }
    })?;
    if let Some(error) = failure {
        return Err(error);
    }
    let rest = stream.finish()?;
    written.push_str(&rest);
    out.write_all(rest.as_bytes())?;
    Ok((generation, written))
}
