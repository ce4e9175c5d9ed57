//! `lora completions`.

use crate::console::Console;
use crate::failure::Result;
use clap::Args;
use clap_complete::Shell;

/// Print a completion script for a shell
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  lora completions bash > ~/.local/share/bash-completion/completions/lora
  lora completions zsh > \"${fpath[1]}/_lora\"
  lora completions fish > ~/.config/fish/completions/lora.fish")]
pub struct Completions {
    /// The shell
    shell: Shell,
}

impl Completions {
    /// Runs the command; `program` is the whole command line.
    pub fn run(&self, mut program: clap::Command, console: &Console) -> Result<()> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut program, "lora", &mut script);
        console.result(&String::from_utf8_lossy(&script))
    }
}
