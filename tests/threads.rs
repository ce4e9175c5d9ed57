//! The number of threads changes no bit of a result on the CPU, sums of numbers that must be rounded included.

use half::bf16;
use lora_kernels::cpu::Cpu;
use lora_kernels::ops::Output;
use lora_kernels::restore::{RestoreMethod, RestoreRecord};
use lora_kernels::{
    Adapter, Backend, Backward, Dropout, Element, Forward, MatrixMut, MatrixRef, Rounding, WeightUpdate,
};
use lora_measure::Problem;
use lora_measure::inputs::{Inputs, SCALE};

/// From one row to several blocks of each dimension; K beyond what one pass over the first-level cache takes.
const PROBLEMS: [Problem; 4] = [
    Problem { m: 1, k: 3000, n: 700, r: 8 },
    Problem { m: 17, k: 513, n: 129, r: 5 },
    Problem { m: 130, k: 1100, n: 300, r: 16 },
    Problem { m: 600, k: 70, n: 90, r: 33 },
];

/// Y, S, dX, dA, dB, the merged weight and the record's codes, one after the other, as bytes.
fn results<T: Element>(problem: Problem, transposed: bool) -> lora_kernels::Result<Vec<u8>> {
    let Problem { m, k, n, r } = problem;
    let Inputs { x, mut w, a, b, dy } = Inputs::<T>::new(problem);
    let adapter = Adapter { a: MatrixRef::new(&a, k, r)?, b: MatrixRef::new(&b, r, n)?, scale: SCALE };
    let view = |w| if transposed { Ok(MatrixRef::new(w, n, k)?.t()) } else { MatrixRef::new(w, k, n) };
    let dropout = Some(Dropout::new(0.1, 7, 0)?);
    let zeros = |len| vec![T::from_f32(0.0); len];
    let (mut y, mut s, mut dx) = (zeros(m * n), zeros(m * r), zeros(m * k));
    let (mut da, mut db) = (zeros(k * r), zeros(r * n));
    let cpu = Cpu::new();
    cpu.forward(Forward {
        x: MatrixRef::new(&x, m, k)?,
        w: view(&w)?,
        adapter,
        bias: None,
        dropout,
        y: MatrixMut::new(&mut y, m, n)?,
        s: Some(MatrixMut::new(&mut s, m, r)?),
    })?;
    cpu.backward(Backward {
        x: Some(MatrixRef::new(&x, m, k)?),
        w: view(&w)?,
        adapter,
        dropout,
        dy: MatrixRef::new(&dy, m, n)?,
        s: Some(MatrixRef::new(&s, m, r)?),
        dx: Some(Output::overwrite(MatrixMut::new(&mut dx, m, k)?)),
        da: Some(Output::overwrite(MatrixMut::new(&mut da, k, r)?)),
        db: Some(Output::overwrite(MatrixMut::new(&mut db, r, n)?)),
        dbias: None,
    })?;
    let mut record = RestoreRecord::new(RestoreMethod::Codes);
    let rounding = if T::DTYPE.size() == 2 { Rounding::Stochastic { seed: 3 } } else { Rounding::Nearest };
    let merged = MatrixMut::new(&mut w, k, n)?;
    cpu.update_weights(WeightUpdate {
        rounding,
        ..WeightUpdate::merge(merged, adapter).record(&mut record)
    })?;
    let matrices = [&y, &s, &dx, &da, &db, &w];
    let mut bytes: Vec<u8> =
        matrices.iter().flat_map(|matrix| bytemuck::cast_slice(matrix).to_vec()).collect();
    bytes.extend(record.codes());
    Ok(bytes)
}

fn agree<T: Element>() {
    for problem in PROBLEMS {
        for transposed in [false, true] {
            let with = |threads| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                pool.install(|| results::<T>(problem, transposed)).unwrap()
            };
            let one = with(1);
            for threads in [2, 3, 5] {
                assert!(
                    with(threads) == one,
                    "{} {problem}, transposed {transposed}: {threads} threads",
                    T::DTYPE
                );
            }
        }
    }
}

#[test]
fn f32_results_do_not_depend_on_the_number_of_threads() {
    agree::<f32>();
}

#[test]
fn bf16_results_do_not_depend_on_the_number_of_threads() {
    agree::<bf16>();
}
