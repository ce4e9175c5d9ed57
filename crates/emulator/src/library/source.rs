//! Program counters to lines of kernels.

use crate::fault::SourceLine;
use crate::memory::shadow::Site;
use std::path::Path;

/// The lines of a call or access, from the innermost inlined function outwards. Empty if unknown.
///
/// The emulator's own headers and the wrappers in kernels/arch are left out, unless there is nothing else.
pub(crate) fn lines(library: &Path, site: Site) -> Vec<SourceLine> {
    let Ok(loader) = addr2line::Loader::new(library) else {
        return Vec::new();
    };
    // A return address: the call is just before it.
    let Ok(mut frames) = loader.find_frames(u64::from(site).saturating_sub(1)) else {
        return Vec::new();
    };
    let mut all = Vec::new();
    while let Ok(Some(frame)) = frames.next() {
        if let Some(location) = frame.location {
            all.push(SourceLine {
                file: location.file.unwrap_or("?").to_owned(),
                line: location.line.unwrap_or(0),
            });
        }
    }
    let is_wrapper = |line: &SourceLine| {
        ["/include/emulator/", "/include/cuda", "/kernels/arch/"].iter().any(|part| line.file.contains(part))
            && !line.file.ends_with(".cu")
    };
    let own: Vec<SourceLine> = all.iter().filter(|line| !is_wrapper(line)).cloned().collect();
    if own.is_empty() { all } else { own }
}
