//! W with room for A and B.

use super::input::check_rank;
use crate::memory::Memory;
use crate::ops::check::named;
use crate::{Adapter, Conversion, DType, Device, Error, Layout, MatrixMut, MatrixRef, Result, Shape};

/// Rows begin at multiples of this many bytes: a line of the L2 cache, and more than TMA and cuBLASLt's vectors ask for.
const ROW_ALIGNMENT: usize = 128;

/// A frozen weight that this crate owns, with room for an adapter in the same buffer.
///
/// It costs little memory beyond W: [`overhead_bytes`](Self::overhead_bytes); 2% for a 16-bit weight of 4096 × 4096 with room for rank 16.
///
/// ```
/// use lora_kernels::padded::PaddedWeight;
/// use lora_kernels::{Adapter, MatrixRef, cpu::Cpu};
///
/// let cpu = Cpu::new();
/// // W [3, 2], A [3, 1], B [1, 2]
/// let (w, a, b) = ([1.0f32; 6], [2.0f32; 3], [3.0f32; 2]);
/// let mut weight = PaddedWeight::new(&cpu, MatrixRef::new(&w, 3, 2)?, 4)?;
/// let adapter = Adapter { a: MatrixRef::new(&a, 3, 1)?, b: MatrixRef::new(&b, 1, 2)?, scale: 0.5 };
/// weight.write_adapter(&cpu, &adapter)?;
/// // What operations take:
/// let (w, adapter) = (weight.w()?, weight.adapter()?);
/// assert_eq!((w.rows(), w.cols(), adapter.rank(), adapter.scale), (3, 2, 1, 0.5));
/// # Ok::<(), lora_kernels::Error>(())
/// ```
#[derive(Debug)]
pub struct PaddedWeight<D: Device> {
    buffer: D::Buffer,
    /// W, A beside it and B below it.
    whole: Layout,
    dtype: DType,
    features: Shape,
    room: usize,
    active: Option<Active>,
}

/// The adapter that was written last.
#[derive(Clone, Copy, Debug)]
struct Active {
    rank: usize,
    scale: f32,
}

/// The parts of a padded weight, to be written at once.
#[derive(Debug)]
pub struct PartsMut<'a, D: Memory> {
    /// W \[in, out\].
    pub w: MatrixMut<'a, D>,
    /// A \[in, r\] of the adapter that was written last.
    pub a: MatrixMut<'a, D>,
    /// Its B \[r, out\].
    pub b: MatrixMut<'a, D>,
}

impl<D: Device> PaddedWeight<D> {
    /// A copy of W \[in, out\], stored the way round that `w` is, with room for ranks up to `room`.
    ///
    /// # Errors
    /// [`Error::InvalidValue`] without room, [`Error::EmptyDimension`] without features, [`Error::OutOfMemory`], or the copy failed.
    pub fn new(device: &D, w: MatrixRef<'_, D::Memory>, room: usize) -> Result<Self> {
        if room == 0 {
            let expected = "1 or more: the largest rank of an adapter";
            return Err(Error::InvalidValue { argument: "room", value: room.to_string(), expected });
        }
        named("w", w).no_zero_dimension("a layer needs at least one input and one output feature")?;
        let whole = padded_layout(w.layout(), w.dtype(), room)?;
        let mut weight = PaddedWeight {
            buffer: device.allocate(w.dtype(), whole.span())?,
            whole,
            dtype: w.dtype(),
            features: w.shape(),
            room,
            active: None,
        };
        device.convert(Conversion { source: w, target: weight.w_mut()? })?;
        Ok(weight)
    }

    /// Copies an adapter into the room, rounded to W's element type where it has another. It replaces the one that was there: r rows
    /// and r columns are written.
    ///
    /// # Errors
    /// The rank is above the room, the adapter does not fit W, or the copy failed.
    pub fn write_adapter(&mut self, device: &D, adapter: &Adapter<'_, D::Memory>) -> Result<()> {
        check_rank(adapter.rank(), self.room)?;
        adapter.check_against(&named("w", self.w()?))?;
        self.active = Some(Active { rank: adapter.rank(), scale: adapter.scale });
        let PartsMut { a, b, .. } = self.parts_mut()?;
        device.convert(Conversion { source: adapter.a, target: a })?;
        device.convert(Conversion { source: adapter.b, target: b })
    }

    /// W \[in, out\].
    ///
    /// # Errors
    /// Never: the layout was checked when the weight was made.
    pub fn w(&self) -> Result<MatrixRef<'_, D::Memory>> {
        let [top, _] = rows(self.whole()?, self.features.rows)?;
        let [w, _] = top.split_cols(self.features.cols)?;
        Ok(w)
    }

    /// W \[in, out\], to merge into or to restore.
    ///
    /// # Errors
    /// Never: the layout was checked when the weight was made.
    pub fn w_mut(&mut self) -> Result<MatrixMut<'_, D::Memory>> {
        let Shape { rows, cols } = self.features;
        let [top, _] = rows_mut(D::view_mut(&mut self.buffer, 0, self.whole)?, rows)?;
        let [w, _] = top.split_cols(cols)?;
        Ok(w)
    }

    /// The adapter that was written last, where it lies beside W, in W's element type.
    ///
    /// # Errors
    /// [`Error::MissingArgument`] before any was written.
    pub fn adapter(&self) -> Result<Adapter<'_, D::Memory>> {
        let Active { rank, scale } = self.active()?;
        let [top, bottom] = rows(self.whole()?, self.features.rows)?;
        let [_, right] = top.split_cols(self.features.cols)?;
        let [left, _] = bottom.split_cols(self.features.cols)?;
        let [a, _] = right.split_cols(rank)?;
        let [b, _] = rows(left, rank)?;
        Ok(Adapter { a, b, scale })
    }

    /// W, A and B, to be written: by an optimiser, say, whose parameters A and B are.
    ///
    /// # Errors
    /// [`Error::MissingArgument`] before an adapter was written.
    pub fn parts_mut(&mut self) -> Result<PartsMut<'_, D::Memory>> {
        let Active { rank, .. } = self.active()?;
        let Shape { rows, cols } = self.features;
        let [top, bottom] = rows_mut(D::view_mut(&mut self.buffer, 0, self.whole)?, rows)?;
        let [w, right] = top.split_cols(cols)?;
        let [left, _] = bottom.split_cols(cols)?;
        let [a, _] = right.split_cols(rank)?;
        let [b, _] = rows_mut(left, rank)?;
        Ok(PartsMut { w, a, b })
    }

    /// The largest rank that there is room for.
    pub fn room(&self) -> usize {
        self.room
    }

    /// The element type of W, A and B.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Bytes of the buffer.
    pub fn bytes(&self) -> usize {
        self.whole.span() * self.dtype.size()
    }

    /// Bytes beyond those of W alone: the room, and what aligns rows.
    pub fn overhead_bytes(&self) -> usize {
        self.bytes() - self.features.rows * self.features.cols * self.dtype.size()
    }

    fn whole(&self) -> Result<MatrixRef<'_, D::Memory>> {
        D::view(&self.buffer, 0, self.whole)
    }

    fn active(&self) -> Result<Active> {
        self.active.ok_or(Error::MissingArgument {
            argument: "adapter",
            reason: "the room of a padded weight holds none before `write_adapter`",
        })
    }
}

/// How W \[in, out\], A and B lie in one buffer.
fn padded_layout(w: Layout, dtype: DType, room: usize) -> Result<Layout> {
    let stored = if w.is_transposed() { w.t() } else { w };
    let extended = |extent: usize| extent.saturating_add(room);
    let cols = extended(stored.cols());
    let stride = cols.checked_next_multiple_of(ROW_ALIGNMENT / dtype.size()).unwrap_or(cols);
    let layout = Layout::strided(extended(stored.rows()), cols, stride)?;
    Ok(if w.is_transposed() { layout.t() } else { layout })
}

/// The first `at` rows, and the others.
fn rows<M: Memory>(matrix: MatrixRef<'_, M>, at: usize) -> Result<[MatrixRef<'_, M>; 2]> {
    Ok(matrix.t().split_cols(at)?.map(MatrixRef::t))
}

fn rows_mut<M: Memory>(matrix: MatrixMut<'_, M>, at: usize) -> Result<[MatrixMut<'_, M>; 2]> {
    Ok(matrix.t().split_cols(at)?.map(MatrixMut::t))
}
