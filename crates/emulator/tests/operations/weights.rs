//! Weight updates and deltas, bit for bit against a scalar loop; records and fingerprints against the CPU backend.

use super::Device;
use super::weights_support::{Factors, Random, Stored, all_bits, bits, from_bits, updated};
use half::{bf16, f16};
use lora_kernels::Device as _;
use lora_kernels::cpu::Cpu;
use lora_kernels::cuda::engine::RawCodes;
use lora_kernels::dropout::philox4x32_10;
use lora_kernels::memory::{Raw, RawBuffer};
use lora_kernels::ops::{Delta, MergeReport, WeightUpdate};
use lora_kernels::restore::{RestoreMethod, RestoreRecord};
use lora_kernels::{Adapter, Backend, DType, Element, Layout, MatrixMut, MatrixRef, Rounding};

/// Whether a matrix is stored transposed, and the gap between its rows.
pub type Place = (bool, usize);

/// A merge, a switch to another adapter and back, and an unmerge; or a delta.
#[derive(Clone, Debug)]
pub struct Case {
    pub shape: [usize; 2],
    pub ranks: [usize; 2],
    pub dtype: DType,
    pub adapters: DType,
    pub w: Place,
    pub a: Place,
    pub b: Place,
    pub record: Option<RestoreMethod>,
    /// For `bf16` weights.
    pub stochastic: bool,
    pub report: bool,
    /// Weights a hundred and more values away from what their codes count from.
    pub far: bool,
}

const SEED: u64 = 0xFEED_5EED_0000_0001;

impl Case {
    pub fn update(&self, device: &mut Device, verifies: bool) -> Vec<u8> {
        match (self.dtype, self.adapters) {
            (DType::F32, _) => self.update_as::<f32, f32>(device, verifies),
            (DType::F16, DType::F32) => self.update_as::<f16, f32>(device, verifies),
            (DType::F16, _) => self.update_as::<f16, f16>(device, verifies),
            (DType::Bf16, DType::F32) => self.update_as::<bf16, f32>(device, verifies),
            (DType::Bf16, _) => self.update_as::<bf16, bf16>(device, verifies),
        }
    }

    pub fn delta(&self, device: &mut Device, verifies: bool) -> Vec<u8> {
        match (self.dtype, self.adapters) {
            (DType::F32, DType::F32) => self.delta_as::<f32, f32>(device, verifies),
            (DType::F32, _) => self.delta_as::<f32, bf16>(device, verifies),
            (DType::F16, DType::F32) => self.delta_as::<f16, f32>(device, verifies),
            (DType::F16, _) => self.delta_as::<f16, f16>(device, verifies),
            (DType::Bf16, DType::F32) => self.delta_as::<bf16, f32>(device, verifies),
            (DType::Bf16, _) => self.delta_as::<bf16, bf16>(device, verifies),
        }
    }

    fn update_as<T: Element, A: Element>(&self, device: &mut Device, verifies: bool) -> Vec<u8> {
        let [rows, cols] = self.shape;
        let mut random = Random((rows * 1000 + cols) as u64);
        let (base, factors) = match self.far {
            false => {
                let base: Vec<T> = weights(&mut random, rows * cols);
                (base, self.ranks.map(|rank| Factors::<A>::random(&mut random, rows, cols, rank, 3e-3)))
            }
            true => (far_weights(rows * cols), [1.0, 2.0].map(|scale| constant(rows, cols, scale))),
        };
        let mut adapters: Vec<OnDevice<A>> = Vec::new();
        for factors in &factors {
            adapters.push(OnDevice::new(device, factors, self.a, self.b));
        }
        let mut cpu_w = Stored::new(&base, rows, cols, self.w.0, self.w.1);
        let w = upload(device, &cpu_w);
        let method = self.record.unwrap_or_default();
        let mut cpu_record = RestoreRecord::new(method);
        let mut record: RestoreRecord<RawCodes> = RestoreRecord::new(method);
        let rounding = match self.stochastic {
            true => Rounding::Stochastic { seed: SEED },
            false => Rounding::Nearest,
        };
        let mut before = cpu_w.values();
        let mut output = Vec::new();
        for (remove, add) in [(None, Some(0)), (Some(0), Some(1)), (Some(1), Some(0)), (Some(0), None)] {
            let context = format!("{self:?}, {remove:?} to {add:?}");
            let report = device
                .cuda()
                .update_weights(WeightUpdate {
                    w: MatrixMut::from_buffer(w, layout(&cpu_w)).expect("it fits"),
                    remove: remove.map(|n: usize| adapters[n].view()),
                    add: add.map(|n: usize| adapters[n].view()),
                    rounding,
                    record: self.record.map(|_| &mut record),
                    report: self.report,
                })
                .unwrap_or_else(|error| panic!("{context}: {error}"));
            let data: Vec<T> = device.cuda().read(w).expect("a live buffer");
            output.extend(all_bits(&data).into_iter().flat_map(u32::to_le_bytes));
            output.extend(format!("{report:?}").bytes());
            let codes =
                record.recorded().map(|_| device.cuda().download_record(&record).expect("live codes"));
            output.extend(codes.iter().flat_map(|record| record.codes()));
            if !verifies {
                continue;
            }
            let found = Stored { data, ..cpu_w.clone() }.values();
            let restores = self.record.is_some() && remove.is_some();
            for (index, (&found, &before)) in found.iter().zip(&before).enumerate() {
                let (i, j) = (index / cols, index % cols);
                let term = |n: usize| (factors[n].scale, factors[n].sum(i, j));
                let (from, remove) = if restores { (base[index], None) } else { (before, remove) };
                let expected = match add.is_none() && restores {
                    true => bits(from),
                    false => self.rounded(i, j, from, remove.map(term), add.map(term)),
                };
                assert_eq!(bits(found), expected, "{context}: W[{i}, {j}]");
            }
            if let (None, Some(n), Some(report)) = (remove, add, report) {
                let exact = |index: usize| {
                    let sum = f64::from(factors[n].sum(index / cols, index % cols));
                    f64::from(factors[n].scale) * sum + f64::from(before[index].to_f32())
                };
                assert_report(&context, &report, &before, &found, exact);
            }
            Cpu::new()
                .update_weights(WeightUpdate {
                    w: cpu_w.view_mut(),
                    remove: remove.map(|n: usize| factors[n].adapter()),
                    add: add.map(|n: usize| factors[n].adapter()),
                    rounding,
                    record: self.record.map(|_| &mut cpu_record),
                    report: false,
                })
                .expect("valid on the CPU");
            assert_eq!(record.recorded(), cpu_record.recorded(), "{context}: fingerprints");
            assert_eq!(record.escapes(), cpu_record.escapes(), "{context}: escapes");
            if let Some(codes) = codes {
                assert!(codes.codes() == cpu_record.codes(), "{context}: codes");
            }
            before = found;
        }
        adapters.into_iter().for_each(|adapter| adapter.free(device));
        free(device, w);
        free_codes(device, record);
        output
    }

    /// The bits of a new weight.
    fn rounded<T: Element>(
        &self,
        i: usize,
        j: usize,
        w: T,
        remove: Option<(f32, f32)>,
        add: Option<(f32, f32)>,
    ) -> u32 {
        let exact = bits(updated(w.to_f32(), remove, add));
        if !self.stochastic || f32::from_bits(exact).is_nan() {
            return bits(updated(w, remove, add));
        }
        let words =
            philox4x32_10([(j / 4) as u32, i as u32, 0, 0x4C6F_5241], [SEED as u32, (SEED >> 32) as u32]);
        (exact + (words[j % 4] & 0xFFFF)) >> 16
    }

    fn delta_as<T: Element, A: Element>(&self, device: &mut Device, verifies: bool) -> Vec<u8> {
        let [rows, cols] = self.shape;
        let factors = Factors::<A>::random(&mut Random(5), rows, cols, self.ranks[0], 1e-3);
        let adapter = OnDevice::new(device, &factors, self.a, self.b);
        let zeros = vec![T::from_f32(0.0); rows * cols];
        let before = Stored::new(&zeros, rows, cols, self.w.0, self.w.1);
        let buffer = upload(device, &before);
        let delta = MatrixMut::from_buffer(buffer, layout(&before)).expect("it fits");
        device
            .cuda()
            .delta(Delta { adapter: adapter.view(), delta })
            .unwrap_or_else(|error| panic!("{self:?}: {error}"));
        let after = Stored { data: device.cuda().read(buffer).expect("a live buffer"), ..before };
        if verifies {
            for (index, &found) in after.values().iter().enumerate() {
                let (i, j) = (index / cols, index % cols);
                let expected = T::from_f32(factors.scale * factors.sum(i, j));
                assert_eq!(bits(found), bits(expected), "{self:?}: Δ[{i}, {j}]");
            }
        }
        adapter.free(device);
        free(device, buffer);
        all_bits(&after.data).into_iter().flat_map(u32::to_le_bytes).collect()
    }
}

/// Ordinary weights with a few awkward ones among them.
pub fn weights<T: Element>(random: &mut Random, count: usize) -> Vec<T> {
    let mut weights: Vec<T> = random.matrix(count, 0.02);
    let special = [f32::INFINITY, f32::NAN, 0.0, -0.0, 1e-7, -3e-7, 6e-5, f32::NEG_INFINITY];
    for (n, &value) in special.iter().enumerate() {
        weights[(n * 37 + 5) % count] = T::from_f32(value);
    }
    // A NaN with a payload.
    weights[count / 2] = from_bits(if T::DTYPE.size() == 4 { 0xFFC1_2345 } else { 0xFFE5 });
    weights
}

/// Added to 1, these are lost: their codes are how many values they are away from 0.
fn far_weights<T: Element>(count: usize) -> Vec<T> {
    let sign = bits(T::from_f32(-0.0));
    let patterns = [126, 127, 128, 129, sign | 125, sign | 126, sign | 127, sign | 128];
    (0..count).map(|n| from_bits(patterns[n % patterns.len()])).collect()
}

/// Factors of a Δ that is `scale` everywhere.
fn constant<A: Element>(rows: usize, cols: usize, scale: f32) -> Factors<A> {
    let one = A::from_f32(1.0);
    Factors { a: vec![one; rows], b: vec![one; cols], rank: 1, scale }
}

fn assert_report<T: Element>(
    context: &str,
    report: &MergeReport,
    before: &[T],
    after: &[T],
    exact: impl Fn(usize) -> f64,
) {
    let errors: Vec<f64> = (0..after.len())
        .map(|index| (f64::from(after[index].to_f32()) - exact(index)).abs())
        .filter(|error| error.is_finite())
        .collect();
    let rms = (errors.iter().map(|error| error * error).sum::<f64>() / errors.len() as f64).sqrt();
    let expected = MergeReport {
        elements: after.len() as u64,
        unchanged: after.iter().zip(before).filter(|(after, before)| bits(**after) == bits(**before)).count()
            as u64,
        max_error: errors.iter().fold(0.0, |largest, &error| error.max(largest)),
        // The order of the sum differs: n terms, each off by at most 2⁻⁵² of the sum.
        rms_error: report.rms_error,
        non_finite: after.iter().filter(|value| !value.to_f32().is_finite()).count() as u64,
    };
    assert_eq!(*report, expected, "{context}");
    let bound = errors.len() as f64 * f64::EPSILON * rms;
    assert!((report.rms_error - rms).abs() <= bound, "{context}: {} instead of {rms}", report.rms_error);
}

/// A and B in the device's memory.
pub struct OnDevice<A> {
    a: Stored<A>,
    b: Stored<A>,
    scale: f32,
    buffers: [RawBuffer; 2],
}

impl<A: Element> OnDevice<A> {
    pub fn new(device: &mut Device, factors: &Factors<A>, a: Place, b: Place) -> Self {
        let rank = factors.rank;
        let a = Stored::new(&factors.a, factors.a.len() / rank, rank, a.0, a.1);
        let b = Stored::new(&factors.b, rank, factors.b.len() / rank, b.0, b.1);
        let buffers = [upload(device, &a), upload(device, &b)];
        OnDevice { a, b, scale: factors.scale, buffers }
    }

    pub fn view<'a>(&self) -> Adapter<'a, Raw> {
        let view = |buffer, layout| MatrixRef::from_buffer(buffer, layout).expect("it fits");
        let (a, b) = (view(self.buffers[0], layout(&self.a)), view(self.buffers[1], layout(&self.b)));
        Adapter { a, b, scale: self.scale }
    }

    pub fn free(self, device: &mut Device) {
        for (buffer, stored) in self.buffers.into_iter().zip([self.a, self.b]) {
            let now: Vec<A> = device.cuda().read(buffer).expect("a live buffer");
            assert!(all_bits(&now) == all_bits(&stored.data), "an adapter was written to");
            free(device, buffer);
        }
    }
}

pub fn layout<T: Element>(stored: &Stored<T>) -> Layout {
    let (rows, cols) =
        if stored.transposed { (stored.cols, stored.rows) } else { (stored.rows, stored.cols) };
    let layout = Layout::strided(rows, cols, stored.stride).expect("valid");
    if stored.transposed { layout.t() } else { layout }
}

pub fn upload<T: Element>(device: &mut Device, stored: &Stored<T>) -> RawBuffer {
    device.cuda().upload_named("argument", &stored.data).expect("a live buffer")
}

pub fn free(device: &mut Device, buffer: RawBuffer) {
    assert!(device.emulator().free(buffer.address), "the buffer was allocated");
}

pub fn free_codes(device: &mut Device, record: RestoreRecord<RawCodes>) {
    if *record.codes() != RawCodes::default() {
        assert!(device.emulator().free(record.codes().address), "the codes were allocated");
    }
}
