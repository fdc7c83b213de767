//! One PE: what lies in its SRAM, what passes its router, what it executes.

use anyhow::Result;
use plan::expand::Tile;
use plan::{Plan, Ports};
use serde_json::{Value, json};

use crate::cli::InspectArgs;
use crate::exit::Fault;
use crate::output;
use crate::report::table::Table;
use crate::report::{self, Style};

/// Shows it.
pub(super) fn run(args: &InspectArgs, plan: &Plan, (x, y): (u32, u32)) -> Result<()> {
    let (width, height) = (plan.target.total_width(), plan.target.height);
    if x >= width || y >= height {
        let message = format!("tile ({x}, {y}) is outside of the wafer of {width}x{height}");
        let advice = format!("columns 0 to {}, rows 0 to {}", width - 1, height - 1);
        return Err(Fault::bad_input("SPK5026", message).advise(advice).into());
    }
    let Some(tile) = plan.tile(x, y) else {
        let message = format!("tile ({x}, {y}) is in no region: it holds nothing");
        let advice = "`sparkc inspect` lists the regions";
        return Err(Fault::bad_input("SPK5026", message).advise(advice).into());
    };
    if args.json {
        return output::print_json(&as_json(plan, &tile));
    }
    output::print(&render(plan, &tile, report::stdout_colored()))
}

fn render(plan: &Plan, tile: &Tile<'_>, colored: bool) -> String {
    let region = plan.regions.get(tile.region.0 as usize).map_or("?", |r| &r.name);
    let mut text = format!(
        "{} in region {region}, template {}, position ({}, {})\n\n",
        Style::Bold.paint(&format!("PE ({}, {})", tile.point.x, tile.point.y), colored),
        tile.template.name,
        tile.position.0,
        tile.position.1
    );
    let mut weights = Table::new(&["weight", ">rows", ">columns", "buffer"]);
    for pin in &tile.pins {
        weights.row([
            pin.weight.clone(),
            format!("{}..{}", pin.axis0.0, pin.axis0.1),
            format!("{}..{}", pin.axis1.0, pin.axis1.1),
            pin.buffer.to_string(),
        ]);
    }
    text.push_str(&weights.render(colored));
    let mut buffers = Table::new(&["buffer", "for", "stored as", ">size", ">bytes", ">phases"]);
    for buffer in &tile.template.buffers {
        buffers.row([
            buffer.name.clone(),
            format!("{:?}", buffer.role).to_lowercase(),
            format!("{:?}", buffer.storage).to_lowercase(),
            format!("{}x{}", buffer.rows, buffer.cols),
            buffer.bytes.to_string(),
            format!("{}-{}", buffer.live.0, buffer.live.1),
        ]);
    }
    text.push_str(&format!("\n{}", buffers.render(colored)));
    let mut routes = Table::new(&[">color", "from", "to"]);
    for (color, input, outputs) in &tile.routes {
        routes.row([color.0.to_string(), format!("{input:?}").to_lowercase(), ports(*outputs)]);
    }
    text.push_str(&format!("\n{}", routes.render(colored)));
    let mut programs = Table::new(&["phase", "role", ">instructions"]);
    for program in &tile.programs {
        programs.row([
            program.phase.to_string(),
            program.role.to_string(),
            program.program.len().to_string(),
        ]);
    }
    text.push_str(&format!("\n{}", programs.render(colored)));
    text
}

fn ports(outputs: Ports) -> String {
    let names: Vec<String> = outputs.iter().map(|p| format!("{p:?}").to_lowercase()).collect();
    names.join(", ")
}

fn as_json(plan: &Plan, tile: &Tile<'_>) -> Value {
    let region = plan.regions.get(tile.region.0 as usize).map(|r| r.name.clone());
    let pins: Vec<Value> = tile
        .pins
        .iter()
        .map(|pin| {
            json!({
                "weight": pin.weight,
                "rows": [pin.axis0.0, pin.axis0.1],
                "columns": [pin.axis1.0, pin.axis1.1],
                "transposed": pin.transposed,
                "buffer": pin.buffer,
            })
        })
        .collect();
    let routes: Vec<Value> = tile
        .routes
        .iter()
        .map(|(color, input, outputs)| {
            json!({ "color": color.0, "from": input, "to": outputs.iter().collect::<Vec<_>>() })
        })
        .collect();
    let programs: Vec<Value> = tile
        .programs
        .iter()
        .map(|p| json!({ "phase": p.phase, "role": p.role, "instructions": p.program }))
        .collect();
    json!({
        "x": tile.point.x,
        "y": tile.point.y,
        "region": region,
        "position": tile.position,
        "weights": pins,
        "buffers": tile.template.buffers,
        "routes": routes,
        "programs": programs,
    })
}
