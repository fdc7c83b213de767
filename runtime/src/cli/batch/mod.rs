//! `--batch`: a request a line in, a JSON object a line out, in the order in which texts end.
//!
//! Lines are taken on while there is room. A line that is wrong gets an object with its error; the
//! others go on. Does not guess ahead: other sequences fill the steps.

mod lines;
mod request;

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use serde_json::{Value, json};

use super::{Args, CliError, Streams};
use crate::batch::{Batch, BatchError, BatchOptions, Finished, NewToken};
use crate::exec::{SessionError, SessionOptions};
use crate::generate::StopReason;
use crate::payload::Payload;
use crate::text::{Text, TextError, TextStream};
use lines::{Lines, Next};
use request::{Id, LineError};

/// Sequences at once, unless told otherwise.
const PARALLEL: usize = 8;
/// Bytes of KV caches, unless told otherwise or one whole context takes more.
const KV_BYTES: u64 = 2 << 30;

/// A request that runs.
struct Job<'a> {
    id: Option<Id>,
    stops: Vec<String>,
    /// The text so far, where a string can end it.
    stream: Option<TextStream<'a>>,
    text: String,
    /// Where the text ends, because such a string begins there.
    cut: Option<usize>,
    failure: Option<TextError>,
}

pub(super) fn batch(
    args: &Args,
    payload: &Arc<Payload>,
    session: SessionOptions,
    path: &Path,
    streams: &mut Streams<'_>,
) -> Result<(), CliError> {
    let text = match Text::of(payload) {
        Ok(text) => Some(text),
        Err(TextError::NoTokenizer) => None,
        Err(error) => return Err(error.into()),
    };
    let unread = |source| CliError::Read { path: path.to_path_buf(), source };
    let mut lines = Lines::open(path).map_err(unread)?;
    let mut batch = Batch::new(Arc::clone(payload), options(args, payload, session))?;
    let mut jobs: BTreeMap<u64, Job<'_>> = BTreeMap::new();
    let (mut number, mut refused, mut asked, mut open) = (0, 0, 0, true);
    let mut finished = Vec::new();
    loop {
        while open && batch.pending() < batch.parallel() {
            let line = match lines.next(batch.pending() == 0).map_err(unread)? {
                Next::Line(line) => line,
                Next::Nothing => break,
                Next::End => {
                    open = false;
                    break;
                }
            };
            number += 1;
            // Some editors begin a file with a mark.
            let line = line.map(|line| match line.strip_prefix('\u{feff}') {
                Some(rest) if number == 1 => rest.to_string(),
                _ => line,
            });
            if line.as_ref().is_ok_and(|line| line.trim().is_empty()) {
                continue;
            }
            asked += 1;
            let line = line.map_err(|error| (None, error));
            let taken = line.and_then(|line| take(&line, number, args, text.as_ref(), &mut batch));
            match taken {
                Ok(job) => {
                    jobs.insert(number, job);
                }
                Err((id, error)) => {
                    refused += 1;
                    write(streams, &error_object(number, id.as_ref(), &error))?;
                }
            }
        }
        if batch.pending() == 0 && !open {
            break;
        }
        let sink = &mut |new: NewToken<'_>| match jobs.get_mut(&new.id) {
            Some(job) => job.push(new.token),
            None => ControlFlow::Continue(()),
        };
        batch.step(sink, &mut finished)?;
        for finished in finished.drain(..) {
            let Some(job) = jobs.remove(&finished.id) else { continue };
            let object = answer(job, &finished, text.as_ref()).unwrap_or_else(|(id, error)| {
                refused += 1;
                error_object(finished.id, id.as_ref(), &error)
            });
            write(streams, &object)?;
        }
    }
    if refused > 0 { Err(CliError::Refused { refused, asked }) } else { Ok(()) }
}

fn options(args: &Args, payload: &Payload, session: SessionOptions) -> BatchOptions {
    // Whatever a single prompt can take.
    let whole = Batch::kv_bytes_of(payload.program());
    let kv_bytes = args.kv_budget.map_or(KV_BYTES.max(whole), |mebibytes| mebibytes << 20);
    BatchOptions { session, parallel: args.parallel.unwrap_or(PARALLEL), kv_bytes }
}

/// Takes a line on.
fn take<'a>(
    line: &str,
    number: u64,
    args: &Args,
    text: Option<&'a Text>,
    batch: &mut Batch,
) -> Result<Job<'a>, (Option<Id>, LineError)> {
    let payload = Arc::clone(batch.payload());
    let asked = request::read(line, number, args, text, &payload.assets().generation)?;
    let stream = match text {
        Some(text) if !asked.stops.is_empty() => Some(text.stream(&asked.request.prompt)),
        _ => None,
    };
    if let Err(error) = batch.push(asked.request) {
        return Err((asked.id, error.into()));
    }
    let (id, stops) = (asked.id, asked.stops);
    Ok(Job { id, stops, stream, text: String::new(), cut: None, failure: None })
}

impl Job<'_> {
    /// The text grows; it ends where one of the strings begins.
    fn push(&mut self, token: u32) -> ControlFlow<()> {
        let Some(stream) = &mut self.stream else { return ControlFlow::Continue(()) };
        match stream.push(token) {
            Ok(piece) => self.append(&piece),
            Err(error) => {
                self.failure = Some(error);
                ControlFlow::Break(())
            }
        }
    }

    fn append(&mut self, piece: &str) -> ControlFlow<()> {
        let longest = self.stops.iter().map(String::len).max().unwrap_or(0);
        // A string may have begun before the piece.
        let mut from = self.text.len().saturating_sub(longest);
        while !self.text.is_char_boundary(from) {
            from -= 1;
        }
        self.text.push_str(piece);
        let found = self.stops.iter().filter_map(|stop| self.text[from..].find(stop.as_str()));
        self.cut = found.min().map(|at| from + at);
        if self.cut.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}

/// The object of a text that ended.
fn answer(
    mut job: Job<'_>,
    finished: &Finished,
    text: Option<&Text>,
) -> Result<Value, (Option<Id>, LineError)> {
    if let StopReason::NoDistribution(found) = finished.stop {
        let position = finished.tokens.len() - 1;
        let error = BatchError::Session(SessionError::Logits { position, found });
        return Err((job.id.take(), error.into()));
    }
    let (prompt, tokens) = finished.tokens.split_at(finished.prompt);
    let whole = match (job.stream.take(), text) {
        _ if job.failure.is_some() => Err(job.failure.take().unwrap_or(TextError::NoTokenizer)),
        (Some(stream), _) => stream.finish().map(|rest| {
            if job.cut.is_none() {
                let _ = job.append(&rest);
            }
            job.text.truncate(job.cut.unwrap_or(job.text.len()));
            Some(std::mem::take(&mut job.text))
        }),
        (None, Some(text)) => text.continuation(prompt, tokens, finished.stop).map(Some),
        (None, None) => Ok(None),
    };
    let whole = whole.map_err(|error| (job.id.take(), error.into()))?;
    let stop = if job.cut.is_some() { StopReason::StopToken } else { finished.stop };
    let seconds = finished.rest.as_secs_f64();
    let rate = tokens.len().saturating_sub(1) as f64 / seconds.max(1e-9);
    Ok(json!({
        "line": finished.id,
        "id": job.id,
        "text": whole,
        "tokens": tokens,
        "prompt_length": prompt.len(),
        "shared_length": finished.shared,
        "stop": stop.name(),
        "timings": {
            "waited_seconds": finished.waited.as_secs_f64(),
            "first_token_seconds": finished.first_token.as_secs_f64(),
            "generate_seconds": seconds,
            "tokens_per_second": rate,
        },
    }))
}

fn error_object(line: u64, id: Option<&Id>, error: &LineError) -> Value {
    json!({ "line": line, "id": id, "error": { "code": error.code(), "message": error.to_string() } })
}

/// A line at once, so that nobody sees half of one.
fn write(streams: &mut Streams<'_>, object: &Value) -> Result<(), CliError> {
    let mut line = object.to_string();
    line.push('\n');
    streams.out.write_all(line.as_bytes())?;
    Ok(streams.out.flush()?)
}
