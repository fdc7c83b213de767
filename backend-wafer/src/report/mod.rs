//! What a plan looks like to people: figures per template, and maps.
//!
//! Everything here is computed from `plan::Plan` alone, so it serves plans read from files too.
//! [`Report`] is data for tables; [`html`], [`compare`], [`svg`], [`png`] and [`terminal`] draw the wafer. Does not
//! measure: cycles are the plan's claims.

pub mod map;

use std::collections::BTreeSet;

use plan::{BufferRole, Plan, Template};

pub use map::{compare, escape, html, png, svg, terminal};

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
    /// Regions that run it.
    pub regions: usize,
    /// Columns and rows.
    pub size: (u32, u32),
    /// SRAM bytes per PE by contributor, at the fullest phase.
    pub sram: Vec<(BufferRole, u64)>,
    /// Colors used.
    pub colors: usize,
    /// Most colors a PE receives on in one phase: input queues bound at a time.
    pub input_queues: usize,
    /// Most colors a PE sends on in one phase.
    pub output_queues: usize,
    /// Phases with their claimed cycles.
    pub phases: Vec<PhaseReport>,
}

/// Figures of a phase.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PhaseReport {
    /// Its name.
    pub name: String,
    /// Kind of its communication.
    pub kind: Option<String>,
    /// Claimed cycles of local instructions.
    pub compute_cycles: u64,
    /// Claimed cycles of communication.
    pub comm_cycles: u64,
}

impl Report {
    /// The report of a plan.
    pub fn new(plan: &Plan) -> Self {
        let of = |(i, template): (usize, &Template)| TemplateReport {
            name: template.name.clone(),
            regions: plan.regions.iter().filter(|r| r.template.0 as usize == i).count(),
            size: (template.width, template.height),
            sram: crate::program::builder::sram_by_role(template),
            colors: template.routes.iter().map(|r| r.color).collect::<BTreeSet<_>>().len(),
            input_queues: most_colors(template, |c| c.input),
            output_queues: most_colors(template, |c| c.output),
            phases: phases(plan, i, template),
        };
        Report { templates: plan.templates.iter().enumerate().map(of).collect() }
    }

    /// Claimed cycles of one template for a token.
    pub fn cycles(&self, template: usize) -> u64 {
        let phases = self.templates.get(template).map(|t| t.phases.as_slice()).unwrap_or_default();
        phases.iter().map(|p| p.compute_cycles + p.comm_cycles).sum()
    }
}

/// The most distinct colors that a role of one phase uses in one direction.
fn most_colors(
    template: &Template,
    side: impl Fn(plan::program::Communication) -> Option<plan::Color>,
) -> usize {
    let roles = template.phases.iter().flat_map(|p| &p.roles);
    let of = |role: &plan::Role| {
        let colors = role.program.iter().filter_map(|i| side(i.communication()?));
        colors.collect::<BTreeSet<_>>().len()
    };
    roles.map(of).max().unwrap_or(0)
}

fn phases(plan: &Plan, index: usize, template: &Template) -> Vec<PhaseReport> {
    let claim = |phase: usize| {
        let of =
            |c: &&plan::PhaseClaim| (c.template.0 as usize, c.phase as usize) == (index, phase);
        plan.claims.phases.iter().find(of)
    };
    let row = |(i, phase): (usize, &plan::Phase)| PhaseReport {
        name: phase.name.clone(),
        kind: phase.comm.as_ref().map(|c| c.kind.clone()),
        compute_cycles: claim(i).map_or(0, |c| c.compute_cycles),
        comm_cycles: claim(i).map_or(0, |c| c.comm_cycles),
    };
    template.phases.iter().enumerate().map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hand_built_plan_is_reported() {
        use plan::samples::{Collective, line};
        let target = plan::Target::preset("tiny").expect("preset");
        let plan = line(Collective::Chain, plan::Axis::X, 6, 4, target);
        let report = Report::new(&plan);
        let [template] = report.templates.as_slice() else { panic!("one template") };
        assert_eq!((template.regions, template.size), (1, (6, 1)));
        assert_eq!((template.colors, template.input_queues, template.output_queues), (2, 1, 1));
        let bytes: u64 = template.sram.iter().map(|(_, bytes)| bytes).sum();
        assert_eq!(bytes, 2 * 4 * 4);
    }
}
