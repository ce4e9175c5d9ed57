//! A layout that exists is a valid one, however extreme the numbers it was asked for with: what is accepted lies within
//! its buffer, computed in 128 bits, and can be planned and run without overflow.

use lora_kernels::cpu::Cpu;
use lora_kernels::cuda::F32Math;
use lora_kernels::cuda::engine::RawCodes;
use lora_kernels::cuda::plan::{Settings, backward::backward, forward::forward, frozen::frozen, weights};
use lora_kernels::cuda::target::Target;
use lora_kernels::memory::{Raw, RawBuffer};
use lora_kernels::ops::{Backward, BackwardSiblings, ForwardSiblings, Output};
use lora_kernels::restore::{RestoreMethod, RestoreRecord};
use lora_kernels::{
    Adapter, Backend, DType, Delta, Error, Forward, Frozen, Layout, MatrixMut, MatrixRef, Result, Shape,
    WeightUpdate,
};
use proptest::prelude::*;

const SETTINGS: Settings = Settings {
    target: Target { compute_capability: (8, 0), shared_bytes_per_block: 163 << 10 },
    f32_math: F32Math::Exact,
};

/// Small numbers, and those around powers of two and the largest.
fn extreme() -> impl Strategy<Value = usize> {
    let near = |anchor: usize| {
        (0..4usize, any::<bool>())
            .prop_map(move |(by, up)| if up { anchor.wrapping_add(by) } else { anchor.wrapping_sub(by) })
    };
    prop_oneof![
        3 => 0..9usize,
        4 => (0..usize::BITS).prop_flat_map(move |shift| near(1 << shift)),
        1 => near(usize::MAX),
        1 => near(isize::MAX as usize),
        1 => near(isize::MAX as usize / 2),
    ]
}

/// Elements from the first to the last, as they are.
fn span([rows, cols, stride]: [usize; 3]) -> u128 {
    match [rows, cols, stride].map(|number| number as u128) {
        [0, _, _] | [_, 0, _] => 0,
        [1, cols, _] => cols,
        [rows, cols, stride] => (rows - 1) * stride + cols,
    }
}

fn fits_memory(numbers: [usize; 3], bytes: usize) -> bool {
    let largest = span(numbers).max(numbers[0] as u128).max(numbers[1] as u128);
    largest <= isize::MAX as u128 / bytes as u128
}

/// Offsets of all elements of a tensor, in order of its indices.
fn offsets(dims: &[usize], strides: &[usize]) -> Vec<usize> {
    dims.iter().zip(strides).fold(vec![0], |offsets, (&dim, &stride)| {
        offsets.iter().flat_map(|offset| (0..dim).map(move |index| offset + index * stride)).collect()
    })
}

/// A layout of this shape whose elements lie where a tensor's do.
fn any_layout(rows: usize, cols: usize, of_tensor: &[usize]) -> Option<Layout> {
    let orientations = [(rows, cols, false), (cols, rows, true)];
    orientations.into_iter().find_map(|(rows, cols, transposed)| {
        let repeated = Layout::repeated(rows, cols).ok();
        let layouts = repeated
            .into_iter()
            .chain((0..200).filter_map(|stride| Layout::strided(rows, cols, stride).ok()));
        let mut layouts = layouts.map(|layout| if transposed { layout.t() } else { layout });
        layouts.find(|layout| offsets_of(*layout) == of_tensor)
    })
}

fn offsets_of(layout: Layout) -> Vec<usize> {
    let strides = [layout.row_stride(), layout.col_stride()];
    offsets(&[layout.rows(), layout.cols()], &strides)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    /// Every tensor that is a matrix becomes one, and no other does.
    #[test]
    fn a_tensor_becomes_a_matrix_exactly_if_it_lies_as_one(
        dims in proptest::collection::vec(0..4usize, 0..5),
        contiguous in any::<bool>(),
        transposed in any::<bool>(),
        changed in proptest::collection::vec((0..5usize, 0..9usize), 0..3),
    ) {
        // The strides of a packed tensor, or of a transposed one, with some of them replaced.
        let mut strides = vec![1; dims.len()];
        for index in (1..dims.len()).rev() {
            strides[index - 1] = strides[index] * dims[index].max(1);
        }
        if transposed && dims.len() == 2 {
            strides = vec![1, dims[0].max(1)];
        }
        if !contiguous {
            for (index, stride) in changed {
                if let Some(changed) = strides.get_mut(index) {
                    *changed = stride;
                }
            }
        }
        let cols = dims.last().copied().unwrap_or(1);
        let rows = dims.iter().rev().skip(1).product();
        let expected = offsets(&dims, &strides);
        match Layout::from_strides(&dims, &strides) {
            Ok(layout) => {
                prop_assert_eq!(layout.shape(), Shape::new(rows, cols));
                prop_assert_eq!(offsets_of(layout), expected);
            }
            Err(error) => {
                let typed = matches!(error, Error::NotAMatrix { .. } | Error::InvalidStride { .. });
                prop_assert!(typed, "{error}");
                prop_assert!(!contiguous, "{error}");
                prop_assert_eq!(any_layout(rows, cols, &expected), None, "{:?} {:?}", dims, strides);
            }
        }
    }

    #[test]
    fn extreme_tensors_are_refused_or_lie_within_memory(
        dims in proptest::collection::vec(extreme(), 0..4),
        strides in proptest::collection::vec(extreme(), 0..4),
    ) {
        if let Ok(layout) = Layout::from_strides(&dims, &strides) {
            let elements = dims.iter().map(|&dim| dim as u128).fold(1u128, u128::saturating_mul);
            prop_assert_eq!(layout.rows() as u128 * layout.cols() as u128, elements);
            prop_assert!(layout.span() <= isize::MAX as usize / 2);
        }
    }

    /// The two parts have all elements and share none.
    #[test]
    fn columns_are_split_into_disjoint_matrices(
        (rows, cols, at) in (0..5usize, 0..7usize, 0..9usize),
        gap in 0..3usize,
        transposed in any::<bool>(),
    ) {
        let mut values = vec![0.0f32; 64];
        let view = match transposed {
            false => MatrixMut::strided(&mut values, rows, cols, cols + gap),
            true => MatrixMut::strided(&mut values, cols, rows, rows + gap).map(MatrixMut::t),
        };
        let (left, right) = (vec![1.0f32; rows * at], vec![2.0f32; rows * cols.saturating_sub(at)]);
        match view.unwrap().split_cols(at) {
            Err(error) => {
                let typed = matches!(error, Error::InvalidValue { argument: "at", .. });
                prop_assert!(at > cols && typed);
                return Ok(());
            }
            Ok([mut one, mut two]) => {
                prop_assert!(at <= cols);
                prop_assert!(one.contiguous_mut().is_none(), "a slice would hold elements of both");
                // At once, as two threads would.
                std::thread::scope(|scope| {
                    scope.spawn(|| one.copy_from(MatrixRef::new(&left, rows, at).unwrap()).unwrap());
                    scope.spawn(|| two.copy_from(MatrixRef::new(&right, rows, cols - at).unwrap()).unwrap());
                });
            }
        }
        let mut expected = vec![0.0f32; 64];
        for i in 0..rows {
            for j in 0..cols {
                let place = if transposed { j * (rows + gap) + i } else { i * (cols + gap) + j };
                expected[place] = if j < at { 1.0 } else { 2.0 };
            }
        }
        prop_assert_eq!(values, expected);
    }

    #[test]
    fn a_layout_is_accepted_exactly_if_it_is_one(numbers in [extreme(), extreme(), extreme()]) {
        let [rows, cols, stride] = numbers;
        let overlap = rows > 1 && stride < cols;
        match Layout::strided(rows, cols, stride) {
            Err(error) => {
                let invalid = matches!(error, Error::InvalidStride { .. });
                prop_assert!(invalid);
                prop_assert!(overlap || !fits_memory(numbers, 2) || (rows > 1 && cols == 0), "{error}");
            }
            Ok(layout) => {
                prop_assert!(!overlap && fits_memory(numbers, 2));
                prop_assert_eq!(layout.span() as u128, span(numbers));
                for layout in [layout, layout.t()] {
                    if let (Some(row), Some(col)) = (layout.rows().checked_sub(1), layout.cols().checked_sub(1)) {
                        let last = row * layout.row_stride() + col * layout.col_stride();
                        prop_assert_eq!(last + 1, layout.span());
                        prop_assert!(layout.rows() * layout.cols() <= layout.span());
                    }
                }
            }
        }
        let packed = Layout::packed(rows, cols);
        prop_assert_eq!(packed.is_ok(), fits_memory([rows, cols, cols], 2));
    }

    /// Views of a real slice: what is accepted can be read and written everywhere, and nothing beside it is.
    #[test]
    fn a_view_of_a_slice_lies_within_it(
        numbers in [extreme(), extreme(), extreme()],
        len in 0..40usize,
        transposed in any::<bool>(),
    ) {
        let [rows, cols, stride] = numbers;
        let mut values = vec![9.0f32; len];
        let view = MatrixRef::strided(&values, rows, cols, stride);
        let fits = Layout::strided(rows, cols, stride).is_ok() && span(numbers) <= len as u128;
        prop_assert_eq!(view.is_ok(), fits);
        prop_assert_eq!(MatrixMut::strided(&mut values, rows, cols, stride).is_ok(), fits);
        prop_assert_eq!(
            MatrixRef::new(&values, rows, cols).is_ok(),
            Layout::packed(rows, cols).is_ok() && span([rows, cols, cols]) <= len as u128
        );
        if !fits || rows == 0 || cols == 0 {
            return Ok(());
        }
        let shape = if transposed { [cols, rows] } else { [rows, cols] };
        let (a, b) = (vec![1.0f32; shape[0]], vec![1.0f32; shape[1]]);
        let adapter = Adapter {
            a: MatrixRef::strided(&a, shape[0], 1, if shape[0] > 1 { 1 } else { stride }).unwrap(),
            b: MatrixRef::strided(&b, 1, shape[1], stride).unwrap(),
            scale: 1.0,
        };
        let view = MatrixMut::strided(&mut values, rows, cols, stride).unwrap();
        let w = if transposed { view.t() } else { view };
        let mut record = RestoreRecord::new(RestoreMethod::Codes);
        Cpu::new().update_weights(WeightUpdate::merge(w, adapter).record(&mut record)).unwrap();
        let view = MatrixMut::strided(&mut values, rows, cols, stride).unwrap();
        let w = if transposed { view.t() } else { view };
        Cpu::new().delta(Delta { adapter, delta: w }).unwrap();
        let inside = |index: usize| {
            if rows == 1 { index < cols } else { index / stride < rows && index % stride < cols }
        };
        for (index, value) in values.iter().enumerate() {
            prop_assert_eq!(*value, if inside(index) { 1.0 } else { 9.0 }, "element {}", index);
        }
    }

    /// Bare addresses name buffers of any length, so that operations of any size can be asked for.
    #[test]
    fn operations_of_any_size_are_planned_or_refused(
        [rows, inputs, outputs, rank] in [extreme(), extreme(), extreme(), extreme()],
        transposed in any::<[bool; 4]>(),
        dtype in prop_oneof![Just(DType::F32), Just(DType::Bf16)],
        siblings in 0..3usize,
    ) {
        let view = |rows: usize, cols: usize, transposed: bool| -> Result<(RawBuffer, Layout)> {
            let layout = match transposed {
                true => Layout::packed(cols, rows)?.t(),
                false => Layout::packed(rows, cols)?,
            };
            let buffer = RawBuffer { address: 1 << 20, len: usize::MAX, dtype };
            let shape = if transposed { [cols, rows] } else { [rows, cols] };
            let accepted = MatrixRef::<Raw>::from_buffer(buffer, layout);
            assert_eq!(accepted.is_ok(), span([shape[0], shape[1], shape[1]]) <= isize::MAX as u128 / dtype.size() as u128);
            accepted.map(|_| (buffer, layout))
        };
        let all = || -> Result<_> {
            Ok([
                view(rows, inputs, transposed[0])?,
                view(inputs, outputs, transposed[1])?,
                view(inputs, rank, transposed[2])?,
                view(rank, outputs, transposed[3])?,
                view(rows, outputs, transposed[0])?,
            ])
        };
        let Ok([x, w, a, b, y]) = all() else { return Ok(()) };
        let read = |(buffer, layout)| MatrixRef::<Raw>::from_buffer(buffer, layout).unwrap();
        let write = |(buffer, layout)| MatrixMut::<Raw>::from_buffer(buffer, layout).unwrap();
        let adapter = || Adapter { a: read(a), b: read(b), scale: 1.0 };
        let mut op: ForwardSiblings<'_, Raw> = Forward {
            x: read(x), w: read(w), adapter: adapter(), bias: None, dropout: None, y: write(y), s: None,
        }.into();
        for _ in 0..siblings {
            let more: ForwardSiblings<'_, Raw> = Forward {
                x: read(x), w: read(w), adapter: adapter(), bias: None, dropout: None, y: write(y), s: None,
            }.into();
            op.projections.extend(more.projections);
        }
        if op.check().is_ok() {
            let total = rank as u128 * (siblings as u128 + 1);
            prop_assert!(total * (rows.max(inputs).max(outputs) as u128) < usize::MAX as u128);
            for base in [0, 1 << 40] {
                let _ = forward(&op, SETTINGS, base);
            }
        }
        let op: BackwardSiblings<'_, Raw> = Backward {
            x: Some(read(x)), w: read(w), adapter: adapter(), dropout: None, dy: read(y), s: None,
            dx: Some(Output::overwrite(write(x))), da: Some(Output::overwrite(write(a))),
            db: Some(Output::overwrite(write(b))), dbias: None,
        }.into();
        if op.check().is_ok() {
            for base in [0, 1 << 40] {
                let _ = backward(&op, SETTINGS, base);
            }
        }
        let repeated = Layout::repeated(rows, inputs).and_then(|layout| MatrixRef::<Raw>::from_buffer(x.0, layout));
        for x in [Ok(read(x)), repeated].into_iter().flatten() {
            let op = Frozen { x, w: read(w), bias: None, y: Output::overwrite(write(y)) };
            if op.check().is_ok() {
                for base in [0, 1 << 40] {
                    let _ = frozen(&op, SETTINGS, base);
                }
            }
        }
        let op: WeightUpdate<'_, Raw, RawCodes> = WeightUpdate::merge(write(w), adapter()).report();
        if op.check().is_ok() {
            for method in [RestoreMethod::Codes, RestoreMethod::Backup] {
                let memory = weights::update_memory(&op, Some(method), 7, 0).map(|(memory, _)| memory);
                let _ = memory.and_then(|memory| weights::update(&op, None, &memory, true));
            }
        }
    }
}

/// Rows times stride wraps to 0 in 64 bits: once accepted over two floats, and then written out of bounds.
#[test]
fn a_product_that_wraps_is_refused() {
    let rows = (1 << (usize::BITS - 1)) + 1;
    assert!(matches!(Layout::packed(rows, 2), Err(Error::InvalidStride { .. })));
    let mut values = [0.0f32; 2];
    assert!(MatrixMut::new(&mut values, rows, 2).is_err());
    assert!(MatrixMut::strided(&mut values, 2, 2, usize::MAX).is_err());
    assert!(MatrixMut::new(&mut [0.0f32; 0], usize::MAX, 0).is_err(), "no columns, but too many rows");
}

/// S \[M, R\] is no argument, so that M and R may be large without a large argument.
#[test]
fn products_larger_than_memory_are_refused() {
    let large = 1 << (usize::BITS / 2 + 1);
    let view = |rows, cols| {
        let buffer = RawBuffer { address: 256, len: large, dtype: DType::Bf16 };
        MatrixRef::<Raw>::from_buffer(buffer, Layout::packed(rows, cols).unwrap()).unwrap()
    };
    let op: ForwardSiblings<'_, Raw> = Forward {
        x: view(large, 1),
        w: view(1, 1),
        adapter: Adapter { a: view(1, large), b: view(large, 1), scale: 1.0 },
        bias: None,
        dropout: None,
        y: MatrixMut::from_buffer(
            RawBuffer { address: 256, len: large, dtype: DType::Bf16 },
            Layout::packed(large, 1).unwrap(),
        )
        .unwrap(),
        s: None,
    }
    .into();
    let error = op.check().unwrap_err().to_string();
    assert!(error.contains("larger than memory") && error.contains(&large.to_string()), "{error}");
}

/// Not a hang: a matrix of no columns has rows, but no work.
#[test]
fn layers_without_projections_do_nothing() {
    let x = MatrixRef::new(&[0.0f32; 0], isize::MAX as usize / 2, 0).unwrap();
    Cpu::new().forward_siblings(ForwardSiblings { x, dropout: None, projections: Vec::new() }).unwrap();
}

#[test]
fn sizes_of_records_do_not_wrap() {
    let bytes =
        |method, rows, cols| RestoreRecord::<Vec<u8>>::code_bytes(method, Shape::new(rows, cols), DType::F32);
    assert_eq!(bytes(RestoreMethod::Codes, 3, 5), 15);
    assert_eq!(bytes(RestoreMethod::Backup, 3, 5), 60);
    let half = 1 << (usize::BITS / 2);
    assert_eq!(bytes(RestoreMethod::Codes, half, half), usize::MAX);
    assert_eq!(bytes(RestoreMethod::Backup, half, half / 4), usize::MAX);
}
