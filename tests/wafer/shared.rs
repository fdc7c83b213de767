//! Several layers on the PEs of one region: the same results, every level of time, and no fewer regions
//! than there are requests to work on.

use backend_wafer::partition::partition;
use backend_wafer::place::{Block, Goal, Shape, place};
use backend_wafer::program::{builder::sram_bytes, cost::template_cycles, layer, table};
use backend_wafer::route::stream::{Entry, Exit};
use backend_wafer::{Options, compile};
use simulator::timing::{Level, time};
use tensor::DType;

use crate::decoder::{Decoder, check_with, grid, module};

fn at_once(requests: u32) -> Options {
    Options { requests: Some(requests), ..Options::default() }
}

fn deep() -> Decoder {
    Decoder { layers: 7, ..Decoder::default() }
}

#[test]
fn layers_that_share_a_region_compute_what_eval_says() {
    let odd = Decoder { bias: true, qk_norm: true, window: Some(5), ..deep() };
    let halves = Decoder { dtype: DType::BF16, tied: true, ..deep() };
    let mut shared = 0;
    for decoder in [deep(), odd, halves] {
        for (width, height) in [(24, 16), (40, 12), (13, 30)] {
            let plan = check_with(&decoder, &grid(width, height), 9, &at_once(1));
            shared += usize::from(plan.regions.len() < 9);
            let layers: Vec<u32> =
                (0..plan.regions.len()).flat_map(|i| plan.layers_of(i)).collect();
            assert_eq!(layers, (0..7).collect::<Vec<_>>(), "each layer once, in order");
        }
    }
    assert!(shared >= 6, "{shared} of 9 plans have regions of several layers");
}

#[test]
fn placement_prices_what_programs_of_several_layers_take() {
    let odd = Decoder { bias: true, qk_norm: true, window: Some(5), ..deep() };
    let mut longest = 0;
    for (decoder, (width, height)) in
        [deep(), odd].into_iter().flat_map(|d| [(24, 16), (40, 12)].map(|grid| (d.clone(), grid)))
    {
        let (module, target) = (module(&decoder), grid(width, height));
        let partition = partition(&module, module.context).expect("recognised");
        let goal = Goal { requests: Some(1), ..Goal::default() };
        let placement = place(&partition, &target, goal).expect("fits");
        let last = partition.context as u32 - 1;
        let mut cycles = 0;
        for region in &placement.regions {
            let (program, pos) = match (region.block, region.shape) {
                (Block::Layers { spec, .. }, Shape::Layer(shape)) => {
                    let spec = &partition.layers[spec];
                    longest = longest.max(shape.layers);
                    let io = (Entry::Row, Exit::Row);
                    (layer::layer(spec, shape, io, spec.name.clone(), &target), last)
                }
                (Block::Embedding, Shape::Table(shape)) => {
                    (table::embedding(&partition, shape, Exit::Row, &target), 0)
                }
                (_, Shape::Table(shape)) => {
                    let head = table::head(&partition, shape, Entry::Row, &target);
                    (head.map(|h| h.0), 0)
                }
                other => panic!("{other:?}"),
            };
            let template = program.expect("pins").template;
            assert!(sram_bytes(&template) <= u64::from(target.usable_sram()));
            cycles += template_cycles(&target, &template, pos);
        }
        assert_eq!(cycles, placement.cycles);
    }
    assert!(longest > 2, "{longest} layers in a region at most");
}

#[test]
fn levels_agree_on_layers_that_share_a_region() {
    for (width, height) in [(24, 16), (40, 12)] {
        let (plan, _) =
            compile(&module(&deep()), &grid(width, height), &at_once(1), &|_| {}).expect("fits");
        assert!(plan.regions.len() < 9);
        let at = |level| time(&plan, level, 11).expect("times").token_cycles;
        let exact = at(Level::L3);
        assert_eq!(at(Level::L2), exact);
        for level in [Level::L0, Level::L1] {
            assert!(at(level).abs_diff(exact) * 100 <= exact, "{level:?}");
        }
        let claim = plan.claims.token_cycles;
        assert!(claim.abs_diff(exact) * 10 <= exact, "claimed {claim}, exactly {exact}");
    }
}

#[test]
fn fewer_requests_make_a_token_no_slower() {
    let cycles = |requests| {
        let (plan, _) =
            compile(&module(&deep()), &grid(40, 12), &at_once(requests), &|_| {}).expect("fits");
        assert!(plan.regions.len() >= requests.min(9) as usize);
        plan.claims.token_cycles
    };
    let all: Vec<u64> = [9, 5, 1].map(cycles).to_vec();
    // A faster stage may cost one part in a hundred.
    assert!(all.windows(2).all(|w| w[1] <= w[0] + w[0] / 100), "{all:?}");
    assert!(all[2] < all[0]);
}
