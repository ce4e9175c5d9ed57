//! Where an output can be put, and what other runs there mean for it.

#![cfg(unix)]

mod common;

use common::{Run, golden, large, listing, lora, lora_limited, open, program, same_tensors, words};
use std::fs::{create_dir, create_dir_all, read_dir, write};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const MERGE: &str = "merge --base {} --adapter {} --out {} --device cpu";
/// A name that a run gives to the directory that it writes to `out` in.
const LEFT: &str = ".out.partial-0123456789abcdef";

fn base() -> PathBuf {
    golden("bases/llama-bf16")
}

fn adapter() -> PathBuf {
    golden("cases/llama-bf16/adapter")
}

fn merge(out: &Path) -> Run {
    lora(MERGE, &[&base(), &adapter(), out])
}

/// Starts `command` and waits until it is writing a shard.
fn writing(mut command: Command, directory: &Path) -> Child {
    let child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let start = Instant::now();
    let is_writing = || {
        let entries = read_dir(directory).unwrap().flatten();
        let mut partial = entries.filter(|entry| entry.file_name().to_string_lossy().contains(".partial-"));
        let new = partial.next().map(|entry| entry.path().join("new"));
        new.is_some_and(|new| new.join("model-00001-of-00008.safetensors").exists())
    };
    while !is_writing() {
        assert!(start.elapsed() < Duration::from_secs(120), "nothing was written");
        std::thread::sleep(Duration::from_millis(1));
    }
    child
}

#[test]
fn a_killed_run_is_cleared_away_by_the_next() {
    let directory = tempfile::tempdir().unwrap();
    let [base, adapter] = large(directory.path(), 8, 2048);
    let out = directory.path().join("out");
    let paths: [&Path; 3] = [&base, &adapter, &out];
    let mut command = program();
    command.args(words(MERGE, &paths));
    let mut child = writing(command, directory.path());
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(!out.exists(), "it was too fast to be killed");
    let left = listing(directory.path()).remove(0);
    assert!(left.starts_with(".out.partial-"), "{left}");
    let run = lora(MERGE, &paths).succeeds();
    let words =
        format!("warning: removed `{}`", directory.path().canonicalize().unwrap().join(left).display());
    assert!(run.stderr.starts_with(&words), "{}", run.stderr);
    assert_eq!(run.stderr.lines().count(), 1, "{}", run.stderr);
    assert_eq!(listing(directory.path()), ["adapter", "base", "out"]);
}

/// Whether this machine lets a test have namespaces of its own.
fn has_namespaces(options: &[&str], needed: &str) -> bool {
    let found = Command::new("unshare")
        .args(options)
        .args(["sh", "-c", needed])
        .status()
        .is_ok_and(|status| status.success());
    if !found {
        eprintln!("skipped: `unshare {}` does not work here", options.join(" "));
    }
    found
}

#[test]
fn a_killed_run_with_the_same_process_id_is_no_obstacle() {
    let options = ["--user", "--map-root-user", "--pid", "--fork", "--kill-child"];
    if !has_namespaces(&options, "true") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let [base, adapter] = large(directory.path(), 8, 2048);
    let paths: [&Path; 3] = [&base, &adapter, &directory.path().join("out")];
    // Each has the process id 1.
    let command = || {
        let mut command = Command::new("unshare");
        command.args(options).arg(env!("CARGO_BIN_EXE_lora")).args(words(MERGE, &paths));
        command
    };
    let mut child = writing(command(), directory.path());
    child.kill().unwrap();
    child.wait().unwrap();
    let died = Instant::now();
    // The first one may take a moment to follow the process that started it.
    let run = loop {
        let run = Run::from(command().output().unwrap());
        if run.code == Some(0) || died.elapsed() > Duration::from_secs(60) {
            break run.succeeds();
        }
        assert!(run.stderr.contains("another run is writing"), "{}", run.stderr);
    };
    assert!(run.stderr.contains("removed `"), "{}", run.stderr);
    assert_eq!(listing(directory.path()), ["adapter", "base", "out"]);
}

#[test]
fn a_living_run_is_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let [base, adapter] = large(directory.path(), 8, 2048);
    let paths: [&Path; 3] = [&base, &adapter, &directory.path().join("out")];
    let mut command = program();
    command.args(words(MERGE, &paths));
    let child = writing(command, directory.path());
    let signal = |name: &str| {
        let status = Command::new("kill").args(["-s", name, &child.id().to_string()]).status();
        assert!(status.unwrap().success());
    };
    // However long it takes.
    signal("STOP");
    for line in [MERGE.to_owned(), format!("{MERGE} --force")] {
        lora(&line, &paths).fails(1, &["out: another run is writing it, in `", "choose another"]);
    }
    // Another destination in the same directory is none of its business.
    lora(MERGE, &[&self::base(), &self::adapter(), &directory.path().join("out2")]).succeeds();
    signal("CONT");
    let run = Run::from(child.wait_with_output().unwrap()).succeeds();
    assert_eq!(run.stderr, "");
    assert_eq!(listing(directory.path()), ["adapter", "base", "out", "out2"]);
    assert_eq!(open(paths[2]).shards().len(), 8);
}

#[test]
fn of_two_runs_at_once_one_writes_the_output() {
    for round in 0..8 {
        let directory = tempfile::tempdir().unwrap();
        let out = directory.path().join("below/out");
        let start = || {
            let mut command = program();
            command.args(words(MERGE, &[&base(), &adapter(), &out]));
            command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
        };
        let runs = [start(), start()].map(|child| Run::from(child.wait_with_output().unwrap()));
        let succeeded = runs.iter().filter(|run| run.code == Some(0)).count();
        let errors: Vec<&str> = runs.iter().map(|run| run.stderr.as_str()).collect();
        // Both, if the one had ended before the other looked, and made the directory around it go away.
        assert!(succeeded >= 1, "{round}: {errors:?}");
        let told = ["another run is writing it", "already exists", "was made by someone else meanwhile"];
        for run in runs.iter().filter(|run| run.code != Some(0)) {
            assert!(told.iter().any(|words| run.stderr.contains(words)), "{}", run.stderr);
        }
        assert_eq!(listing(&directory.path().join("below")), ["out"]);
        assert_eq!(listing(&out), ["config.json", "model.safetensors"]);
    }
}

/// A directory as a run leaves it that is killed between the two renames of a replacement.
fn leave(directory: &Path, parts: &[&str]) {
    create_dir(directory.join(LEFT)).unwrap();
    write(directory.join(LEFT).join("lock"), "").unwrap();
    for part in parts {
        create_dir_all(directory.join(LEFT).join(part)).unwrap();
        let file = base().join("model.safetensors");
        std::fs::copy(file, directory.join(LEFT).join(part).join("model.safetensors")).unwrap();
    }
}

#[test]
fn what_a_killed_run_was_replacing_is_put_back() {
    let directory = tempfile::tempdir().unwrap();
    let out = directory.path().join("out");
    leave(directory.path(), &["old", "new"]);
    write(directory.path().join(LEFT).join("old/mine"), "").unwrap();
    let run = merge(&out);
    assert!(run.stderr.contains("is there again, as it was"), "{}", run.stderr);
    assert!(run.stderr.contains("already exists"), "{}", run.stderr);
    assert_eq!(run.code, Some(1));
    assert_eq!(listing(directory.path()), ["out"]);
    assert_eq!(listing(&out), ["mine", "model.safetensors"]);
    // If the destination is something else by now, both are kept.
    leave(directory.path(), &["old", "new"]);
    let run = lora(&format!("{MERGE} --force"), &[&base(), &adapter(), &out]).succeeds();
    assert!(run.stderr.contains("yours to remove"), "{}", run.stderr);
    assert_eq!(listing(directory.path()), [LEFT, "out"]);
    assert_eq!(listing(&directory.path().join(LEFT)), ["lock", "new", "old"]);
    assert_eq!(listing(&out), ["config.json", "model.safetensors"]);
    // And if it was replaced, the old one goes.
    std::fs::remove_dir_all(directory.path().join(LEFT).join("new")).unwrap();
    let run = lora(&format!("{MERGE} --force"), &[&base(), &adapter(), &out]).succeeds();
    assert!(run.stderr.contains("warning: removed `"), "{}", run.stderr);
    assert_eq!(listing(directory.path()), ["out"]);
}

#[test]
fn what_is_no_leftover_is_not_touched() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    // A run killed before it made its lock, and things that only look like leftovers.
    create_dir(path(".out.partial-aaaaaaaaaaaaaaaa")).unwrap();
    create_dir_all(path(&format!("{LEFT}/precious"))).unwrap();
    create_dir(path(".out.partial-1")).unwrap();
    create_dir(path(".other.partial-0123456789abcdef")).unwrap();
    write(path(".out.partial-bbbbbbbbbbbbbbbb"), "").unwrap();
    symlink(path("elsewhere"), path(".out.partial-cccccccccccccccc")).unwrap();
    let run = merge(&path("out")).succeeds();
    assert!(run.stderr.contains("removed `") && run.stderr.contains("aaaaaaaaaaaaaaaa"), "{}", run.stderr);
    assert!(run.stderr.contains(LEFT) && run.stderr.contains("cannot be known"), "{}", run.stderr);
    let mut expected = [
        ".other.partial-0123456789abcdef",
        ".out.partial-0123456789abcdef",
        ".out.partial-1",
        ".out.partial-bbbbbbbbbbbbbbbb",
        ".out.partial-cccccccccccccccc",
        "out",
    ];
    expected.sort_unstable();
    assert_eq!(listing(directory.path()), expected);
}

#[test]
fn links_lead_to_the_output() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    create_dir(path("empty")).unwrap();
    symlink("empty", path("link")).unwrap();
    symlink("new/one", path("nowhere")).unwrap();
    for (link, place) in [("link", "empty"), ("nowhere", "new/one")] {
        merge(&path(link)).succeeds();
        merge(&path(link)).fails(1, &["already exists", "--force"]);
        write(path(place).join("old"), "").unwrap();
        lora(&format!("{MERGE} --force"), &[&base(), &adapter(), &path(link)]).succeeds();
        assert!(path(link).is_symlink());
        assert_eq!(listing(&path(place)), ["config.json", "model.safetensors"]);
    }
    assert_eq!(listing(directory.path()), ["empty", "link", "new", "nowhere"]);
    // Not even by a link into an input that leads nowhere yet.
    let [base, adapter] = large(directory.path(), 1, 16);
    symlink("base/new", path("into")).unwrap();
    lora(MERGE, &[&base, &adapter, &path("into")]).fails(1, &["inputs are never changed"]);
    symlink("itself", path("itself")).unwrap();
    merge(&path("itself")).fails(1, &["itself"]);
}

/// Found before any work: the adapter, which does not fit, is not looked at.
fn refused_at_once(out: &Path, options: &str, words: &[&str]) {
    let misfit = golden("cases/gpt2-attention/adapter");
    lora(&format!("{MERGE} {options}"), &[&base(), &misfit, out]).fails(1, words);
    let line = "extract --base {} --tuned {} --rank 2 --out {}";
    lora(&format!("{line} {options}"), &[&base(), &base(), out]).fails(1, words);
}

#[test]
fn outputs_that_cannot_be_are_refused_before_the_work() {
    let directory = tempfile::tempdir().unwrap();
    write(directory.path().join("file"), "").unwrap();
    refused_at_once(&directory.path().join("file/out"), "", &["file/out: `", "file` is not a directory"]);
    refused_at_once(&directory.path().join("name".repeat(70)), "", &["File name too long"]);
    refused_at_once(Path::new("/proc/out"), "", &["/proc/out: "]);
    // Directories that were made on the way are gone again.
    merge(&directory.path().join("new/below/").join("name".repeat(70))).fails(1, &["too long"]);
    let misfit = golden("cases/gpt2-attention/adapter");
    lora(MERGE, &[&base(), &misfit, &directory.path().join("new/below/out")]).fails(1, &[]);
    assert_eq!(listing(directory.path()), ["file"]);
}

#[test]
fn mount_points_are_refused_before_the_work() {
    let options = ["--user", "--map-root-user", "--mount"];
    if !has_namespaces(&options, "mount -t tmpfs none /mnt") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let within = |mount: &str, line: &str, out: &Path| {
        let script = format!("cd \"$0\" && {mount} && exec \"$@\"");
        let mut command = Command::new("unshare");
        command.args(options).args(["sh", "-c", &script]).arg(directory.path());
        command.arg(env!("CARGO_BIN_EXE_lora"));
        let misfit = golden("cases/gpt2-attention/adapter");
        Run::from(command.args(words(line, &[&base(), &misfit, out])).output().unwrap())
    };
    for name in ["other", "same", "full"] {
        create_dir(path(name)).unwrap();
    }
    std::fs::copy(base().join("model.safetensors"), path("full/model.safetensors")).unwrap();
    let tmpfs = "mount -t tmpfs none other";
    within(tmpfs, MERGE, &path("other")).fails(1, &["other: ", "mount point", "inside it"]);
    within("mount --bind same same", MERGE, &path("same")).fails(1, &["same: ", "mount point", "inside it"]);
    let force = format!("{MERGE} --force");
    within("mount --bind full full", &force, &path("full")).fails(1, &["full: ", "mount point", "inside it"]);
    let read_only = format!("{tmpfs} && mkdir other/below && mount -o remount,ro other");
    within(&read_only, MERGE, &path("other/below/out"))
        .fails(1, &["below/out: ", "Read-only", "choose a place"]);
    assert_eq!(listing(directory.path()), ["full", "other", "same"]);
}

#[test]
fn missing_permission_is_found_before_the_work() {
    use std::os::unix::fs::PermissionsExt;
    let directory = tempfile::tempdir().unwrap();
    let closed = directory.path().join("closed");
    create_dir_all(closed.join("full")).unwrap();
    std::fs::copy(base().join("model.safetensors"), closed.join("full/model.safetensors")).unwrap();
    let permit = |mode| std::fs::set_permissions(&closed, PermissionsExt::from_mode(mode)).unwrap();
    permit(0o555);
    if create_dir(closed.join("anyway")).is_ok() {
        eprintln!("skipped: permissions do not bind this user");
        return;
    }
    refused_at_once(&closed.join("out"), "", &["closed/out: Permission denied", "choose a place"]);
    refused_at_once(&closed.join("full"), "--force", &["closed/full: Permission denied", "choose a place"]);
    permit(0o755);
    assert_eq!(listing(&closed), ["full"]);
}

#[test]
fn few_open_files_leave_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let out = directory.path().join("below/out");
    let mut succeeded = false;
    for limit in 7..64 {
        let run = lora_limited(
            &format!("ulimit -n {limit}"),
            &format!("{MERGE} --exact"),
            &[&base(), &adapter(), &out],
        );
        if run.code == Some(0) {
            succeeded = true;
            break;
        }
        run.fails(1, &["Too many open files", "allow more open files, with `ulimit -n`"]);
        assert!(listing(directory.path()).is_empty(), "with {limit} files");
    }
    assert!(succeeded);
    // What is to be replaced stays.
    let before = listing(&out);
    for limit in [8, 12, 14] {
        let line = format!("{MERGE} --exact --force");
        lora_limited(&format!("ulimit -n {limit}"), &line, &[&base(), &adapter(), &out])
            .fails(1, &["Too many open files"]);
        assert_eq!(listing(&out), before);
        assert_eq!(listing(&directory.path().join("below")), ["out"]);
    }
    same_tensors(&out, &out);
}

#[test]
fn an_output_inside_the_base_is_not_copied_into_itself() {
    let directory = tempfile::tempdir().unwrap();
    let [base, adapter] = large(directory.path(), 1, 16);
    let (index, out) = (base.join("model.safetensors.index.json"), base.join("deep/merged"));
    create_dir_all(base.join("deep/tokenizer")).unwrap();
    write(base.join("deep/tokenizer/vocab.txt"), "x").unwrap();
    let expected =
        ["config.json", "deep", "model-00001-of-00001.safetensors", "model.safetensors.index.json"];
    for options in ["", "--force", "--force"] {
        lora(&format!("{MERGE} {options}"), &[&index, &adapter, &out]).succeeds();
        assert_eq!(listing(&out), expected);
        assert_eq!(listing(&out.join("deep")), ["tokenizer"]);
        assert_eq!(listing(&base.join("deep")), ["merged", "tokenizer"]);
    }
}
