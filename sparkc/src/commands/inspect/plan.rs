//! A plan: its regions, templates and maps.

use anyhow::Result;
use backend_wafer::Report;
use backend_wafer::report::TemplateReport;
use plan::{Plan, Region};
use serde_json::{Value, json};

use super::{bounds, tile};
use crate::cli::{InspectArgs, ModelArgs};
use crate::driver::{self, Ask, plan_file, wafer};
use crate::exit::Fault;
use crate::output;
use crate::report::progress::Progress;
use crate::report::table::Table;
use crate::report::{self, Style, built};

/// Plans a model, then shows the plan.
pub(super) fn run_compiled(args: &InspectArgs) -> Result<()> {
    let (model, weights) = (args.path.clone(), args.weights.clone());
    let model_args = ModelArgs { model, weights, kv_cache: None };
    let model = driver::open(&model_args, args.build.context)?;
    let target = driver::target_of(&args.build)?;
    let planned = Progress::new().stage("plan the wafer", |_| {
        wafer::compile(&model, &args.build, &target, Ask::default(), &|_| {})
    })?;
    run(args, &planned.plan)
}

/// Shows what was asked for; the whole plan when nothing was.
pub(super) fn run(args: &InspectArgs, plan: &Plan) -> Result<()> {
    if let Some(path) = &args.svg {
        output::write_named(path, backend_wafer::report::svg(plan).as_bytes())?;
    }
    if let Some(path) = &args.html {
        let page = match &args.compare {
            Some(other) => backend_wafer::report::compare(plan, &plan_file::read(other)?.plan),
            None => backend_wafer::report::html(plan),
        };
        output::write_named(path, page.as_bytes())?;
    }
    if let Some(path) = &args.png {
        output::write_named(path, &backend_wafer::report::png(plan))?;
    }
    if let Some(at) = args.tile {
        return tile::run(args, plan, at);
    }
    if args.bounds {
        return bounds::run(plan, args.json);
    }
    if let Some(name) = &args.region {
        return show_region(args, plan, name);
    }
    if args.json {
        return output::print_json(&as_json(plan));
    }
    if args.map {
        let columns = std::env::var("COLUMNS").ok().and_then(|c| c.parse().ok()).unwrap_or(100);
        let map = backend_wafer::report::terminal(plan, columns, report::stdout_colored());
        return output::print(&map);
    }
    if args.svg.is_some() || args.html.is_some() || args.png.is_some() {
        return Ok(());
    }
    output::print(&render(plan, report::stdout_colored()))
}

fn render(plan: &Plan, colored: bool) -> String {
    let target = &plan.target;
    let speed = built::Speed::of(plan);
    let mut text = format!(
        "{} on {}: {} regions, {} PEs, {} tokens/s decode by the compiler's model\n",
        Style::Bold.paint(&plan.model.name, colored),
        target.name,
        plan.regions.len(),
        report::grouped(built::pes(plan)),
        report::grouped(speed.decode as u64)
    );
    let mut table = Table::new(&[
        "template",
        ">regions",
        ">size",
        ">phases",
        ">cycles",
        ">SRAM per PE",
        ">colors",
        ">queues",
    ]);
    let figures = Report::new(plan);
    for (i, template) in figures.templates.iter().enumerate() {
        let sram: u64 = template.sram.iter().map(|&(_, n)| n).sum();
        table.row([
            template.name.clone(),
            template.regions.to_string(),
            format!("{}x{}", template.size.0, template.size.1),
            template.phases.len().to_string(),
            report::grouped(figures.cycles(i)),
            report::bytes(sram),
            template.colors.to_string(),
            format!("{} in, {} out", template.input_queues, template.output_queues),
        ]);
    }
    text.push_str(&table.render(colored));
    let mut table = Table::new(&["region", "template", ">at", ">size"]);
    for region in &plan.regions {
        table.row(region_cells(plan, region));
    }
    text.push('\n');
    text.push_str(&table.render(colored));
    text
}

fn region_cells(plan: &Plan, region: &Region) -> [String; 4] {
    let r = region.rect;
    [
        region.name.clone(),
        template_name(plan, region),
        format!("({}, {})", r.x, r.y),
        format!("{}x{}", r.w, r.h),
    ]
}

fn template_name(plan: &Plan, region: &Region) -> String {
    plan.template_of(region).map_or("?", |t| &t.name).to_string()
}

fn show_region(args: &InspectArgs, plan: &Plan, name: &str) -> Result<()> {
    let Some((index, region)) = plan.regions.iter().enumerate().find(|(_, r)| r.name == name)
    else {
        let names: Vec<&str> = plan.regions.iter().take(8).map(|r| r.name.as_str()).collect();
        let fault = Fault::bad_input("SPK5027", format!("the plan has no region `{name}`"));
        return Err(fault.advise(format!("one of {} ...", names.join(", "))).into());
    };
    let figures = Report::new(plan);
    let template = figures.templates.get(region.template.0 as usize);
    if args.json {
        let mut object = region_json(plan, region);
        object["streams"] = streams(plan, index).into_iter().map(|s| json!(s)).collect();
        object["template_figures"] = template.map_or(Value::Null, template_json);
        return output::print_json(&object);
    }
    let colored = report::stdout_colored();
    let r = region.rect;
    let mut text = format!(
        "{}: {} at ({}, {}), {}x{}\n",
        Style::Bold.paint(&region.name, colored),
        template_name(plan, region),
        r.x,
        r.y,
        r.w,
        r.h
    );
    for stream in streams(plan, index) {
        text.push_str(&format!("  {stream}\n"));
    }
    if let Some(template) = template {
        let mut table = Table::new(&["SRAM per PE", ">bytes"]);
        for (role, bytes) in &template.sram {
            table.row([format!("{role:?}").to_lowercase(), bytes.to_string()]);
        }
        text.push_str(&format!("\n{}", table.render(colored)));
        let mut table = Table::new(&["phase", "communication", ">compute", ">wait"]);
        for phase in &template.phases {
            table.row([
                phase.name.clone(),
                phase.kind.clone().unwrap_or_default(),
                phase.compute_cycles.to_string(),
                phase.comm_cycles.to_string(),
            ]);
        }
        text.push_str(&format!("\n{}", table.render(colored)));
    }
    output::print(&text)
}

fn streams(plan: &Plan, region: usize) -> Vec<String> {
    let touches = |s: &&plan::Stream| s.from.0 as usize == region || s.to.0 as usize == region;
    let shown = |s: &plan::Stream| {
        let direction = if s.to.0 as usize == region { "in " } else { "out" };
        format!("{direction} {}: {} elements per token, color {}", s.name, s.elements, s.color.0)
    };
    plan.streams.iter().filter(touches).map(shown).collect()
}

fn region_json(plan: &Plan, region: &Region) -> Value {
    json!({
        "name": region.name,
        "template": template_name(plan, region),
        "layer": region.layer,
        "rect": region.rect,
    })
}

fn template_json(template: &TemplateReport) -> Value {
    let sram: serde_json::Map<String, Value> = template
        .sram
        .iter()
        .map(|(role, n)| (format!("{role:?}").to_lowercase(), json!(n)))
        .collect();
    let phases: Vec<Value> = template
        .phases
        .iter()
        .map(|p| {
            json!({
                "name": p.name,
                "communication": p.kind,
                "compute_cycles": p.compute_cycles,
                "communication_cycles": p.comm_cycles,
            })
        })
        .collect();
    json!({
        "name": template.name,
        "regions": template.regions,
        "width": template.size.0,
        "height": template.size.1,
        "sram_bytes_per_pe": sram,
        "colors": template.colors,
        "input_queues": template.input_queues,
        "output_queues": template.output_queues,
        "phases": phases,
    })
}

fn as_json(plan: &Plan) -> Value {
    let regions: Vec<Value> = plan.regions.iter().map(|r| region_json(plan, r)).collect();
    let templates: Vec<Value> = Report::new(plan).templates.iter().map(template_json).collect();
    json!({
        "kind": "plan",
        "model": plan.model,
        "target": plan.target.name,
        "pes": built::pes(plan),
        "weights": plan.weights.len(),
        "digest": plan::codec::digest(plan),
        "claims": {
            "token_cycles": plan.claims.token_cycles,
            "prefill_interval_cycles": plan.claims.prefill_interval_cycles,
            "tokens_per_second": built::Speed::of(plan).decode,
        },
        "templates": templates,
        "regions": regions,
    })
}
