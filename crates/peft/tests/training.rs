//! Layers in training against PEFT's: convolutions, dropout with one mask, biases, magnitudes.

mod common;

use common::{Case, case, cases, doubles, largest};
use lora_kernels::Dropout;
use lora_kernels::cpu::Cpu;
use lora_peft::model::{ConvolutionGeometry, Gradients};
use lora_peft::tensor::Tensor;
use lora_peft::{Checkpoint, LoraModel};
use serde_json::Value;

fn loaded(case: &Case) -> LoraModel {
    let mut model = LoraModel::new(Checkpoint::open(&case.base).unwrap());
    for adapter in case.adapters() {
        model.add_adapter(&Cpu::new(), "a", adapter).unwrap();
    }
    model
}

/// One run of one layer, as `training.json` tells it.
struct Run {
    module: String,
    geometry: Option<ConvolutionGeometry>,
    dropout: Option<Dropout>,
}

impl Run {
    fn new(name: &str, facts: &Value) -> Self {
        let values = |facts: &Value| -> Vec<usize> {
            facts.as_array().unwrap().iter().map(|value| value.as_u64().unwrap() as usize).collect()
        };
        let geometry = facts.get("geometry").map(|geometry| ConvolutionGeometry {
            stride: values(&geometry["stride"]),
            padding: values(&geometry["padding"]),
            dilation: values(&geometry["dilation"]),
        });
        let dropout = facts.get("dropout").map(|dropout| {
            let number = |key: &str| dropout[key].as_u64().unwrap();
            let probability = dropout["probability"].as_f64().unwrap() as f32;
            Dropout::new(probability, number("seed"), number("offset")).unwrap()
        });
        let module = name.split_once('.').unwrap().1.to_owned();
        Run { module, geometry, dropout }
    }

    fn forward(&self, model: &LoraModel, x: &Tensor) -> lora_peft::Result<Tensor> {
        match &self.geometry {
            Some(geometry) => model.convolve(&Cpu::new(), &self.module, geometry, x, self.dropout),
            None => model.forward(&Cpu::new(), &self.module, x, self.dropout),
        }
    }

    fn backward(&self, model: &LoraModel, x: &Tensor, dy: &Tensor) -> lora_peft::Result<Gradients> {
        let backend = &mut Cpu::new();
        match &self.geometry {
            Some(geometry) => model.convolve_backward(backend, &self.module, geometry, x, dy, self.dropout),
            None => model.backward(backend, &self.module, x, dy, self.dropout),
        }
    }
}

#[test]
fn training_equals_pefts() {
    let (mut convolutions, mut dropped, mut magnitudes, mut biases) = (0, 0, 0, 0);
    for case in cases() {
        let Ok(runs) = std::fs::read(case.directory.join("training.json")) else { continue };
        let runs: Value = serde_json::from_slice(&runs).unwrap();
        let golden = Checkpoint::open(&case.directory.join("training.safetensors")).unwrap();
        let model = loaded(&case);
        for (name, facts) in runs.as_object().unwrap() {
            let run = Run::new(name, facts);
            let part = |part: &str| golden.tensor(&format!("{name}.{part}"));
            let (x, dy) = (part("x").unwrap(), part("dy").unwrap());
            let y = run.forward(&model, &x).unwrap();
            let gradients = run.backward(&model, &x, &dy).unwrap();
            let adapter = &gradients.adapters["a"];
            // The longest sum is that of a gradient over all positions; in 16 bits X, its dropped-out part, Z and dZ are
            // each rounded once more than in PEFT or once less.
            let positions = dy.len() / dy.shape()[1];
            let terms = positions.max(x.len() / x.shape()[0]).max(24);
            let bound = match case.dtype.as_str() {
                "f32" => terms as f64 * 2f64.powi(-24),
                _ => 4.0 * 2f64.powi(-8),
            };
            let compare = |key: &str, ours: Option<&Tensor>| {
                let Ok(expected) = part(key) else { return 0 };
                let ours = ours.unwrap_or_else(|| panic!("{}: {name}.{key} is missing", case.name));
                assert_eq!(ours.shape(), expected.shape(), "{}: {name}.{key}", case.name);
                let (ours, expected) = (doubles(ours), doubles(&expected));
                let difference: Vec<f64> = ours.iter().zip(&expected).map(|(one, two)| one - two).collect();
                let distance = largest(&difference) / largest(&expected);
                assert!(distance <= bound, "{}: {name}.{key} is {distance} away", case.name);
                1
            };
            compare("y", Some(&y));
            compare("dx", gradients.x.as_ref());
            compare("a", Some(&adapter.a));
            compare("b", Some(&adapter.b));
            biases += compare("lora_bias", adapter.bias.as_ref());
            biases += compare("bias", Some(&gradients.bias));
            magnitudes += compare("magnitude", adapter.magnitude.as_ref());
            convolutions += usize::from(run.geometry.is_some());
            dropped += usize::from(run.dropout.is_some());
        }
    }
    let counts = [convolutions, dropped, magnitudes, biases];
    assert!(counts.iter().zip([14, 14, 6, 20]).all(|(found, least)| *found >= least), "{counts:?}");
}

/// PyTorch's defaults leave the sizes as they are but for the kernel's reach.
#[test]
fn a_convolution_refuses_what_does_not_fit() {
    let model = loaded(&case("conv"));
    let backend = &mut Cpu::new();
    let convolve = |module: &str, geometry: &ConvolutionGeometry, shape: &[usize]| {
        let x = Tensor::zeros(lora_kernels::DType::F32, shape);
        model.convolve(backend, module, geometry, &x, None).map(|y| y.shape().to_vec())
    };
    let plain = ConvolutionGeometry::new(2);
    assert_eq!(convolve("first", &plain, &[2, 3, 5, 4]).unwrap(), [2, 6, 3, 2]);
    assert_eq!(convolve("first", &plain, &[0, 3, 5, 4]).unwrap(), [0, 6, 3, 2]);
    let says = |geometry: &ConvolutionGeometry, shape: &[usize], reason: &str| {
        let error = convolve("first", geometry, shape).unwrap_err().to_string();
        assert!(error.contains("first") && error.contains(reason), "{error}");
    };
    let huge = usize::MAX;
    says(&plain, &[2, 4, 5, 4], "[N, 3]");
    says(&plain, &[2, 3, 5], "[N, 3]");
    says(&plain, &[2, 3, 5, 2], "axis 1: the kernel of 3 with dilation 1 does not fit into an input of 2");
    says(&plain, &[2, 3, 0, 4], "there is nothing in images");
    says(&ConvolutionGeometry::new(1), &[2, 3, 5, 4], "2 values of stride");
    says(&ConvolutionGeometry { stride: vec![1, 0], ..plain.clone() }, &[2, 3, 5, 4], "at least 1");
    says(&ConvolutionGeometry { dilation: vec![1, huge], ..plain.clone() }, &[2, 3, 5, 4], "does not fit");
    says(&ConvolutionGeometry { padding: vec![huge, 1], ..plain.clone() }, &[2, 3, 5, 4], "does not fit");
    for padding in [1 << 20, 1 << 31, 1 << 40, 1 << 62] {
        let geometry = ConvolutionGeometry { padding: vec![padding; 2], ..plain.clone() };
        says(&geometry, &[2, 3, 5, 4], "too large for one image");
    }
    let x = Tensor::zeros(lora_kernels::DType::F32, &[2, 3, 5, 4]);
    let error = model.forward(backend, "first", &x, None).unwrap_err().to_string();
    assert!(error.contains("a convolution takes images"), "{error}");
    let dy = Tensor::zeros(lora_kernels::DType::F32, &[2, 6, 3, 3]);
    let error = model.convolve_backward(backend, "first", &plain, &x, &dy, None).unwrap_err().to_string();
    assert!(error.contains("[2, 6, 3, 2] is needed"), "{error}");
}
