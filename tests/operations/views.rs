//! Views that frameworks hold: a row that is repeated, several matrices in one buffer.

use crate::devices::device_tests;
use crate::{backward, forward};
use lora_kernels::memory::{HostMut, HostRef};
use lora_kernels::ops::{
    BackwardProjection, BackwardSiblings, ForwardSiblings, Output, Projection, WriteMode,
};
use lora_kernels::restore::{RestoreMethod, RestoreRecord};
use lora_kernels::{Adapter, Backend, DType, Device, Layout, MatrixRef, Result};
use lora_oracle::device::{Size, TestDevice, Tested};
use lora_oracle::matrix::{Arrangement, Matrix};
use lora_oracle::problem::{Arrangements, DTYPES};
use lora_oracle::run::{self, AdapterArguments};
use lora_oracle::shapes::ragged;

device_tests!(
    repeated_rows_and_columns_are_read,
    repeated_factors_are_merged,
    projections_share_a_buffer,
    buffers_are_copied_and_viewed_in_parts,
);

fn repeated_rows_and_columns_are_read<D: TestDevice>(device: &Tested<D>) {
    for name in ["x", "w", "a", "b", "dy"] {
        for transposed in [false, true] {
            let dtypes = if D::SIZE == Size::Small { &DTYPES[2..] } else { &DTYPES[..] };
            for &dtypes in dtypes {
                let arrangements = Arrangements::Repeated { name, transposed };
                let problem = ragged(D::SIZE).dtypes(dtypes).dropout(0.25).arranged(arrangements);
                if name != "dy" {
                    forward::check(device, &problem);
                }
                backward::check(device, &problem, WriteMode::Overwrite);
            }
        }
    }
}

/// A merge with a repeated factor is that with the factor written out, its record included.
fn repeated_factors_are_merged<D: TestDevice>(device: &Tested<D>) {
    let (rows, cols, rank) = (37, 41, 3);
    let value = |i: usize, j: usize| ((i * 7 + j * 5) % 11) as f64 / 16.0 - 0.3;
    for transposed in [false, true] {
        let arrangement = Arrangement { repeated: true, transposed, ..Arrangement::default() };
        let repeated = AdapterArguments {
            a: Matrix::from_fn(DType::Bf16, rows, rank, arrangement, value),
            b: Matrix::from_fn(DType::Bf16, rank, cols, arrangement, value),
            scale: 0.5,
        };
        let packed = |matrix: &Matrix| {
            let (rows, cols) = (matrix.rows, matrix.cols);
            Matrix::from_fn(DType::Bf16, rows, cols, Arrangement::default(), |i, j| matrix.get(i, j))
        };
        let plain = AdapterArguments { a: packed(&repeated.a), b: packed(&repeated.b), scale: 0.5 };
        let merged = [&repeated, &plain].map(|adapter| {
            let mut w = Matrix::from_fn(DType::Bf16, rows, cols, Arrangement::default(), value);
            let mut record = RestoreRecord::new(RestoreMethod::Codes);
            run::update_weights(device, &mut w, None, Some(adapter), Some(&mut record)).unwrap();
            (w.all_bits(), device.download_record(&record))
        });
        assert!(merged[0].0 == merged[1].0, "{}", D::NAME);
        assert_eq!(merged[0].1.recorded(), merged[1].1.recorded(), "{}", D::NAME);
    }
}

fn integers(len: usize, seed: usize) -> Vec<f32> {
    (0..len).map(|index| ((index * 37 + seed * 11) % 5) as f32 - 2.0).collect()
}

/// Query, key and value write to the columns of one Y and get their dY from one: nothing of each other is touched.
fn projections_share_a_buffer<D: TestDevice>(device: &Tested<D>) {
    share_a_buffer(device).unwrap_or_else(|error| panic!("{}: {error}", D::NAME));
}

type Buffer<D> = <<D as TestDevice>::Device as Device>::Buffer;
type Memory<D> = <<D as TestDevice>::Device as Backend>::Memory;

fn view<D: TestDevice>(buffer: &Buffer<D>, rows: usize, cols: usize) -> Result<MatrixRef<'_, Memory<D>>> {
    D::Device::view(buffer, 0, Layout::packed(rows, cols)?)
}

fn share_a_buffer<D: TestDevice>(device: &Tested<D>) -> Result<()> {
    let (m, input, rank, widths) = (19, 24, 3, [17, 8, 24]);
    let total: usize = widths.iter().sum();
    let starts = [0, widths[0], widths[0] + widths[1]];
    let upload = |values: &[f32]| device.upload(HostRef::new(values));
    let x = upload(&integers(m * input, 1))?;
    let mut layers = Vec::new();
    for width in widths {
        layers.push((
            upload(&integers(input * width, 2 + width))?,
            upload(&integers(input * rank, 3))?,
            upload(&integers(rank * width, 4 + width))?,
        ));
    }
    let adapter = |index: usize| -> Result<Adapter<'_, Memory<D>>> {
        let (_, a, b) = &layers[index];
        Ok(Adapter { a: view::<D>(a, input, rank)?, b: view::<D>(b, rank, widths[index])?, scale: 2.0 })
    };
    let download = |buffer: &Buffer<D>, len: usize| -> Result<Vec<f32>> {
        let mut values = vec![0.0; len];
        device.download(buffer, 0, HostMut::new(&mut values))?;
        Ok(values)
    };
    for transposed in [false, true] {
        // By rows, or by columns: Y [M, total], or Yᵀ [total, M].
        let packed = match transposed {
            false => Layout::packed(m, total)?,
            true => Layout::packed(total, m)?.t(),
        };
        let mut fused = upload(&vec![99.0; m * total + 2])?;
        let [query, rest] = D::Device::view_mut(&mut fused, 1, packed)?.split_cols(widths[0])?;
        let [key, value] = rest.split_cols(widths[1])?;
        let mut projections = Vec::new();
        for (index, y) in [query, key, value].into_iter().enumerate() {
            let w = view::<D>(&layers[index].0, input, widths[index])?;
            projections.push(Projection { w, adapter: adapter(index)?, bias: None, y, s: None });
        }
        device.forward_siblings(ForwardSiblings {
            x: view::<D>(&x, m, input)?,
            dropout: None,
            projections,
        })?;
        let found = download(&fused, m * total + 2)?;
        assert_eq!([found[0], found[m * total + 1]], [99.0; 2], "{}: beside the matrix", D::NAME);

        let mut dx = device.allocate(DType::F32, m * input)?;
        let [query, rest] = D::Device::view(&fused, 1, packed)?.split_cols(widths[0])?;
        let [key, value] = rest.split_cols(widths[1])?;
        let mut projections = Vec::new();
        for (index, dy) in [query, key, value].into_iter().enumerate() {
            let (w, adapter) = (view::<D>(&layers[index].0, input, widths[index])?, adapter(index)?);
            let (s, da, db, dbias) = (None, None, None, None);
            projections.push(BackwardProjection { w, adapter, dy, s, da, db, dbias });
        }
        let sum = Output::overwrite(D::Device::view_mut(&mut dx, 0, Layout::packed(m, input)?)?);
        device.backward_siblings(BackwardSiblings { x: None, dropout: None, dx: Some(sum), projections })?;
        let dx = download(&dx, m * input)?;

        let mut dx_of_parts = vec![0.0; m * input];
        for (index, width) in widths.into_iter().enumerate() {
            let mut y = device.allocate(DType::F32, m * width)?;
            let w = view::<D>(&layers[index].0, input, width)?;
            let y_view = D::Device::view_mut(&mut y, 0, Layout::packed(m, width)?)?;
            let projection = Projection { w, adapter: adapter(index)?, bias: None, y: y_view, s: None };
            let (x, projections) = (view::<D>(&x, m, input)?, vec![projection]);
            device.forward_siblings(ForwardSiblings { x, dropout: None, projections })?;
            let alone = download(&y, m * width)?;
            for i in 0..m {
                for j in 0..width {
                    let column = starts[index] + j;
                    let place = if transposed { column * m + i } else { i * total + column };
                    assert_eq!(found[1 + place], alone[i * width + j], "{} Y{index} [{i}, {j}]", D::NAME);
                }
            }
            let mut part = device.allocate(DType::F32, m * input)?;
            let (s, da, db, dbias) = (None, None, None, None);
            let dy = view::<D>(&y, m, width)?;
            let projection = BackwardProjection { w, adapter: adapter(index)?, dy, s, da, db, dbias };
            let output = Output::overwrite(D::Device::view_mut(&mut part, 0, Layout::packed(m, input)?)?);
            device.backward_siblings(BackwardSiblings {
                x: None,
                dropout: None,
                dx: Some(output),
                projections: vec![projection],
            })?;
            dx_of_parts.iter_mut().zip(download(&part, m * input)?).for_each(|(sum, part)| *sum += part);
        }
        // Whole numbers, so that their sums are exact.
        assert!(dx == dx_of_parts, "{}: dX from one dY", D::NAME);
    }
    Ok(())
}

fn buffers_are_copied_and_viewed_in_parts<D: TestDevice>(device: &Tested<D>) {
    let read = |buffer: &Buffer<D>, first, len| {
        let mut values = vec![9.0f32; len];
        device.download(buffer, first, HostMut::new(&mut values)).map(|()| values)
    };
    let mut buffer = device.allocate(DType::F32, 7).unwrap();
    assert_eq!(read(&buffer, 0, 7).unwrap(), [0.0; 7], "{}", D::NAME);
    device.write(&mut buffer, 2, HostRef::new(&[1.0f32, 2.0, 3.0])).unwrap();
    assert_eq!(read(&buffer, 1, 5).unwrap(), [0.0, 1.0, 2.0, 3.0, 0.0], "{}", D::NAME);
    let copy = device.upload(HostRef::new(&[4.0f32, 5.0])).unwrap();
    assert_eq!(read(&copy, 1, 1).unwrap(), [5.0], "{}", D::NAME);
    let empty = device.upload(HostRef::new::<f32>(&[])).unwrap();
    assert_eq!(read(&empty, 0, 0).unwrap(), [0.0; 0], "{}", D::NAME);

    let wide = |len| vec![0.0f32; len];
    assert!(device.write(&mut buffer, 5, HostRef::new(&wide(3))).is_err(), "{}: past the end", D::NAME);
    assert!(device.write(&mut buffer, usize::MAX, HostRef::new(&wide(3))).is_err(), "{}", D::NAME);
    assert!(device.write(&mut buffer, 0, HostRef::new(&[half::f16::ONE])).is_err(), "{}: a type", D::NAME);
    assert!(read(&buffer, 0, 8).is_err() && read(&empty, 0, 1).is_err(), "{}: past the end", D::NAME);
    let layout = |rows, cols| Layout::packed(rows, cols).unwrap();
    assert_eq!(D::Device::view(&buffer, 1, layout(2, 3)).unwrap().rows(), 2);
    assert!(D::Device::view(&buffer, 2, layout(2, 3)).is_err(), "{}: past the end", D::NAME);
    assert!(D::Device::view(&empty, 0, layout(1, 1)).is_err(), "{}: of nothing", D::NAME);
    assert!(D::Device::view_mut(&mut buffer, 2, layout(2, 3)).is_err(), "{}: past the end", D::NAME);
    let repeated = Layout::repeated(3, 2).unwrap();
    assert_eq!(D::Device::view(&buffer, 5, repeated).unwrap().rows(), 3);
    assert!(D::Device::view_mut(&mut buffer, 5, repeated).is_err(), "{}: written thrice", D::NAME);
}
