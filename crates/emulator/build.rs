//! Compiles the .cu files of kernels/ for the emulator, if there is a compiler that can.

#[path = "src/library/toolchain.rs"]
mod toolchain;

use std::path::{Path, PathBuf};
use std::process::Command;

fn main() {
    let manifest = PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default());
    let out = PathBuf::from(std::env::var_os("OUT_DIR").unwrap_or_default());
    let kernels = manifest.join("../../kernels");
    let include = manifest.join("include");
    for watched in
        [&kernels, &include, &manifest.join("build.rs"), &manifest.join("src/library/toolchain.rs")]
    {
        println!("cargo:rerun-if-changed={}", watched.display());
    }
    println!("cargo:rerun-if-env-changed=CXX");
    println!("cargo:rerun-if-env-changed=LORA_KERNELS_REQUIRE_EMULATOR");
    println!("cargo:rerun-if-env-changed=LORA_KERNELS_NO_EMULATOR");

    let compiler = match find_compiler(&out) {
        Ok(compiler) => compiler,
        Err(reason) => {
            assert!(
                std::env::var_os("LORA_KERNELS_REQUIRE_EMULATOR").is_none_or(|value| value != "1"),
                "LORA_KERNELS_REQUIRE_EMULATOR=1, but {reason}"
            );
            println!("cargo:warning=the emulator is built without kernels: {reason}");
            println!("cargo:rustc-env=LORA_EMULATOR_UNAVAILABLE={}", reason.replace('\n', " "));
            return;
        }
    };
    let sources =
        toolchain::kernel_files(&kernels).unwrap_or_else(|error| panic!("{}: {error}", kernels.display()));
    let compilation = toolchain::Compilation {
        compiler: &compiler,
        emulator_include: &include,
        kernel_includes: &[&kernels],
        sources: &sources,
        compiled: None,
        defines: &[],
        directory: &out,
    };
    let library = compilation.run().unwrap_or_else(|message| panic!("kernels do not compile:\n{message}"));
    println!("cargo:rustc-env=LORA_EMULATOR_COMPILER={}", compiler.display());
    println!("cargo:rustc-env=LORA_EMULATOR_LIBRARY={}", library.display());
}

/// The C++ compiler that `cc` finds, or `g++`: whichever takes the flags for instrumentation.
fn find_compiler(out: &Path) -> Result<PathBuf, String> {
    // For executables that leave this machine: the library stays behind.
    if std::env::var_os("LORA_KERNELS_NO_EMULATOR").is_some_and(|value| value == "1") {
        return Err("it was built with LORA_KERNELS_NO_EMULATOR=1".into());
    }
    if !cfg!(all(target_os = "linux", target_pointer_width = "64")) {
        return Err("it needs 64-bit Linux".into());
    }
    let configured = cc::Build::new().cpp(true).cargo_warnings(false).try_get_compiler();
    let candidates = configured.map(|tool| tool.path().to_owned()).into_iter().chain(["g++".into()]);
    let mut reasons = Vec::new();
    for candidate in candidates {
        let probe = out.join("probe.cpp");
        std::fs::write(&probe, "int probe(int* p) { return *p; }\n").map_err(|error| error.to_string())?;
        let result = Command::new(&candidate)
            .args([
                "-fsanitize=thread,alignment",
                "--param=tsan-distinguish-volatile=1",
                "-fno-gnu-unique",
                "-c",
            ])
            .arg(&probe)
            .arg("-o")
            .arg(out.join("probe.o"))
            .output();
        match result {
            Ok(output) if output.status.success() => return Ok(candidate),
            Ok(output) => {
                reasons.push(format!("{}: {}", candidate.display(), String::from_utf8_lossy(&output.stderr)));
            }
            Err(error) => reasons.push(format!("{}: {error}", candidate.display())),
        }
    }
    Err(format!("no GCC was found ({})", reasons.join("; ")))
}
