//! Matrix views with any numbers over small buffers, and an operation on them.

use lora_kernels::cpu::Cpu;
use lora_kernels::{Adapter, Backend, Forward, MatrixMut, MatrixRef, Result, WeightUpdate};

/// What the elements between the rows of an output hold.
const GAP: f32 = 77.0;

/// The numbers of one view, and the buffer it is of.
struct Stored {
    rows: usize,
    cols: usize,
    stride: usize,
    transposed: bool,
    data: Vec<f32>,
}

impl Stored {
    fn view(&self) -> Result<MatrixRef<'_>> {
        let view = MatrixRef::strided(&self.data, self.rows, self.cols, self.stride)?;
        Ok(if self.transposed { view.t() } else { view })
    }

    fn view_mut(&mut self) -> Result<MatrixMut<'_>> {
        let view = MatrixMut::strided(&mut self.data, self.rows, self.cols, self.stride)?;
        Ok(if self.transposed { view.t() } else { view })
    }

    fn place(&self, i: usize, j: usize) -> usize {
        let (row, col) = if self.transposed { (j, i) } else { (i, j) };
        assert!(row < self.rows && col < self.cols, "({i}, {j}) is inside the view");
        if self.rows == 1 { col } else { row * self.stride + col }
    }

    fn get(&self, i: usize, j: usize) -> f32 {
        self.data[self.place(i, j)]
    }

    /// Every element must be what `expected` says, and what lies between rows as it was.
    fn assert_is(&self, [rows, cols]: [usize; 2], expected: impl Fn(usize, usize) -> f32, before: &[f32]) {
        let mut wanted = before.to_vec();
        for i in 0..rows {
            for j in 0..cols {
                wanted[self.place(i, j)] = expected(i, j);
            }
        }
        assert_eq!(self.data, wanted);
    }
}

/// Numbers from bytes: small ones, or any of eight bytes.
struct Numbers<'a>(&'a [u8]);

impl Numbers<'_> {
    fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    fn number(&mut self) -> usize {
        match self.byte() {
            small @ 0..200 => usize::from(small % 10),
            _ => (0..8).fold(0, |number, place| number | u64::from(self.byte()) << (8 * place)) as usize,
        }
    }

    /// A view of the wanted shape, or of another.
    fn stored(&mut self, [rows, cols]: [usize; 2]) -> Stored {
        let flags = self.byte();
        let transposed = flags & 1 != 0;
        let shape = match flags & 0xC0 {
            0xC0 => [self.number(), self.number()],
            _ if transposed => [cols, rows],
            _ => [rows, cols],
        };
        let [rows, cols] = shape;
        let stride = if flags & 2 != 0 { self.number() } else { cols };
        let len = usize::from(self.byte() % 128);
        let data = (0..len).map(|n| (n % 5) as f32 - 2.0).collect();
        Stored { rows, cols, stride, transposed, data }
    }
}

/// Bytes as the numbers of a layer's views: what is accepted gives the right result, and nothing else is written.
pub fn views(bytes: &[u8]) -> bool {
    let mut numbers = Numbers(bytes);
    let merges = numbers.byte() % 2 == 1;
    let [m, k, n, r] = [(); 4].map(|()| numbers.number());
    let shapes = [[k, n], [k, r], [r, n], [m, k], [m, n]];
    let [mut w, a, b, x, mut y] = shapes.map(|shape| numbers.stored(shape));
    if merges {
        merge(&mut w, &a, &b).is_ok()
    } else {
        y.data.fill(GAP);
        forward(&x, &w, &a, &b, &mut y).is_ok()
    }
}

fn adapter<'a>(a: &'a Stored, b: &'a Stored) -> Result<Adapter<'a>> {
    Ok(Adapter { a: a.view()?, b: b.view()?, scale: 1.0 })
}

fn delta(a: &Stored, b: &Stored, rank: usize, i: usize, j: usize) -> f32 {
    (0..rank).map(|k| a.get(i, k) * b.get(k, j)).sum()
}

/// All are small whole numbers, so that the results are exact.
fn merge(w: &mut Stored, a: &Stored, b: &Stored) -> Result<()> {
    let before = w.data.clone();
    let (shape, adapter) = (w.view()?.shape(), adapter(a, b)?);
    let (wanted, rank) = ([shape.rows, shape.cols], adapter.rank());
    Cpu::new().update_weights(WeightUpdate::merge(w.view_mut()?, adapter))?;
    let old = Stored { data: before.clone(), ..*w };
    w.assert_is(wanted, |i, j| old.get(i, j) + delta(a, b, rank, i, j), &before);
    Ok(())
}

fn forward(x: &Stored, w: &Stored, a: &Stored, b: &Stored, y: &mut Stored) -> Result<()> {
    let before = y.data.clone();
    let (x_view, w_view, adapter) = (x.view()?, w.view()?, adapter(a, b)?);
    let (shape, inputs, rank) = ([x_view.rows(), w_view.cols()], x_view.cols(), adapter.rank());
    let op = Forward { x: x_view, w: w_view, adapter, bias: None, dropout: None, y: y.view_mut()?, s: None };
    Cpu::new().forward(op)?;
    let expected =
        |i, j| (0..inputs).map(|l| x.get(i, l) * (w.get(l, j) + delta(a, b, rank, l, j))).sum::<f32>();
    y.assert_is(shape, expected, &before);
    Ok(())
}
