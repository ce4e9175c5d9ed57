//! Runs an operation on a device with arguments from the host, and checks what must hold after every operation:
//! inputs are as they were, and nothing outside the outputs was written.

use super::device::TestDevice;
use super::matrix::Matrix;
use super::oracle;
use lora_kernels::ops::{
    BackwardProjection, BackwardSiblings, ForwardSiblings, Output, Projection, WriteMode,
};
use lora_kernels::restore::RestoreRecord;
use lora_kernels::{
    Adapter, Backend, Backward, Delta, Dropout, Forward, Layout, MatrixMut, MatrixRef, MergeReport, Result,
    Rounding, WeightUpdate,
};

/// A, B and s.
#[derive(Clone, Debug)]
pub struct AdapterArguments {
    pub a: Matrix,
    pub b: Matrix,
    pub scale: f32,
}

/// Arguments of a forward; the outputs are replaced by what the device wrote.
#[derive(Clone, Debug)]
pub struct ForwardArguments {
    pub x: Matrix,
    pub dropout: Option<oracle::Dropout>,
    pub projections: Vec<ForwardLayer>,
}

#[derive(Clone, Debug)]
pub struct ForwardLayer {
    pub w: Matrix,
    pub adapter: AdapterArguments,
    pub bias: Option<Matrix>,
    pub y: Matrix,
    pub s: Option<Matrix>,
}

/// Arguments of a backward; the outputs are replaced by what the device wrote.
#[derive(Clone, Debug)]
pub struct BackwardArguments {
    pub x: Option<Matrix>,
    pub dropout: Option<oracle::Dropout>,
    pub dx: Option<Gradient>,
    pub projections: Vec<BackwardLayer>,
}

#[derive(Clone, Debug)]
pub struct BackwardLayer {
    pub w: Matrix,
    pub adapter: AdapterArguments,
    pub dy: Matrix,
    pub s: Option<Matrix>,
    pub da: Option<Gradient>,
    pub db: Option<Gradient>,
    pub dbias: Option<Gradient>,
}

#[derive(Clone, Debug)]
pub struct Gradient {
    pub matrix: Matrix,
    pub mode: WriteMode,
}

/// A matrix in the device's memory.
struct OnDevice<D: TestDevice> {
    buffer: D::Buffer,
    layout: Layout,
}

impl<D: TestDevice> OnDevice<D> {
    fn new(device: &mut D, matrix: &Matrix) -> Result<Self> {
        let layout = matrix.layout()?;
        Ok(OnDevice { buffer: device.upload(&matrix.data, matrix.arrangement.offset), layout })
    }

    fn view(&self) -> Result<MatrixRef<'_, D::Memory>> {
        D::view(&self.buffer, self.layout)
    }

    fn view_mut(&mut self) -> Result<MatrixMut<'_, D::Memory>> {
        D::view_mut(&mut self.buffer, self.layout)
    }

    /// Panics unless the device's copy of this input still has the bits that were uploaded; frees it.
    fn assert_unchanged(self, device: &mut D, name: &str, matrix: &Matrix) {
        let now = device.download(&self.buffer);
        device.free(self.buffer);
        assert!(now.bytes() == matrix.data.bytes(), "{}: the input `{name}` was written to", D::NAME);
    }

    /// Takes over what the device wrote, and frees its copy.
    fn read_back(self, device: &mut D, name: &str, matrix: &mut Matrix) {
        matrix.data = device.download(&self.buffer);
        device.free(self.buffer);
        matrix.assert_surroundings_untouched(name);
    }
}

struct AdapterOnDevice<D: TestDevice> {
    a: OnDevice<D>,
    b: OnDevice<D>,
    scale: f32,
}

impl<D: TestDevice> AdapterOnDevice<D> {
    fn new(device: &mut D, adapter: &AdapterArguments) -> Result<Self> {
        let (a, b) = (OnDevice::new(device, &adapter.a)?, OnDevice::new(device, &adapter.b)?);
        Ok(AdapterOnDevice { a, b, scale: adapter.scale })
    }

    fn view(&self) -> Result<Adapter<'_, D::Memory>> {
        Ok(Adapter { a: self.a.view()?, b: self.b.view()?, scale: self.scale })
    }

    fn assert_unchanged(self, device: &mut D, adapter: &AdapterArguments) {
        self.a.assert_unchanged(device, "a", &adapter.a);
        self.b.assert_unchanged(device, "b", &adapter.b);
    }
}

fn dropout(dropout: Option<oracle::Dropout>) -> Result<Option<Dropout>> {
    dropout.map(|d| Dropout::new(d.probability, d.seed, d.offset)).transpose()
}

fn upload_all<'m, D: TestDevice>(
    device: &mut D,
    matrices: impl Iterator<Item = Option<&'m Matrix>>,
) -> Result<Vec<Option<OnDevice<D>>>> {
    matrices.map(|matrix| matrix.map(|matrix| OnDevice::new(device, matrix)).transpose()).collect()
}

fn optional_view<D: TestDevice>(matrix: &Option<OnDevice<D>>) -> Result<Option<MatrixRef<'_, D::Memory>>> {
    matrix.as_ref().map(OnDevice::view).transpose()
}

fn optional_view_mut<D: TestDevice>(
    matrix: &mut Option<OnDevice<D>>,
) -> Result<Option<MatrixMut<'_, D::Memory>>> {
    matrix.as_mut().map(OnDevice::view_mut).transpose()
}

fn output<'a, D: TestDevice>(
    on_device: &'a mut Option<OnDevice<D>>,
    gradient: &Option<Gradient>,
) -> Result<Option<Output<'a, D::Memory>>> {
    let Some(gradient) = gradient else { return Ok(None) };
    let matrix = optional_view_mut(on_device)?;
    Ok(matrix.map(|matrix| Output { matrix, mode: gradient.mode }))
}

/// The forward of one or more layers.
pub fn forward<D: TestDevice>(device: &mut D, arguments: &mut ForwardArguments) -> Result<()> {
    let layers = &mut arguments.projections;
    let x = OnDevice::new(device, &arguments.x)?;
    let w = upload_all(device, layers.iter().map(|layer| Some(&layer.w)))?;
    let bias = upload_all(device, layers.iter().map(|layer| layer.bias.as_ref()))?;
    let mut y = upload_all(device, layers.iter().map(|layer| Some(&layer.y)))?;
    let mut s = upload_all(device, layers.iter().map(|layer| layer.s.as_ref()))?;
    let adapters = layers
        .iter()
        .map(|layer| AdapterOnDevice::new(device, &layer.adapter))
        .collect::<Result<Vec<_>>>()?;

    let mut projections = Vec::new();
    for (index, (y, s)) in y.iter_mut().zip(&mut s).enumerate() {
        projections.push(Projection {
            w: optional_view(&w[index])?.expect("uploaded"),
            adapter: adapters[index].view()?,
            bias: optional_view(&bias[index])?,
            y: optional_view_mut(y)?.expect("uploaded"),
            s: optional_view_mut(s)?,
        });
    }
    let (view, dropout) = (x.view()?, dropout(arguments.dropout)?);
    let result = match <[_; 1]>::try_from(projections) {
        Ok([Projection { w, adapter, bias, y, s }]) => {
            device.backend().forward(Forward { x: view, w, adapter, bias, dropout, y, s })
        }
        Err(projections) => {
            device.backend().forward_siblings(ForwardSiblings { x: view, dropout, projections })
        }
    };

    x.assert_unchanged(device, "x", &arguments.x);
    let on_device = adapters.into_iter().zip(w).zip(bias).zip(y).zip(s);
    for (layer, ((((adapter, w), bias), y), s)) in layers.iter_mut().zip(on_device) {
        adapter.assert_unchanged(device, &layer.adapter);
        assert_unchanged(device, "w", w, Some(&layer.w));
        assert_unchanged(device, "bias", bias, layer.bias.as_ref());
        read_back(device, "y", y, Some(&mut layer.y));
        read_back(device, "s", s, layer.s.as_mut());
    }
    result
}

/// The backward of one or more layers.
pub fn backward<D: TestDevice>(device: &mut D, arguments: &mut BackwardArguments) -> Result<()> {
    let layers = &mut arguments.projections;
    let x = arguments.x.as_ref().map(|x| OnDevice::new(device, x)).transpose()?;
    let mut dx = arguments.dx.as_ref().map(|dx| OnDevice::new(device, &dx.matrix)).transpose()?;
    let w = upload_all(device, layers.iter().map(|layer| Some(&layer.w)))?;
    let dy = upload_all(device, layers.iter().map(|layer| Some(&layer.dy)))?;
    let s = upload_all(device, layers.iter().map(|layer| layer.s.as_ref()))?;
    let gradient = |gradient: &'_ Option<Gradient>| gradient.as_ref().map(|gradient| gradient.matrix.clone());
    let mut upload_gradients = |pick: fn(&BackwardLayer) -> &Option<Gradient>| {
        let matrices: Vec<_> = layers.iter().map(|layer| gradient(pick(layer))).collect();
        upload_all(device, matrices.iter().map(Option::as_ref))
    };
    let mut da = upload_gradients(|layer| &layer.da)?;
    let mut db = upload_gradients(|layer| &layer.db)?;
    let mut dbias = upload_gradients(|layer| &layer.dbias)?;
    let adapters = layers
        .iter()
        .map(|layer| AdapterOnDevice::new(device, &layer.adapter))
        .collect::<Result<Vec<_>>>()?;

    let mut projections = Vec::new();
    let outputs = da.iter_mut().zip(&mut db).zip(&mut dbias);
    for (index, ((da, db), dbias)) in outputs.enumerate() {
        projections.push(BackwardProjection {
            w: optional_view(&w[index])?.expect("uploaded"),
            adapter: adapters[index].view()?,
            dy: optional_view(&dy[index])?.expect("uploaded"),
            s: optional_view(&s[index])?,
            da: output(da, &layers[index].da)?,
            db: output(db, &layers[index].db)?,
            dbias: output(dbias, &layers[index].dbias)?,
        });
    }
    let (view, dropout) = (optional_view(&x)?, dropout(arguments.dropout)?);
    let dx_output = output(&mut dx, &arguments.dx)?;
    let result = match <[_; 1]>::try_from(projections) {
        Ok([BackwardProjection { w, adapter, dy, s, da, db, dbias }]) => {
            let op = Backward { x: view, w, adapter, dropout, dy, s, dx: dx_output, da, db, dbias };
            device.backend().backward(op)
        }
        Err(projections) => {
            let op = BackwardSiblings { x: view, dropout, dx: dx_output, projections };
            device.backend().backward_siblings(op)
        }
    };

    assert_unchanged(device, "x", x, arguments.x.as_ref());
    read_back(device, "dx", dx, arguments.dx.as_mut().map(|dx| &mut dx.matrix));
    let on_device = adapters.into_iter().zip(w).zip(dy).zip(s).zip(da).zip(db).zip(dbias);
    for (layer, ((((((adapter, w), dy), s), da), db), dbias)) in layers.iter_mut().zip(on_device) {
        adapter.assert_unchanged(device, &layer.adapter);
        assert_unchanged(device, "w", w, Some(&layer.w));
        assert_unchanged(device, "dy", dy, Some(&layer.dy));
        assert_unchanged(device, "s", s, layer.s.as_ref());
        read_back(device, "da", da, layer.da.as_mut().map(|da| &mut da.matrix));
        read_back(device, "db", db, layer.db.as_mut().map(|db| &mut db.matrix));
        read_back(device, "dbias", dbias, layer.dbias.as_mut().map(|dbias| &mut dbias.matrix));
    }
    result
}

fn assert_unchanged<D: TestDevice>(
    device: &mut D,
    name: &str,
    on_device: Option<OnDevice<D>>,
    matrix: Option<&Matrix>,
) {
    if let (Some(on_device), Some(matrix)) = (on_device, matrix) {
        on_device.assert_unchanged(device, name, matrix);
    }
}

fn read_back<D: TestDevice>(
    device: &mut D,
    name: &str,
    on_device: Option<OnDevice<D>>,
    matrix: Option<&mut Matrix>,
) {
    if let (Some(on_device), Some(matrix)) = (on_device, matrix) {
        on_device.read_back(device, name, matrix);
    }
}

/// Adds an adapter to `w`, takes one out, or both, rounded to nearest.
pub fn update_weights<D: TestDevice>(
    device: &mut D,
    w: &mut Matrix,
    remove: Option<&AdapterArguments>,
    add: Option<&AdapterArguments>,
    record: Option<&mut RestoreRecord<D::Codes>>,
) -> Result<()> {
    let update = Update { remove, add, ..Update::default() };
    update.run(device, w, record).map(|_| ())
}

/// What to do to a weight.
#[derive(Clone, Copy, Debug, Default)]
pub struct Update<'a> {
    pub remove: Option<&'a AdapterArguments>,
    pub add: Option<&'a AdapterArguments>,
    pub rounding: Rounding,
    pub report: bool,
}

impl Update<'_> {
    /// Updates `w` on the device.
    pub fn run<D: TestDevice>(
        self,
        device: &mut D,
        w: &mut Matrix,
        record: Option<&mut RestoreRecord<D::Codes>>,
    ) -> Result<Option<MergeReport>> {
        let Update { remove, add, rounding, report } = self;
        let mut on_device = OnDevice::new(device, w)?;
        let removed = remove.map(|adapter| AdapterOnDevice::new(device, adapter)).transpose()?;
        let added = add.map(|adapter| AdapterOnDevice::new(device, adapter)).transpose()?;
        let result = device.backend().update_weights(WeightUpdate {
            w: on_device.view_mut()?,
            remove: removed.as_ref().map(AdapterOnDevice::view).transpose()?,
            add: added.as_ref().map(AdapterOnDevice::view).transpose()?,
            rounding,
            record,
            report,
        });
        for (on_device, adapter) in [(removed, remove), (added, add)] {
            if let (Some(on_device), Some(adapter)) = (on_device, adapter) {
                on_device.assert_unchanged(device, adapter);
            }
        }
        on_device.read_back(device, "w", w);
        result
    }
}

/// Writes s·A·B to `delta`.
pub fn delta<D: TestDevice>(device: &mut D, adapter: &AdapterArguments, delta: &mut Matrix) -> Result<()> {
    let on_device_adapter = AdapterOnDevice::new(device, adapter)?;
    let mut on_device = OnDevice::new(device, delta)?;
    let op = Delta { adapter: on_device_adapter.view()?, delta: on_device.view_mut()? };
    let result = device.backend().delta(op);
    on_device_adapter.assert_unchanged(device, adapter);
    on_device.read_back(device, "delta", delta);
    result
}
