//! Compiles kernels with an ordinary C++ compiler. Used by the build script, and at run time for changed kernels.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// A library to be made from kernels.
pub(crate) struct Compilation<'a> {
    /// A GCC.
    pub compiler: &'a Path,
    /// The emulator's headers and run-time support.
    pub emulator_include: &'a Path,
    /// Where kernels find each other's headers, in this order.
    pub kernel_includes: &'a [&'a Path],
    /// Kernel files.
    pub sources: &'a [PathBuf],
    /// Objects that were compiled before and are linked as well, the run-time support among them. `None` compiles the
    /// support, too.
    pub compiled: Option<&'a [PathBuf]>,
    /// Macros: `NAME` or `NAME=value`.
    pub defines: &'a [String],
    /// For object files and the library.
    pub directory: &'a Path,
}

/// Deliver every memory access to the emulator, and keep the kernel's own accesses: no vectorising across threads' backs.
const KERNEL_FLAGS: &[&str] = &[
    "-std=gnu++17",
    "-O2",
    "-g1",
    "-fPIC",
    "-fno-gnu-unique",
    "-fvisibility=hidden",
    "-fsanitize=thread,alignment,bounds-strict",
    "--param=tsan-distinguish-volatile=1",
    "--param=tsan-instrument-func-entry-exit=0",
    "-fno-tree-vectorize",
    "-fno-optimize-sibling-calls",
    "-fno-strict-aliasing",
    "-ffp-contract=off",
    "-Wno-unknown-pragmas",
    "-Wno-attributes",
    "-DLORA_EMULATOR",
];

const RUNTIME_FLAGS: &[&str] =
    &["-std=gnu++17", "-O2", "-g1", "-fPIC", "-fno-gnu-unique", "-fvisibility=hidden"];

/// Processor extensions that the kernels' fused multiply-adds are slow without.
fn processor_flags() -> &'static [&'static str] {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("fma") {
        return &["-mfma"];
    }
    &[]
}

impl Compilation<'_> {
    /// Compiles and links; returns the library's path.
    pub fn run(&self) -> Result<PathBuf, String> {
        let runtime = self.emulator_include.join("emulator/runtime.cpp");
        let parallel = std::thread::available_parallelism().map_or(1, usize::from);
        let mut objects = Vec::new();
        let mut running = Vec::new();
        let support = self.compiled.is_none().then_some(&runtime);
        for source in support.into_iter().chain(self.sources) {
            let stem = source.file_stem().unwrap_or_default().to_owned();
            let object = self.directory.join(stem).with_extension("o");
            let mut command = Command::new(self.compiler);
            if *source == runtime {
                command.args(RUNTIME_FLAGS);
            } else {
                command.args(KERNEL_FLAGS).args(processor_flags());
                command.args(self.defines.iter().map(|define| format!("-D{define}")));
                self.kernel_includes.iter().for_each(|folder| _ = command.arg("-I").arg(folder));
                command.args(["-include", "emulator/builtins.h"]);
            }
            command.arg("-I").arg(self.emulator_include);
            command.args(["-x", "c++", "-c"]).arg(source).arg("-o").arg(&object);
            if running.len() >= parallel {
                finish(running.remove(0))?;
            }
            running.push(start(command)?);
            objects.push(object);
        }
        running.into_iter().try_for_each(finish)?;

        let library = self.directory.join("kernels.so");
        let mut command = Command::new(self.compiler);
        command.args(["-shared", "-o"]).arg(&library).args(&objects).args(self.compiled.unwrap_or_default());
        finish(start(command)?)?;
        Ok(library)
    }
}

fn start(mut command: Command) -> Result<(String, Child), String> {
    let line = std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| OsString::from(word).to_string_lossy().into_owned())
        .collect::<Vec<_>>()
        .join(" ");
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    child.map(|child| (line.clone(), child)).map_err(|error| format!("{line}\n{error}"))
}

fn finish((line, child): (String, Child)) -> Result<(), String> {
    let output = child.wait_with_output().map_err(|error| format!("{line}\n{error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{line}\n{}", String::from_utf8_lossy(&output.stderr)))
}

/// The kernel files of a directory and of the folders in it, in the order of their paths.
pub(crate) fn kernel_files(directory: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() {
            files.extend(kernel_files(&path)?);
        } else if path.extension().is_some_and(|extension| extension == "cu") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}
