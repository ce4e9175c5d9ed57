//! Records are the same on every device, and move between devices.

use super::{PACKED, Place, arrangement, plain_adapter, weights};
use crate::devices::device_tests;
use lora_kernels::restore::{RestoreMethod, RestoreRecord};
use lora_kernels::{DType, Rounding};
use lora_oracle::device::{Cpu, Size, TestDevice, Tested};
use lora_oracle::matrix::Matrix;
use lora_oracle::random::Random;
use lora_oracle::run::{self, AdapterArguments, Update};

device_tests!(records_are_those_of_the_cpu, records_move_between_devices, large_weights_are_identified_alike);

/// Ordinary weights with a few awkward ones among them, NaN payloads included.
fn with_awkward(random: &mut Random, dtype: DType, shape: [usize; 2], place: Place) -> Matrix {
    let mut w = weights(random, dtype, shape, place);
    let count = shape[0] * shape[1];
    let special = [f64::INFINITY, 0.0, -0.0, 1e-7, -3e-7, 6e-5, f64::NEG_INFINITY];
    for (n, value) in special.into_iter().enumerate() {
        let at = (n * 37 + 5) % count;
        w.set(at / shape[1], at % shape[1], value);
    }
    let nans = if dtype == DType::F32 { [0xFFC1_2345, 0x7FA0_0001] } else { [0xFFE5, 0x7FFD] };
    for (n, bits) in nans.into_iter().enumerate() {
        let at = (count / 2 + n * 11) % count;
        w.set_bits(at / shape[1], at % shape[1], bits);
    }
    w
}

/// Merge, switch and unmerge on both devices: everything must agree after each step.
fn agree<D: TestDevice>(
    device: &Tested<D>,
    w: &Matrix,
    adapters: &[AdapterArguments; 2],
    method: RestoreMethod,
    rounding: Rounding,
) {
    let cpu = Tested::<Cpu>::open().unwrap();
    let (mut ours, mut theirs) = (w.clone(), w.clone());
    let (mut record, mut of_cpu) = (RestoreRecord::new(method), RestoreRecord::new(method));
    for (remove, add) in [(None, Some(0)), (Some(0), Some(1)), (Some(1), None)] {
        let [remove, add] = [remove, add].map(|n: Option<usize>| n.map(|n| &adapters[n]));
        let update = Update { remove, add, rounding, report: false };
        let context = format!("{} {} {:?} {method:?} {rounding:?}", D::NAME, w.dtype(), w.arrangement);
        update.run(device, &mut ours, Some(&mut record)).unwrap_or_else(|error| panic!("{context}: {error}"));
        update.run(&cpu, &mut theirs, Some(&mut of_cpu)).unwrap();
        assert!(ours.all_bits() == theirs.all_bits(), "{context}");
        let downloaded = device.download_record(&record);
        assert_eq!(downloaded.recorded(), of_cpu.recorded(), "{context}");
        assert_eq!(downloaded.escapes(), of_cpu.escapes(), "{context}");
        assert!(of_cpu.recorded().is_none() || downloaded.codes() == of_cpu.codes(), "{context}");
    }
    assert!(ours.all_bits() == w.all_bits());
}

fn records_are_those_of_the_cpu<D: TestDevice>(device: &Tested<D>) {
    let shapes: &[[usize; 2]] = if D::SIZE == Size::Full {
        &[[1, 1], [64, 128], [67, 131], [3, 300], [130, 9]]
    } else {
        &[[1, 1], [16, 72], [35, 67]]
    };
    for (n, &shape) in shapes.iter().enumerate() {
        for dtype in [DType::Bf16, DType::F16, DType::F32] {
            for place in [(false, 0), (true, 3)] {
                let mut random = Random::new(n as u64);
                let w = with_awkward(&mut random, dtype, shape, place);
                let adapters = [5, 2].map(|rank| plain_adapter(&mut random, shape, rank, 3e-3));
                let stochastic = dtype != DType::F32 && n % 2 == 1;
                let rounding = if stochastic { Rounding::Stochastic { seed: 7 } } else { Rounding::Nearest };
                for method in [RestoreMethod::Codes, RestoreMethod::Backup] {
                    agree(device, &w, &adapters, method, rounding);
                }
            }
        }
    }
}

fn records_move_between_devices<D: TestDevice>(device: &Tested<D>) {
    let shape = [20, 50];
    let cpu = Tested::<Cpu>::open().unwrap();
    for (dtype, place) in [(DType::F16, PACKED), (DType::Bf16, (true, 1)), (DType::F32, PACKED)] {
        for method in [RestoreMethod::Codes, RestoreMethod::Backup] {
            let mut random = Random::new(6);
            let base = with_awkward(&mut random, dtype, shape, place);
            let adapters = [4, 3].map(|rank| plain_adapter(&mut random, shape, rank, 1e-2));
            let context = format!("{} {dtype} {method:?}", D::NAME);

            let (mut w, mut record) = (base.clone(), RestoreRecord::new(method));
            run::update_weights(&cpu, &mut w, None, Some(&adapters[0]), Some(&mut record)).unwrap();
            let mut uploaded = device.upload_record(&record);
            run::update_weights(device, &mut w, Some(&adapters[0]), Some(&adapters[1]), Some(&mut uploaded))
                .unwrap();
            let mut downloaded = device.download_record(&uploaded);
            run::update_weights(&cpu, &mut w, Some(&adapters[1]), None, Some(&mut downloaded)).unwrap();
            assert!(w.all_bits() == base.all_bits(), "{context}: from the CPU and back");

            let mut record = RestoreRecord::new(method);
            run::update_weights(device, &mut w, None, Some(&adapters[0]), Some(&mut record)).unwrap();
            let mut downloaded = device.download_record(&record);
            run::update_weights(&cpu, &mut w, Some(&adapters[0]), Some(&adapters[1]), Some(&mut downloaded))
                .unwrap();
            let mut uploaded = device.upload_record(&downloaded);
            run::update_weights(device, &mut w, Some(&adapters[1]), None, Some(&mut uploaded)).unwrap();
            assert!(w.all_bits() == base.all_bits(), "{context}: to the CPU and back");
        }
    }
}

/// More than 131,072 elements, with strides and NaN payloads, in both orientations.
fn large_weights_are_identified_alike<D: TestDevice>(device: &Tested<D>) {
    let shape = [367, 363];
    let mut random = Random::new(20);
    let cases: &[(DType, Place)] = match D::SIZE {
        Size::Full => &[
            (DType::Bf16, (false, 5)),
            (DType::Bf16, (true, 5)),
            (DType::F32, (true, 3)),
            (DType::F32, (false, 1)),
        ],
        Size::Small => &[(DType::Bf16, (true, 5))],
    };
    for &(dtype, place) in cases {
        let mut w = Matrix::poisoned(dtype, shape[0], shape[1], arrangement(place));
        for i in 0..shape[0] {
            for j in 0..shape[1] {
                // Exponents that a code can follow, signs and digits at random, and a NaN with a payload in each row.
                let draw = random.bits() as u32;
                let bits = match (dtype, j == i % shape[1]) {
                    (DType::F32, false) => draw & 0x807F_FFFF | 0x3C80_0000,
                    (DType::F32, true) => draw | 0x7F80_0001,
                    (_, false) => draw & 0x807F | 0x3C80,
                    (_, true) => draw & 0xFFFF | 0x7F81,
                };
                w.set_bits(i, j, bits);
            }
        }
        let adapter = plain_adapter(&mut random, shape, 1, 1e-5);
        let method = if dtype == DType::F32 { RestoreMethod::Backup } else { RestoreMethod::Codes };
        let (mut of_cpu, mut record) = (RestoreRecord::new(method), RestoreRecord::new(method));
        let (mut ours, mut theirs) = (w.clone(), w.clone());
        run::update_weights(device, &mut ours, None, Some(&adapter), Some(&mut record)).unwrap();
        run::update_weights(
            &Tested::<Cpu>::open().unwrap(),
            &mut theirs,
            None,
            Some(&adapter),
            Some(&mut of_cpu),
        )
        .unwrap();
        assert_eq!(record.recorded(), of_cpu.recorded(), "{} {dtype}", D::NAME);
        assert_eq!(record.escapes(), of_cpu.escapes(), "{} {dtype}", D::NAME);

        // A change anywhere is seen: the last element, and one that no sample of every second or third would have.
        for (i, j) in [(shape[0] - 1, shape[1] - 1), (101, 203)] {
            let mut changed = ours.clone();
            changed.set_bits(i, j, ours.bits(i, j) ^ 1);
            let result = run::update_weights(device, &mut changed, Some(&adapter), None, Some(&mut record));
            let message = result.unwrap_err().to_string();
            assert!(message.contains("`w`"), "{} {dtype} ({i}, {j}): {message}", D::NAME);
        }
        run::update_weights(device, &mut ours, Some(&adapter), None, Some(&mut record)).unwrap();
        assert!(ours.all_bits() == w.all_bits(), "{} {dtype}", D::NAME);
    }
}
