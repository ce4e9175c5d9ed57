//! Facts about families of models that files do not say: tables by `model_type`, taken from transformers.

pub(crate) mod class_facts;
