//! How new adapters start.

use super::linalg::{truncated_qr, truncated_svd};
use super::random::{normal, uniform};
use crate::adapter::{AdapterLayer, Init};
use crate::binding::Site;
use crate::checkpoint::LayerKind;
use crate::tensor::Tensor;
use crate::{Error, Result};
use rand_chacha::rand_core::Rng;

/// A and B that PiSSA (Meng et al., arXiv 2404.02948) or OLoRA (Büyükakyüz, arXiv 2406.01775) cuts off a weight: the
/// base weight keeps W − s·B·A.
///
/// # Errors
/// The layer is not linear, or the rank exceeds its features.
pub(crate) fn cut_off(init: &Init, site: &Site, weight: &Tensor) -> Result<AdapterLayer> {
    let linear = match init {
        Init::Olora => site.kind == LayerKind::Linear,
        _ => matches!(site.kind, LayerKind::Linear | LayerKind::TransposedLinear),
    };
    let [rows, columns] = *weight.shape() else {
        return Err(Error::module(&site.layer, "PiSSA and OLoRA are for linear layers"));
    };
    if !linear {
        return Err(Error::module(
            &site.layer,
            "PiSSA is for linear layers, OLoRA for those with W [out, in]",
        ));
    }
    if site.rank > rows.min(columns) {
        return Err(Error::module(&site.layer, format!("rank {} exceeds the layer's features", site.rank)));
    }
    let values: Vec<f64> = weight.to_f32().into_iter().map(f64::from).collect();
    let (matrix, out, input) = if site.kind.is_input_major() {
        (transposed(&values, rows, columns), columns, rows)
    } else {
        (values, rows, columns)
    };
    let rank = site.rank;
    let (a, b) = if *init == Init::Olora {
        let (q, r) = truncated_qr(&matrix, out, input, rank);
        (r, q)
    } else {
        let svd = truncated_svd(&matrix, out, input, rank)?;
        let roots: Vec<f64> = svd.values.iter().map(|value| (value / site.scale).sqrt()).collect();
        let a = svd.right.iter().enumerate().map(|(index, value)| value * roots[index / input]).collect();
        let b = svd.left.iter().enumerate().map(|(index, value)| value * roots[index % rank]).collect();
        (a, b)
    };
    Ok(AdapterLayer {
        a: Tensor::of(&[rank, input], a.into_iter().map(|value| value as f32).collect()),
        b: Tensor::of(&[out, rank], b.into_iter().map(|value| value as f32).collect()),
        bias: None,
        magnitude: None,
        embedding: false,
    })
}

fn transposed(values: &[f64], rows: usize, columns: usize) -> Vec<f64> {
    (0..columns).flat_map(|column| (0..rows).map(move |row| values[row * columns + column])).collect()
}

/// A and B of a new layer, in `f32`, for the inits that do not look at the weight.
///
/// # Errors
/// [`Init::Other`] needs data or methods that this crate does not have.
pub(crate) fn fresh(
    init: &Init,
    site: &Site,
    weight_shape: &[usize],
    lora_bias: bool,
    random: &mut impl Rng,
) -> Result<AdapterLayer> {
    let rank = site.rank;
    let (a_shape, b_shape) = factor_shapes(site.kind, weight_shape, rank);
    let (a_len, b_len) = (a_shape.iter().product::<usize>(), b_shape.iter().product::<usize>());
    let input: usize = a_shape[1..].iter().product();
    let embedding = site.kind == LayerKind::Embedding;
    let mut uniform_in = |len: usize, bound: f64| -> Vec<f32> {
        (0..len).map(|_| ((2.0 * uniform(random) - 1.0) * bound) as f32).collect()
    };
    let (a, b) = match init {
        // PEFT starts embeddings the same way whatever is asked for.
        Init::Default | Init::Gaussian if embedding => {
            (vec![0.0; a_len], (0..b_len).map(|_| normal(random) as f32).collect())
        }
        Init::Default => (uniform_in(a_len, 1.0 / (input as f64).sqrt()), vec![0.0; b_len]),
        Init::Gaussian => {
            ((0..a_len).map(|_| (normal(random) / rank as f64) as f32).collect(), vec![0.0; b_len])
        }
        Init::Random if embedding => {
            let mut normals = |len: usize| -> Vec<f32> { (0..len).map(|_| normal(random) as f32).collect() };
            (normals(a_len), normals(b_len))
        }
        Init::Random => {
            let a = uniform_in(a_len, 1.0 / (input as f64).sqrt());
            (a, uniform_in(b_len, 1.0 / (b_shape[1] as f64).sqrt()))
        }
        Init::Pissa | Init::Olora => {
            return Err(Error::module(&site.layer, "PiSSA and OLoRA need the layer's weight"));
        }
        Init::Other(name) => {
            return Err(Error::config(
                "init_lora_weights",
                format!("`{name}` cannot start a new adapter here"),
            ));
        }
    };
    let bias = (lora_bias && !embedding).then(|| Tensor::of(&[b_shape[0]], vec![0.0f32; b_shape[0]]));
    Ok(AdapterLayer {
        a: Tensor::of(&a_shape, a),
        b: Tensor::of(&b_shape, b),
        bias,
        magnitude: None,
        embedding,
    })
}

/// Shapes of A and B for a weight.
fn factor_shapes(kind: LayerKind, weight: &[usize], rank: usize) -> (Vec<usize>, Vec<usize>) {
    match kind {
        LayerKind::Linear => (vec![rank, weight[1]], vec![weight[0], rank]),
        LayerKind::TransposedLinear | LayerKind::Embedding => (vec![rank, weight[0]], vec![weight[1], rank]),
        LayerKind::Convolution => {
            let mut a = weight.to_vec();
            a[0] = rank;
            let mut b = vec![1; weight.len()];
            (b[0], b[1]) = (weight[0], rank);
            (a, b)
        }
        LayerKind::Experts => (vec![weight[0] * rank, weight[2]], vec![weight[1], rank * weight[0]]),
        LayerKind::TransposedExperts => {
            (vec![weight[0] * rank, weight[1]], vec![weight[2], rank * weight[0]])
        }
    }
}
