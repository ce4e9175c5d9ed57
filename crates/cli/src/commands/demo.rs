//! `lora demo`: a tiny model with adapters, to try the other commands on.

use crate::console::Console;
use crate::failure::Result;
use crate::{interrupt, units};
use clap::Args;
use lora_kernels::half::bf16;
use lora_measure::inputs::uniform;
use lora_peft::checkpoint::{Outline, ShardWriter};
use lora_peft::files::NewDirectory;
use lora_peft::tensor::file_type;
use lora_peft::{Adapter, AdapterConfig, AdapterLayer, Tensor};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;
use std::path::PathBuf;

const HIDDEN: usize = 64;
const INTERMEDIATE: usize = 176;
const VOCABULARY: usize = 256;
const LAYERS: usize = 2;

/// Rank of the difference between `llama/` and `llama-tuned/`: what `lora extract` can find in full.
const TUNED_RANK: usize = 4;

/// Seeds of what is made; tensors take consecutive ones from these.
const BASE_SEED: u32 = 1_000;
const TUNED_SEED: u32 = 2_000;
const ADAPTER_SEED: u32 = 3_000;
const OTHER_SEED: u32 = 4_000;

type Tensors = Vec<(String, Tensor)>;

/// Write a tiny model with adapters, to try the other commands on
///
/// The directory gets a Llama with random weights of about 0.3 MB (`llama`), the same after a change of rank 4
/// (`llama-tuned`), and two adapters of it (`my-adapter`, `other-adapter`).
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  lora demo lora-demo
  cd lora-demo
  lora info llama/ my-adapter/")]
pub struct Demo {
    /// Directory to write; it must not exist, or be empty
    #[arg(value_name = "DIR")]
    directory: PathBuf,
}

impl Demo {
    /// Runs the command.
    pub fn run(&self, console: &Console) -> Result<()> {
        interrupt::clean_up_on_signals()?;
        let directory = NewDirectory::create(&self.directory)?;
        directory.notes().iter().for_each(|note| console.warning(note));
        let written = write(directory.path());
        let bytes = written.map_err(|error| directory.explain(error))?;
        directory.commit()?;
        console.note(&format!(
            "A Llama of {} with random weights and two adapters; written to {name}. Next:\n\
             \x20 cd {name}\n\
             \x20 lora info llama/ my-adapter/\n\
             \x20 lora merge --base llama/ --adapter my-adapter/ --out merged/ --exact\n",
            units::bytes(bytes),
            name = self.directory.display()
        ))
    }
}

/// Returns the bytes of the model's tensors.
fn write(directory: &Path) -> lora_peft::Result<u64> {
    let base = model()?;
    let tuned = tuned(&base)?;
    write_model(&directory.join("llama"), &base)?;
    write_model(&directory.join("llama-tuned"), &tuned)?;
    write_adapter(&directory.join("my-adapter"), 16, &["q_proj", "v_proj"], ADAPTER_SEED)?;
    write_adapter(&directory.join("other-adapter"), 8, &["q_proj", "v_proj", "down_proj"], OTHER_SEED)?;
    Ok(base.iter().map(|(_, tensor)| tensor.bytes().len() as u64).sum())
}

/// The linear layers of each of the model's layers, with the shape [out, in] of their weights.
fn modules() -> impl Iterator<Item = (String, [usize; 2])> {
    const OF_A_LAYER: [(&str, [usize; 2]); 7] = [
        ("self_attn.q_proj", [HIDDEN, HIDDEN]),
        ("self_attn.k_proj", [HIDDEN, HIDDEN]),
        ("self_attn.v_proj", [HIDDEN, HIDDEN]),
        ("self_attn.o_proj", [HIDDEN, HIDDEN]),
        ("mlp.gate_proj", [INTERMEDIATE, HIDDEN]),
        ("mlp.up_proj", [INTERMEDIATE, HIDDEN]),
        ("mlp.down_proj", [HIDDEN, INTERMEDIATE]),
    ];
    (0..LAYERS).flat_map(|layer| {
        OF_A_LAYER.into_iter().map(move |(module, shape)| (format!("model.layers.{layer}.{module}"), shape))
    })
}

/// A tensor of numbers that are uniform in (−bound, bound).
fn random(shape: &[usize], bound: f32, seed: u32) -> lora_peft::Result<Tensor> {
    let values = uniform::<f32>(shape.iter().product(), seed).into_iter();
    Tensor::new(shape, values.map(|value| bf16::from_f32(bound * value)).collect())
}

fn model() -> lora_peft::Result<Tensors> {
    let ones = || Tensor::new(&[HIDDEN], vec![bf16::ONE; HIDDEN]);
    let mut tensors = vec![
        ("model.embed_tokens.weight".into(), random(&[VOCABULARY, HIDDEN], 0.04, BASE_SEED)?),
        ("lm_head.weight".into(), random(&[VOCABULARY, HIDDEN], 0.04, BASE_SEED + 1)?),
        ("model.norm.weight".into(), ones()?),
    ];
    for layer in 0..LAYERS {
        for norm in ["input_layernorm", "post_attention_layernorm"] {
            tensors.push((format!("model.layers.{layer}.{norm}.weight"), ones()?));
        }
    }
    for (seed, (module, shape)) in (BASE_SEED + 2..).zip(modules()) {
        tensors.push((format!("{module}.weight"), random(&shape, 0.04, seed)?));
    }
    Ok(tensors)
}

/// The model after a change of low rank to the weights of its linear layers, as fine-tuning would leave it.
fn tuned(base: &Tensors) -> lora_peft::Result<Tensors> {
    let shapes: BTreeMap<String, [usize; 2]> =
        modules().map(|(module, shape)| (format!("{module}.weight"), shape)).collect();
    let change = |(seed, (name, tensor)): (u32, &(String, Tensor))| {
        let Some(&[rows, columns]) = shapes.get(name) else { return Ok((name.clone(), tensor.clone())) };
        let left = uniform::<f32>(rows * TUNED_RANK, seed);
        let right = uniform::<f32>(TUNED_RANK * columns, seed + 1);
        let mut values = tensor.to_f32();
        for (index, value) in values.iter_mut().enumerate() {
            let (row, column) = (index / columns, index % columns);
            let pairs = (0..TUNED_RANK).map(|k| left[row * TUNED_RANK + k] * right[k * columns + column]);
            *value += 0.02 * pairs.sum::<f32>();
        }
        let values = values.into_iter().map(bf16::from_f32).collect();
        Ok((name.clone(), Tensor::new(tensor.shape(), values)?))
    };
    (TUNED_SEED..).step_by(2).zip(base).map(change).collect()
}

fn write_model(directory: &Path, tensors: &Tensors) -> lora_peft::Result<()> {
    create_directory(directory)?;
    let outlines: Vec<Outline> = tensors
        .iter()
        .map(|(name, tensor)| Outline {
            name: name.clone(),
            dtype: file_type(tensor.dtype()),
            shape: tensor.shape().to_vec(),
        })
        .collect();
    let metadata = BTreeMap::from([("format".to_owned(), "pt".to_owned())]);
    let mut writer = ShardWriter::create(&directory.join("model.safetensors"), &metadata, &outlines)?;
    for (_, tensor) in tensors {
        writer.write(tensor.bytes())?;
    }
    writer.finish()?;
    let config = json!({
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": HIDDEN,
        "intermediate_size": INTERMEDIATE,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "vocab_size": VOCABULARY,
        "tie_word_embeddings": false,
        "dtype": "bfloat16",
    });
    write_json(&directory.join("config.json"), &config)
}

/// An adapter of the layers that `targets` names, with B as after training: not zero.
fn write_adapter(directory: &Path, rank: usize, targets: &[&str], seed: u32) -> lora_peft::Result<()> {
    create_directory(directory)?;
    let config = json!({
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "r": rank, "lora_alpha": 2 * rank, "target_modules": targets,
    });
    let config = AdapterConfig::from_slice(config.to_string().as_bytes())?;
    let is_target = |module: &str| targets.iter().any(|target| module.ends_with(&format!(".{target}")));
    let targeted = modules().filter(|(module, _)| is_target(module));
    let layer = |(seed, (module, [out, input])): (u32, (String, [usize; 2]))| {
        let factor = |shape: [usize; 2], bound: f32, seed| {
            let values = uniform::<f32>(shape[0] * shape[1], seed).into_iter();
            Tensor::new(&shape, values.map(|value| bound * value).collect())
        };
        let layer = AdapterLayer {
            a: factor([rank, input], 0.1, seed)?,
            b: factor([out, rank], 0.02, seed + 1)?,
            bias: None,
            magnitude: None,
            embedding: false,
        };
        Ok((module, layer))
    };
    let layers = (seed..).step_by(2).zip(targeted).map(layer).collect::<lora_peft::Result<_>>()?;
    Adapter { config, layers, replaced: BTreeMap::new(), notes: Vec::new() }.save(directory)
}

fn create_directory(path: &Path) -> lora_peft::Result<()> {
    std::fs::create_dir(path).map_err(|source| lora_peft::Error::Io { path: path.to_owned(), source })
}

fn write_json(path: &Path, value: &Value) -> lora_peft::Result<()> {
    let written = std::fs::write(path, format!("{value:#}\n"));
    written.map_err(|source| lora_peft::Error::Io { path: path.to_owned(), source })
}
