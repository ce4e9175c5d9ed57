//! Signals that ask to stop.

use crate::failure::{Failure, Result};
use lora_peft::Progress;
use std::sync::Arc;

/// Ctrl-C, a closed terminal and `kill` cancel the operation, which then cleans up after itself. So does a limit on
/// the size of files, which otherwise would end the process.
pub fn cancel_on_signals(progress: &Arc<Progress>) -> Result<()> {
    ignore_file_size_signal();
    let progress = Arc::clone(progress);
    ctrlc::set_handler(move || progress.cancel())
        .map_err(|error| Failure::Failed(format!("signals cannot be handled: {error}")))
}

/// A write beyond the limit then fails with an error that names the file.
#[cfg(unix)]
fn ignore_file_size_signal() {
    // SAFETY: SIG_IGN runs no code of ours, and no other thread exists yet that could depend on the signal.
    unsafe {
        libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
    }
}

#[cfg(not(unix))]
fn ignore_file_size_signal() {}
