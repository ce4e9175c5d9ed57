//! What the user sees: results on stdout, progress and errors on stderr.

use crate::failure::{Failure, Result};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use lora_peft::printable::{PARAGRAPH, line, lines};
use lora_peft::{Note, Progress};
use std::io::{ErrorKind, IsTerminal, Write};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

const REFRESH: Duration = Duration::from_millis(100);

/// How much is shown.
#[derive(Debug)]
pub struct Console {
    quiet: bool,
}

impl Console {
    pub fn new(quiet: bool) -> Self {
        Console { quiet }
    }

    /// Prints what was asked for; names in it cannot do anything to a terminal.
    pub fn result(&self, text: &str) -> Result<()> {
        let text = lines(text);
        let mut stdout = std::io::stdout().lock();
        match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
            // The reader has seen enough, as in `lora info … | head`.
            Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
            Err(error) => Err(Failure::Failed(format!("standard output: {error}"))),
            Ok(()) => Ok(()),
        }
    }

    /// Prints what happened, unless `--quiet`.
    pub fn note(&self, text: &str) -> Result<()> {
        if self.quiet { Ok(()) } else { self.result(text) }
    }

    /// Warns, unless `--quiet`.
    pub fn warning(&self, text: &str) {
        if !self.quiet {
            let _ = writeln!(std::io::stderr(), "warning: {}", line(text, PARAGRAPH));
        }
    }

    /// Says on stderr what a user should know of a result: a warning where something may be missing, else a note, unless `--quiet`.
    pub fn remark(&self, note: &Note) {
        if note.is_warning() {
            self.warning(&note.to_string());
        } else if !self.quiet {
            let _ = writeln!(std::io::stderr(), "note: {}", line(&note.to_string(), PARAGRAPH));
        }
    }

    /// Does `work` under a progress bar, if stderr is a terminal.
    pub fn watch<T>(&self, label: &'static str, progress: &Progress, work: impl FnOnce() -> T) -> T {
        if self.quiet || !std::io::stderr().is_terminal() {
            return work();
        }
        let (finished, wait) = channel::<()>();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                let bar = bar(label);
                while let Err(RecvTimeoutError::Timeout) = wait.recv_timeout(REFRESH) {
                    bar.set_length(progress.total());
                    bar.set_position(progress.done());
                    if progress.total() > 0 && progress.done() >= progress.total() {
                        bar.set_message("waiting for the disk");
                    }
                }
                bar.finish_and_clear();
            });
            let result = work();
            drop(finished);
            result
        })
    }
}

fn bar(label: &'static str) -> ProgressBar {
    let style =
        ProgressStyle::with_template("{msg:>8} {bar:30} {bytes}/{total_bytes}  {bytes_per_sec}  {eta} left")
            .unwrap_or_else(|_| ProgressStyle::default_bar())
            .progress_chars("=> ");
    ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr()).with_style(style).with_message(label)
}

/// One paragraph on stderr.
pub fn error(failure: &Failure) {
    // Nobody is left to be told that stderr cannot be written.
    let _ = writeln!(std::io::stderr(), "error: {failure}");
}
