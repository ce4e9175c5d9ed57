//! Where the kernels are, and whether none of the wrappers is left out.

use std::path::PathBuf;

/// The folder of `kernels/` and `tests/`.
pub fn root() -> PathBuf {
    // Cargo sets the second one where it runs tests, too. Asked for at run time, so that no path of the machine that
    // compiled it is in an executable that travels.
    let named = ["LORA_KERNELS_SOURCE_ROOT", "CARGO_MANIFEST_DIR"].into_iter().find_map(std::env::var_os);
    named.map_or_else(|| ".".into(), PathBuf::from)
}

/// The folder of the primitive kernels.
pub fn primitives() -> PathBuf {
    root().join("tests/primitives/kernels")
}

/// Whether the environment asks for something with `NAME=1`.
pub fn asked(name: &str) -> bool {
    std::env::var(name).is_ok_and(|value| value == "1")
}

/// The text of all files with an extension.
fn texts(folder: PathBuf, extension: &str) -> Vec<String> {
    let entries = std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let paths = entries.map(|entry| entry.unwrap().path());
    paths
        .filter(|path| path.extension().is_some_and(|found| found == extension))
        .map(|path| std::fs::read_to_string(path).unwrap())
        .collect()
}

#[test]
fn every_wrapper_is_used_by_a_primitive() {
    let primitives = ["cu", "cuh"].map(|extension| texts(primitives(), extension).concat()).concat();
    let mut wrappers = 0;
    for header in texts(root().join("kernels/arch"), "cuh") {
        for line in header.lines().filter(|line| line.starts_with("__device__ __forceinline__")) {
            let declared = line.split('(').next().unwrap_or_default();
            let name = declared.split_whitespace().next_back().unwrap_or_default();
            assert!(
                primitives.contains(&format!("{name}(")) || primitives.contains(&format!("{name}<")),
                "no primitive uses {name}"
            );
            wrappers += 1;
        }
    }
    assert!(wrappers > 30, "only {wrappers} wrappers were found");
}
