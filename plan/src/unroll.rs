//! A plan without loops and microthreads that does the same: what function needs, not time.
//!
//! Loops become as many copies of their body; roles whose loops turn differently from row to row or
//! column to column are cut accordingly. A Send stays where it starts, a Recv moves to its Join, so
//! nothing waits for what comes behind it; a Relay stays where it starts. A Broadcast
//! stays where it starts: roots follow one another in the order of the programs. The turn of a Keep or
//! Broadcast becomes a constant. Meant for small regions: the
//! result grows with the turns.
//!
//! Invariant: of a legal plan the result computes the same, where a message waits in a queue as long as it
//! has to. It need not be legal: `verify` takes every message as a rendezvous, and PEs that all send before
//! they receive, as in a ring, wait for each other in a circle (PLN1701) once no microthread sends for them.
//! So prove the plan, and give its unrolling to the functional simulator alone (`Simulator::unchecked`).

use std::borrow::Cow;

use crate::index::{Affine, Clause};
use crate::plan::Plan;
use crate::program::{Instr, MICROTHREADS};
use crate::template::{Phase, Role, Template};

/// The same plan without markers: itself when it has none.
pub fn unroll(plan: &Plan) -> Cow<'_, Plan> {
    let templates: Vec<Option<Template>> = plan.templates.iter().map(unroll_template).collect();
    if templates.iter().all(Option::is_none) {
        return Cow::Borrowed(plan);
    }
    let mut unrolled = plan.clone();
    for (old, new) in unrolled.templates.iter_mut().zip(templates) {
        if let Some(new) = new {
            *old = new;
        }
    }
    Cow::Owned(unrolled)
}

/// Whether programs can be executed without regard to their markers: no loops, and what is started in
/// microthreads sends, so that its place in the program is where it happens here too.
pub fn runs_in_program_order(plan: &Plan) -> bool {
    let roles = plan.templates.iter().flat_map(|t| &t.phases).flat_map(|p| &p.roles);
    let mut programs = roles.map(|r| &r.program);
    programs.all(|program| {
        let loops = program.iter().any(|i| matches!(i, Instr::Repeat { .. }));
        let receives = |w: &[Instr]| matches!(w, [Instr::Start { .. }, Instr::Recv { .. }]);
        !loops && !program.windows(2).any(receives)
    })
}

/// The same template without markers; `None` when it has none. Loops whose turns cannot be computed
/// at a position (`verify` refuses them) do not turn there.
fn unroll_template(template: &Template) -> Option<Template> {
    let marks =
        |i: &Instr| matches!(i, Instr::Start { .. } | Instr::Join { .. } | Instr::Repeat { .. });
    let roles = template.phases.iter().flat_map(|p| &p.roles);
    if !roles.flat_map(|r| &r.program).any(marks) {
        return None;
    }
    let mut unrolled = template.clone();
    for phase in &mut unrolled.phases {
        *phase = unroll_phase(template, phase);
    }
    Some(unrolled)
}

fn unroll_phase(t: &Template, phase: &Phase) -> Phase {
    let mut roles = Vec::new();
    for role in &phase.roles {
        let mut uses = (false, false);
        for instr in &role.program {
            if let Instr::Repeat { times, .. } = instr {
                uses = (uses.0 || times.uses_x(), uses.1 || times.uses_y());
            }
        }
        let columns = if uses.0 { t.width } else { 1 };
        let rows = if uses.1 { t.height } else { 1 };
        for y in (0..rows).filter(|&y| !uses.1 || role.predicate.holds_y(y)) {
            for x in (0..columns).filter(|&x| !uses.0 || role.predicate.holds_x(x)) {
                let mut predicate = role.predicate.clone();
                if uses.0 {
                    predicate = predicate.and_x(Clause::range(x, x + 1));
                }
                if uses.1 {
                    predicate = predicate.and_y(Clause::range(y, y + 1));
                }
                let program = straight(&role.program, (x, y), t.cell);
                roles.push(Role { name: role.name.clone(), predicate, program });
            }
        }
    }
    Phase { roles, ..phase.clone() }
}

/// A program as the PE at `position` executes it, message by message.
fn straight(program: &[Instr], position: (u32, u32), cell: (u32, u32)) -> Vec<Instr> {
    let mut out = Vec::new();
    let mut waiting: [Option<Instr>; MICROTHREADS as usize] = Default::default();
    let mut emit = |out: &mut Vec<Instr>, part: &[Instr], turn: u32| {
        let mut start: Option<u8> = None;
        for instr in part {
            match instr {
                Instr::Start { thread } => start = Some(*thread),
                Instr::Join { threads } => {
                    for (i, slot) in waiting.iter_mut().enumerate() {
                        if threads & (1 << i) != 0 {
                            out.extend(slot.take());
                        }
                    }
                }
                Instr::Repeat { .. } => {}
                Instr::Keep { dst, src, when, per_turn, of } => {
                    // The same residue, small.
                    let turned = i64::from(*per_turn) * i64::from(turn) % i64::from((*of).max(1));
                    let when = Affine { base: when.base.saturating_add(turned), ..*when };
                    let (dst, src, of) = (*dst, *src, *of);
                    out.push(Instr::Keep { dst, src, when, per_turn: 0, of });
                }
                Instr::Broadcast { root, per_turn, .. } => {
                    start = None;
                    let at = root.saturating_add(per_turn.saturating_mul(turn));
                    let mut here = instr.clone();
                    if let Instr::Broadcast { root, per_turn, .. } = &mut here {
                        (*root, *per_turn) = (at, 0);
                    }
                    out.push(here);
                }
                _ => {
                    let slot = start.take().and_then(|t| waiting.get_mut(usize::from(t)));
                    match (slot, instr) {
                        (Some(slot), Instr::Recv { .. }) => *slot = Some(instr.clone()),
                        _ => out.push(instr.clone()),
                    }
                }
            }
        }
    };
    let mut i = 0;
    while i < program.len() {
        let Instr::Repeat { times, body } = program[i] else {
            let next = program[i..].iter().position(|n| matches!(n, Instr::Repeat { .. }));
            let end = next.map_or(program.len(), |n| i + n);
            emit(&mut out, &program[i..end], 0);
            i = end;
            continue;
        };
        let end = (i + 1).saturating_add(body as usize).min(program.len());
        let times = times.at(position, cell).unwrap_or(0).clamp(0, i64::from(u32::MAX)) as u32;
        for turn in 0..times {
            emit(&mut out, &program[i + 1..end], turn);
        }
        i = end;
    }
    out
}
