//! Two plans side by side as one offline HTML page: both maps, moved and coloured together, and what
//! differs in figures.
//!
//! Each map is the page of [`super::html`] in a frame of its own; the frames tell each other their view,
//! colour mode, search and share of the token's time.

use plan::Plan;

use super::{escape, figures, fill, html};

const PAGE: &str = include_str!("page/compare.html");

/// Maps of two plans as one HTML file without any external resource.
pub fn compare(first: &Plan, second: &Plan) -> String {
    let title = format!("{} and {}", name(first), name(second));
    // A JSON string in a script: nothing in it can end the element without `<`.
    let page =
        |plan: &Plan| serde_json::Value::String(html(plan)).to_string().replace('<', "\\u003c");
    let parts = [
        ("<!--TITLE-->", escape(&title)),
        ("<!--FIGURES-->", table(first, second)),
        ("<!--FIRST-->", page(first)),
        ("<!--SECOND-->", page(second)),
    ];
    fill(PAGE, &parts)
}

fn name(plan: &Plan) -> String {
    format!("{} on {}", plan.model.name, plan.target.name)
}

/// Rows of figures that people compare, with the second as a multiple of the first.
fn table(first: &Plan, second: &Plan) -> String {
    let rate = |p: &Plan| figures::tokens_per_second(p).unwrap_or(0.0);
    let prefill = |p: &Plan| match p.claims.prefill_interval_cycles {
        0 => 0.0,
        cycles => 1.0 / p.target.seconds(cycles),
    };
    let sram = |p: &Plan| {
        let of = |r: &plan::Region| {
            let bytes = p.template_of(r).map_or(0, |t| {
                figures::contributors(t).iter().map(|(_, bytes)| *bytes).sum::<u64>()
            });
            r.rect.area().saturating_mul(bytes)
        };
        p.regions.iter().map(of).fold(0, u64::saturating_add) as f64
    };
    type Figure<'a> = (&'a str, &'a dyn Fn(&Plan) -> f64);
    let rows: [Figure<'_>; 7] = [
        ("tokens/s claimed", &rate),
        ("cycles per token", &|p| p.claims.token_cycles as f64),
        ("tokens/s of prompt", &prefill),
        ("context", &|p| f64::from(p.model.context)),
        ("wafers", &|p| f64::from(p.target.wafers)),
        ("PEs used", &|p| figures::pes_used(p) as f64),
        ("bytes of SRAM", &sram),
    ];
    let cell = |v: f64| figures::grouped(v.round() as u64);
    let row = |(what, of): &Figure<'_>| {
        let (a, b) = (of(first), of(second));
        let times = if a > 0.0 { format!("{:.2}×", b / a) } else { String::new() };
        format!("<tr><th>{what}</th><td>{}</td><td>{}</td><td>{times}</td></tr>", cell(a), cell(b))
    };
    let head = format!(
        "<tr><th></th><th>{}</th><th>{}</th><th></th></tr>",
        escape(&name(first)),
        escape(&name(second))
    );
    head + &rows.iter().map(row).collect::<String>()
}
