//! What a plan looks like to people: figures per template and region, taken from the plan alone.
//!
//! Everything here is computed from `plan::Plan`, so it serves plans read from files too. Does not
//! measure: cycles are the plan's claims.

use plan::{BufferRole, Plan};

/// Figures of a plan.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// One per template.
    pub templates: Vec<TemplateReport>,
}

/// Figures of a template.
#[derive(Clone, Debug, PartialEq)]
pub struct TemplateReport {
    /// Its name.
    pub name: String,
    /// SRAM bytes by contributor.
    pub sram: Vec<(BufferRole, u64)>,
}

impl Report {
    /// The report of a plan.
    pub fn new(plan: &Plan) -> Self {
        let templates = plan.templates.iter().map(|t| TemplateReport {
            name: t.name.clone(),
            sram: crate::program::builder::sram_by_role(t),
        });
        Report { templates: templates.collect() }
    }
}
