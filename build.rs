//! Hands the constants of `kernels/` to the crate as `OUT_DIR/kernel_constants.rs`; compiles the `.cu` files there with nvcc and
//! hands the images to the crate as `OUT_DIR/kernel_images.rs`, if it is built with its feature `cuda`.
//!
//! Without nvcc the crate builds all the same, with no kernels and one warning. Environment:
//!
//! - `NVCC`, `CUDA_HOME`, `CUDA_PATH`: where to look for the compiler first.
//! - `LORA_KERNELS_ARCHITECTURES`: compile for these only, for example `80,90a`.
//! - `LORA_KERNELS_REQUIRE_NVCC=1`: a missing nvcc is an error.
//! - `LORA_KERNELS_SWEEP=1`: compile the variants that `benches/sweep.rs` compares, too.
//! - `LORA_KERNELS_IMAGE_CACHE`: folder that keeps compiled images over builds and checkouts.

#[path = "build/constants.rs"]
mod constants;
#[path = "build/images.rs"]
mod images;
#[path = "build/nvcc.rs"]
mod nvcc;
#[path = "build/sources.rs"]
mod sources;

use std::env;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

const VARIABLES: &[&str] = &[
    "NVCC",
    "CUDA_HOME",
    "CUDA_PATH",
    "DOCS_RS",
    "LORA_KERNELS_ARCHITECTURES",
    "LORA_KERNELS_REQUIRE_NVCC",
    "LORA_KERNELS_IMAGE_CACHE",
    nvcc::SWEEP_VARIABLE,
];

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), String> {
    let root = PathBuf::from(variable("CARGO_MANIFEST_DIR")?);
    let kernels = root.join("kernels");
    let out = PathBuf::from(variable("OUT_DIR")?);
    let sources = sources::Sources::read(&kernels)?;
    announce(&root, &sources);
    write_constants(&out, &sources)?;
    if env::var_os("CARGO_FEATURE_CUDA").is_none() {
        return Ok(());
    }

    let mut built = Vec::new();
    let missing = match compiler() {
        Ok(nvcc) => {
            let cache = env::var_os("LORA_KERNELS_IMAGE_CACHE").map_or(out.join("images"), PathBuf::from);
            built = images::build(&nvcc, &sources, &cache)?;
            String::new()
        }
        Err(reason) => {
            if variable("LORA_KERNELS_REQUIRE_NVCC").is_ok_and(|value| value == "1") {
                return Err(format!("LORA_KERNELS_REQUIRE_NVCC is set, but {reason}"));
            }
            println!("cargo::warning=lora-kernels is built without GPU kernels: {reason}");
            reason
        }
    };
    write_module(&out, &built, &missing)
}

/// Everything that decides what is built, whether it is there now or not.
fn announce(root: &Path, sources: &sources::Sources) {
    for path in ["build.rs", "build", "kernels"] {
        println!("cargo::rerun-if-changed={}", root.join(path).display());
    }
    for path in sources.files() {
        println!("cargo::rerun-if-changed={}", path.display());
    }
    for name in VARIABLES.iter().chain(nvcc::READ_BY_NVCC) {
        println!("cargo::rerun-if-env-changed={name}");
    }
}

fn compiler() -> Result<nvcc::Nvcc, String> {
    if env::var_os("DOCS_RS").is_some() {
        return Err("docs.rs has no nvcc".into());
    }
    nvcc::Nvcc::find()
}

fn variable(name: &str) -> Result<String, String> {
    env::var(name).map_err(|error| format!("{name}: {error}"))
}

fn write_constants(out: &Path, sources: &sources::Sources) -> Result<(), String> {
    let mut text = String::new();
    for (path, header) in sources.ending_with(constants::SUFFIX) {
        text += &constants::module(path, header)?;
    }
    let path = out.join("kernel_constants.rs");
    std::fs::write(&path, text).map_err(|error| format!("{}: {error}", path.display()))
}

fn write_module(out: &Path, images: &[images::Image], missing: &str) -> Result<(), String> {
    let mut text = String::from("/// Source file, relative to `kernels/`, and its fatbin.\n");
    text += "pub(crate) static IMAGES: &[(&str, &[u8])] = &[\n";
    for image in images {
        text += &format!("    ({:?}, include_bytes!({:?})),\n", image.file, image.path);
    }
    text += "];\n/// Why there are no images; empty if there are.\n";
    text += &format!("pub(crate) const MISSING: &str = {missing:?};\n");
    let path = out.join("kernel_images.rs");
    std::fs::write(&path, text).map_err(|error| format!("{}: {error}", path.display()))
}
