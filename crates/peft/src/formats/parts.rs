//! The parts of a diffusion pipeline that one adapter's file may have layers for.

use super::endings::is_flattened;

/// A part of a pipeline; each is a checkpoint of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Part {
    /// The U-Net or transformer.
    Denoiser,
    /// A text encoder, counted from 1.
    Text(u8),
}

const FLATTENED: [(&str, Part); 6] = [
    ("lora_unet_", Part::Denoiser),
    ("lora_transformer_", Part::Denoiser),
    ("lora_te_", Part::Text(1)),
    ("lora_te1_", Part::Text(1)),
    ("lora_te2_", Part::Text(2)),
    ("lora_te3_", Part::Text(3)),
];

const DOTTED: [(&str, Part); 7] = [
    ("unet.", Part::Denoiser),
    ("diffusion_model.", Part::Denoiser),
    ("model.diffusion_model.", Part::Denoiser),
    (TRANSFORMER, Part::Denoiser),
    ("text_encoder.", Part::Text(1)),
    ("text_encoder_2.", Part::Text(2)),
    ("text_encoder_3.", Part::Text(3)),
];

/// GPT-2 and others call a module of theirs so.
pub(super) const TRANSFORMER: &str = "transformer.";

impl Part {
    /// The name of its directory in a pipeline.
    pub fn directory(self) -> &'static str {
        match self {
            Part::Denoiser => "unet or transformer",
            Part::Text(1) => "text_encoder",
            Part::Text(2) => "text_encoder_2",
            Part::Text(_) => "text_encoder_3",
        }
    }

    /// Whether a pipeline's directory of this name is this part.
    pub fn is_called(self, directory: &str) -> bool {
        match self {
            Part::Denoiser => ["unet", "transformer"].contains(&directory),
            text => text.directory() == directory,
        }
    }

    /// What kohya puts in front of its modules' names.
    pub fn kohya_prefix(self, only_text_encoder: bool) -> String {
        match self {
            Part::Denoiser => "lora_unet_".into(),
            Part::Text(1) if only_text_encoder => "lora_te_".into(),
            Part::Text(number) => format!("lora_te{number}_"),
        }
    }
}

/// The part that a module of an adapter belongs to, and its name there.
pub(super) fn split(module: &str) -> Option<(Part, &str)> {
    let table: &[_] = if is_flattened(module) { &FLATTENED } else { &DOTTED };
    table.iter().find_map(|(prefix, part)| Some((*part, module.strip_prefix(prefix)?)))
}
