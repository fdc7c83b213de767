//! Many sequences at once on a hand-written program: the texts of each alone, whatever runs beside
//! it, is shared, or waits.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use sparkc_runtime as runtime;

mod support;

use runtime::program::{Op, Operand, Step};
use runtime::{
    Batch, BatchError, BatchOptions, Finished, GenerationOptions, Generator, NewToken, Payload,
    Request, Sampling, Session, SessionError, SessionOptions, StopReason, Wanted,
};
use tensor::{DType, Rng};

/// Several pages of context.
const CONTEXT: u32 = 700;

fn payload() -> Payload {
    payload_of([DType::BF16, DType::Q8])
}

fn payload_of(layers: [DType; 2]) -> Payload {
    let (mut program, weights) = support::parts_of(layers);
    program.context = CONTEXT;
    Payload::new(program, weights.into(), runtime::Assets::default()).expect("a valid program")
}

/// The same model with attention that keeps rows of a step together: keys are copied out first.
fn payload_that_does_not_mix() -> Payload {
    let (mut program, weights) = support::parts();
    program.context = CONTEXT;
    let Some(Step::Repeat(repeat)) =
        program.steps.iter_mut().find(|s| matches!(s, Step::Repeat(_)))
    else {
        panic!("the program has layers")
    };
    let attention = repeat.calls.iter().position(|c| matches!(c.op, Op::Attention { .. }));
    let attention = attention.expect("a layer has attention");
    let keys = repeat.calls[attention].operands[1];
    let size = |c: i64| runtime::program::Size(vec![([1, 0, 0], c), ([0, 1, 0], c)]);
    let (heads, width) = (2usize, 16usize);
    program.slots.push(vec![size((heads * width) as i64)]);
    program.buffers.push(runtime::program::Buffer {
        slot: program.slots.len() as u32 - 1,
        offset: 0.into(),
        dims: vec![size(1), heads.into(), width.into()],
    });
    let copy = program.buffers.len() as u32 - 1;
    let call = runtime::program::Call { op: Op::CacheRead, operands: vec![keys], out: copy };
    repeat.calls[attention].operands[1] = Operand::Buffer(copy);
    repeat.calls.insert(attention, call);
    Payload::new(program, weights.into(), runtime::Assets::default()).expect("a valid program")
}

fn tokens(n: usize, seed: u64) -> Vec<u32> {
    let mut rng = Rng::new(seed);
    (0..n).map(|_| rng.below(support::VOCAB) as u32).collect()
}

/// Prompts of all lengths, some with a common beginning; greedy and sampled.
fn requests(count: u64) -> Vec<Request> {
    let mut rng = Rng::new(7);
    let begin = tokens(300, 1);
    let request = |id| {
        let mut prompt = begin[..[0, 0, 40, 128, 260, 300][rng.below(6)]].to_vec();
        prompt.extend(tokens(1 + rng.below(150), 50 + id % 5));
        let temperature = if id % 2 == 0 { 0.0 } else { 0.8 };
        let sampling = Sampling { temperature, top_k: 9, top_p: 0.95, seed: id };
        Request { id, prompt, limit: 1 + rng.below(60), sampling, stop_tokens: vec![3] }
    };
    (0..count).map(request).collect()
}

/// FNV-1a over the bits of logits.
fn digest(before: u64, logits: &[f32]) -> u64 {
    let step = |h: u64, x: &f32| (h ^ u64::from(x.to_bits())).wrapping_mul(0x0100_0000_01b3);
    logits.iter().fold(before, step)
}

/// The logits that the tokens were chosen from are, bit for bit, those of a session of each sequence,
/// token by token.
fn assert_bits_of_sessions(
    payload: &Arc<Payload>,
    found: &[Finished],
    digests: &BTreeMap<u64, u64>,
) {
    let options = SessionOptions { threads: 1, ..SessionOptions::default() };
    let mut session = Session::new(Arc::clone(payload), options).expect("works on this program");
    for text in found {
        session.truncate(0);
        let mut bits = 0;
        let last = text.tokens.len() - 1;
        // A stop token goes to nobody.
        let told = last + usize::from(text.stop != StopReason::StopToken);
        for (i, &token) in text.tokens[..last].iter().enumerate() {
            let sink = &mut |row: &[f32]| {
                bits = if i + 1 >= text.prompt && i + 1 < told { digest(bits, row) } else { bits };
            };
            session.feed(&[token], Wanted::Last, sink).expect("works on this program");
        }
        assert_eq!(Some(&bits), digests.get(&text.id).or(Some(&0)), "request {}", text.id);
    }
}

/// Text and reason of each request, alone in a session of its own.
fn alone(payload: &Arc<Payload>, requests: &[Request]) -> Vec<(Vec<u32>, StopReason)> {
    let options = SessionOptions { threads: 1, ..SessionOptions::default() };
    let session = Session::new(Arc::clone(payload), options).expect("works on this program");
    let mut generator = Generator::new(session);
    let mut one = |r: &Request| {
        generator.forget();
        let options = GenerationOptions {
            limit: r.limit,
            sampling: r.sampling,
            stop_tokens: &r.stop_tokens,
            guesses: 0,
        };
        let go_on = &mut |_| ControlFlow::Continue(());
        let made = generator.generate(&r.prompt, &options, None, go_on).expect("works");
        (made.tokens, made.stop)
    };
    requests.iter().map(&mut one).collect()
}

/// All requests at once; what ended, in that order.
fn together(payload: &Arc<Payload>, options: BatchOptions, requests: &[Request]) -> Vec<Finished> {
    with_bits(payload, options, requests).0
}

/// As [`together`], and a digest of the logits that each request's tokens were chosen from.
fn with_bits(
    payload: &Arc<Payload>,
    options: BatchOptions,
    requests: &[Request],
) -> (Vec<Finished>, BTreeMap<u64, u64>) {
    let mut batch = Batch::new(Arc::clone(payload), options).expect("works on this program");
    requests.iter().for_each(|r| batch.push(r.clone()).expect("fits"));
    let (mut finished, mut digests) = (Vec::new(), BTreeMap::new());
    let sink = &mut |new: NewToken<'_>| {
        let bits = digests.entry(new.id).or_insert(0);
        *bits = digest(*bits, new.logits);
        ControlFlow::Continue(())
    };
    while batch.pending() > 0 {
        batch.step(sink, &mut finished).expect("works");
    }
    assert_eq!(batch.kv_bytes(), [0, 0], "all pages are given back");
    (finished, digests)
}

fn options(threads: usize, chunk: usize, parallel: usize, kv_bytes: u64) -> BatchOptions {
    let session = SessionOptions { threads, chunk, ..SessionOptions::default() };
    BatchOptions { session, parallel, kv_bytes }
}

fn compare(
    requests: &[Request],
    expected: &[(Vec<u32>, StopReason)],
    mut found: Vec<Finished>,
    name: &str,
) {
    assert_eq!(found.len(), requests.len());
    found.sort_by_key(|f| f.id);
    for ((request, (text, stop)), found) in requests.iter().zip(expected).zip(&found) {
        assert_eq!(found.prompt, request.prompt.len());
        assert_eq!(&found.tokens[..found.prompt], request.prompt);
        assert_eq!((&found.tokens[found.prompt..], found.stop), (&text[..], *stop), "{name}");
    }
}

#[test]
fn a_text_is_the_same_alone_and_beside_others() {
    let payload = Arc::new(payload());
    assert!(payload.program().rows_are_apart() && support::decoder().program().rows_are_apart());
    let requests = requests(40);
    let expected = alone(&payload, &requests);
    // Bytes of a page: two layers of keys and values, 2 heads of 16 elements.
    let page = 128 * 2 * 2 * 2 * 16 * 4;
    for (threads, chunk, parallel, kv) in
        [(1, 0, 1, 0), (1, 0, 8, 0), (2, 0, 8, 0), (2, 5, 3, 0), (2, 0, 20, 0), (2, 0, 8, 9 * page)]
    {
        let found = together(&payload, options(threads, chunk, parallel, kv), &requests);
        let shared: usize = found.iter().map(|f| f.shared).sum();
        assert!(shared > 500, "{shared} tokens shared");
        let name = format!("{threads} threads, chunk {chunk}, parallel {parallel}, {kv} bytes");
        compare(&requests, &expected, found, &name);
    }
}

#[test]
fn no_bit_of_the_logits_depends_on_what_runs_beside() {
    let requests = requests(24);
    for layers in [[DType::F32, DType::F16], [DType::BF16, DType::Q8], [DType::Q4, DType::Q4M]] {
        let payload = Arc::new(payload_of(layers));
        for (threads, parallel) in [(1, 8), (2, 8), (2, 17)] {
            let (found, digests) = with_bits(&payload, options(threads, 0, parallel, 0), &requests);
            assert!(digests.values().any(|&bits| bits != 0));
            assert_bits_of_sessions(&payload, &found, &digests);
        }
    }
}

#[test]
fn programs_that_do_not_mix_take_turns() {
    let payload = Arc::new(payload_that_does_not_mix());
    assert!(!payload.program().rows_are_apart());
    let requests = requests(12);
    let expected = alone(&payload, &requests);
    let found = together(&payload, options(2, 0, 4, 0), &requests);
    compare(&requests, &expected, found, "in turns");
}

#[test]
fn the_order_of_ends_follows_from_the_requests() {
    let payload = Arc::new(payload());
    let requests = requests(30);
    let order = |threads| {
        let found = together(&payload, options(threads, 0, 6, 0), &requests);
        found.iter().map(|f| f.id).collect::<Vec<_>>()
    };
    assert_eq!(order(1), order(2));
}

#[test]
fn a_long_prompt_does_not_stop_who_writes() {
    let payload = Arc::new(payload());
    let mut batch = Batch::new(payload, options(1, 32, 2, 0)).expect("works on this program");
    let ask = |id, n, limit| Request {
        id,
        prompt: tokens(n, id),
        limit,
        sampling: Sampling::GREEDY,
        stop_tokens: Vec::new(),
    };
    batch.push(ask(0, 5, 100)).expect("fits");
    batch.push(ask(1, 500, 5)).expect("fits");
    let (mut written, mut steps) = ([0, 0], 0);
    let mut finished = Vec::new();
    while written[1] == 0 {
        let sink = &mut |new: NewToken<'_>| {
            written[new.id as usize] += 1;
            ControlFlow::Continue(())
        };
        batch.step(sink, &mut finished).expect("works");
        steps += 1;
        assert_eq!(written[0], steps, "a token each step");
    }
    assert!(steps > 500 / 32, "{steps} steps");
}

#[test]
fn requests_that_cannot_run_are_refused() {
    let payload = Arc::new(payload());
    let page = 128 * 2 * 2 * 2 * 16 * 4;
    let mut batch = Batch::new(payload, options(1, 0, 2, 2 * page)).expect("works");
    let ask = |prompt: Vec<u32>, limit| Request {
        id: 0,
        prompt,
        limit,
        sampling: Sampling::GREEDY,
        stop_tokens: Vec::new(),
    };
    let refused = |r: Result<(), BatchError>| r.expect_err("refused");
    assert!(matches!(
        refused(batch.push(ask(tokens(701, 0), 1))),
        BatchError::Session(SessionError::ContextFull { wanted: 701, context: 700 })
    ));
    assert!(matches!(
        refused(batch.push(ask(vec![], 1))),
        BatchError::Session(SessionError::NoTokens)
    ));
    assert!(matches!(
        refused(batch.push(ask(vec![50], 1))),
        BatchError::Session(SessionError::Token { token: 50, .. })
    ));
    match refused(batch.push(ask(tokens(200, 0), 100))) {
        BatchError::KvBudget { tokens, wanted, budget } => {
            assert_eq!((tokens, wanted, budget), (300, 3 * page, 2 * page));
        }
        other => panic!("{other}"),
    }
    assert_eq!(batch.pending(), 0);
    // The last token needs no place: exactly two pages.
    batch.push(ask(tokens(200, 0), 57)).expect("fits");
    let mut finished = Vec::new();
    while batch.pending() > 0 {
        batch.step(&mut |_| ControlFlow::Continue(()), &mut finished).expect("works");
    }
    assert_eq!(finished[0].tokens.len(), 257);
}

#[test]
fn a_text_without_next_token_ends_alone() {
    let (program, mut weights) = support::parts();
    // Token 49 has one element of 1e30: 17th row of the second pair of tiles, first column.
    let at = 32 * 32 * 2 + 17 * 2;
    weights[at..at + 2].copy_from_slice(&0x714a_u16.to_le_bytes());
    let payload = Payload::new(program, weights.into(), runtime::Assets::default());
    let payload = Arc::new(payload.expect("a valid program"));
    let session = SessionOptions::default();
    for sampling in [Sampling::GREEDY, Sampling { temperature: 0.8, ..Sampling::GREEDY }] {
        let request = |id, token| Request {
            id,
            prompt: vec![3, token],
            limit: 1,
            sampling,
            stop_tokens: Vec::new(),
        };
        let options = BatchOptions { session, parallel: 2, kv_bytes: 0 };
        let mut batch = Batch::new(Arc::clone(&payload), options).expect("starts");
        batch.push(request(0, 49)).expect("runs");
        batch.push(request(1, 5)).expect("runs");
        let mut finished = Vec::new();
        while batch.pending() > 0 {
            batch.step(&mut |_| ControlFlow::Continue(()), &mut finished).expect("works");
        }
        finished.sort_by_key(|f| f.id);
        let stops: Vec<StopReason> = finished.iter().map(|f| f.stop).collect();
        assert!(matches!(stops[..], [StopReason::NoDistribution(_), StopReason::Length]));
        assert_eq!([&finished[0], &finished[1]].map(|f| f.tokens.len() - f.prompt), [0, 1]);
        let mut alone =
            Generator::new(Session::new(Arc::clone(&payload), session).expect("starts"));
        let options = GenerationOptions { limit: 1, sampling, stop_tokens: &[], guesses: 0 };
        let error = alone.generate(&[3, 49], &options, None, &mut |_| ControlFlow::Continue(()));
        assert!(matches!(error, Err(SessionError::Logits { position: 1, .. })), "{error:?}");
        let good = alone.generate(&[3, 5], &options, None, &mut |_| ControlFlow::Continue(()));
        assert_eq!(good.expect("the cache is as before").tokens, finished[1].tokens[2..]);
    }
}
