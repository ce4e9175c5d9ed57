//! One fatbin per kernel file, compiled only if nothing with the same inputs has been compiled before.

use crate::nvcc::{Nvcc, output};
use crate::sources::Sources;
use std::collections::hash_map::DefaultHasher;
use std::fs;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

/// A compiled kernel file.
pub struct Image {
    /// The kernel file, relative to the folder of kernels.
    pub file: String,
    /// The fatbin.
    pub path: PathBuf,
}

/// Compiles what is not in the cache, as many at a time as Cargo allows.
pub fn build(nvcc: &Nvcc, sources: &Sources, cache: &Path) -> Result<Vec<Image>, String> {
    fs::create_dir_all(cache).map_err(|error| format!("{}: {error}", cache.display()))?;
    let kernels = sources.kernels()?;
    let images: Vec<Image> = kernels.iter().map(|kernel| image(nvcc, sources, kernel, cache)).collect();
    let pending = Mutex::new(kernels.iter().zip(&images).filter(|(_, image)| !image.path.exists()));
    let jobs = std::env::var("NUM_JOBS").ok().and_then(|jobs| jobs.parse().ok()).unwrap_or(1);
    std::thread::scope(|scope| {
        let worker = || -> Result<(), String> {
            loop {
                let next = pending.lock().map_err(|error| error.to_string())?.next();
                let Some((kernel, image)) = next else { return Ok(()) };
                compile(nvcc, sources.root(), kernel, &image.path)?;
            }
        };
        let workers: Vec<_> = (0..jobs).map(|_| scope.spawn(worker)).collect();
        let results =
            workers.into_iter().map(|worker| worker.join().unwrap_or(Err("nvcc worker panicked".into())));
        results.fold(Ok(()), Result::and)
    })?;
    Ok(images)
}

fn image(nvcc: &Nvcc, sources: &Sources, kernel: &Path, cache: &Path) -> Image {
    let name = kernel.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let mut hasher = DefaultHasher::new();
    nvcc.identity().hash(&mut hasher);
    sources.closure(kernel).hash(&mut hasher);
    let path = cache.join(format!("{name}-{:016x}.fatbin", hasher.finish()));
    let file = kernel.strip_prefix(sources.root()).unwrap_or(kernel);
    let parts: Vec<_> = file.iter().map(|part| part.to_string_lossy()).collect();
    Image { file: parts.join("/"), path }
}

fn compile(nvcc: &Nvcc, include: &Path, kernel: &Path, image: &Path) -> Result<(), String> {
    // Renamed when complete, so that an interrupted build leaves no half image under the final name.
    let partial = image.with_extension(format!("{}.partial", std::process::id()));
    output(nvcc.command().arg("-I").arg(include).arg("-o").arg(&partial).arg(kernel))?;
    fs::rename(&partial, image).map_err(|error| format!("{}: {error}", image.display()))
}
