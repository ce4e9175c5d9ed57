//! From operations on cudarc's slices to operations on bare addresses, which have any lifetime `'r`.

use super::memory::{DeviceMemory, Guard};
use crate::memory::{Memory, Raw, RawBuffer};
use crate::ops::{
    Adapter, Backward, BackwardProjection, BackwardSiblings, Conversion, Delta, Forward, ForwardSiblings,
    Frozen, Output, Projection,
};
use crate::{Error, MatrixMut, MatrixRef, Result};
use cudarc::driver::{CudaContext, CudaStream, SyncOnDrop};

/// The slices of one operation, borrowed until its steps have been enqueued.
pub struct Borrows<'b> {
    stream: &'b CudaStream,
    /// Of an operation on one layer; that many allocate nothing.
    guards: [Option<Guard<'b>>; ONE_LAYER],
    count: usize,
    further: Vec<Guard<'b>>,
}

/// Matrices of the backward of one layer.
const ONE_LAYER: usize = 10;

impl<'b> Borrows<'b> {
    /// Nothing borrowed yet; steps will be enqueued on `stream`.
    pub fn new(stream: &'b CudaStream) -> Self {
        Borrows { stream, guards: Default::default(), count: 0, further: Vec::new() }
    }

    /// The argument must live in the stream's context.
    pub fn check_context(&self, argument: &'static str, found: &CudaContext) -> Result<()> {
        let expected = self.stream.context();
        if found == expected.as_ref() {
            return Ok(());
        }
        Err(Error::WrongDevice { argument, found: found.ordinal(), expected: expected.ordinal() })
    }

    /// Keeps a borrow until the steps have been enqueued.
    pub fn keep(&mut self, guard: SyncOnDrop<'b>) {
        self.hold(Guard::Slice { _sync: guard });
    }

    fn hold(&mut self, guard: Guard<'b>) {
        match self.guards.get_mut(self.count) {
            Some(place) => *place = Some(guard),
            None => self.further.push(guard),
        }
        self.count += 1;
    }

    /// An input's address.
    pub fn read<'a: 'b, 'r>(
        &mut self,
        argument: &'static str,
        matrix: MatrixRef<'a, DeviceMemory>,
    ) -> Result<MatrixRef<'r, Raw>> {
        let buffer = matrix.buffer();
        self.check_context(argument, buffer.context())?;
        let (len, dtype) = (DeviceMemory::len(buffer), matrix.dtype());
        let (address, guard) = buffer.read(self.stream);
        self.hold(guard);
        MatrixRef::from_buffer(RawBuffer { address, len, dtype }, matrix.layout())
    }

    /// An output's address.
    pub fn write<'a: 'b, 'r>(
        &mut self,
        argument: &'static str,
        matrix: MatrixMut<'a, DeviceMemory>,
    ) -> Result<MatrixMut<'r, Raw>> {
        let (layout, dtype) = (matrix.layout(), matrix.dtype());
        let buffer = matrix.into_buffer();
        let shared = DeviceMemory::share(&buffer);
        self.check_context(argument, shared.context())?;
        let len = DeviceMemory::len(shared);
        let (address, guard) = buffer.write(self.stream);
        self.hold(guard);
        MatrixMut::from_buffer(RawBuffer { address, len, dtype }, layout)
    }

    fn optional<'a: 'b, 'r>(
        &mut self,
        argument: &'static str,
        matrix: Option<MatrixRef<'a, DeviceMemory>>,
    ) -> Result<Option<MatrixRef<'r, Raw>>> {
        matrix.map(|matrix| self.read(argument, matrix)).transpose()
    }

    fn output<'a: 'b, 'r>(
        &mut self,
        argument: &'static str,
        Output { matrix, mode }: Output<'a, DeviceMemory>,
    ) -> Result<Output<'r, Raw>> {
        Ok(Output { matrix: self.write(argument, matrix)?, mode })
    }

    fn optional_output<'a: 'b, 'r>(
        &mut self,
        argument: &'static str,
        output: Option<Output<'a, DeviceMemory>>,
    ) -> Result<Option<Output<'r, Raw>>> {
        output.map(|output| self.output(argument, output)).transpose()
    }

    /// An adapter's addresses.
    pub fn adapter<'a: 'b, 'r>(&mut self, adapter: Adapter<'a, DeviceMemory>) -> Result<Adapter<'r, Raw>> {
        let Adapter { a, b, scale } = adapter;
        Ok(Adapter { a: self.read("a", a)?, b: self.read("b", b)?, scale })
    }

    fn projection<'a: 'b, 'r>(
        &mut self,
        projection: Projection<'a, DeviceMemory>,
    ) -> Result<Projection<'r, Raw>> {
        let Projection { w, adapter, bias, y, s } = projection;
        Ok(Projection {
            w: self.read("w", w)?,
            adapter: self.adapter(adapter)?,
            bias: self.optional("bias", bias)?,
            y: self.write("y", y)?,
            s: s.map(|s| self.write("s", s)).transpose()?,
        })
    }

    fn backward_projection<'a: 'b, 'r>(
        &mut self,
        projection: BackwardProjection<'a, DeviceMemory>,
    ) -> Result<BackwardProjection<'r, Raw>> {
        let BackwardProjection { w, adapter, dy, s, da, db, dbias } = projection;
        Ok(BackwardProjection {
            w: self.read("w", w)?,
            adapter: self.adapter(adapter)?,
            dy: self.read("dy", dy)?,
            s: self.optional("s", s)?,
            da: self.optional_output("da", da)?,
            db: self.optional_output("db", db)?,
            dbias: self.optional_output("dbias", dbias)?,
        })
    }

    /// The addresses of one layer's forward.
    pub fn forward<'a: 'b, 'r>(&mut self, op: Forward<'a, DeviceMemory>) -> Result<Forward<'r, Raw>> {
        let Forward { x, w, adapter, bias, dropout, y, s } = op;
        let x = self.read("x", x)?;
        let Projection { w, adapter, bias, y, s } = self.projection(Projection { w, adapter, bias, y, s })?;
        Ok(Forward { x, w, adapter, bias, dropout, y, s })
    }

    /// The addresses of one layer's backward.
    pub fn backward<'a: 'b, 'r>(&mut self, op: Backward<'a, DeviceMemory>) -> Result<Backward<'r, Raw>> {
        let Backward { x, w, adapter, dropout, dy, s, dx, da, db, dbias } = op;
        let x = self.optional("x", x)?;
        let dx = self.optional_output("dx", dx)?;
        let projection = BackwardProjection { w, adapter, dy, s, da, db, dbias };
        let BackwardProjection { w, adapter, dy, s, da, db, dbias } = self.backward_projection(projection)?;
        Ok(Backward { x, w, adapter, dropout, dy, s, dx, da, db, dbias })
    }

    /// The forward's addresses.
    pub fn forward_siblings<'a: 'b, 'r>(
        &mut self,
        op: ForwardSiblings<'a, DeviceMemory>,
    ) -> Result<ForwardSiblings<'r, Raw>> {
        let ForwardSiblings { x, dropout, projections } = op;
        let x = self.read("x", x)?;
        let projections = projections.into_iter().map(|projection| self.projection(projection));
        Ok(ForwardSiblings { x, dropout, projections: projections.collect::<Result<_>>()? })
    }

    /// The backward's addresses.
    pub fn backward_siblings<'a: 'b, 'r>(
        &mut self,
        op: BackwardSiblings<'a, DeviceMemory>,
    ) -> Result<BackwardSiblings<'r, Raw>> {
        let BackwardSiblings { x, dropout, dx, projections } = op;
        let x = self.optional("x", x)?;
        let dx = self.optional_output("dx", dx)?;
        let projections = projections.into_iter().map(|projection| self.backward_projection(projection));
        Ok(BackwardSiblings { x, dropout, dx, projections: projections.collect::<Result<_>>()? })
    }

    /// The frozen layer's addresses. `names` are what the caller knows X and Y as.
    pub fn frozen<'a: 'b, 'r>(
        &mut self,
        op: Frozen<'a, DeviceMemory>,
        names: [&'static str; 2],
    ) -> Result<Frozen<'r, Raw>> {
        let Frozen { x, w, bias, y } = op;
        Ok(Frozen {
            x: self.read(names[0], x)?,
            w: self.read("w", w)?,
            bias: self.optional("bias", bias)?,
            y: self.output(names[1], y)?,
        })
    }

    /// The delta's addresses.
    pub fn delta<'a: 'b, 'r>(&mut self, op: Delta<'a, DeviceMemory>) -> Result<Delta<'r, Raw>> {
        let Delta { adapter, delta } = op;
        Ok(Delta { adapter: self.adapter(adapter)?, delta: self.write("delta", delta)? })
    }

    /// The addresses of a copy.
    pub fn conversion<'a: 'b, 'r>(
        &mut self,
        op: Conversion<'a, DeviceMemory>,
    ) -> Result<Conversion<'r, Raw>> {
        let Conversion { source, target } = op;
        Ok(Conversion { source: self.read("source", source)?, target: self.write("target", target)? })
    }
}
