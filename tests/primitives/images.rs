//! Machine code of the primitive kernels for a device.

use super::cases::File;
use super::sources::{primitives, root};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// `9, 0` is `sm_90a`: without the letter, Hopper's compiler leaves out wgmma and setmaxnreg.
pub fn architecture((major, minor): (u32, u32)) -> String {
    let suffix = if (major, minor) == (9, 0) { "a" } else { "" };
    format!("sm_{major}{minor}{suffix}")
}

/// Where `scripts/gpu-bundle` leaves what it compiled for a device.
fn compiled_before(root: &Path, file: File, capability: (u32, u32)) -> PathBuf {
    let folder = root.join("tests/primitives/images").join(architecture(capability));
    folder.join(file.name()).with_extension("cubin")
}

/// A file for the device: what was compiled before if it is there, else compiled now; once in a run of the tests.
pub fn image(file: File, capability: (u32, u32)) -> Result<Vec<u8>, String> {
    static IMAGES: [OnceLock<Result<Vec<u8>, String>>; File::ALL.len()] =
        [const { OnceLock::new() }; File::ALL.len()];
    let make =
        || std::fs::read(compiled_before(&root(), file, capability)).or_else(|_| compile(file, capability));
    IMAGES[file as usize].get_or_init(make).clone()
}

fn compile(file: File, capability: (u32, u32)) -> Result<Vec<u8>, String> {
    let nvcc = std::env::var_os("NVCC").filter(|path| !path.is_empty()).unwrap_or_else(|| "nvcc".into());
    let image: PathBuf =
        std::env::temp_dir().join(format!("lora-primitives-{}-{}.cubin", std::process::id(), file.name()));
    let mut command = Command::new(&nvcc);
    command.args(["--cubin", "-std=c++17", "-arch"]).arg(architecture(capability));
    command.arg("-I").arg(root().join("kernels")).arg("-o").arg(&image).arg(primitives().join(file.name()));
    let output = command.output().map_err(|error| {
        format!("{} did not start ({error}); set NVCC to NVIDIA's compiler", nvcc.display())
    })?;
    if !output.status.success() {
        return Err(format!("{command:?}\n{}", String::from_utf8_lossy(&output.stderr)));
    }
    let code = std::fs::read(&image).map_err(|error| format!("{}: {error}", image.display()));
    // A file left behind does no harm.
    let _ = std::fs::remove_file(&image);
    code
}

#[test]
fn kernels_are_compiled_for_the_device() {
    assert_eq!(architecture((8, 0)), "sm_80");
    assert_eq!(architecture((9, 0)), "sm_90a");
    assert_eq!(architecture((12, 0)), "sm_120");
    let files = |capability| File::ALL.map(|file| file.runs_on(capability));
    assert_eq!(files((8, 9)), [true, false, false]);
    assert_eq!(files((9, 0)), [true, true, true]);
    assert_eq!(files((10, 0)), [true, true, false]);
}

#[test]
fn images_lie_where_the_bundle_leaves_them() {
    let path = compiled_before(Path::new("sources"), File::Sm80, (9, 0));
    assert_eq!(path, Path::new("sources/tests/primitives/images/sm_90a/sm_80.cubin"));
}
