//! Stochastic rounding: every draw is where the contract has it.

use super::{PACKED, Place, arrangement, exact, plain_adapter, weights};
use crate::devices::device_tests;
use lora_kernels::{DType, Rounding};
use lora_oracle::device::{Size, TestDevice, Tested};
use lora_oracle::matrix::Matrix;
use lora_oracle::oracle::philox;
use lora_oracle::random::Random;
use lora_oracle::run::{AdapterArguments, Update};

device_tests!(
    the_draw_of_each_weight_decides,
    delta_is_kept_in_the_mean,
    representable_sums_stay,
    draws_do_not_repeat,
);

/// The 32-bit draw of element (i, j).
fn draw(seed: u64, i: usize, j: usize) -> u32 {
    let counter = [(j / 4) as u32, i as u32, (i as u64 >> 32) as u32, 0x4C6F_5241];
    philox(counter, [seed as u32, (seed >> 32) as u32])[j % 4]
}

fn check<D: TestDevice>(device: &Tested<D>, dtype: DType, shape: [usize; 2], place: Place) {
    const SEED: u64 = 0x1234_5678_9ABC_DEF0;
    let mut random = Random::new(3);
    let base = weights(&mut random, dtype, shape, place);
    let adapter = plain_adapter(&mut random, shape, 5, 1e-4);
    let mut w = base.clone();
    let rounding = Rounding::Stochastic { seed: SEED };
    Update { add: Some(&adapter), rounding, ..Update::default() }.run(device, &mut w, None).unwrap();
    // Binary digits that the type cuts off normal numbers.
    let dropped = if dtype == DType::Bf16 { 16 } else { 13 };
    let mut rounded_away = 0;
    for i in 0..shape[0] {
        for j in 0..shape[1] {
            let exact = exact(base.get(i, j) as f32, [None, Some(&adapter)], (i, j));
            if exact.abs() < 1e-4 {
                continue;
            }
            let sum = exact.to_bits() + (draw(SEED, i, j) & ((1 << dropped) - 1));
            let expected = f32::from_bits(sum >> dropped << dropped);
            assert_eq!(w.get(i, j) as f32, expected, "{} {dtype} {shape:?} {place:?} ({i}, {j})", D::NAME);
            rounded_away += usize::from(super::nearest_bits(dtype, exact) != w.bits(i, j));
        }
    }
    assert!(rounded_away > shape[0] * shape[1] / 10, "{rounded_away}");
}

/// More than 256 rows and columns among them: a counter that wraps in 8 bits, or counts by 64 blocks, would show.
fn the_draw_of_each_weight_decides<D: TestDevice>(device: &Tested<D>) {
    for dtype in [DType::Bf16, DType::F16] {
        for place in [(false, 1), (true, 1)] {
            for shape in [[3, 600], [600, 3]] {
                check(device, dtype, shape, place);
            }
        }
    }
    if D::SIZE == Size::Full {
        check(device, DType::Bf16, [70, 1100], PACKED);
        check(device, DType::Bf16, [1100, 70], (true, 0));
    }
}

/// W of ones and a Δ far below half a step of it.
fn below_half_a_step([rows, cols]: [usize; 2], place: Place, delta: f32) -> (Matrix, AdapterArguments) {
    let w = Matrix::from_fn(DType::Bf16, rows, cols, arrangement(place), |_, _| 1.0);
    let a = Matrix::from_fn(DType::F32, rows, 1, arrangement(PACKED), |_, _| delta.into());
    let b = Matrix::from_fn(DType::F32, 1, cols, arrangement(PACKED), |_, _| 1.0);
    (w, AdapterArguments { a, b, scale: 1.0 })
}

/// Rounding to nearest loses it, stochastic rounding keeps it in the mean.
fn delta_is_kept_in_the_mean<D: TestDevice>(device: &Tested<D>) {
    let shape = if D::SIZE == Size::Full { [512, 512] } else { [64, 64] };
    let elements = (shape[0] * shape[1]) as f64;
    let delta = 0.001f32;
    let (base, adapter) = below_half_a_step(shape, PACKED, delta);
    let mean = |rounding| {
        let mut w = base.clone();
        Update { add: Some(&adapter), rounding, ..Update::default() }.run(device, &mut w, None).unwrap();
        (0..shape[0] * shape[1]).map(|n| w.get(n / shape[1], n % shape[1]) - 1.0).sum::<f64>() / elements
    };
    assert_eq!(mean(Rounding::Nearest), 0.0, "{}", D::NAME);
    let step = 2f64.powi(-7);
    let share = f64::from(delta) / step;
    // Six standard errors of the mean of independent draws.
    let tolerance = 6.0 * step * (share * (1.0 - share) / elements).sqrt();
    for seed in 0..4 {
        let error = mean(Rounding::Stochastic { seed }) - f64::from(delta);
        assert!(error.abs() < tolerance, "{} seed {seed}: {error:e} exceeds {tolerance:e}", D::NAME);
    }
}

fn representable_sums_stay<D: TestDevice>(device: &Tested<D>) {
    let (rows, cols) = (20, 68);
    let mut random = Random::new(5);
    let base = super::normal_matrix(&mut random, DType::F16, [rows, cols], PACKED, 1e-5);
    let (_, adapter) = below_half_a_step([rows, cols], PACKED, 0.0);
    let mut w = base.clone();
    let rounding = Rounding::Stochastic { seed: 1 };
    Update { add: Some(&adapter), rounding, ..Update::default() }.run(device, &mut w, None).unwrap();
    for n in 0..rows * cols {
        // Equal in value: -0 + 0 is +0.
        assert_eq!(w.get(n / cols, n % cols), base.get(n / cols, n % cols), "{}", D::NAME);
    }
}

/// No two stretches of rows or columns are rounded alike, whatever the distance between them.
fn draws_do_not_repeat<D: TestDevice>(device: &Tested<D>) {
    for (shape, place) in
        [([2, 600], PACKED), ([2, 600], (true, 0)), ([600, 2], PACKED), ([600, 2], (true, 0))]
    {
        let (mut w, adapter) = below_half_a_step(shape, place, 2f32.powi(-8));
        let rounding = Rounding::Stochastic { seed: 9 };
        Update { add: Some(&adapter), rounding, ..Update::default() }.run(device, &mut w, None).unwrap();
        let line: Vec<u32> = match shape {
            [2, _] => (0..600).map(|j| w.bits(1, j)).collect(),
            _ => (0..600).map(|i| w.bits(i, 1)).collect(),
        };
        for distance in 1..=500 {
            let alike = line.iter().zip(&line[distance..]).filter(|(one, two)| one == two).count();
            // Half of them by chance; eight standard errors of at least 100 fair draws are 40.
            let most = (600 - distance) as f64 * 0.5 + 4.0 * ((600 - distance) as f64).sqrt();
            assert!(alike as f64 <= most, "{} {shape:?} {place:?}: {alike} alike at {distance}", D::NAME);
        }
    }
}
