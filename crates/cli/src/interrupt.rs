//! Signals that ask to stop.
//!
//! Where nothing is to be cleaned up, their default action is the right one, and no handler is installed. While an output
//! is being written, a thread waits for them: it removes what is unfinished, and then the default action happens. What
//! the other threads are computing or waiting for does not matter.

use crate::failure::{Failure, Result};
use lora_peft::files::remove_all;
use std::io::{IsTerminal, Write};
use std::sync::mpsc::channel;
use std::time::Duration;

/// How long the message may take if stderr is not being read.
const MESSAGE: Duration = Duration::from_millis(100);

/// From now on, Ctrl-C, a closed terminal and `kill` remove the unfinished output before they end the process.
#[cfg(unix)]
pub fn clean_up_on_signals() -> Result<()> {
    use signal_hook::consts::signal::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};
    use signal_hook::iterator::Signals;
    use signal_hook::{flag, low_level};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    /// `timeout` sends its signal to the process and to its group: what comes so soon is no second request.
    const SECOND: Duration = Duration::from_millis(200);

    let failed = |error| Failure::Failed(format!("signals cannot be handled: {error}"));
    let signals = [SIGHUP, SIGINT, SIGQUIT, SIGTERM].into_iter().filter(|&signal| !is_ignored(signal));
    let impatient = Arc::new(AtomicBool::new(false));
    for signal in signals.clone() {
        // A second signal does not wait for the cleaning.
        flag::register_conditional_default(signal, Arc::clone(&impatient)).map_err(failed)?;
    }
    let mut signals = Signals::new(signals).map_err(failed)?;
    std::thread::spawn(move || {
        for signal in signals.forever() {
            let impatient = Arc::clone(&impatient);
            std::thread::spawn(move || {
                std::thread::sleep(SECOND);
                impatient.store(true, Ordering::Relaxed);
            });
            // Held to the end, so that nothing new begins.
            let _removed = remove_all();
            tell();
            let _ = low_level::emulate_default_handler(signal);
        }
    });
    Ok(())
}

/// From now on, Ctrl-C removes the unfinished output before it ends the process.
#[cfg(not(unix))]
pub fn clean_up_on_signals() -> Result<()> {
    let handler = || {
        // Held to the end, so that nothing new begins.
        let _removed = remove_all();
        tell();
        std::process::exit(130);
    };
    ctrlc::set_handler(handler)
        .map_err(|error| Failure::Failed(format!("signals cannot be handled: {error}")))
}

fn tell() {
    let (told, wait) = channel();
    std::thread::spawn(move || {
        let mut stderr = std::io::stderr();
        // There may be a progress bar in the line.
        let start = if stderr.is_terminal() { "\n" } else { "" };
        let _ = writeln!(stderr, "{start}interrupted; what was unfinished is removed");
        let _ = told.send(());
    });
    let _ = wait.recv_timeout(MESSAGE);
}

/// Whether whoever started this process wants a signal ignored, as `nohup` does.
#[cfg(unix)]
fn is_ignored(signal: libc::c_int) -> bool {
    // SAFETY: all zeros is a value of this plain struct. The null pointer says that no action is set, and the present one
    // is written to memory of ours.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        libc::sigaction(signal, std::ptr::null(), &mut action) == 0 && action.sa_sigaction == libc::SIG_IGN
    }
}

/// A write beyond the limit on the size of files then fails with an error that names the file, instead of ending the
/// process.
#[cfg(unix)]
pub fn ignore_file_size_signal() {
    // SAFETY: SIG_IGN runs no code of ours, and no other thread exists yet that could depend on the signal.
    unsafe {
        libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
    }
}

#[cfg(not(unix))]
pub fn ignore_file_size_signal() {}
