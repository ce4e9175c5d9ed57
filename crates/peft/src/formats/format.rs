//! The formats, told apart by their tensors' names.

use super::endings::{is_dotted_factor, is_flattened, is_other_method};
use super::gguf::GgufHeader;
use std::fmt;

/// What a file or directory holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Format {
    /// A PEFT adapter: `adapter_config.json` and `adapter_model.safetensors`.
    Peft,
    /// A PEFT adapter in shards: `adapter_model.safetensors.index.json`.
    PeftSharded,
    /// A PEFT adapter whose weights are pickled: `adapter_model.bin`.
    PeftPickled,
    /// kohya's: names without dots, `lora_down` and `lora_up`, an `alpha` tensor for each module.
    Kohya,
    /// diffusers': names of a pipeline's parts (`unet.`, `transformer.`, `text_encoder.`).
    Diffusers,
    /// mlx-lm's: `lora_a` \[in, r\] and `lora_b` \[r, out\], a scale in its configuration.
    Mlx,
    /// torchtune's own names; the scale is not in the file.
    Torchtune,
    /// Other decompositions than LoRA, as LyCORIS trains them: LoHa, LoKr, OFT, whole differences.
    OtherMethod,
    /// GGUF, llama.cpp's format.
    Gguf(GgufHeader),
    /// Weights of a model.
    Checkpoint,
}

impl Format {
    /// The format of an adapter with tensors of these names; [`Format::Checkpoint`] if they are no adapter's.
    pub fn of_names<'a>(names: impl Iterator<Item = &'a str> + Clone) -> Self {
        let any = |is: &dyn Fn(&str) -> bool| names.clone().any(is);
        if any(&is_other_method) {
            Format::OtherMethod
        } else if any(&is_pefts) {
            Format::Peft
        } else if any(&|name| name.ends_with(".lora_a.weight")) {
            Format::Torchtune
        } else if any(&|name| name.ends_with(".lora_a")) {
            Format::Mlx
        } else if any(&|name| is_flattened(name) && is_dotted_factor(name)) {
            Format::Kohya
        } else if any(&is_dotted_factor) {
            Format::Diffusers
        } else {
            Format::Checkpoint
        }
    }

    /// A word for machines.
    pub fn name(&self) -> &'static str {
        match self {
            Format::Peft | Format::PeftSharded | Format::PeftPickled => "peft",
            Format::Kohya => "kohya",
            Format::Diffusers => "diffusers",
            Format::Mlx => "mlx",
            Format::Torchtune => "torchtune",
            Format::OtherMethod => "lycoris",
            Format::Gguf(_) => "gguf",
            Format::Checkpoint => "checkpoint",
        }
    }

    /// Why it is not read as an adapter, and the way out.
    pub(super) fn refusal(&self) -> String {
        let way_out = match self {
            Format::Torchtune => {
                "it has torchtune's own names, and α is not in it; torchtune writes the same adapter in PEFT's format \
                 (adapter_config.json and adapter_model.safetensors) beside its checkpoints: take that directory"
            }
            Format::OtherMethod => {
                "its tensors (hada_, lokr_, oft_, diff and the like) are no LoRA factors, and what they stand for is not \
                 a low rank; train with a LoRA network (networks.lora, or LyCORIS' `algo=lora` or `locon`), or merge with \
                 the program that made it"
            }
            Format::Gguf(_) => "it is not read; take the safetensors files that it was converted from",
            Format::Mlx => "mlx-lm keeps the scale in adapter_config.json, which is not beside it",
            Format::Checkpoint => {
                "it is a model's weights and no adapter's: no tensor is named like a LoRA factor"
            }
            _ => "adapter_config.json, which says the rank and α, is not beside it",
        };
        format!("{self}: {way_out}")
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Format::Peft => "PEFT adapter",
            Format::PeftSharded => "PEFT adapter in shards",
            Format::PeftPickled => "PEFT adapter with pickled weights",
            Format::Kohya => "kohya LoRA (sd-scripts)",
            Format::Diffusers => "diffusers LoRA",
            Format::Mlx => "mlx-lm adapter",
            Format::Torchtune => "torchtune adapter",
            Format::OtherMethod => "adapter of another method than LoRA (LyCORIS)",
            Format::Gguf(header) => return header.fmt(f),
            Format::Checkpoint => "model weights",
        })
    }
}
/// Whether a name is PEFT's, perhaps with what wrappers around the model have put into it.
fn is_pefts(name: &str) -> bool {
    name.starts_with("base_model.") || name.contains(crate::adapter::PREFIX)
}
