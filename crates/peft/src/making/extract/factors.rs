//! Differences taken apart into A and B, by truncated singular value decomposition.

use super::pairs::Pair;
use super::plan::Part;
use super::{ExtractOptions, ExtractedModule};
use crate::adapter::AdapterLayer;
use crate::binding::order_of_parameters;
use crate::checkpoint::{Checkpoint, LayerKind};
use crate::making::linalg::{squared_distance, truncated_svd};
use crate::tensor::{Tensor, each_type};
use crate::update::round_into;
use crate::{Error, Result};
use std::collections::BTreeMap;
use std::ops::Range;

/// Elements that are converted at a time.
const PIECE: usize = 1 << 16;

/// A and B of a parameter that stacks experts, under the parameter's name.
#[derive(Debug)]
pub(super) struct StackedLayer {
    pub layer: AdapterLayer,
    /// The rank of one expert.
    pub rank: usize,
}

/// What was found so far.
#[derive(Debug, Default)]
pub(super) struct Layers {
    /// By the module's path.
    pub modules: BTreeMap<String, AdapterLayer>,
    /// By the module's path, and there in the order of definition: name, layer.
    pub stacked: BTreeMap<String, Vec<(String, StackedLayer)>>,
}

impl Layers {
    pub fn is_empty(&self) -> bool {
        self.modules.is_empty() && self.stacked.is_empty()
    }
}

pub(super) struct Factors<'a> {
    base: &'a Checkpoint,
    tuned: &'a Checkpoint,
    options: ExtractOptions,
    pub layers: Layers,
    pub report: Vec<ExtractedModule>,
}

/// The best approximation L·R of a difference, with L and R as they are stored.
struct LowRank {
    /// \[rows, rank\].
    left: Tensor,
    /// \[rank, columns\].
    right: Tensor,
    squares: f64,
    squares_left: f64,
}

impl<'a> Factors<'a> {
    pub fn new(base: &'a Checkpoint, tuned: &'a Checkpoint, options: ExtractOptions) -> Self {
        Factors { base, tuned, options, layers: Layers::default(), report: Vec::new() }
    }

    pub fn decompose(&mut self, part: &Part) -> Result<()> {
        match part {
            Part::Module { path, kind, pair } => self.module(path, *kind, pair),
            Part::Stacked { name, kind, pair } => {
                let (base, tuned) = self.tensors(pair)?;
                let shape = base.shape().to_vec();
                let len = shape[1] * shape[2];
                let found = (0..shape[0])
                    .map(|expert| {
                        let difference =
                            difference(&pair.base, &base, &tuned, expert * len..(expert + 1) * len)?;
                        self.low_rank(&pair.base, &difference, [shape[1], shape[2]])
                    })
                    .collect::<Result<Vec<_>>>()?;
                self.stack(name, *kind, found)
            }
            Part::Apart { name, experts } => {
                let found = experts
                    .iter()
                    .map(|matrices| {
                        let mut together = Vec::new();
                        let mut rows = 0;
                        for pair in matrices {
                            let (base, tuned) = self.tensors(pair)?;
                            together.extend(difference(&pair.base, &base, &tuned, 0..base.len())?);
                            rows += base.shape()[0];
                        }
                        let columns = together.len() / rows;
                        self.low_rank(&matrices[0].base, &together, [rows, columns])
                    })
                    .collect::<Result<Vec<_>>>()?;
                self.stack(name, LayerKind::Experts, found)
            }
        }
    }

    fn module(&mut self, path: &str, kind: LayerKind, pair: &Pair) -> Result<()> {
        let (base, tuned) = self.tensors(pair)?;
        let shape = base.shape().to_vec();
        let (rows, columns) = (shape[0], shape[1..].iter().product());
        let difference = difference(&pair.base, &base, &tuned, 0..base.len())?;
        drop((base, tuned));
        let found = self.low_rank(&pair.base, &difference, [rows, columns])?;
        if found.squares == 0.0 {
            return Ok(());
        }
        let rank = found.left.shape()[1];
        self.tell(path, rank, found.squares, found.squares_left);
        let (a, b) = match kind.is_input_major() {
            true => (transposed(&found.left), transposed(&found.right)),
            false => (found.right, found.left),
        };
        let (mut a_shape, mut b_shape) = (vec![rank, a.len() / rank], vec![b.len() / rank, rank]);
        if kind == LayerKind::Convolution {
            a_shape = shape.clone();
            a_shape[0] = rank;
            b_shape.resize(shape.len(), 1);
        }
        let layer = AdapterLayer {
            a: a.reshape(&a_shape)?,
            b: b.reshape(&b_shape)?,
            bias: None,
            magnitude: None,
            embedding: kind == LayerKind::Embedding,
        };
        self.layers.modules.insert(path.to_owned(), layer);
        Ok(())
    }

    /// Puts the factors of experts together: the expert is the slowest index of A's rows and the fastest of B's columns.
    fn stack(&mut self, name: &str, kind: LayerKind, experts: Vec<LowRank>) -> Result<()> {
        let sum = |part: fn(&LowRank) -> f64| experts.iter().map(part).sum::<f64>();
        let (squares, squares_left) = (sum(|one| one.squares), sum(|one| one.squares_left));
        if squares == 0.0 {
            return Ok(());
        }
        let turned = kind.is_input_major();
        let sides: Vec<(Tensor, Tensor)> = experts
            .iter()
            .map(|one| match turned {
                true => (transposed(&one.left), transposed(&one.right)),
                false => (one.right.clone(), one.left.clone()),
            })
            .collect();
        let (count, rank) = (sides.len(), sides[0].0.shape()[0]);
        let (input, output) = (sides[0].0.shape()[1], sides[0].1.shape()[0]);
        let a: Vec<f64> = sides.iter().flat_map(|(a, _)| a.to_f32()).map(f64::from).collect();
        let mut b = vec![0.0; output * rank * count];
        for (expert, (_, factor)) in sides.iter().enumerate() {
            for (index, value) in factor.to_f32().into_iter().enumerate() {
                b[index * count + expert] = f64::from(value);
            }
        }
        let layer = AdapterLayer {
            a: self.stored(&[count * rank, input], &a),
            b: self.stored(&[output, rank * count], &b),
            bias: None,
            magnitude: None,
            embedding: false,
        };
        self.tell(name, rank, squares, squares_left);
        let module = name.rsplit_once('.').map_or("", |(module, _)| module);
        let beside = self.layers.stacked.entry(module.to_owned()).or_default();
        beside.push((name.to_owned(), StackedLayer { layer, rank }));
        beside.sort_by_key(|(name, _)| order_of_parameters(name));
        Ok(())
    }

    fn tell(&mut self, module: &str, rank: usize, squares: f64, squares_left: f64) {
        self.report.push(ExtractedModule {
            module: module.to_owned(),
            rank,
            norm: squares.sqrt(),
            relative_error: (squares_left / squares).sqrt(),
        });
    }

    fn tensors(&self, pair: &Pair) -> Result<(Tensor, Tensor)> {
        Ok((self.base.tensor(&pair.base)?, self.tuned.tensor(&pair.tuned)?))
    }

    fn low_rank(&self, name: &str, difference: &[f64], [rows, columns]: [usize; 2]) -> Result<LowRank> {
        let squares: f64 = difference.iter().map(|value| value * value).sum();
        if !squares.is_finite() {
            return Err(Error::tensor(name, "holds NaN or infinity"));
        }
        if squares == 0.0 {
            let rank = self.options.rank.min(rows).min(columns);
            let zeros = |shape: [usize; 2]| Tensor::zeros(self.options.dtype, &shape);
            let (left, right) = (zeros([rows, rank]), zeros([rank, columns]));
            return Ok(LowRank { left, right, squares, squares_left: 0.0 });
        }
        let svd = truncated_svd(difference, rows, columns, self.options.rank)?;
        let rank = svd.values.len();
        let roots: Vec<f64> = svd.values.iter().map(|value| value.sqrt()).collect();
        let exact: Vec<f64> = svd.left.iter().enumerate().map(|(i, value)| value * roots[i % rank]).collect();
        let left = self.stored(&[rows, rank], &exact);
        let exact: Vec<f64> =
            svd.right.iter().enumerate().map(|(i, value)| value * roots[i / columns]).collect();
        let right = self.stored(&[rank, columns], &exact);
        let doubles = |factor: &Tensor| factor.to_f32().into_iter().map(f64::from).collect::<Vec<f64>>();
        let squares_left = squared_distance(difference, [rows, columns], &doubles(&left), &doubles(&right));
        Ok(LowRank { left, right, squares, squares_left })
    }

    fn stored(&self, shape: &[usize], exact: &[f64]) -> Tensor {
        let mut factor = Tensor::zeros(self.options.dtype, shape);
        round_into(&mut factor, exact);
        factor
    }
}

/// tuned − base of a range of elements.
fn difference(name: &str, base: &Tensor, tuned: &Tensor, range: Range<usize>) -> Result<Vec<f64>> {
    let mut difference: Vec<f64> = Vec::new();
    difference.try_reserve_exact(range.len()).map_err(|_| Error::OutOfMemory {
        bytes: 8 * range.len() as u64,
        purpose: format!("the difference of `{name}` in `f64`"),
    })?;
    let mut start = range.start;
    while start < range.end {
        let piece = start..range.end.min(start + PIECE);
        start = piece.end;
        let (base, tuned) = (base.f32_range(piece.clone()), tuned.f32_range(piece));
        difference.extend(base.iter().zip(&*tuned).map(|(base, tuned)| f64::from(*tuned) - f64::from(*base)));
    }
    Ok(difference)
}

fn transposed(matrix: &Tensor) -> Tensor {
    let (rows, columns) = matrix.rows_and_columns();
    each_type!(matrix.values(), values => {
        let order = (0..columns).flat_map(|column| (0..rows).map(move |row| row * columns + column));
        Tensor::of(&[columns, rows], order.map(|index| values[index]).collect())
    })
}
