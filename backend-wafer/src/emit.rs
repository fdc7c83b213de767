//! Stage 5: the plan.
//!
//! In: a `Schedule`. Out: `plan::Plan`: templates as scheduled, regions with their colors, every weight
//! of every layer declared once with its copies, streams, outputs and claims. Adds no decision.

use std::collections::BTreeMap;

use plan::{
    Affine, Clause, LogitsOutput, ModelInfo, Orientation, Outputs, Plan, Predicate, Region,
    RegionId, Storage, Target, TemplateId, TokenOutput, WeightData, WeightDecl,
};

use crate::partition::Partition;
use crate::place::{Block, Placed, Shape};
use crate::schedule::Schedule;
use crate::{WaferError, WeightTrouble};

/// The plan of a schedule.
///
/// # Errors
/// When a weight has a dtype that no PE can store.
pub(crate) fn emit(
    partition: &Partition,
    schedule: Schedule,
    target: &Target,
    digest: &str,
) -> Result<Plan, WaferError> {
    let weights = weights(&schedule)?;
    let outputs = outputs(&schedule);
    let layers = partition.runs.iter().map(|r| r.count).sum();
    let model = ModelInfo {
        name: partition.name.clone(),
        digest: digest.to_string(),
        hidden: partition.hidden as u32,
        layers,
        vocab: partition.vocab as u32,
        context: partition.context as u32,
    };
    let regions = regions(&schedule);
    let mut plan = Plan {
        model,
        target: Target { wafers: schedule.routing.placement.wafers, ..target.clone() },
        weights,
        templates: schedule.programs.into_iter().map(|p| p.template).collect(),
        regions,
        repair: None,
        wires: schedule.routing.wires,
        streams: schedule.routing.streams,
        outputs,
        claims: schedule.claims,
    };
    // Known only now: where the argmax stands and which regions the token starts in.
    plan.claims.token_cycles += plan.feedback_cycles();
    Ok(plan)
}

fn region_name(region: &Placed) -> String {
    match (region.block, region.layer) {
        (Block::Embedding, _) => "embedding".into(),
        (Block::Head, _) => "head".into(),
        (Block::Layers { count: 1, .. }, Some(layer)) => format!("layer.{layer}"),
        (Block::Layers { count, .. }, Some(first)) => {
            format!("layers.{first}-{}", first + count - 1)
        }
        (Block::Layers { spec, .. }, None) => format!("block.{spec}"),
    }
}

fn regions(schedule: &Schedule) -> Vec<Region> {
    let placed = &schedule.routing.placement.regions;
    let rows = placed.iter().zip(&schedule.program_of).zip(&schedule.routing.colors);
    rows.map(|((region, &program), colors)| Region {
        name: region_name(region),
        template: TemplateId(program as u32),
        rect: region.rect,
        orientation: Orientation { mirror_x: region.mirrored, mirror_y: false },
        layer: region.layer,
        colors: colors.clone(),
    })
    .collect()
}

fn weights(schedule: &Schedule) -> Result<Vec<WeightDecl>, WaferError> {
    let mut declared: BTreeMap<String, WeightDecl> = BTreeMap::new();
    let placed = &schedule.routing.placement.regions;
    for (region, &program) in placed.iter().zip(&schedule.program_of) {
        for pinned in &schedule.programs[program].weights {
            let name = Plan::weight_name(&pinned.weight.name, region.layer);
            if let Some(known) = declared.get_mut(&name) {
                known.copies += pinned.copies;
                continue;
            }
            let storage = Storage::from_dtype(pinned.weight.dtype).ok_or_else(|| {
                let trouble = WeightTrouble::Storage(pinned.weight.dtype);
                WaferError::Weight { weight: name.clone(), trouble }
            })?;
            let decl = WeightDecl {
                name: name.clone(),
                shape: pinned.weight.shape.iter().map(|&n| n as u32).collect(),
                storage,
                digest: None,
                copies: pinned.copies,
                data: match &pinned.inline {
                    Some(values) => WeightData::Inline(values.clone()),
                    None => WeightData::Model,
                },
            };
            declared.insert(name, decl);
        }
    }
    Ok(declared.into_values().collect())
}

fn outputs(schedule: &Schedule) -> Outputs {
    let regions = &schedule.routing.placement.regions;
    let region = RegionId(regions.len() as u32 - 1);
    let tile = match regions.last().map(|head| head.shape) {
        Some(Shape::Table(shape)) => shape.vocab_tile,
        _ => 0,
    };
    let head = schedule.head;
    let logits = LogitsOutput {
        region,
        predicate: Predicate::everywhere().and_y(Clause::range(head.row, head.row + 1)),
        buffer: head.logits,
        start: Affine::of_x(0, i64::from(tile), (1, 1)),
        len: tile,
    };
    let token =
        TokenOutput { region, position: (head.column, head.row), buffer: head.best, element: 1 };
    Outputs { logits: vec![logits], token: Some(token) }
}
