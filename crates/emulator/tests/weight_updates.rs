//! The kernels that change weights, against the CPU backend, bit for bit.

#[path = "../../../tests/weights_support/mod.rs"]
mod weights_support;

use half::{bf16, f16};
use lora_emulator::{EmulatedCuda, Schedule};
use lora_kernels::cpu::Cpu;
use lora_kernels::cuda::engine::RawCodes;
use lora_kernels::memory::{Raw, RawBuffer};
use lora_kernels::ops::{Delta, MergeReport, WeightUpdate};
use lora_kernels::restore::{RestoreMethod, RestoreRecord};
use lora_kernels::{Adapter, Backend, Element, Error, Layout, MatrixMut, MatrixRef, Rounding};
use weights_support::{Factors, Random, Stored, all_bits, from_bits};

/// Whether a matrix is stored transposed, and the gap between its rows.
type Place = (bool, usize);

#[derive(Clone, Copy, Debug)]
struct Case {
    shape: [usize; 2],
    ranks: [usize; 2],
    w: Place,
    a: Place,
    b: Place,
}

const CASES: &[Case] = &[
    // Aligned, with whole vectors everywhere.
    Case { shape: [64, 128], ranks: [16, 8], w: (false, 0), a: (false, 0), b: (false, 0) },
    // PEFT's layouts.
    Case { shape: [72, 136], ranks: [8, 4], w: (true, 0), a: (true, 0), b: (true, 0) },
    Case { shape: [1, 1], ranks: [1, 2], w: (false, 0), a: (false, 0), b: (false, 0) },
    Case { shape: [67, 131], ranks: [5, 33], w: (false, 3), a: (true, 1), b: (false, 2) },
    Case { shape: [67, 131], ranks: [33, 5], w: (true, 3), a: (false, 1), b: (true, 2) },
    Case { shape: [3, 150], ranks: [65, 1], w: (true, 0), a: (false, 0), b: (false, 0) },
    Case { shape: [130, 9], ranks: [2, 3], w: (false, 7), a: (false, 0), b: (true, 0) },
];

/// Two tiles each way, ragged: for many repetitions.
const SMALL: Case = Case { shape: [65, 66], ranks: [5, 33], w: (true, 3), a: (true, 1), b: (false, 2) };

fn layout<T: Element>(stored: &Stored<T>) -> Layout {
    let (rows, cols) =
        if stored.transposed { (stored.cols, stored.rows) } else { (stored.rows, stored.cols) };
    let layout = Layout::strided(rows, cols, stored.stride).expect("valid");
    if stored.transposed { layout.t() } else { layout }
}

fn upload<T: Element>(cuda: &mut EmulatedCuda, name: &str, stored: &Stored<T>) -> RawBuffer {
    cuda.upload(name, &stored.data).expect("a live buffer")
}

fn view<'a, T: Element>(buffer: RawBuffer, stored: &Stored<T>) -> MatrixRef<'a, Raw> {
    MatrixRef::from_buffer(buffer, layout(stored)).expect("it fits")
}

fn view_mut<'a, T: Element>(buffer: RawBuffer, stored: &Stored<T>) -> MatrixMut<'a, Raw> {
    MatrixMut::from_buffer(buffer, layout(stored)).expect("it fits")
}

/// An adapter on both devices.
struct BothAdapters<A> {
    a: Stored<A>,
    b: Stored<A>,
    scale: f32,
    buffers: [RawBuffer; 2],
}

impl<A: Element> BothAdapters<A> {
    fn new(cuda: &mut EmulatedCuda, factors: &Factors<A>, a: Place, b: Place) -> Self {
        let rank = factors.rank;
        let a = Stored::new(&factors.a, factors.a.len() / rank, rank, a.0, a.1);
        let b = Stored::new(&factors.b, rank, factors.b.len() / rank, b.0, b.1);
        let buffers = [upload(cuda, "a", &a), upload(cuda, "b", &b)];
        BothAdapters { a, b, scale: factors.scale, buffers }
    }

    fn host(&self) -> Adapter<'_> {
        Adapter { a: self.a.view(), b: self.b.view(), scale: self.scale }
    }

    fn device<'a>(&self) -> Adapter<'a, Raw> {
        Adapter { a: view(self.buffers[0], &self.a), b: view(self.buffers[1], &self.b), scale: self.scale }
    }
}

/// Ordinary weights with a few awkward ones among them.
fn weights<T: Element>(random: &mut Random, count: usize) -> Vec<T> {
    let mut weights: Vec<T> = random.matrix(count, 0.02);
    let special = [f32::INFINITY, f32::NAN, 0.0, -0.0, 1e-7, -3e-7, 6e-5, f32::NEG_INFINITY];
    for (n, &value) in special.iter().enumerate() {
        weights[(n * 37 + 5) % count] = T::from_f32(value);
    }
    if count > 100 {
        // A NaN with a payload, and the smallest weight.
        weights[99] = from_bits(if T::DTYPE.size() == 4 { 0xFFC1_2345 } else { 0xFFE5 });
        weights[98] = from_bits(1);
    }
    weights
}

#[track_caller]
fn assert_same_report(ours: Option<MergeReport>, cpu: Option<MergeReport>) {
    let (Some(ours), Some(cpu)) = (ours, cpu) else {
        assert_eq!(ours, cpu);
        return;
    };
    // The order of the sum differs.
    let difference = (ours.rms_error - cpu.rms_error).abs();
    assert!(difference <= 1e-12 * cpu.rms_error, "{} {}", ours.rms_error, cpu.rms_error);
    assert_eq!(MergeReport { rms_error: 0.0, ..ours }, MergeReport { rms_error: 0.0, ..cpu });
}

/// Merge, switch to and fro, and unmerge on both devices; everything must agree after each step.
fn agrees<T: Element, A: Element>(
    cuda: &mut EmulatedCuda,
    case: Case,
    method: Option<RestoreMethod>,
    rounding: Rounding,
    report: bool,
) {
    let [rows, cols] = case.shape;
    let mut random = Random(rows as u64 * 1000 + cols as u64);
    let base: Vec<T> = weights(&mut random, rows * cols);
    let adapters = case.ranks.map(|rank| {
        let factors = Factors::<A>::random(&mut random, rows, cols, rank, 3e-3);
        BothAdapters::new(cuda, &factors, case.a, case.b)
    });
    let mut w = Stored::new(&base, rows, cols, case.w.0, case.w.1);
    let device_w = upload(cuda, "w", &w);
    let mut record = RestoreRecord::new(method.unwrap_or_default());
    let mut device_record: RestoreRecord<RawCodes> = RestoreRecord::new(method.unwrap_or_default());
    let steps = [(None, Some(0)), (Some(0), Some(1)), (Some(1), Some(0)), (Some(0), None)];
    for (remove, add) in steps {
        let context = format!(
            "{} with {} adapters, {case:?}, {method:?}, {rounding:?}, report {report}, {remove:?} to {add:?}",
            T::DTYPE,
            A::DTYPE
        );
        let expected = Cpu::new()
            .update_weights(WeightUpdate {
                w: w.view_mut(),
                remove: remove.map(|n: usize| adapters[n].host()),
                add: add.map(|n: usize| adapters[n].host()),
                rounding,
                record: method.map(|_| &mut record),
                report,
            })
            .expect("valid on the CPU");
        let found = cuda
            .update_weights(WeightUpdate {
                w: view_mut(device_w, &w),
                remove: remove.map(|n: usize| adapters[n].device()),
                add: add.map(|n: usize| adapters[n].device()),
                rounding,
                record: method.map(|_| &mut device_record),
                report,
            })
            .unwrap_or_else(|error| panic!("{context}: {error}"));
        let device_data: Vec<T> = cuda.download(device_w).expect("a live buffer");
        assert!(all_bits(&device_data) == all_bits(&w.data), "{context}");
        assert_same_report(found, expected);
        assert_eq!(device_record.recorded(), record.recorded(), "{context}");
        assert_eq!(device_record.escapes(), record.escapes(), "{context}");
        if method.is_some() && record.recorded().is_some() {
            let downloaded = cuda.download_record(&device_record).expect("live codes");
            assert!(downloaded.codes() == record.codes(), "{context}");
        }
    }
    if method.is_some() {
        assert!(all_bits(&w.values()) == all_bits(&base), "the CPU restores");
    }
}

fn all_types(
    cuda: &mut EmulatedCuda,
    case: Case,
    method: Option<RestoreMethod>,
    seed: Option<u64>,
    report: bool,
) {
    let nearest = Rounding::Nearest;
    let rounding = seed.map_or(nearest, |seed| Rounding::Stochastic { seed });
    agrees::<bf16, bf16>(cuda, case, method, rounding, report);
    agrees::<bf16, f32>(cuda, case, method, rounding, report);
    agrees::<f16, f16>(cuda, case, method, rounding, report);
    agrees::<f16, f32>(cuda, case, method, rounding, report);
    agrees::<f32, f32>(cuda, case, method, nearest, report);
}

#[test]
fn updates_have_the_same_bits_as_on_the_cpu() {
    let Some(mut cuda) = EmulatedCuda::for_test("updates_have_the_same_bits_as_on_the_cpu") else { return };
    for &case in CASES {
        all_types(&mut cuda, case, None, None, false);
        all_types(&mut cuda, case, None, Some(0xFEED_5EED_0000_0001), false);
    }
}

#[test]
fn reports_agree_with_the_cpu() {
    let Some(mut cuda) = EmulatedCuda::for_test("reports_agree_with_the_cpu") else { return };
    for &case in CASES {
        all_types(&mut cuda, case, None, None, true);
    }
}

#[test]
fn records_agree_with_the_cpu() {
    let Some(mut cuda) = EmulatedCuda::for_test("records_agree_with_the_cpu") else { return };
    for &case in CASES {
        all_types(&mut cuda, case, Some(RestoreMethod::Codes), None, false);
        agrees::<bf16, bf16>(&mut cuda, case, Some(RestoreMethod::Backup), Rounding::Nearest, false);
    }
    for case in [CASES[3], CASES[4]] {
        agrees::<bf16, f32>(
            &mut cuda,
            case,
            Some(RestoreMethod::Codes),
            Rounding::Stochastic { seed: 7 },
            true,
        );
        agrees::<f16, f16>(
            &mut cuda,
            case,
            Some(RestoreMethod::Codes),
            Rounding::Stochastic { seed: 8 },
            true,
        );
        agrees::<f32, f32>(&mut cuda, case, Some(RestoreMethod::Backup), Rounding::Nearest, true);
    }
}

/// Every order of threads and blocks gives the same bits.
#[test]
fn schedules_do_not_matter() {
    let Some(mut cuda) = EmulatedCuda::for_test("schedules_do_not_matter") else { return };
    for schedule in Schedule::matrix(10) {
        cuda.emulator_mut().set_schedule(schedule);
        agrees::<bf16, f32>(&mut cuda, SMALL, Some(RestoreMethod::Codes), Rounding::Nearest, true);
        agrees::<f16, f16>(&mut cuda, SMALL, None, Rounding::Stochastic { seed: 3 }, false);
    }
}

#[test]
fn delta_has_the_same_bits_as_on_the_cpu() {
    fn check<T: Element, A: Element>(cuda: &mut EmulatedCuda, case: Case) {
        let [rows, cols] = case.shape;
        let factors = Factors::<A>::random(&mut Random(5), rows, cols, case.ranks[0], 1e-3);
        let adapter = BothAdapters::new(cuda, &factors, case.a, case.b);
        let zeros = vec![T::from_f32(0.0); rows * cols];
        let mut delta = Stored::new(&zeros, rows, cols, case.w.0, case.w.1);
        let device_delta = upload(cuda, "delta", &delta);
        Cpu::new().delta(Delta { adapter: adapter.host(), delta: delta.view_mut() }).expect("valid");
        cuda.delta(Delta { adapter: adapter.device(), delta: view_mut(device_delta, &delta) })
            .expect("valid");
        let found: Vec<T> = cuda.download(device_delta).expect("a live buffer");
        assert!(all_bits(&found) == all_bits(&delta.data), "{} {case:?}", T::DTYPE);
    }
    let Some(mut cuda) = EmulatedCuda::for_test("delta_has_the_same_bits_as_on_the_cpu") else { return };
    for &case in CASES {
        check::<f32, bf16>(&mut cuda, case);
        check::<f16, f32>(&mut cuda, case);
        check::<bf16, f16>(&mut cuda, case);
    }
}

/// W is read once and written once; recording reads it once more.
#[test]
fn traffic_of_an_update() {
    let Some(mut cuda) = EmulatedCuda::for_test("traffic_of_an_update") else { return };
    let (rows, cols) = (128, 192);
    let bytes = (rows * cols * 2) as u64;
    let mut random = Random(4);
    let base: Vec<bf16> = random.matrix(rows * cols, 0.02);
    let w = Stored::new(&base, rows, cols, false, 0);
    let factors = Factors::<bf16>::random(&mut random, rows, cols, 16, 1e-3);
    let adapter = BothAdapters::new(&mut cuda, &factors, (false, 0), (false, 0));

    let device_w = upload(&mut cuda, "merged", &w);
    cuda.update_weights(WeightUpdate::merge(view_mut(device_w, &w), adapter.device())).expect("valid");
    let traffic = cuda.emulator().traffic("merged");
    assert_eq!((traffic.bytes_read, traffic.bytes_written), (bytes, bytes));
    // Vectors, not elements: the compiler here may split them into words.
    assert!(traffic.reads <= bytes / 4 && traffic.writes <= bytes / 4, "{traffic:?}");

    let device_w = upload(&mut cuda, "recorded", &w);
    let mut record = RestoreRecord::new(RestoreMethod::Codes);
    cuda.emulator_mut().clear_records();
    cuda.update_weights(WeightUpdate::merge(view_mut(device_w, &w), adapter.device()).record(&mut record))
        .expect("valid");
    let launches = cuda.emulator().records();
    let updates: Vec<_> = launches.iter().filter(|step| step.name == "weight_update_recorded_bf16").collect();
    assert_eq!(updates.len(), 2, "a dry run and the update");
    let [dry, real] = [updates[0], updates[1]].map(|step| step.buffers["recorded"]);
    assert_eq!((dry.bytes_read, dry.bytes_written), (bytes, 0));
    assert_eq!((real.bytes_read, real.bytes_written), (bytes, bytes));
    let codes = updates[1].buffers["restore codes"];
    assert_eq!((codes.bytes_read, codes.bytes_written, codes.writes), (0, bytes / 2, bytes / 8));
    assert!(!updates[0].buffers.contains_key("restore codes"), "a dry run leaves the codes alone");
}

/// Zeros cannot be described by codes: more escapes than there is room for.
#[test]
fn too_many_escapes_are_refused_before_anything_is_written() {
    let Some(mut cuda) = EmulatedCuda::for_test("too_many_escapes_are_refused_before_anything_is_written")
    else {
        return;
    };
    let (rows, cols) = (64, 64);
    let mut random = Random(4);
    let w = Stored::new(&vec![bf16::from_f32(0.0); rows * cols], rows, cols, false, 0);
    let factors = Factors::<bf16>::random(&mut random, rows, cols, 4, 1e-3);
    let adapter = BothAdapters::new(&mut cuda, &factors, (false, 0), (false, 0));
    let device_w = upload(&mut cuda, "w", &w);
    let mut record = RestoreRecord::new(RestoreMethod::Codes);
    let error = cuda
        .update_weights(WeightUpdate::merge(view_mut(device_w, &w), adapter.device()).record(&mut record))
        .expect_err("too many escapes");
    assert!(matches!(error, Error::TooManyEscapes { needed, capacity: 1088 } if needed > 2000), "{error}");
    assert!(record.recorded().is_none());
    let found: Vec<bf16> = cuda.download(device_w).expect("a live buffer");
    assert!(all_bits(&found) == all_bits(&w.data));
}

/// A record made on the CPU restores on the device, unless it is damaged or belongs to something else.
#[test]
fn records_move_between_devices() {
    let Some(mut cuda) = EmulatedCuda::for_test("records_move_between_devices") else { return };
    let (rows, cols) = (40, 50);
    let mut random = Random(6);
    let base: Vec<f16> = weights(&mut random, rows * cols);
    let factors = Factors::<f16>::random(&mut random, rows, cols, 4, 1e-2);
    let adapter = BothAdapters::new(&mut cuda, &factors, (false, 0), (false, 0));
    let mut w = Stored::new(&base, rows, cols, false, 0);
    let mut record = RestoreRecord::new(RestoreMethod::Codes);
    Cpu::new()
        .update_weights(WeightUpdate::merge(w.view_mut(), adapter.host()).record(&mut record))
        .expect("valid");
    let device_w = upload(&mut cuda, "w", &w);

    let refuse = |cuda: &mut EmulatedCuda, scale: f32, record: &mut RestoreRecord<RawCodes>, word: &str| {
        let other = Adapter { scale, ..adapter.device() };
        let unmerge = WeightUpdate::unmerge(view_mut(device_w, &w), other).record(record);
        let error = cuda.update_weights(unmerge).expect_err("refused");
        assert!(matches!(&error, Error::RecordMismatch(text) if text.contains(word)), "{error}");
        let found: Vec<f16> = cuda.download(device_w).expect("a live buffer");
        assert!(all_bits(&found) == all_bits(&w.data), "nothing is written");
    };
    let mut whole = cuda.upload_record(&record).expect("live codes");
    refuse(&mut cuda, 3.0, &mut whole, "scale");
    let recorded = *record.recorded().expect("it was merged");
    let codes = *whole.codes();
    let mut damaged = RestoreRecord::from_parts(RestoreMethod::Codes, recorded, codes, vec![]);
    refuse(&mut cuda, adapter.scale, &mut damaged, "escape");
    let short = RawCodes { bytes: codes.bytes - 1, ..codes };
    let mut short =
        RestoreRecord::from_parts(RestoreMethod::Codes, recorded, short, record.escapes().to_vec());
    refuse(&mut cuda, adapter.scale, &mut short, "2000");

    cuda.update_weights(WeightUpdate::unmerge(view_mut(device_w, &w), adapter.device()).record(&mut whole))
        .expect("the record fits");
    let found: Vec<f16> = cuda.download(device_w).expect("a live buffer");
    assert!(all_bits(&found) == all_bits(&base));
    assert!(whole.recorded().is_none());
}

#[test]
fn without_adapters_nothing_changes() {
    let Some(mut cuda) = EmulatedCuda::for_test("without_adapters_nothing_changes") else { return };
    let base: Vec<bf16> = weights(&mut Random(8), 30 * 40);
    let w = Stored::new(&base, 30, 40, false, 0);
    let device_w = upload(&mut cuda, "w", &w);
    let report = cuda
        .update_weights(WeightUpdate {
            w: view_mut(device_w, &w),
            remove: None,
            add: None,
            rounding: Rounding::Nearest,
            record: None,
            report: true,
        })
        .expect("valid")
        .expect("it was asked for");
    assert_eq!((report.elements, report.unchanged, report.max_error), (1200, 1200, 0.0));
    let found: Vec<bf16> = cuda.download(device_w).expect("a live buffer");
    assert!(all_bits(&found) == all_bits(&base));
}
