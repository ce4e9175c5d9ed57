//! Adapters named on the command line, each with its weight.

use crate::failure::{About, Failure, Result};
use clap::ArgMatches;
use lora_peft::printable::{NAME, line};
use lora_peft::{Adapter, Weighted, formats};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// A loaded adapter.
#[derive(Debug)]
pub struct NamedAdapter {
    pub path: PathBuf,
    pub name: String,
    pub weight: f64,
    pub adapter: Adapter,
}

/// Loads the adapters of several options; `--weight` belongs to the adapter named just before it, whichever option
/// named that.
pub fn load<const N: usize>(matches: &ArgMatches, options: [&str; N]) -> Result<[Vec<NamedAdapter>; N]> {
    let mut places = BTreeMap::new();
    for (option, &id) in options.iter().enumerate() {
        let paths = matches.get_many::<PathBuf>(id).into_iter().flatten();
        for (place, path) in matches.indices_of(id).into_iter().flatten().zip(paths) {
            places.insert(place, (option, path, None));
        }
    }
    let weights = matches.get_many::<f64>("weight").into_iter().flatten();
    for (place, &weight) in matches.indices_of("weight").into_iter().flatten().zip(weights) {
        match places.range_mut(..place).next_back() {
            Some((_, (_, _, slot @ None))) => *slot = Some(weight),
            Some((_, (_, path, Some(_)))) => {
                return Err(Failure::Usage(format!("--weight is given twice for `{}`", path.display())));
            }
            None => {
                return Err(Failure::Usage("--weight comes before the adapter that it belongs to".into()));
            }
        }
    }
    let mut found = [const { Vec::new() }; N];
    for (option, path, weight) in places.into_values() {
        let (_, adapter) = formats::load(path).about(path)?;
        let name = path.canonicalize().unwrap_or_else(|_| path.clone());
        let name = name.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
        found[option].push(NamedAdapter { path: path.clone(), name, weight: weight.unwrap_or(1.0), adapter });
    }
    Ok(found)
}

/// The adapters as the library takes them.
pub fn weighted(adapters: &[NamedAdapter]) -> Vec<Weighted<'_>> {
    adapters
        .iter()
        .map(|named| Weighted { name: named.name.clone(), adapter: &named.adapter, weight: named.weight })
        .collect()
}

/// Their names, for the summary.
pub fn names(adapters: &[NamedAdapter]) -> String {
    let name = |named: &NamedAdapter| match named.weight {
        1.0 => line(&named.name, NAME),
        weight => format!("{} × {weight}", line(&named.name, NAME)),
    };
    adapters.iter().map(name).collect::<Vec<_>>().join(" + ")
}
