//! What every map promises: same bytes every time, well-formed, nothing from outside, names inert.

use plan::samples::{Collective, LanguageModel, language_model, line};
use plan::{Bend, Detour, Plan, PlanMap, Point, Port, Repair, Spares, Target};
use serde_json::json;

use super::{compare, data, escape, html, png, svg, terminal};

const HOSTILE: &str = "</script><img src=x onerror=alert(1)>\"'&\u{1b}[31m<!--";

fn tiny() -> Target {
    Target::preset("tiny").expect("preset")
}

fn samples() -> Vec<Plan> {
    vec![
        language_model(LanguageModel::RAGGED, tiny()),
        language_model(LanguageModel { gap: 0, mirrored: true, ..LanguageModel::RAGGED }, tiny()),
        line(Collective::TwoPhase(3), plan::Axis::Y, 12, 4, tiny()),
    ]
}

/// A plan with a hostile string wherever a plan has a name.
fn hostile() -> Plan {
    let mut plan = language_model(LanguageModel::RAGGED, tiny());
    let bad = || HOSTILE.to_string();
    plan.model.name = bad();
    plan.model.digest = bad();
    plan.target.name = bad();
    plan.weights.iter_mut().for_each(|w| w.name = bad());
    plan.regions.iter_mut().for_each(|r| r.name = bad());
    plan.streams.iter_mut().for_each(|s| s.name = bad());
    for template in &mut plan.templates {
        template.name = bad();
        template.weights.iter_mut().for_each(|w| w.name = bad());
        template.buffers.iter_mut().for_each(|b| b.name = bad());
        for phase in &mut template.phases {
            phase.name = bad();
            phase.roles.iter_mut().for_each(|r| r.name = bad());
            phase.comm.iter_mut().for_each(|c| c.kind = bad());
        }
    }
    plan
}

/// The page's JSON.
fn embedded(page: &str) -> serde_json::Value {
    let start = page.find("id=\"plan\">").expect("data") + "id=\"plan\">".len();
    let end = start + page[start..].find("</script>").expect("end");
    serde_json::from_str(&page[start..end]).expect("JSON")
}

/// Names of the tags that do not close; the text of style and script elements is skipped.
fn unbalanced(markup: &str) -> Vec<String> {
    const VOID: [&str; 4] = ["meta", "input", "!doctype", "br"];
    let (mut open, mut bad, mut rest) = (Vec::new(), Vec::new(), markup);
    while let Some(at) = rest.find('<') {
        let end = at + rest[at..].find('>').expect("a tag ends");
        let tag = &rest[at + 1..end];
        rest = &rest[end + 1..];
        let name = tag.trim_start_matches('/').split([' ', '/', '\n']).next().unwrap_or_default();
        if tag.starts_with('/') {
            if open.pop() != Some(name) {
                bad.push(name.to_string());
            }
        } else if !tag.ends_with('/') && !VOID.contains(&name) {
            open.push(name);
            if name == "script" || name == "style" {
                let close = format!("</{name}>");
                rest = &rest[rest.find(&close).expect("closes")..];
            }
        }
    }
    bad.extend(open.into_iter().map(str::to_string));
    bad
}

#[test]
fn maps_are_deterministic_and_well_formed() {
    for plan in samples().into_iter().chain([hostile()]) {
        let (page, picture) = (html(&plan), svg(&plan));
        assert_eq!(page, html(&plan));
        assert_eq!(picture, svg(&plan));
        assert_eq!(terminal(&plan, 90, true), terminal(&plan, 90, true));
        assert_eq!(unbalanced(&page), [""; 0]);
        assert_eq!(unbalanced(&picture), [""; 0]);
        assert!(!page.contains("<!--STYLE") && !page.contains("<!--SCRIPT"));
        assert_eq!(embedded(&page), data::data(&plan));
    }
}

#[test]
fn maps_load_nothing() {
    for plan in samples() {
        let page = html(&plan);
        for outside in ["http:", "https:", "src=", "url(", "@import", "import(", "fetch(", "href"] {
            assert!(!page.contains(outside), "{outside}");
        }
        assert!(page.contains("default-src 'none'"));
        // The name space is a name; the marker is in the same file.
        let picture = svg(&plan).replace("xmlns=\"http://www.w3.org/2000/svg\"", "");
        for outside in ["http", "href", "<image", "<script", "<style"] {
            assert!(!picture.contains(outside), "{outside}");
        }
    }
}

#[test]
fn two_plans_are_one_page_that_holds_both() {
    for (a, b) in [(&samples()[0], &samples()[1]), (&hostile(), &samples()[2])] {
        let page = compare(a, b);
        assert_eq!(unbalanced(&page), [""; 0]);
        assert_eq!(page.matches("<img").count() + page.matches("</script").count(), 1);
        assert!(page.contains("default-src 'none'") && !page.contains("<!--FIRST"));
        let start = page.find("const pages = ").expect("pages") + "const pages = ".len();
        let end = start + page[start..].find(";\n").expect("end");
        let pages: Vec<String> = serde_json::from_str(&page[start..end]).expect("JSON");
        assert_eq!(pages, [html(a), html(b)]);
    }
}

#[test]
fn names_are_text_and_nothing_else() {
    let plan = hostile();
    let page = html(&plan);
    assert_eq!(page.matches("<img").count(), 0);
    assert_eq!(page.matches("</script").count(), html(&samples()[0]).matches("</script").count());
    assert_eq!(embedded(&page)["regions"][0]["name"], HOSTILE);
    let picture = svg(&plan);
    assert!(!picture.contains("<img") && picture.contains("&lt;img"));
    assert!(!picture.contains('\u{1b}'));
    let text = terminal(&plan, 80, false);
    assert!(!text.contains('\u{1b}'), "a name reached the terminal uncleaned");
    assert_eq!(escape("<a b=\"c\">'&\n"), "&lt;a b=&quot;c&quot;&gt;&#39;&amp; ");
}

/// Evaluates a predicate of the page's data as the page does, with the plan's own as reference.
#[test]
fn the_data_says_of_every_tile_what_the_plan_says() {
    for plan in samples() {
        let data = data::data(&plan);
        let map = PlanMap::new(&plan);
        for region in &plan.regions {
            let template = &data["templates"][region.template.0 as usize];
            let (x, y) = (region.rect.x + region.rect.w - 1, region.rect.y);
            let tile = map.tile(Point { x, y }).expect("in a region");
            let rows = template["phases"].as_array().expect("phases");
            for (phase, program) in rows.iter().zip(&tile.programs) {
                assert_eq!(phase["name"], program.phase);
                let mut roles = phase["roles"].as_array().expect("roles").iter();
                let role = roles.find(|r| holds(template, &r["p"], tile.position));
                let role = role.expect("a role covers every tile");
                assert_eq!(role["name"], program.role);
                let index = role["program"].as_u64().expect("index") as usize;
                let lines = template["programs"][index].as_array().expect("lines").len();
                assert_eq!(lines, program.program.len());
            }
            let pins = template["pins"].as_array().expect("pins").iter();
            let here = pins.filter(|p| holds(template, &p["p"], tile.position)).count();
            assert_eq!(here, tile.pins.len());
        }
    }
}

fn holds(template: &serde_json::Value, index: &serde_json::Value, (x, y): (u32, u32)) -> bool {
    let predicate = &template["predicates"][index.as_u64().expect("index") as usize];
    let passes = |axis: &str, p: u64| {
        predicate[axis].as_array().expect("clauses").iter().all(|clause| {
            let [kind, m, n, from, to] =
                [0, 1, 2, 3, 4].map(|i| clause[i].as_u64().expect("number"));
            let v = [p, p % m, p / m, (p % m) % n, (p / m) % n][kind as usize];
            if from <= to { (from..to).contains(&v) } else { !(to..from).contains(&v) }
        })
    };
    passes("x", u64::from(x)) && passes("y", u64::from(y))
}

/// A row of 6 PEs on a wafer of 7 columns and 3 rows whose PE (3, 0) is dead.
fn repaired() -> Plan {
    let mut target = tiny();
    (target.width, target.height) = (6, 3);
    let mut plan = line(Collective::Chain, plan::Axis::X, 6, 4, target);
    let steps = vec![Port::South, Port::East, Port::East, Port::North];
    let wafers = vec![Spares { first: vec![3], bends: vec![Bend { row: 1, spare: 0, column: 6 }] }];
    plan.repair = Some(Repair {
        width: 7,
        spare_lanes: 1,
        dead: vec![(3, 0)],
        wafers,
        detours: vec![Detour { at: Point { x: 2, y: 0 }, axis: plan::Axis::X, steps }],
    });
    plan
}

#[test]
fn a_repaired_wafer_shows_what_is_skipped_and_where_links_go() {
    let plan = repaired();
    let data = &embedded(&html(&plan))["repair"];
    assert_eq!((&data["dead"], &data["w"]), (&json!([[3, 0]]), &json!(7)));
    assert_eq!(data["wafers"], json!([{ "first": [3], "bends": [[1, 0, 6]] }]));
    assert_eq!(data["detours"], json!([[2, 0, 0, 4]]));
    let text = terminal(&plan, 60, false);
    let said = "1 dead PEs replaced by 1 spare columns of 7 a wafer; 1 links take detours, the longest of 4 hops";
    assert!(text.contains(said) && text.contains('×'), "{text}");
    let mut whole = plan.clone();
    whole.repair = None;
    assert_ne!(png(&plan), png(&whole), "dead PEs are marked");
    assert!(embedded(&html(&whole))["repair"].is_null());
    // Nonsense is drawn too.
    let repair = whole.repair.insert(plan.repair.expect("repaired"));
    (repair.width, repair.dead[0]) = (0, (u32::MAX, u32::MAX));
    repair.wafers.clear();
    assert!(terminal(&whole, 60, true).contains("dead PEs") && png(&whole).starts_with(b"\x89PNG"));
}

#[test]
fn a_bad_plan_is_drawn_without_a_panic() {
    let mut plan = samples().remove(0);
    plan.regions[0].template.0 = 99;
    plan.regions[1].rect.x = u32::MAX - 1;
    plan.streams[0].to.0 = 77;
    plan.outputs.logits[0].region.0 = 55;
    assert_eq!(unbalanced(&svg(&plan)), [""; 0]);
    plan.outputs.token.as_mut().expect("token").position = (u32::MAX, 7);
    plan.templates[1].pins[0].buffer.0 = 1000;
    plan.templates[1].phases[0].roles[0].predicate.x =
        vec![plan::Clause::eq(plan::Term::Rem(0), 1)];
    assert_eq!(unbalanced(&html(&plan)), [""; 0]);
    assert_eq!(unbalanced(&svg(&plan)), [""; 0]);
    assert!(terminal(&plan, 0, true).contains("regions"));
    assert!(png(&plan).starts_with(b"\x89PNG"));
    plan.regions.clear();
    plan.templates.clear();
    plan.target.width = 0;
    assert_eq!(unbalanced(&html(&plan)), [""; 0]);
    assert_eq!(unbalanced(&svg(&plan)), [""; 0]);
    assert!(terminal(&plan, usize::MAX, false).contains("0 regions"));
}

#[test]
fn the_terminal_shows_boxes_arrows_and_sram() {
    let plan = language_model(LanguageModel { gap: 1, ..LanguageModel::RAGGED }, tiny());
    let expected = "\
sample on tiny
1 layer, context 24, 24 of 256 PEs (9.4 %), no speed claimed

┌──────────────┐····┌──────────────┐
│              │····│              │
│  embedding   │····→     head     │
│              │····│              │
│              │····│              │
└──────────────┘····└──────────────┘
columns 0 to 8, rows 0 to 2 of 16 x 16 PEs

2 regions, in the order of the activation
  embedding            4 x 3 PEs at 0, 0        embedding
  head                 4 x 3 PEs at 5, 0        head

SRAM per PE, of 40.0 KiB usable
  embedding      ░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░     144 B   0 %  weights 128 B, activation 16 B
  head           █░░░░░░░░░░░░░░░░░░░░░░░░░░░░░     688 B   2 %  weights 272 B, KV cache 256 B, activation 108 B, scratch 52 B
";
    assert_eq!(terminal(&plan, 36, false), expected);
}
