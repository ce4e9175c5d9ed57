//! What is the emulator's own about updates of weights: memory traffic, the room for escapes, and kernels with a fault. All
//! else is in the library's tests, which run on the emulator as well.

mod weights_support;

use half::bf16;
use lora_emulator::{EmulatedCuda, Emulator, KernelLibrary, available};
use lora_kernels::memory::{Raw, RawBuffer};
use lora_kernels::ops::WeightUpdate;
use lora_kernels::restore::{RestoreMethod, RestoreRecord};
use lora_kernels::{Adapter, Backend, Element, Error, Layout, MatrixMut, MatrixRef};
use weights_support::{Factors, Random, Stored, all_bits};

fn layout<T: Element>(stored: &Stored<T>) -> Layout {
    let (rows, cols) =
        if stored.transposed { (stored.cols, stored.rows) } else { (stored.rows, stored.cols) };
    let layout = Layout::strided(rows, cols, stored.stride).expect("valid");
    if stored.transposed { layout.t() } else { layout }
}

fn upload<T: Element>(cuda: &mut EmulatedCuda, name: &str, stored: &Stored<T>) -> RawBuffer {
    cuda.upload_named(name, &stored.data).expect("a live buffer")
}

fn view<'a, T: Element>(buffer: RawBuffer, stored: &Stored<T>) -> MatrixRef<'a, Raw> {
    MatrixRef::from_buffer(buffer, layout(stored)).expect("it fits")
}

fn view_mut<'a, T: Element>(buffer: RawBuffer, stored: &Stored<T>) -> MatrixMut<'a, Raw> {
    MatrixMut::from_buffer(buffer, layout(stored)).expect("it fits")
}

fn adapter<'a, T: Element>(
    cuda: &mut EmulatedCuda,
    factors: &Factors<T>,
    rows: usize,
    cols: usize,
) -> Adapter<'a, Raw> {
    let a = Stored::new(&factors.a, rows, factors.rank, false, 0);
    let b = Stored::new(&factors.b, factors.rank, cols, false, 0);
    Adapter { a: view(upload(cuda, "a", &a), &a), b: view(upload(cuda, "b", &b), &b), scale: factors.scale }
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
    let adapter = adapter(&mut cuda, &factors, rows, cols);

    let device_w = upload(&mut cuda, "merged", &w);
    cuda.update_weights(WeightUpdate::merge(view_mut(device_w, &w), adapter)).expect("valid");
    let traffic = cuda.emulator().traffic("merged");
    assert_eq!((traffic.bytes_read, traffic.bytes_written), (bytes, bytes));
    // Vectors, not elements: the compiler here may split them into words.
    assert!(traffic.reads <= bytes / 4 && traffic.writes <= bytes / 4, "{traffic:?}");

    let device_w = upload(&mut cuda, "recorded", &w);
    let mut record = RestoreRecord::new(RestoreMethod::Codes);
    cuda.emulator_mut().clear_records();
    cuda.update_weights(WeightUpdate::merge(view_mut(device_w, &w), adapter).record(&mut record))
        .expect("valid");
    let emulator = cuda.emulator();
    let launches = emulator.records();
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
    let adapter = adapter(&mut cuda, &factors, rows, cols);
    let device_w = upload(&mut cuda, "w", &w);
    let mut record = RestoreRecord::new(RestoreMethod::Codes);
    let error = cuda
        .update_weights(WeightUpdate::merge(view_mut(device_w, &w), adapter).record(&mut record))
        .expect_err("too many escapes");
    assert!(matches!(error, Error::TooManyEscapes { needed, capacity: 1088 } if needed > 2000), "{error}");
    assert!(record.recorded().is_none());
    let found: Vec<bf16> = cuda.read(device_w).expect("a live buffer");
    assert!(all_bits(&found) == all_bits(&w.data));
}

/// A kernel that restores wrongly, from a record that is whole: found by the fingerprint of the original.
#[test]
fn a_restored_weight_is_compared_with_the_original() {
    let test = "a_restored_weight_is_compared_with_the_original";
    if available(test, KernelLibrary::standard()).is_none() {
        return;
    }
    let fault = KernelLibrary::builder()
        .files(["weight_update.cu"])
        .replace(
            "weight_record.cuh",
            "key + static_cast<uint32_t>(code)",
            "key + static_cast<uint32_t>(code) + (code == 5)",
        )
        .keep_others()
        .build()
        .expect("the kernel compiles");
    let (rows, cols) = (16, 24);
    let factors = Factors { a: vec![1.0f32; rows], b: vec![1.0f32; cols], rank: 1, scale: 1.0 };
    for switches in [false, true] {
        let mut cuda = EmulatedCuda::on(Emulator::with_library(fault.clone()));
        // Codes are these small numbers of steps from 0.
        let base: Vec<bf16> = (0..rows * cols).map(|n| bf16::from_bits(n as u16 % 7)).collect();
        let w = Stored::new(&base, rows, cols, false, 0);
        let device_w = upload(&mut cuda, "w", &w);
        let adapter = adapter(&mut cuda, &factors, rows, cols);
        let mut record = RestoreRecord::new(RestoreMethod::Codes);
        let merge = WeightUpdate::merge(view_mut(device_w, &w), adapter);
        cuda.update_weights(merge.record(&mut record)).expect("merging has no fault");
        let update = match switches {
            false => WeightUpdate::unmerge(view_mut(device_w, &w), adapter),
            true => WeightUpdate::switch(view_mut(device_w, &w), adapter, Adapter { scale: 2.0, ..adapter }),
        };
        let error = cuda.update_weights(update.record(&mut record)).expect_err("a weight is a step off");
        assert!(matches!(error, Error::NotRestored), "{error}");
        assert!(record.recorded().is_none());
    }
}
