//! One module a subcommand.

pub mod bench;
pub mod completions;
pub mod convert;
pub mod demo;
mod edit;
pub mod extract;
pub mod info;
pub mod merge;
pub mod switch;
pub mod unmerge;
