//! The tensors of each module of a kohya or diffusers file, put together.

use super::assemble::Scaled;
use super::diffusers::Configured;
use super::endings::{Which, split};
use crate::adapter::AdapterLayer;
use crate::error::{Error, Result};
use crate::tensor::Tensor;
use std::collections::BTreeMap;

/// Tensors of one module, each with its name in the file.
#[derive(Debug, Default)]
pub(super) struct Factors {
    down: Option<(String, Tensor)>,
    up: Option<(String, Tensor)>,
    middle: Option<(String, Tensor)>,
    alpha: Option<(String, Tensor)>,
    magnitude: Option<(String, Tensor)>,
}

/// Every tensor in its module.
pub(super) fn collect(tensors: BTreeMap<String, Tensor>) -> Result<BTreeMap<String, Factors>> {
    let mut modules: BTreeMap<String, Factors> = BTreeMap::new();
    for (name, tensor) in tensors {
        let Some((module, which)) = split(&name) else {
            return Err(Error::tensor(name, "nothing uses it: it is neither a LoRA factor nor an α"));
        };
        let factors = modules.entry(module).or_default();
        let place = match which {
            Which::Down => &mut factors.down,
            Which::Up => &mut factors.up,
            Which::Middle => &mut factors.middle,
            Which::Alpha => &mut factors.alpha,
            Which::Magnitude => &mut factors.magnitude,
        };
        if let Some((other, _)) = place {
            return Err(Error::tensor(name, format!("found twice, the other time as `{other}`")));
        }
        *place = Some((name, tensor));
    }
    Ok(modules)
}

impl Factors {
    /// The layer, with its α: that of the file's tensor, else that of its metadata, else the rank.
    pub fn finish(self, module: String, configured: &Configured) -> Result<(String, Scaled)> {
        let missing = |what: &str| Error::module(&module, format!("has no {what} in the file"));
        let (down_name, mut a) = self.down.ok_or_else(|| missing("lora_down (A)"))?;
        let (up_name, b) = self.up.ok_or_else(|| missing("lora_up (B)"))?;
        let unfit = |name: &str, shape: &[usize], expected: String| {
            Err(Error::tensor(name, format!("has shape {shape:?}, but {expected} is needed")))
        };
        if a.shape().len() < 2 || a.is_empty() {
            return unfit(&down_name, a.shape(), "[r, in] or [r, in, …kernel]".into());
        }
        let rank = a.shape()[0];
        if b.shape().len() != a.shape().len()
            || b.shape()[1] != rank
            || b.shape()[2..].iter().any(|&size| size != 1)
            || b.is_empty()
        {
            return unfit(&up_name, b.shape(), format!("[out, {rank}] to fit `{down_name}` {:?}", a.shape()));
        }
        if let Some((name, middle)) = &self.middle {
            a = joined(&a, middle).ok_or_else(|| {
                Error::tensor(name, format!("{:?} does not fit `{down_name}`", middle.shape()))
            })?;
        }
        let alpha = match &self.alpha {
            Some((name, tensor)) if tensor.len() != 1 => {
                return unfit(name, tensor.shape(), "a single number".into());
            }
            Some((_, tensor)) => f64::from(tensor.at(0)),
            None => configured.alpha(&module, rank)?,
        };
        let out = b.shape()[0];
        let mut layer = AdapterLayer { a, b, bias: None, magnitude: None, embedding: false };
        if let Some((name, tensor)) = self.magnitude {
            // One number for each output, whatever sizes of 1 stand around it.
            if tensor.len() != out
                || !tensor.shape().contains(&out)
                || tensor.shape().first() == Some(&1) && out != 1 && tensor.shape().len() == 2
            {
                return unfit(&name, tensor.shape(), format!("[{out}], one magnitude for each output,"));
            }
            layer.magnitude = Some(tensor.reshape(&layer.magnitude_shape())?);
        }
        Ok((module, Scaled { layer, alpha }))
    }
}

/// A and the kernel between A and B as one: A'\[p, in, …k\] = Σ_q M\[p, q, …k\]·A\[q, in, 1…\].
fn joined(a: &Tensor, middle: &Tensor) -> Option<Tensor> {
    let (rank, input) = (a.shape()[0], a.shape()[1]);
    let shape = middle.shape();
    let is_plain = a.shape()[2..].iter().all(|&size| size == 1);
    if shape.len() != a.shape().len() || shape[..2] != [rank, rank] || !is_plain || middle.is_empty() {
        return None;
    }
    let kernel: usize = shape[2..].iter().product();
    let (a, middle) = (a.to_f32(), middle.to_f32());
    let mut new = Vec::with_capacity(rank * input * kernel);
    for p in 0..rank {
        for i in 0..input {
            for k in 0..kernel {
                let term =
                    |q: usize| f64::from(middle[(p * rank + q) * kernel + k]) * f64::from(a[q * input + i]);
                new.push((0..rank).map(term).sum::<f64>() as f32);
            }
        }
    }
    let shape: Vec<usize> = [&[rank, input], &shape[2..]].concat();
    Some(Tensor::of(&shape, new))
}
