//! The pure parts of the GPU benchmarks, which no GPU is needed to check. Those of the sweep are in sweep.rs.

#[allow(dead_code, reason = "the benches use the rest")]
#[path = "../benches/common"]
mod common {
    pub mod budget;
    pub mod clocks;
    pub mod matrices;
    pub mod products;
    pub mod report;
}

use common::budget::Budget;
use common::clocks;
use common::matrices::Addresses;
use common::products::{self, Padded};
use common::report::Report;
use lora_kernels::cuda::kernel;
use lora_kernels::cuda::plan::{Settings, backward::backward, forward::forward, model, weights};
use lora_kernels::cuda::step::{F32Math, Launch, Operand, Step};
use lora_kernels::cuda::target::Target;
use lora_kernels::memory::{Raw, RawBuffer};
use lora_kernels::ops::{Backward, Output};
use lora_kernels::{Adapter, DType, Forward, Layout, MatrixMut, MatrixRef, WeightUpdate};
use lora_measure::Problem;
use serde_json::{Value, json};

const M: usize = 64;
const K: usize = 256;
const N: usize = 192;
const R: usize = 16;

const SETTINGS: Settings = Settings {
    target: Target { compute_capability: (8, 0), shared_bytes_per_block: 163 << 10 },
    f32_math: F32Math::Exact,
};

fn buffer(address: u64) -> RawBuffer {
    RawBuffer { address: address << 32, len: 1 << 20, dtype: DType::Bf16 }
}

fn read(address: u64, rows: usize, cols: usize) -> MatrixRef<'static, Raw> {
    MatrixRef::from_buffer(buffer(address), Layout::packed(rows, cols).expect("small")).unwrap()
}

fn write(address: u64, rows: usize, cols: usize) -> MatrixMut<'static, Raw> {
    MatrixMut::from_buffer(buffer(address), Layout::packed(rows, cols).expect("small")).unwrap()
}

fn adapter() -> Adapter<'static, Raw> {
    Adapter { a: read(1, R, K).t(), b: read(2, R, N), scale: 1.0 }
}

/// Operation and bytes of every step.
fn traffic_of(steps: &[Step]) -> Vec<(&str, u64)> {
    let traffic = steps.iter().map(|step| {
        let name = match step {
            Step::Launch(launch) => launch.kernel.operation(),
            Step::Product(_) => "product",
            Step::Zero(_) => "zero",
        };
        (name, model::bytes(step, DType::Bf16).expect("all kernels are known"))
    });
    traffic.collect()
}

#[test]
fn the_forwards_traffic_is_x_and_y_and_little_more() {
    let op = Forward {
        x: read(3, M, K),
        w: read(4, K, N),
        adapter: adapter(),
        bias: None,
        dropout: None,
        y: write(5, M, N),
        s: Some(write(6, M, R)),
    };
    let plan = forward(&op.into(), SETTINGS, 0).unwrap();
    // Two of the four tiles of K each: two slabs of S.
    let slabs = 2 * M * R * 4;
    let expected = [
        ("shrink", 2 * (M * K + R * K) + slabs),
        ("finalize", slabs + 2 * M * R),
        ("expand", 2 * (M * R + R * N + M * N)),
        // With β = 1 Y is read, too.
        ("product", 2 * (M * K + K * N + 2 * M * N)),
    ];
    assert_eq!(traffic_of(&plan.steps), expected.map(|(name, bytes)| (name, bytes as u64)));
}

#[test]
fn the_backwards_traffic_counts_all_partial_sums() {
    let op = Backward {
        x: Some(read(3, M, K)),
        w: read(4, K, N),
        adapter: adapter(),
        dropout: None,
        dy: read(5, M, N),
        s: Some(read(6, M, R)),
        dx: Some(Output::overwrite(write(7, M, K))),
        da: Some(Output::accumulate(write(8, R, K).t())),
        db: Some(Output::overwrite(write(9, R, N))),
        dbias: Some(Output::overwrite(write(10, 1, N))),
    };
    let plan = backward(&op.into(), SETTINGS, 0).unwrap();
    // One slab of dS and of dB, two of dbias, one of dA.
    let (ds, db, dbias, da) = (M * R * 4, N * R * 4, 2 * N * 4, K * R * 4);
    let expected = [
        ("backward_dy", 2 * (M * N + R * N + M * R) + ds + db + dbias),
        ("finalize", ds + 2 * M * R),
        ("finalize", db + 2 * N * R),
        ("finalize", dbias + 2 * N),
        ("backward_a", 2 * (M * K + M * R) + da),
        // Accumulated: dA is read, too.
        ("finalize", da + 2 * 2 * K * R),
        ("expand", 2 * (M * R + R * K + M * K)),
        ("product", 2 * (M * N + K * N + 2 * M * K)),
    ];
    assert_eq!(traffic_of(&plan.steps), expected.map(|(name, bytes)| (name, bytes as u64)));
}

#[test]
fn a_merge_reads_and_writes_the_weight_once() {
    let op = WeightUpdate::merge(write(4, K, N), adapter());
    let step = weights::update(&op, None, &weights::UpdateMemory::default(), false).unwrap();
    let expected = 2 * (2 * K * N + K * R + R * N) as u64;
    assert_eq!(traffic_of(&[step]), [("weight_update", expected)]);
}

#[test]
fn packing_reads_and_writes_the_factor_once() {
    // B stored [out, r] is brought into the kernels' layout first.
    let op = Backward {
        x: None,
        w: read(4, K, N),
        adapter: Adapter { b: read(2, N, R).t(), ..adapter() },
        dropout: None,
        dy: read(5, M, N),
        s: None,
        dx: Some(Output::overwrite(write(7, M, K))),
        da: None,
        db: None,
        dbias: None,
    };
    let plan = backward(&op.into(), SETTINGS, 0).unwrap();
    assert_eq!(traffic_of(&plan.steps)[0], ("pack", 2 * 2 * (R * N) as u64));
}

#[test]
fn an_unknown_kernel_has_no_traffic() {
    let launch = Launch::new(kernel::FINGERPRINT, [1; 3], 0, Vec::new());
    assert_eq!(model::bytes(&Step::Launch(launch), DType::F32), None);
}

const PROBLEMS: [Problem; 2] = [Problem { m: 3, k: 8, n: 6, r: 2 }, Problem { m: 1, k: 8, n: 6, r: 2 }];

#[test]
fn a_spent_budget_begins_nothing_and_names_what_is_left() {
    let run = |seconds: Option<f64>| {
        let budget = Budget::new(seconds);
        let mut begun = Vec::new();
        let left = budget.run(&[1, 2, 3], |&item, rest| {
            begun.push((item, rest.to_vec()));
            Ok::<(), ()>(())
        });
        (begun, left.unwrap().to_vec())
    };
    let all = vec![(1, vec![2, 3]), (2, vec![3]), (3, vec![])];
    assert_eq!(run(None), (all.clone(), vec![]));
    assert_eq!(run(Some(1e6)), (all, vec![]));
    assert_eq!(run(Some(0.0)), (vec![], vec![1, 2, 3]));
}

#[test]
fn a_failure_ends_the_run() {
    let mut begun = Vec::new();
    let result = Budget::new(None).run(&[1, 2, 3], |&item, _| {
        begun.push(item);
        if item == 2 { Err("broken") } else { Ok(()) }
    });
    assert_eq!((result, begun), (Err("broken"), vec![1, 2]));
}

#[test]
fn a_report_is_replaced_whole_and_lists_what_is_not_run() {
    let folder = std::env::temp_dir().join(format!("lora-report-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let path = folder.join("kernels.json");
    let report = Report::to(&path);
    let read = || -> Value { serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap() };
    report.write(json!({ "kernels": [] }), &PROBLEMS).unwrap();
    assert_eq!(read(), json!({ "kernels": [], "not_run": ["3x8x6-r2", "1x8x6-r2"] }));
    report.write(json!({ "kernels": [1] }), &PROBLEMS[1..]).unwrap();
    assert_eq!(read(), json!({ "kernels": [1], "not_run": ["1x8x6-r2"] }));
    // Nothing is left aside.
    let files: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(files, ["kernels.json"]);
    std::fs::remove_dir_all(&folder).unwrap();
    let error = report.write(json!({}), &[]).unwrap_err();
    assert!(format!("{error:#}").contains("kernels.json"), "{error:#}");
}

#[test]
fn clocks_are_read_and_what_is_missing_is_null() {
    assert_eq!(
        clocks::parse("1980, 2619, 412.35, 61, 0x0000000000000004\n"),
        json!({
            "sm_mhz": 1980.0, "memory_mhz": 2619.0, "watts": 412.35, "celsius": 61.0,
            "lower_clocks_because": ["sw_power_cap"],
        })
    );
    let nothing = json!({
        "sm_mhz": null, "memory_mhz": null, "watts": null, "celsius": null, "lower_clocks_because": null,
    });
    for line in ["[N/A], [N/A], [N/A], [N/A], [N/A]", "", "No devices were found"] {
        assert_eq!(clocks::parse(line), nothing, "{line}");
    }
    let reasons = clocks::parse("1, 2, 3, 4, 0x0000000000001041")["lower_clocks_because"].clone();
    assert_eq!(reasons, json!(["gpu_idle", "hw_thermal_slowdown", "bit 12"]));
    assert_eq!(clocks::parse("1, 2, 3, 4, 0x0")["lower_clocks_because"], json!([]));
}

#[test]
fn products_over_more_than_k_read_the_padding() {
    let problem = Problem { m: M, k: K, n: N, r: R };
    let mut next = 0;
    let layer = Addresses::allocate::<()>(problem, DType::Bf16, |len| {
        next += 1;
        assert!(len > 0);
        Ok(next << 32)
    });
    let (layer, padded) = (layer.unwrap(), Padded { x: 1 << 60, w: 2 << 60, dy: 3 << 60 });
    let operand = |address, rows: usize, cols: usize, stride: usize, transposed| Operand {
        address,
        rows: rows as u64,
        cols: cols as u64,
        stride: stride as u64,
        transposed,
    };
    for (family, summed, c, beta0, plus_32) in [
        (
            products::forward(&layer, &padded),
            K,
            operand(layer.y.address, M, N, N, false),
            [operand(layer.x.address, M, K, K, false), operand(layer.w.address, K, N, K, true)],
            [operand(padded.x, M, K + 32, K + 64, false), operand(padded.w, K + 32, N, K + 64, true)],
        ),
        (
            products::backward(&layer, &padded),
            N,
            operand(layer.dx.address, M, K, K, false),
            [operand(layer.dy.address, M, N, N, false), operand(layer.w.address, N, K, K, false)],
            [operand(padded.dy, M, N + 32, N + 64, false), operand(padded.w, N + 32, K, K + 64, false)],
        ),
    ] {
        let summed_over: Vec<_> =
            family.iter().map(|(_, product)| product.a.cols as usize - summed).collect();
        assert_eq!(summed_over, [0, 0, 0, 16, 32, 64]);
        let accumulates: Vec<_> = family.iter().map(|(_, product)| product.accumulate).collect();
        assert_eq!(accumulates, [false, true, false, false, false, false]);
        for (name, product) in &family {
            assert_eq!((product.a.cols, product.c), (product.b.rows, c), "{name}");
            // The last element that is read lies within the buffer.
            let [x, w, dy] = Padded::elements(problem).map(|elements| elements as u64);
            for operand in [product.a, product.b] {
                let (rows, cols) = match operand.transposed {
                    true => (operand.cols, operand.rows),
                    false => (operand.rows, operand.cols),
                };
                let room = match operand.address {
                    address if address == padded.x => x,
                    address if address == padded.w => w,
                    address if address == padded.dy => dy,
                    _ => rows * cols,
                };
                assert!((rows - 1) * operand.stride + cols <= room, "{name}");
            }
        }
        assert_eq!([family[0].1.a, family[0].1.b], beta0);
        assert_eq!([family[4].1.a, family[4].1.b], plus_32);
    }
}
