//! `sparkc targets`: the wafers that `--target` knows by name, or one of them as TOML.

use anyhow::Result;
use plan::Target;

use crate::cli::TargetsArgs;
use crate::exit::Fault;
use crate::output;
use crate::report::table::Table;
use crate::report::{self, Style};

/// Runs it.
///
/// # Errors
/// A name that is no preset.
pub fn run(args: &TargetsArgs) -> Result<()> {
    match &args.name {
        Some(name) => show(name, args.json),
        None => list(args.json),
    }
}

fn show(name: &str, json: bool) -> Result<()> {
    let (Some(target), Some(text)) = (Target::preset(name), Target::preset_text(name)) else {
        let known: Vec<&str> = Target::preset_names().collect();
        let fault = Fault::bad_input("SPK5010", format!("`{name}` is no preset"));
        return Err(fault.advise(format!("one of {}", known.join(", "))).into());
    };
    if json { output::print_json(&target) } else { output::print(text) }
}

fn list(json: bool) -> Result<()> {
    let targets: Vec<Target> = Target::preset_names().filter_map(Target::preset).collect();
    if json {
        return output::print_json(&targets);
    }
    let mut table = Table::new(&["name", ">PEs", ">grid", ">SRAM per PE", ">SRAM", ">clock"]);
    for target in &targets {
        let pes = u64::from(target.total_width()) * u64::from(target.height);
        let usable = u64::from(target.usable_sram());
        table.styled(vec![
            (target.name.clone(), Style::Bold),
            (report::grouped(pes), Style::Plain),
            (format!("{}x{}", target.total_width(), target.height), Style::Plain),
            (report::bytes(usable), Style::Plain),
            (report::bytes(usable.saturating_mul(pes)), Style::Plain),
            (format!("{} GHz", target.clock_ghz), Style::Plain),
        ]);
    }
    output::print(&table.render(report::stdout_colored()))
}
