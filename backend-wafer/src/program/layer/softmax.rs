//! Softmax of a layer: exponentials of scores that all columns of a cell hold alike, and maxima over rows.
//!
//! Where columns share the exponentials, these are taken against the maximum of the row, which needs no
//! message, and the maximum of the column is found in the same phase, in the gaps of the sum that puts
//! the shares together: chains along the column run in microthreads, its root answers before the cell's
//! does. Rows weigh their values while that answer is on its way, where it is late; values and denominators are multiplied
//! by exp(row's maximum - column's) afterwards; a row without tokens has the maximum -inf and the factor
//! 0. Elsewhere the column's maximum comes first.
//! Leaves values without their division: denominators are summed with them.

use plan::{
    Affine, BinaryOp, Clause, Combine, Instr, Operand, PartOp, ReduceOp, Role, Slice, Target,
};

use super::Layer;
use crate::program::cost::comm_cycles;
use crate::route::tree::{Message, Part, Reach, Tree};

/// What the phase of the values needs.
pub(super) struct Softmax {
    /// What makes a row's values and denominators, if nothing has yet.
    pub(super) before_values: Vec<Instr>,
    /// Per head: what the row's sums are multiplied by; `None` for 1.
    pub(super) factors: Option<Slice>,
}

/// The microthread of a chain along a column, and of the root of a cell.
const CHAIN: u8 = 0;
const ANSWER: u8 = 1;

impl Layer<'_> {
    /// Phases from `scores`, which are the same on all columns of a cell, to their exponentials, and what
    /// `weigh` makes of these: a row's values and denominators.
    pub(super) fn softmax(
        &mut self,
        scores: Slice,
        weigh: impl Fn(Slice) -> [Instr; 2],
    ) -> Softmax {
        let heads = self.shape.heads;
        let max = self.b.vector("score-max", heads.q_heads()).all();
        let b = Operand::PerSegment(max);
        let alone = Instr::Binary { op: BinaryOp::ExpSub, dst: scores, a: scores, b };
        let size = heads.q_heads() * self.shape.slots;
        let p = Slice { buffer: self.b.vector("probabilities", size).buffer, ..scores };
        let op = PartOp::Binary(BinaryOp::ExpSub);
        let part = Affine { xr: 1, ..Affine::default() };
        let piece = Instr::Part { op, dst: p, a: scores, b, part, parts: heads.width };
        let comm = self.trees.groups.comm(Reach::All, p.len);
        let zero = Instr::Fill { dst: p, value: 0.0 };
        let row_max = Instr::Reduce { op: ReduceOp::Max, dst: max, src: scores };
        let both = [std::slice::from_ref(&alone), std::slice::from_ref(&piece)];
        if !self.share_pays(both[0], both[1], &comm) {
            self.b.forget(p.buffer);
            self.column_maxima(&[row_max], max);
            let before_values = std::iter::once(alone).chain(weigh(scores)).collect();
            return Softmax { before_values, factors: None };
        }
        if roots_fit(&self.trees.groups, &self.trees.columns, self.target) {
            let top = self.b.vector("column-max", heads.q_heads()).all();
            let column = self.trees.columns.comm(Reach::All, top.len);
            let cycles = |comm| comm_cycles(self.target, comm, self.shape.slots);
            let hidden =
                cycles(&column) <= cycles(&comm) + self.cycles(std::slice::from_ref(&piece));
            // Where nobody waits for the maximum, weighing here would only keep its results longer.
            let (now, later) =
                if hidden { (vec![], weigh(p).to_vec()) } else { (weigh(p).to_vec(), vec![]) };
            let roles = self.shared_exponentials([row_max, piece], (p, now), (max, top));
            self.b.while_waiting(&zero);
            self.b.phase("softmax", Some(if hidden { comm } else { column }), roles);
            return Softmax { before_values: later, factors: Some(max) };
        }
        self.column_maxima(&[row_max], max);
        self.b.while_waiting(&zero);
        let message = Message { data: p, combine: Combine::Add };
        let tree = &self.trees.groups;
        self.b.reduce_phase("softmax", &[piece], (tree, message, Reach::All), self.head_columns());
        Softmax { before_values: weigh(p).to_vec(), factors: None }
    }

    /// Phase: the maxima of columns, after `before`.
    fn column_maxima(&mut self, before: &[Instr], max: Slice) {
        let tree = &self.trees.columns;
        let message = Message { data: max, combine: Combine::Max };
        self.b.reduce_phase(
            "softmax-max",
            before,
            (tree, message, Reach::All),
            self.head_columns(),
        );
    }

    /// Every place in a cell's tree meets every place in a column's.
    fn shared_exponentials(
        &self,
        work: [Instr; 2],
        (p, weigh): (Slice, Vec<Instr>),
        (max, top): (Slice, Slice),
    ) -> Vec<Role> {
        let (cell, column) = (&self.trees.groups, &self.trees.columns);
        let columns = self.head_columns();
        let sums = cell.reduce(&Message { data: p, combine: Combine::Add }, Reach::All);
        let maxima = column.reduce(&Message { data: top, combine: Combine::Max }, Reach::All);
        let mut roles = Vec::new();
        for sum in &sums {
            for maximum in &maxima {
                let mut predicate = cell.line.predicate(sum.clauses.clone());
                predicate.y.extend(&maximum.clauses);
                if columns.used < columns.width {
                    predicate.x.push(Clause::range(0, columns.used));
                }
                let program = interleave((&work, &weigh), (sum, maximum), (max, top));
                roles.push(Role { name: sum.name.to_string(), predicate, program });
            }
        }
        roles.extend(columns.outside());
        roles
    }
}

/// Whether a PE that is a root of its cell and of its column has queues for all that it receives, and
/// for both answers.
pub(super) fn roots_fit(cell: &Tree, column: &Tree, target: &Target) -> bool {
    let fabric = &target.fabric;
    let free = |queues: u32| queues.saturating_sub(fabric.reserved_queues);
    let inputs = cell.most_inputs() + column.most_inputs();
    inputs <= free(fabric.input_queues) && 2 <= free(fabric.output_queues)
}

/// The row's maximum and this PE's exponentials (`work`) with its parts in the sum along the cell and in
/// the maximum along the column; `weigh` when all exponentials are here; then exp(row's maximum - column's)
/// where the row's maximum was.
fn interleave(
    (work, weigh): (&[Instr; 2], &[Instr]),
    (sum, maximum): (&Part, &Part),
    (max, top): (Slice, Slice),
) -> Vec<Instr> {
    let [row_max, exponentials] = work.clone();
    let (answer, gather) = split(&sum.program);
    let (result, chain) = split(&maximum.program);
    let in_thread = |thread, instr: &Instr| vec![Instr::Start { thread }, instr.clone()];
    let combines = chain.iter().any(|i| matches!(i, Instr::Recv { .. }));
    let mut program = vec![row_max];
    // What combines must leave the row's own maximum as it is; a row alone has no other.
    if combines || result.is_none() {
        program.push(Instr::Copy { dst: top, src: max });
    }
    let is_root = matches!(result, Some(Instr::Send { .. }));
    let mut join = 0;
    let mut send = Vec::new();
    match chain {
        [.., Instr::Relay { .. }] if !is_root => {
            let relay = reading(&chain[chain.len() - 1], if combines { top } else { max });
            send = in_thread(CHAIN, &relay);
            join |= 1 << CHAIN;
        }
        [.., Instr::Send { .. }] if !is_root => {
            send.push(reading(&chain[chain.len() - 1], if combines { top } else { max }));
        }
        _ => {}
    }
    let receives = &chain[..chain.len() - usize::from(!send.is_empty())];
    if combines || send.is_empty() {
        program.push(exponentials);
        if !is_root {
            program.extend_from_slice(receives);
            program.append(&mut send);
        }
    } else {
        // The ends of the chain have sent before anybody computes.
        program.append(&mut send);
        program.push(exponentials);
    }
    program.extend_from_slice(gather);
    if is_root {
        program.extend_from_slice(receives);
        program.extend(result.cloned());
    }
    let cell_root = matches!(answer, Some(Instr::Send { .. }));
    match answer {
        Some(answer) if cell_root => program.extend(in_thread(ANSWER, answer)),
        answer => program.extend(answer.cloned()),
    }
    program.extend_from_slice(weigh);
    if join != 0 {
        program.push(Instr::Join { threads: join });
    }
    if !is_root {
        program.extend(result.cloned());
    }
    let b = Operand::Slice(top);
    program.push(Instr::Binary { op: BinaryOp::ExpSub, dst: max, a: max, b });
    if cell_root {
        program.push(Instr::Join { threads: 1 << ANSWER });
    }
    program
}

/// The last message of an allreduce, the multicast of the result, and what is before it.
fn split(program: &[Instr]) -> (Option<&Instr>, &[Instr]) {
    match program.split_last() {
        Some((last, rest)) => (Some(last), rest),
        None => (None, &[]),
    }
}

/// A message that is sent on, with another operand of the same length.
fn reading(instr: &Instr, local: Slice) -> Instr {
    let mut instr = instr.clone();
    match &mut instr {
        Instr::Send { src, .. } => *src = local,
        Instr::Relay { local: old, .. } => *old = local,
        _ => {}
    }
    instr
}
