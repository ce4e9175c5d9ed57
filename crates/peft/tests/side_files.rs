//! Which of the files beside a checkpoint a new one gets.
#![cfg(unix)]

mod common;

use common::case;
use lora_kernels::cpu::Cpu;
use lora_peft::{Checkpoint, Edit, EditOptions, Error, Progress, Weighted};
use std::fs::{File, create_dir, create_dir_all, write};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;

const CASE: &str = "llama-attention";

/// A copy of a base to put files beside.
fn base(root: &Path) -> PathBuf {
    let base = root.join("base");
    create_dir(&base).unwrap();
    for file in ["config.json", "model.safetensors"] {
        std::fs::copy(case(CASE).base.join(file), base.join(file)).unwrap();
    }
    base
}

fn merge(base: &Path, out: &Path, progress: &Progress) -> Result<Vec<String>, Error> {
    let checkpoint = Checkpoint::open(base).unwrap();
    let adapters = case(CASE).adapters();
    let weighted = [Weighted { name: "a".into(), adapter: &adapters[0], weight: 1.0 }];
    let edit = Edit::merge(&checkpoint, &weighted, EditOptions::default()).unwrap();
    Ok(edit.write(&Cpu::new(), out, progress)?.not_copied)
}

/// Every path below a directory that is not one.
fn files(directory: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut directories = vec![directory.to_owned()];
    while let Some(next) = directories.pop() {
        for entry in std::fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            match path.symlink_metadata().unwrap().is_dir() {
                true => directories.push(path),
                false => found.push(path.strip_prefix(directory).unwrap().display().to_string()),
            }
        }
    }
    found.sort();
    found
}

#[test]
fn known_kinds_are_copied_and_others_named() {
    let root = tempfile::tempdir().unwrap();
    let base = base(root.path());
    let known = [
        "LICENSE",
        "README.md",
        "chat_template.jinja",
        "modeling_own.py",
        "tokenizer.json",
        "tokenizer.model.v3",
    ];
    for name in known {
        write(base.join(name), name).unwrap();
    }
    for weights in
        ["pytorch_model.bin", "other.safetensors", "adapter_config.json", ".hidden", ".hidden.json"]
    {
        write(base.join(weights), "x").unwrap();
    }
    for unknown in ["core.123", "notes"] {
        write(base.join(unknown), "x").unwrap();
    }
    create_dir_all(base.join("assets/empty")).unwrap();
    create_dir(base.join(".cache")).unwrap();
    for name in ["assets/picture.png", "assets/data.parquet", "assets/model.safetensors", ".cache/x.json"] {
        write(base.join(name), "x").unwrap();
    }
    let out = root.path().join("out");
    let not_copied = merge(&base, &out, &Progress::new()).unwrap();
    assert_eq!(not_copied, ["assets/data.parquet", "core.123", "notes"]);
    let mut expected = known.to_vec();
    expected.extend(["assets/picture.png", "config.json", "model.safetensors"]);
    expected.sort_unstable();
    assert_eq!(files(&out), expected);
    assert!(out.join("assets/empty").is_dir());
    assert_eq!(std::fs::read(out.join("tokenizer.model.v3")).unwrap(), b"tokenizer.model.v3");
}

#[test]
fn modules_of_their_own_are_copied_whole() {
    let root = tempfile::tempdir().unwrap();
    let base = base(root.path());
    let modules = r#"[{"path": ""}, {"path": "1_Pooling"}, {"path": "2_Dense"}, {"path": "more/3_Dense"}, {"path": ".."}]"#;
    write(base.join("modules.json"), modules).unwrap();
    for directory in ["1_Pooling", "2_Dense", "more/3_Dense", "other"] {
        create_dir_all(base.join(directory)).unwrap();
        write(base.join(directory).join("config.json"), "{}").unwrap();
        write(base.join(directory).join("model.safetensors"), "weights").unwrap();
    }
    let out = root.path().join("out");
    assert!(merge(&base, &out, &Progress::new()).unwrap().is_empty());
    let expected = [
        "1_Pooling/config.json",
        "1_Pooling/model.safetensors",
        "2_Dense/config.json",
        "2_Dense/model.safetensors",
        "config.json",
        "model.safetensors",
        "modules.json",
        "more/3_Dense/config.json",
        "more/3_Dense/model.safetensors",
        "other/config.json",
    ];
    assert_eq!(files(&out), expected);
}

#[test]
fn links_to_files_are_files_and_links_to_directories_are_not_followed() {
    let root = tempfile::tempdir().unwrap();
    let base = base(root.path());
    // The hub's cache consists of links to files.
    let blobs = root.path().join("blobs");
    create_dir(&blobs).unwrap();
    write(blobs.join("0123"), "a tokenizer").unwrap();
    symlink("../blobs/0123", base.join("tokenizer.json")).unwrap();
    // Two that lead to where they are never end.
    for (name, target) in [("here.json", "."), ("again", "."), ("up", ".."), ("blobs", "../blobs")] {
        symlink(target, base.join(name)).unwrap();
    }
    symlink("absent", base.join("lost.json")).unwrap();
    symlink("itself", base.join("itself")).unwrap();
    write(base.join("modules.json"), r#"[{"path": "whole"}]"#).unwrap();
    create_dir(base.join("whole")).unwrap();
    symlink("..", base.join("whole/up")).unwrap();
    let out = root.path().join("out");
    let mut not_copied = merge(&base, &out, &Progress::new()).unwrap();
    not_copied.sort();
    let expected = [
        "again (a link to a directory)",
        "blobs (a link to a directory)",
        "here.json (a link to a directory)",
        "itself (leads nowhere)",
        "lost.json (leads nowhere)",
        "up (a link to a directory)",
        "whole/up (a link to a directory)",
    ];
    assert_eq!(not_copied, expected);
    assert_eq!(files(&out), ["config.json", "model.safetensors", "modules.json", "tokenizer.json"]);
    let tokenizer = out.join("tokenizer.json");
    assert!(tokenizer.symlink_metadata().unwrap().is_file());
    assert_eq!(std::fs::read(tokenizer).unwrap(), b"a tokenizer");
}

#[test]
fn what_is_no_file_is_not_opened() {
    let root = tempfile::tempdir().unwrap();
    let base = base(root.path());
    for pipe in ["pipe.json", "modules.json", "pipe"] {
        assert!(Command::new("mkfifo").arg(base.join(pipe)).status().unwrap().success());
    }
    let _socket = UnixListener::bind(base.join("socket.json")).unwrap();
    symlink("/dev/zero", base.join("zeros.json")).unwrap();
    let out = root.path().join("out");
    let not_copied = merge(&base, &out, &Progress::new()).unwrap();
    let expected = ["modules.json", "pipe", "pipe.json", "socket.json", "zeros.json"];
    assert_eq!(not_copied, expected.map(|name| format!("{name} (not a plain file)")));
    assert_eq!(files(&out), ["config.json", "model.safetensors"]);
}

#[test]
fn large_files_are_streamed_and_can_be_interrupted() {
    let root = tempfile::tempdir().unwrap();
    let base = base(root.path());
    // A hole in a file reads as zeros.
    let large = 300 << 20;
    let mut file = File::create(base.join("vocab.txt")).unwrap();
    file.seek(SeekFrom::Start(large)).unwrap();
    file.write_all(b"end").unwrap();
    let out = root.path().join("out");
    let before = peak_memory();
    assert!(merge(&base, &out, &Progress::new()).unwrap().is_empty());
    if let (Some(before), Some(after)) = (before, peak_memory()) {
        assert!(after - before < large / 2, "{before} to {after} bytes");
    }
    let mut copy = File::open(out.join("vocab.txt")).unwrap();
    assert_eq!(copy.metadata().unwrap().len(), large + 3);
    copy.seek(SeekFrom::Start(large)).unwrap();
    let mut end = String::new();
    copy.read_to_string(&mut end).unwrap();
    assert_eq!(end, "end");
    // Cancelled while nothing but this file is being copied.
    let progress = Progress::new();
    let cancelled = root.path().join("cancelled");
    std::thread::scope(|scope| {
        let run = scope.spawn(|| merge(&base, &cancelled, &progress));
        let is_copying = || {
            let entries = std::fs::read_dir(root.path()).unwrap().flatten();
            let mut partial =
                entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(".cancelled"));
            partial.next().is_some_and(|entry| entry.path().join("new/vocab.txt").exists())
        };
        while !is_copying() && !run.is_finished() {
            std::thread::yield_now();
        }
        progress.cancel();
        assert!(matches!(run.join().unwrap(), Err(Error::Cancelled)));
    });
    let mut left: Vec<_> =
        std::fs::read_dir(root.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, ["base", "out"]);
}

/// The most memory that this process ever held, where the system tells.
fn peak_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? << 10)
}

#[test]
fn deep_directories_take_no_open_files() {
    let root = tempfile::tempdir().unwrap();
    let base = base(root.path());
    let deep = "d/".repeat(200);
    create_dir_all(base.join(&deep)).unwrap();
    write(base.join(&deep).join("vocab.txt"), "x").unwrap();
    let out = root.path().join("out");
    merge(&base, &out, &Progress::new()).unwrap();
    assert_eq!(std::fs::read(out.join(&deep).join("vocab.txt")).unwrap(), b"x");
}
