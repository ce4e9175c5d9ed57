//! Gradients that are added to what is there: the sum is rounded, not the gradient before it.

use crate::device::{TestDevice, Tested};
use crate::matrix::{Arrangement, Matrix};
use crate::run::{self, AdapterArguments, BackwardArguments, BackwardLayer, Gradient, Place};
use lora_kernels::DType;
use lora_kernels::ops::WriteMode;

/// Every gradient is a number between two of the 16-bit type, 2ⁿ + 1 or 1 + 2⁻ⁿ, and is added to −1: the sum is exact,
/// unless the gradient was rounded first. Panics unless it is exact; returns what the device gave.
pub fn check<D: TestDevice>(device: &Tested<D>, dtype: DType, in_features: usize) -> Vec<u8> {
    let large = match dtype {
        DType::Bf16 => 256.0,
        DType::F16 => 2048.0,
        DType::F32 => unreachable!("sums in f32 hold no more than an f32 gradient"),
    };
    let small = 1.0 / large;
    let matrix = |rows, cols, value: &dyn Fn(usize, usize) -> f64| {
        Matrix::from_fn(dtype, rows, cols, Arrangement::default(), value)
    };
    let accumulated =
        |rows, cols| Some(Gradient { matrix: matrix(rows, cols, &|_, _| -1.0), mode: WriteMode::Accumulate });
    let layer = BackwardLayer {
        w: matrix(in_features, 1, &|_, _| 0.0),
        adapter: AdapterArguments {
            a: matrix(in_features, 2, &|_, _| 1.0),
            b: matrix(2, 1, &|r, _| [1.0, small][r]),
            scale: 1.0,
        },
        dy: matrix(2, 1, &|i, _| [large, 1.0][i]),
        s: Some(matrix(2, 2, &|_, _| 1.0)),
        da: accumulated(in_features, 2),
        db: accumulated(2, 1),
        dbias: accumulated(1, 1),
    };
    let mut arguments = BackwardArguments {
        x: Some(matrix(2, in_features, &|_, _| 1.0)),
        dropout: None,
        dx: accumulated(2, in_features),
        projections: vec![layer],
        place: Place::Apart,
    };
    run::backward(device, &mut arguments).expect("a valid backward");
    let layer = &arguments.projections[0];
    let mut bytes = Vec::new();
    let mut compare = |name: &str, gradient: &Option<Gradient>, which: fn(usize, usize) -> usize| {
        let found = &gradient.as_ref().expect("asked for").matrix;
        for i in 0..found.rows {
            for j in 0..found.cols {
                let (value, expected) = (found.get(i, j), [large, small][which(i, j)]);
                assert!(
                    value == expected,
                    "{dtype}, {in_features} features: `{name}`[{i}, {j}] is {value}, not {expected}"
                );
            }
        }
        bytes.extend(found.data.bytes());
    };
    compare("dx", &arguments.dx, |i, _| i);
    compare("da", &layer.da, |_, rank| rank);
    compare("db", &layer.db, |_, _| 0);
    compare("dbias", &layer.dbias, |_, _| 0);
    bytes
}
