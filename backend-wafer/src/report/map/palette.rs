//! Colours of the maps, which can be told apart with any colour vision.
//!
//! Layers run along viridis (its lightness grows steadily, so it also survives grey print), the ends
//! of the model are greys, contributors of SRAM are Okabe and Ito's. `page/color.js` and
//! `page/style.css` hold the same values for the page.

use plan::{BufferRole, Plan};

/// Red, green, blue.
pub(super) type Rgb = (u8, u8, u8);

const VIRIDIS: [Rgb; 8] = [
    (72, 36, 117),
    (65, 68, 135),
    (53, 95, 141),
    (42, 120, 142),
    (33, 145, 140),
    (53, 183, 121),
    (122, 209, 81),
    (200, 222, 50),
];

/// The colour of every region, in the plan's order.
pub(super) fn region_colors(plan: &Plan) -> Vec<Rgb> {
    let last = plan.regions.iter().filter(|r| r.layer.is_some()).count().saturating_sub(1);
    let mut rank = 0;
    let color = |(i, region): (usize, &plan::Region)| {
        if region.layer.is_none() {
            return if i == 0 { (150, 143, 131) } else { (125, 119, 110) };
        }
        let at = if last == 0 { 0.5 } else { rank as f64 / last as f64 };
        rank += 1;
        viridis(at)
    };
    plan.regions.iter().enumerate().map(color).collect()
}

/// Viridis at 0 (first) to 1 (last).
pub(super) fn viridis(at: f64) -> Rgb {
    let scaled = at.clamp(0.0, 1.0) * (VIRIDIS.len() - 1) as f64;
    let i = (scaled as usize).min(VIRIDIS.len() - 2);
    let (a, b, f) = (VIRIDIS[i], VIRIDIS[i + 1], scaled - i as f64);
    let mix = |a: u8, b: u8| (f64::from(a) + (f64::from(b) - f64::from(a)) * f).round() as u8;
    (mix(a.0, b.0), mix(a.1, b.1), mix(a.2, b.2))
}

/// Black or white, whichever can be read on `background`.
pub(super) fn ink_on((r, g, b): Rgb) -> Rgb {
    // Luma of ITU-R BT.601.
    let luma = 0.299 * f64::from(r) + 0.587 * f64::from(g) + 0.114 * f64::from(b);
    if luma > 135.0 { (20, 23, 26) } else { (255, 255, 255) }
}

/// The colour of a contributor of SRAM.
pub(super) fn contributor_color(role: BufferRole) -> Rgb {
    match role {
        BufferRole::Weights => (0, 114, 178),
        BufferRole::KvCache => (0, 158, 115),
        BufferRole::Activation => (230, 159, 0),
        BufferRole::Receive => (204, 121, 167),
        BufferRole::Scratch => (86, 180, 233),
    }
}

/// The word for a contributor of SRAM.
pub(super) fn contributor_word(role: BufferRole) -> &'static str {
    match role {
        BufferRole::Weights => "weights",
        BufferRole::KvCache => "KV cache",
        BufferRole::Activation => "activation",
        BufferRole::Receive => "receive",
        BufferRole::Scratch => "scratch",
    }
}
