//! Common subexpression elimination: one copy of each pure expression per graph.
//!
//! State is never shared: `cache_append`, `cache_read` and `repeat` stay one node each.

use ir::Module;

use crate::emit::rebuild;
use crate::manager::{Changed, Pass, PassCx};
use crate::{PassError, dce};

/// See the module.
pub(crate) struct Cse;

impl Pass for Cse {
    fn run(&self, module: &mut Module, _cx: &mut PassCx<'_>) -> Result<Changed, PassError> {
        let mut changed = false;
        for graph in module.graphs_mut() {
            let merged =
                rebuild(graph, |emit, node, operands| Ok(emit.copy(graph, node, operands)))?;
            if merged.order().len() != graph.order().len() {
                *graph = dce::without_dead_nodes(&merged);
                changed = true;
            }
        }
        Ok(changed.into())
    }
}

#[cfg(test)]
mod tests {
    use ir::{BinaryOp, Builder, ParamKind, Symbol, TensorType, UnaryOp};
    use tensor::DType;

    use super::*;

    #[test]
    fn equal_expressions_become_one() {
        let mut b = Builder::new("main");
        let x = b.param(ParamKind::Input, TensorType::new(DType::F32, [Symbol::T]), "x");
        let (e1, e2) = (b.unary(UnaryOp::Exp, x).unwrap(), b.unary(UnaryOp::Exp, x).unwrap());
        let sum = b.binary(BinaryOp::Add, e1, e2).unwrap();
        let mut module = Module::new("m", 8, b.finish(vec![sum]));
        let changed = crate::testing::run_pass("cse", &mut module);
        assert!(changed);
        assert_eq!(module.main.order().len(), 2);
        assert!(!crate::testing::run_pass("cse", &mut module));
    }
}
