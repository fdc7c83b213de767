//! Outputs: the logits covered exactly once, everything live at the end.

use super::Violation;
use crate::buffer::BufferId;
use crate::expand::Mask;
use crate::plan::{Plan, RegionId};
use crate::template::Template;

pub(super) fn check(plan: &Plan, found: &mut Vec<Violation>) {
    let mut covered: Vec<(u64, u64)> = Vec::new();
    let vocab = u64::from(plan.model.vocab);
    for (i, piece) in plan.outputs.logits.iter().enumerate() {
        let output = format!("logits {i}");
        let result = buffer_of(plan, piece.region, piece.buffer, piece.len.into()).and_then(|t| {
            let mask = Mask::new(&piece.predicate, t.width, t.height);
            for y in 0..t.height {
                for x in (0..t.width).filter(|&x| mask.holds(x, y)) {
                    let start = piece.start.at((x, y), t.cell).and_then(|s| u64::try_from(s).ok());
                    let start = start.ok_or_else(|| format!("starts below zero at ({x}, {y})"))?;
                    let end = start.saturating_add(piece.len.into()).min(vocab);
                    if start < end {
                        covered.push((start, end));
                    }
                }
            }
            Ok(())
        });
        if let Err(what) = result {
            found.push(Violation::Output { output, what });
        }
    }
    if !plan.outputs.logits.is_empty() {
        covered.sort_unstable();
        let mut at = 0;
        for (from, to) in covered.into_iter().chain([(vocab, vocab)]) {
            if from != at {
                let what = format!(
                    "logits {}..{} are {}",
                    from.min(at),
                    from.max(at),
                    if from > at { "missing" } else { "covered twice" }
                );
                found.push(Violation::Output { output: "logits".into(), what });
            }
            at = at.max(to);
        }
    }
    if let Some(token) = plan.outputs.token {
        let needed = u64::from(token.element) + 1;
        let result = buffer_of(plan, token.region, token.buffer, needed).and_then(|t| {
            let (x, y) = token.position;
            if x < t.width && y < t.height {
                Ok(())
            } else {
                Err(format!("position ({x}, {y}) of {} x {}", t.width, t.height))
            }
        });
        if let Err(what) = result {
            found.push(Violation::Output { output: "token".into(), what });
        }
    }
}

/// The template, when the buffer holds `needed` elements and is live at the end.
fn buffer_of(
    plan: &Plan,
    id: RegionId,
    buffer: BufferId,
    needed: u64,
) -> Result<&Template, String> {
    let region =
        plan.regions.get(id.0 as usize).ok_or(format!("region {} does not exist", id.0))?;
    let t = plan.template_of(region).ok_or("the region has no template")?;
    let b = t.buffers.get(buffer.0 as usize);
    let b = b.ok_or(format!("buffer {} does not exist", buffer.0))?;
    if b.elements() < needed {
        return Err(format!("`{}` has {} elements, {needed} are read", b.name, b.elements()));
    }
    if b.live.1 as usize + 1 != t.phases.len() {
        return Err(format!("`{}` is live until phase {} of {}", b.name, b.live.1, t.phases.len()));
    }
    Ok(t)
}
