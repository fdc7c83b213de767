//! `sparkc verify`: proves a plan legal with nothing but the plan.

use anyhow::Result;
use serde_json::{Value, json};

use crate::cli::VerifyArgs;
use crate::driver::plan_file;
use crate::exit::Exit;
use crate::output;
use crate::report::{self, Style, built};

/// Runs it; the exit code says whether the plan is legal.
///
/// # Errors
/// A file that is no plan.
pub fn run(args: &VerifyArgs) -> Result<Exit> {
    let file = plan_file::read(&args.plan)?;
    let plan = &file.plan;
    let violations = match plan::verify::verify(plan) {
        Ok(()) => Vec::new(),
        Err(violations) => violations,
    };
    if args.json {
        let list: Vec<Value> = violations.iter().map(|v| json!(v.to_string())).collect();
        output::print_json(&json!({
            "legal": violations.is_empty(),
            "violations": list,
            "digest": plan::codec::digest(plan),
        }))?;
    } else if violations.is_empty() {
        let colored = report::stdout_colored();
        let legal = Style::Advice.paint("legal", colored);
        output::print(&format!(
            "{legal}: {} regions on {} PEs, {} templates, {} weights\n",
            plan.regions.len(),
            report::grouped(built::pes(plan)),
            plan.templates.len(),
            plan.weights.len()
        ))?;
    } else {
        let list: Vec<String> = violations.iter().map(|v| format!("{v}\n")).collect();
        output::print(&list.concat())?;
        let advice = Style::Advice.paint("try:", report::stderr_colored());
        crate::say(&format!(
            "error: the plan breaks {} rules\n  {advice} compile the model again with this sparkc\n",
            violations.len()
        ));
    }
    Ok(if violations.is_empty() { Exit::Ok } else { Exit::BadInput })
}
