//! `lora completions`.

use crate::arguments::{Arguments, Completions};
use crate::failure::Result;
use clap::CommandFactory;

pub fn run(arguments: &Completions, console: &crate::console::Console) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut Arguments::command(), "lora", &mut script);
    console.result(&String::from_utf8_lossy(&script))
}
