//! The layer on cudarc's slices.

use crate::layer::*;
use cudarc::driver::{CudaContext, CudaSlice};
use lora_kernels::cuda::{Cuda, DeviceMemory};
use lora_kernels::restore::{RestoreMethod, RestoreRecord};
use lora_kernels::{Adapter, MatrixMut, MatrixRef, Result};

pub fn run() -> anyhow::Result<()> {
    let stream = CudaContext::new(0)?.default_stream();
    let cuda = Cuda::new(stream.clone())?;
    let inputs = Inputs { x: stream.clone_htod(&X)?, a: stream.clone_htod(&A)?, b: stream.clone_htod(&B)? };
    let mut w = stream.clone_htod(&W)?;

    let (mut y, mut s) = (stream.alloc_zeros::<f32>(4)?, stream.alloc_zeros::<f32>(2)?);
    let (y_view, s_view) = (MatrixMut::from_cuda(&mut y, 2, 2)?, MatrixMut::from_cuda(&mut s, 2, 1)?);
    forward(&cuda, inputs.layer(&w)?, y_view, s_view)?;
    assert_eq!(stream.clone_dtoh(&y)?, Y);
    assert_eq!(stream.clone_dtoh(&s)?, S);

    let dy = stream.clone_htod(&DY)?;
    let (mut dx, mut da) = (stream.alloc_zeros::<f32>(6)?, stream.alloc_zeros::<f32>(3)?);
    let mut db = stream.alloc_zeros::<f32>(2)?;
    let gradients = Gradients {
        dx: MatrixMut::from_cuda(&mut dx, 2, 3)?,
        da: MatrixMut::from_cuda(&mut da, 3, 1)?,
        db: MatrixMut::from_cuda(&mut db, 1, 2)?,
    };
    let (dy_view, s_view) = (MatrixRef::from_cuda(&dy, 2, 2)?, MatrixRef::from_cuda(&s, 2, 1)?);
    backward(&cuda, inputs.layer(&w)?, dy_view, s_view, gradients)?;
    assert_eq!(stream.clone_dtoh(&dx)?, DX);
    assert_eq!(stream.clone_dtoh(&da)?, DA);
    assert_eq!(stream.clone_dtoh(&db)?, DB);

    let mut record = RestoreRecord::new(RestoreMethod::Codes);
    merge(&cuda, MatrixMut::from_cuda(&mut w, 3, 2)?, inputs.adapter()?, &mut record)?;
    assert_eq!(stream.clone_dtoh(&w)?, MERGED);
    unmerge(&cuda, MatrixMut::from_cuda(&mut w, 3, 2)?, inputs.adapter()?, &mut record)?;
    assert_eq!(stream.clone_dtoh(&w)?, W);
    Ok(())
}

struct Inputs {
    x: CudaSlice<f32>,
    a: CudaSlice<f32>,
    b: CudaSlice<f32>,
}

impl Inputs {
    fn adapter(&self) -> Result<Adapter<'_, DeviceMemory>> {
        let (a, b) = (MatrixRef::from_cuda(&self.a, 3, 1)?, MatrixRef::from_cuda(&self.b, 1, 2)?);
        Ok(Adapter { a, b, scale: SCALE })
    }

    fn layer<'a>(&'a self, w: &'a CudaSlice<f32>) -> Result<Layer<'a, DeviceMemory>> {
        let (x, w) = (MatrixRef::from_cuda(&self.x, 2, 3)?, MatrixRef::from_cuda(w, 3, 2)?);
        Ok(Layer { x, w, adapter: self.adapter()? })
    }
}
