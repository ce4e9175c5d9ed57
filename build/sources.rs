//! The files under `kernels/`, and which headers each kernel file includes.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Every CUDA source with its text.
pub struct Sources {
    root: PathBuf,
    texts: BTreeMap<PathBuf, String>,
}

impl Sources {
    /// Reads all `.cu` and `.cuh` files under `root`.
    pub fn read(root: &Path) -> Result<Self, String> {
        let mut texts = BTreeMap::new();
        let mut folders = vec![root.to_path_buf()];
        while let Some(folder) = folders.pop() {
            let entries = fs::read_dir(&folder).map_err(|error| describe(&folder, &error))?;
            for entry in entries {
                let path = entry.map_err(|error| describe(&folder, &error))?.path();
                if path.is_dir() {
                    folders.push(path);
                } else if path.extension().is_some_and(|extension| extension == "cu" || extension == "cuh") {
                    let text = fs::read_to_string(&path).map_err(|error| describe(&path, &error))?;
                    texts.insert(path, text);
                }
            }
        }
        Ok(Sources { root: root.to_path_buf(), texts })
    }

    /// All files.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        self.texts.keys().map(PathBuf::as_path)
    }

    /// The files whose names end so, with their texts.
    pub fn ending_with(&self, end: &str) -> impl Iterator<Item = (&Path, &str)> {
        let files = self.texts.iter().filter(move |(path, _)| path.to_string_lossy().ends_with(end));
        files.map(|(path, text)| (path.as_path(), text.as_str()))
    }

    /// The files that nvcc compiles: all `.cu`. Their names differ, in whatever folder they are: images, mutants and tables of
    /// instructions go by them.
    pub fn kernels(&self) -> Result<Vec<&Path>, String> {
        let is_kernel = |path: &&Path| path.extension().is_some_and(|extension| extension == "cu");
        let kernels: Vec<&Path> = self.files().filter(is_kernel).collect();
        for (n, kernel) in kernels.iter().enumerate() {
            let same_name = |other: &&&Path| other.file_name() == kernel.file_name();
            if let Some(other) = kernels[..n].iter().find(same_name) {
                return Err(format!("{} and {} have one name", other.display(), kernel.display()));
            }
        }
        Ok(kernels)
    }

    /// The folder that includes are relative to.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The texts of `kernel` and of all files that it includes, in a fixed order.
    pub fn closure(&self, kernel: &Path) -> Vec<&str> {
        let mut seen = BTreeSet::new();
        let mut pending = vec![kernel.to_path_buf()];
        while let Some(path) = pending.pop() {
            let Some(text) = self.texts.get(&path) else { continue };
            if !seen.insert(path.clone()) {
                continue;
            }
            for name in text.lines().filter_map(included) {
                pending.extend([self.root.join(name), path.with_file_name(name)].map(|path| normal(&path)));
            }
        }
        seen.iter().map(|path| self.texts[path].as_str()).collect()
    }
}

/// The name in a line `#include "name"`.
fn included(line: &str) -> Option<&str> {
    let rest = line.trim_start().strip_prefix('#')?.trim_start().strip_prefix("include")?;
    rest.trim_start().strip_prefix('"')?.split('"').next()
}

/// The path without `..`.
fn normal(path: &Path) -> PathBuf {
    let mut result = PathBuf::new();
    for part in path.components() {
        if part == std::path::Component::ParentDir {
            result.pop();
        } else {
            result.push(part);
        }
    }
    result
}

fn describe(path: &Path, error: &std::io::Error) -> String {
    format!("{}: {error}", path.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_depends_on_what_it_includes_and_on_nothing_else() {
        let root = std::env::temp_dir().join(format!("lora-kernels-sources-{}", std::process::id()));
        fs::create_dir_all(root.join("arch")).unwrap();
        let files = [
            ("kernel.cu", "#include \"arch/mechanism.cuh\"\n#include <cstdint>\n"),
            ("arch/mechanism.cuh", "  #  include \"../element.cuh\"\n"),
            ("element.cuh", "// includes nothing\n#include \"kernel.cu\"\n"),
            ("unrelated.cuh", "// unrelated\n"),
            ("arch/other.cu", "// in a folder\n"),
        ];
        for (name, text) in files {
            fs::write(root.join(name), text).unwrap();
        }
        let sources = Sources::read(&root).unwrap();
        let closure = sources.closure(&root.join("kernel.cu"));
        let kernels = sources.kernels().unwrap();
        assert_eq!(kernels, [root.join("arch/other.cu"), root.join("kernel.cu")]);
        assert_eq!(closure, [files[1].1, files[2].1, files[0].1]);
        assert_eq!(sources.files().count(), files.len());
        fs::write(root.join("other.cu"), "// the same name in another folder\n").unwrap();
        let message = Sources::read(&root).unwrap().kernels().unwrap_err();
        assert!(message.contains("arch/other.cu") && message.contains("one name"), "{message}");
        fs::remove_dir_all(root).unwrap();
    }
}
