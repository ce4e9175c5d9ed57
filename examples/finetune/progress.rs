//! Progress of a training: a bar in a terminal, a few plain lines elsewhere.

use indicatif::{ProgressBar, ProgressStyle};
use std::io::IsTerminal;

/// Lines for each training where there is no terminal.
const PLAIN_LINES: usize = 4;

/// Shows how far a training is, on standard error.
pub struct Progress {
    name: String,
    bar: Option<ProgressBar>,
    done: usize,
    steps: usize,
}

impl Progress {
    /// A training of so many steps.
    pub fn new(name: String, steps: usize) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new(steps as u64).with_prefix(name.clone());
            if let Ok(style) = ProgressStyle::with_template("{prefix:<36} [{bar:24}] step {pos}/{len}  {msg}")
            {
                bar.set_style(style.progress_chars("=> "));
            }
            bar
        });
        Progress { name, bar, done: 0, steps }
    }

    /// One more step, with this loss.
    pub fn step(&mut self, loss: f32) {
        self.done += 1;
        match &self.bar {
            Some(bar) => {
                bar.set_message(format!("loss {loss:.4}"));
                bar.inc(1);
                if self.done == self.steps {
                    bar.finish();
                    // The finished bar leaves the cursor in its line.
                    eprintln!();
                }
            }
            None => {
                let quarter = |done: usize| done * PLAIN_LINES / self.steps;
                if quarter(self.done) > quarter(self.done - 1) {
                    eprintln!("{}: step {} of {}, loss {loss:.4}", self.name, self.done, self.steps);
                }
            }
        }
    }
}
