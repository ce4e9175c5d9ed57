//! One mask everywhere: forward, dX, dA, every device, and the oracle's own Philox.

use crate::devices::device_tests;
use crate::{backward, forward};
use lora_kernels::DType;
use lora_kernels::dropout::philox4x32_10;
use lora_kernels::ops::WriteMode;
use lora_oracle::device::{TestDevice, Tested};
use lora_oracle::matrix::Matrix;
use lora_oracle::oracle::{self, Dropout, philox};
use lora_oracle::problem::{DTYPES, Problem};
use lora_oracle::run::{self, BackwardArguments, ForwardArguments};

device_tests!(
    mask_in_forward,
    mask_in_dx,
    mask_in_da,
    mask_in_recomputed_s,
    probability_zero_is_no_dropout,
    probability_near_one,
    other_seeds_and_offsets,
);

const ROWS: usize = 21;
const FEATURES: usize = 37;

fn dropouts() -> [Dropout; 4] {
    [
        Dropout { probability: 0.5, seed: 7, offset: 0 },
        Dropout { probability: 0.1, seed: u64::MAX - 5, offset: 3 },
        Dropout { probability: 0.75, seed: 0xDEAD_BEEF_0000_0001, offset: u64::MAX },
        Dropout { probability: 0.999, seed: 1 << 32, offset: 1 << 32 },
    ]
}

/// A problem whose A is a unit matrix and whose other matrices are filled with one number each.
struct Probe {
    problem: Problem,
}

impl Probe {
    fn new(dtypes: (DType, DType), dropout: Dropout) -> Self {
        let mut problem = Problem::new(ROWS, FEATURES, 4, FEATURES).dtypes(dtypes).saving_s();
        problem.scale = 1.0 / 64.0;
        problem.dropout = Some(dropout);
        Probe { problem }
    }

    fn unit_a(a: &mut Matrix) {
        fill(a, |i, k| if i == k { 1.0 } else { 0.0 });
    }

    fn forward(&self) -> ForwardArguments {
        let mut arguments = self.problem.forward();
        fill(&mut arguments.x, |_, _| 1.0);
        let layer = &mut arguments.projections[0];
        Self::unit_a(&mut layer.adapter.a);
        arguments
    }

    fn backward(&self) -> BackwardArguments {
        let mut arguments = self.problem.backward(WriteMode::Overwrite);
        fill(arguments.x.as_mut().unwrap(), |_, _| 1.0);
        let layer = &mut arguments.projections[0];
        fill(&mut layer.w, |_, _| 0.0);
        Self::unit_a(&mut layer.adapter.a);
        arguments
    }
}

fn fill(matrix: &mut Matrix, value: impl Fn(usize, usize) -> f64) {
    for i in 0..matrix.rows {
        for j in 0..matrix.cols {
            matrix.set(i, j, value(i, j));
        }
    }
}

fn assert_mask(context: &str, dropout: Dropout, nonzero: impl Fn(usize, usize) -> bool) {
    let mut kept = 0;
    for row in 0..ROWS {
        for col in 0..FEATURES {
            let keeps = dropout.keeps(row, col);
            kept += usize::from(keeps);
            assert_eq!(nonzero(row, col), keeps, "{context} {dropout:?}: element ({row}, {col})");
        }
    }
    assert!(kept > 0 || dropout.probability > 0.9, "{context} {dropout:?}: a mask that shows nothing");
}

/// With X = 1 and A = 1, S is the mask.
fn mask_in_forward<D: TestDevice>(device: &Tested<D>) {
    for dtypes in DTYPES {
        for dropout in dropouts() {
            let mut arguments = Probe::new(dtypes, dropout).forward();
            run::forward(device, &mut arguments).unwrap();
            let s = arguments.projections[0].s.as_ref().unwrap();
            assert_mask(&format!("{} {dtypes:?} S", D::NAME), dropout, |row, col| s.get(row, col) != 0.0);
        }
    }
}

/// With W = 0, A = 1 and dS without zeros, dX shows the mask.
fn mask_in_dx<D: TestDevice>(device: &Tested<D>) {
    for dtypes in DTYPES {
        for dropout in dropouts() {
            let mut arguments = Probe::new(dtypes, dropout).backward();
            let layer = &mut arguments.projections[0];
            fill(&mut layer.dy, |_, _| 1.0);
            fill(&mut layer.adapter.b, |_, _| 0.5);
            run::backward(device, &mut arguments).unwrap();
            let dx = &arguments.dx.as_ref().unwrap().matrix;
            assert_mask(&format!("{} {dtypes:?} dX", D::NAME), dropout, |row, col| dx.get(row, col) != 0.0);
        }
    }
}

/// With one row of dY, and so of dS, that is not zero, dA shows that row of the mask.
fn mask_in_da<D: TestDevice>(device: &Tested<D>) {
    for dtypes in DTYPES {
        for dropout in dropouts() {
            let mut shown = Vec::new();
            for row in 0..ROWS {
                let mut arguments = Probe::new(dtypes, dropout).backward();
                arguments.dx = None;
                arguments.projections[0].db = None;
                let layer = &mut arguments.projections[0];
                fill(&mut layer.dy, |i, _| if i == row { 1.0 } else { 0.0 });
                fill(&mut layer.adapter.b, |_, _| 0.5);
                run::backward(device, &mut arguments).unwrap();
                let da = arguments.projections[0].da.as_ref().unwrap();
                shown.push((0..FEATURES).map(|i| da.matrix.get(i, 0) != 0.0).collect::<Vec<_>>());
                if D::SIZE == lora_oracle::device::Size::Small && row == 3 {
                    break;
                }
            }
            let context = format!("{} {dtypes:?} dA", D::NAME);
            assert_mask(&context, dropout, |row, col| {
                shown.get(row).map_or_else(|| dropout.keeps(row, col), |mask| mask[col])
            });
        }
    }
}

/// With one row and one column of dY that are not zero, dB shows a row of the recomputed S, and so of the mask.
fn mask_in_recomputed_s<D: TestDevice>(device: &Tested<D>) {
    for dtypes in DTYPES {
        for dropout in dropouts() {
            let row = 13;
            let mut arguments = Probe::new(dtypes, dropout).backward();
            arguments.projections[0].s = None;
            fill(&mut arguments.projections[0].dy, |i, j| if (i, j) == (row, 2) { 1.0 } else { 0.0 });
            run::backward(device, &mut arguments).unwrap();
            let db = &arguments.projections[0].db.as_ref().unwrap().matrix;
            for col in 0..FEATURES {
                let shown = db.get(col, 2) != 0.0;
                assert_eq!(shown, dropout.keeps(row, col), "{} {dtypes:?} {dropout:?} column {col}", D::NAME);
            }
        }
    }
}

fn probability_zero_is_no_dropout<D: TestDevice>(device: &Tested<D>) {
    for dtypes in DTYPES {
        let without = lora_oracle::shapes::ragged(D::SIZE).dtypes(dtypes).saving_s();
        let with = without.clone().dropout(0.0);
        let run = |device: &Tested<D>, problem: &Problem| {
            let mut arguments = problem.forward();
            run::forward(device, &mut arguments).unwrap();
            let mut gradients = problem.backward(WriteMode::Overwrite);
            run::backward(device, &mut gradients).unwrap();
            let forward = &arguments.projections[0];
            let backward = &gradients.projections[0];
            [
                &forward.y,
                forward.s.as_ref().unwrap(),
                &gradients.dx.as_ref().unwrap().matrix,
                &backward.da.as_ref().unwrap().matrix,
            ]
            .map(|matrix| matrix.data.bytes().to_vec())
        };
        assert!(run(device, &without) == run(device, &with), "{} {dtypes:?}", D::NAME);
    }
}

/// The largest probability below 1 that f32 holds drops all but one draw of 65536.
fn probability_near_one<D: TestDevice>(device: &Tested<D>) {
    let largest = 1.0f32.next_down();
    for dtypes in DTYPES {
        for probability in [0.99, 0.9999, largest] {
            let mut problem = lora_oracle::shapes::ragged(D::SIZE).dtypes(dtypes).dropout(probability);
            // Kept elements may be multiplied by 65536, which f16 cannot hold.
            problem.scale = 1.0 / 4096.0;
            forward::check(device, &problem.clone().saving_s());
            backward::check(device, &problem, WriteMode::Overwrite);
        }
    }
}

fn other_seeds_and_offsets<D: TestDevice>(device: &Tested<D>) {
    for dropout in dropouts() {
        let mut problem = lora_oracle::shapes::ragged(D::SIZE);
        problem.dropout = Some(dropout);
        forward::check(device, &problem);
        backward::check(device, &problem, WriteMode::Overwrite);
    }
}

/// Known answers that come with Random123 (kat_vectors, philox4x32 10 rounds).
const KNOWN_ANSWERS: [([u32; 4], [u32; 2], [u32; 4]); 3] = [
    ([0; 4], [0; 2], [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]),
    ([u32::MAX; 4], [u32::MAX; 2], [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]),
    (
        [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
        [0xa409_3822, 0x299f_31d0],
        [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1],
    ),
];

#[test]
fn philox_gives_the_known_answers() {
    for (counter, key, answer) in KNOWN_ANSWERS {
        assert_eq!(philox4x32_10(counter, key), answer);
        assert_eq!(philox(counter, key), answer, "the oracle's");
    }
}

/// The library's mask is the documented one, at rows, columns and offsets that use all 32 bits of each counter word.
#[test]
fn mask_is_the_oracles() {
    for dropout in dropouts() {
        let ours = lora_kernels::Dropout::new(dropout.probability, dropout.seed, dropout.offset).unwrap();
        assert!((f64::from(ours.keep_scale()) / dropout.keep_scale() - 1.0).abs() <= 2f64.powi(-24));
        for row in [0, 1, 4095, (1 << 31) + 17] {
            for col in (0..64).chain([(1 << 20) + 3, (1 << 31) + 6]) {
                assert_eq!(ours.keeps(row, col), dropout.keeps(row, col), "{dropout:?} ({row}, {col})");
            }
        }
    }
}

/// The share of kept elements is 1 - p, within five standard deviations.
#[test]
fn mask_has_the_asked_for_density() {
    for dropout in dropouts() {
        let (rows, cols) = (512, 512);
        let mask = oracle::mask(rows, cols, Some(dropout));
        let kept = mask.values.iter().filter(|&&factor| factor != 0.0).count() as f64;
        let (elements, p) = ((rows * cols) as f64, f64::from(dropout.probability));
        let deviation = (elements * p * (1.0 - p)).sqrt();
        assert!(
            (kept - elements * (1.0 - p)).abs() <= 5.0 * deviation,
            "{dropout:?}: {kept} of {elements} kept"
        );
    }
}
