//! Cuts the pipeline into contiguous parts, one per wafer: exact, by dynamic programming.
//!
//! In: the blocks in order, the candidates of one strip height. State: (wafers used, blocks placed,
//! strip in which the next wafer is entered); per state the Pareto front of (cycles of a token, slowest
//! stage). A part costs what its cheapest choice of shapes costs that packs on a wafer; equal parts
//! are priced once. Cuts fall between regions only, so every cut carries one activation vector: the
//! bytes cut do not depend on where. Does not choose the strip height: `place` does.

use std::collections::BTreeMap;
use std::rc::Rc;

use super::candidates::Candidates;
use super::pack::{Floor, Part, pack};
use super::{Block, Choice, Placed, chosen};

/// What a way to place some blocks costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Price {
    /// Cycles of a token through all regions and over all hops between wafers.
    pub(super) cycles: u64,
    /// Cycles of the slowest region.
    pub(super) stage: u64,
    /// PEs of all regions.
    pub(super) area: u64,
}

impl Price {
    /// No worse in any respect; of equally fast ways the smaller.
    fn dominates(self, other: Price) -> bool {
        (self.cycles, self.area) <= (other.cycles, other.area) && self.stage <= other.stage
    }

    fn then(self, other: Price, crossing: u64) -> Price {
        Price {
            cycles: self.cycles + other.cycles + crossing,
            stage: self.stage.max(other.stage),
            area: self.area + other.area,
        }
    }
}

/// A way to place a part: its price, the shapes, and the strip in which it ends.
#[derive(Clone, Debug)]
struct Fit {
    price: Price,
    choice: Rc<Choice>,
    end: u32,
}

/// A way to have placed the first blocks.
#[derive(Clone, Debug)]
struct Step {
    price: Price,
    /// Index of the step before in the state it came from.
    before: usize,
    from: State,
    choice: Rc<Choice>,
}

/// (wafers, blocks, strip of the next wafer).
type State = (u32, usize, u32);

/// What the cut depends on beside the candidates.
pub(super) struct Pipeline<'a> {
    /// All blocks in order.
    pub(super) blocks: &'a [(Block, Option<u32>)],
    /// Strips of a wafer.
    pub(super) floor: Floor,
    /// Cycles between two wafers.
    pub(super) crossing: u64,
    /// At most this many wafers.
    pub(super) wafers: u32,
}

/// All ways worth considering to place a pipeline at one height.
pub(super) struct Cuts<'a> {
    pipeline: Pipeline<'a>,
    steps: BTreeMap<State, Vec<Step>>,
}

impl<'a> Cuts<'a> {
    /// Searches. With `fewest`, stops at the first number of wafers that holds the pipeline.
    pub(super) fn new(pipeline: Pipeline<'a>, candidates: &Candidates, fewest: bool) -> Self {
        let mut parts = Parts { candidates, known: BTreeMap::new() };
        let mut cuts = Cuts { pipeline, steps: BTreeMap::new() };
        let zero = Price { cycles: 0, stage: 0, area: 0 };
        let begin = Step { price: zero, before: 0, from: (0, 0, 0), choice: Rc::default() };
        cuts.steps.insert((0, 0, 0), vec![begin]);
        for wafer in 0..cuts.pipeline.wafers {
            let open: Vec<State> =
                cuts.steps.range((wafer, 0, 0)..(wafer + 1, 0, 0)).map(|(s, _)| *s).collect();
            if open.is_empty() {
                break;
            }
            for state in open {
                cuts.extend(state, &mut parts);
            }
            if fewest && cuts.finals().next().is_some() {
                break;
            }
        }
        cuts
    }

    /// Every way to put one more wafer's part behind a state.
    fn extend(&mut self, state: State, parts: &mut Parts<'_>) {
        let (wafer, begin, start) = state;
        let count = self.pipeline.blocks.len();
        for end in begin + 1..=count {
            let blocks = &self.pipeline.blocks[begin..end];
            let part = Part { blocks, start, first: begin == 0, last: end == count };
            let found = parts.options(self.pipeline.floor, part);
            // A longer part needs more room, unless it is the last, which may end anywhere.
            if found.is_empty() && end + 1 < count {
                if parts.options(self.pipeline.floor, Part { last: true, ..part }).is_empty() {
                    break;
                }
                continue;
            }
            let crossing = if begin == 0 { 0 } else { self.pipeline.crossing };
            let prices: Vec<Price> = self.steps[&state].iter().map(|s| s.price).collect();
            for option in found.iter() {
                for (before, price) in prices.iter().enumerate() {
                    let price = price.then(option.price, crossing);
                    let choice = Rc::clone(&option.choice);
                    let step = Step { price, before, from: state, choice };
                    let next = if part.last { 0 } else { option.end };
                    push_pareto(self.steps.entry((wafer + 1, end, next)).or_default(), step);
                }
            }
        }
    }

    /// The ways to place everything: state, index and price.
    pub(super) fn finals(&self) -> impl Iterator<Item = (State, usize, Price)> {
        let count = self.pipeline.blocks.len();
        let done = self.steps.iter().filter(move |((_, blocks, _), _)| *blocks == count);
        done.flat_map(|(state, steps)| {
            steps.iter().enumerate().map(|(i, step)| (*state, i, step.price))
        })
    }

    /// The regions of one way.
    pub(super) fn regions(&self, (state, index): (State, usize)) -> Vec<Placed> {
        let mut parts = Vec::new();
        let (mut state, mut index) = (state, index);
        while state.0 > 0 {
            let step = &self.steps[&state][index];
            let blocks = &self.pipeline.blocks[step.from.1..state.1];
            let first = step.from.1 == 0;
            let last = state.1 == self.pipeline.blocks.len();
            let part = Part { blocks, start: step.from.2, first, last };
            parts.push((step.from.0, part, step.choice.clone()));
            (state, index) = (step.from, step.before);
        }
        parts.reverse();
        let mut regions = Vec::new();
        for (wafer, part, choice) in parts {
            let (packed, _) = pack(self.pipeline.floor, part, &choice)
                .expect("a step is made only of parts that packed");
            regions.extend(packed.into_iter().map(|mut region| {
                region.wafer = wafer;
                region.rect.x += wafer * self.pipeline.floor.width;
                region
            }));
        }
        regions
    }
}

fn push_pareto(front: &mut Vec<Step>, step: Step) {
    if front.iter().any(|other| other.price.dominates(step.price)) {
        return;
    }
    // Steps that later steps refer to are in earlier states: this one is still being filled.
    front.retain(|other| !step.price.dominates(other.price));
    front.push(step);
}

/// Kinds of the blocks, strip of entry, whether the pipeline begins and ends there.
type PartKey = (Vec<Block>, u32, bool, bool);

/// Prices of parts, each distinct one worked out once.
struct Parts<'a> {
    candidates: &'a Candidates,
    known: BTreeMap<PartKey, Rc<[Fit]>>,
}

impl Parts<'_> {
    fn options(&mut self, floor: Floor, part: Part<'_>) -> Rc<[Fit]> {
        let kinds: Vec<Block> = part.blocks.iter().map(|(b, _)| *b).collect();
        let key = (kinds, part.start, part.first, part.last);
        if let Some(known) = self.known.get(&key) {
            return Rc::clone(known);
        }
        let found: Rc<[Fit]> = self.price(floor, part).into();
        self.known.insert(key, Rc::clone(&found));
        found
    }

    /// The Pareto front over all choices of shapes that pack.
    fn price(&self, floor: Floor, part: Part<'_>) -> Vec<Fit> {
        let mut kinds: Vec<Block> = part.blocks.iter().map(|(b, _)| *b).collect();
        kinds.sort_unstable();
        kinds.dedup();
        let mut front: Vec<Fit> = Vec::new();
        for choice in self.candidates.choices(&kinds) {
            let mut price = Price { cycles: 0, stage: 0, area: 0 };
            for (block, _) in part.blocks {
                let Some(candidate) = chosen(&choice, *block) else { continue };
                price.cycles += candidate.cycles;
                price.stage = price.stage.max(candidate.cycles);
                price.area += u64::from(candidate.shape.width()) * u64::from(floor.height);
            }
            // Wider shapes can end in another strip, which matters to the next wafer only.
            if front.iter().any(|o| o.price.dominates(price) && part.last) {
                continue;
            }
            let Some((_, end)) = pack(floor, part, &choice) else { continue };
            if !front.iter().any(|o| o.end == end && o.price.dominates(price)) {
                front.retain(|o| o.end != end || !price.dominates(o.price));
                front.push(Fit { price, choice: Rc::new(choice), end });
            }
        }
        front
    }
}
