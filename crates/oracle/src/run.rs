//! Runs an operation on a device with arguments from the host, and checks what must hold after every operation:
//! inputs are as they were, and nothing outside the outputs was written.

use crate::device::{Codes, TestDevice, Tested};
use crate::matrix::{Arrangement, Data, Matrix, nearest};
use crate::oracle;
use lora_kernels::ops::{
    BackwardProjection, BackwardSiblings, ForwardSiblings, Output, Projection, WriteMode,
};
use lora_kernels::padded::{InputWithRoom, PaddedWeight};
use lora_kernels::restore::RestoreRecord;
use lora_kernels::{
    Adapter, Backend, Backward, Conversion, Delta, Device, Dropout, Forward, Frozen, FrozenBackward, Layout,
    MatrixMut, MatrixRef, MergeReport, Result, Rounding, WeightUpdate,
};

/// A, B and s.
#[derive(Clone, Debug)]
pub struct AdapterArguments {
    pub a: Matrix,
    pub b: Matrix,
    pub scale: f32,
}

/// Where the operands of a layer are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Each in a buffer of its own.
    Apart,
    /// W, A and B in a padded weight.
    Padded,
    /// And the largest S of a forward beside X.
    BesideX,
}

/// Ranks that padded weights and inputs have room for beyond those that are needed.
const SPARE: usize = 3;

/// Arguments of a forward; the outputs are replaced by what the device wrote.
#[derive(Clone, Debug)]
pub struct ForwardArguments {
    pub x: Matrix,
    pub dropout: Option<oracle::Dropout>,
    pub projections: Vec<ForwardLayer>,
    pub place: Place,
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
    pub place: Place,
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

/// Arguments of a layer without adapter; Y is replaced by what the device wrote.
#[derive(Clone, Debug)]
pub struct FrozenArguments {
    pub x: Matrix,
    pub w: Matrix,
    pub bias: Option<Matrix>,
    pub y: Gradient,
}

/// Arguments of its gradient; dX is replaced by what the device wrote.
#[derive(Clone, Debug)]
pub struct FrozenBackwardArguments {
    pub dy: Matrix,
    pub w: Matrix,
    pub dx: Gradient,
}

type Memory<D> = <<D as TestDevice>::Device as Backend>::Memory;

/// A matrix in the device's memory.
struct OnDevice<D: TestDevice> {
    buffer: <D::Device as Device>::Buffer,
    /// Elements before the first.
    offset: usize,
    layout: Layout,
}

impl<D: TestDevice> OnDevice<D> {
    fn new(device: &Tested<D>, matrix: &Matrix) -> Result<Self> {
        let layout = matrix.layout()?;
        let buffer = device.upload(matrix.data.host()).expect("the upload succeeds");
        Ok(OnDevice { buffer, offset: matrix.arrangement.offset, layout })
    }

    fn view(&self) -> Result<MatrixRef<'_, Memory<D>>> {
        D::Device::view(&self.buffer, self.offset, self.layout)
    }

    fn view_mut(&mut self) -> Result<MatrixMut<'_, Memory<D>>> {
        D::Device::view_mut(&mut self.buffer, self.offset, self.layout)
    }

    fn download(&self, device: &Tested<D>, like: &Data) -> Data {
        let mut data = Data::poisoned(like.dtype(), like.count());
        device.download(&self.buffer, 0, data.host_mut()).expect("the download succeeds");
        data
    }

    /// Panics unless the device's copy of this input still has the bits that were uploaded.
    fn assert_unchanged(self, device: &Tested<D>, name: &str, matrix: &Matrix) {
        let now = self.download(device, &matrix.data);
        assert!(now.bytes() == matrix.data.bytes(), "{}: the input `{name}` was written to", D::NAME);
    }

    /// Takes over what the device wrote.
    fn read_back(self, device: &Tested<D>, name: &str, matrix: &mut Matrix) {
        matrix.data = self.download(device, &matrix.data);
        matrix.assert_surroundings_untouched(name);
    }
}

struct AdapterOnDevice<D: TestDevice> {
    a: OnDevice<D>,
    b: OnDevice<D>,
    scale: f32,
}

impl<D: TestDevice> AdapterOnDevice<D> {
    fn new(device: &Tested<D>, adapter: &AdapterArguments) -> Result<Self> {
        let (a, b) = (OnDevice::new(device, &adapter.a)?, OnDevice::new(device, &adapter.b)?);
        Ok(AdapterOnDevice { a, b, scale: adapter.scale })
    }

    fn view(&self) -> Result<Adapter<'_, Memory<D>>> {
        Ok(Adapter { a: self.a.view()?, b: self.b.view()?, scale: self.scale })
    }

    fn assert_unchanged(self, device: &Tested<D>, adapter: &AdapterArguments) {
        self.a.assert_unchanged(device, "a", &adapter.a);
        self.b.assert_unchanged(device, "b", &adapter.b);
    }
}

/// W and its adapter on the device.
enum Operands<D: TestDevice> {
    Apart { w: OnDevice<D>, adapter: AdapterOnDevice<D> },
    Padded(PaddedWeight<D::Device>),
}

impl<D: TestDevice> Operands<D> {
    fn new(device: &Tested<D>, w: &Matrix, adapter: &AdapterArguments, place: Place) -> Result<Self> {
        let w = OnDevice::new(device, w)?;
        let adapter = AdapterOnDevice::new(device, adapter)?;
        if place == Place::Apart {
            return Ok(Operands::Apart { w, adapter });
        }
        let room = adapter.view()?.rank() + SPARE;
        let mut weight = PaddedWeight::new(&**device, w.view()?, room)?;
        weight.write_adapter(device, &adapter.view()?)?;
        Ok(Operands::Padded(weight))
    }

    fn w(&self) -> Result<MatrixRef<'_, Memory<D>>> {
        match self {
            Operands::Apart { w, .. } => w.view(),
            Operands::Padded(weight) => weight.w(),
        }
    }

    fn adapter(&self) -> Result<Adapter<'_, Memory<D>>> {
        match self {
            Operands::Apart { adapter, .. } => adapter.view(),
            Operands::Padded(weight) => weight.adapter(),
        }
    }

    /// Panics unless W has the bits that were given, and A and B the nearest values of W's type.
    fn assert_unchanged(self, device: &Tested<D>, w: &Matrix, adapter: &AdapterArguments) {
        match self {
            Operands::Apart { w: on_device, adapter: on_device_adapter } => {
                on_device.assert_unchanged(device, "w", w);
                on_device_adapter.assert_unchanged(device, adapter);
            }
            Operands::Padded(weight) => {
                let parts = weight.adapter().expect("it was written");
                for (name, view, given) in [
                    ("w", weight.w().expect("it is there"), w),
                    ("a", parts.a, &adapter.a),
                    ("b", parts.b, &adapter.b),
                ] {
                    let found = packed_copy(device, view);
                    for (i, j) in (0..given.rows).flat_map(|i| (0..given.cols).map(move |j| (i, j))) {
                        let (value, expected) = (found.get(i, j), nearest(w.dtype(), given.get(i, j)));
                        assert!(
                            value.to_bits() == expected.to_bits(),
                            "{}: `{name}`[{i}, {j}] of a padded weight is {value}, not {expected}",
                            D::NAME
                        );
                    }
                }
            }
        }
    }
}

/// A copy on the host of a matrix on the device, which is not changed.
pub fn packed_copy<D: TestDevice>(device: &Tested<D>, matrix: MatrixRef<'_, Memory<D>>) -> Matrix {
    let (rows, cols) = (matrix.rows(), matrix.cols());
    let mut copy = Matrix::poisoned(matrix.dtype(), rows, cols, Arrangement::default());
    let mut on_device = OnDevice::<D>::new(device, &copy).expect("it fits");
    device
        .convert(Conversion { source: matrix, target: on_device.view_mut().expect("it fits") })
        .expect("a copy");
    on_device.read_back(device, "a copy", &mut copy);
    copy
}

fn dropout(dropout: Option<oracle::Dropout>) -> Result<Option<Dropout>> {
    dropout.map(|d| Dropout::new(d.probability, d.seed, d.offset)).transpose()
}

fn upload_all<'m, D: TestDevice>(
    device: &Tested<D>,
    matrices: impl Iterator<Item = Option<&'m Matrix>>,
) -> Result<Vec<Option<OnDevice<D>>>> {
    matrices.map(|matrix| matrix.map(|matrix| OnDevice::new(device, matrix)).transpose()).collect()
}

fn optional_view<D: TestDevice>(matrix: &Option<OnDevice<D>>) -> Result<Option<MatrixRef<'_, Memory<D>>>> {
    matrix.as_ref().map(OnDevice::view).transpose()
}

fn optional_view_mut<D: TestDevice>(
    matrix: &mut Option<OnDevice<D>>,
) -> Result<Option<MatrixMut<'_, Memory<D>>>> {
    matrix.as_mut().map(OnDevice::view_mut).transpose()
}

fn output<'a, D: TestDevice>(
    on_device: &'a mut Option<OnDevice<D>>,
    gradient: &Option<Gradient>,
) -> Result<Option<Output<'a, Memory<D>>>> {
    let Some(gradient) = gradient else { return Ok(None) };
    let matrix = optional_view_mut(on_device)?;
    Ok(matrix.map(|matrix| Output { matrix, mode: gradient.mode }))
}

/// The forward of one or more layers.
pub fn forward<D: TestDevice>(device: &Tested<D>, arguments: &mut ForwardArguments) -> Result<()> {
    let layers = &mut arguments.projections;
    let features = arguments.x.cols;
    let ranks = layers.iter().map(|layer| layer.adapter.a.cols);
    // The layer whose S lies beside X.
    let owner = ranks.clone().enumerate().max_by_key(|&(_, rank)| rank).map(|(index, _)| index);
    let owner = owner.filter(|_| arguments.place == Place::BesideX);
    let room = if owner.is_some() { ranks.max().unwrap_or(0) + SPARE } else { 0 };
    let Matrix { rows, arrangement, .. } = arguments.x;
    let mut given_x = match owner {
        None => arguments.x.clone(),
        Some(_) => Matrix::from_fn(arguments.x.dtype(), rows, features + room, arrangement, |i, j| {
            if j < features { arguments.x.get(i, j) } else { f64::NAN }
        }),
    };
    let mut x = OnDevice::new(device, &given_x)?;
    let operands = layers
        .iter()
        .map(|layer| Operands::<D>::new(device, &layer.w, &layer.adapter, arguments.place))
        .collect::<Result<Vec<_>>>()?;
    let bias = upload_all(device, layers.iter().map(|layer| layer.bias.as_ref()))?;
    let mut y = upload_all(device, layers.iter().map(|layer| Some(&layer.y)))?;
    let mut s = upload_all(device, layers.iter().map(|layer| layer.s.as_ref()))?;
    let result = {
        let mut input;
        let (view, mut beside_x) = match owner {
            None => (x.view()?, None),
            Some(owner) => {
                input = InputWithRoom::new(x.view_mut()?, features)?;
                let (x, s) = input.split(layers[owner].adapter.a.cols)?;
                (x, Some(s))
            }
        };
        let mut projections = Vec::new();
        for (index, (y, s)) in y.iter_mut().zip(&mut s).enumerate() {
            projections.push(Projection {
                w: operands[index].w()?,
                adapter: operands[index].adapter()?,
                bias: optional_view(&bias[index])?,
                y: optional_view_mut(y)?.expect("uploaded"),
                s: if owner == Some(index) { beside_x.take() } else { optional_view_mut(s)? },
            });
        }
        let dropout = dropout(arguments.dropout)?;
        match <[_; 1]>::try_from(projections) {
            Ok([Projection { w, adapter, bias, y, s }]) => {
                device.forward(Forward { x: view, w, adapter, bias, dropout, y, s })
            }
            Err(projections) => device.forward_siblings(ForwardSiblings { x: view, dropout, projections }),
        }
    };

    x.read_back(device, "x", &mut given_x);
    for (i, j) in (0..rows).flat_map(|i| (0..features).map(move |j| (i, j))) {
        assert!(given_x.bits(i, j) == arguments.x.bits(i, j), "{}: the input `x` was written to", D::NAME);
    }
    let on_device = operands.into_iter().zip(bias).zip(y).zip(s);
    for (index, (layer, (((operands, bias), y), s))) in layers.iter_mut().zip(on_device).enumerate() {
        operands.assert_unchanged(device, &layer.w, &layer.adapter);
        assert_unchanged(device, "bias", bias, layer.bias.as_ref());
        read_back(device, "y", y, Some(&mut layer.y));
        read_back(device, "s", s, layer.s.as_mut());
        if let Some(s) = layer.s.as_mut().filter(|_| owner == Some(index)) {
            let Matrix { rows, cols, arrangement, .. } = *s;
            *s = Matrix::from_fn(s.dtype(), rows, cols, arrangement, |i, j| given_x.get(i, features + j));
        }
    }
    result
}

/// The backward of one or more layers.
pub fn backward<D: TestDevice>(device: &Tested<D>, arguments: &mut BackwardArguments) -> Result<()> {
    let layers = &mut arguments.projections;
    let x = arguments.x.as_ref().map(|x| OnDevice::new(device, x)).transpose()?;
    let mut dx = arguments.dx.as_ref().map(|dx| OnDevice::new(device, &dx.matrix)).transpose()?;
    let operands = layers
        .iter()
        .map(|layer| Operands::<D>::new(device, &layer.w, &layer.adapter, arguments.place))
        .collect::<Result<Vec<_>>>()?;
    let dy = upload_all(device, layers.iter().map(|layer| Some(&layer.dy)))?;
    let s = upload_all(device, layers.iter().map(|layer| layer.s.as_ref()))?;
    let gradient = |gradient: &'_ Option<Gradient>| gradient.as_ref().map(|gradient| gradient.matrix.clone());
    let upload_gradients = |pick: fn(&BackwardLayer) -> &Option<Gradient>| {
        let matrices: Vec<_> = layers.iter().map(|layer| gradient(pick(layer))).collect();
        upload_all(device, matrices.iter().map(Option::as_ref))
    };
    let mut da = upload_gradients(|layer| &layer.da)?;
    let mut db = upload_gradients(|layer| &layer.db)?;
    let mut dbias = upload_gradients(|layer| &layer.dbias)?;
    let mut projections = Vec::new();
    let outputs = da.iter_mut().zip(&mut db).zip(&mut dbias);
    for (index, ((da, db), dbias)) in outputs.enumerate() {
        projections.push(BackwardProjection {
            w: operands[index].w()?,
            adapter: operands[index].adapter()?,
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
            device.backward(op)
        }
        Err(projections) => {
            let op = BackwardSiblings { x: view, dropout, dx: dx_output, projections };
            device.backward_siblings(op)
        }
    };

    assert_unchanged(device, "x", x, arguments.x.as_ref());
    read_back(device, "dx", dx, arguments.dx.as_mut().map(|dx| &mut dx.matrix));
    let on_device = operands.into_iter().zip(dy).zip(s).zip(da).zip(db).zip(dbias);
    for (layer, (((((operands, dy), s), da), db), dbias)) in layers.iter_mut().zip(on_device) {
        operands.assert_unchanged(device, &layer.w, &layer.adapter);
        assert_unchanged(device, "dy", dy, Some(&layer.dy));
        assert_unchanged(device, "s", s, layer.s.as_ref());
        read_back(device, "da", da, layer.da.as_mut().map(|da| &mut da.matrix));
        read_back(device, "db", db, layer.db.as_mut().map(|db| &mut db.matrix));
        read_back(device, "dbias", dbias, layer.dbias.as_mut().map(|dbias| &mut dbias.matrix));
    }
    result
}

/// The forward of a layer without adapter.
pub fn frozen<D: TestDevice>(device: &Tested<D>, arguments: &mut FrozenArguments) -> Result<()> {
    let FrozenArguments { x, w, bias, y } = arguments;
    let [on_device_x, on_device_w] = [&*x, &*w].map(|matrix| OnDevice::new(device, matrix));
    let (on_device_x, on_device_w) = (on_device_x?, on_device_w?);
    let on_device_bias = bias.as_ref().map(|bias| OnDevice::new(device, bias)).transpose()?;
    let mut on_device_y = OnDevice::new(device, &y.matrix)?;
    let result = device.frozen(Frozen {
        x: on_device_x.view()?,
        w: on_device_w.view()?,
        bias: optional_view(&on_device_bias)?,
        y: Output { matrix: on_device_y.view_mut()?, mode: y.mode },
    });
    on_device_x.assert_unchanged(device, "x", x);
    on_device_w.assert_unchanged(device, "w", w);
    assert_unchanged(device, "bias", on_device_bias, bias.as_ref());
    on_device_y.read_back(device, "y", &mut y.matrix);
    result
}

/// The gradient of a layer without adapter.
pub fn frozen_backward<D: TestDevice>(
    device: &Tested<D>,
    arguments: &mut FrozenBackwardArguments,
) -> Result<()> {
    let FrozenBackwardArguments { dy, w, dx } = arguments;
    let (on_device_dy, on_device_w) = (OnDevice::new(device, dy)?, OnDevice::new(device, w)?);
    let mut on_device_dx = OnDevice::new(device, &dx.matrix)?;
    let result = device.frozen_backward(FrozenBackward {
        dy: on_device_dy.view()?,
        w: on_device_w.view()?,
        dx: Output { matrix: on_device_dx.view_mut()?, mode: dx.mode },
    });
    on_device_dy.assert_unchanged(device, "dy", dy);
    on_device_w.assert_unchanged(device, "w", w);
    on_device_dx.read_back(device, "dx", &mut dx.matrix);
    result
}

fn assert_unchanged<D: TestDevice>(
    device: &Tested<D>,
    name: &str,
    on_device: Option<OnDevice<D>>,
    matrix: Option<&Matrix>,
) {
    if let (Some(on_device), Some(matrix)) = (on_device, matrix) {
        on_device.assert_unchanged(device, name, matrix);
    }
}

fn read_back<D: TestDevice>(
    device: &Tested<D>,
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
    device: &Tested<D>,
    w: &mut Matrix,
    remove: Option<&AdapterArguments>,
    add: Option<&AdapterArguments>,
    record: Option<&mut RestoreRecord<Codes<D>>>,
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
        device: &Tested<D>,
        w: &mut Matrix,
        record: Option<&mut RestoreRecord<Codes<D>>>,
    ) -> Result<Option<MergeReport>> {
        let Update { remove, add, rounding, report } = self;
        let mut on_device = OnDevice::new(device, w)?;
        let removed = remove.map(|adapter| AdapterOnDevice::new(device, adapter)).transpose()?;
        let added = add.map(|adapter| AdapterOnDevice::new(device, adapter)).transpose()?;
        let result = device.update_weights(WeightUpdate {
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

/// Copies a matrix into another.
pub fn convert<D: TestDevice>(device: &Tested<D>, source: &Matrix, target: &mut Matrix) -> Result<()> {
    let (from, mut to) = (OnDevice::<D>::new(device, source)?, OnDevice::<D>::new(device, target)?);
    let result = device.convert(Conversion { source: from.view()?, target: to.view_mut()? });
    from.assert_unchanged(device, "source", source);
    to.read_back(device, "target", target);
    result
}

/// Writes s·A·B to `delta`.
pub fn delta<D: TestDevice>(
    device: &Tested<D>,
    adapter: &AdapterArguments,
    delta: &mut Matrix,
) -> Result<()> {
    let on_device_adapter = AdapterOnDevice::new(device, adapter)?;
    let mut on_device = OnDevice::new(device, delta)?;
    let op = Delta { adapter: on_device_adapter.view()?, delta: on_device.view_mut()? };
    let result = device.delta(op);
    on_device_adapter.assert_unchanged(device, adapter);
    on_device.read_back(device, "delta", delta);
    result
}
