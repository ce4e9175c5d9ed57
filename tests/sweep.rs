//! The sweep over kernels' variants, without a GPU: every variant is launched on the emulator and compared with the planner's
//! kernel, as `benches/sweep.rs` does on a card; and rankings are made from made-up times.

#[allow(dead_code, reason = "the benches use the rest")]
#[path = "../benches/common"]
mod common {
    pub mod matrices;
    pub mod sweep;
}

use common::matrices::Addresses;
use common::sweep::check::{fill_with_whole_numbers, outcome};
use common::sweep::launch::{Candidate, Output, candidates};
use common::sweep::ranking::{Contest, Entry, Verdict, document, standings};
use common::sweep::steps::{USES, Use};
use common::sweep::table::{compiled, variants_of};
use lora_emulator::{Emulator, KernelLibrary, available};
use lora_kernels::DType;
use lora_kernels::cuda::arguments::products::{BackwardAArguments, BackwardDyArguments, ShrinkArguments};
use lora_kernels::cuda::executor::Executor;
use lora_kernels::cuda::step::Launch;
use lora_measure::Problem;
use serde_json::json;
use std::collections::BTreeSet;

const fn problem(m: usize, k: usize, n: usize, r: usize) -> Problem {
    Problem { m, k, n, r }
}

/// A layer that is nowhere.
fn layer(problem: Problem) -> Addresses {
    let mut next = 0;
    let place = |_| {
        next += 1;
        Ok::<_, ()>(next << 40)
    };
    Addresses::allocate(problem, DType::Bf16, place).unwrap()
}

/// Where the planner puts the partial sums.
fn slabs_of(launch: &Launch) -> u64 {
    let arguments = launch.arguments.as_slice();
    match launch.kernel.operation() {
        "shrink" => bytemuck::pod_read_unaligned::<ShrinkArguments>(arguments).slabs,
        "backward_a" => bytemuck::pod_read_unaligned::<BackwardAArguments>(arguments).slabs,
        "backward_dy" => bytemuck::pod_read_unaligned::<BackwardDyArguments>(arguments).ds_slabs,
        _ => 0,
    }
}

#[test]
fn the_usual_kernels_first_launch_is_the_planners() {
    let problems = [
        problem(8192, 4096, 4096, 16),
        problem(2048, 4096, 14336, 64),
        problem(16, 4096, 1024, 32),
        problem(1, 100, 70, 3),
        problem(300, 1000, 9000, 100),
    ];
    for problem in problems {
        for used in USES {
            let (_, planned) = used.steps(&layer(problem), 1 << 50).unwrap();
            let variants = variants_of(planned.kernel);
            let found = candidates(&planned, &variants[0], slabs_of(&planned));
            assert_eq!(found[0].launch, planned, "{problem} {used:?}");
            assert!(variants[0].is_usual && found[0].is_planned);
            let planned_ones = variants.iter().flat_map(|variant| candidates(&planned, variant, 0));
            assert_eq!(planned_ones.filter(|candidate| candidate.is_planned).count(), 1);
        }
    }
}

#[test]
fn cuts_cover_the_summed_dimension_once() {
    for used in USES {
        let (_, planned) = used.steps(&layer(problem(2048, 4096, 4096, 16)), 0).unwrap();
        for variant in variants_of(planned.kernel) {
            let mut seen = BTreeSet::new();
            let found = candidates(&planned, &variant, 1 << 20);
            assert!(!found.is_empty(), "{:?}", variant.kernel);
            for candidate in found {
                assert!(seen.insert((candidate.splits, candidate.groups)), "{candidate:?} is there twice");
                let slabs = candidate.outputs.iter().filter_map(|output| match *output {
                    Output::Slabs { count, .. } => Some(count as u32),
                    Output::Matrix { .. } | Output::Updated { .. } => None,
                });
                let expected = match used.operation {
                    "shrink" | "backward_a" => vec![candidate.splits],
                    "backward_dy" => vec![candidate.groups, candidate.splits],
                    _ => vec![],
                };
                assert_eq!(slabs.collect::<Vec<_>>(), expected, "{candidate:?}");
            }
        }
    }
}

/// The planner's launch and its candidates on the emulator, all inputs written.
fn prepare(emulator: &mut Emulator, used: Use, problem: Problem) -> Vec<Candidate> {
    let place = |elements: usize| Ok::<_, ()>(emulator.allocate("matrix", 2 * elements));
    let layer = Addresses::allocate(problem, DType::Bf16, place).unwrap();
    let bytes = used.workspace_bytes(&layer).unwrap();
    let workspace = emulator.workspace(bytes).unwrap();
    let (before, planned) = used.steps(&layer, workspace).unwrap();
    let all = |slabs| {
        let variants = variants_of(planned.kernel);
        variants.iter().flat_map(|variant| candidates(&planned, variant, slabs)).collect::<Vec<_>>()
    };
    let slab_bytes = all(0).iter().map(Candidate::slab_bytes).max().unwrap_or(0);
    let slabs = emulator.allocate("slabs", slab_bytes);
    fill_with_whole_numbers(emulator, &layer).unwrap();
    before.iter().for_each(|step| emulator.run(step).unwrap());
    all(slabs)
}

const FILES: [&str; 5] = ["shrink.cu", "backward_a.cu", "backward_dy.cu", "expand.cu", "weight_update.cu"];

#[test]
fn every_variant_computes_what_the_planners_kernel_computes() {
    let test = "every_variant_computes_what_the_planners_kernel_computes";
    if available(test, KernelLibrary::standard()).is_none() {
        return;
    }
    let library = KernelLibrary::builder().files(FILES).define("LORA_KERNELS_SWEEP").keep_others().build();
    let mut emulator = Emulator::with_library(library.unwrap());
    let mut launched = BTreeSet::new();
    // Aligned rows, and rows that are read element by element.
    for problem in [problem(150, 200, 328, 16), problem(70, 203, 141, 16), problem(140, 136, 200, 64)] {
        for used in USES {
            let all = prepare(&mut emulator, used, problem);
            let right = outcome(&mut emulator, &all[0]).unwrap();
            assert!(right.says_something(), "{problem} {used:?}");
            for candidate in &all {
                let found = outcome(&mut emulator, candidate).unwrap();
                assert_eq!(found.difference(&right), None, "{problem} {used:?}\n{candidate:?}");
                launched.insert(candidate.launch.kernel.symbol());
            }
        }
    }
    let missed: Vec<_> =
        compiled().iter().filter(|variant| !launched.contains(variant.kernel.symbol())).collect();
    assert!(missed.is_empty(), "no problem launches {missed:?}");
}

#[test]
fn a_wrong_launch_is_noticed() {
    let Some(mut emulator) = Emulator::for_test("a_wrong_launch_is_noticed") else { return };
    for used in USES {
        // More than one block of every kernel.
        let all = prepare(&mut emulator, used, problem(150, 200, 600, 16));
        let right = outcome(&mut emulator, &all[0]).unwrap();
        let mut wrong = all[0].clone();
        wrong.launch.grid[0] -= 1;
        let found = outcome(&mut emulator, &wrong).unwrap();
        let difference = found.difference(&right).expect("a block is missing");
        assert!(difference.contains("values differ"), "{used:?}: {difference}");
    }
}

fn entry(kernel: &str, splits: u32, is_planned: bool, verdict: Verdict) -> Entry {
    Entry { kernel: kernel.into(), splits, groups: 1, blocks: 512, slab_bytes: 64, is_planned, verdict }
}

fn right(median: f64) -> Verdict {
    Verdict::Right([median - 1.0, median, median + 1.0])
}

/// Two problems: `wide` wins the first and loses the second, `deep` wins the second by more, `broken` is fastest but wrong
/// once.
fn contests() -> Vec<Contest> {
    let used = USES[1];
    let contest = |problem, entries| Contest { problem, used, bytes: 1_000_000, entries };
    vec![
        contest(
            problem(2048, 4096, 4096, 16),
            vec![
                entry("shrink", 4, true, right(10.0)),
                entry("shrink", 8, false, right(9.0)),
                entry("wide", 4, false, right(8.0)),
                entry("deep", 4, false, right(11.0)),
                entry("deep", 8, false, right(9.5)),
                entry("broken", 4, false, right(1.0)),
                entry("absent", 4, false, Verdict::NotCompiled),
                entry("absent", 8, false, Verdict::NotCompiled),
            ],
        ),
        contest(
            problem(8192, 4096, 4096, 16),
            vec![
                entry("shrink", 4, true, right(40.0)),
                entry("wide", 4, false, right(44.0)),
                entry("deep", 4, false, right(30.0)),
                entry("broken", 4, false, Verdict::Wrong("1 of 3 values differ".into())),
            ],
        ),
    ]
}

#[test]
fn rankings_go_by_the_median_and_leave_out_what_is_wrong() {
    let contests = contests();
    let names: Vec<_> =
        contests[0].ranked().into_iter().map(|(entry, _)| (entry.kernel.clone(), entry.splits)).collect();
    let expected = [("broken", 4), ("wide", 4), ("shrink", 8), ("deep", 8), ("shrink", 4), ("deep", 4)];
    assert_eq!(names, expected.map(|(name, splits)| (name.to_string(), splits)));
    let names: Vec<_> = contests[1].ranked().into_iter().map(|(entry, _)| entry.kernel.clone()).collect();
    assert_eq!(names, ["deep", "shrink", "wide"]);
}

#[test]
fn the_winner_has_the_best_geometric_mean_with_its_best_cuts() {
    let contests = contests();
    let standings = standings(&contests.iter().collect::<Vec<_>>());
    let names: Vec<_> = standings.iter().map(|standing| standing.kernel.as_str()).collect();
    assert_eq!(names, ["deep", "wide", "shrink"]);
    let deep = (0.95f64 * 0.75).sqrt();
    assert!((standings[0].to_planned - deep).abs() < 1e-12, "{}", standings[0].to_planned);
    let cuts = [("2048x4096x4096-r16".to_string(), 8, 1), ("8192x4096x4096-r16".to_string(), 4, 1)];
    assert_eq!((standings[0].problems, standings[0].cuts.as_slice()), (2, cuts.as_slice()));
}

#[test]
fn the_document_holds_rankings_what_was_wrong_and_winners() {
    let document = document(json!({ "device": "made up" }), 1000.0, &contests());
    assert_eq!((&document["device"], &document["copy_gb_per_s"]), (&json!("made up"), &json!(1000.0)));
    let rankings = document["rankings"].as_array().unwrap();
    assert_eq!(rankings.len(), 2);
    // 1 MB in 8 µs is 125 GB/s of 1000.
    let wide = &rankings[0]["variants"][1];
    assert_eq!(
        (&wide["kernel"], &wide["of_copy"], &wide["to_planned"], &wide["microseconds_quartiles"]),
        (&json!("wide"), &json!(0.125), &json!(0.8), &json!([7.0, 9.0]))
    );
    assert_eq!(rankings[0]["not_compiled"], json!(["absent"]));
    assert_eq!(rankings[1]["wrong"][0]["why"], json!("1 of 3 values differ"));
    let winners = document["winners"].as_array().unwrap();
    assert_eq!(winners.len(), 1);
    assert_eq!((&winners[0]["kernel"], &winners[0]["operation"]), (&json!("deep"), &json!("shrink")));
    assert_eq!(winners[0]["cuts"][0], json!({ "problem": "2048x4096x4096-r16", "splits": 8, "groups": 1 }));
}
