//! The pure parts of the GPU benchmarks, which no GPU is needed to check.

#[path = "../benches/common/rotation.rs"]
mod rotation;
#[path = "../benches/common/traffic.rs"]
mod traffic;

use half::bf16;
use lora_kernels::cuda::plan::{backward::backward, forward::forward, weights};
use lora_kernels::cuda::step::{F32Math, Launch, Step};
use lora_kernels::memory::{Raw, RawBuffer};
use lora_kernels::ops::{Backward, Output};
use lora_kernels::{Adapter, DType, Forward, Layout, MatrixMut, MatrixRef, WeightUpdate};

const M: usize = 64;
const K: usize = 256;
const N: usize = 192;
const R: usize = 16;

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
            Step::Launch(launch) => traffic::operation(&launch.kernel),
            Step::Product(_) => "product",
            Step::Zero(_) => "zero",
        };
        (name, traffic::bytes::<bf16>(step).expect("all kernels are known"))
    });
    traffic.collect()
}

#[test]
fn rotated_sets_exceed_the_cache_twice_between_two_uses_of_one() {
    const MIB: usize = 1 << 20;
    // 13 others of 8 MiB are more than twice 50 MiB.
    assert_eq!(rotation::sets(8 * MIB, 50 * MIB), 14);
    for bytes in [1, MIB, 7 * MIB, 32 * MIB, 1000 * MIB] {
        let sets = rotation::sets(bytes, 50 * MIB);
        assert!(sets == 64 || (sets - 1) * bytes >= 100 * MIB, "{sets} sets of {bytes} bytes");
        assert!((2..=64).contains(&sets));
    }
    assert_eq!(rotation::sets(0, 50 * MIB), 64);
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
    let plan = forward(&op.into(), F32Math::Exact, 0).unwrap();
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
    let plan = backward(&op.into(), F32Math::Exact, 0).unwrap();
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
    let plan = backward(&op.into(), F32Math::Exact, 0).unwrap();
    assert_eq!(traffic_of(&plan.steps)[0], ("pack", 2 * 2 * (R * N) as u64));
}

#[test]
fn an_unknown_kernel_has_no_traffic() {
    let launch = Launch {
        kernel: "fingerprint_f32".into(),
        grid: [1; 3],
        block: [1; 3],
        shared_bytes: 0,
        arguments: Vec::new(),
    };
    assert_eq!(traffic::bytes::<f32>(&Step::Launch(launch)), None);
}
