//! `lora demo` writes something that every other command works on.

mod common;

use common::{listing, lora, same_tensors};

#[test]
fn adapters_fit_the_model_and_change_it() {
    let directory = tempfile::tempdir().unwrap();
    let demo = directory.path().join("demo");
    let run = lora("demo {}", &[&demo]).succeeds();
    assert!(run.stdout.contains("lora merge --base llama/ --adapter my-adapter/"), "{}", run.stdout);
    assert_eq!(listing(&demo), ["llama", "llama-tuned", "my-adapter", "other-adapter"]);

    let [llama, merged, switched, again] =
        ["llama", "merged", "switched", "again"].map(|name| demo.join(name));
    let [adapter, other] = ["my-adapter", "other-adapter"].map(|name| demo.join(name));
    lora("info {} {} {}", &[&llama, &adapter, &other]).succeeds();
    lora("merge --base {} --adapter {} --out {} --exact", &[&llama, &adapter, &merged]).succeeds();
    assert_ne!(
        std::fs::read(llama.join("model.safetensors")).unwrap(),
        std::fs::read(merged.join("model.safetensors")).unwrap()
    );
    lora("switch --merged {} --from {} --to {} --out {}", &[&merged, &adapter, &other, &switched]).succeeds();
    lora("unmerge --merged {} --adapter {} --out {}", &[&switched, &other, &again]).succeeds();
    same_tensors(&llama, &again);
}

#[test]
fn an_adapter_can_be_extracted_from_the_tuned_model() {
    let directory = tempfile::tempdir().unwrap();
    let demo = directory.path().join("demo");
    lora("demo {}", &[&demo]).succeeds();
    let [llama, tuned, extracted] = ["llama", "llama-tuned", "extracted"].map(|name| demo.join(name));
    let run =
        lora("extract --base {} --tuned {} --rank 4 --out {}", &[&llama, &tuned, &extracted]).succeeds();
    let errors = run.stdout.lines().filter(|line| line.starts_with("model."));
    let errors: Vec<f64> =
        errors.map(|line| line.split_whitespace().last().unwrap().parse().unwrap()).collect();
    assert_eq!(errors.len(), 14);
    // The change has rank 4; what is left over is the rounding of the tuned weights to bf16.
    assert!(errors.iter().all(|&error| error < 0.05), "{errors:?}");
}

#[test]
fn what_is_there_stays() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("mine"), "precious").unwrap();
    lora("demo {}", &[directory.path()]).fails(1, &["already exists"]);
    assert_eq!(listing(directory.path()), ["mine"]);
}
