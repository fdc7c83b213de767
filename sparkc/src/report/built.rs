//! What `compile` made: as JSON for report.json and `--json`, and as a summary for people.
//!
//! Everything in the JSON is a function of model, target and options: no path, no time. Predicted
//! speeds are the compiler's claims (`plan::Claims`); `sparkc simulate` measures.

use passes::{Cost, PassReport, Report, SearchReport, Tier};
use plan::{BufferRole, Plan};
use runtime::program::Activations;
use serde_json::{Value, json};
use tensor::DType;

use super::table::Table;
use super::{Style, bytes, count, grouped};
use crate::driver::cpu::Executable;
use crate::driver::heldout::Difference;
use crate::driver::wafer::Planned;

/// What was compiled, and what came out.
#[derive(Debug)]
pub struct Built {
    /// Name for people; not part of the JSON, because it comes from the path.
    pub name: String,
    /// Facts about the model.
    pub model: Value,
    /// The options that decide the result.
    pub options: Value,
    /// The executable, when it was asked for.
    pub executable: Option<Executable>,
    /// The plan, when it was asked for, and the bytes of its file.
    pub planned: Option<(Planned, u64)>,
    /// What quantisation of weights costs on held-out text.
    pub quantisation: Option<Difference>,
    /// What short activations cost on top.
    pub short: Option<Difference>,
    /// Files written, with their bytes.
    pub files: Vec<(String, u64)>,
    /// Whether the model has a tokenizer, so that the executable takes text.
    pub takes_text: bool,
    /// Whether it has a chat template too.
    pub talks: bool,
}

impl Built {
    /// The reports of the optimiser, with the target's name.
    fn passes(&self) -> impl Iterator<Item = (&'static str, &Report)> {
        let cpu = self.executable.as_ref().map(|e| ("cpu", &e.passes));
        let wafer = self.planned.as_ref().map(|(p, _)| ("wafer", &p.passes));
        cpu.into_iter().chain(wafer)
    }

    /// The content of report.json.
    pub fn as_json(&self) -> Value {
        let passes: serde_json::Map<String, Value> = self
            .passes()
            .map(|(target, report)| (target.to_string(), passes_json(report)))
            .collect();
        let files: serde_json::Map<String, Value> =
            self.files.iter().map(|(name, n)| (name.clone(), json!({ "bytes": n }))).collect();
        json!({
            "sparkc": env!("CARGO_PKG_VERSION"),
            "model": self.model,
            "options": self.options,
            "cpu": self.executable.as_ref().map(executable_json),
            "wafer": self.planned.as_ref().map(|(planned, n)| wafer_json(&planned.plan, *n)),
            "optimiser": passes,
            "quantisation": self.quantisation_json(),
            "activations": self.activations_json(),
            "files": files,
        })
    }

    fn quantisation_json(&self) -> Option<Value> {
        let (_, report) = self.passes().find(|(_, r)| !r.quantized.is_empty())?;
        let tensors: Vec<Value> = report
            .quantized
            .iter()
            .map(|t| {
                json!({
                    "name": t.name,
                    "from": t.from.name(),
                    "to": t.to.name(),
                    "relative_rms_error": t.relative_rms_error,
                    "skipped": t.skipped,
                })
            })
            .collect();
        Some(json!({ "tensors": tensors, "heldout_loss": self.quantisation.map(cost_json) }))
    }

    /// What products of the executable see of activations, where that is not all.
    fn activations_json(&self) -> Option<Value> {
        let short = self.executable.as_ref()?.activations == Activations::Short;
        short.then(|| json!({ "bits": 8, "heldout_loss": self.short.map(cost_json) }))
    }

    /// The summary for people.
    pub fn render(&self, colored: bool) -> String {
        let mut text = String::new();
        let mut facts = Table::new(&["", ""]);
        let fact = |key: &str| self.model.get(key).cloned().unwrap_or(Value::Null);
        let family = fact("family").as_str().unwrap_or("?").to_string();
        let layers = fact("layers").as_u64().unwrap_or(0);
        let parameters = fact("parameters").as_u64().unwrap_or(0);
        let dtype = fact("dtype").as_str().unwrap_or("?").to_string();
        let context = fact("context").as_u64().unwrap_or(0);
        facts.row([
            "model".to_string(),
            format!("{family}, {layers} layers, {} parameters as {dtype}", count(parameters)),
        ]);
        facts.row(["context".to_string(), format!("{} tokens", grouped(context))]);
        if let Some(executable) = &self.executable {
            executable_rows(executable, &mut facts);
        }
        if let Some((planned, n)) = &self.planned {
            wafer_rows(planned, *n, &mut facts);
        }
        self.optimiser_rows(&mut facts);
        text.push_str(&format!("{}\n", Style::Bold.paint(&self.name, colored)));
        text.push_str(&facts.render(colored));
        text
    }

    fn optimiser_rows(&self, facts: &mut Table) {
        for (target, report) in self.passes() {
            let mut rules: Vec<&str> = report.rewrites.iter().map(|r| r.rule).collect();
            rules.sort_unstable();
            rules.dedup();
            let label = format!("rewrites ({target})");
            let used = if rules.is_empty() { "none".to_string() } else { rules.join(", ") };
            facts.row([label, format!("{used}; {}", saving(report))]);
            if !report.searches.is_empty() {
                facts.row([format!("extraction ({target})"), extractions(&report.searches)]);
            }
        }
        let quantized = self.passes().find(|(_, r)| !r.quantized.is_empty());
        if let Some((_, report)) = quantized {
            let done = report.quantized.iter().filter(|t| t.skipped.is_none());
            let worst = done.clone().filter_map(|t| t.relative_rms_error).max_by(f64::total_cmp);
            let error = worst.map_or("error unknown without weights".to_string(), |worst| {
                format!("relative RMS error at most {:.2} %", 100.0 * worst)
            });
            let left = report.quantized.len() - done.clone().count();
            let text = format!("{} tensors, {left} left as they are; {error}", done.count());
            facts.row(["quantised".to_string(), text]);
        }
        if let Some(cost) = self.quantisation {
            facts.row(["held-out loss".to_string(), cost_text(cost)]);
        }
        if self.executable.as_ref().is_some_and(|e| e.activations == Activations::Short) {
            let text = "8 bits of groups without outliers (--numerics lossy)";
            facts.row(["activations".to_string(), text.to_string()]);
        }
        if let Some(cost) = self.short {
            facts.row(["their loss".to_string(), cost_text(cost)]);
        }
    }
}

fn cost_json(cost: Difference) -> Value {
    let Difference { before, after, logit_error } = cost;
    json!({
        "before": before,
        "after": after,
        "change": after - before,
        "unit": "nats per token",
        "mean_logit_error": logit_error,
    })
}

fn cost_text(cost: Difference) -> String {
    let Difference { before, after, logit_error } = cost;
    let change = after - before;
    let error = 100.0 * logit_error;
    format!("{before:.4} -> {after:.4} nats per token ({change:+.4}), logits off by {error:.2} %")
}

/// What the optimiser gained by its own estimate, and whether anything cheaper exists.
pub fn saving(report: &Report) -> String {
    let (before, after) = report.cost;
    let open = report.searches.iter().filter(|s| s.bound < s.cost.1).count();
    let proven = match open {
        0 => "provably the cheapest that the rewrites lead to".to_string(),
        n => format!("{n} graphs not proven cheapest"),
    };
    if before == Cost::INFINITE {
        return format!("runs on this target only because of them; {proven}");
    }
    let share = after.units() as f64 / (before.units() as f64).max(1.0);
    let gain = match share {
        share if share > 0.9995 => "as fast as before by estimate".to_string(),
        share => format!("{:.0} % less work by estimate", 100.0 * (1.0 - share)),
    };
    format!("{gain}; {proven}")
}

/// Cost, bound and gap of each search, in units of the cost model, and what it may have done to numbers. Graphs of one recipe are searched once.
fn extractions(searches: &[SearchReport]) -> String {
    let mut recipes: Vec<(&SearchReport, Vec<&str>)> = Vec::new();
    for search in searches {
        match recipes.iter_mut().find(|(known, _)| known.recipe == search.recipe) {
            Some((_, graphs)) => graphs.push(&search.graph),
            None => recipes.push((search, vec![&search.graph])),
        }
    }
    let text = |(search, graphs): &(&SearchReport, Vec<&str>)| {
        let cost = search.cost.1;
        let names = match graphs[..] {
            [first, .., last] if graphs.len() > 2 => format!("@{first} to @{last}"),
            _ => graphs.iter().map(|g| format!("@{g}")).collect::<Vec<_>>().join(", "),
        };
        let known = match search.gap() {
            Some(gap) if gap > 0.0 => format!("bound {}, gap {:.2} %", search.bound, 100.0 * gap),
            _ => "bound the same, gap 0".to_string(),
        };
        let bits = match search.tier {
            Tier::Exact => "same bits as written".to_string(),
            tier => format!("{tier} (`sparkc passes bound` says how far)"),
        };
        format!("{names} cost {cost}, {known}, {bits}")
    };
    recipes.iter().map(text).collect::<Vec<_>>().join("; ")
}

fn executable_rows(executable: &Executable, facts: &mut Table) {
    let size = executable.file_bytes.map_or(String::new(), |n| format!("{}, ", bytes(n)));
    let text = format!(
        "{size}{} of packed weights, {} of KV cache per token{}",
        bytes(executable.weight_bytes),
        bytes(cache_bytes_per_token(executable)),
        cache_dtype(executable).map_or(String::new(), |dtype| format!(" ({dtype})")),
    );
    facts.row(["executable".to_string(), text]);
}

fn wafer_rows(planned: &Planned, file_bytes: u64, facts: &mut Table) {
    let plan = &planned.plan;
    let target = &plan.target;
    let used = pes(plan);
    let all = u64::from(target.total_width()) * u64::from(target.height);
    let wafers = match target.wafers {
        1 => String::new(),
        n => format!("{n} x "),
    };
    let text = format!(
        "{wafers}{}: {} regions on {} of {} PEs ({:.1} %), {} plan",
        target.name,
        plan.regions.len(),
        grouped(used),
        grouped(all),
        100.0 * used as f64 / all.max(1) as f64,
        bytes(file_bytes)
    );
    facts.row(["wafer".to_string(), text]);
    if target.wafers > 1 {
        facts.row(["pipeline".to_string(), pipeline(plan)]);
    }
    if target.wafers > 1 && planned.fewest {
        facts.row(["wafers".to_string(), why_wafers(plan)]);
    }
    let speed = Speed::of(plan);
    let text = format!(
        "{} tokens/s decode ({} cycles), {} tokens/s prefill, with a full context, by the \
         compiler's model",
        grouped(speed.decode as u64),
        grouped(plan.claims.token_cycles),
        grouped(speed.prefill as u64)
    );
    facts.row(["predicted".to_string(), text]);
    if let Some((name, used)) = fullest(plan) {
        let usable = u64::from(target.usable_sram());
        let share = 100.0 * used as f64 / usable.max(1) as f64;
        let text = format!(
            "{} of {} on the fullest PE ({share:.0} %, in {name})",
            bytes(used),
            bytes(usable)
        );
        facts.row(["SRAM".to_string(), text]);
    }
    let resident = plan.templates.iter().filter_map(|t| Some(t.kv?.requests)).min();
    let layers = plan.regions.iter().filter(|r| r.layer.is_some()).count();
    if planned.requests.is_none() && resident == Some(1) && layers > MANY_REGIONS {
        let text = format!(
            "1 of the whole context at a time, in one of {layers} regions at any moment; --requests 1 \
             gives it larger regions and a shorter token"
        );
        facts.row(["requests".to_string(), text]);
    }
}

/// Why a plan does not work on as many requests at once as it was asked to; `None` when it does.
pub fn unmet_requests(planned: &Planned) -> Option<String> {
    let asked = planned.requests?;
    let plan = &planned.plan;
    let regions = plan.regions.len();
    let resident = plan.templates.iter().filter_map(|t| Some(t.kv?.requests)).min();
    let mut why = Vec::new();
    if (regions as u64) < u64::from(asked) {
        why.push(format!("one is in each of {regions} regions, and a layer is never split"));
    }
    if let Some(resident) = resident.filter(|&n| n < asked) {
        let context = grouped(u64::from(plan.model.context));
        why.push(format!("caches hold {resident} of the whole context of {context} tokens"));
    }
    let why = (!why.is_empty()).then(|| why.join("; "))?;
    Some(format!(
        "not all of {asked} requests are worked on at once: {why}. `sparkc simulate DIR --requests \
         {asked}` says what that means"
    ))
}

/// A token visits at least so many regions before larger ones are worth a hint.
const MANY_REGIONS: usize = 8;

/// Why a plan has several wafers when nobody asked for them: what the regions keep.
fn why_wafers(plan: &Plan) -> String {
    let kept = |role: plan::BufferRole| -> u64 {
        let of = |r: &plan::Region| {
            let buffers = plan.template_of(r).into_iter().flat_map(|t| &t.buffers);
            let each = buffers.filter(|b| b.role == role).map(|b| u64::from(b.bytes)).sum::<u64>();
            // One request decides how many wafers; others take what is left.
            let requests = plan.template_of(r).and_then(|t| Some(t.kv?.requests)).unwrap_or(1);
            let shares = if role == plan::BufferRole::KvCache { requests.max(1) } else { 1 };
            each.saturating_mul(r.rect.area()) / u64::from(shares)
        };
        plan.regions.iter().map(of).fold(0, u64::saturating_add)
    };
    let target = &plan.target;
    let pes = u64::from(target.width) * u64::from(target.height);
    format!(
        "{}, the fewest that hold {} of weights and {} of KV cache as they lie on the PEs, and what PEs \
         work with; one has {}. A smaller --context or --quant q8 needs less",
        target.wafers,
        bytes(kept(plan::BufferRole::Weights)),
        bytes(kept(plan::BufferRole::KvCache)),
        bytes(pes * u64::from(target.usable_sram())),
    )
}

/// Which layers each wafer holds, and what the links between them cost.
fn pipeline(plan: &Plan) -> String {
    let target = &plan.target;
    let layers = |wafer: u32| {
        let here = |(_, r): &(usize, &plan::Region)| r.rect.x / target.width == wafer;
        let regions = plan.regions.iter().enumerate().filter(here);
        regions.map(|(i, _)| plan.layers_of(i).len()).sum()
    };
    let counts: Vec<usize> = (0..target.wafers).map(layers).collect();
    let (least, most) = (counts.iter().min(), counts.iter().max());
    let range = match (least, most) {
        (Some(a), Some(b)) if a == b => a.to_string(),
        (Some(a), Some(b)) => format!("{a} to {b}"),
        _ => "no".to_string(),
    };
    let latency = target.seconds(u64::from(target.fabric.wafer_hop_cycles)) * 1e6;
    format!(
        "{} wafers of {range} layers each, {latency:.1} us and {} from one to the next (--wafers N \
         for another number)",
        target.wafers,
        bytes(4 * u64::from(plan.model.hidden))
    )
}

/// PEs of all regions.
pub fn pes(plan: &Plan) -> u64 {
    plan.regions.iter().map(|r| u64::from(r.rect.w) * u64::from(r.rect.h)).sum()
}

/// Predicted tokens per second.
#[derive(Clone, Copy, Debug)]
pub struct Speed {
    /// One sequence, token after token.
    pub decode: f64,
    /// Tokens of a prompt, pipelined through the regions.
    pub prefill: f64,
}

impl Speed {
    /// What the plan claims.
    pub fn of(plan: &Plan) -> Self {
        let per_second = |cycles: u64| 1.0 / plan.target.seconds(cycles.max(1));
        Speed {
            decode: per_second(plan.claims.token_cycles),
            prefill: per_second(plan.claims.prefill_interval_cycles),
        }
    }
}

/// Claimed SRAM bytes of a template by contributor.
pub fn sram(plan: &Plan, template: usize) -> Vec<(BufferRole, u64)> {
    let of_template = plan.claims.sram.iter().filter(|c| c.template.0 as usize == template);
    of_template.map(|c| (c.role, c.bytes)).collect()
}

/// The template with the most SRAM used, and how much.
fn fullest(plan: &Plan) -> Option<(&str, u64)> {
    let total = |i: usize| sram(plan, i).iter().map(|&(_, n)| n).sum::<u64>();
    let all = plan.templates.iter().enumerate().map(|(i, t)| (t.name.as_str(), total(i)));
    all.max_by_key(|&(_, n)| n)
}

fn cache_bytes_per_token(executable: &Executable) -> u64 {
    executable.caches.iter().map(|c| c.bytes_per_token()).sum()
}

fn cache_dtype(executable: &Executable) -> Option<DType> {
    executable.caches.first().map(|c| c.dtype)
}

fn executable_json(executable: &Executable) -> Value {
    json!({
        "file_bytes": executable.file_bytes,
        "weight_bytes": executable.weight_bytes,
        "kv_cache_bytes_per_token": cache_bytes_per_token(executable),
        "kv_cache_dtype": cache_dtype(executable).map(|dtype| dtype.to_string()),
    })
}

/// What report.json says of a plan whose file has so many bytes.
pub fn wafer_json(plan: &Plan, file_bytes: u64) -> Value {
    let speed = Speed::of(plan);
    let templates: Vec<Value> = plan
        .templates
        .iter()
        .enumerate()
        .map(|(i, template)| {
            let sram: serde_json::Map<String, Value> = sram(plan, i)
                .into_iter()
                .map(|(role, n)| (format!("{role:?}").to_lowercase(), json!(n)))
                .collect();
            let phases = plan.claims.phases.iter().filter(|p| p.template.0 as usize == i);
            let (compute, communication) = phases.fold((0u64, 0u64), |(a, b), p| {
                (a.saturating_add(p.compute_cycles), b.saturating_add(p.comm_cycles))
            });
            json!({
                "name": template.name,
                "width": template.width,
                "height": template.height,
                "phases": template.phases.len(),
                "sram_bytes_per_pe": sram,
                "compute_cycles": compute,
                "communication_cycles": communication,
                "bounds": bounds_json(plan, Some(plan::TemplateId(i as u32))),
            })
        })
        .collect();
    let bounds = bounds_json(plan, None);
    json!({
        "target": plan.target.name,
        "wafers": plan.target.wafers,
        "plan_bytes": file_bytes,
        "plan_digest": plan::codec::digest(plan),
        "regions": plan.regions.len(),
        "pes": pes(plan),
        "at_position": plan.claims.at_pos,
        "token_cycles": plan.claims.token_cycles,
        "prefill_interval_cycles": plan.claims.prefill_interval_cycles,
        "tokens_per_second": speed.decode,
        "prefill_tokens_per_second": speed.prefill,
        "bounds_cycles": bounds,
        "templates": templates,
    })
}

/// Lower bounds of a template or a token, and the claim over the largest.
fn bounds_json(plan: &Plan, template: Option<plan::TemplateId>) -> Value {
    let of = plan.claims.bounds.iter().filter(|b| b.template == template);
    let mut map: serde_json::Map<String, Value> =
        of.map(|b| (b.name.clone(), json!(b.value))).collect();
    let claim = match template {
        Some(id) => plan.claims.template_cycles(id),
        None => plan.claims.token_cycles,
    };
    if let Some(bound) = plan.claims.bound(template, "critical path").filter(|&b| b > 0) {
        map.insert("gap".to_string(), json!(claim as f64 / bound as f64));
    }
    Value::Object(map)
}

/// What each pass did; without times.
pub fn pass_list_json(report: &Report) -> Vec<Value> {
    let of = |pass: &PassReport| {
        let warnings: Vec<Value> =
            pass.warnings.iter().map(|w| json!({ "code": w.code, "text": w.text })).collect();
        json!({
            "name": pass.name,
            "changed": pass.changed,
            "nodes_before": pass.nodes.0,
            "nodes_after": pass.nodes.1,
            "warnings": warnings,
        })
    };
    report.passes.iter().map(of).collect()
}

/// The report of the optimiser for one target; without times.
pub fn passes_json(report: &Report) -> Value {
    let passes = pass_list_json(report);
    let rewrites: Vec<Value> = report
        .rewrites
        .iter()
        .map(|r| {
            json!({
                "rule": r.rule,
                "tier": r.tier.name(),
                "why": r.why,
                "graph": r.graph,
                "layers": r.layers,
                "nodes": r.nodes,
                "saved": r.saved,
            })
        })
        .collect();
    let searches: Vec<Value> = report
        .searches
        .iter()
        .map(|s| {
            json!({
                "graph": s.graph,
                "e_nodes": s.size.0,
                "e_classes": s.size.1,
                "iterations": s.iterations,
                "stop": s.stop,
                "cost_before": s.cost.0.units(),
                "cost_after": s.cost.1.units(),
                "cost_bound": s.bound.units(),
                "gap": s.gap(),
                "tier": s.tier.name(),
                "recipe": s.recipe,
            })
        })
        .collect();
    json!({
        "cost_model": report.model,
        "cost_before": report.cost.0.units(),
        "cost_after": report.cost.1.units(),
        "passes": passes,
        "rewrites": rewrites,
        "searches": searches,
    })
}
