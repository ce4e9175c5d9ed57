//! Plans that are used again: training and inference repeat the same shapes, and only addresses and dropout's random numbers change.
//!
//! A plan depends on all that [`Operation::visit`] shows, but for its inputs: addresses, of which it only sees whether vectors are
//! aligned, and the seed and offset of dropout, which it passes on. So it is made with stand-ins for the inputs, which are found
//! again in its steps, and kept. A later call with equal numbers fills in its own inputs: it plans nothing and allocates nothing.

use super::backward::backward;
use super::convert::convert;
use super::forward::forward;
use super::frozen::frozen;
use super::joined::{below, beside};
use super::{Plan, Settings};
use crate::constants::element::VECTOR_BYTES;
use crate::cuda::step::Step;
use crate::memory::{Raw, RawBuffer};
use crate::ops::{
    Adapter, BackwardProjection, BackwardSiblings, Conversion, ForwardSiblings, Frozen, Output, Projection,
    WriteMode,
};
use crate::{DType, Dropout, Error, Layout, MatrixMut, MatrixRef, Result};

/// Plans that are kept. A transformer with a few sequence lengths has some dozens; one takes a few kilobytes.
pub const MOST_PLANS: usize = 256;

/// An operation whose plan can be used again.
pub trait Operation {
    /// Shows everything that the plan depends on to the visitor, always in the same order, and takes the inputs that it gives.
    ///
    /// # Errors
    /// A matrix cannot have the address that the visitor gives it.
    fn visit(&mut self, visitor: &mut impl Visitor) -> Result<()>;

    /// The plan, with scratch memory from `workspace_base`, a multiple of 256.
    ///
    /// # Errors
    /// The operation is too large for the device.
    fn plan(&self, settings: Settings, workspace_base: u64) -> Result<Plan>;
}

impl<O: Operation> Operation for &mut O {
    fn visit(&mut self, visitor: &mut impl Visitor) -> Result<()> {
        (**self).visit(visitor)
    }

    fn plan(&self, settings: Settings, workspace_base: u64) -> Result<Plan> {
        (**self).plan(settings, workspace_base)
    }
}

/// Who looks at an operation.
pub trait Visitor {
    /// A part of the operation that decides what its plan is.
    fn number(&mut self, value: u64);

    /// A part that the plan passes on; it may only look at its remainder by `alignment`. Gives what to put in its place.
    fn input(&mut self, value: u64, alignment: u64) -> u64;
}

/// A plan for inputs that are yet to be filled in.
#[derive(Debug)]
pub struct Template {
    plan: Plan,
    blanks: Vec<Blank>,
}

/// Where an input goes: at `place` of step `step`, with `offset` added.
#[derive(Clone, Copy, Debug)]
struct Blank {
    step: usize,
    place: Place,
    input: usize,
    offset: u64,
}

/// A `u64` of a step.
#[derive(Clone, Copy, Debug)]
enum Place {
    /// In a launch's arguments, from this byte on.
    Argument(usize),
    /// The address of one of a launch's tensor maps.
    TensorMap(usize),
    /// The address of an operand of a product.
    A,
    B,
    C,
    /// The address of a fill.
    Zero,
}

/// Stands for an input: its number above these bits, and below them what is added to it.
const OFFSET_BITS: u32 = 44;
/// More inputs than this do not fit above the offsets.
const MOST_INPUTS: usize = (1 << (u64::BITS - OFFSET_BITS)) - 2;
/// The stand-in of scratch memory, which is the first input.
const WORKSPACE: u64 = 1 << OFFSET_BITS;

/// Puts stand-ins in the places of inputs.
#[derive(Debug)]
struct StandIns {
    /// By the number of the input.
    given: Vec<u64>,
}

impl Visitor for StandIns {
    fn number(&mut self, _: u64) {}

    fn input(&mut self, value: u64, alignment: u64) -> u64 {
        let stand_in = WORKSPACE * (self.given.len() as u64 + 1) + value % alignment;
        self.given.push(stand_in);
        stand_in
    }
}

impl Template {
    /// Plans an operation.
    ///
    /// # Errors
    /// The operation is too large for the device, or has more than about a million matrices.
    fn new(mut op: impl Operation, settings: Settings, inputs: usize) -> Result<Self> {
        if inputs > MOST_INPUTS {
            return Err(Error::Unsupported(format!(
                "an operation on {inputs} matrices: more than {MOST_INPUTS}"
            )));
        }
        let mut stand_ins = StandIns { given: vec![WORKSPACE] };
        op.visit(&mut stand_ins)?;
        let plan = op.plan(settings, WORKSPACE)?;
        if plan.workspace_bytes as u64 >= WORKSPACE {
            return Err(Error::OutOfMemory { needed: plan.workspace_bytes, purpose: "the workspace" });
        }
        let mut blanks = Vec::new();
        for (number, step) in plan.steps.iter().enumerate() {
            for place in places(step) {
                let value = read(step, place);
                // What is not there is 0.
                let Some(input) = (value >> OFFSET_BITS).checked_sub(1) else { continue };
                let input = input as usize;
                let offset = value.wrapping_sub(stand_ins.given[input]);
                blanks.push(Blank { step: number, place, input, offset });
            }
        }
        Ok(Template { plan, blanks })
    }
}

/// The `u64`s of a step that may be inputs.
fn places(step: &Step) -> Vec<Place> {
    match step {
        Step::Launch(launch) => {
            let arguments = launch.inputs.iter().map(|&place| Place::Argument(place));
            arguments.chain((0..launch.tensor_maps.len()).map(Place::TensorMap)).collect()
        }
        Step::Product(_) => vec![Place::A, Place::B, Place::C],
        Step::Zero(_) => vec![Place::Zero],
    }
}

fn read(step: &Step, place: Place) -> u64 {
    match (step, place) {
        (Step::Launch(launch), Place::Argument(place)) => {
            bytemuck::pod_read_unaligned(&launch.arguments[place..place + size_of::<u64>()])
        }
        (Step::Launch(launch), Place::TensorMap(index)) => launch.tensor_maps[index].1.address,
        (Step::Product(product), Place::A) => product.a.address,
        (Step::Product(product), Place::B) => product.b.address,
        (Step::Product(product), Place::C) => product.c.address,
        (Step::Zero(zero), Place::Zero) => zero.address,
        (Step::Launch(_) | Step::Product(_) | Step::Zero(_), _) => 0,
    }
}

fn write(step: &mut Step, place: Place, value: u64) {
    match (step, place) {
        (Step::Launch(launch), Place::Argument(place)) => {
            launch.arguments[place..place + size_of::<u64>()].copy_from_slice(&value.to_ne_bytes());
        }
        (Step::Launch(launch), Place::TensorMap(index)) => launch.tensor_maps[index].1.address = value,
        (Step::Product(product), Place::A) => product.a.address = value,
        (Step::Product(product), Place::B) => product.b.address = value,
        (Step::Product(product), Place::C) => product.c.address = value,
        (Step::Zero(zero), Place::Zero) => zero.address = value,
        (Step::Launch(_) | Step::Product(_) | Step::Zero(_), _) => {}
    }
}

/// The plans of the last operations, for those that come again.
#[derive(Debug, Default)]
pub struct Plans {
    /// The last used comes first.
    kept: Vec<Kept>,
    description: Description,
}

#[derive(Debug)]
struct Kept {
    key: Box<[u64]>,
    template: Template,
}

/// Writes down an operation: what makes two alike, and their inputs, after a place for that of scratch memory.
#[derive(Debug, Default)]
struct Description {
    key: Vec<u64>,
    inputs: Vec<u64>,
}

impl Visitor for Description {
    fn number(&mut self, value: u64) {
        self.key.push(value);
    }

    fn input(&mut self, value: u64, alignment: u64) -> u64 {
        self.key.push(value % alignment);
        self.inputs.push(value);
        value
    }
}

/// A plan whose inputs are known but for the place of scratch memory.
#[derive(Debug)]
pub struct Ready<'a> {
    template: &'a mut Template,
    inputs: &'a mut [u64],
}

impl Plans {
    /// The plan of a checked operation: a kept one, or a new one that is kept from now on.
    ///
    /// # Errors
    /// The operation is too large for the device.
    pub fn of(&mut self, mut op: impl Operation, settings: Settings) -> Result<Ready<'_>> {
        let Plans { kept, description } = self;
        description.key.clear();
        description.inputs.clear();
        description.inputs.push(0);
        let Settings { target, f32_math } = settings;
        let (major, minor) = target.compute_capability;
        for number in [f32_math as u32, major, minor, target.shared_bytes_per_block] {
            description.number(number.into());
        }
        op.visit(description)?;
        match kept.iter().position(|kept| *kept.key == description.key) {
            Some(index) => kept[..=index].rotate_right(1),
            None => {
                let template = Template::new(op, settings, description.inputs.len())?;
                kept.truncate(MOST_PLANS - 1);
                kept.insert(0, Kept { key: description.key.clone().into(), template });
            }
        }
        Ok(Ready { template: &mut kept[0].template, inputs: &mut description.inputs })
    }
}

#[cfg(test)]
impl Plans {
    /// How many are kept.
    pub fn count(&self) -> usize {
        self.kept.len()
    }

    /// Whether the plan of an operation like this is kept.
    pub fn holds(&mut self, op: impl Operation, settings: Settings) -> bool {
        let keys = |plans: &Plans| plans.kept.iter().map(|kept| kept.key.clone()).collect::<Vec<_>>();
        let before = keys(self);
        self.of(op, settings).is_ok() && before.contains(&self.kept[0].key)
    }
}

impl<'a> Ready<'a> {
    /// Bytes of scratch memory that the steps use.
    pub fn workspace_bytes(&self) -> usize {
        self.template.plan.workspace_bytes
    }

    /// The steps, with scratch memory from here on.
    pub fn steps(self, workspace: u64) -> &'a [Step] {
        let Template { plan, blanks } = self.template;
        self.inputs[0] = workspace;
        for &Blank { step, place, input, offset } in &*blanks {
            write(&mut plan.steps[step], place, self.inputs[input].wrapping_add(offset));
        }
        &plan.steps
    }
}

/// What operations differ in; the first number that they show.
#[derive(Clone, Copy)]
enum Kind {
    Forward,
    Backward,
    Frozen,
    Conversion,
}

// Fields are named one by one, so that a new one cannot be forgotten.

impl Operation for ForwardSiblings<'_, Raw> {
    fn visit(&mut self, visitor: &mut impl Visitor) -> Result<()> {
        let ForwardSiblings { x, dropout, projections } = self;
        visitor.number(Kind::Forward as u64);
        let x_before = *x;
        visit_matrix(x, visitor)?;
        visit_dropout(dropout, visitor);
        visitor.number(projections.len() as u64);
        for Projection { w, adapter, bias, y, s } in projections {
            visit_weight(w, adapter, visitor)?;
            visit_optional(bias, visitor, visit_matrix)?;
            visit_matrix_mut(y, visitor)?;
            visit_optional(s, visitor, |s, visitor| {
                let layout = s.layout();
                let joined = beside(x_before, s.as_ref()).is_some();
                let buffer = s.as_ref().buffer();
                *s = MatrixMut::from_buffer(
                    visit_neighbour(buffer, layout, joined, x_before, *x, visitor),
                    layout,
                )?;
                Ok(())
            })?;
        }
        Ok(())
    }

    fn plan(&self, settings: Settings, workspace_base: u64) -> Result<Plan> {
        forward(self, settings, workspace_base)
    }
}

impl Operation for BackwardSiblings<'_, Raw> {
    fn visit(&mut self, visitor: &mut impl Visitor) -> Result<()> {
        let BackwardSiblings { x, dropout, dx, projections } = self;
        visitor.number(Kind::Backward as u64);
        visit_optional(x, visitor, visit_matrix)?;
        visit_dropout(dropout, visitor);
        visit_optional(dx, visitor, visit_output)?;
        visitor.number(projections.len() as u64);
        for BackwardProjection { w, adapter, dy, s, da, db, dbias } in projections {
            visit_weight(w, adapter, visitor)?;
            visit_matrix(dy, visitor)?;
            visit_optional(s, visitor, visit_matrix)?;
            for output in [da, db, dbias] {
                visit_optional(output, visitor, visit_output)?;
            }
        }
        Ok(())
    }

    fn plan(&self, settings: Settings, workspace_base: u64) -> Result<Plan> {
        backward(self, settings, workspace_base)
    }
}

impl Operation for Frozen<'_, Raw> {
    fn visit(&mut self, visitor: &mut impl Visitor) -> Result<()> {
        let Frozen { x, w, bias, y } = self;
        visitor.number(Kind::Frozen as u64);
        visit_matrix(x, visitor)?;
        visit_matrix(w, visitor)?;
        visit_optional(bias, visitor, visit_matrix)?;
        visit_output(y, visitor)
    }

    fn plan(&self, settings: Settings, workspace_base: u64) -> Result<Plan> {
        frozen(self, settings, workspace_base)
    }
}

impl Operation for Conversion<'_, Raw> {
    fn visit(&mut self, visitor: &mut impl Visitor) -> Result<()> {
        let Conversion { source, target } = self;
        visitor.number(Kind::Conversion as u64);
        visit_matrix(source, visitor)?;
        visit_matrix_mut(target, visitor)
    }

    fn plan(&self, settings: Settings, workspace_base: u64) -> Result<Plan> {
        convert(self, settings, workspace_base)
    }
}

fn visit_optional<T, V: Visitor>(
    value: &mut Option<T>,
    visitor: &mut V,
    visit: impl Fn(&mut T, &mut V) -> Result<()>,
) -> Result<()> {
    visitor.number(value.is_some().into());
    value.as_mut().map_or(Ok(()), |value| visit(value, visitor))
}

fn visit_layout(dtype: DType, layout: Layout, visitor: &mut impl Visitor) {
    let [rows, cols, stride] = [layout.rows(), layout.cols(), layout.stride()].map(|extent| extent as u64);
    for number in [dtype as u64, rows, cols, stride, layout.is_transposed().into()] {
        visitor.number(number);
    }
}

/// A matrix that may be a part of one with another, `before` and after the visit of that one: then it stays where it is beside it, and
/// is no input of its own.
fn visit_neighbour(
    buffer: RawBuffer,
    layout: Layout,
    joined: bool,
    before: MatrixRef<'_, Raw>,
    after: MatrixRef<'_, Raw>,
    visitor: &mut impl Visitor,
) -> RawBuffer {
    visitor.number(joined.into());
    if !joined {
        return visit_buffer(buffer, layout, visitor);
    }
    visit_layout(buffer.dtype, layout, visitor);
    let distance = buffer.address.wrapping_sub(before.buffer().address);
    visitor.number(distance);
    RawBuffer { address: after.buffer().address.wrapping_add(distance), ..buffer }
}

fn visit_buffer(buffer: RawBuffer, layout: Layout, visitor: &mut impl Visitor) -> RawBuffer {
    visit_layout(buffer.dtype, layout, visitor);
    RawBuffer { address: visitor.input(buffer.address, VECTOR_BYTES as u64), ..buffer }
}

fn visit_matrix(matrix: &mut MatrixRef<'_, Raw>, visitor: &mut impl Visitor) -> Result<()> {
    let layout = matrix.layout();
    *matrix = MatrixRef::from_buffer(visit_buffer(matrix.buffer(), layout, visitor), layout)?;
    Ok(())
}

fn visit_matrix_mut(matrix: &mut MatrixMut<'_, Raw>, visitor: &mut impl Visitor) -> Result<()> {
    let layout = matrix.layout();
    *matrix = MatrixMut::from_buffer(visit_buffer(matrix.as_ref().buffer(), layout, visitor), layout)?;
    Ok(())
}

fn visit_output(output: &mut Output<'_, Raw>, visitor: &mut impl Visitor) -> Result<()> {
    let Output { matrix, mode } = output;
    visitor.number((*mode == WriteMode::Accumulate).into());
    visit_matrix_mut(matrix, visitor)
}

/// W and its adapter, whose A may lie beside W, and B below it.
fn visit_weight(
    w: &mut MatrixRef<'_, Raw>,
    adapter: &mut Adapter<'_, Raw>,
    visitor: &mut impl Visitor,
) -> Result<()> {
    let Adapter { a, b, scale } = adapter;
    let before = *w;
    visit_matrix(w, visitor)?;
    visitor.number(scale.to_bits().into());
    let (a_joined, b_joined) = (beside(before, *a).is_some(), below(before, *b).is_some());
    for (part, joined) in [(a, a_joined), (b, b_joined)] {
        let layout = part.layout();
        let buffer = visit_neighbour(part.buffer(), layout, joined, before, *w, visitor);
        *part = MatrixRef::from_buffer(buffer, layout)?;
    }
    Ok(())
}

fn visit_dropout(dropout: &mut Option<Dropout>, visitor: &mut impl Visitor) {
    visitor.number(dropout.is_some().into());
    visitor.number(dropout.map_or(0, |dropout| dropout.threshold().into()));
    if let Some(dropout) = dropout {
        let (seed, offset) = (dropout.seed(), dropout.offset());
        *dropout = dropout.with_numbers(visitor.input(seed, 1), visitor.input(offset, 1));
    }
}
