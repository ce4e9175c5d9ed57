//! Random damage to merged checkpoints and their restore records: what comes out is refused or right, never wrong.
//!
//! `scripts/attack-records` runs many more than the few of every test run.

mod common;

use common::case;
use lora_kernels::cpu::Cpu;
use lora_kernels::restore::RestoreMethod;
use lora_peft::merge::RECORD_DIRECTORY;
use lora_peft::{Adapter, Checkpoint, Edit, EditOptions, Error, Progress, Result, Weighted};
use std::path::{Path, PathBuf};

/// SplitMix64 (Steele, Lea, Flood, OOPSLA 2014).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    fn pick<'a, T>(&mut self, list: &'a [T]) -> &'a T {
        &list[self.below(list.len())]
    }
}

/// A base, what was merged into it with a record, and what unmerging and switching must give.
struct Target {
    name: &'static str,
    root: tempfile::TempDir,
    base: PathBuf,
    adapters: [Adapter; 2],
}

fn one(adapter: &Adapter) -> [Weighted<'_>; 1] {
    [Weighted { name: "one".into(), adapter, weight: 1.0 }]
}

impl Target {
    /// Two adapters for one base. Directories: `merged` (the first), `direct` (the second), and `other`, another merge of the
    /// first one's tensors.
    fn new(name: &'static str, second: &str, method: RestoreMethod) -> Self {
        let first = case(name);
        let adapters = [first.adapters().remove(0), case(second).adapters().pop().unwrap()];
        let target = Target { name, root: tempfile::tempdir().unwrap(), base: first.base, adapters };
        let mut doubled = target.adapters[0].clone();
        doubled.layers.values_mut().for_each(|layer| layer.a = layer.another_a());
        let base = Checkpoint::open(&target.base).unwrap();
        let options = EditOptions { restore: Some(method), ..EditOptions::default() };
        let merges = [("merged", &target.adapters[0]), ("direct", &target.adapters[1]), ("other", &doubled)];
        for (directory, adapter) in merges {
            let edit = Edit::merge(&base, &one(adapter), options).unwrap();
            edit.write(&Cpu::new(), &target.path(directory), &Progress::new()).unwrap();
        }
        target
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    /// Takes the first adapter out of `damaged`, or exchanges it.
    fn edit(&self, switch: bool, out: &Path) -> Result<()> {
        let checkpoint = Checkpoint::open(&self.path("damaged"))?;
        let (from, to) = (one(&self.adapters[0]), one(&self.adapters[1]));
        let options = EditOptions::default();
        let edit = match switch {
            true => Edit::switch(&checkpoint, &from, &to, options)?,
            false => Edit::unmerge(&checkpoint, &from, options)?,
        };
        // Without the directory of records there is no promise, and `lora` warns.
        assert!(edit.is_exact() || !self.path("damaged").join(RECORD_DIRECTORY).exists());
        edit.write(&Cpu::new(), out, &Progress::new()).map(|_| ())
    }
}

/// Another A of the same shape.
trait Scaled {
    fn another_a(&self) -> lora_peft::Tensor;
}

impl Scaled for lora_peft::AdapterLayer {
    fn another_a(&self) -> lora_peft::Tensor {
        let values: Vec<f32> = self.a.to_f32().iter().map(|value| 1.75 * value).collect();
        lora_peft::Tensor::new(self.a.shape(), values).unwrap()
    }
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &target);
        } else {
            std::fs::copy(&path, target).unwrap();
        }
    }
}

fn files(directory: &Path, ending: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<PathBuf> =
        entries.filter(|path| path.is_file() && path.to_str().unwrap().ends_with(ending)).collect();
    files.sort();
    files
}

fn damage_bytes(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = std::fs::read(path).unwrap();
    change(&mut bytes);
    std::fs::write(path, bytes).unwrap();
}

/// Damages a merged checkpoint in one way, and says how.
fn damage(checkpoint: &Path, other: &Path, random: &mut Random) -> String {
    let records = files(&checkpoint.join(RECORD_DIRECTORY), ".safetensors");
    let list = checkpoint.join(RECORD_DIRECTORY).join("restore.json");
    let weights = files(checkpoint, ".safetensors");
    let place = match random.below(4) {
        0 => list.clone(),
        1 => random.pick(&weights).clone(),
        _ => random.pick(&records).clone(),
    };
    let shown = place.strip_prefix(checkpoint).unwrap().display().to_string();
    match random.below(10) {
        0..3 => {
            damage_bytes(&place, |bytes| {
                let at = random.below(bytes.len());
                bytes[at] ^= 1 << random.below(8);
            });
            format!("a bit of {shown}")
        }
        3 => {
            damage_bytes(&place, |bytes| {
                for _ in 0..2 + random.below(30) {
                    let at = random.below(bytes.len());
                    bytes[at] ^= 1 << random.below(8);
                }
            });
            format!("many bits of {shown}")
        }
        4 => {
            damage_bytes(&place, |bytes| {
                let start = random.below(bytes.len());
                let end = bytes.len().min(start + 1 + random.below(64));
                bytes[start..end].fill_with(|| random.next() as u8);
            });
            format!("a run of bytes of {shown}")
        }
        5 => {
            damage_bytes(&place, |bytes| bytes.truncate(random.below(bytes.len())));
            format!("{shown} truncated")
        }
        6 => {
            let (one, two) = (random.pick(&records), random.pick(&records));
            let [first, second] = [one, two].map(|path| std::fs::read(path).unwrap());
            std::fs::write(one, second).unwrap();
            std::fs::write(two, first).unwrap();
            format!("{} and {} exchanged", one.display(), two.display())
        }
        7 => {
            let from = random.pick(&records);
            std::fs::copy(from, &place).unwrap();
            format!("{} in place of {shown}", from.display())
        }
        8 => {
            std::fs::copy(other.join(&shown), &place).unwrap();
            format!("{shown} of another merge")
        }
        _ => {
            // A digit or letter for another: the list stays well-formed.
            damage_bytes(&list, |bytes| {
                let places: Vec<usize> =
                    (0..bytes.len()).filter(|&at| bytes[at].is_ascii_alphanumeric()).collect();
                let at = *random.pick(&places);
                bytes[at] = b"0123456789abcdef"[random.below(16)];
            });
            "a character of restore.json".to_owned()
        }
    }
}

fn same_tensors(one: &Path, two: &Path) -> bool {
    let (one, two) = (Checkpoint::open(one).unwrap(), Checkpoint::open(two).unwrap());
    let same = |name: &String| {
        let (first, second) = (one.info(name).unwrap(), two.info(name).unwrap());
        (first.dtype, &first.shape) == (second.dtype, &second.shape)
            && one.bytes(name).unwrap() == two.bytes(name).unwrap()
    };
    one.tensors().keys().eq(two.tensors().keys()) && one.tensors().keys().all(same)
}

#[test]
fn damaged_records_are_refused_or_do_not_matter() {
    let number = |name: &str, default: u64| {
        std::env::var(name).map_or(default, |text| text.parse().expect("a number"))
    };
    let (count, seed) = (number("LORA_PEFT_DAMAGES", 20), number("LORA_PEFT_SEED", 1));
    let targets = [
        Target::new("llama-bf16-two", "llama-bf16-two", RestoreMethod::Codes),
        Target::new("llama-bf16-two", "llama-bf16-two", RestoreMethod::Backup),
        Target::new("llama-dora", "llama-attention", RestoreMethod::Codes),
        Target::new("llama-lora-bias", "llama-lora-bias", RestoreMethod::Codes),
    ];
    // Undamaged, all of it is exact.
    for target in &targets {
        copy(&target.path("merged"), &target.path("damaged"));
        for (switch, expected) in [(false, &target.base), (true, &target.path("direct"))] {
            target.edit(switch, &target.path("out")).unwrap();
            assert!(same_tensors(&target.path("out"), expected), "{}", target.name);
            std::fs::remove_dir_all(target.path("out")).unwrap();
        }
        std::fs::remove_dir_all(target.path("damaged")).unwrap();
    }
    let (mut refused, mut exact) = (0, 0);
    for index in 0..count {
        let mut random = Random(seed.wrapping_mul(1 << 32).wrapping_add(index));
        let target = random.pick(&targets);
        let switch = random.below(2) == 0;
        let (damaged, out) = (target.path("damaged"), target.path("out"));
        copy(&target.path("merged"), &damaged);
        let how = damage(&damaged, &target.path("other"), &mut random);
        let expected = if switch { target.path("direct") } else { target.base.clone() };
        match target.edit(switch, &out) {
            Ok(()) => {
                assert!(
                    same_tensors(&out, &expected),
                    "damage {index} to {} ({how}): wrong weights are called exact",
                    target.name
                );
                std::fs::remove_dir_all(&out).unwrap();
                exact += 1;
            }
            Err(error) => {
                let text = error.to_string();
                let named = matches!(&error, Error::Malformed { .. } | Error::Io { .. })
                    || text.contains('`') && text.contains("lora_restore");
                assert!(named, "damage {index} ({how}): the error names no file or tensor: {text}");
                refused += 1;
            }
        }
        std::fs::remove_dir_all(&damaged).unwrap();
        let mut left: Vec<PathBuf> =
            std::fs::read_dir(target.root.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
        left.sort();
        assert_eq!(left, ["direct", "merged", "other"].map(|name| target.path(name)), "{how}");
    }
    println!("{count} damages: {refused} refused, {exact} exact and right, 0 exact but wrong");
    assert!(refused > count / 2, "{refused} of {count}");
}

#[test]
fn errors_name_the_tensor_the_file_and_the_way_out() {
    let target = Target::new("llama-bf16-two", "llama-bf16-two", RestoreMethod::Codes);
    let damaged = target.path("damaged");
    let records = damaged.join(RECORD_DIRECTORY);
    let flip = |path: &Path, from_end: usize| {
        damage_bytes(path, |bytes| {
            let at = bytes.len() - from_end;
            bytes[at] ^= 4;
        });
    };
    let cases: [(&dyn Fn(), &[&str]); 6] = [
        (&|| flip(&records.join("00000.safetensors"), 1), &["00000.safetensors", "the record of `model."]),
        (&|| flip(&damaged.join("model.safetensors"), 1), &["`model.", "is not what the merge left"]),
        (&|| flip(&records.join("restore.json"), 200), &["restore.json"]),
        (&|| std::fs::remove_file(records.join("restore.json")).unwrap(), &["restore.json"]),
        (
            &|| std::fs::remove_file(records.join("00001.safetensors")).unwrap(),
            &["00001.safetensors", "of `model."],
        ),
        (
            &|| {
                std::fs::rename(records.join("00000.safetensors"), damaged.join("x")).unwrap();
                std::fs::rename(records.join("00001.safetensors"), records.join("00000.safetensors"))
                    .unwrap();
                std::fs::rename(damaged.join("x"), records.join("00001.safetensors")).unwrap();
            },
            &["00000.safetensors", "of `model."],
        ),
    ];
    for (index, (change, words)) in cases.into_iter().enumerate() {
        for switch in [false, true] {
            copy(&target.path("merged"), &damaged);
            change();
            let out = target.path("out");
            let error = target.edit(switch, &out).unwrap_err().to_string();
            for word in words {
                assert!(error.contains(word), "{index}: no `{word}` in: {error}");
            }
            assert!(error.contains("merge into the base again"), "{index}: {error}");
            assert!(!out.exists());
            std::fs::remove_dir_all(&damaged).unwrap();
        }
    }
}

/// Damage that is right by its own checksums: what is restored is compared with the original all the same.
#[test]
fn what_is_restored_is_compared_with_the_original() {
    let target = Target::new("llama-bf16-two", "llama-bf16-two", RestoreMethod::Codes);
    for switch in [false, true] {
        let damaged = target.path("damaged");
        copy(&target.path("merged"), &damaged);
        let path = damaged.join(RECORD_DIRECTORY).join("restore.json");
        let mut list: serde_json::Map<String, serde_json::Value> =
            serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        let tensors = list["tensors"].as_object_mut().unwrap();
        let (name, entry) = tensors.iter_mut().next().unwrap();
        entry["original"] = entry["merged"].clone();
        let name = name.clone();
        lora_peft::merge::seal(&mut list);
        std::fs::write(&path, serde_json::Value::Object(list).to_string()).unwrap();
        let error = target.edit(switch, &target.path("out")).unwrap_err().to_string();
        assert!(error.contains(&name) && error.contains("before the merge"), "{error}");
        assert!(!target.path("out").exists());
        std::fs::remove_dir_all(&damaged).unwrap();
    }
}
