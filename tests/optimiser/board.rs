//! The rediscovery board: known optimisations of language models, found from base rules.
//!
//! One `.spark` each in `tests/board`, written as a front end would write it before anybody optimised it. The
//! header says what must come out: the run-time ops of the result, in order, and how much cheaper it is at
//! least. The result means the same, and each takes less than a second.

use std::time::Instant;

use ir::eval::{EvalOptions, eval_module};
use ir::{Graph, Op};
use passes::{NeutralCost, Options, optimize};

/// Spellings of the ops that run in every step.
fn run_time_ops(graph: &Graph) -> String {
    let constant = graph.compile_time_constants();
    let spelling = |op: &Op| match op {
        Op::Unary(f) => f.name(),
        Op::Binary(f) => f.name(),
        Op::Reduce { op, .. } => op.name(),
        op => op.info().name,
    };
    let nodes = graph.nodes().filter(|(_, n)| !constant[n.results[0].index()]);
    nodes.map(|(_, n)| spelling(&n.op)).collect::<Vec<_>>().join(" ")
}

#[test]
fn known_optimisations_are_found() {
    let mut found = 0;
    let mut paths: Vec<_> = std::fs::read_dir(harness::root().join("tests/board"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.sort();
    for path in paths {
        let text = std::fs::read_to_string(&path).unwrap();
        let place = path.file_stem().unwrap().to_string_lossy().into_owned();
        let header = |key: &str| {
            let line = text.lines().find_map(|l| l.strip_prefix(&format!("// {key}: ")));
            line.unwrap_or_else(|| panic!("{place}: no `// {key}:`")).to_string()
        };
        let module = ir::parse(&text).unwrap_or_else(|e| panic!("{place}: {e}"));
        let begin = Instant::now();
        let (after, report) = optimize(module.clone(), &Options::default(), &NeutralCost).unwrap();
        assert!(begin.elapsed().as_secs() < 1, "{place} took {:?}", begin.elapsed());
        assert_eq!(run_time_ops(&after.main), header("becomes"), "{place}");
        let (from, to) = report.cost;
        let saved = 100 - 100 * to.units() / from.units();
        let least: u64 = header("saves").trim_end_matches(" %").parse().unwrap();
        assert!(saved >= least, "{place} saves {saved} %");
        let weights = harness::case::weights(&module).unwrap();
        let logits = |m: &ir::Module| {
            let tokens = [1, 2, 3, 4, 5];
            eval_module(m, &weights, &tokens, 5, EvalOptions::default()).unwrap().to_f32()
        };
        let same = tensor::compare::check(
            &logits(&after),
            &logits(&module),
            tensor::Tolerance::RelativeToMax(2e-5),
        );
        assert!(same.is_ok(), "{place}: {same:?}");
        found += 1;
    }
    assert!(found >= 24, "{found} on the board");
}
