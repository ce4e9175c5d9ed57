//! Plans that are used again are those that would be made anew.

use super::reuse::{MOST_PLANS, Operation, Plans, Visitor};
use super::{Plan, Settings};
use crate::cuda::kernel;
use crate::cuda::step::{F32Math, Launch, Operand, Product, Step, Zero};
use crate::cuda::target::Target;
use crate::cuda::tensor_map::TensorMap;
use crate::memory::{Raw, RawBuffer};
use crate::ops::{
    BackwardProjection, BackwardSiblings, ForwardSiblings, Frozen, Output, Projection, WriteMode,
};
use crate::{Adapter, DType, Dropout, Layout, MatrixMut, MatrixRef, Result};
use proptest::prelude::*;

const SETTINGS: Settings = Settings {
    target: Target { compute_capability: (8, 6), shared_bytes_per_block: 99 << 10 },
    f32_math: F32Math::Exact,
};

#[derive(Clone, Copy, Debug)]
enum Kind {
    Forward,
    Backward,
    Frozen,
}

/// All that a plan may depend on.
#[derive(Clone, Debug)]
struct Case {
    kind: Kind,
    m: usize,
    k: usize,
    /// Out-features and rank of each layer.
    layers: Vec<(usize, usize)>,
    dtype: DType,
    adapter_dtype: DType,
    scale: f32,
    probability: f32,
    /// What is there, and how each matrix lies.
    bits: u64,
}

/// Where matrices are, and other inputs that plans pass on.
struct Places<'a> {
    case: &'a Case,
    origin: u64,
    matrices: u64,
}

impl<'a> Places<'a> {
    fn new(case: &'a Case, origin: u64) -> Self {
        Places { case, origin, matrices: 0 }
    }

    fn bit(&self, bit: u32) -> bool {
        self.case.bits >> bit & 1 == 1
    }

    /// The next matrix: its place in a buffer, and its layout.
    fn next(&mut self, rows: usize, cols: usize, dtype: DType) -> (RawBuffer, Layout) {
        self.matrices += 1;
        // Each matrix has bits of its own.
        let bits = self.case.bits.rotate_left(7 * self.matrices as u32) ^ self.case.bits >> 40;
        let padding = [0, 0, 8, 3][bits as usize & 3];
        let layout = |rows, cols| Layout::strided(rows, cols, cols + padding).expect("small");
        let layout = if bits & 4 == 0 { layout(rows, cols) } else { layout(cols, rows).t() };
        let misplaced = if bits & 24 == 24 { (bits >> 5 & 7) * dtype.size() as u64 } else { 0 };
        let address = self.origin + (self.matrices << 32) + misplaced;
        (RawBuffer { address, len: layout.span(), dtype }, layout)
    }

    /// One row or column, repeated, is as good as any other matrix that is read.
    fn read(&mut self, rows: usize, cols: usize, dtype: DType) -> MatrixRef<'static, Raw> {
        let (buffer, mut layout) = self.next(rows, cols, dtype);
        if self.case.bits.rotate_left(5 * self.matrices as u32) & 0x30 == 0x30 {
            layout = Layout::repeated(rows, cols).expect("small");
        }
        MatrixRef::from_buffer(buffer, layout).expect("it fits")
    }

    fn write(&mut self, rows: usize, cols: usize, dtype: DType) -> MatrixMut<'static, Raw> {
        let (buffer, layout) = self.next(rows, cols, dtype);
        MatrixMut::from_buffer(buffer, layout).expect("it fits")
    }

    fn output(&mut self, bit: u32, rows: usize, cols: usize, dtype: DType) -> Option<Output<'static, Raw>> {
        let mode = if self.bit(bit + 1) { WriteMode::Accumulate } else { WriteMode::Overwrite };
        self.bit(bit).then(|| Output { matrix: self.write(rows, cols, dtype), mode })
    }

    fn dropout(&self) -> Option<Dropout> {
        let (seed, offset) = (self.origin.wrapping_mul(0x9E37_79B9_7F4A_7C15), self.origin ^ 5);
        let dropout = Dropout::new(self.case.probability, seed, offset).expect("a probability");
        (self.case.probability > 0.0).then_some(dropout)
    }

    fn adapter(&mut self, n: usize, rank: usize) -> Adapter<'static, Raw> {
        let Case { k, adapter_dtype, scale, .. } = *self.case;
        let a = self.read(k, rank, adapter_dtype);
        Adapter { a, b: self.read(rank, n, adapter_dtype), scale }
    }

    fn forward(mut self) -> ForwardSiblings<'static, Raw> {
        let Case { m, k, dtype, .. } = *self.case;
        let mut op =
            ForwardSiblings { x: self.read(m, k, dtype), dropout: self.dropout(), projections: vec![] };
        for &(n, rank) in &self.case.layers {
            op.projections.push(Projection {
                w: self.read(k, n, dtype),
                adapter: self.adapter(n, rank),
                bias: self.bit(0).then(|| self.read(1, n, DType::F32)),
                y: self.write(m, n, dtype),
                s: self.bit(1).then(|| self.write(m, rank, dtype)),
            });
        }
        op
    }

    fn backward(mut self) -> BackwardSiblings<'static, Raw> {
        let Case { m, k, dtype, adapter_dtype, .. } = *self.case;
        let mut op = BackwardSiblings {
            x: Some(self.read(m, k, dtype)),
            dropout: self.dropout(),
            dx: self.output(0, m, k, dtype),
            projections: vec![],
        };
        for &(n, rank) in &self.case.layers {
            op.projections.push(BackwardProjection {
                w: self.read(k, n, dtype),
                adapter: self.adapter(n, rank),
                dy: self.read(m, n, dtype),
                s: self.bit(2).then(|| self.read(m, rank, dtype)),
                da: self.output(3, k, rank, adapter_dtype),
                db: self.output(5, rank, n, adapter_dtype),
                dbias: self.output(7, 1, n, DType::F32),
            });
        }
        op
    }

    fn frozen(mut self) -> Frozen<'static, Raw> {
        let Case { m, k, dtype, .. } = *self.case;
        let n = self.case.layers.first().map_or(1, |&(n, _)| n);
        let mode = if self.bit(1) { WriteMode::Accumulate } else { WriteMode::Overwrite };
        Frozen {
            x: self.read(m, k, dtype),
            w: self.read(k, n, dtype),
            bias: self.bit(0).then(|| self.read(1, n, DType::F32)),
            y: Output { matrix: self.write(m, n, dtype), mode },
        }
    }
}

/// The steps of a case with its inputs from `origin`, by kept plans and anew.
fn both(plans: &mut Plans, case: &Case, origin: u64, workspace: u64) -> [Result<(Vec<Step>, usize)>; 2] {
    fn steps<O: Operation>(
        plans: &mut Plans,
        op: impl Fn() -> O,
        workspace: u64,
    ) -> [Result<(Vec<Step>, usize)>; 2] {
        let anew = op().plan(SETTINGS, workspace).map(|plan| (plan.steps, plan.workspace_bytes));
        let kept = plans.of(op(), SETTINGS).map(|ready| {
            let bytes = ready.workspace_bytes();
            (ready.steps(workspace).to_vec(), bytes)
        });
        [kept, anew]
    }
    match case.kind {
        Kind::Forward => {
            let op = || Places::new(case, origin).forward();
            op().check().expect("the case is valid");
            steps(plans, op, workspace)
        }
        Kind::Backward => {
            let op = || Places::new(case, origin).backward();
            op().check().expect("the case is valid");
            steps(plans, op, workspace)
        }
        Kind::Frozen => {
            let op = || Places::new(case, origin).frozen();
            op().check().expect("the case is valid");
            steps(plans, op, workspace)
        }
    }
}

fn expect_equal(plans: &mut Plans, case: &Case, origin: u64, workspace: u64) {
    let [kept, anew] = both(plans, case, origin, workspace);
    assert_eq!(kept.expect("small"), anew.expect("small"), "{case:?} from {origin:#x}");
}

fn cases() -> impl Strategy<Value = Case> {
    (
        proptest::sample::select(&[Kind::Forward, Kind::Backward, Kind::Frozen][..]),
        prop_oneof![Just(0usize), 1..200usize],
        1..200usize,
        proptest::collection::vec((1..200usize, 1..80usize), 0..4),
        proptest::sample::select(&[DType::F32, DType::F16, DType::Bf16][..]),
        any::<bool>(),
        proptest::sample::select(&[0.0f32, 0.5, 2.0][..]),
        proptest::sample::select(&[0.0f32, 0.0, 0.1, 0.5][..]),
        any::<u64>(),
    )
        .prop_map(|(kind, m, k, layers, dtype, f32_adapter, scale, probability, bits)| {
            let adapter_dtype = if f32_adapter { DType::F32 } else { dtype };
            Case { kind, m, k, layers, dtype, adapter_dtype, scale, probability, bits }
        })
}

proptest! {
    /// Whatever was planned before, and wherever everything is now.
    #[test]
    fn a_plan_that_is_used_again_is_the_one_that_would_be_made(
        cases in proptest::collection::vec(cases(), 1..5),
        origins in proptest::collection::vec(0u64..1 << 52, 3),
        workspace in 1u64..1 << 40,
    ) {
        let mut plans = Plans::default();
        for (number, origin) in origins.into_iter().enumerate() {
            for case in &cases {
                expect_equal(&mut plans, case, 16 * origin, 256 * (workspace + number as u64));
            }
        }
        prop_assert!(plans.count() <= cases.len(), "later calls plan nothing");
    }
}

const CASE: Case = Case {
    kind: Kind::Forward,
    m: 100,
    k: 128,
    layers: vec![],
    dtype: DType::Bf16,
    adapter_dtype: DType::Bf16,
    scale: 2.0,
    probability: 0.1,
    bits: 0,
};

fn case() -> Case {
    Case { layers: vec![(64, 8), (128, 16)], ..CASE }
}

#[test]
fn random_numbers_and_addresses_are_no_reason_to_plan_again() {
    let mut plans = Plans::default();
    for kind in [Kind::Forward, Kind::Backward, Kind::Frozen] {
        let case = Case { kind, bits: 0xFF, ..case() };
        for origin in [0, 16, u64::MAX << 50] {
            expect_equal(&mut plans, &case, origin, 0x10_0000);
        }
    }
    assert_eq!(plans.count(), 3);
}

#[test]
fn everything_else_is() {
    let mut plans = Plans::default();
    let variations = [
        case(),
        Case { m: 101, ..case() },
        Case { k: 136, ..case() },
        Case { layers: vec![(64, 8)], ..case() },
        Case { layers: vec![(64, 8), (128, 17)], ..case() },
        Case { layers: vec![(64, 8), (136, 16)], ..case() },
        Case { dtype: DType::F16, adapter_dtype: DType::F16, ..case() },
        Case { adapter_dtype: DType::F32, ..case() },
        Case { scale: 1.0, ..case() },
        Case { probability: 0.2, ..case() },
        Case { probability: 0.0, ..case() },
        Case { bits: 1, ..case() },
        Case { bits: 2, ..case() },
        Case { kind: Kind::Backward, bits: 1, ..case() },
        Case { kind: Kind::Backward, bits: 3, ..case() },
        Case { kind: Kind::Backward, bits: 5, ..case() },
        Case { kind: Kind::Frozen, ..case() },
        Case { kind: Kind::Frozen, bits: 1, ..case() },
        Case { kind: Kind::Frozen, bits: 2, ..case() },
    ];
    for case in &variations {
        expect_equal(&mut plans, case, 0, 0x10_0000);
    }
    assert_eq!(plans.count(), variations.len());

    let op = || Places::new(&variations[0], 0).forward();
    let tf32 = Settings { f32_math: F32Math::Tf32, ..SETTINGS };
    plans.of(op(), tf32).expect("small");
    let target = Target { compute_capability: (9, 0), ..SETTINGS.target };
    plans.of(op(), Settings { target, ..SETTINGS }).expect("small");
    assert_eq!(plans.count(), variations.len() + 2);

    // X is no longer aligned for vectors.
    plans.of(Places::new(&variations[0], 2).forward(), SETTINGS).expect("small");
    assert_eq!(plans.count(), variations.len() + 3);
}

#[test]
fn the_plans_that_are_kept_are_those_used_last() {
    let mut plans = Plans::default();
    let nth = |m| Case { m, layers: vec![(8, 1)], ..CASE };
    for m in 1..=MOST_PLANS {
        expect_equal(&mut plans, &nth(m), 0, 0);
    }
    expect_equal(&mut plans, &nth(1), 0, 0);
    assert_eq!(plans.count(), MOST_PLANS, "the first was still there");
    expect_equal(&mut plans, &nth(MOST_PLANS + 1), 0, 0);
    assert_eq!(plans.count(), MOST_PLANS);
    assert!(plans.holds(Places::new(&nth(1), 0).forward(), SETTINGS));
    assert!(
        !plans.holds(Places::new(&nth(2), 0).forward(), SETTINGS),
        "the one not used for longest is gone"
    );
}

#[test]
fn an_operation_that_cannot_be_planned_is_not_kept() {
    let mut plans = Plans::default();
    let too_large = Case { m: 1 << 36, k: 1, layers: vec![(1 << 12, 8)], probability: 0.0, ..CASE };
    let [kept, anew] = both(&mut plans, &too_large, 0, 0);
    assert_eq!(kept.expect_err("too large").to_string(), anew.expect_err("too large").to_string());
    assert_eq!(plans.count(), 0);
}

/// W, A, B in one buffer, and X with S in another; or each somewhere else, in the same layouts.
fn neighbours(origin: u64, is_joined: bool) -> ForwardSiblings<'static, Raw> {
    let (m, k, n, rank) = (20, 48, 40, 8);
    let whole = |number: u64, rows, cols| {
        let layout = Layout::packed(rows, cols).expect("small");
        let address = origin + (number << 32);
        let buffer = RawBuffer { address, len: layout.span(), dtype: DType::Bf16 };
        MatrixMut::<Raw>::from_buffer(buffer, layout).expect("it fits")
    };
    let moved = |matrix: MatrixRef<'_, Raw>, number: u64| {
        let address = matrix.buffer().address + if is_joined { 0 } else { number << 40 };
        let buffer = RawBuffer { address, ..matrix.buffer() };
        (buffer, matrix.layout())
    };
    let read = |(buffer, layout)| MatrixRef::from_buffer(buffer, layout).expect("it fits");
    let weight = whole(1, k + rank, n + rank);
    let weight = weight.as_ref();
    let [top, bottom] = weight.t().split_cols(k).expect("k rows").map(MatrixRef::t);
    let ([w, a], [b, _]) = (top.split_cols(n).expect("n"), bottom.split_cols(n).expect("n"));
    let [x, s] = whole(2, m, k + rank).split_cols(k).expect("k");
    let (s, layout) = moved(s.as_ref(), 3);
    ForwardSiblings {
        x: read(moved(x.as_ref(), 0)),
        dropout: None,
        projections: vec![Projection {
            w: read(moved(w, 0)),
            adapter: Adapter { a: read(moved(a, 1)), b: read(moved(b, 2)), scale: 2.0 },
            bias: None,
            y: whole(3, m, n),
            s: Some(MatrixMut::from_buffer(s, layout).expect("it fits")),
        }],
    }
}

#[test]
fn parts_of_one_matrix_stay_parts_of_it() {
    let mut plans = Plans::default();
    for origin in [0x1000, 0x70_0000_0000, 0x2000] {
        for is_joined in [true, false] {
            let anew = neighbours(origin, is_joined).plan(SETTINGS, 0x100).expect("small").steps;
            let kept =
                plans.of(neighbours(origin, is_joined), SETTINGS).expect("small").steps(0x100).to_vec();
            assert_eq!(kept, anew, "{origin:#x} {is_joined}");
            assert_eq!(anew.len(), if is_joined { 4 } else { 5 }, "another route");
        }
    }
    assert_eq!(plans.count(), 2);
}

/// One of each kind of step, on inputs one after the other.
struct Steps {
    addresses: [u64; 5],
}

impl Operation for Steps {
    fn visit(&mut self, visitor: &mut impl Visitor) -> Result<()> {
        for address in &mut self.addresses {
            *address = visitor.input(*address, 16);
        }
        Ok(())
    }

    fn plan(&self, _: Settings, workspace_base: u64) -> Result<Plan> {
        let [map, a, b, c, zero] = self.addresses;
        let operand = |address| Operand { address, rows: 1, cols: 1, stride: 1, transposed: false };
        let launch = Launch {
            tensor_maps: vec![(0, TensorMap::matrix(DType::Bf16, map + 32, [8, 8], 16, [8, 8]))],
            ..Launch::new(kernel::FINALIZE, [1, 1, 1], 0, workspace_base.to_ne_bytes().repeat(16))
        };
        let product = Product {
            a: operand(a),
            b: operand(b),
            c: operand(c),
            dtype: DType::F32,
            accumulate: false,
            f32_math: F32Math::Exact,
        };
        let zero = Step::Zero(Zero { address: zero + 8, bytes: 8 });
        Ok(Plan {
            steps: vec![Step::Launch(Launch { inputs: &[8], ..launch }), Step::Product(product), zero],
            workspace_bytes: 8,
        })
    }
}

#[test]
fn every_address_of_a_step_is_filled_in() {
    let mut plans = Plans::default();
    for origin in [0x1000, 0x8000_0000] {
        let op = || Steps { addresses: [1, 2, 3, 4, 5].map(|n| origin + 0x100 * n) };
        let steps = plans.of(op(), SETTINGS).expect("small").steps(0x7000).to_vec();
        let mut expected = op().plan(SETTINGS, 0x7000).expect("small").steps;
        // What is no input keeps what it was planned with.
        let (Step::Launch(expected_launch), Step::Launch(launch)) = (&mut expected[0], &steps[0]) else {
            unreachable!()
        };
        assert_eq!(launch.arguments[8..16], expected_launch.arguments[8..16]);
        expected_launch.arguments.clone_from(&launch.arguments);
        assert_eq!(steps, expected);
    }
    assert_eq!(plans.count(), 1);
}
