//! The layer on ordinary slices.

use crate::layer::*;
use lora_kernels::cpu::Cpu;
use lora_kernels::memory::Host;
use lora_kernels::restore::{RestoreMethod, RestoreRecord};
use lora_kernels::{Adapter, MatrixMut, MatrixRef, Result};

pub fn run() -> Result<()> {
    let cpu = Cpu::new();
    let (mut y, mut s) = ([0.0f32; 4], [0.0f32; 2]);
    forward(&cpu, layer()?, MatrixMut::new(&mut y, 2, 2)?, MatrixMut::new(&mut s, 2, 1)?)?;
    assert_eq!((y, s), (Y, S));

    let (mut dx, mut da, mut db) = ([0.0f32; 6], [0.0f32; 3], [0.0f32; 2]);
    let gradients = Gradients {
        dx: MatrixMut::new(&mut dx, 2, 3)?,
        da: MatrixMut::new(&mut da, 3, 1)?,
        db: MatrixMut::new(&mut db, 1, 2)?,
    };
    backward(&cpu, layer()?, MatrixRef::new(&DY, 2, 2)?, MatrixRef::new(&s, 2, 1)?, gradients)?;
    assert_eq!((dx, da, db), (DX, DA, DB));

    let mut w = W;
    let mut record = RestoreRecord::new(RestoreMethod::Codes);
    merge(&cpu, MatrixMut::new(&mut w, 3, 2)?, adapter()?, &mut record)?;
    assert_eq!(w, MERGED);
    unmerge(&cpu, MatrixMut::new(&mut w, 3, 2)?, adapter()?, &mut record)?;
    assert_eq!(w, W);
    Ok(())
}

fn adapter<'a>() -> Result<Adapter<'a, Host>> {
    Ok(Adapter { a: MatrixRef::new(&A, 3, 1)?, b: MatrixRef::new(&B, 1, 2)?, scale: SCALE })
}

fn layer<'a>() -> Result<Layer<'a, Host>> {
    Ok(Layer { x: MatrixRef::new(&X, 2, 3)?, w: MatrixRef::new(&W, 3, 2)?, adapter: adapter()? })
}
