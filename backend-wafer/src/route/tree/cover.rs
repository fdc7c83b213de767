//! Predicates of sets of positions of a line.
//!
//! In: positions in any arrangement. Out: a short conjunction of clauses that holds at these and nowhere
//! else on the line. Residues are tried that trees of equal groups repeat (two positions, a group, two
//! groups); what they let pass and is not wanted is then left out range by range. So places of groups
//! of unequal size, which repeat nothing, cost a clause per gap.

use plan::{Clause, Term};

use super::Line;

/// Clauses over `line` that hold where `wanted` does; `group` is the size of equal groups, 0 where they are
/// not. `None` when nothing is wanted.
pub(super) fn clauses(line: &Line, group: u32, wanted: &[bool]) -> Option<Vec<Clause>> {
    let first = wanted.iter().position(|&w| w)?;
    let last = wanted.iter().rposition(|&w| w)?;
    let around = range(line, first as u32, last as u32 + 1);
    let unwanted: Vec<u32> = (0..).zip(wanted).filter(|(_, w)| !**w).map(|(p, _)| p).collect();
    let mut fewest: Option<Vec<Clause>> = None;
    for terms in patterns(line, group) {
        let mut clauses: Vec<Clause> =
            terms.iter().filter_map(|&term| residues(term, wanted)).collect();
        let passes = |p: &u32, clauses: &[Clause]| clauses.iter().all(|c| c.holds(*p));
        let mut open: Vec<u32> = unwanted.iter().copied().filter(|p| passes(p, &clauses)).collect();
        if open.iter().any(|p| !passes(p, &[around])) {
            clauses.push(around);
            open.retain(|p| passes(p, &[around]));
        }
        clauses.extend(gaps(&open, wanted).map(|(a, b)| outside(line, a, b)));
        if fewest.as_ref().is_none_or(|f| clauses.len() < f.len()) {
            fewest = Some(clauses);
        }
        if fewest.as_ref().is_some_and(|f| f.len() <= 1) {
            break;
        }
    }
    fewest
}

fn range(line: &Line, from: u32, to: u32) -> Clause {
    Clause { term: line.term(), from, to }
}

fn outside(line: &Line, from: u32, to: u32) -> Clause {
    Clause { term: line.term(), ..Clause::outside(from, to) }
}

/// The terms whose residues are tried, alone or together.
fn patterns(line: &Line, group: u32) -> Vec<Vec<Term>> {
    let mut patterns = vec![vec![], vec![line.rem(2)]];
    if group > 1 && group < line.len {
        let parity = match line.per_cell || group.is_multiple_of(2) {
            true => line.rem(2),
            false => Term::RemRem(group, 2),
        };
        patterns.extend([
            vec![line.rem(group)],
            vec![line.rem(2 * group)],
            vec![line.rem(group), parity],
        ]);
    }
    patterns
}

/// The shortest range of values, around the end perhaps, that the term has where it is wanted; `None` when
/// that is all of them.
fn residues(term: Term, wanted: &[bool]) -> Option<Clause> {
    let (Term::Rem(m) | Term::RemRem(_, m)) = term else { return None };
    let mut taken = vec![false; m as usize];
    let values = (0..).zip(wanted).filter(|(_, w)| **w).filter_map(|(p, _)| term.at(p));
    values.for_each(|v| taken[v as usize] = true);
    // The longest run of values that are not taken, seen around the end.
    let (mut run, mut longest) = (0, (0, 0));
    for v in 0..2 * m {
        run = if taken[(v % m) as usize] { 0 } else { run + 1 };
        if run > longest.1 {
            longest = (v + 1 - run, run);
        }
    }
    let (first, n) = longest;
    let to = if first == 0 { m } else { first };
    (n > 0).then_some(Clause { term, from: (first + n) % m, to })
}

/// Ranges that hold all of the unwanted positions `open`, and none that is wanted.
fn gaps<'a>(open: &'a [u32], wanted: &'a [bool]) -> impl Iterator<Item = (u32, u32)> + 'a {
    let together = move |a: &u32, b: &u32| !wanted[*a as usize..*b as usize].contains(&true);
    let range = |gap: &[u32]| Some((*gap.first()?, gap.last()? + 1));
    open.chunk_by(together).filter_map(range)
}

#[cfg(test)]
mod tests {
    use super::*;
    use plan::Axis;

    /// Positions told apart by small numbers, so that many arrangements occur.
    #[test]
    fn clauses_hold_where_wanted_and_nowhere_else() {
        let mut state = 1u32;
        let mut next = |n: u32| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 16) % n
        };
        for len in 1..40 {
            for per_cell in [false, true] {
                let line = Line { axis: Axis::X, len, per_cell, extent: 3 * len };
                for group in [0, 2, 4, 5] {
                    let wanted: Vec<bool> = match next(3) {
                        0 => (0..len).map(|p| p % 4 == 3).collect(),
                        1 => (0..len).map(|p| (p + 2) % 8 < 4).collect(),
                        _ => (0..len).map(|_| next(3) == 0).collect(),
                    };
                    let Some(clauses) = clauses(&line, group, &wanted) else {
                        assert!(!wanted.contains(&true));
                        continue;
                    };
                    let period = if per_cell { 3 * len } else { len };
                    for p in 0..period {
                        let holds = clauses.iter().all(|c| c.holds(p));
                        assert_eq!(holds, wanted[(p % len) as usize], "{p} of {clauses:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn what_repeats_takes_few_clauses() {
        let line = Line { axis: Axis::Y, len: 360, per_cell: false, extent: 360 };
        let of = |f: &dyn Fn(u32) -> bool| {
            clauses(&line, 12, &(0..360).map(f).collect::<Vec<bool>>()).expect("some").len()
        };
        assert_eq!(of(&|_| true), 0);
        assert_eq!(of(&|p| p % 12 == 6), 1);
        assert_eq!(of(&|p| p % 24 > 18 || p % 24 < 6), 1);
        assert_eq!(of(&|p| p % 12 > 6 && p % 12 < 11 && p % 2 == 1), 2);
        assert_eq!(of(&|p| !(100..=140).contains(&p)), 1);
    }
}
