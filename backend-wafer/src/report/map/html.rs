//! The wafer as one offline HTML page: the plan as JSON, and a script that draws it.
//!
//! The page expands a tile as `plan::expand` does, where the pointer is, so its size does not depend
//! on the number of PEs. Its parts are the files under `page/`, joined here into one; it loads nothing
//! (and forbids itself to, by a content security policy).

use plan::Plan;

use super::{data, escape, figures, fill};

const PAGE: &str = include_str!("page/page.html");
const STYLE: &str = include_str!("page/style.css");

/// In the order in which they use each other.
const SCRIPT: [&str; 5] = [
    include_str!("page/expand.js"),
    include_str!("page/color.js"),
    include_str!("page/draw.js"),
    include_str!("page/panel.js"),
    include_str!("page/app.js"),
];

/// The map of `plan` as one HTML file without any external resource.
pub fn html(plan: &Plan) -> String {
    let title = format!("{} on {}", plan.model.name, plan.target.name);
    // Nothing in a script element can end it, or open a comment, without this character.
    let json = data::data(plan).to_string().replace('<', "\\u003c");
    let parts = [
        ("<!--TITLE-->", escape(&title)),
        ("<!--STYLE-->", STYLE.to_string()),
        ("<!--HEADING-->", escape(&title)),
        ("<!--SUMMARY-->", escape(&figures::summary(plan))),
        ("<!--DATA-->", json),
        ("<!--SCRIPT-->", SCRIPT.concat()),
    ];
    fill(PAGE, &parts)
}
