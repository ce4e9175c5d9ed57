//! What PyTorch and PEFT compute (tests/golden/generate.py), against the oracle and against every device.

use crate::devices::device_tests;
use half::bf16;
use lora_kernels::DType;
use lora_kernels::ops::WriteMode;
use lora_oracle::dense::Dense;
use lora_oracle::device::{TestDevice, Tested};
use lora_oracle::expect::{self, assert_close};
use lora_oracle::matrix::{Arrangement, Data, Matrix};
use lora_oracle::oracle;
use lora_oracle::run::{
    self, AdapterArguments, BackwardArguments, BackwardLayer, ForwardArguments, ForwardLayer, Gradient, Place,
};
use lora_oracle::tolerance::{Bounded, accumulated};
use safetensors::{Dtype, SafeTensors};

device_tests!(forward, backward, merge);

const FILE: &[u8] = include_bytes!("../golden/golden.safetensors");

const CASES: [&str; 6] = [
    "f32",
    "f32_rslora_bias",
    "bf16",
    "bf16_rslora_bias",
    "bf16_f32_adapter",
    "bf16_f32_adapter_rslora_bias",
];

/// One layer in PyTorch: inputs and what autograd and PEFT made of them. W, A and B lie as PyTorch has them.
struct Golden {
    name: &'static str,
    x: Matrix,
    w: Matrix,
    adapter: AdapterArguments,
    bias: Option<Matrix>,
    dy: Matrix,
    y: Matrix,
    dx: Matrix,
    da: Matrix,
    db: Matrix,
    dbias: Option<Matrix>,
    delta: Matrix,
    merged: Matrix,
}

/// A tensor of two dimensions; transposed where the crate's convention is the other way round.
fn tensor(file: &SafeTensors<'_>, case: &str, name: &str, transposed: bool) -> Option<Matrix> {
    let view = file.tensor(&format!("{case}.{name}")).ok()?;
    let bytes = view.data();
    let data = match view.dtype() {
        Dtype::F32 => Data::F32(bytemuck::pod_collect_to_vec(bytes)),
        Dtype::BF16 => Data::Bf16(bytemuck::pod_collect_to_vec::<u8, bf16>(bytes)),
        other => panic!("{case}.{name} holds {other:?}"),
    };
    let [rows, cols] = *view.shape() else { panic!("{case}.{name} has shape {:?}", view.shape()) };
    let (rows, cols) = if transposed { (cols, rows) } else { (rows, cols) };
    Some(Matrix { data, rows, cols, arrangement: Arrangement { transposed, ..Arrangement::default() } })
}

impl Golden {
    fn load() -> Vec<Self> {
        let file = SafeTensors::deserialize(FILE).expect("the file is whole");
        CASES.iter().map(|name| Self::case(&file, name)).collect()
    }

    fn case(file: &SafeTensors<'_>, name: &'static str) -> Self {
        let optional = |key, transposed| tensor(file, name, key, transposed);
        let required =
            |key, transposed| optional(key, transposed).unwrap_or_else(|| panic!("no {name}.{key}"));
        Golden {
            name,
            x: required("x", false),
            w: required("w", true),
            adapter: AdapterArguments {
                a: required("lora_a", true),
                b: required("lora_b", true),
                scale: required("scale", false).get(0, 0) as f32,
            },
            bias: optional("bias", false),
            dy: required("dy", false),
            y: required("y", false),
            dx: required("dx", false),
            da: required("da", true),
            db: required("db", true),
            dbias: optional("dbias", false),
            delta: required("delta", true),
            merged: required("merged", true),
        }
    }

    fn dtype(&self) -> DType {
        self.x.dtype()
    }

    fn adapter_dtype(&self) -> DType {
        self.adapter.a.dtype()
    }

    fn scale(&self) -> f64 {
        f64::from(self.adapter.scale)
    }

    /// An output like `matrix` that nobody has written.
    fn unwritten(matrix: &Matrix) -> Matrix {
        Matrix::poisoned(matrix.dtype(), matrix.rows, matrix.cols, matrix.arrangement)
    }

    fn forward_arguments(&self) -> ForwardArguments {
        let layer = ForwardLayer {
            w: self.w.clone(),
            adapter: self.adapter.clone(),
            bias: self.bias.clone(),
            y: Self::unwritten(&self.y),
            s: None,
        };
        ForwardArguments { x: self.x.clone(), dropout: None, projections: vec![layer], place: Place::Apart }
    }

    fn backward_arguments(&self) -> BackwardArguments {
        let gradient =
            |matrix: &Matrix| Some(Gradient { matrix: Self::unwritten(matrix), mode: WriteMode::Overwrite });
        let layer = BackwardLayer {
            w: self.w.clone(),
            adapter: self.adapter.clone(),
            dy: self.dy.clone(),
            s: None,
            da: gradient(&self.da),
            db: gradient(&self.db),
            dbias: self.dbias.as_ref().and_then(gradient),
        };
        BackwardArguments {
            x: Some(self.x.clone()),
            dropout: None,
            dx: gradient(&self.dx),
            projections: vec![layer],
            place: Place::Apart,
        }
    }
}

fn exact(matrix: &Matrix) -> Bounded {
    Bounded::exact(Dense::from(matrix))
}

/// Bounds of what PEFT computes: it rounds after every product, scaling and addition.
struct PeftBounds {
    y: Bounded,
    dx: Bounded,
    da: Bounded,
    db: Bounded,
    dbias: Bounded,
    delta: Bounded,
    merged: Bounded,
}

impl PeftBounds {
    fn new(golden: &Golden) -> Self {
        let (dtype, adapter_dtype, scale) = (golden.dtype(), golden.adapter_dtype(), golden.scale());
        let (x, w, dy) = (exact(&golden.x), exact(&golden.w), exact(&golden.dy));
        let (a, b) = (exact(&golden.adapter.a), exact(&golden.adapter.b));
        let bias = golden.bias.as_ref().map(exact);

        let base = accumulated(&[(&x, &w)], &bias.iter().collect::<Vec<_>>()).rounded(dtype);
        let hidden = accumulated(&[(&x, &a)], &[]).rounded(adapter_dtype);
        let branch = accumulated(&[(&hidden, &b)], &[]).rounded(adapter_dtype);
        let branch = branch.scaled(scale).rounded(adapter_dtype);
        let y = accumulated(&[], &[&base, &branch]).rounded(dtype);

        let dbranch = dy.scaled(scale).rounded(adapter_dtype);
        let dhidden = accumulated(&[(&dbranch, &b.transposed())], &[]).rounded(adapter_dtype);
        let db = accumulated(&[(&hidden.transposed(), &dbranch)], &[]).rounded(adapter_dtype);
        let da = accumulated(&[(&x.transposed(), &dhidden)], &[]).rounded(adapter_dtype);
        // The branch's part is rounded where X was cast to the adapter's type, too.
        let dx_branch =
            accumulated(&[(&dhidden, &a.transposed())], &[]).rounded(adapter_dtype).rounded(dtype);
        let dx_base = accumulated(&[(&dy, &w.transposed())], &[]).rounded(dtype);
        let dx = accumulated(&[], &[&dx_base, &dx_branch]).rounded(dtype);
        let ones = Bounded::exact(Dense::from_fn(1, golden.dy.rows, |_, _| 1.0));
        let dbias = accumulated(&[(&ones, &dy)], &[]).rounded(dtype);

        let product = accumulated(&[(&a, &b)], &[]).rounded(adapter_dtype);
        let delta = product.scaled(scale).rounded(adapter_dtype);
        let merged = accumulated(&[], &[&w, &delta]).rounded(dtype);
        PeftBounds { y, dx, da, db, dbias, delta, merged }
    }
}

/// PyTorch's results lie within what its own roundings allow of the oracle's: they compute the same functions.
#[test]
fn peft_agrees_with_the_oracle() {
    for golden in Golden::load() {
        let bounds = PeftBounds::new(&golden);
        let [x, w, a, b, dy] =
            [&golden.x, &golden.w, &golden.adapter.a, &golden.adapter.b, &golden.dy].map(Dense::from);
        let mask = oracle::mask(x.rows, x.cols, None);
        let layer = oracle::Layer { w: &w, a: &a, b: &b, scale: golden.scale() };
        let bias = golden.bias.as_ref().map(Dense::from);
        let gradients = oracle::backward(&x, &mask, &layer, &dy, None);
        let delta = oracle::delta(&a, &b, golden.scale());
        let merged = Dense::from_fn(w.rows, w.cols, |i, j| w.at(i, j) + delta.at(i, j));
        for (name, found, value, bound) in [
            ("y", Some(&golden.y), oracle::forward(&x, &mask, &layer, bias.as_ref()), bounds.y),
            ("dx", Some(&golden.dx), gradients.dx, bounds.dx),
            ("da", Some(&golden.da), gradients.da, bounds.da),
            ("db", Some(&golden.db), gradients.db, bounds.db),
            ("dbias", golden.dbias.as_ref(), gradients.dbias, bounds.dbias),
            ("delta", Some(&golden.delta), delta, bounds.delta),
            ("merged", Some(&golden.merged), merged, bounds.merged),
        ] {
            let expected = Bounded { value, error: bound.error };
            if let Some(found) = found {
                assert_close(&format!("PEFT, {}", golden.name), name, found, &expected);
            }
        }
    }
}

/// The device's result is as near to the oracle's as the device promises, and no further from it than PEFT may be. With
/// f32 adapters on a 16-bit layer only the promise holds: S and dS are rounded to the layer's type, as they are
/// documented to be, where PEFT keeps them in f32.
fn assert_as_good<D: TestDevice>(
    golden: &Golden,
    name: &str,
    found: &Matrix,
    promised: &Bounded,
    peft: &Bounded,
) {
    let context = format!("{} {}", D::NAME, golden.name);
    assert_close(&format!("{context}: oracle"), name, found, promised);
    if golden.dtype() == golden.adapter_dtype() {
        assert_close(&format!("{context}: PEFT's bound"), name, found, peft);
    }
}

/// Two computations of the same values differ by no more than both errors together.
fn assert_agree<D: TestDevice>(
    golden: &Golden,
    name: &str,
    found: &Matrix,
    promised: &Bounded,
    by_peft: &Matrix,
    peft: &Bounded,
) {
    let error = Dense::from_fn(found.rows, found.cols, |i, j| promised.error.at(i, j) + peft.error.at(i, j));
    let expected = Bounded { value: by_peft.into(), error };
    assert_close(&format!("{} {}: PyTorch's result", D::NAME, golden.name), name, found, &expected);
}

fn compare<D: TestDevice>(
    golden: &Golden,
    name: &str,
    found: &Matrix,
    promised: &Bounded,
    by_peft: &Matrix,
    peft: &Bounded,
) {
    assert_as_good::<D>(golden, name, found, promised, peft);
    assert_agree::<D>(golden, name, found, promised, by_peft, peft);
}

fn forward<D: TestDevice>(device: &Tested<D>) {
    for golden in Golden::load() {
        let mut arguments = golden.forward_arguments();
        run::forward(device, &mut arguments).unwrap();
        let promised = expect::forward(&arguments, D::ROUNDINGS).remove(0).y;
        let peft = PeftBounds::new(&golden).y;
        compare::<D>(&golden, "y", &arguments.projections[0].y, &promised, &golden.y, &peft);
    }
}

fn backward<D: TestDevice>(device: &Tested<D>) {
    for golden in Golden::load() {
        let mut arguments = golden.backward_arguments();
        let promised = expect::backward(&arguments, D::ROUNDINGS);
        run::backward(device, &mut arguments).unwrap();
        let bounds = PeftBounds::new(&golden);
        let (found, parameters) = (&arguments.projections[0], &promised.layers[0]);
        for (name, found, promised, by_peft, peft) in [
            ("dx", &arguments.dx, &promised.dx, Some(&golden.dx), &bounds.dx),
            ("da", &found.da, &parameters.da, Some(&golden.da), &bounds.da),
            ("db", &found.db, &parameters.db, Some(&golden.db), &bounds.db),
            ("dbias", &found.dbias, &parameters.dbias, golden.dbias.as_ref(), &bounds.dbias),
        ] {
            if let (Some(found), Some(by_peft)) = (found, by_peft) {
                compare::<D>(&golden, name, &found.matrix, promised, by_peft, peft);
            }
        }
    }
}

/// Δ and the merged weight. Both are summed and rounded as the operation documents, on every device.
fn merge<D: TestDevice>(device: &Tested<D>) {
    for golden in Golden::load() {
        let bounds = PeftBounds::new(&golden);
        let promised = expect::merge(&golden.w, &golden.adapter);
        let mut delta = Golden::unwritten(&golden.delta);
        run::delta(device, &golden.adapter, &mut delta).unwrap();
        let stored = promised.delta.rounded(delta.dtype());
        compare::<D>(&golden, "delta", &delta, &stored, &golden.delta, &bounds.delta);

        let mut w = golden.w.clone();
        run::update_weights(device, &mut w, None, Some(&golden.adapter), None).unwrap();
        compare::<D>(&golden, "merged", &w, &promised.merged, &golden.merged, &bounds.merged);
    }
}
