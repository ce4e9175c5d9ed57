//! The CUDA backend's planner and kernels on the emulator, against the CPU backend.

use half::bf16;
use lora_emulator::{EmulatedCuda, Schedule};
use lora_kernels::cpu::Cpu;
use lora_kernels::memory::{Raw, RawBuffer};
use lora_kernels::{Adapter, Backend, DType, Forward, Layout, MatrixMut, MatrixRef};

fn integers(count: usize, seed: u32) -> Vec<bf16> {
    let draw = |i: u32| (i.wrapping_mul(2_654_435_761).wrapping_add(seed) >> 20) % 5;
    (0..count as u32).map(|i| bf16::from_f32(draw(i) as f32 - 2.0)).collect()
}

fn view(buffer: RawBuffer, rows: usize, cols: usize) -> MatrixRef<'static, Raw> {
    MatrixRef::from_buffer(buffer, Layout::packed(rows, cols).expect("small")).unwrap()
}

#[test]
fn a_forward_gives_the_bits_of_the_cpu() {
    let Some(mut cuda) = EmulatedCuda::for_test("a_forward_gives_the_bits_of_the_cpu") else { return };
    let (m, features, rank, out) = (33, 104, 5, 72);
    let (x, w) = (integers(m * features, 1), integers(features * out, 2));
    let (a, b) = (integers(features * rank, 3), integers(rank * out, 4));
    let scale = 0.5;

    let mut expected = vec![bf16::ZERO; m * out];
    Cpu::default()
        .forward(Forward {
            x: MatrixRef::new(&x, m, features).unwrap(),
            w: MatrixRef::new(&w, features, out).unwrap(),
            bias: None,
            adapter: Adapter {
                a: MatrixRef::new(&a, features, rank).unwrap(),
                b: MatrixRef::new(&b, rank, out).unwrap(),
                scale,
            },
            dropout: None,
            y: MatrixMut::new(&mut expected, m, out).unwrap(),
            s: None,
        })
        .unwrap();

    for schedule in Schedule::matrix(4) {
        cuda.emulator_mut().set_schedule(schedule);
        cuda.emulator_mut().clear_records();
        let device = [("x", &x), ("w", &w), ("a", &a), ("b", &b)]
            .map(|(name, data)| cuda.upload_named(name, data).unwrap());
        let y = cuda.allocate_named("y", DType::Bf16, m * out);
        cuda.forward(Forward {
            x: view(device[0], m, features),
            w: view(device[1], features, out),
            bias: None,
            adapter: Adapter { a: view(device[2], features, rank), b: view(device[3], rank, out), scale },
            dropout: None,
            y: MatrixMut::from_buffer(y, Layout::packed(m, out).expect("small")).unwrap(),
            s: None,
        })
        .unwrap_or_else(|error| panic!("{error}"));
        let found: Vec<bf16> = cuda.read(y).unwrap();
        let to_f32 = |values: &[bf16]| values.iter().map(|value| value.to_f32()).collect::<Vec<_>>();
        assert_eq!(to_f32(&found), to_f32(&expected), "{schedule}");
        for buffer in [device[0], device[1], device[2], device[3], y] {
            cuda.emulator_mut().free(buffer.address);
        }
    }
}
