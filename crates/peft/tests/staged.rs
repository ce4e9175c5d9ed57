//! A model in host memory computed on a device, which here is the emulated GPU: the kernels themselves and the copies, but
//! not the driver.

mod common;

use common::{case, doubles, largest};
use lora_emulator::EmulatedCuda;
use lora_kernels::cpu::Cpu;
use lora_kernels::ops::{ForwardSiblings, Output, Projection};
use lora_kernels::{Adapter, Backend, Backward, Delta, Dropout, MatrixMut, MatrixRef};
use lora_peft::HostBackend;
use lora_peft::staged::Staged;
use lora_peft::tensor::Tensor;
use lora_peft::{Checkpoint, LoraModel};

fn device(test: &str) -> Option<Staged<EmulatedCuda>> {
    EmulatedCuda::for_test(test).map(Staged::new)
}

fn values(len: usize, seed: usize) -> Vec<f32> {
    (0..len).map(|index| ((index * 37 + seed * 11) % 9) as f32 - 4.0).collect()
}

/// Small integers have one right result in `f32`, whatever the order of their sum.
fn same_bits(device: &HostBackend<'_>, run: impl Fn(&HostBackend<'_>) -> Vec<Vec<f32>>) {
    assert!(run(device) == run(&mut Cpu::new()));
}

#[test]
fn forwards_of_siblings_are_copied_both_ways() {
    let Some(device) = device("forwards_of_siblings_are_copied_both_ways") else { return };
    let (m, input, rank) = (5, 24, 3);
    let (x, bias) = (values(m * input, 1), values(16, 2));
    same_bits(&device, |backend| {
        let mut results = Vec::new();
        let layers: Vec<[Vec<f32>; 3]> = [16, 8]
            .map(|out| [values(out * input, 3), values(rank * input, 4), values(out * rank, 5)])
            .into();
        let mut outputs: Vec<[Vec<f32>; 2]> =
            [16, 8].map(|out| [vec![9.0; m * out], vec![9.0; m * rank]]).into();
        let projections = layers.iter().zip(&mut outputs).zip([16, 8]);
        let projections = projections.map(|(([w, a, b], [y, s]), out)| Projection {
            w: MatrixRef::new(w, out, input).unwrap().t(),
            adapter: Adapter {
                a: MatrixRef::new(a, rank, input).unwrap().t(),
                b: MatrixRef::new(b, out, rank).unwrap().t(),
                scale: 2.0,
            },
            bias: (out == 16).then(|| MatrixRef::row(&bias)),
            y: MatrixMut::new(y, m, out).unwrap(),
            s: (out == 8).then(|| MatrixMut::new(s, m, rank).unwrap()),
        });
        let x = MatrixRef::new(&x, m, input).unwrap();
        let op = ForwardSiblings { x, dropout: None, projections: projections.collect() };
        backend.forward_siblings(op).unwrap();
        results.extend(outputs.into_iter().flatten());
        results
    });
}

/// Gradients that are added to and gradients in rows with gaps.
#[test]
fn backwards_keep_what_they_add_to_and_what_they_do_not_touch() {
    let Some(device) = device("backwards_keep_what_they_add_to_and_what_they_do_not_touch") else {
        return;
    };
    let (m, input, out, rank) = (6, 16, 12, 2);
    let (x, w, dy) = (values(m * input, 1), values(out * input, 2), values(m * out, 3));
    let (a, b) = (values(rank * input, 4), values(out * rank, 5));
    same_bits(&device, |backend| {
        let (mut dx, mut da) = (vec![7.0; m * (input + 3)], values(rank * input, 6));
        let (mut db, mut dbias) = (vec![7.0; out * rank], values(out, 7));
        let op = Backward {
            x: Some(MatrixRef::new(&x, m, input).unwrap()),
            w: MatrixRef::new(&w, out, input).unwrap().t(),
            adapter: Adapter {
                a: MatrixRef::new(&a, rank, input).unwrap().t(),
                b: MatrixRef::new(&b, out, rank).unwrap().t(),
                scale: 0.5,
            },
            dropout: Some(Dropout::new(0.5, 3, 4).unwrap()),
            dy: MatrixRef::new(&dy, m, out).unwrap(),
            s: None,
            dx: Some(Output::overwrite(MatrixMut::strided(&mut dx, m, input, input + 3).unwrap())),
            da: Some(Output::accumulate(MatrixMut::new(&mut da, rank, input).unwrap().t())),
            db: Some(Output::overwrite(MatrixMut::new(&mut db, out, rank).unwrap().t())),
            dbias: Some(Output::accumulate(MatrixMut::row(&mut dbias))),
        };
        backend.backward(op).unwrap();
        vec![dx, da, db, dbias]
    });
}

#[test]
fn arguments_that_do_not_fit_are_refused_before_anything_is_copied() {
    let Some(device) = device("arguments_that_do_not_fit_are_refused_before_anything_is_copied") else {
        return;
    };
    let x = values(12, 1);
    let mut delta = vec![0.0f32; 9];
    let adapter = Adapter {
        a: MatrixRef::new(&x[..6], 3, 2).unwrap(),
        b: MatrixRef::new(&x[..8], 2, 4).unwrap(),
        scale: 1.0,
    };
    let op = Delta { adapter, delta: MatrixMut::new(&mut delta, 3, 3).unwrap() };
    assert!(device.delta(op).is_err());
    assert!(delta.iter().all(|value| *value == 0.0));
}

/// A whole model: forward and backward as on the CPU but for rounding, merge and unmerge bit for bit.
#[test]
fn models_run_on_the_device() {
    let Some(mut device) = device("models_run_on_the_device") else { return };
    for (name, module) in [
        ("llama-all-linear", "model.layers.0.mlp.down_proj"),
        ("llama-dora", "model.layers.0.self_attn.q_proj"),
        ("llama-bf16", "model.layers.1.mlp.up_proj"),
    ] {
        let case = case(name);
        let run = |backend: &HostBackend<'_>| {
            let mut model = LoraModel::new(Checkpoint::open(&case.base).unwrap());
            model.add_adapter(backend, "a", case.adapters().remove(0)).unwrap();
            let weight = model.weight(&format!("{module}.weight")).unwrap();
            let (out, input, dtype) = (weight.shape()[0], weight.shape()[1], weight.dtype());
            let x = Tensor::new(&[5, input], values(5 * input, 1)).unwrap().cast(dtype);
            let dy = Tensor::new(&[5, out], values(5 * out, 2)).unwrap().cast(dtype);
            let y = model.forward(backend, module, &x, None).unwrap();
            let gradients = model.backward(backend, module, &x, &dy, None).unwrap();
            let adapter = &gradients.adapters["a"];
            let products = [y, gradients.x.clone().unwrap(), adapter.a.clone(), adapter.b.clone()];
            let weights = |model: &LoraModel| -> Vec<Tensor> {
                let sites = model.sites("a").unwrap().iter();
                sites.map(|site| model.weight(&site.weight).unwrap().clone()).collect()
            };
            let base = weights(&model);
            model.merge(backend, Some(Default::default())).unwrap();
            let merged = weights(&model);
            model.unmerge(backend).unwrap();
            assert!(weights(&model) == base, "{name}");
            (products, merged)
        };
        let ((found, merged), (expected, merged_on_cpu)) = (run(&mut device), run(&mut Cpu::new()));
        assert!(merged == merged_on_cpu, "{name}");
        // Sums of up to 20 terms in f32; on the device S, dS and the adapters' part are rounded once more in 16 bits.
        let bound = if case.dtype == "f32" { 24.0 * 2f64.powi(-24) } else { 4.0 * 2f64.powi(-8) };
        for (index, (found, expected)) in found.iter().zip(&expected).enumerate() {
            let (found, expected) = (doubles(found), doubles(expected));
            let difference: Vec<f64> = found.iter().zip(&expected).map(|(one, two)| one - two).collect();
            assert!(largest(&difference) <= bound * largest(&expected), "{name} {index}");
        }
    }
}
