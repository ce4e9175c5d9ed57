//! Each subcommand does what its help says.

mod common;

use common::{golden, large, listing, lora, open, same_tensors};
use lora_peft::Adapter;
use lora_peft::tensor::{Dtype, Tensor};
use serde_json::Value;
use std::path::Path;

fn base() -> std::path::PathBuf {
    golden("bases/llama-bf16")
}

fn adapter() -> std::path::PathBuf {
    golden("cases/llama-bf16/adapter")
}

fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.to_f32()
}

#[test]
fn a_merge_is_what_peft_makes_of_it() {
    for (case, base) in
        [("llama-attention", "llama-f32"), ("gpt2-attention", "gpt2-f32"), ("conv", "conv-f32")]
    {
        let directory = tempfile::tempdir().unwrap();
        let out = directory.path().join("merged");
        let adapter = golden(&format!("cases/{case}/adapter"));
        let base = golden(&format!("bases/{base}"));
        let line = "merge --base {} --adapter {} --out {} --device cpu";
        let run = lora(line, &[&base, &adapter, &out]).succeeds();
        assert!(run.stdout.contains("Merged adapter into"), "{}", run.stdout);
        let (ours, theirs) = (open(&out), open(&golden(&format!("cases/{case}/merged.safetensors"))));
        for name in theirs.tensors().keys() {
            let (ours, theirs) = (values(&ours.tensor(name).unwrap()), values(&theirs.tensor(name).unwrap()));
            let largest = theirs.iter().fold(0f32, |largest, value| largest.max(value.abs()));
            for (one, two) in ours.iter().zip(&theirs) {
                assert!((one - two).abs() <= 1e-6 * largest, "{case} {name}: {one} {two}");
            }
        }
        assert_eq!(listing(&out), ["config.json", "model.safetensors"]);
    }
}

#[test]
fn a_weight_belongs_to_the_adapter_before_it() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let (base, one, two) =
        (golden("bases/llama-f32"), golden("cases/llama-two/adapter-0"), golden("cases/llama-two/adapter-1"));
    let merge = |line: &str, out: &Path| {
        lora(&format!("merge --base {{}} {line} --out {{}}"), &[&base, &one, &two, out]).succeeds()
    };
    let run = merge("--adapter {} --adapter {} --weight -0.5", &path("second"));
    assert!(run.stdout.contains("adapter-0 + adapter-1 × -0.5"), "{}", run.stdout);
    merge("--adapter {} --weight 1 --adapter {} --weight=-0.5", &path("both"));
    merge("--adapter {} --weight -0.5 --adapter {}", &path("first"));
    same_tensors(&path("second"), &path("both"));
    let weight = "model.layers.0.self_attn.q_proj.weight";
    let read = |name: &str| values(&open(&path(name)).tensor(weight).unwrap());
    assert_ne!(read("first"), read("second"));
}

#[test]
fn with_a_record_taking_out_and_switching_are_exact() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let other = golden("cases/llama-bf16-two/adapter-0");
    let (base, adapter) = (base(), adapter());
    lora("merge --base {} --adapter {} --out {} --exact", &[&base, &adapter, &path("merged")]).succeeds();
    let run = lora("unmerge --merged {} --adapter {} --out {}", &[&path("merged"), &adapter, &path("again")]);
    assert!(run.succeeds().stdout.contains("Exact: the base's weights are back, bit for bit"));
    same_tensors(&base, &path("again"));
    let line = "switch --merged {} --from {} --to {} --out {}";
    let run = lora(line, &[&path("merged"), &adapter, &other, &path("switched")]).succeeds();
    assert!(run.stdout.contains("Exact: "), "{}", run.stdout);
    lora("merge --base {} --adapter {} --out {}", &[&base, &other, &path("direct")]).succeeds();
    same_tensors(&path("switched"), &path("direct"));
    lora("unmerge --merged {} --adapter {} --out {}", &[&path("switched"), &other, &path("end")]).succeeds();
    same_tensors(&base, &path("end"));
}

#[test]
fn without_a_record_it_is_said_that_nothing_is_exact() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let (base, adapter) = (base(), adapter());
    lora("merge --base {} --adapter {} --out {}", &[&base, &adapter, &path("merged")]).succeeds();
    let runs = [
        lora("unmerge --merged {} --adapter {} --out {}", &[&path("merged"), &adapter, &path("a")]),
        lora(
            "switch --merged {} --from {} --to {} --out {}",
            &[&path("merged"), &adapter, &adapter, &path("b")],
        ),
    ];
    for run in runs {
        let run = run.succeeds();
        assert!(
            run.stderr.starts_with("warning: not exact: the checkpoint has no restore record"),
            "{}",
            run.stderr
        );
        assert!(!run.stdout.contains("Exact"), "{}", run.stdout);
    }
}

#[test]
fn reports_list_each_weight_and_all_together() {
    let directory = tempfile::tempdir().unwrap();
    let out = directory.path().join("merged");
    let run = lora("merge --quiet --report --base {} --adapter {} --out {}", &[&base(), &adapter(), &out])
        .succeeds();
    let rows: Vec<Vec<&str>> = run.stdout.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows[0].join(" "), "weight elements unchanged max error RMS error");
    let weight = rows.iter().find(|row| row[0] == "model.layers.0.self_attn.q_proj.weight").unwrap();
    let elements = open(&base()).info(weight[0]).unwrap().elements();
    assert_eq!(weight[1], elements.to_string());
    // bf16 has 8 significant bits: half a step of a value below 1 is at most 2⁻⁹.
    let largest: f64 = weight[4].parse().unwrap();
    assert!(largest > 0.0 && largest <= 2f64.powi(-9), "{largest}");
    assert_eq!(rows.last().unwrap()[0], "all");
}

#[test]
fn rounding_seed_and_type_reach_the_weights() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let merge = |options: &str, out: &str| {
        let line = format!("merge --base {{}} --adapter {{}} --out {{}} {options}");
        lora(&line, &[&base(), &adapter(), &path(out)]).succeeds();
        values(&open(&path(out)).tensor("model.layers.0.self_attn.q_proj.weight").unwrap())
    };
    let nearest = merge("", "nearest");
    let seed_1 = merge("--rounding stochastic --seed 1", "one");
    assert_ne!(nearest, seed_1);
    assert_eq!(seed_1, merge("--rounding stochastic --seed 1", "again"));
    assert_ne!(seed_1, merge("--rounding stochastic --seed 2", "two"));
    merge("--dtype f32", "f32");
    assert!(open(&path("f32")).tensors().values().all(|info| info.dtype == Dtype::F32));
}

#[test]
fn quiet_prints_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let run =
        lora("-q merge --base {} --adapter {} --out {}", &[&base(), &adapter(), &directory.path().join("m")]);
    let run = run.succeeds();
    assert_eq!((run.stdout.as_str(), run.stderr.as_str()), ("", ""));
}

#[test]
fn shards_and_other_files_come_along() {
    let directory = tempfile::tempdir().unwrap();
    let [base, adapter] = large(directory.path(), 2, 64);
    std::fs::write(base.join("tokenizer.json"), "{}").unwrap();
    let out = directory.path().join("merged");
    lora("merge --base {} --adapter {} --out {}", &[&base, &adapter, &out]).succeeds();
    assert_eq!(listing(&out), listing(&base));
    let merged = open(&out);
    // s·B·A of ones: 8/4 · 4.
    let changed = values(&merged.tensor("layers.1.q_proj.weight").unwrap());
    assert!(changed.iter().all(|&value| value == 8.0));
    let same = values(&merged.tensor("layers.1.o_proj.weight").unwrap());
    assert!(same.iter().all(|&value| value == 0.0));
}

#[test]
fn an_extracted_adapter_gives_back_the_difference() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let (base, adapter) = (golden("bases/llama-f32"), golden("cases/llama-attention/adapter"));
    lora("merge --base {} --adapter {} --out {}", &[&base, &adapter, &path("tuned")]).succeeds();
    let line = "extract --base {} --tuned {} --rank 8 --out {}";
    let run = lora(line, &[&base, &path("tuned"), &path("adapter")]).succeeds();
    assert!(run.stdout.starts_with("module"), "{}", run.stdout);
    assert_eq!(listing(&path("adapter")), ["adapter_config.json", "adapter_model.safetensors"]);
    let (original, extracted) = (Adapter::load(&adapter).unwrap(), Adapter::load(&path("adapter")).unwrap());
    assert!(original.layers.keys().eq(extracted.layers.keys()));
    lora("merge --base {} --adapter {} --out {}", &[&base, &path("adapter"), &path("again")]).succeeds();
    let (tuned, again) = (open(&path("tuned")), open(&path("again")));
    for name in tuned.tensors().keys() {
        for (one, two) in
            values(&tuned.tensor(name).unwrap()).iter().zip(values(&again.tensor(name).unwrap()))
        {
            // Of values below 4, by way of a decomposition rounded to f32.
            assert!((one - two).abs() < 8.0 * 4.0 * f32::EPSILON, "{name}: {one} {two}");
        }
    }
}

fn info(paths: &[&Path]) -> Vec<Value> {
    let line = format!("info --json {}", "{} ".repeat(paths.len()));
    let run = lora(&line, paths).succeeds();
    serde_json::from_str(&run.stdout).unwrap()
}

#[test]
fn info_tells_what_is_there_and_what_matches() {
    let found = info(&[&base(), &adapter()]);
    let checkpoint = open(&base());
    let parameters: usize = checkpoint.tensors().values().map(|info| info.elements()).sum();
    assert_eq!(found[0]["type"], "base");
    assert_eq!(found[0]["model_type"], "llama");
    assert_eq!(found[0]["parameters"], parameters);
    assert_eq!(found[0]["dtypes"]["BF16"]["bytes"], 2 * parameters);
    assert!(found[0]["restore_record"].is_null());
    let loaded = Adapter::load(&adapter()).unwrap();
    assert_eq!(found[1]["type"], "adapter");
    assert_eq!(found[1]["parameters"], loaded.parameters());
    let modules = found[1]["modules"].as_array().unwrap();
    assert_eq!(modules.len(), loaded.layers.len());
    let alpha_over_rank = loaded.config.alpha / loaded.config.rank as f64;
    assert_eq!(modules[0]["scale"], alpha_over_rank);
    let matched = &found[1]["match"];
    assert_eq!(matched["fits"], true);
    assert_eq!(matched["weights"].as_array().unwrap().len(), loaded.layers.len());
    let own = loaded.parameters() as f64;
    let percent = matched["trainable_percent"].as_f64().unwrap();
    assert!((percent - 100.0 * own / (own + parameters as f64)).abs() < 1e-9);
    let not_adapted = matched["not_adapted"].as_array().unwrap();
    assert!(not_adapted.iter().any(|module| module == "model.embed_tokens"), "{not_adapted:?}");
}

#[test]
fn info_for_people_groups_layers() {
    let text = lora("info {} {}", &[&base(), &adapter()]).succeeds().stdout;
    assert!(text.contains("base checkpoint (llama)"), "{text}");
    assert!(text.contains("model.layers.*.self_attn.q_proj"), "{text}");
    assert!(text.contains("of the parameters are trained"), "{text}");
}

#[test]
fn info_shows_whose_record_a_checkpoint_has() {
    let directory = tempfile::tempdir().unwrap();
    let out = directory.path().join("merged");
    lora("merge --base {} --adapter {} --weight 0.5 --out {} --exact", &[&base(), &adapter(), &out])
        .succeeds();
    let found = info(&[&out]);
    assert_eq!(found[0]["restore_record"]["adapters"][0]["name"], "adapter");
    assert_eq!(found[0]["restore_record"]["adapters"][0]["weight"], 0.5);
    assert!(lora("info {}", &[&out]).stdout.contains("of adapter × 0.5"));
}

#[test]
fn info_fails_for_an_adapter_that_does_not_fit_but_shows_it() {
    let run = lora("info --json {} {}", &[&golden("bases/gpt2-f32"), &adapter()]);
    let found: Vec<Value> = serde_json::from_str(&run.stdout).unwrap();
    assert_eq!(found[1]["match"]["fits"], false);
    run.fails(1, &["does not fit", "gpt2-f32"]);
}

#[test]
fn a_reader_that_leaves_early_is_no_failure() {
    let mut shell = std::process::Command::new("bash");
    shell.args(["-c", "set -o pipefail; \"$0\" completions bash | head -n 1", env!("CARGO_BIN_EXE_lora")]);
    let output = shell.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn bench_times_every_system() {
    let line = "bench --device cpu --shape 3x16x24 --shape 1x8x8 --rank 2 --rounds 1 --dtype f32";
    let run = lora(&format!("{line} --json"), &[]).succeeds();
    let document: Value = serde_json::from_str(&run.stdout).unwrap();
    assert_eq!(document["backend"], "cpu");
    let records = document["records"].as_array().unwrap();
    let systems: Vec<String> = records[..8]
        .iter()
        .map(|record| format!("{}/{}", record["pass"].as_str().unwrap(), record["system"].as_str().unwrap()))
        .collect();
    let expected = "forward/frozen forward/unfused forward/fused backward/frozen backward/unfused backward/fused \
                    merge/unfused merge/fused";
    assert_eq!(systems.join(" "), expected);
    assert_eq!(records.len(), 16);
    assert_eq!((&records[8]["m"], &records[8]["r"]), (&1.into(), &2.into()));
    assert_eq!(records[0]["ratio"], 1.0);
    let table = lora(line, &[]).succeeds().stdout;
    assert!(table.contains("tokens 3, inputs 16, outputs 24, rank 2, f32"), "{table}");
    // Unfused and fused, three passes, two shapes.
    assert_eq!(table.matches("fused").count(), 2 * 3 * 2, "{table}");
}

#[test]
fn completions_are_scripts_for_the_shell() {
    for (shell, word) in [("bash", "_lora()"), ("zsh", "#compdef lora"), ("fish", "complete -c lora")] {
        let run = lora(&format!("completions {shell}"), &[]).succeeds();
        assert!(run.stdout.contains(word) && run.stdout.contains("unmerge"), "{shell}");
    }
}

#[test]
fn help_documents_exit_codes_and_every_command() {
    let help = lora("--help", &[]).succeeds().stdout;
    for word in
        ["Exit codes:", "130", "info", "merge", "unmerge", "switch", "extract", "bench", "completions"]
    {
        assert!(help.contains(word), "{word}: {help}");
    }
    let help = lora("merge --help", &[]).succeeds().stdout;
    for option in [
        "--base",
        "--adapter",
        "--weight",
        "--out",
        "--force",
        "--device",
        "--rounding",
        "--seed",
        "--report",
        "--exact",
        "--dtype",
    ] {
        assert!(help.contains(option), "{option}: {help}");
    }
}

#[test]
fn an_adapter_that_changes_nothing_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let out = directory.path().join("merged");
    let run =
        lora("merge --base {} --adapter {} --weight 0 --out {}", &[&base(), &adapter(), &out]).succeeds();
    assert!(run.stderr.starts_with("warning: ") && run.stderr.contains("changes nothing"), "{}", run.stderr);
    assert_eq!(run.stderr.lines().count(), 1, "{}", run.stderr);
    same_tensors(&base(), &out);
}

#[test]
fn extraction_says_what_it_leaves_out_and_brings_along() {
    let directory = tempfile::tempdir().unwrap();
    let out = directory.path().join("adapter");
    let pair = |name: &str| ["base", "tuned"].map(|side| golden(&format!("public/extract-{name}/{side}")));
    let line = "extract --base {} --tuned {} --rank 4 --out {}";
    let [base, tuned] = pair("gemma3");
    let run = lora(line, &[&base, &tuned, &out]).succeeds();
    assert!(run.stderr.contains("`model.language_model.embed_tokens.weight`"), "{}", run.stderr);
    for word in ["as the class Gemma3ForConditionalGeneration names them", "under their own names"] {
        assert!(run.stderr.contains(word), "{}", run.stderr);
    }
    // A tensor that only one of them has: the other way round, head and embedding of another model.
    let [llama, _] = pair("llama");
    let other = directory.path().join("other");
    let run = lora(line, &[&llama, &tuned, &other]).fails(1, &["which no adapter can have", "--skip"]);
    assert!(run.stdout.is_empty() && !other.exists());
    let run = lora(&format!("{line} --skip"), &[&llama, &tuned, &other]).succeeds();
    assert!(run.stderr.contains("left out, as no adapter can have them"), "{}", run.stderr);
    assert!(run.stdout.contains("lm_head"), "both have one of the same shape: {}", run.stdout);
}

#[test]
fn files_beside_an_adapter_are_taken_or_named() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let (base, source) = (golden("bases/llama-f32"), golden("cases/llama-attention/adapter"));
    std::fs::create_dir(path("adapter")).unwrap();
    for file in ["adapter_config.json", "adapter_model.safetensors"] {
        std::fs::copy(source.join(file), path("adapter").join(file)).unwrap();
    }
    std::fs::write(path("adapter/chat_template.jinja"), "new").unwrap();
    let line = "merge --base {} --adapter {} --out {}";
    let run = lora(line, &[&base, &path("adapter"), &path("one")]).succeeds();
    assert!(
        run.stderr.contains("chat_template.jinja") && run.stderr.contains("adapter's is taken"),
        "{}",
        run.stderr
    );
    assert_eq!(std::fs::read(path("one/chat_template.jinja")).unwrap(), b"new");
    let run = lora(&format!("{line} --tokenizer base"), &[&base, &path("adapter"), &path("two")]).succeeds();
    assert!(run.stderr.contains("base's is taken"), "{}", run.stderr);
    assert!(!path("two/chat_template.jinja").exists());
    std::fs::write(path("adapter/non_lora_trainables.bin"), "").unwrap();
    let (adapter, out) = (path("adapter"), path("three"));
    let inputs: [&Path; 3] = [&base, &adapter, &out];
    lora(line, &inputs).fails(1, &["non_lora_trainables.bin", "--leave-weights"]);
    assert!(!path("three").exists());
    let run = lora(&format!("{line} --leave-weights"), &inputs).succeeds();
    assert!(
        run.stderr.contains("not merged") && run.stderr.contains("non_lora_trainables.bin"),
        "{}",
        run.stderr
    );
}
