//! Finds NVIDIA's compiler and says what it is asked to do.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Compute capabilities that get machine code of their own: A100, RTX 30, RTX 40, H100, B200, RTX 50.
const ARCHITECTURES: &[&str] = &["80", "86", "89", "90a", "100", "120"];

/// Devices that are newer than the compiler translate this when the kernels are loaded.
const PORTABLE: &str = "80";

/// Compressed, the images are a sixth as large.
const FLAGS: &[&str] = &["-lineinfo", "-std=c++17", "-DNDEBUG", "-Xfatbin=-compress-all"];

/// Makes nvcc compile the variants of `kernels/sweep_variants.cuh`, too, which `benches/sweep.rs` compares.
pub const SWEEP_VARIABLE: &str = "LORA_KERNELS_SWEEP";

/// Variables that nvcc itself reads.
pub const READ_BY_NVCC: &[&str] = &["NVCC_CCBIN", "NVCC_PREPEND_FLAGS", "NVCC_APPEND_FLAGS"];

/// A compiler that runs.
pub struct Nvcc {
    path: PathBuf,
    version: String,
    targets: Vec<String>,
    with_variants: bool,
}

impl Nvcc {
    /// The compiler named by the environment, on the path, or where installers put it.
    pub fn find() -> Result<Self, String> {
        let Some(path) = locate()? else {
            // So that a compiler that is put on the path later is noticed.
            println!("cargo::rerun-if-env-changed=PATH");
            return Err("nvcc was not found; install the CUDA toolkit, or run scripts/install-nvcc of \
                        lora-kernels and set NVCC to what it prints"
                .into());
        };
        let version = output(Command::new(&path).arg("--version"))?;
        let known = output(Command::new(&path).arg("--list-gpu-code"))?;
        let targets = targets(env::var("LORA_KERNELS_ARCHITECTURES").ok().as_deref(), &known)?;
        let with_variants = env::var(SWEEP_VARIABLE).is_ok_and(|value| value == "1");
        Ok(Nvcc { path, version, targets, with_variants })
    }

    /// The command that compiles a kernel file, without input and output.
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.path);
        command.arg("--fatbin").args(FLAGS);
        if self.with_variants {
            command.arg(format!("-D{SWEEP_VARIABLE}"));
        }
        for target in &self.targets {
            command.arg("-gencode").arg(format!("arch=compute_{target},code=sm_{target}"));
        }
        command.arg("-gencode").arg(format!("arch=compute_{PORTABLE},code=compute_{PORTABLE}"));
        command
    }

    /// Everything about the compiler that decides what its images are.
    pub fn identity(&self) -> String {
        let variables: Vec<_> = READ_BY_NVCC.iter().map(env::var_os).collect();
        format!("{}{FLAGS:?}{:?}{PORTABLE}{variables:?}{}", self.version, self.targets, self.with_variants)
    }
}

/// The architectures to compile for, of those the compiler knows.
fn targets(wanted: Option<&str>, known: &str) -> Result<Vec<String>, String> {
    // The list names sm_90 only, but a compiler that knows it knows sm_90a too.
    let knows = |target: &str| {
        let number = target.trim_end_matches(|letter: char| letter.is_ascii_lowercase());
        known.split_whitespace().any(|code| code.strip_prefix("sm_") == Some(number))
    };
    let Some(wanted) = wanted else {
        return Ok(ARCHITECTURES.iter().filter(|target| knows(target)).map(ToString::to_string).collect());
    };
    let wanted = wanted.split([',', ' ', ';']).filter(|target| !target.is_empty());
    wanted
        .map(|target| match knows(target) {
            true => Ok(target.to_string()),
            false => Err(format!(
                "LORA_KERNELS_ARCHITECTURES names {target:?}, which nvcc does not know; write numbers such as 80,90a"
            )),
        })
        .collect()
}

fn locate() -> Result<Option<PathBuf>, String> {
    let program = if cfg!(windows) { "nvcc.exe" } else { "nvcc" };
    if let Some(path) = env::var_os("NVCC").filter(|path| !path.is_empty()) {
        return match resolve(Path::new(&path)) {
            Some(path) => Ok(Some(path)),
            None => Err(format!("NVCC is {}, which is not a file", Path::new(&path).display())),
        };
    }
    let homes = ["CUDA_HOME", "CUDA_PATH"].into_iter().filter_map(env::var_os);
    let homes = homes.map(|home: OsString| PathBuf::from(home).join("bin"));
    let path = env::var_os("PATH").unwrap_or_default();
    let usual = ["/usr/local/cuda/bin", "/opt/cuda/bin"].into_iter().map(PathBuf::from);
    let mut folders = homes.chain(env::split_paths(&path)).chain(usual);
    Ok(folders.find_map(|folder| resolve(&folder.join(program))))
}

/// The file itself: nvcc finds its parts beside it, and does not follow a link to do so.
fn resolve(path: &Path) -> Option<PathBuf> {
    path.canonicalize().ok().filter(|path| path.is_file())
}

/// What a command printed; all of it and the command if it failed.
pub fn output(command: &mut Command) -> Result<String, String> {
    let output = command.output().map_err(|error| format!("{command:?} did not start: {error}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(format!(
        "{command:?}\nfailed with {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: &str = "sm_75\nsm_80\nsm_90\ncompute_80\n";

    #[test]
    fn the_default_list_is_cut_to_what_the_compiler_knows() {
        assert_eq!(targets(None, KNOWN).unwrap(), ["80", "90a"]);
    }

    #[test]
    fn a_list_may_be_given_and_is_kept_in_order() {
        assert_eq!(targets(Some("90a, 75"), KNOWN).unwrap(), ["90a", "75"]);
    }

    #[test]
    fn an_unknown_architecture_is_named() {
        let message = targets(Some("80,42"), KNOWN).unwrap_err();
        assert!(message.contains("\"42\""), "{message}");
    }

    #[test]
    fn variants_are_compiled_when_asked_for_and_kept_apart_from_images_without() {
        let nvcc = |with_variants| Nvcc {
            path: "nvcc".into(),
            version: "13".into(),
            targets: vec!["90a".into()],
            with_variants,
        };
        let defines =
            |nvcc: Nvcc| nvcc.command().get_args().any(|argument| argument == "-DLORA_KERNELS_SWEEP");
        assert_eq!([false, true].map(|with_variants| defines(nvcc(with_variants))), [false, true]);
        assert_ne!(nvcc(false).identity(), nvcc(true).identity());
    }

    #[cfg(unix)]
    #[test]
    fn a_failed_command_is_quoted_with_everything_it_printed() {
        let message =
            output(Command::new("sh").args(["-c", "echo printed; echo complained >&2; exit 3"])).unwrap_err();
        for part in ["\"sh\" \"-c\"", "printed\n", "complained\n", "3"] {
            assert!(message.contains(part), "{message}");
        }
    }
}
