//! X with room for S.

use crate::memory::{Host, Memory};
use crate::{Error, MatrixMut, MatrixRef, Result};

/// X \[M, in\] whose rows have room for S behind them: the left columns of a matrix \[M, in + room\].
///
/// A [`Forward`](crate::Forward) that is given S beside X copies neither: see [`padded`](crate::padded).
///
/// ```
/// use lora_kernels::padded::InputWithRoom;
/// use lora_kernels::{Adapter, Backend, Forward, MatrixMut, MatrixRef, cpu::Cpu};
///
/// let (w, a, b) = ([1.0f32, 0.0, 0.0, 1.0], [1.0f32, 1.0], [10.0f32, 20.0]);
/// // One row: X = [1, 2], and room for a rank of one.
/// let mut rows = [1.0f32, 2.0, 0.0];
/// let mut input = InputWithRoom::new(MatrixMut::new(&mut rows, 1, 3)?, 2)?;
/// let (x, s) = input.split(1)?;
/// let mut y = [0.0f32; 2];
/// Cpu::new().forward(Forward {
///     x,
///     w: MatrixRef::new(&w, 2, 2)?,
///     adapter: Adapter { a: MatrixRef::new(&a, 2, 1)?, b: MatrixRef::new(&b, 1, 2)?, scale: 0.5 },
///     bias: None,
///     dropout: None,
///     y: MatrixMut::new(&mut y, 1, 2)?,
///     s: Some(s),
/// })?;
/// assert_eq!((y, rows), ([16.0, 32.0], [1.0, 2.0, 1.5]));
/// # Ok::<(), lora_kernels::Error>(())
/// ```
#[derive(Debug)]
pub struct InputWithRoom<'a, D: Memory = Host> {
    x: MatrixMut<'a, D>,
    room: MatrixMut<'a, D>,
}

impl<'a, D: Memory> InputWithRoom<'a, D> {
    /// X is the first `features` columns of a matrix, the others are room.
    ///
    /// # Errors
    /// [`Error::InvalidValue`] if no column is left.
    pub fn new(whole: MatrixMut<'a, D>, features: usize) -> Result<Self> {
        if whole.cols() <= features {
            return Err(Error::InvalidValue {
                argument: "features",
                value: features.to_string(),
                expected: "less than the columns of the matrix, so that there is room beside X",
            });
        }
        let [x, room] = whole.split_cols(features)?;
        Ok(InputWithRoom { x, room })
    }

    /// The largest rank that there is room for.
    pub fn room(&self) -> usize {
        self.room.cols()
    }

    /// X.
    pub fn x(&self) -> MatrixRef<'_, D> {
        self.x.as_ref()
    }

    /// X, to be written.
    pub fn x_mut(&mut self) -> MatrixMut<'_, D> {
        self.x.reborrow()
    }

    /// X, and S \[M, rank\] beside it.
    ///
    /// # Errors
    /// [`Error::InvalidValue`] if there is no room for the rank.
    pub fn split(&mut self, rank: usize) -> Result<(MatrixRef<'_, D>, MatrixMut<'_, D>)> {
        check_rank(rank, self.room())?;
        let [s, _] = self.room.reborrow().split_cols(rank)?;
        Ok((self.x.as_ref(), s))
    }
}

/// There must be room for the rank.
pub(super) fn check_rank(rank: usize, room: usize) -> Result<()> {
    if rank == 0 || rank > room {
        return Err(Error::InvalidValue {
            argument: "rank",
            value: format!("{rank}, with room for {room}"),
            expected: "1 or more, and no more than there is room for",
        });
    }
    Ok(())
}
