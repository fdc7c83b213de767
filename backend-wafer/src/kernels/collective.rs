//! Broadcasts and reductions along a row of PEs.
//!
//! Every PE loads a vector from a table in the plan, then the row runs one collective; rows are
//! independent. Trees are those of [`crate::route::tree`]. Does not multiply: see [`super::gemv`].

use plan::{
    Affine, Axis, Clause, Combine, Instr, Len, LogitsOutput, Port, Ports, Predicate, RegionId,
    Role, Route, Slice, Target, WireFormat,
};

use super::{Built, Kernel, Sizes, inline, values};
use crate::program::builder::{Columns, TemplateBuilder, Vector};
use crate::program::pins::{Tiling, pin_vector, vector_buffer};
use crate::route::palette;
use crate::route::tree::{Line, Message, Reach, Tree};

pub(super) fn build(kernel: Kernel, sizes: Sizes, target: &Target) -> Built {
    let ((width, height), n) = (sizes.region, sizes.n);
    let mut b = TemplateBuilder::new(kernel.name().into(), width, height, (1, 1));
    let data = b.vector("data", n);
    let source = vector_buffer(&mut b, "source", n);
    let tiling = Tiling::Columns { tile: n, extent: n * width };
    let input = inline("source", &[(n * width) as usize]);
    // The builder refuses nothing here: the input is one plain piece.
    let _ = pin_vector(&mut b, &input, tiling, (source, 0), Some(height));
    let load = [Instr::Copy {
        dst: data.all(),
        src: Slice { buffer: source, offset: 0, len: Len::of(n) },
    }];
    b.phase(
        "load",
        None,
        vec![Role {
            name: "all".into(),
            predicate: Predicate::everywhere(),
            program: load.to_vec(),
        }],
    );
    let line = Line { axis: Axis::X, len: width, per_cell: false, extent: width };
    let colors = palette::row_tree();
    let at = match kernel {
        // One PE has nobody to talk to: the result is what it loaded.
        _ if width == 1 => 0,
        Kernel::Broadcast => {
            broadcast(&mut b, data, width);
            width - 1
        }
        _ => {
            let one_sided =
                |group| Tree { offset: 0, root_group: 0, ..Tree::with_group(line, group, colors) };
            let tree = match kernel {
                Kernel::Chain => one_sided(width),
                Kernel::TwoPhase => one_sided(even_root(width)),
                _ => Tree::best(line, colors, n, target),
            };
            let reach = if kernel == Kernel::Allreduce { Reach::All } else { Reach::Root };
            let message = Message { data: data.all(), combine: Combine::Add };
            let columns = Columns { used: width, width };
            b.reduce_phase(kernel.name(), &[], (&tree, message, reach), columns);
            b.routes(tree.routes());
            if reach == Reach::All { width - 1 } else { tree.root() }
        }
    };
    let mut program = b.finish();
    for weight in &mut program.weights {
        weight.inline = Some(values(n * width));
    }
    let predicate = Predicate::everywhere().and_x(Clause::range(at, at + 1));
    let predicate = predicate.and_y(Clause::range(0, 1));
    let start = Affine::constant(0);
    let region = RegionId(0);
    let logits = LogitsOutput { region, predicate, buffer: data.buffer, start, len: n };
    Built { program, logits, results: n }
}

/// The even number nearest to sqrt(p), at least 2.
fn even_root(p: u32) -> u32 {
    (p.isqrt().div_ceil(2) * 2).clamp(2, p.max(2))
}

fn broadcast(b: &mut TemplateBuilder, data: Vector, width: u32) {
    let wire = WireFormat::F32;
    let color = palette::STREAM_OUT;
    let route = |from, to, input, outputs: &[Port]| Route {
        color,
        predicate: Predicate::everywhere().and_x(Clause::range(from, to)),
        input,
        outputs: Ports::of(outputs),
    };
    let at = |from, to| Predicate::everywhere().and_x(Clause::range(from, to));
    let send = Instr::Send { color, src: data.all(), wire };
    let recv = Instr::Recv { color, dst: data.all(), combine: Combine::Store, wire };
    let role = |name: &str, predicate, program| Role { name: name.into(), predicate, program };
    b.routes(vec![
        route(0, 1, Port::Ramp, &[Port::East]),
        route(width - 1, width, Port::West, &[Port::Ramp]),
    ]);
    if width > 2 {
        b.routes(vec![route(1, width - 1, Port::West, &[Port::Ramp, Port::East])]);
    }
    let comm =
        plan::CommShape { kind: "multicast x".into(), serial: data.len, hops: width - 1, depth: 1 };
    let roles = vec![role("root", at(0, 1), vec![send]), role("leaf", at(1, width), vec![recv])];
    b.phase("broadcast", Some(comm), roles);
}
