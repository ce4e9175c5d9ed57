//! Every wrong argument gives a typed error that names it, before anything is written.

use crate::devices::device_tests;
use lora_kernels::fingerprint::Fingerprint;
use lora_kernels::ops::WriteMode;
use lora_kernels::restore::{DeltaOrder, Recorded, RestoreMethod, RestoreRecord};
use lora_kernels::{DType, Error, Layout, MatrixMut, MatrixRef, Shape};
use lora_oracle::device::{Codes, TestDevice, Tested};
use lora_oracle::matrix::Matrix;
use lora_oracle::oracle::Dropout;
use lora_oracle::problem::{Arrangements, Problem};
use lora_oracle::run::{self, AdapterArguments, BackwardArguments, ForwardArguments};

device_tests!(
    forward_shapes,
    backward_shapes,
    sibling_shapes,
    weight_shapes,
    delta_shapes,
    element_types,
    empty_dimensions,
    views_past_their_buffer,
    probabilities,
    scales,
    missing_arguments,
    records,
);

/// Arguments that can be spoilt by name.
trait Arguments: Clone {
    fn inputs_and_outputs(&mut self) -> Vec<(&'static str, &mut Matrix)>;
    fn run<D: TestDevice>(&mut self, device: &Tested<D>) -> Result<(), Error>;

    fn matrix(&mut self, name: &str) -> &mut Matrix {
        let mut all = self.inputs_and_outputs();
        let index =
            all.iter().position(|(candidate, _)| *candidate == name).unwrap_or_else(|| panic!("no {name}"));
        all.swap_remove(index).1
    }

    fn names(&mut self) -> Vec<&'static str> {
        self.inputs_and_outputs().into_iter().map(|(name, _)| name).collect()
    }

    fn bytes(&mut self) -> Vec<Vec<u8>> {
        self.inputs_and_outputs().into_iter().map(|(_, matrix)| matrix.data.bytes().to_vec()).collect()
    }

    /// Runs, and expects an error and no trace of it in any buffer.
    fn error<D: TestDevice>(&mut self, device: &Tested<D>, context: &str) -> Error {
        let before = self.bytes();
        let error = self.run(device).expect_err(context);
        assert!(self.bytes() == before, "{} {context}: something was written before `{error}`", D::NAME);
        error
    }
}

fn adapter(arguments: &mut AdapterArguments) -> [(&'static str, &mut Matrix); 2] {
    [("a", &mut arguments.a), ("b", &mut arguments.b)]
}

impl Arguments for ForwardArguments {
    fn inputs_and_outputs(&mut self) -> Vec<(&'static str, &mut Matrix)> {
        let mut all = vec![("x", &mut self.x)];
        for layer in &mut self.projections {
            all.extend([("w", &mut layer.w), ("y", &mut layer.y)]);
            all.extend(adapter(&mut layer.adapter));
            all.extend(layer.bias.as_mut().map(|bias| ("bias", bias)));
            all.extend(layer.s.as_mut().map(|s| ("s", s)));
        }
        all
    }

    fn run<D: TestDevice>(&mut self, device: &Tested<D>) -> Result<(), Error> {
        run::forward(device, self)
    }
}

impl Arguments for BackwardArguments {
    fn inputs_and_outputs(&mut self) -> Vec<(&'static str, &mut Matrix)> {
        let mut all: Vec<_> = self.x.as_mut().map(|x| ("x", x)).into_iter().collect();
        all.extend(self.dx.as_mut().map(|dx| ("dx", &mut dx.matrix)));
        for layer in &mut self.projections {
            all.extend([("w", &mut layer.w), ("dy", &mut layer.dy)]);
            all.extend(adapter(&mut layer.adapter));
            all.extend(layer.s.as_mut().map(|s| ("s", s)));
            all.extend(layer.da.as_mut().map(|da| ("da", &mut da.matrix)));
            all.extend(layer.db.as_mut().map(|db| ("db", &mut db.matrix)));
            all.extend(layer.dbias.as_mut().map(|dbias| ("dbias", &mut dbias.matrix)));
        }
        all
    }

    fn run<D: TestDevice>(&mut self, device: &Tested<D>) -> Result<(), Error> {
        run::backward(device, self)
    }
}

/// A merge, or an unmerge.
#[derive(Clone)]
struct WeightArguments {
    w: Matrix,
    adapter: AdapterArguments,
    remove: bool,
}

impl Arguments for WeightArguments {
    fn inputs_and_outputs(&mut self) -> Vec<(&'static str, &mut Matrix)> {
        let mut all = vec![("w", &mut self.w)];
        all.extend(adapter(&mut self.adapter));
        all
    }

    fn run<D: TestDevice>(&mut self, device: &Tested<D>) -> Result<(), Error> {
        let adapter = Some(&self.adapter);
        let (remove, add) = if self.remove { (adapter, None) } else { (None, adapter) };
        run::update_weights(device, &mut self.w, remove, add, None)
    }
}

#[derive(Clone)]
struct DeltaArguments {
    adapter: AdapterArguments,
    delta: Matrix,
}

impl Arguments for DeltaArguments {
    fn inputs_and_outputs(&mut self) -> Vec<(&'static str, &mut Matrix)> {
        let mut all = vec![("delta", &mut self.delta)];
        all.extend(adapter(&mut self.adapter));
        all
    }

    fn run<D: TestDevice>(&mut self, device: &Tested<D>) -> Result<(), Error> {
        run::delta(device, &self.adapter, &mut self.delta)
    }
}

fn problem() -> Problem {
    Problem::new(6, 10, 7, 3).bias(DType::F32).saving_s().arranged(Arrangements::Mixed(5))
}

fn forward() -> ForwardArguments {
    problem().forward()
}

fn backward() -> BackwardArguments {
    problem().backward(WriteMode::Accumulate)
}

fn weights(remove: bool) -> WeightArguments {
    WeightArguments { w: problem().w(0), adapter: problem().adapter(0), remove }
}

fn delta() -> DeltaArguments {
    DeltaArguments { adapter: problem().adapter(0), delta: problem().w(0) }
}

/// The same matrix with another shape and type.
fn resize(matrix: &mut Matrix, rows: usize, cols: usize, dtype: DType) {
    *matrix = Matrix::from_fn(dtype, rows, cols, matrix.arrangement, |i, j| (i + 2 * j) as f64);
}

/// One row or column more in each argument in turn: the error names that argument, and gives both shapes.
fn every_shape_is_checked<D: TestDevice, A: Arguments>(device: &Tested<D>, arguments: &A) {
    for name in arguments.clone().names() {
        for (more_rows, more_cols) in [(1, 0), (0, 1)] {
            let mut spoilt = arguments.clone();
            let matrix = spoilt.matrix(name);
            let (rows, cols, dtype) = (matrix.rows + more_rows, matrix.cols + more_cols, matrix.dtype());
            resize(matrix, rows, cols, dtype);
            let context = format!("{} `{name}` of shape [{rows}, {cols}]", D::NAME);
            let error = spoilt.error(device, &context);
            let message = error.to_string();
            let Error::ShapeMismatch { argument, found, reference, reference_shape, .. } = error else {
                panic!("{context}: {message}");
            };
            assert!(name == argument || name == reference, "{context} is not named: {message}");
            for (named, shape) in [(argument, found), (reference, reference_shape)] {
                let matrix = spoilt.matrix(named);
                assert_eq!(shape, Shape::new(matrix.rows, matrix.cols), "{context}: `{named}` in: {message}");
                assert!(
                    message.contains(&format!("`{named}`")) && message.contains(&shape.to_string()),
                    "{message}"
                );
            }
        }
    }
}

fn forward_shapes<D: TestDevice>(device: &Tested<D>) {
    every_shape_is_checked(device, &forward());
}

fn backward_shapes<D: TestDevice>(device: &Tested<D>) {
    every_shape_is_checked(device, &backward());
}

/// A fault in the last layer must be found before the first is written.
fn sibling_shapes<D: TestDevice>(device: &Tested<D>) {
    let mut forward = forward();
    let mut last = forward.projections[0].clone();
    resize(&mut last.adapter.b, 3, 8, DType::F32);
    forward.projections.push(last);
    assert!(matches!(
        forward.error(device, "forward of siblings"),
        Error::ShapeMismatch { argument: "b", reference: "w", .. }
    ));

    let mut backward = backward();
    let mut last = backward.projections[0].clone();
    resize(&mut last.dy, 6, 8, DType::F32);
    backward.projections.push(last);
    assert!(matches!(
        backward.error(device, "backward of siblings"),
        Error::ShapeMismatch { argument: "dy", reference: "w", .. }
    ));
}

fn weight_shapes<D: TestDevice>(device: &Tested<D>) {
    every_shape_is_checked(device, &weights(false));
    every_shape_is_checked(device, &weights(true));
}

fn delta_shapes<D: TestDevice>(device: &Tested<D>) {
    every_shape_is_checked(device, &delta());
}

/// f16 in an f32 layer.
fn every_type_is_checked<D: TestDevice, A: Arguments>(device: &Tested<D>, arguments: &A) {
    for name in arguments.clone().names() {
        let mut spoilt = arguments.clone();
        let matrix = spoilt.matrix(name);
        let (rows, cols) = (matrix.rows, matrix.cols);
        resize(matrix, rows, cols, DType::F16);
        let context = format!("{} `{name}` in f16", D::NAME);
        let error = spoilt.error(device, &context);
        let message = error.to_string();
        assert!(matches!(error, Error::DTypeMismatch { .. }), "{context}: {message}");
        assert!(message.contains(&format!("`{name}`")), "{context} is not named: {message}");
        assert!(message.contains("f16") && message.contains("f32"), "{context}: {message}");
    }
}

fn element_types<D: TestDevice>(device: &Tested<D>) {
    every_type_is_checked(device, &forward());
    every_type_is_checked(device, &backward());

    // An adapter in half precision on an f32 weight, and one in the other half type.
    for (weight, adapter) in [(DType::F32, DType::F16), (DType::F16, DType::Bf16)] {
        let problem = problem().dtypes((weight, adapter));
        let context = format!("{} {adapter} adapter on {weight}", D::NAME);
        for error in [
            problem.forward().error(device, &context),
            problem.backward(WriteMode::Overwrite).error(device, &context),
            WeightArguments { w: problem.w(0), adapter: problem.adapter(0), remove: false }
                .error(device, &context),
        ] {
            assert!(matches!(error, Error::DTypeMismatch { argument: "a", .. }), "{context}: {error}");
        }
    }
}

fn empty_dimensions<D: TestDevice>(device: &Tested<D>) {
    let rank = Problem::new(6, 10, 7, 0).saving_s();
    let inputs = Problem::new(6, 0, 7, 3);
    let outputs = Problem::new(6, 10, 0, 3);
    for (problem, what, named) in
        [(rank, "rank 0", "a"), (inputs, "no inputs", "w"), (outputs, "no outputs", "w")]
    {
        for error in [
            problem.forward().error(device, what),
            problem.backward(WriteMode::Overwrite).error(device, what),
            WeightArguments { w: problem.w(0), adapter: problem.adapter(0), remove: false }
                .error(device, what),
        ] {
            let Error::EmptyDimension { argument, found, .. } = error else {
                panic!("{} {what}: {error}", D::NAME)
            };
            assert_eq!(argument, named, "{} {what}: {error}", D::NAME);
            assert!(error.to_string().contains(&found.to_string()), "{error}");
        }
    }
}

fn views_past_their_buffer<D: TestDevice>(device: &Tested<D>) {
    for name in forward().names() {
        let mut arguments = forward();
        let matrix = arguments.matrix(name);
        let available = matrix.data.count();
        (matrix.rows, matrix.cols) = (40, 50);
        let context = format!("{} `{name}` past its buffer", D::NAME);
        let error = arguments.error(device, &context);
        let message = error.to_string();
        let Error::BufferTooShort { needed, available: found, .. } = error else {
            panic!("{context}: {message}")
        };
        assert!(needed >= 40 * 50 && found <= available, "{context}: {message}");
        assert!(message.contains(&needed.to_string()) && message.contains(&found.to_string()), "{message}");
    }
}

fn probabilities<D: TestDevice>(device: &Tested<D>) {
    for probability in [1.0, 1.5, -0.1, f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let dropout = Some(Dropout { probability, seed: 1, offset: 2 });
        let mut forward = ForwardArguments { dropout, ..forward() };
        let mut backward = BackwardArguments { dropout, ..backward() };
        for error in [forward.error(device, "probability"), backward.error(device, "probability")] {
            let message = error.to_string();
            assert!(
                matches!(error, Error::InvalidValue { argument: "dropout.probability", .. }),
                "{message}"
            );
            assert!(message.contains(&probability.to_string()), "{message}");
        }
    }
}

fn scales<D: TestDevice>(device: &Tested<D>) {
    for scale in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let (mut forward, mut backward) = (forward(), backward());
        let (mut merge, mut unmerge, mut delta) = (weights(false), weights(true), delta());
        forward.projections[0].adapter.scale = scale;
        backward.projections[0].adapter.scale = scale;
        merge.adapter.scale = scale;
        unmerge.adapter.scale = scale;
        delta.adapter.scale = scale;
        for error in [
            forward.error(device, "scale"),
            backward.error(device, "scale"),
            merge.error(device, "scale"),
            unmerge.error(device, "scale"),
            delta.error(device, "scale"),
        ] {
            let message = error.to_string();
            assert!(matches!(error, Error::InvalidValue { argument: "scale", .. }), "{message}");
            assert!(message.contains(&scale.to_string()), "{message}");
        }
    }
}

fn missing_arguments<D: TestDevice>(device: &Tested<D>) {
    let mut without_x = backward();
    without_x.x = None;
    let error = without_x.error(device, "dA without X");
    assert!(matches!(error, Error::MissingArgument { argument: "x", .. }), "{error}");

    without_x.projections[0].da = None;
    without_x.projections[0].s = None;
    let error = without_x.error(device, "dB without X and S");
    assert!(matches!(error, Error::MissingArgument { argument: "s", .. }), "{error}");
    assert!(error.to_string().contains("dB"), "{error}");
}

/// Records that the weight's own tests go through in depth; here, that they are refused in words, and W is left alone.
fn records<D: TestDevice>(device: &Tested<D>) {
    let recorded = |rows, cols| Recorded {
        shape: Shape::new(rows, cols),
        dtype: DType::F32,
        order: DeltaOrder::AscendingFma,
        adapter: Fingerprint(1),
        weight: Fingerprint(2),
        original: Fingerprint(3),
        checksum: Fingerprint(4),
    };
    let filled = |rows, cols| {
        RestoreRecord::from_parts(
            RestoreMethod::Codes,
            recorded(rows, cols),
            Codes::<D>::default(),
            Vec::new(),
        )
    };
    let empty = RestoreRecord::new(RestoreMethod::Codes);
    for (remove, mut record, words) in [
        (true, empty, ["empty", "merged"]),
        (true, filled(11, 7), ["[11, 7]", "[10, 7]"]),
        (false, filled(10, 7), ["already holds", "another merge"]),
    ] {
        let WeightArguments { mut w, adapter, .. } = weights(remove);
        let before = w.data.bytes().to_vec();
        let (taken, added) = if remove { (Some(&adapter), None) } else { (None, Some(&adapter)) };
        let error = run::update_weights(device, &mut w, taken, added, Some(&mut record)).unwrap_err();
        let message = error.to_string();
        assert!(matches!(error, Error::RecordMismatch(_)), "{} {message}", D::NAME);
        assert!(words.iter().all(|word| message.contains(word)), "{} {message}", D::NAME);
        assert!(w.data.bytes() == before, "{} W was written before: {message}", D::NAME);
    }
}

/// Overlapping rows and absurd sizes cannot even be described.
#[test]
fn overlapping_strides() {
    let error = Layout::strided(3, 5, 4).unwrap_err();
    assert!(matches!(error, Error::InvalidStride { stride: 4, .. }));
    let message = error.to_string();
    assert!(message.contains("[3, 5]") && message.contains('4') && message.contains("overlap"), "{message}");
    assert!(matches!(Layout::strided(usize::MAX, 2, 2).unwrap_err(), Error::InvalidStride { .. }));
    assert!(matches!(Layout::strided(1, usize::MAX, 1).unwrap_err(), Error::InvalidStride { .. }));
    assert!(Layout::strided(1, 5, 0).is_ok(), "a single row overlaps nothing");

    let mut values = [0.0f32; 14];
    assert!(MatrixRef::strided(&values, 3, 5, 4).is_err());
    assert!(matches!(
        MatrixRef::new(&values, 3, 5),
        Err(Error::BufferTooShort { needed: 15, available: 14, .. })
    ));
    assert!(matches!(MatrixMut::strided(&mut values, 2, 5, 10), Err(Error::BufferTooShort { .. })));
    assert!(MatrixMut::strided(&mut values, 2, 5, 9).is_ok(), "the last row needs no gap");
}
