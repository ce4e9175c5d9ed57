//! Large checkpoints: full disks, memory, and what is printed meanwhile.

#![cfg(unix)]

mod common;

use common::{large, listing, lora, lora_limited, open};

#[test]
fn files_that_cannot_grow_leave_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let [base, adapter] = large(directory.path(), 2, 512);
    let out = directory.path().join("out");
    // Shards have 1 MiB; the limit is in blocks of 512 or 1024 bytes.
    let line = "merge --base {} --adapter {} --out {} --device cpu";
    lora_limited("ulimit -f 512", line, &[&base, &adapter, &out])
        .fails(1, &["model-00001-of-00002.safetensors"]);
    assert_eq!(listing(directory.path()), ["adapter", "base"]);
}

#[test]
fn a_checkpoint_larger_than_memory_merges() {
    let directory = tempfile::tempdir().unwrap();
    let [base, adapter] = large(directory.path(), 12, 4096);
    let out = directory.path().join("out");
    let bytes: u64 = open(&base).tensors().values().map(|info| info.bytes()).sum();
    // Tensors have 32 MiB. The limit counts what is mapped too, and the stacks of threads.
    let limit = 384 << 20;
    assert!(bytes >= 2 * limit);
    let limits = format!("export MALLOC_ARENA_MAX=1 RAYON_NUM_THREADS=2; ulimit -v {}", limit >> 10);
    let line = "merge --base {} --adapter {} --out {} --device cpu --report";
    lora_limited(&limits, line, &[&base, &adapter, &out]).succeeds();
    assert_eq!(open(&out).tensors().values().map(|info| info.bytes()).sum::<u64>(), bytes);
}

#[test]
fn without_a_terminal_there_are_no_control_characters() {
    let directory = tempfile::tempdir().unwrap();
    let [base, adapter] = large(directory.path(), 2, 2048);
    let out = directory.path().join("out");
    let runs = [
        lora("merge --base {} --adapter {} --out {}", &[&base, &adapter, &out]).succeeds(),
        lora("merge --base {} --adapter {} --out {}", &[&base, &adapter, &out]),
        lora("info {} {}", &[&base, &adapter]),
        lora("--help", &[]),
        lora("merge", &[]),
    ];
    for run in runs {
        let text = run.stdout + &run.stderr;
        assert!(text.chars().all(|c| c == '\n' || !c.is_control()), "{text:?}");
    }
}
