//! Sessions on a hand-written program: splits, threads, limits, truncation, and hostile programs.

use std::ops::ControlFlow;
use std::sync::Arc;

use sparkc_runtime as runtime;

mod support;

use runtime::kernels::Kernels;
use runtime::program::{Step, decode, encode};
use runtime::{
    Assets, GenerationOptions, Generator, Isa, Payload, Sampling, Session, SessionError,
    SessionOptions, StopReason, Wanted,
};
use tensor::Rng;

fn session(options: SessionOptions) -> Session {
    Session::new(Arc::new(support::decoder()), options).expect("works on this program")
}

fn prompt(n: usize) -> Vec<u32> {
    (0..n).map(|i| (i * 13 % support::VOCAB) as u32).collect()
}

fn all_logits(options: SessionOptions, tokens: &[u32], step: usize) -> Vec<u32> {
    let mut session = session(options);
    let mut out = Vec::new();
    for part in tokens.chunks(step) {
        let push = &mut |rows: &[f32]| out.extend(rows.iter().map(|v| v.to_bits()));
        session.feed(part, Wanted::All, push).expect("works on this program");
    }
    assert_eq!(session.len(), tokens.len());
    out
}

#[test]
fn no_split_chunk_or_thread_count_changes_a_bit() {
    let tokens = prompt(40);
    for isa in Isa::ALL.into_iter().filter(|&isa| Kernels::new(isa).is_some()) {
        let base = SessionOptions { threads: 1, isa: Some(isa), ..SessionOptions::default() };
        let whole = all_logits(base, &tokens, 40);
        assert_eq!(whole.len(), 40 * support::VOCAB);
        for threads in [1, 2, 4] {
            for (chunk, step) in [(0, 1), (7, 40), (3, 11), (0, 40)] {
                let options = SessionOptions { threads, chunk, ..base };
                assert!(
                    all_logits(options, &tokens, step) == whole,
                    "{isa} {threads} {chunk} {step}"
                );
            }
        }
    }
}

#[test]
fn last_logits_are_the_last_row_of_all() {
    let tokens = prompt(17);
    let all = all_logits(SessionOptions::default(), &tokens, 17);
    let mut last = Vec::new();
    let mut session = session(SessionOptions { chunk: 5, ..SessionOptions::default() });
    let push = &mut |row: &[f32]| last.extend(row.iter().map(|v| v.to_bits()));
    session.feed(&tokens, Wanted::Last, push).expect("works on this program");
    assert_eq!(last, all[16 * support::VOCAB..]);
}

#[test]
fn truncation_forgets() {
    let tokens = prompt(12);
    let row = |session: &mut Session, tokens: &[u32]| {
        let mut out = Vec::new();
        session
            .feed(tokens, Wanted::Last, &mut |r| out.extend_from_slice(r))
            .expect("works on this program");
        out
    };
    let mut fresh = session(SessionOptions::default());
    let expected = row(&mut fresh, &tokens);
    let mut used = session(SessionOptions::default());
    row(&mut used, &prompt(30));
    used.truncate(0);
    row(&mut used, &tokens[..9]);
    row(&mut used, &[40, 41]);
    used.truncate(9);
    assert_eq!(row(&mut used, &tokens[9..]), expected);
}

#[test]
fn limits_are_errors() {
    let mut s = session(SessionOptions::default());
    let mut feed = |tokens: &[u32]| s.feed(tokens, Wanted::Last, &mut |_| {});
    assert!(matches!(feed(&[]), Err(SessionError::NoTokens)));
    assert!(matches!(feed(&[50]), Err(SessionError::Token { token: 50, vocab: 50 })));
    assert!(matches!(
        feed(&prompt(49)),
        Err(SessionError::ContextFull { wanted: 49, context: 48 })
    ));
    feed(&prompt(48)).expect("works on this program");
    assert!(matches!(feed(&[1]), Err(SessionError::ContextFull { wanted: 49, .. })));
    let neon = SessionOptions { isa: Some(Isa::Neon), ..SessionOptions::default() };
    if cfg!(target_arch = "x86_64") {
        let refused = Session::new(Arc::new(support::decoder()), neon);
        assert!(matches!(refused, Err(SessionError::Isa(Isa::Neon))));
    }
}

#[test]
fn generation_ends_for_its_reason_and_reuses_the_cache() {
    let mut generator = Generator::new(session(SessionOptions::default()));
    let options = |limit, stop_tokens| GenerationOptions {
        limit,
        sampling: Sampling::GREEDY,
        stop_tokens,
        guesses: 0,
    };
    let mut run = |prompt: &[u32], o: &GenerationOptions<'_>| {
        generator
            .generate(prompt, o, None, &mut |_| ControlFlow::Continue(()))
            .expect("works on this program")
    };
    let first = run(&prompt(5), &options(8, &[]));
    assert_eq!((first.tokens.len(), first.stop), (8, StopReason::Length));
    let stopped = run(&prompt(5), &options(8, &first.tokens[2..3]));
    assert_eq!(stopped.stop, StopReason::StopToken);
    assert!(stopped.tokens.len() <= 3 && first.tokens.starts_with(&stopped.tokens));
    assert_eq!(stopped.timings.prompt_tokens, 1, "the prompt was in the cache");
    let full = run(&prompt(5), &options(1000, &[]));
    // The last token needs no position: 48 positions hold the prompt and 43 of them.
    assert_eq!((full.tokens.len(), full.stop), (44, StopReason::ContextFull));
    let longer = [prompt(5), first.tokens.clone()].concat();
    assert_eq!(run(&longer, &options(3, &[])).tokens, full.tokens[8..11]);
}

#[test]
fn program_bytes_round_trip_and_hostile_ones_are_refused() {
    let (program, weights) = support::parts();
    let bytes = encode(&program);
    let segment = weights.len() as u64;
    assert_eq!(decode(&bytes, segment).expect("works on this program"), program);
    assert!(decode(&bytes, segment - 1).is_err(), "the last weight leaves the segment");
    for cut in 0..bytes.len() {
        assert!(decode(&bytes[..cut], segment).is_err(), "cut at {cut}");
    }
    let mut rng = Rng::new(3);
    let mut refused = 0;
    for _ in 0..4000 {
        let mut broken = bytes.clone();
        for _ in 0..1 + rng.below(3) {
            let at = rng.below(broken.len());
            broken[at] = rng.next_u64() as u8;
        }
        // What is accepted must also run.
        match decode(&broken, segment) {
            Ok(program) if small(&program) => {
                let payload = Payload::new(program, weights.clone().into(), Assets::default());
                let options = SessionOptions { threads: 1, ..SessionOptions::default() };
                if let Ok(mut session) =
                    Session::new(Arc::new(payload.expect("works on this program")), options)
                {
                    // An error is fine, a panic is not.
                    let _ = session.feed(&[1, 2, 3], Wanted::All, &mut |_| {});
                    let _ = session.feed(&[1], Wanted::Last, &mut |_| {});
                }
            }
            Ok(_) => {}
            Err(_) => refused += 1,
        }
    }
    assert!(refused > 500, "{refused} of 4000 were refused");
}

/// Whether running a program takes no time and memory to speak of.
fn small(program: &runtime::Program) -> bool {
    let calls: usize = program
        .steps
        .iter()
        .map(|step| match step {
            Step::Call(_) => 1,
            Step::Repeat(r) => r.calls.len() * r.count as usize,
        })
        .sum();
    calls < 1000 && program.context <= 4096
}

#[test]
fn guessing_ahead_never_changes_a_text() {
    let mut saved = 0;
    for seed in 0..12u64 {
        let mut generator = Generator::new(session(SessionOptions::default()));
        // A prompt that repeats itself, so that there is something to guess from.
        let prompt: Vec<u32> = (0..12).map(|i| (i % 4 + seed as u32 * 3) % 50).collect();
        for temperature in [0.0, 0.7] {
            let sampling = Sampling { temperature, top_k: 5, top_p: 1.0, seed };
            let mut run = |guesses: usize| {
                generator.forget();
                let o = GenerationOptions { limit: 30, sampling, stop_tokens: &[], guesses };
                let mut seen = Vec::new();
                let generation = generator
                    .generate(&prompt, &o, None, &mut |token| {
                        seen.push(token);
                        ControlFlow::Continue(())
                    })
                    .expect("works on this program");
                assert_eq!(seen, generation.tokens);
                assert_eq!(generation.timings.decode_tokens, 29);
                generation
            };
            let plain = run(0);
            let ahead = run(7);
            assert_eq!(plain.tokens, ahead.tokens, "seed {seed}, temperature {temperature}");
            assert_eq!(plain.timings.speculation.guessed, 0);
            saved += ahead.timings.speculation.accepted;
            // The cache holds what was chosen and nothing guessed: the text goes on as ever.
            let longer = [prompt.clone(), ahead.tokens[..20].to_vec()].concat();
            let o = GenerationOptions {
                limit: 5,
                sampling: Sampling::GREEDY,
                stop_tokens: &[],
                guesses: 7,
            };
            let go_on = |g: &mut Generator| {
                g.generate(&longer, &o, None, &mut |_| ControlFlow::Continue(()))
                    .expect("works")
                    .tokens
            };
            let reused = go_on(&mut generator);
            generator.forget();
            assert_eq!(reused, go_on(&mut generator));
        }
    }
    assert!(saved > 20, "only {saved} guesses held");
}
