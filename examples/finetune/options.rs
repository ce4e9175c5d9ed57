//! The command line.

use clap::{Parser, ValueEnum};
use lora_kernels::DType;
use std::path::PathBuf;

/// Fine-tunes a small network on real handwritten digits with LoRA, and checks what LoRA promises.
///
/// A base network learns to read the digits 0 to 4 and is frozen. Two adapters then learn a task each: the digits 5 to
/// 9, and the digits 0 to 4 turned by 90°. Every product with an adapter is computed by lora-kernels.
#[derive(Parser, Debug, PartialEq)]
#[command(name = "finetune", after_help = EXAMPLES)]
pub struct Options {
    /// Where to compute; auto takes the GPU if there is one that works
    #[arg(long, value_enum, default_value_t = DeviceChoice::Auto)]
    pub device: DeviceChoice,

    /// Rank of the adapters, 1 to 512; ranks below 4 may need more epochs
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=512))]
    pub rank: u16,

    /// Element type of frozen weights and activations; adapters are always f32
    #[arg(long, value_enum, default_value_t = WeightType::F32)]
    pub dtype: WeightType,

    /// Seed of everything random: split of the data, first weights, order of the images, dropout
    #[arg(long, default_value_t = 1)]
    pub seed: u64,

    /// Passes over the training images, for the base and for each task
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u16).range(1..=10_000))]
    pub epochs: u16,

    /// Draws the loss of both tasks, step by step, into this SVG file
    #[arg(long, value_name = "FILE.svg", value_parser = svg_path)]
    pub plot: Option<PathBuf>,
}

const EXAMPLES: &str = "\
Examples:
  cargo run --release --example finetune
  cargo run --release --example finetune -- --dtype bf16 --rank 4 --plot loss.svg
  cargo run --release --example finetune -- --device cuda --dtype f16

Exit code: 0 if every claim held, 1 if one failed, 2 for wrong arguments or a missing device.";

/// Where to compute.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DeviceChoice {
    /// The GPU if there is one that works, else the CPU
    Auto,
    /// The CPU
    Cpu,
    /// An NVIDIA GPU
    Cuda,
}

/// Element type of frozen weights and activations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum WeightType {
    /// 32-bit floating point
    F32,
    /// IEEE half precision
    F16,
    /// bfloat16
    Bf16,
}

impl From<WeightType> for DType {
    fn from(choice: WeightType) -> DType {
        match choice {
            WeightType::F32 => DType::F32,
            WeightType::F16 => DType::F16,
            WeightType::Bf16 => DType::Bf16,
        }
    }
}

/// Refuses a path that could not be written, before a minute of training is spent.
fn svg_path(text: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(text);
    if !path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("svg")) {
        return Err("the name must end in .svg".into());
    }
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() && !folder.is_dir() => {
            Err(format!("there is no folder {}", folder.display()))
        }
        _ => Ok(path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(arguments: &[&str]) -> Result<Options, String> {
        Options::try_parse_from(std::iter::once(&"finetune").chain(arguments)).map_err(|e| e.to_string())
    }

    #[test]
    fn defaults_train_rank_8_in_f32_on_whatever_device_is_there() {
        let expected = Options {
            device: DeviceChoice::Auto,
            rank: 8,
            dtype: WeightType::F32,
            seed: 1,
            epochs: 30,
            plot: None,
        };
        assert_eq!(parse(&[]), Ok(expected));
    }

    #[test]
    fn every_option_is_read() {
        let line = "--device cpu --rank 512 --dtype bf16 --seed 9 --epochs 2 --plot loss.SVG";
        let expected = Options {
            device: DeviceChoice::Cpu,
            rank: 512,
            dtype: WeightType::Bf16,
            seed: 9,
            epochs: 2,
            plot: Some("loss.SVG".into()),
        };
        assert_eq!(parse(&line.split(' ').collect::<Vec<_>>()), Ok(expected));
    }

    #[test]
    fn errors_name_the_argument_and_what_it_takes() {
        for (arguments, words) in [
            (["--rank", "0"], ["--rank", "1..=512"]),
            (["--rank", "513"], ["--rank", "1..=512"]),
            (["--rank", "four"], ["--rank", "invalid digit"]),
            (["--dtype", "f64"], ["--dtype", "f32, f16, bf16"]),
            (["--device", "tpu"], ["--device", "auto, cpu, cuda"]),
            (["--seed", "-1"], ["-1", "--help"]),
            (["--epochs", "0"], ["--epochs", "1..=10000"]),
            (["--plot", "loss.png"], ["--plot", "must end in .svg"]),
            (["--plot", "no/such/folder/loss.svg"], ["--plot", "there is no folder no/such/folder"]),
            (["--unknown", "1"], ["--unknown", "unexpected argument"]),
        ] {
            let error = parse(&arguments).unwrap_err();
            for word in words {
                assert!(error.contains(word), "{arguments:?} should mention {word:?}: {error}");
            }
        }
    }
}
