//! What a planned launch may ask of a device beside blocks and threads: clusters and tensor maps, through the executor. And
//! whether the crate's kernels are those that it knows.

mod support;

use lora_emulator::{Emulator, FaultKind, KernelLibrary, available};
use lora_kernels::DType;
use lora_kernels::cuda::executor::Executor;
use lora_kernels::cuda::kernel::{self, Kernel};
use lora_kernels::cuda::step::{Launch, Step};
use lora_kernels::cuda::tensor_map::{self, TensorMap};
use std::collections::BTreeMap;
use std::path::PathBuf;
use support::{download, fault, schedules, upload};

#[test]
fn the_crate_knows_every_kernel_and_its_threads() {
    let test = "the_crate_knows_every_kernel_and_its_threads";
    let Some(library) = available(test, KernelLibrary::standard()) else { return };
    let declared = library.kernel_names().map(|name| (name.to_owned(), library.threads(name)));
    let known = kernel::all().map(|kernel| (kernel.symbol().to_owned(), Some(kernel.threads())));
    assert_eq!(known.collect::<BTreeMap<_, _>>(), declared.collect());
}

/// A device with the kernels of tests/primitives.
fn primitives(test: &str) -> Option<Emulator> {
    let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/primitives/kernels");
    let library = KernelLibrary::builder().directory(directory).files(["sm_90.cu"]).build();
    available(test, library).map(Emulator::with_library)
}

const ROWS: usize = 6;
const COLUMNS: usize = 72;
const BOX: [u32; 2] = [8, 16];
const IMAGE: usize = (BOX[0] * BOX[1]) as usize;

/// A launch of a kernel that takes `Boxes`: two maps, then the addresses of input and output.
fn boxes(kernel: Kernel, blocks: u32, shared_bytes: u32, [input, output]: [u64; 2]) -> Launch {
    let map = |address| {
        TensorMap::matrix(
            DType::F16,
            address,
            [ROWS, COLUMNS].map(|extent| extent as u64),
            2 * COLUMNS as u64,
            BOX,
        )
    };
    let mut arguments = vec![0xEE; 384];
    for (place, address) in [(256, input), (264, output)] {
        arguments[place..place + 8].copy_from_slice(&address.to_le_bytes());
    }
    Launch {
        tensor_maps: vec![(0, map(input)), (128, map(output + 2 * IMAGE as u64))],
        ..Launch::new(kernel, [blocks, 1, 1], shared_bytes, arguments)
    }
}

#[test]
fn tensor_maps_of_a_launch_are_encoded_where_it_says() {
    let Some(mut emulator) = primitives("tensor_maps_of_a_launch_are_encoded_where_it_says") else { return };
    let kernel = Kernel::new("tests/primitives/kernels/sm_90.cu", "tma_box", 64);
    let x: Vec<u16> = (0..(ROWS * COLUMNS) as u16).collect();
    for schedule in schedules() {
        emulator.set_schedule(schedule);
        let input = upload(&mut emulator, "x", &x);
        let output = upload(&mut emulator, "y", &vec![0u16; IMAGE + ROWS * COLUMNS]);
        let launch = boxes(kernel, 1, 16 * BOX[1], [input, output]);
        emulator.run(&Step::Launch(launch)).unwrap_or_else(|error| panic!("{error}"));
        let y: Vec<u16> = download(&mut emulator, output, IMAGE + ROWS * COLUMNS);
        // The box begins a row above the matrix; what lies outside is zero. What lies inside comes back with other signs.
        for (place, &found) in y.iter().enumerate() {
            let (row, column, is_image) = match place.checked_sub(IMAGE) {
                None => ((place / BOX[1] as usize).wrapping_sub(1), place % BOX[1] as usize, true),
                Some(place) => (place / COLUMNS, place % COLUMNS, false),
            };
            let is_inside = row < ROWS && column < BOX[1] as usize;
            let value = if is_inside { x[row * COLUMNS + column] } else { 0 };
            let expected = if is_image || !is_inside { value } else { value ^ 0x8000 };
            assert_eq!(found, expected, "{place}");
        }
        emulator.free(input);
        emulator.free(output);
    }
}

#[test]
fn a_launch_in_clusters_runs_in_them() {
    let Some(mut emulator) = primitives("a_launch_in_clusters_runs_in_them") else { return };
    let kernel = Kernel::new("tests/primitives/kernels/sm_90.cu", "tma_multicast", 32).in_clusters([2, 1, 1]);
    let x: Vec<u16> = (1..=(ROWS * COLUMNS) as u16).collect();
    let input = upload(&mut emulator, "x", &x);
    let output = upload(&mut emulator, "y", &vec![0u16; 560]);
    let launch = boxes(kernel, 2, 272, [input, output]);
    assert_eq!((launch.cluster, launch.cluster_blocks()), ([2, 1, 1], 2));
    emulator.run(&Step::Launch(launch.clone())).unwrap_or_else(|error| panic!("{error}"));
    let y: Vec<u16> = download(&mut emulator, output, 2 * IMAGE);
    assert!(y[..IMAGE].iter().any(|&value| value != 0));
    assert_eq!(y[..IMAGE], y[IMAGE..], "both blocks have what one of them loaded");

    // The declaration in the file has the last word.
    let kernel = Kernel::new("tests/primitives/kernels/sm_90.cu", "tma_multicast", 32);
    let wrong = Launch { kernel, cluster: [4, 1, 1], grid: [4, 1, 1], ..launch.clone() };
    let found = fault(&mut emulator, &Step::Launch(wrong));
    assert_eq!(found.kind, FaultKind::InvalidLaunch, "{found}");
    let upright = Launch { kernel, cluster: [1, 2, 1], grid: [1, 2, 1], ..launch };
    let found = fault(&mut emulator, &Step::Launch(upright));
    assert!(found.to_string().contains("along x"), "{found}");
}

#[test]
fn a_launch_that_no_device_takes_is_refused() {
    let Some(mut emulator) = primitives("a_launch_that_no_device_takes_is_refused") else { return };
    let kernel = Kernel::new("tests/primitives/kernels/sm_90.cu", "tma_box", 64);
    let good = boxes(kernel, 1, 16 * BOX[1], [0x1000, 0x2000]);
    let (_, map) = good.tensor_maps[0];
    let with = |map| Launch { tensor_maps: vec![(0, map)], ..good.clone() };
    for (launch, reason) in [
        (with(TensorMap { address: 0x1008, ..map }), "multiple of 16"),
        (with(TensorMap { fill: tensor_map::Fill::Nans, ..map }), "filled up with zeros"),
        (with(TensorMap { dimensions: 1, ..map }), "not of a matrix"),
        (Launch { tensor_maps: vec![(320, map)], ..good.clone() }, "128 bytes of arguments"),
        (Launch { shared_bytes: 228 << 10, ..good.clone() }, "shared memory"),
    ] {
        let found = fault(&mut emulator, &Step::Launch(launch));
        assert_eq!(found.kind, FaultKind::InvalidLaunch, "{found}");
        assert!(found.to_string().contains(reason), "{found}");
    }
}
