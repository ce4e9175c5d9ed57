//! Facts about kinds of models, by their `model_type`: tables from transformers 5.24.

pub(crate) mod class_facts;
pub(crate) mod classifiers;
mod tied_classes;
pub(crate) mod ties;
