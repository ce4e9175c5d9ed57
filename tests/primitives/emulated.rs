//! The emulator against the recording, under adversarial schedules.

use super::cases::{CASES, Case};
use super::recording::{Recording, compare, record, recorded};
use super::sources::{asked, primitives};
use lora_emulator::{Emulator, KernelLibrary, Schedule, TensorMap, available};
use lora_kernels::cuda::executor::Executor;
use lora_kernels::cuda::kernel::Kernel;
use lora_kernels::cuda::step::{Launch, Step};

fn run(emulator: &mut Emulator, case: &Case) -> Vec<u32> {
    let input = emulator.allocate("input", 4 * case.input.words().len());
    let output = emulator.allocate("output", 4 * case.output_words);
    emulator.write(input, bytemuck::cast_slice(&case.input.words())).unwrap();
    emulator.write(output, &vec![0; 4 * case.output_words]).unwrap();
    let arguments = case.arguments(input, output, TensorMap::encode).unwrap();
    for symbol in case.after.into_iter().chain([case.kernel]) {
        let kernel = Kernel::new(case.file.name(), symbol, case.threads);
        let launch = Launch {
            programmatic: case.after.is_some() && symbol == case.kernel,
            ..Launch::new(kernel, [case.blocks, 1, 1], case.shared_bytes, arguments.clone())
        };
        emulator.run(&Step::Launch(launch)).unwrap_or_else(|error| panic!("{error}"));
    }
    let mut words = vec![0; case.output_words];
    emulator.read(output, bytemuck::cast_slice_mut(&mut words)).unwrap();
    emulator.free(input);
    emulator.free(output);
    words
}

#[test]
fn emulated_primitives_give_what_was_recorded() {
    let built = KernelLibrary::builder().directory(primitives()).build();
    let Some(library) = available("emulated_primitives_give_what_was_recorded", built) else { return };
    let mut kernels: Vec<_> =
        CASES.iter().flat_map(|case| case.after.into_iter().chain([case.kernel])).collect();
    kernels.sort_unstable();
    assert_eq!(
        library.kernel_names().collect::<Vec<_>>(),
        kernels,
        "every kernel is a case, and the reverse"
    );

    let mut emulator = Emulator::with_library(library);
    if asked("LORA_RECORD") {
        let outputs = CASES.iter().map(|case| (case.kernel.to_owned(), run(&mut emulator, case)));
        record(&outputs.collect::<Recording>());
        return;
    }
    let recording = recorded();
    assert_eq!(recording.len(), CASES.len(), "recorded.txt names kernels that are gone");
    for schedule in Schedule::matrix(12) {
        emulator.set_schedule(schedule);
        for case in CASES {
            compare(case.kernel, &run(&mut emulator, case), &recording, &schedule);
        }
    }
}
