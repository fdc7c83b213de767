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
    use crate::Tier;
    use crate::testing::{Decoder, assert_same_meaning, run_pass};

    #[test]
    fn equal_expressions_become_one() {
        let mut module = Decoder::default().module();
        let before = module.clone();
        assert!(run_pass("cse", &mut module));
        // The tied embedding is one weight now.
        assert_eq!(module.main.order().len(), before.main.order().len() - 1);
        assert!(!run_pass("cse", &mut module));
        assert_same_meaning(&before, &module, Tier::Exact);
    }
}
