//! One generation loop for whatever can compute logits: the interpreter and the simulated wafer.
//!
//! The same rules as the executable's loop: the prompt is fed whole, generation ends after `n`
//! tokens, at a stop token (which is part of the result) or when the context is full.

use std::time::{Duration, Instant};

use anyhow::Result;
use runtime::{NoDistribution, SessionError};
use serde_json::{Value, json};

use crate::exit::{Exit, Fault};
use crate::report::{self, table::Table};

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Request<'a> {
    /// Token ids fed first; at least one.
    pub prompt: &'a [u32],
    /// Most tokens generated.
    pub n: u32,
    /// Tokens that end the text.
    pub stop: &'a [u32],
    /// Most positions of a sequence.
    pub context: usize,
    /// Whether logits of every prompt position are wanted.
    pub logits: bool,
}

/// What came out.
#[derive(Clone, Debug)]
pub struct Generation {
    /// Generated token ids.
    pub tokens: Vec<u32>,
    /// Logits of the last prompt position, or of all of them when they were asked for.
    pub logits: Vec<f32>,
    /// Length of the logits of one position.
    pub vocab: usize,
    /// Time for the prompt, and for all tokens after it.
    pub times: (Duration, Duration),
}

impl Generation {
    /// Logits of the last prompt position.
    fn logits_last(&self) -> Vec<f32> {
        self.logits[self.logits.len() - self.vocab..].to_vec()
    }
}

/// Logits of the last `rows` positions of `tokens`, fed after everything before them.
pub type Step<'a> = dyn FnMut(&[u32], usize) -> Result<Vec<f32>> + 'a;

/// Chooses a token from the logits of one position.
pub type Choose<'a> = dyn FnMut(&[f32]) -> Result<u32, NoDistribution> + 'a;

/// Runs the loop.
///
/// # Errors
/// An empty prompt, one that is longer than the context, logits that are no numbers (unless they are
/// all that is wanted), and whatever `step` finds.
pub fn generate(request: &Request<'_>, step: &mut Step, choose: &mut Choose) -> Result<Generation> {
    let Request { prompt, context, .. } = *request;
    if prompt.is_empty() {
        let fault = Fault::bad_input("SPK5017", "the prompt has no tokens");
        return Err(fault.advise("give at least one token with --tokens").into());
    }
    if prompt.len() > context {
        let message = format!("the prompt has {} tokens, the context {context}", prompt.len());
        let fault = Fault { exit: Exit::DoesNotFit, code: "SPK5016", message, advice: None };
        return Err(fault.advise("shorten the prompt, or compile with a larger --context").into());
    }
    let begin = Instant::now();
    let rows = if request.logits { prompt.len() } else { 1 };
    let logits = step(prompt, rows)?;
    let vocab = logits.len() / rows;
    let prompt_time = begin.elapsed();
    let begin = Instant::now();
    let mut last = logits[logits.len() - vocab..].to_vec();
    let mut tokens = Vec::new();
    let mut choose = |logits: &[f32], generated: usize| {
        let position = prompt.len() + generated - 1;
        choose(logits).map_err(|found| SessionError::Logits { position, found })
    };
    if request.n == 0 && !request.logits {
        choose(&last, 0)?;
    }
    while tokens.len() < request.n as usize {
        let token = choose(&last, tokens.len())?;
        tokens.push(token);
        let full = prompt.len() + tokens.len() > context;
        if full || request.stop.contains(&token) || tokens.len() == request.n as usize {
            break;
        }
        last = step(&[token], 1)?;
    }
    Ok(Generation { tokens, logits, vocab, times: (prompt_time, begin.elapsed()) })
}

/// A safetensors file with one tensor "logits", f32 `[positions, vocab]`.
///
/// # Errors
/// When the values do not fill the shape.
pub fn logits_file(logits: &[f32], positions: usize) -> Result<Vec<u8>> {
    let bytes: Vec<u8> = logits.iter().flat_map(|v| v.to_le_bytes()).collect();
    let shape = vec![positions, logits.len() / positions.max(1)];
    let view = safetensors::tensor::TensorView::new(safetensors::Dtype::F32, shape, &bytes)?;
    Ok(safetensors::serialize([("logits", view)], None)?)
}

/// What people see: the text, or the ids where there is no tokenizer; the likeliest next tokens when
/// nothing was generated.
pub fn render(generation: &Generation, text: Option<&str>) -> String {
    if generation.tokens.is_empty() {
        return likeliest(&generation.logits_last());
    }
    let ids: Vec<String> = generation.tokens.iter().map(u32::to_string).collect();
    match text {
        Some(text) => format!("{text}\n"),
        None => format!("{}\n", ids.join(",")),
    }
}

/// A table of the five likeliest next tokens.
fn likeliest(logits: &[f32]) -> String {
    let mut order: Vec<usize> = (0..logits.len()).collect();
    order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]).then(a.cmp(&b)));
    let mut table = Table::new(&[">next token", ">logit"]);
    for &token in order.iter().take(5) {
        table.row([token.to_string(), format!("{:.4}", logits[token])]);
    }
    table.render(report::stdout_colored())
}

/// The object that `--json` prints.
pub fn as_json(generation: &Generation, prompt: &[u32], text: Option<&str>) -> Value {
    json!({
        "text": text,
        "tokens": generation.tokens,
        "prompt_tokens": prompt,
        "timings": {
            "prompt_seconds": generation.times.0.as_secs_f64(),
            "generate_seconds": generation.times.1.as_secs_f64(),
        },
    })
}

#[cfg(test)]
mod tests {
    use runtime::{Sampler, Sampling};

    use super::*;

    /// A model that counts: the likeliest token after x is x + 1.
    fn counting(tokens: &[u32], rows: usize) -> Result<Vec<f32>> {
        let row = |t: &u32| (0..10).map(|i| f32::from(u8::from(i == t + 1))).collect::<Vec<_>>();
        Ok(tokens[tokens.len() - rows..].iter().flat_map(row).collect())
    }

    fn likeliest(logits: &[f32]) -> Result<u32, NoDistribution> {
        Sampler::new(Sampling::GREEDY, logits.len()).choose(logits)
    }

    fn request(n: u32) -> Request<'static> {
        Request { prompt: &[1, 2], n, stop: &[5], context: 8, logits: false }
    }

    fn tokens(request: &Request<'_>) -> Vec<u32> {
        generate(request, &mut counting, &mut likeliest).unwrap().tokens
    }

    #[test]
    fn generation_ends_at_n_stop_or_context() {
        assert_eq!(tokens(&request(2)), [3, 4]);
        assert_eq!(tokens(&request(9)), [3, 4, 5]);
        let unstopped = Request { stop: &[], ..request(9) };
        assert_eq!(tokens(&Request { context: 4, ..unstopped }), [3, 4, 5]);
        let short = Request { context: 1, ..request(1) };
        let error = generate(&short, &mut counting, &mut likeliest).unwrap_err();
        assert_eq!(error.downcast_ref::<Fault>().unwrap().exit, Exit::DoesNotFit);
    }

    #[test]
    fn logits_that_are_no_numbers_end_the_text_with_an_error() {
        // Fine after the prompt, overflown after the first token that follows it.
        let mut step = |tokens: &[u32], rows: usize| {
            let first = tokens.len() > 1;
            Ok(vec![if first { 1.0 } else { f32::NAN }; 10 * rows])
        };
        assert_eq!(generate(&request(1), &mut step, &mut likeliest).unwrap().tokens, [0]);
        let error = generate(&request(2), &mut step, &mut likeliest).unwrap_err();
        let Some(SessionError::Logits { position: 2, found }) = error.downcast_ref() else {
            panic!("{error}")
        };
        assert_eq!((found.nan, found.of), (10, 10));
        let mut broken = |_: &[u32], rows: usize| Ok(vec![f32::INFINITY; 10 * rows]);
        assert!(generate(&request(0), &mut broken, &mut likeliest).is_err(), "a table of tokens");
        let alone = Request { logits: true, ..request(0) };
        assert!(generate(&alone, &mut broken, &mut likeliest).is_ok(), "logits as they are");
    }

    #[test]
    fn logits_of_the_whole_prompt_on_request() {
        let request = Request { logits: true, ..request(0) };
        let generation = generate(&request, &mut counting, &mut likeliest).unwrap();
        assert_eq!(generation.logits.len(), 20);
        let file = logits_file(&generation.logits, 2).unwrap();
        let tensors = safetensors::SafeTensors::deserialize(&file).unwrap();
        assert_eq!(tensors.tensor("logits").unwrap().shape(), [2, 10]);
    }
}
