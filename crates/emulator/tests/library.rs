//! Compiling kernels at run time: how mutants are made.

mod support;

use lora_emulator::{Emulator, Error, FaultKind, KernelLibrary};
use lora_kernels::cuda::executor::Executor;
use std::path::PathBuf;
use support::{arguments, device, fault, launch, upload};

fn directory() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/kernels")
}

#[test]
fn a_changed_kernel_lives_beside_the_original() {
    let Some(mut original) = device("a_changed_kernel_lives_beside_the_original") else { return };
    let mutant = KernelLibrary::builder()
        .directory(directory())
        .files(["block.cu"])
        .replace("block.cu", "if (second_barrier) __syncthreads();", "")
        .build()
        .unwrap();
    let mut mutant = Emulator::with_library(mutant);
    for (emulator, faulty) in [(&mut original, false), (&mut mutant, true)] {
        let x = upload(emulator, "x", &[1.0f32; 256]);
        let y = emulator.allocate("y", 1024);
        let step = launch("block_sums_right", 1, 256, 0, arguments(&[x, y], &[256, 0]));
        if faulty {
            assert_eq!(fault(emulator, &step).kind, FaultKind::Race);
        } else {
            emulator.run(&step).unwrap();
        }
    }
}

#[test]
fn what_cannot_be_changed_or_compiled_is_an_error() {
    if device("what_cannot_be_changed_or_compiled_is_an_error").is_none() {
        return;
    }
    let build = |from: &str, to: &str| {
        KernelLibrary::builder()
            .directory(directory())
            .files(["block.cu"])
            .replace("block.cu", from, to)
            .build()
    };
    let missing = build("no such text", "").unwrap_err();
    assert!(matches!(&missing, Error::Library(text) if text.contains("no such text")), "{missing}");
    let ambiguous = build("__syncthreads();", "").unwrap_err();
    assert!(matches!(&ambiguous, Error::Library(text) if text.contains("not once")), "{ambiguous}");
    let broken = build("struct Vectors", "structure Vectors").unwrap_err();
    assert!(matches!(&broken, Error::Library(text) if text.contains("error")), "{broken}");
}

/// Kernels name headers from the root of their directory, which must not be that of the standard ones.
#[test]
fn a_changed_header_of_another_directory_is_the_one_that_counts() {
    if device("a_changed_header_of_another_directory_is_the_one_that_counts").is_none() {
        return;
    }
    let all_kernels = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../kernels");
    for header in ["tile.cuh", "philox.cuh"] {
        let build = KernelLibrary::builder()
            .directory(&all_kernels)
            .files(["shrink.cu"])
            .kernels(["shrink_f32_rank16"])
            .replace(header, "#pragma once", "#error this header was changed");
        let error = build.build().unwrap_err();
        assert!(
            matches!(&error, Error::Library(text) if text.contains("this header was changed")),
            "{error}"
        );
    }
}

#[test]
fn macros_reach_the_kernels() {
    if device("macros_reach_the_kernels").is_none() {
        return;
    }
    let library = KernelLibrary::builder()
        .directory(directory())
        .files(["block.cu"])
        .define("block_sums_right=renamed")
        .build()
        .unwrap();
    assert_eq!(library.threads("renamed"), Some(256));
    assert_eq!(library.threads("block_sums_right"), None);
    assert!(library.kernel_names().any(|name| name == "traps"));
}

#[test]
fn launches_that_do_not_fit_are_refused() {
    let Some(mut emulator) = device("launches_that_do_not_fit_are_refused") else { return };
    let good = arguments(&[0, 0], &[0, 0]);
    for (kernel, blocks, threads, shared, arguments, words) in [
        ("no_such_kernel", 1, 32, 0, good.clone(), "no such kernel"),
        ("traps", 1, 32, 0, good[..20].to_vec(), "20 bytes of arguments for a struct of 24"),
        ("traps", 1, 64, 0, good.clone(), "the kernel declares 32"),
        ("traps", 1, 32, 1 << 20, good.clone(), "1048576 bytes of shared memory"),
        ("traps", 0, 32, 0, good.clone(), "`a grid` is [0, 1, 1]"),
        ("cluster_sums_right", 3, 32, 0, vec![0; 192], "clusters of 4"),
    ] {
        let fault = fault(&mut emulator, &launch(kernel, blocks, threads, shared, arguments));
        assert_eq!(fault.kind, FaultKind::InvalidLaunch);
        assert!(fault.message.contains(words), "{fault}");
    }
}
