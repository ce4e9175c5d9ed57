//! Mechanisms of sm_90a: right kernels pass under every schedule, planted faults are reported.

mod support;

use half::{bf16, f16};
use lora_emulator::{FaultKind, Swizzle, TensorMap};
use lora_kernels::cuda::executor::Executor;
use lora_kernels::{DType, Element};
use support::{arguments, device, download, fault, launch, schedules, upload};

/// Small integers, so that every order of summation gives the same bits.
fn integers<T: Element>(count: usize, seed: u32) -> Vec<T> {
    let draw = |i: u32| (i + seed * 1_000_003).wrapping_mul(2_654_435_761) >> 20;
    (0..count as u32).map(|i| T::from_f32((draw(i) % 9) as f32 - 4.0)).collect()
}

const SWIZZLES: [Swizzle; 4] = [Swizzle::None, Swizzle::Bytes32, Swizzle::Bytes64, Swizzle::Bytes128];

fn row_bytes(swizzle: Swizzle) -> usize {
    match swizzle {
        Swizzle::None | Swizzle::Bytes32 => 32,
        Swizzle::Bytes64 => 64,
        Swizzle::Bytes128 => 128,
    }
}

/// Where 16-byte piece `piece` of row `row` goes: the manual's figures, in numbers of pieces.
fn swizzled(swizzle: Swizzle, row: usize, piece: usize) -> usize {
    let permuted = match swizzle {
        Swizzle::None => piece,
        Swizzle::Bytes32 => piece ^ (row / 4 % 2),
        Swizzle::Bytes64 => piece ^ (row / 2 % 4),
        Swizzle::Bytes128 => piece ^ (row % 8),
    };
    row * row_bytes(swizzle) / 16 + permuted
}

fn boxes(kernel: &'static str, kinds: Option<&[FaultKind]>) {
    let Some(mut emulator) = device(kernel) else { return };
    let (rows, columns, stride) = (19i32, 72i32, 80i32);
    let x: Vec<f16> = (0..rows * stride).map(|i| f16::from_f32(i as f32)).collect();
    let origins = [(0, 0), (-3, -2), (60, 15), (80, 0)];
    let mut caught = 0;
    for schedule in schedules() {
        for (swizzle, (column, row)) in SWIZZLES.into_iter().zip(origins) {
            emulator.set_schedule(schedule);
            let (box_rows, box_columns) = (16, row_bytes(swizzle) / 2);
            let bytes = box_rows * box_columns * 2;
            let from = upload(&mut emulator, "x", &x);
            let to = upload(&mut emulator, "y", &vec![f16::ZERO; x.len()]);
            let image = emulator.allocate("image", bytes);
            let map = |address| TensorMap {
                address,
                element_bytes: 2,
                columns: columns as u64,
                rows: rows as u64,
                row_bytes: stride as u64 * 2,
                box_columns: box_columns as u32,
                box_rows: box_rows as u32,
                swizzle,
            };
            let mut argument = map(from).encode().unwrap().to_vec();
            argument.extend(map(to).encode().unwrap());
            argument.extend(arguments(&[image], &[column as u32, row as u32, bytes as u32, 0]));
            argument.resize(320, 0);
            let step = launch(kernel, 1, 64, bytes as u32, argument);
            if let Some(kinds) = kinds {
                if emulator.run(&step).is_err() {
                    let fault = emulator.last_fault().unwrap();
                    assert!(kinds.contains(&fault.kind), "{fault}");
                    caught += 1;
                }
                continue;
            }
            emulator.run(&step).unwrap_or_else(|error| panic!("{error}"));
            let image: Vec<u16> = download(&mut emulator, image, bytes / 2);
            let moved: Vec<u16> = download(&mut emulator, to, x.len());
            let mut expected = vec![0u16; x.len()];
            for r in 0..box_rows {
                for c in 0..box_columns {
                    let (global_row, global_column) = (row + r as i32, column + c as i32);
                    let inside = (0..rows).contains(&global_row) && (0..columns).contains(&global_column);
                    let place = (global_row * stride + global_column) as usize;
                    let value = if inside { x[place].to_bits() } else { 0 };
                    assert_eq!(image[swizzled(swizzle, r, c / 8) * 8 + c % 8], value, "{swizzle:?} {r} {c}");
                    if inside {
                        expected[place] = value ^ 0x0101;
                    }
                }
            }
            assert_eq!(moved, expected, "{swizzle:?} {schedule}");
        }
    }
    if kinds.is_some() {
        assert_eq!(caught, 4 * schedules().len(), "{kernel}");
    }
}

#[test]
fn boxes_are_swizzled_filled_and_clipped() {
    boxes("move_box_right", None);
}

#[test]
fn faults_with_boxes_are_caught() {
    use FaultKind::*;
    boxes("move_box_without_wait", Some(&[Race, NeverWritten]));
    boxes("move_box_too_few_bytes", Some(&[Deadlock, Race]));
    boxes("move_box_too_many_bytes", Some(&[Deadlock]));
    boxes("move_box_without_proxy_fence", Some(&[MissingProxyFence]));
    boxes("move_box_without_store_wait", Some(&[InFlightAtExit]));
    boxes("move_box_without_init_fence", Some(&[MissingProxyFence]));
    boxes("move_box_extra_arrival", Some(&[BarrierMisuse]));
}

#[test]
fn maps_that_the_driver_would_refuse_are_refused() {
    let map = TensorMap {
        address: 4096,
        element_bytes: 2,
        columns: 64,
        rows: 8,
        row_bytes: 128,
        box_columns: 64,
        box_rows: 8,
        swizzle: Swizzle::Bytes128,
    };
    assert_eq!(map.box_bytes(), 1024);
    assert!(map.encode().is_ok());
    for wrong in [
        TensorMap { address: 4104, ..map },
        TensorMap { row_bytes: 136, ..map },
        TensorMap { row_bytes: 112, ..map },
        TensorMap { box_rows: 257, ..map },
        TensorMap { box_columns: 128, ..map },
        TensorMap { element_bytes: 3, ..map },
    ] {
        assert!(wrong.encode().is_err(), "{wrong:?}");
    }
}

/// A factor as it lies in shared memory, with the two offsets of its descriptor.
struct Image {
    bytes: Vec<u8>,
    leading: u32,
    stride: u32,
}

/// `extent` × 16 elements, given by (outer, k). `transposed` means that neighbours along `outer` are contiguous.
fn image(swizzle: Swizzle, transposed: bool, extent: usize, element: impl Fn(usize, usize) -> u16) -> Image {
    let span = row_bytes(swizzle);
    let (leading, stride);
    // Byte address of (outer, k), from the manual's canonical layouts.
    let address: Box<dyn Fn(usize, usize) -> usize> = match (swizzle, transposed) {
        (Swizzle::None, false) => {
            (leading, stride) = (128, 256);
            Box::new(|outer, k| outer / 8 * 256 + k / 8 * 128 + outer % 8 * 16 + k % 8 * 2)
        }
        (Swizzle::None, true) => {
            (leading, stride) = (128, 256);
            Box::new(|outer, k| outer / 8 * 256 + k / 8 * 128 + k % 8 * 16 + outer % 8 * 2)
        }
        // 16 of the k that fit a row of the swizzle's width are used.
        (_, false) => {
            (leading, stride) = (16, 8 * span);
            Box::new(move |outer, k| swizzled(swizzle, outer, k / 8) * 16 + k % 8 * 2)
        }
        // Columns of `span` bytes along `outer`; each has 16 rows, one a k.
        (_, true) => {
            (leading, stride) = (16 * span, 8 * span);
            let width = span / 2;
            Box::new(move |outer, k| {
                let within = outer % width;
                outer / width * 16 * span + swizzled(swizzle, k, within / 8) * 16 + within % 8 * 2
            })
        }
    };
    let mut bytes = vec![0u8; extent.div_ceil(8) * 8 * span.max(32)];
    for outer in 0..extent {
        for k in 0..16 {
            let place = address(outer, k);
            if bytes.len() < place + 2 {
                bytes.resize(place + 2, 0);
            }
            bytes[place..place + 2].copy_from_slice(&element(outer, k).to_le_bytes());
        }
    }
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    Image { bytes, leading: leading as u32, stride: stride as u32 }
}

fn bits<T: Element>(values: &[T]) -> &[u16] {
    bytemuck::cast_slice(values)
}

fn products<T: Element>(
    kernel: &'static str,
    n: usize,
    a_transposed: bool,
    b_transposed: bool,
    kind: Option<FaultKind>,
) {
    let Some(mut emulator) = device(kernel) else { return };
    assert_ne!(T::DTYPE, DType::F32);
    let (a, b) = (integers::<T>(64 * 16, 1), integers::<T>(16 * n, 2));
    let mut expected = vec![0.0f32; 64 * n];
    for row in 0..64 {
        for column in 0..n {
            let products = (0..16).map(|k| a[row * 16 + k].to_f32() * b[k * n + column].to_f32());
            expected[row * n + column] = 2.0 * products.sum::<f32>();
        }
    }
    let in_registers = kernel.contains("registers");
    for schedule in schedules() {
        emulator.set_schedule(schedule);
        for swizzle in SWIZZLES {
            if b_transposed && swizzle != Swizzle::None && n < row_bytes(swizzle) / 2 {
                continue;
            }
            let a_image =
                image(if in_registers { Swizzle::None } else { swizzle }, a_transposed, 64, |row, k| {
                    bits(&a)[row * 16 + k]
                });
            let a_bytes = if in_registers { bytemuck::cast_slice(bits(&a)).to_vec() } else { a_image.bytes };
            let b_image = image(swizzle, b_transposed, n, |column, k| bits(&b)[k * n + column]);
            let addresses = [
                upload(&mut emulator, "a", &a_bytes),
                upload(&mut emulator, "b", &b_image.bytes),
                emulator.allocate("c", 64 * n * 4),
            ];
            let code = match swizzle {
                Swizzle::None => 0,
                Swizzle::Bytes128 => 1,
                Swizzle::Bytes64 => 2,
                Swizzle::Bytes32 => 3,
            };
            let numbers = [
                a_bytes.len() as u32,
                b_image.bytes.len() as u32,
                a_image.leading,
                a_image.stride,
                b_image.leading,
                b_image.stride,
                code,
                0,
            ];
            let shared = a_bytes.len().next_multiple_of(1024) + b_image.bytes.len();
            let step = launch(kernel, 1, 128, shared as u32, arguments(&addresses, &numbers));
            match kind {
                Some(kind) => assert_eq!(fault(&mut emulator, &step).kind, kind),
                None => {
                    emulator.run(&step).unwrap_or_else(|error| panic!("{error}"));
                    let c: Vec<f32> = download(&mut emulator, addresses[2], 64 * n);
                    assert_eq!(c, expected, "{swizzle:?} {schedule}");
                }
            }
            addresses.into_iter().for_each(|address| assert!(emulator.free(address)));
        }
    }
}

#[test]
fn products_of_a_warpgroup() {
    products::<bf16>("wgmma_rows_rows_64", 64, false, false, None);
    products::<bf16>("wgmma_rows_columns_64", 64, false, true, None);
    products::<f16>("wgmma_columns_rows_64", 64, true, false, None);
    products::<f16>("wgmma_columns_columns_64", 64, true, true, None);
    products::<f16>("wgmma_rows_rows_8", 8, false, false, None);
    products::<f16>("wgmma_rows_rows_256", 256, false, false, None);
    products::<bf16>("wgmma_registers_64", 64, false, false, None);
}

#[test]
fn faults_with_products_are_caught() {
    products::<bf16>("wgmma_without_proxy_fence", 64, false, false, Some(FaultKind::MissingProxyFence));
    products::<bf16>("wgmma_without_fence", 64, false, false, Some(FaultKind::UnfencedRegisters));
    products::<bf16>("wgmma_without_wait", 64, false, false, Some(FaultKind::InFlightAtExit));
}

/// Runs the pipelined product under every schedule; returns how many saw a fault or a wrong result.
fn pipeline(kernel: &'static str) -> Option<usize> {
    let mut emulator = device(kernel)?;
    let (m, n, k) = (128, 128, 320);
    let (a, b) = (integers::<bf16>(m * k, 1), integers::<bf16>(n * k, 2));
    let mut expected = vec![0.0f32; m * n];
    for (place, sum) in expected.iter_mut().enumerate() {
        let (row, column) = (place / n, place % n);
        *sum = (0..k).map(|i| a[row * k + i].to_f32() * b[column * k + i].to_f32()).sum();
    }
    let mut caught = 0;
    for schedule in schedules() {
        emulator.set_schedule(schedule);
        let c = emulator.allocate("c", m * n * 4);
        let mut argument = Vec::new();
        for (name, values) in [("a", &a), ("b", &b)] {
            let map = TensorMap {
                address: upload(&mut emulator, name, values),
                element_bytes: 2,
                columns: k as u64,
                rows: m as u64,
                row_bytes: 2 * k as u64,
                box_columns: 64,
                box_rows: 128,
                swizzle: Swizzle::Bytes128,
            };
            argument.extend(map.encode().unwrap());
        }
        argument.extend(arguments(&[c], &[n as u32, k as u32]));
        argument.resize(320, 0);
        let step = launch(kernel, 1, 384, 4 * 128 * 128, argument);
        let fails = match emulator.run(&step) {
            Err(error) => {
                assert_ne!(kernel, "pipelined_right", "{error}");
                true
            }
            Ok(()) => download::<f32>(&mut emulator, c, m * n) != expected,
        };
        caught += usize::from(fails);
    }
    Some(caught)
}

#[test]
fn a_pipeline_of_tma_and_wgmma() {
    if let Some(caught) = pipeline("pipelined_right") {
        assert_eq!(caught, 0);
    }
}

#[test]
fn faults_of_pipelines_are_caught_by_every_schedule() {
    for kernel in [
        "pipelined_without_empty_wait",
        "pipelined_without_full_wait",
        "pipelined_too_few_bytes",
        "pipelined_early_release",
        "pipelined_without_wgmma_wait",
        "pipelined_swapped_operands",
    ] {
        if let Some(caught) = pipeline(kernel) {
            assert_eq!(caught, schedules().len(), "{kernel}");
        }
    }
}

#[test]
fn blocks_of_a_cluster_share_memory() {
    let Some(mut emulator) = device("blocks_of_a_cluster_share_memory") else { return };
    let x: Vec<f32> = (0..256).map(|i| (i % 13) as f32).collect();
    let expected: Vec<f32> =
        (0..256).map(|i| (0..4).map(|rank| x[i / 128 * 128 + rank * 32 + i % 32]).sum()).collect();
    for schedule in schedules() {
        emulator.set_schedule(schedule);
        for (kernel, kinds) in [
            ("cluster_sums_right", [].as_slice()),
            (
                "cluster_sums_without_barrier",
                &[FaultKind::NeverWritten, FaultKind::Race, FaultKind::OutOfBounds],
            ),
        ] {
            let (from, to) = (upload(&mut emulator, "x", &x), emulator.allocate("y", 1024));
            let mut argument = vec![0; 128];
            argument.extend(arguments(&[from, to], &[]));
            argument.resize(192, 0);
            let step = launch(kernel, 8, 32, 128, argument);
            if kinds.is_empty() {
                emulator.run(&step).unwrap_or_else(|error| panic!("{error}"));
                assert_eq!(download::<f32>(&mut emulator, to, 256), expected, "{schedule}");
            } else {
                let fault = fault(&mut emulator, &step);
                assert!(kinds.contains(&fault.kind), "{fault}");
            }
        }
    }
}

#[test]
fn a_cluster_without_a_closing_handshake_is_caught_by_every_schedule() {
    let Some(mut emulator) = device("a_cluster_without_a_closing_handshake") else { return };
    let caught = schedules().into_iter().filter(|schedule| {
        emulator.set_schedule(*schedule);
        let x = vec![1.0f32; 256];
        let (from, to) = (upload(&mut emulator, "x", &x), emulator.allocate("y", 1024));
        let mut argument = vec![0; 128];
        argument.extend(arguments(&[from, to], &[]));
        argument.resize(192, 0);
        let result = emulator.run(&launch("cluster_sums_without_closing_barrier", 8, 32, 128, argument));
        if result.is_err() {
            let fault = emulator.last_fault().unwrap();
            assert!(fault.message.contains("has ended"), "{fault}");
        }
        result.is_err()
    });
    assert_eq!(caught.count(), schedules().len());
}

#[test]
fn a_box_for_two_blocks() {
    let Some(mut emulator) = device("a_box_for_two_blocks") else { return };
    let x: Vec<f32> = (0..16 * 8).map(|i| i as f32).collect();
    for schedule in schedules() {
        emulator.set_schedule(schedule);
        emulator.clear_records();
        let (from, to) = (upload(&mut emulator, "x", &x), emulator.allocate("y", 4 * 64 * 4));
        let map = TensorMap {
            address: from,
            element_bytes: 4,
            columns: 8,
            rows: 16,
            row_bytes: 32,
            box_columns: 8,
            box_rows: 8,
            swizzle: Swizzle::None,
        };
        let mut argument = map.encode().unwrap().to_vec();
        argument.extend(arguments(&[from, to], &[]));
        argument.resize(192, 0);
        emulator.run(&launch("multicast", 4, 32, 2048, argument)).unwrap_or_else(|error| panic!("{error}"));
        let y: Vec<f32> = download(&mut emulator, to, 256);
        assert_eq!(y[..64], x[..64], "{schedule}");
        assert_eq!(y[64..128], x[..64]);
        assert_eq!(y[128..192], x[64..]);
        assert_eq!(y[192..], x[64..]);
        assert_eq!(emulator.traffic("x").bytes_read, 512, "each box is read once for two blocks");
        emulator.free(from);
        emulator.free(to);
    }
}

#[test]
fn named_barriers() {
    let Some(mut emulator) = device("named_barriers") else { return };
    let x: Vec<f32> = (0..128).map(|i| i as f32).collect();
    let expected: Vec<f32> = (0..32).map(|i| x[32 + i] + x[64 + i] + x[96 + i]).collect();
    for schedule in schedules() {
        emulator.set_schedule(schedule);
        let (from, to) = (upload(&mut emulator, "x", &x), emulator.allocate("y", 128));
        let step = |kernel| launch(kernel, 1, 128, 0, arguments(&[from, to], &[]));
        emulator.run(&step("named_handover_right")).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(download::<f32>(&mut emulator, to, 32), expected, "{schedule}");
        let fault = fault(&mut emulator, &step("named_handover_without_barrier"));
        assert!([FaultKind::NeverWritten, FaultKind::Race].contains(&fault.kind), "{fault}");
    }
}

#[test]
fn stored_matrices() {
    let Some(mut emulator) = device("stored_matrices") else { return };
    let x: Vec<u32> = (0..128u32).map(|i| i | (i + 1000) << 16).collect();
    let (from, to) = (upload(&mut emulator, "x", &x), emulator.allocate("y", 1024));
    emulator.run(&launch("store_matrices", 1, 32, 0, arguments(&[from, to], &[]))).unwrap();
    let y: Vec<u16> = download(&mut emulator, to, 512);
    for matrix in 0..4 {
        for row in 0..8 {
            for column in 0..8 {
                let register = x[matrix * 32 + row * 4 + column / 2];
                let value = (register >> (16 * (column % 2))) as u16;
                assert_eq!(y[matrix * 64 + row * 8 + column], value);
                assert_eq!(y[256 + matrix * 64 + column * 8 + row], value);
            }
        }
    }
}

#[test]
fn the_rest() {
    let Some(mut emulator) = device("the_rest") else { return };
    let to = emulator.allocate("y", 128);
    let step = |kernel| launch(kernel, 1, 32, 0, arguments(&[0, to], &[]));
    emulator.run(&step("grid_dependency")).unwrap();
    assert_eq!(download::<f32>(&mut emulator, to, 32), [1.0; 32]);
    let fault = fault(&mut emulator, &step("waits_at_uninitialised_mbarrier"));
    assert!([FaultKind::BarrierMisuse, FaultKind::NeverWritten].contains(&fault.kind), "{fault}");
}
