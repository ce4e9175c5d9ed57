//! Layers whose W, A and B are parts of a padded weight, and whose S lies beside X.

use crate::devices::device_tests;
use crate::{backward, forward};
use half::{bf16, f16};
use lora_kernels::memory::{HostMut, HostRef};
use lora_kernels::ops::WriteMode;
use lora_kernels::padded::{InputWithRoom, PaddedWeight};
use lora_kernels::restore::{RestoreMethod, RestoreRecord};
use lora_kernels::{
    Adapter, Backend, Conversion, DType, Device, Error, Layout, MatrixMut, MatrixRef, WeightUpdate,
};
use lora_oracle::device::{Codes, Roundings, TestDevice, Tested};
use lora_oracle::expect::{self, assert_close, assert_exact};
use lora_oracle::matrix::{Arrangement, Matrix};
use lora_oracle::problem::{Arrangements, DTYPES, Problem};
use lora_oracle::run::{self, Place, packed_copy};
use lora_oracle::shapes::{ragged, siblings, single_layers};

device_tests!(
    forward_of_every_shape,
    backward_of_every_shape,
    siblings_share_the_room,
    outputs_are_rounded_once,
    small_integers_are_exact,
    gradients_of_parameters_in_f32,
    a_room_is_used_again,
    merged_and_restored,
    conversions_between_all_types,
    conversions_keep_bits_of_one_type,
    what_does_not_fit_is_refused,
);

const PLACES: [Place; 2] = [Place::Padded, Place::BesideX];
const MODES: [WriteMode; 2] = [WriteMode::Overwrite, WriteMode::Accumulate];

type Memory<D> = <<D as TestDevice>::Device as Backend>::Memory;
type Buffer<D> = <<D as TestDevice>::Device as Device>::Buffer;

/// Both ways in which W can be stored.
fn arrangements(index: usize) -> Arrangements {
    [Arrangements::Packed, Arrangements::Peft, Arrangements::Mixed(index as u64)][index % 3]
}

fn forward_of_every_shape<D: TestDevice>(device: &Tested<D>) {
    for (index, shape) in single_layers(D::SIZE).into_iter().enumerate() {
        for (type_index, dtypes) in DTYPES.into_iter().enumerate() {
            for place in PLACES {
                let problem = shape.clone().dtypes(dtypes).saving_s().placed(place);
                let problem = problem.arranged(arrangements(index + type_index));
                let problem = if index % 2 == 0 { problem.dropout(0.25) } else { problem };
                let problem = if index % 4 == 3 { problem.bias(dtypes.0) } else { problem };
                forward::check(device, &problem);
            }
        }
    }
}

fn backward_of_every_shape<D: TestDevice>(device: &Tested<D>) {
    for (index, shape) in single_layers(D::SIZE).into_iter().enumerate() {
        for (type_index, dtypes) in DTYPES.into_iter().enumerate() {
            let problem = shape.clone().dtypes(dtypes).bias(dtypes.0).placed(Place::Padded);
            let problem = problem.arranged(arrangements(index + type_index));
            let problem = if index % 3 == 0 { problem.saving_s() } else { problem };
            let problem = if index % 4 == 3 { problem.dropout(0.25) } else { problem };
            backward::check(device, &problem, MODES[index % 2]);
        }
    }
}

fn siblings_share_the_room<D: TestDevice>(device: &Tested<D>) {
    for dtypes in DTYPES {
        for (index, place) in PLACES.into_iter().enumerate() {
            let problem = siblings(D::SIZE).dtypes(dtypes).placed(place).arranged(arrangements(index));
            forward::check(device, &problem);
            forward::check(device, &problem.clone().saving_s().dropout(0.25));
            for mode in MODES {
                backward::check(device, &problem, mode);
                backward::check(device, &problem.clone().saving_s(), mode);
            }
        }
    }
}

/// Bounds for one rounding of Y and dX, which a write of the adapter's part before the frozen product would break.
fn outputs_are_rounded_once<D: TestDevice>(device: &Tested<D>) {
    let roundings = Roundings { adapters: true, partial_sums: false };
    for dtype in [DType::F16, DType::Bf16] {
        // S·B and dS·Aᵀ are much larger than the sums, which lose them again in part.
        let problem = Problem { scale: 8.0, ..ragged(D::SIZE) }.dtypes((dtype, dtype)).placed(Place::Padded);
        let context = format!("{} {problem:?}", D::NAME);
        let mut arguments = problem.forward();
        run::forward(device, &mut arguments).unwrap();
        assert_close(
            &context,
            "y",
            &arguments.projections[0].y,
            &expect::forward(&arguments, roundings)[0].y,
        );
        for mode in MODES {
            let mut arguments = problem.backward(mode);
            let expected = expect::backward(&arguments, roundings);
            run::backward(device, &mut arguments).unwrap();
            assert_close(&context, "dx", &arguments.dx.unwrap().matrix, &expected.dx);
        }
    }
}

fn small_integers_are_exact<D: TestDevice>(device: &Tested<D>) {
    for (index, shape) in single_layers(D::SIZE).into_iter().enumerate() {
        for dtypes in DTYPES {
            let problem = shape.clone().dtypes(dtypes).small_integers().arranged(arrangements(index));
            let problem = problem.placed(PLACES[index % 2]);
            for problem in [problem.clone(), problem.saving_s().dropout(0.5)] {
                let context = format!("{} {problem:?}", D::NAME);
                let mut arguments = problem.forward();
                run::forward(device, &mut arguments).unwrap_or_else(|error| panic!("{context}: {error}"));
                let expected = expect::forward(&arguments, D::ROUNDINGS);
                assert_exact(&context, "y", &arguments.projections[0].y, &expected[0].y);
                let mut arguments = problem.backward(WriteMode::Overwrite);
                backward::check_arguments(device, &mut arguments, &context, assert_exact);
            }
        }
    }
}

/// Parameters in a padded weight have the layer's type; their gradients need not be rounded to it.
fn gradients_of_parameters_in_f32<D: TestDevice>(device: &Tested<D>) {
    for dtype in [DType::F16, DType::Bf16] {
        let problem = ragged(D::SIZE).dtypes((dtype, dtype)).placed(Place::Padded);
        let mut arguments = problem.backward(WriteMode::Overwrite);
        let layer = &mut arguments.projections[0];
        for gradient in [&mut layer.da, &mut layer.db] {
            let matrix = &mut gradient.as_mut().unwrap().matrix;
            *matrix = Matrix::poisoned(DType::F32, matrix.rows, matrix.cols, matrix.arrangement);
        }
        let context = format!("{} f32 gradients of {dtype}", D::NAME);
        backward::check_arguments(device, &mut arguments, &context, assert_close);
    }
}

/// A row-major matrix on the device.
struct Uploaded<D: TestDevice> {
    buffer: Buffer<D>,
    layout: Layout,
}

impl<D: TestDevice> Uploaded<D> {
    fn new(device: &Tested<D>, matrix: &Matrix) -> Self {
        assert_eq!(matrix.arrangement, Arrangement::default());
        let layout = Layout::packed(matrix.rows, matrix.cols).expect("small");
        Uploaded { buffer: device.upload(matrix.data.host()).expect("little"), layout }
    }

    fn view(&self) -> MatrixRef<'_, Memory<D>> {
        D::Device::view(&self.buffer, 0, self.layout).expect("it fits")
    }
}

/// Whole numbers that differ from place to place.
fn numbers(dtype: DType, rows: usize, cols: usize, seed: usize) -> Matrix {
    let value = |i: usize, j: usize| ((i * 7 + j * 3 + seed) % 13) as f64 - 6.0;
    Matrix::from_fn(dtype, rows, cols, Arrangement::default(), value)
}

/// The bits of a matrix on the device.
fn bits<D: TestDevice>(device: &Tested<D>, matrix: MatrixRef<'_, Memory<D>>) -> Vec<u32> {
    packed_copy(device, matrix).all_bits()
}

/// Adapters of several ranks one after the other; W stays what it is.
fn a_room_is_used_again<D: TestDevice>(device: &Tested<D>) {
    let w = numbers(DType::Bf16, 9, 7, 1);
    let on_device = Uploaded::<D>::new(device, &w);
    for transposed in [false, true] {
        let view = if transposed { on_device.view().t() } else { on_device.view() };
        let mut weight = PaddedWeight::new(&**device, view, 4).unwrap();
        assert!(matches!(weight.adapter(), Err(Error::MissingArgument { .. })));
        assert!(matches!(weight.parts_mut(), Err(Error::MissingArgument { .. })));
        for (rank, dtype) in [(2, DType::F32), (4, DType::Bf16), (1, DType::F32)] {
            let a = numbers(dtype, view.rows(), rank, 2);
            let b = numbers(dtype, rank, view.cols(), 3);
            let (a_there, b_there) = (Uploaded::<D>::new(device, &a), Uploaded::<D>::new(device, &b));
            let adapter = Adapter { a: a_there.view(), b: b_there.view(), scale: 0.5 };
            weight.write_adapter(device, &adapter).unwrap();
            let found = weight.adapter().unwrap();
            assert_eq!((found.rank(), found.scale, found.dtype()), (rank, 0.5, DType::Bf16));
            for (found, expected) in [(found.a, &a), (found.b, &b)] {
                let found = packed_copy(device, found);
                assert!(
                    (0..expected.rows)
                        .all(|i| { (0..expected.cols).all(|j| found.get(i, j) == expected.get(i, j)) })
                );
            }
            assert_eq!(bits(device, weight.w().unwrap()), bits(device, view), "W");
        }
        // 9 + 4 rows of 64, the last of which ends with the 7 + 4 that it holds.
        let expected = 2 * ((9 + 3) * 64 + 11);
        assert_eq!(
            (weight.bytes(), weight.overhead_bytes()),
            (expected, expected - 2 * 9 * 7),
            "{transposed}"
        );
        assert_eq!((weight.room(), weight.dtype()), (4, DType::Bf16));
    }
}

/// Merging into a padded weight gives the bits of merging into any other, leaves A and B alone, and a record restores it.
fn merged_and_restored<D: TestDevice>(device: &Tested<D>) {
    for (dtype, transposed) in [(DType::Bf16, false), (DType::F16, true), (DType::F32, true)] {
        for method in [RestoreMethod::Codes, RestoreMethod::Backup] {
            let problem = ragged(D::SIZE).dtypes((dtype, DType::F32));
            let (w, adapter) = (problem.w(0), problem.adapter(0));
            let mut plain = w.clone();
            run::update_weights(device, &mut plain, None, Some(&adapter), None).unwrap();

            let stored = if transposed { transpose(&w) } else { w.clone() };
            let (w, a, b) = (
                Uploaded::<D>::new(device, &stored),
                Uploaded::<D>::new(device, &adapter.a),
                Uploaded::<D>::new(device, &adapter.b),
            );
            let given = if transposed { w.view().t() } else { w.view() };
            let adapter = Adapter { a: a.view(), b: b.view(), scale: adapter.scale };
            let mut weight = PaddedWeight::new(&**device, given, adapter.rank() + 1).unwrap();
            weight.write_adapter(device, &adapter).unwrap();
            let [a_before, b_before] = [weight.adapter().unwrap().a, weight.adapter().unwrap().b];
            let before = [bits(device, given), bits(device, a_before), bits(device, b_before)];
            let mut record = RestoreRecord::<Codes<D>>::new(method);
            let merge = WeightUpdate::merge(weight.w_mut().unwrap(), adapter).record(&mut record);
            device.update_weights(merge).unwrap();
            assert_eq!(bits(device, weight.w().unwrap()), plain.all_bits(), "{dtype} {method:?}");
            let unmerge = WeightUpdate::unmerge(weight.w_mut().unwrap(), adapter).record(&mut record);
            device.update_weights(unmerge).unwrap();
            let now = weight.adapter().unwrap();
            let after = [weight.w().unwrap(), now.a, now.b].map(|matrix| bits(device, matrix));
            assert_eq!(after, before, "{dtype} {method:?}");
        }
    }
    // The parts can be borrowed together, so that the adapter in the room is merged into the weight beside it.
    let w = Uploaded::<D>::new(device, &numbers(DType::F32, 5, 6, 1));
    let (a, b) = (numbers(DType::F32, 5, 2, 2), numbers(DType::F32, 2, 6, 3));
    let (a_there, b_there) = (Uploaded::<D>::new(device, &a), Uploaded::<D>::new(device, &b));
    let mut weight = PaddedWeight::new(&**device, w.view(), 2).unwrap();
    let adapter = Adapter { a: a_there.view(), b: b_there.view(), scale: 2.0 };
    weight.write_adapter(device, &adapter).unwrap();
    {
        let mut parts = weight.parts_mut().unwrap();
        let own = Adapter { a: parts.a.as_ref(), b: parts.b.as_ref(), scale: 2.0 };
        device.update_weights(WeightUpdate::merge(parts.w.reborrow(), own)).unwrap();
    }
    let mut plain = numbers(DType::F32, 5, 6, 1);
    let adapter = run::AdapterArguments { a, b, scale: 2.0 };
    run::update_weights(device, &mut plain, None, Some(&adapter), None).unwrap();
    assert_eq!(bits(device, weight.w().unwrap()), plain.all_bits());
}

fn transpose(matrix: &Matrix) -> Matrix {
    Matrix::from_fn(matrix.dtype(), matrix.cols, matrix.rows, Arrangement::default(), |i, j| matrix.get(j, i))
}

fn conversions_between_all_types<D: TestDevice>(device: &Tested<D>) {
    let types = [DType::F32, DType::F16, DType::Bf16];
    let arrangements = [
        Arrangement::default(),
        Arrangement { transposed: true, gap: 3, ..Arrangement::default() },
        Arrangement { gap: 1, offset: 1, ..Arrangement::default() },
    ];
    for (from_index, from) in types.into_iter().enumerate() {
        for (to_index, to) in types.into_iter().enumerate() {
            for (rows, cols) in [(1, 1), (33, 70), (70, 5)] {
                let value = |i: usize, j: usize| f64::from((i * 37 + j * 11) as f32 % 97.0).sin();
                let source = Matrix::from_fn(from, rows, cols, arrangements[from_index], value);
                let mut target = Matrix::poisoned(to, rows, cols, arrangements[(from_index + to_index) % 3]);
                run::convert(device, &source, &mut target).unwrap();
                for (i, j) in (0..rows).flat_map(|i| (0..cols).map(move |j| (i, j))) {
                    let expected = lora_oracle::matrix::nearest(to, source.get(i, j));
                    assert_eq!(target.get(i, j), expected, "{}: {from} to {to} [{i}, {j}]", D::NAME);
                }
            }
        }
    }
}

/// NaNs of any bits, infinities, zeros of both signs and subnormal numbers.
fn conversions_keep_bits_of_one_type<D: TestDevice>(device: &Tested<D>) {
    let patterns: [u16; 8] = [0x7FC1, 0xFFFF, 0x7F80, 0xFF80, 0x8000, 0x0001, 0x7C01, 0xFC00];
    let wide: Vec<u32> = patterns.iter().map(|&bits| u32::from(bits) << 16 | 1).collect();
    let floats: Vec<f32> = wide.iter().map(|&bits| f32::from_bits(bits)).collect();
    let brains = patterns.map(bf16::from_bits);
    let halves = patterns.map(f16::from_bits);
    let layout = Layout::packed(2, 4).expect("small");
    for elements in [HostRef::new(&floats), HostRef::new(&brains), HostRef::new(&halves)] {
        let source = device.upload(elements).unwrap();
        let mut target = device.allocate(elements.dtype(), 8).unwrap();
        let conversion = Conversion {
            source: D::Device::view(&source, 0, layout).unwrap(),
            target: D::Device::view_mut(&mut target, 0, Layout::packed(4, 2).expect("small").t()).unwrap(),
        };
        device.convert(conversion).unwrap();
        let place = |index: usize| index % 4 * 2 + index / 4;
        match elements.dtype() {
            DType::F32 => {
                let mut found = [0.0f32; 8];
                device.download(&target, 0, HostMut::new(&mut found)).unwrap();
                assert!((0..8).all(|index| found[place(index)].to_bits() == wide[index]), "{}", D::NAME);
            }
            DType::F16 => {
                let mut found = [f16::ZERO; 8];
                device.download(&target, 0, HostMut::new(&mut found)).unwrap();
                assert!((0..8).all(|index| found[place(index)].to_bits() == patterns[index]), "{}", D::NAME);
            }
            DType::Bf16 => {
                let mut found = [bf16::ZERO; 8];
                device.download(&target, 0, HostMut::new(&mut found)).unwrap();
                assert!((0..8).all(|index| found[place(index)].to_bits() == patterns[index]), "{}", D::NAME);
            }
        }
    }
}

fn what_does_not_fit_is_refused<D: TestDevice>(device: &Tested<D>) {
    let w = Uploaded::<D>::new(device, &numbers(DType::Bf16, 5, 6, 1));
    let (a, b) = (numbers(DType::Bf16, 5, 3, 2), numbers(DType::Bf16, 3, 6, 3));
    let (a, b) = (Uploaded::<D>::new(device, &a), Uploaded::<D>::new(device, &b));
    let adapter = Adapter { a: a.view(), b: b.view(), scale: 1.0 };
    let refused = |result: Result<(), Error>, reason: &str| {
        let error = result.expect_err(reason).to_string();
        assert!(error.contains(reason), "{error}");
    };
    refused(PaddedWeight::new(&**device, w.view(), 0).map(|_| ()), "the largest rank of an adapter");
    refused(PaddedWeight::new(&**device, w.view(), usize::MAX).map(|_| ()), "larger than memory");
    let empty = w.view().split_cols(0).unwrap()[0];
    refused(PaddedWeight::new(&**device, empty, 1).map(|_| ()), "at least one input and one output");
    let mut weight = PaddedWeight::new(&**device, w.view(), 2).unwrap();
    refused(weight.write_adapter(device, &adapter), "3, with room for 2");
    assert!(weight.adapter().is_err(), "nothing was written");
    let mut weight = PaddedWeight::new(&**device, w.view(), 3).unwrap();
    let turned = Adapter { a: b.view().t(), b: a.view().t(), scale: 1.0 };
    refused(weight.write_adapter(device, &turned), "`a` has shape [6, 3]");
    let infinite = Adapter { scale: f32::INFINITY, ..adapter };
    refused(weight.write_adapter(device, &infinite), "finite");
    assert!(weight.adapter().is_err(), "nothing was written");

    let mut buffer = device.allocate(DType::Bf16, 24).unwrap();
    refused(InputWithRoom::new(packed::<D>(&mut buffer, 4), 4).map(|_| ()), "room beside X");
    let mut input = InputWithRoom::new(packed::<D>(&mut buffer, 6), 4).unwrap();
    assert_eq!((input.room(), input.x().cols(), input.x_mut().cols()), (2, 4, 4));
    for rank in [0, 3] {
        refused(input.split(rank).map(|_| ()), "with room for 2");
    }
    // Rows of X and S that would reach into the next ones.
    let overlapping = Layout::strided(4, 6, 5).expect_err("overlapping rows").to_string();
    assert!(overlapping.contains("rows would overlap"), "{overlapping}");
    let mut other = device.allocate(DType::Bf16, 24).unwrap();
    let mismatched = Conversion { source: w.view(), target: packed::<D>(&mut other, 6) };
    refused(device.convert(mismatched), "`target` has shape [4, 6]");
}

/// 24 elements as a matrix of so many columns.
fn packed<D: TestDevice>(buffer: &mut Buffer<D>, cols: usize) -> MatrixMut<'_, Memory<D>> {
    D::Device::view_mut(buffer, 0, Layout::packed(24 / cols, cols).expect("small")).expect("it fits")
}
