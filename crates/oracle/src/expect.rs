//! What a device must give for an operation, with bounds for its roundings, and the comparison.

use crate::dense::Dense;
use crate::device::Roundings;
use crate::matrix::{Arrangement, Matrix, nearest};
use crate::oracle;
use crate::run::{
    AdapterArguments, BackwardArguments, ForwardArguments, ForwardLayer, FrozenArguments,
    FrozenBackwardArguments, Gradient, Place,
};
use crate::tolerance::{Bounded, accumulated};
use lora_kernels::DType;
use lora_kernels::ops::WriteMode;

fn exact(matrix: &Matrix) -> Bounded {
    Bounded::exact(matrix.into())
}

/// A or B as it enters products of a layer in `dtype`.
fn entering(matrix: &Matrix, dtype: DType, roundings: Roundings) -> Bounded {
    let matrix_dtype = matrix.dtype();
    let exact = exact(matrix);
    if roundings.adapters { exact.converted(matrix_dtype, dtype) } else { exact }
}

fn absolute_sum(parts: &[&Bounded]) -> Dense {
    let first = parts[0].magnitude();
    parts[1..].iter().fold(first, |sum, part| {
        let part = part.magnitude();
        Dense::from_fn(sum.rows, sum.cols, |i, j| {
            sum.at(i, j) + part.at(if part.rows == 1 { 0 } else { i }, j)
        })
    })
}

/// The bounds' own values must be the oracle's: two ways to write the same formula.
fn agreeing(bounded: Bounded, oracle: Dense) -> Bounded {
    assert_eq!((bounded.value.rows, bounded.value.cols), (oracle.rows, oracle.cols));
    let slack = 1e-12 * (1.0 + oracle.largest());
    for (index, (ours, theirs)) in bounded.value.values.iter().zip(&oracle.values).enumerate() {
        assert!((ours - theirs).abs() <= slack, "oracle and bounds disagree at {index}: {ours} and {theirs}");
    }
    Bounded { value: oracle, error: bounded.error }
}

/// S = s·(mask⊙X)·A as stored.
fn shrink(
    x: &Bounded,
    mask: &Dense,
    adapter: &AdapterArguments,
    dtype: DType,
    roundings: Roundings,
) -> Bounded {
    let a = entering(&adapter.a, dtype, roundings);
    accumulated(&[(&x.masked(mask), &a)], &[]).scaled(f64::from(adapter.scale)).rounded(dtype)
}

/// Y and S of one layer.
pub struct Forward {
    pub y: Bounded,
    pub s: Bounded,
}

/// What the forward of each layer gives.
pub fn forward(arguments: &ForwardArguments, roundings: Roundings) -> Vec<Forward> {
    // Single rows or columns may lie anywhere, and are not known to be parts of one matrix. Of several layers, narrow ones of a
    // large rank may stay apart.
    let joins = arguments.place == Place::BesideX
        && arguments.projections.len() == 1
        && arguments.projections.iter().all(|layer| {
            layer.bias.is_none() && (layer.w.rows.min(layer.w.cols) > 1 || layer.adapter.a.cols > 1)
        });
    let roundings = in_place(roundings, arguments.place, joins);
    let x = exact(&arguments.x);
    let mask = oracle::mask(arguments.x.rows, arguments.x.cols, arguments.dropout);
    arguments.projections.iter().map(|layer| forward_layer(&x, &mask, layer, roundings)).collect()
}

fn forward_layer(x: &Bounded, mask: &Dense, layer: &ForwardLayer, roundings: Roundings) -> Forward {
    let dtype = layer.w.dtype();
    let w = exact(&layer.w);
    let s = shrink(x, mask, &layer.adapter, dtype, roundings);
    let b = entering(&layer.adapter.b, dtype, roundings);
    let bias = layer.bias.as_ref().map(exact);
    let addends: Vec<&Bounded> = bias.iter().collect();
    let y = if roundings.partial_sums {
        let part = accumulated(&[(&s, &b)], &addends).rounded(dtype);
        accumulated(&[(x, &w)], &[&part])
    } else {
        accumulated(&[(x, &w), (&s, &b)], &addends)
    };
    let (a, b) = (Dense::from(&layer.adapter.a), Dense::from(&layer.adapter.b));
    let terms = oracle::Layer { w: &w.value, a: &a, b: &b, scale: f64::from(layer.adapter.scale) };
    Forward {
        y: agreeing(
            y.rounded(dtype),
            oracle::forward(&x.value, mask, &terms, bias.as_ref().map(|bias| &bias.value)),
        ),
        s: agreeing(s, oracle::shrink(&x.value, mask, &terms)),
    }
}

/// Padded weights hold adapters in the layer's type; where S lies beside X, too, Y is one sum.
fn in_place(roundings: Roundings, place: Place, joins: bool) -> Roundings {
    Roundings {
        adapters: roundings.adapters || place != Place::Apart,
        partial_sums: roundings.partial_sums && !joins,
    }
}

/// What a layer without adapter gives, for Y's contents before it.
pub fn frozen(arguments: &FrozenArguments, roundings: Roundings) -> Bounded {
    let FrozenArguments { x, w, bias, y } = arguments;
    let (x, w, dtype) = (exact(x), exact(w), x.dtype());
    let bias = bias.as_ref().map(exact);
    let previous = (y.mode == WriteMode::Accumulate).then(|| exact(&y.matrix));
    let addends: Vec<&Bounded> = previous.iter().chain(&bias).collect();
    let truth = Dense::from_fn(x.value.rows, w.value.cols, |m, j| {
        let product: f64 = (0..x.value.cols).map(|k| x.value.at(m, k) * w.value.at(k, j)).sum();
        let bias = bias.as_ref().map_or(0.0, |bias| bias.value.at(0, j));
        product + bias + previous.as_ref().map_or(0.0, |previous| previous.value.at(m, j))
    });
    let sum = match (&bias, roundings.partial_sums) {
        // Y holds the bias, or the sum with it, before the product is added.
        (Some(bias), true) => {
            let nothing = Bounded::exact(Dense::zeros(x.value.rows, w.value.cols));
            let mut addends = vec![&nothing, bias];
            addends.extend(&previous);
            let part = accumulated(&[], &addends).rounded(dtype);
            accumulated(&[(&x, &w)], &[&part])
        }
        _ => accumulated(&[(&x, &w)], &addends),
    };
    agreeing(sum.rounded(dtype), truth)
}

/// What the gradient of a layer without adapter gives, for dX's contents before it.
pub fn frozen_backward(arguments: &FrozenBackwardArguments, roundings: Roundings) -> Bounded {
    let FrozenBackwardArguments { dy, w, dx } = arguments;
    let transposed = Matrix::from_fn(w.dtype(), w.cols, w.rows, Arrangement::default(), |i, j| w.get(j, i));
    frozen(&FrozenArguments { x: dy.clone(), w: transposed, bias: None, y: dx.clone() }, roundings)
}

/// The gradients of a backward; those of parameters one a layer.
pub struct Backward {
    pub dx: Bounded,
    pub layers: Vec<ParameterGradients>,
}

pub struct ParameterGradients {
    pub da: Bounded,
    pub db: Bounded,
    pub dbias: Bounded,
}

/// What the backward gives, for the outputs' contents before it.
pub fn backward(arguments: &BackwardArguments, roundings: Roundings) -> Backward {
    let roundings = in_place(roundings, arguments.place, false);
    let dtype = arguments.projections[0].dy.dtype();
    let rows = arguments.projections[0].dy.rows;
    let features = arguments.projections[0].w.rows;
    let x = match &arguments.x {
        Some(x) => exact(x),
        None => Bounded::exact(Dense::zeros(rows, features)),
    };
    let mask = oracle::mask(rows, features, arguments.dropout);

    let mut layers = Vec::new();
    let mut true_dx = Dense::zeros(rows, features);
    let (mut frozen_factors, mut adapter_factors) = (Vec::new(), Vec::new());
    for layer in &arguments.projections {
        let scale = f64::from(layer.adapter.scale);
        let (w, dy) = (exact(&layer.w), exact(&layer.dy));
        let a = entering(&layer.adapter.a, dtype, roundings);
        let b = entering(&layer.adapter.b, dtype, roundings);
        let ds = accumulated(&[(&dy, &b.transposed())], &[]).scaled(scale).rounded(dtype);
        let s = match &layer.s {
            Some(s) => exact(s),
            None => shrink(&x, &mask, &layer.adapter, dtype, roundings),
        };
        let da = accumulated(&[(&x.masked(&mask).transposed(), &ds)], &[]);
        let db = accumulated(&[(&s.transposed(), &dy)], &[]);
        let ones = Bounded::exact(Dense::from_fn(1, rows, |_, _| 1.0));
        let dbias = accumulated(&[(&ones, &dy)], &[]);

        let given_s = layer.s.as_ref().map(Dense::from);
        let terms = oracle::Layer { w: &w.value, a: &a.value, b: &b.value, scale };
        let truth = oracle::backward(&x.value, &mask, &terms, &dy.value, given_s.as_ref());
        for (sum, term) in true_dx.values.iter_mut().zip(&truth.dx.values) {
            *sum += term;
        }
        layers.push(ParameterGradients {
            da: stored(agreeing(da, truth.da), &layer.da),
            db: stored(agreeing(db, truth.db), &layer.db),
            dbias: stored(agreeing(dbias, truth.dbias), &layer.dbias),
        });
        frozen_factors.push((dy, w.transposed()));
        adapter_factors.push((ds, a.transposed()));
    }
    let dx = input_gradient(&frozen_factors, &adapter_factors, &mask, dtype, roundings, &arguments.dx);
    let previous = previous(&arguments.dx);
    let true_dx = match &previous {
        Some(previous) => Dense::from_fn(rows, features, |i, j| true_dx.at(i, j) + previous.value.at(i, j)),
        None => true_dx,
    };
    Backward { dx: agreeing(dx, true_dx), layers }
}

/// dX: the adapters' part, masked, then the frozen products of all layers.
fn input_gradient(
    frozen: &[(Bounded, Bounded)],
    adapters: &[(Bounded, Bounded)],
    mask: &Dense,
    dtype: DType,
    roundings: Roundings,
    output: &Option<Gradient>,
) -> Bounded {
    let adapters: Vec<_> = adapters.iter().map(|(left, right)| (left, right)).collect();
    let frozen: Vec<_> = frozen.iter().map(|(left, right)| (left, right)).collect();
    let part = accumulated(&adapters, &[]).masked(mask);
    let previous = previous(output);
    let mut addends = vec![&part];
    addends.extend(previous.as_ref());
    let sum = accumulated(&frozen, &addends);
    if !roundings.partial_sums {
        return sum.rounded(dtype);
    }
    // The result is rounded after the adapters' part and after each frozen product. No partial sum is larger than the
    // sum of the parts' magnitudes.
    let products: Vec<Bounded> = frozen.iter().map(|&pair| accumulated(&[pair], &[])).collect();
    let mut parts: Vec<&Bounded> = products.iter().collect();
    parts.extend(addends);
    sum.rounded_beside(&absolute_sum(&parts), dtype, frozen.len() + 1)
}

/// What an accumulating output holds already.
fn previous(output: &Option<Gradient>) -> Option<Bounded> {
    let gradient = output.as_ref()?;
    (gradient.mode == WriteMode::Accumulate).then(|| exact(&gradient.matrix))
}

/// A gradient as it ends up in its matrix; unchanged where it was not asked for.
fn stored(gradient: Bounded, output: &Option<Gradient>) -> Bounded {
    let Some(output) = output else { return gradient };
    let dtype = output.matrix.dtype();
    match previous(&Some(output.clone())) {
        Some(previous) => accumulated(&[], &[&gradient, &previous]).rounded(dtype),
        None => gradient.rounded(dtype),
    }
}

/// What a merge computes.
pub struct Merge {
    /// Δ before any rounding to an element type.
    pub delta: Bounded,
    pub merged: Bounded,
}

/// W + s·A·B, with Δ in `f32` and one rounding.
pub fn merge(w: &Matrix, adapter: &AdapterArguments) -> Merge {
    let scale = f64::from(adapter.scale);
    let (a, b, before) = (exact(&adapter.a), exact(&adapter.b), exact(w));
    let delta = accumulated(&[(&a, &b)], &[]).scaled(scale);
    let merged = accumulated(&[], &[&before, &delta]).rounded(w.dtype());
    Merge { delta: agreeing(delta, oracle::delta(&a.value, &b.value, scale)), merged }
}

/// Every element must be within its bound; the worst is reported.
pub fn assert_close(context: &str, name: &str, found: &Matrix, expected: &Bounded) {
    assert_eq!((found.rows, found.cols), (expected.value.rows, expected.value.cols), "{context}: `{name}`");
    let mut worst = (0.0, String::new());
    let mut outside = 0;
    for i in 0..found.rows {
        for j in 0..found.cols {
            let (value, exact, bound) = (found.get(i, j), expected.value.at(i, j), expected.error.at(i, j));
            let error = (value - exact).abs();
            if error <= bound {
                continue;
            }
            outside += 1;
            let ratio = if error.is_nan() { f64::INFINITY } else { error / bound };
            if ratio > worst.0 {
                worst = (ratio, format!("[{i}, {j}] is {value}, exact {exact}, bound {bound:e}"));
            }
        }
    }
    assert!(
        outside == 0,
        "{context}: {outside} of {} elements of `{name}` are too far off; the worst, by a factor of {:.3}: {}",
        found.rows * found.cols,
        worst.0,
        worst.1
    );
}

/// Every element must be the nearest value to the exact one. For whole numbers whose partial sums every type holds.
pub fn assert_exact(context: &str, name: &str, found: &Matrix, expected: &Bounded) {
    for i in 0..found.rows {
        for j in 0..found.cols {
            let (value, exact) = (found.get(i, j), nearest(found.dtype(), expected.value.at(i, j)));
            assert!(value == exact, "{context}: `{name}`[{i}, {j}] is {value}, but must be {exact}");
        }
    }
}
