//! Signals: the program ends by them at once, whatever it does, and nothing unfinished is left.

#![cfg(unix)]

mod common;

use common::{Run, golden, large, listing, lora, program, words};
use lora_peft::checkpoint::{Outline, ShardWriter};
use lora_peft::tensor::Dtype;
use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// What hangs does not end by itself within this; what does not, ends within a fraction of it.
const PATIENCE: Duration = Duration::from_secs(60);

const SIGNALS: [(&str, i32); 3] = [("HUP", 1), ("INT", 2), ("TERM", 15)];

fn start(line: &str, paths: &[&Path]) -> Child {
    let mut command = program();
    command.args(words(line, paths)).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

fn send(signal: &str, child: &Child) {
    let kill = Command::new("kill").args(["-s", signal, &child.id().to_string()]).status();
    assert!(kill.unwrap().success());
}

#[track_caller]
fn ends(mut child: Child) -> ExitStatus {
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        if start.elapsed() > PATIENCE {
            child.kill().unwrap();
            panic!("it does not end");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Waits until an output is being written beside `base` and `adapter`.
#[track_caller]
fn until_writing(directory: &Path, before: usize) {
    let start = Instant::now();
    while listing(directory).len() <= before {
        assert!(start.elapsed() < PATIENCE, "nothing was started");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn what_writes_nothing_ends_by_the_signal() {
    for (signal, number) in SIGNALS {
        let child = start("bench --shape 64x64x64 --rounds 4000000000 --device cpu", &[]);
        std::thread::sleep(Duration::from_millis(100));
        send(signal, &child);
        assert_eq!(ends(child).signal(), Some(number));
    }
}

/// One matrix is decomposed for minutes before anything is written.
#[test]
fn extraction_ends_by_the_signal() {
    let directory = tempfile::tempdir().unwrap();
    let features = 4096;
    let write = |name: &str, first: u8| {
        let outline = Outline { name: "q.weight".into(), dtype: Dtype::BF16, shape: vec![features; 2] };
        let path = directory.path().join(name);
        let mut writer =
            ShardWriter::create(&path, &BTreeMap::new(), std::slice::from_ref(&outline)).unwrap();
        writer.write(&[0, first]).unwrap();
        drop(writer);
        let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
        let header = file.metadata().unwrap().len() - 2;
        file.set_len(header + outline.bytes()).unwrap();
        path
    };
    let (base, tuned) = (write("base.safetensors", 0), write("tuned.safetensors", 0x3f));
    for (delay, (signal, number)) in [0, 300, 1000].into_iter().zip(SIGNALS) {
        let out = directory.path().join("out");
        let child = start("extract --base {} --tuned {} --rank 1024 --out {}", &[&base, &tuned, &out]);
        std::thread::sleep(Duration::from_millis(delay));
        send(signal, &child);
        assert_eq!(ends(child).signal(), Some(number));
        assert_eq!(listing(directory.path()), ["base.safetensors", "tuned.safetensors"]);
    }
}

#[test]
fn interrupted_merges_leave_nothing() {
    for (delay, (signal, number)) in [0, 20, 100].into_iter().zip(SIGNALS) {
        let directory = tempfile::tempdir().unwrap();
        let [base, adapter] = large(directory.path(), 8, 4096);
        let out = directory.path().join("out");
        let before = listing(&base);
        let line = "merge --base {} --adapter {} --out {} --device cpu --exact";
        let child = start(line, &[&base, &adapter, &out]);
        until_writing(directory.path(), 2);
        std::thread::sleep(Duration::from_millis(delay));
        assert!(!out.exists(), "it was too fast to be interrupted");
        send(signal, &child);
        assert_eq!(ends(child).signal(), Some(number));
        assert_eq!(listing(directory.path()), ["adapter", "base"]);
        assert_eq!(listing(&base), before);
    }
}

/// `timeout` sends its signal to the process and to its group.
#[test]
fn two_signals_at_once_are_one_request() {
    let directory = tempfile::tempdir().unwrap();
    let [base, adapter] = large(directory.path(), 8, 4096);
    let out = directory.path().join("out");
    let child = start("merge --base {} --adapter {} --out {} --device cpu", &[&base, &adapter, &out]);
    until_writing(directory.path(), 2);
    let twice = format!("kill -s TERM {0}; kill -s TERM {0}", child.id());
    Command::new("sh").args(["-c", &twice]).stderr(Stdio::null()).status().unwrap();
    assert_eq!(ends(child).signal(), Some(15));
    assert_eq!(listing(directory.path()), ["adapter", "base"]);
}

#[test]
fn what_was_to_be_replaced_is_still_there() {
    let directory = tempfile::tempdir().unwrap();
    let [base, adapter] = large(directory.path(), 8, 4096);
    let out = directory.path().join("out");
    std::fs::create_dir(&out).unwrap();
    std::fs::write(out.join("model.safetensors"), "old").unwrap();
    let child = start("merge --base {} --adapter {} --out {} --device cpu --force", &[&base, &adapter, &out]);
    until_writing(directory.path(), 3);
    send("TERM", &child);
    assert_eq!(ends(child).signal(), Some(15));
    assert_eq!(listing(directory.path()), ["adapter", "base", "out"]);
    assert_eq!(std::fs::read(out.join("model.safetensors")).unwrap(), b"old");
}

#[test]
fn signals_that_the_parent_ignores_are_ignored() {
    let directory = tempfile::tempdir().unwrap();
    let [base, adapter] = large(directory.path(), 4, 2048);
    let out = directory.path().join("out");
    let mut shell = Command::new("sh");
    shell.args(["-c", "trap '' HUP; exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_lora")]);
    shell.args(words("merge --base {} --adapter {} --out {} --device cpu", &[&base, &adapter, &out]));
    let child = shell.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    until_writing(directory.path(), 2);
    send("HUP", &child);
    assert_eq!(ends(child).code(), Some(0));
    assert_eq!(listing(directory.path()), ["adapter", "base", "out"]);
}

/// A pipe that nobody writes to would block for ever, and some devices never end.
#[test]
fn pipes_and_devices_are_no_inputs() {
    let (base, adapter) = (golden("bases/llama-bf16"), golden("cases/llama-bf16/adapter"));
    let cases = [
        (&base, "model.safetensors"),
        (&base, "config.json"),
        (&adapter, "adapter_config.json"),
        (&adapter, "adapter_model.safetensors"),
    ];
    for (source, pipe) in cases {
        let directory = tempfile::tempdir().unwrap();
        for name in listing(source) {
            if name != pipe {
                std::fs::copy(source.join(&name), directory.path().join(&name)).unwrap();
            }
        }
        let path = directory.path().join(pipe);
        assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
        let child = start("info {}", &[directory.path()]);
        assert_eq!(ends(child).code(), Some(1), "{pipe}");
        // It ends, so the output can be waited for.
        let run: Run = lora("info {}", &[directory.path()]);
        run.fails(1, &[&path.display().to_string(), "a pipe or a device"]);
    }
    lora("info /dev/zero", &[]).fails(1, &["/dev/zero", "a pipe or a device"]);
}
