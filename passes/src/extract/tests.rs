//! The search against trying every choice, on many small problems with cycles, sharing and ties; and on
//! large ones, what must hold of any answer.

use tensor::Rng;

use super::{Limits, Node, Problem};

/// A random problem: classes need mostly earlier ones, now and then any (cycles).
fn random(rng: &mut Rng, classes: usize, nodes: usize, cyclic: f64, costs: u64) -> Problem {
    let class = |i: usize, rng: &mut Rng| {
        let node = |rng: &mut Rng| {
            let operand = |rng: &mut Rng| {
                if i == 0 || f64::from(rng.uniform()) < cyclic {
                    rng.below(classes)
                } else {
                    rng.below(i)
                }
            };
            let arity = if i == 0 { 0 } else { rng.below(4) };
            let operands = (0..arity).map(|_| operand(rng)).collect();
            Node { cost: rng.below(costs as usize) as u64, operands }
        };
        (0..1 + rng.below(nodes)).map(|_| node(rng)).collect()
    };
    let classes: Vec<Vec<Node>> = (0..classes).map(|i| class(i, rng)).collect();
    let last = classes.len() - 1;
    let roots = vec![last, rng.below(last + 1)];
    Problem { classes, roots }
}

/// The cheapest choice by trying all of them.
fn by_trying(problem: &Problem) -> Option<u64> {
    let mut picks = vec![0; problem.classes.len()];
    let mut best: Option<u64> = None;
    loop {
        if let Some(cost) = problem.cost(|c| Some(picks[c])) {
            best = Some(best.map_or(cost, |b| b.min(cost)));
        }
        let mut at = 0;
        loop {
            if at == picks.len() {
                return best;
            }
            picks[at] += 1;
            if picks[at] < problem.classes[at].len() {
                break;
            }
            picks[at] = 0;
            at += 1;
        }
    }
}

#[test]
fn the_optimum_is_found_and_proven() {
    let mut rng = Rng::new(1);
    let mut infeasible = 0;
    for round in 0..3000 {
        let cyclic = [0.0, 0.2, 0.5][round % 3];
        let costs = [2, 5, 100][round / 3 % 3];
        let classes = 2 + round % 8;
        let problem = random(&mut rng, classes, 3, cyclic, costs);
        let expected = by_trying(&problem);
        let found = problem.solve(Limits::default());
        infeasible += usize::from(expected.is_none());
        assert_eq!(found.as_ref().map(|s| s.cost), expected, "round {round}: {problem:?}");
        if let Some(found) = found {
            assert_eq!(found.bound, found.cost, "round {round}");
            assert_eq!(problem.cost(|c| found.picks[c]), Some(found.cost), "round {round}");
        }
    }
    assert!(infeasible > 0 && infeasible < 1000, "{infeasible}");
}

#[test]
fn a_search_cut_short_still_tells_the_truth() {
    let mut rng = Rng::new(2);
    for round in 0..60 {
        let problem = random(&mut rng, 60, 4, 0.1, 50);
        let Some(exact) = problem.solve(Limits { work: 200_000_000 }) else { continue };
        assert!(exact.is_optimal(), "round {round}");
        for work in [0, 100, 3_000, 50_000] {
            let cut = problem.solve(Limits { work }).expect("feasible");
            assert!(cut.bound <= exact.cost && exact.cost <= cut.cost, "round {round}, {work}");
            assert_eq!(problem.cost(|c| cut.picks[c]), Some(cut.cost));
        }
    }
}

#[test]
fn a_start_is_never_made_dearer() {
    let mut rng = Rng::new(3);
    for _ in 0..200 {
        let problem = random(&mut rng, 30, 3, 0.1, 20);
        let start: Vec<usize> =
            problem.classes.iter().map(|nodes| rng.below(nodes.len())).collect();
        let (Some(cost), limits) = (problem.cost(|c| Some(start[c])), Limits { work: 0 }) else {
            continue;
        };
        let found = problem.solve_from(limits, Some(&start)).expect("feasible");
        assert!(found.cost <= cost);
    }
}

#[test]
fn hopeless_problems_are_refused() {
    let node = |cost, operands: &[usize]| Node { cost, operands: operands.to_vec() };
    let problem = |classes: Vec<Vec<Node>>| Problem { classes, roots: vec![0] };
    let limits = Limits::default();
    assert_eq!(problem(vec![vec![]]).solve(limits), None);
    assert_eq!(problem(vec![vec![node(1, &[0])]]).solve(limits), None);
    assert_eq!(problem(vec![vec![node(1, &[7])]]).solve(limits), None);
    assert_eq!(problem(vec![vec![node(u64::MAX, &[])]]).solve(limits), None);
    assert_eq!(Problem { classes: vec![], roots: vec![3] }.solve(limits), None);
    let nothing = Problem::default().solve(limits).expect("no roots, no cost");
    assert_eq!((nothing.cost, nothing.bound), (0, 0));
}

/// Each root can be had through one of two shared classes, a third of them cheaper alone: greedy is
/// wrong by a factor, the cut bound must close the gap.
#[test]
fn sharing_that_pays_only_together_is_found() {
    let mut classes: Vec<Vec<Node>> = vec![vec![Node { cost: 50, operands: vec![] }]];
    for _ in 0..40 {
        classes.push(vec![Node { cost: 3, operands: vec![] }, Node { cost: 1, operands: vec![0] }]);
    }
    let roots = (1..=40).collect();
    let found = Problem { classes, roots }.solve(Limits::default()).expect("feasible");
    assert_eq!((found.cost, found.bound), (90, 90));
}

/// A chain in which each class needs the one before twice over: its trees cost 2^n, its graph n.
#[test]
fn chains_whose_trees_cost_more_than_any_number_are_extracted() {
    let mut classes = vec![vec![Node { cost: 1, operands: vec![] }]; 2];
    for i in 2..500 {
        classes.push(vec![
            Node { cost: 1, operands: vec![i - 1, i - 2] },
            Node { cost: 3, operands: vec![i - 2] },
        ]);
    }
    let found = Problem { classes, roots: vec![499] }.solve(Limits::default()).expect("feasible");
    // Every class once, rather than every other for three times as much.
    assert_eq!((found.cost, found.bound), (500, 500));
}

/// Large problems of the families that public sets have: feasible, never dearer than greedy choices, and
/// what is not proven says so.
#[test]
fn large_problems_are_never_dearer_than_greedy() {
    for (seed, cyclic, classes, near) in
        [(1, 0.0, 4000, 12), (2, 0.1, 600, 600), (3, 0.0, 600, 600), (4, 0.02, 4000, 40)]
    {
        let mut rng = Rng::new(seed);
        let node = |i: usize, leaf: bool, rng: &mut Rng| {
            let operand = |rng: &mut Rng| match f64::from(rng.uniform()) < cyclic {
                true => rng.below(classes),
                false => i - 1 - rng.below(i.min(near)),
            };
            let arity = if leaf || i == 0 { 0 } else { 1 + rng.below(3) };
            let operands = (0..arity).map(|_| operand(rng)).collect();
            Node { cost: 1 + rng.below(30) as u64, operands }
        };
        let mut all: Vec<Vec<Node>> = Vec::new();
        for i in 0..classes {
            let count = 1 + rng.below(4);
            // The first way needs earlier classes only, or nothing.
            all.push((0..count).map(|j| node(i, i < 40 && j == 0, &mut rng)).collect());
            if cyclic > 0.0 {
                all[i][0].operands.retain(|&o| o < i);
            }
        }
        let roots = (0..6).map(|_| classes - 1 - rng.below(classes / 8)).collect();
        let problem = Problem { classes: all, roots };
        let greedy = super::primal::Primal::new(&problem, u64::MAX).greedy();
        let greedy = problem.cost(|c| Some(greedy[c])).expect("greedy choices have no cycle");
        let found = problem.solve(Limits { work: 10_000_000 }).expect("feasible");
        assert!(found.cost <= greedy, "seed {seed}: {} above greedy's {greedy}", found.cost);
        assert!(found.bound <= found.cost && found.bound > 0, "seed {seed}");
        assert_eq!(problem.cost(|c| found.picks[c]), Some(found.cost), "seed {seed}");
    }
}
