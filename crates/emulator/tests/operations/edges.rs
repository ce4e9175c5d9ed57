//! Weights at the edges of what formats and codes hold.

use super::Device;
use super::weights::{OnDevice, free, free_codes, layout, upload, weights};
use super::weights_support::{Factors, Random, Stored, all_bits, bits, from_bits};
use half::{bf16, f16};
use lora_kernels::Device as _;
use lora_kernels::cpu::Cpu;
use lora_kernels::cuda::engine::RawCodes;
use lora_kernels::cuda::executor::Executor;
use lora_kernels::memory::{Raw, RawBuffer};
use lora_kernels::ops::{Delta, WeightUpdate};
use lora_kernels::restore::{RestoreMethod, RestoreRecord};
use lora_kernels::{Backend, DType, Element, MatrixMut, Rounding};

/// What is at an edge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Edge {
    /// Adapters with infinities and a NaN: sums that are NaN, of weights that are not, become the type's one NaN; nothing
    /// outside the matrix is touched, where zeros times infinity are NaN, too.
    NonFinite { dtype: DType, stochastic: bool, transposed: bool },
    /// Weights that are a hundred and more steps away from what rounding leaves of them: codes end at ±127.
    Steps(DType),
}

impl Edge {
    pub fn all() -> Vec<Edge> {
        let mut edges = [DType::Bf16, DType::F16, DType::F32].map(Edge::Steps).to_vec();
        for transposed in [false, true] {
            for (dtype, stochastic) in [
                (DType::F32, false),
                (DType::F16, false),
                (DType::F16, true),
                (DType::Bf16, false),
                (DType::Bf16, true),
            ] {
                edges.push(Edge::NonFinite { dtype, stochastic, transposed });
            }
        }
        edges
    }

    /// Panics unless the device agrees with the CPU, bit for bit. Returns what it gave.
    pub fn check(self, device: &mut Device) -> Vec<u8> {
        match self {
            Edge::NonFinite { dtype, stochastic, transposed } => match dtype {
                DType::F32 => non_finite::<f32>(device, stochastic, transposed),
                DType::F16 => non_finite::<f16>(device, stochastic, transposed),
                DType::Bf16 => non_finite::<bf16>(device, stochastic, transposed),
            },
            Edge::Steps(DType::F16) => steps::<f16>(device),
            Edge::Steps(DType::Bf16) => steps::<bf16>(device),
            Edge::Steps(DType::F32) => steps::<f32>(device),
        }
    }
}

fn view<'a, T: Element>(buffer: RawBuffer, stored: &Stored<T>) -> MatrixMut<'a, Raw> {
    MatrixMut::from_buffer(buffer, layout(stored)).expect("it fits")
}

fn non_finite<T: Element>(device: &mut Device, stochastic: bool, transposed: bool) -> Vec<u8> {
    let (rows, cols, rank) = (67, 70, 3);
    let mut random = Random(21);
    let base: Vec<T> = weights(&mut random, rows * cols);
    let mut factors = Factors::<T>::random(&mut random, rows, cols, rank, 3e-3);
    let [infinity, nan, zero] = [f32::INFINITY, f32::NAN, 0.0].map(T::from_f32);
    factors.a[5 * rank] = infinity;
    factors.a[9 * rank + 1] = nan;
    factors.b[7] = zero;
    factors.b[cols + 11] = infinity;
    let rounding = if stochastic { Rounding::Stochastic { seed: 77 } } else { Rounding::Nearest };
    let adapter = OnDevice::new(device, &factors, (transposed, 0), (!transposed, 1));

    let mut w = Stored::new(&base, rows, cols, transposed, 2);
    let on_device = upload(device, &w);
    let update = WeightUpdate { rounding, ..WeightUpdate::merge(view(on_device, &w), adapter.view()) };
    device.cuda().update_weights(update).expect("a valid merge");
    let merge = WeightUpdate { rounding, ..WeightUpdate::merge(w.view_mut(), factors.adapter()) };
    Cpu::new().update_weights(merge).expect("valid on the CPU");
    let found: Vec<T> = device.cuda().read(on_device).expect("a live buffer");
    assert!(all_bits(&found) == all_bits(&w.data), "{}: not the CPU's bits", T::DTYPE);
    let one_nan = if T::DTYPE == DType::F32 { 0x7FFF_FFFF } else { 0x7FFF };
    let found = Stored { data: found, ..w.clone() };
    for (i, j) in [(5, 7), (9, 3), (9, 69)] {
        assert_eq!(bits(found.get(i, j)), one_nan, "{}: W[{i}, {j}]", T::DTYPE);
    }
    free(device, on_device);

    let zeros = vec![zero; rows * cols];
    let mut delta = Stored::new(&zeros, rows, cols, transposed, 2);
    let on_device = upload(device, &delta);
    device
        .cuda()
        .delta(Delta { adapter: adapter.view(), delta: view(on_device, &delta) })
        .expect("a valid delta");
    let expected = Delta { adapter: factors.adapter(), delta: delta.view_mut() };
    Cpu::new().delta(expected).expect("valid on the CPU");
    let differences: Vec<T> = device.cuda().read(on_device).expect("a live buffer");
    assert!(all_bits(&differences) == all_bits(&delta.data), "{}: not the CPU's bits of Δ", T::DTYPE);
    free(device, on_device);
    adapter.free(device);
    all_bits(&found.data).into_iter().chain(all_bits(&differences)).flat_map(u32::to_le_bytes).collect()
}

/// 1 is added to numbers so small that nothing is left of them: the guess is zero, and a number's steps are its bits.
fn steps<T: Element>(device: &mut Device) -> Vec<u8> {
    let (rows, cols) = (2, 64);
    let sign = 1 << (8 * T::DTYPE.size() - 1);
    let base: Vec<T> = (0..rows * cols)
        .map(|n| from_bits((n / 2 + 96) as u32 | if n % 2 == 1 { sign } else { 0 }))
        .collect();
    let one = T::from_f32(1.0);
    let factors = Factors { a: vec![one; rows], b: vec![one; cols], rank: 1, scale: 1.0 };
    let adapter = OnDevice::new(device, &factors, (false, 0), (false, 0));
    let mut w = Stored::new(&base, rows, cols, false, 0);
    let on_device = upload(device, &w);
    let mut record: RestoreRecord<RawCodes> = RestoreRecord::new(RestoreMethod::Codes);
    let mut expected = RestoreRecord::new(RestoreMethod::Codes);
    let merge = WeightUpdate::merge(view(on_device, &w), adapter.view()).record(&mut record);
    device.cuda().update_weights(merge).expect("a valid merge");
    Cpu::new()
        .update_weights(WeightUpdate::merge(w.view_mut(), factors.adapter()).record(&mut expected))
        .expect("valid on the CPU");
    assert_eq!(record.escapes(), expected.escapes(), "{}: escapes", T::DTYPE);
    // 128 to 159 upwards, 127 to 159 downwards: −0 is one step below +0.
    assert_eq!(record.escapes().len(), 32 + 33, "{}: escapes", T::DTYPE);
    let codes = device.cuda().download_record(&record).expect("live codes");
    assert!(codes.codes() == expected.codes(), "{}: codes", T::DTYPE);
    // Whoever keeps codes may keep them anywhere.
    let bytes = codes.codes().len();
    let moved = device.emulator().allocate("codes", bytes + 1);
    let address = moved + 1;
    device.emulator().write(address, codes.codes()).expect("just allocated");
    let recorded = *codes.recorded().expect("a merge was recorded");
    let place = RawCodes { address, bytes: bytes as u64 };
    let escapes = record.escapes().to_vec();
    free_codes(device, record);
    let mut record = RestoreRecord::from_parts(RestoreMethod::Codes, recorded, place, escapes);
    let unmerge = WeightUpdate::unmerge(view(on_device, &w), adapter.view()).record(&mut record);
    device.cuda().update_weights(unmerge).expect("a valid unmerge");
    let found: Vec<T> = device.cuda().read(on_device).expect("a live buffer");
    assert!(all_bits(&found) == all_bits(&base), "{}: not restored", T::DTYPE);
    free(device, on_device);
    assert!(device.emulator().free(moved), "the codes were allocated");
    adapter.free(device);
    codes.codes().to_vec()
}
