//! Files and directories, whatever is in them: inputs that others might change, outputs that are complete or not there.

pub(crate) mod foreign;
pub(crate) mod hub_cache;
mod leftovers;
mod names;
mod new_directory;
mod place;
mod source;
mod unfinished;
mod workplace;

pub use names::{CONFIG_FILE, RECORD_DIRECTORY, WEIGHTS_FILE};
pub use new_directory::NewDirectory;
pub use place::resolve;
pub(crate) use source::{Snapshot, SourceFile, open_plain, zeroed};
pub use unfinished::{Removed, remove_all};
