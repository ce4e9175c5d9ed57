//! What is taken although it is not as it should be is said in one line on stderr; what cannot be taken says the way out.

mod common;

use common::{golden, lora};

const MERGE: &str = "merge --base {} --adapter {} --out {} --device cpu";

#[test]
fn parts_that_stay_as_they_are_are_named_in_one_line() {
    let directory = tempfile::tempdir().unwrap();
    let case = golden("public/layouts-qwen3-5-further-tokens");
    let (base, adapter) = (case.join("base"), case.join("adapter"));
    let run = lora(MERGE, &[&base, &adapter, &directory.path().join("merged")]).succeeds();
    let notes: Vec<&str> = run.stderr.lines().filter(|line| line.starts_with("note: ")).collect();
    assert!(matches!(notes.as_slice(), [note] if note.contains("`mtp`")), "{}", run.stderr);
    let quiet = format!("--quiet {MERGE}");
    let run = lora(&quiet, &[&base, &adapter, &directory.path().join("quiet")]).succeeds();
    assert_eq!(run.stderr, "");
    let run = lora("info {} {}", &[&base, &adapter]).succeeds();
    assert!(run.stderr.contains("note: ") && run.stderr.contains("`mtp`"), "{}", run.stderr);
}

#[test]
fn a_pointer_in_place_of_weights_is_an_error_with_the_way_out() {
    let directory = tempfile::tempdir().unwrap();
    let base = directory.path().join("base");
    std::fs::create_dir(&base).unwrap();
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 7\n";
    std::fs::write(base.join("model.safetensors"), pointer).unwrap();
    let adapter = golden("cases/llama-attention/adapter");
    let out = directory.path().join("merged");
    lora(MERGE, &[&base, &adapter, &out]).fails(1, &["Git LFS pointer", "7 bytes", "git lfs pull"]);
    assert!(!out.exists());
}
