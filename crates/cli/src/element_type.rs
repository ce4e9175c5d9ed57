//! The names of element types on the command line.

use clap::ValueEnum;
use lora_kernels::DType;

/// Names of element types.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ElementType {
    F32,
    F16,
    Bf16,
}

impl From<ElementType> for DType {
    fn from(name: ElementType) -> Self {
        match name {
            ElementType::F32 => DType::F32,
            ElementType::F16 => DType::F16,
            ElementType::Bf16 => DType::Bf16,
        }
    }
}
