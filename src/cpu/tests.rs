//! Every path against plain `f64` loops, bit for bit: with small integers, p = 0.5 and s = 0.5 each sum is exact, so that
//! only the roundings of the contract remain.

use super::Cpu;
use crate::dropout::philox4x32_10;
use crate::ops::{BackwardProjection, BackwardSiblings, ForwardSiblings, Output, Projection, WriteMode};
use crate::{Adapter, Backend, Dropout, Element, MatrixMut, MatrixRef};
use half::{bf16, f16};

/// A matrix as it lies in memory: with a gap after each stored row, transposed or not.
#[derive(Clone)]
struct Stored<T> {
    data: Vec<T>,
    rows: usize,
    cols: usize,
    transposed: bool,
}

const GAP: usize = 3;

impl<T: Element> Stored<T> {
    fn filled(rows: usize, cols: usize, transposed: bool, value: impl Fn(usize, usize) -> f32) -> Self {
        let (stored_rows, stored_cols) = if transposed { (cols, rows) } else { (rows, cols) };
        let mut data = vec![T::from_f32(f32::NAN); stored_rows * (stored_cols + GAP)];
        for i in 0..stored_rows {
            for j in 0..stored_cols {
                let value = if transposed { value(j, i) } else { value(i, j) };
                data[i * (stored_cols + GAP) + j] = T::from_f32(value);
            }
        }
        Stored { data, rows, cols, transposed }
    }

    fn integers(rows: usize, cols: usize, transposed: bool, seed: u32) -> Self {
        Self::filled(rows, cols, transposed, |i, j| {
            (philox4x32_10([i as u32, j as u32, 0, 0], [seed, 1])[0] % 5) as f32 - 2.0
        })
    }

    fn poisoned(rows: usize, cols: usize, transposed: bool) -> Self {
        Self::filled(rows, cols, transposed, |_, _| f32::NAN)
    }

    fn get(&self, i: usize, j: usize) -> f64 {
        let index = if self.transposed { j * (self.rows + GAP) + i } else { i * (self.cols + GAP) + j };
        f64::from(self.data[index].to_f32())
    }

    fn view(&self) -> MatrixRef<'_> {
        let (rows, cols) = if self.transposed { (self.cols, self.rows) } else { (self.rows, self.cols) };
        let view = MatrixRef::strided(&self.data, rows, cols, cols + GAP).unwrap();
        if self.transposed { view.t() } else { view }
    }

    fn view_mut(&mut self) -> MatrixMut<'_> {
        let (rows, cols) = if self.transposed { (self.cols, self.rows) } else { (self.rows, self.cols) };
        let view = MatrixMut::strided(&mut self.data, rows, cols, cols + GAP).unwrap();
        if self.transposed { view.t() } else { view }
    }

    #[track_caller]
    fn assert_is(&self, name: &str, expected: impl Fn(usize, usize) -> f64) {
        for i in 0..self.rows {
            for j in 0..self.cols {
                let expected = f64::from(T::from_f32(expected(i, j) as f32).to_f32());
                assert_eq!(self.get(i, j), expected, "{name} at ({i}, {j})");
            }
        }
        let gaps = self.data.len() - self.rows * self.cols;
        let untouched = self.data.iter().filter(|value| value.to_f32().is_nan()).count();
        assert_eq!(untouched, gaps, "{name}: wrote outside the view");
    }
}

const SCALE: f32 = 0.5;

struct Layer<T, P> {
    w: Stored<T>,
    a: Stored<P>,
    b: Stored<P>,
    bias: Stored<f32>,
    dy: Stored<T>,
    s: Stored<T>,
}

impl<T: Element, P: Element> Layer<T, P> {
    fn adapter(&self) -> Adapter<'_> {
        Adapter { a: self.a.view(), b: self.b.view(), scale: SCALE }
    }
}

fn check<T: Element, P: Element>(
    rows: usize,
    features: usize,
    widths: &[(usize, usize)],
    transposed: bool,
    dropout: Option<Dropout>,
) {
    let x = Stored::<T>::integers(rows, features, transposed, 1);
    let dropped = |i: usize, k: usize| match dropout {
        Some(dropout) if !dropout.keeps(i, k) => 0.0,
        Some(dropout) => x.get(i, k) * f64::from(dropout.keep_scale()),
        None => x.get(i, k),
    };
    let round = |value: f64| f64::from(T::from_f32(value as f32).to_f32());
    let mut layers: Vec<Layer<T, P>> = widths
        .iter()
        .zip(10..)
        .map(|(&(rank, out), seed)| Layer {
            w: Stored::integers(features, out, transposed, seed * 10),
            a: Stored::integers(features, rank, !transposed, seed * 10 + 1),
            b: Stored::integers(rank, out, transposed, seed * 10 + 2),
            bias: Stored::integers(1, out, false, seed * 10 + 3),
            dy: Stored::integers(rows, out, !transposed, seed * 10 + 4),
            s: Stored::poisoned(rows, rank, transposed),
        })
        .collect();
    let cpu = Cpu::new();

    let mut ys: Vec<Stored<T>> =
        widths.iter().map(|&(_, out)| Stored::poisoned(rows, out, !transposed)).collect();
    let mut saved: Vec<Stored<T>> = layers.iter().map(|layer| layer.s.clone()).collect();
    cpu.forward_siblings(ForwardSiblings {
        x: x.view(),
        dropout,
        projections: layers
            .iter()
            .zip(&mut ys)
            .zip(&mut saved)
            .map(|((layer, y), s)| Projection {
                w: layer.w.view(),
                adapter: layer.adapter(),
                bias: Some(layer.bias.view()),
                y: y.view_mut(),
                s: Some(s.view_mut()),
            })
            .collect(),
    })
    .unwrap();
    for ((layer, y), s) in layers.iter_mut().zip(&ys).zip(saved) {
        layer.s = s;
        layer.s.assert_is("s", |i, l| {
            (0..features).map(|k| dropped(i, k) * layer.a.get(k, l)).sum::<f64>() * f64::from(SCALE)
        });
        y.assert_is("y", |i, j| {
            let frozen: f64 = (0..features).map(|k| x.get(i, k) * layer.w.get(k, j)).sum();
            let low_rank: f64 = (0..layer.a.cols).map(|l| layer.s.get(i, l) * layer.b.get(l, j)).sum();
            frozen + low_rank + layer.bias.get(0, j)
        });
    }

    for (mode, given) in [(WriteMode::Overwrite, true), (WriteMode::Accumulate, false)] {
        let before = |seed: u32| match mode {
            WriteMode::Overwrite => f32::NAN,
            WriteMode::Accumulate => seed as f32,
        };
        let old = |seed: u32| match mode {
            WriteMode::Overwrite => 0.0,
            WriteMode::Accumulate => f64::from(seed),
        };
        let mut dx = Stored::<T>::filled(rows, features, transposed, |_, _| before(1));
        let mut gradients: Vec<(Stored<P>, Stored<P>, Stored<T>)> = layers
            .iter()
            .map(|layer| {
                let (rank, out) = (layer.a.cols, layer.b.cols);
                (
                    Stored::filled(features, rank, transposed, |_, _| before(2)),
                    Stored::filled(rank, out, !transposed, |_, _| before(3)),
                    Stored::filled(1, out, false, |_, _| before(4)),
                )
            })
            .collect();
        cpu.backward_siblings(BackwardSiblings {
            x: Some(x.view()),
            dropout,
            dx: Some(Output { matrix: dx.view_mut(), mode }),
            projections: layers
                .iter()
                .zip(&mut gradients)
                .map(|(layer, (da, db, dbias))| BackwardProjection {
                    w: layer.w.view(),
                    adapter: layer.adapter(),
                    dy: layer.dy.view(),
                    s: given.then(|| layer.s.view()),
                    da: Some(Output { matrix: da.view_mut(), mode }),
                    db: Some(Output { matrix: db.view_mut(), mode }),
                    dbias: Some(Output { matrix: dbias.view_mut(), mode }),
                })
                .collect(),
        })
        .unwrap();
        // dS with dropout's factor, which is exact in it.
        let factor = f64::from(SCALE) * dropout.map_or(1.0, |dropout| f64::from(dropout.keep_scale()));
        let ds: Vec<Vec<f64>> = layers
            .iter()
            .map(|layer| {
                let element = |i: usize, l: usize| {
                    let sum: f64 = (0..layer.b.cols).map(|j| layer.dy.get(i, j) * layer.b.get(l, j)).sum();
                    round(sum * factor)
                };
                (0..rows)
                    .flat_map(|i| (0..layer.a.cols).map(move |l| (i, l)))
                    .map(|(i, l)| element(i, l))
                    .collect()
            })
            .collect();
        let kept = |i: usize, k: usize| dropout.is_none_or(|dropout| dropout.keeps(i, k));
        for ((layer, ds), (da, db, dbias)) in layers.iter().zip(&ds).zip(&gradients) {
            let rank = layer.a.cols;
            da.assert_is("da", |k, l| {
                let rows = (0..rows).filter(|&i| kept(i, k));
                rows.map(|i| x.get(i, k) * ds[i * rank + l]).sum::<f64>() + old(2)
            });
            db.assert_is("db", |l, j| {
                (0..rows).map(|i| layer.s.get(i, l) * layer.dy.get(i, j)).sum::<f64>() + old(3)
            });
            dbias.assert_is("dbias", |_, j| (0..rows).map(|i| layer.dy.get(i, j)).sum::<f64>() + old(4));
        }
        dx.assert_is("dx", |i, k| {
            let sum: f64 = layers
                .iter()
                .zip(&ds)
                .map(|(layer, ds)| {
                    let rank = layer.a.cols;
                    let frozen: f64 = (0..layer.w.cols).map(|j| layer.dy.get(i, j) * layer.w.get(k, j)).sum();
                    let low_rank: f64 = (0..layer.a.cols).map(|l| ds[i * rank + l] * layer.a.get(k, l)).sum();
                    frozen + if kept(i, k) { low_rank } else { 0.0 }
                })
                .sum();
            sum + old(1)
        });
    }
}

fn check_dtypes(rows: usize, features: usize, widths: &[(usize, usize)]) {
    for transposed in [false, true] {
        for dropout in [None, Some(Dropout::new(0.5, 42, 1 << 40).unwrap())] {
            check::<f32, f32>(rows, features, widths, transposed, dropout);
            check::<f16, f16>(rows, features, widths, transposed, dropout);
            check::<bf16, f32>(rows, features, widths, transposed, dropout);
            check::<bf16, bf16>(rows, features, widths, transposed, dropout);
        }
    }
}

#[test]
fn single_row() {
    check_dtypes(1, 19, &[(3, 5)]);
}

#[test]
fn no_rows() {
    check_dtypes(0, 19, &[(3, 5)]);
}

#[test]
fn siblings_of_different_rank() {
    check_dtypes(37, 29, &[(1, 17), (4, 40), (9, 1)]);
}

#[test]
fn larger_than_one_tile() {
    check_dtypes(70, 530, &[(5, 270)]);
    check_dtypes(530, 33, &[(17, 20)]);
}
