//! Reads the machine code of the inner kernels: no vector register may go through the stack inside an
//! innermost loop, and each loop must hold the products it was written for.
//!
//! Looks at optimised builds only; elsewhere every value lives on the stack.

use iced_x86::{Decoder, DecoderOptions, FlowControl, Instruction, Mnemonic, OpKind, Register};

/// More code than any kernel has.
const LONGEST: usize = 1 << 15;

/// The instructions of the function at `start`.
fn function(start: *const u8) -> Vec<Instruction> {
    // SAFETY: code of this program is readable; the decoder stops at the end of the function, which
    // lies far below the limit.
    let code = unsafe { std::slice::from_raw_parts(start, LONGEST) };
    let decoder = Decoder::with_ip(64, code, start as u64, DecoderOptions::NONE);
    let (mut found, mut furthest) = (Vec::new(), 0);
    for instruction in decoder {
        if branches(&instruction) {
            furthest = furthest.max(instruction.near_branch_target());
        }
        let (end, ends) = (instruction.next_ip(), instruction.flow_control());
        found.push(instruction);
        let leaves = matches!(ends, FlowControl::Return | FlowControl::UnconditionalBranch);
        if leaves && end > furthest {
            break;
        }
    }
    found
}

fn branches(i: &Instruction) -> bool {
    let jumps = matches!(
        i.flow_control(),
        FlowControl::ConditionalBranch | FlowControl::UnconditionalBranch
    );
    jumps && i.op_kind(0) == OpKind::NearBranch64
}

/// The loops of a function that hold no other loop.
fn innermost_loops(code: &[Instruction]) -> Vec<&[Instruction]> {
    let at = |ip: u64| code.iter().position(|i| i.ip() == ip);
    let mut loops: Vec<(usize, usize)> = Vec::new();
    for (end, i) in code.iter().enumerate().filter(|(_, i)| branches(i)) {
        if let Some(start) = at(i.near_branch_target()).filter(|&start| start <= end) {
            loops.push((start, end));
        }
    }
    let inner = |&(start, end): &(usize, usize)| {
        !loops.iter().any(|&(s, e)| (s, e) != (start, end) && s >= start && e <= end)
    };
    loops.iter().filter(|l| inner(l)).map(|&(start, end)| &code[start..=end]).collect()
}

/// Whether the function keeps the address of its frame in RBP, which else is any pointer.
fn has_frame_pointer(code: &[Instruction]) -> bool {
    // In the first instructions, if anywhere.
    code.iter().take(4).any(|i| {
        i.mnemonic() == Mnemonic::Mov
            && i.op0_register() == Register::RBP
            && i.op1_register() == Register::RSP
    })
}

fn spills(i: &Instruction, framed: bool) -> bool {
    let vector = (0..i.op_count())
        .any(|op| i.op_kind(op) == OpKind::Register && i.op_register(op).is_vector_register());
    let base = i.memory_base();
    vector && (base == Register::RSP || framed && base == Register::RBP)
}

/// Checks a kernel: some innermost loop has at least `products` of `mnemonic`, and none of those
/// that have any spills.
pub(super) fn check(name: &str, start: *const u8, mnemonic: Mnemonic, products: usize) {
    if cfg!(debug_assertions) {
        return;
    }
    let code = function(start);
    let framed = has_frame_pointer(&code);
    let count = |l: &[Instruction]| l.iter().filter(|i| i.mnemonic() == mnemonic).count();
    let loops = innermost_loops(&code);
    let hot: Vec<_> = loops.into_iter().filter(|l| count(l) > 0).collect();
    let most = hot.iter().map(|l| count(l)).max().unwrap_or(0);
    assert!(most >= products, "{name}: {most} products in a loop, expected {products}");
    for body in hot {
        let spilled = body.iter().filter(|i| spills(i, framed)).count();
        assert_eq!(spilled, 0, "{name}: an inner loop of {} instructions spills", body.len());
    }
}
