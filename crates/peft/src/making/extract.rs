//! An adapter from the difference of two checkpoints.

use super::linalg::{squared_distance, truncated_svd};
use crate::adapter::{Adapter, AdapterConfig, AdapterLayer, BiasMode, ModuleNames};
use crate::checkpoint::{Checkpoint, LayerKind, adaptable_modules, is_transposed_type};
use crate::progress::Progress;
use crate::tensor::{Tensor, each_type, float_type};
use crate::update::round_into;
use crate::{Error, Result};
use lora_kernels::DType;
use std::collections::{BTreeMap, BTreeSet};

/// How an adapter is extracted.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ExtractOptions {
    /// The rank of every module that has so many features.
    pub rank: usize,
    /// Element type of A and B.
    pub dtype: DType,
}

impl Default for ExtractOptions {
    /// Rank 16, `f32`.
    fn default() -> Self {
        ExtractOptions { rank: 16, dtype: DType::F32 }
    }
}

/// What one module's low-rank difference keeps.
#[derive(Clone, Debug, PartialEq)]
pub struct ExtractedModule {
    /// Dotted path of the module.
    pub module: String,
    /// The rank it got.
    pub rank: usize,
    /// ‖tuned − base‖, the Frobenius norm.
    pub norm: f64,
    /// ‖tuned − base − B·A‖ / ‖tuned − base‖ with A and B as they are stored: 0 is perfect, 1 means that nothing was
    /// kept. What is below 1e-8 counts as nothing left.
    pub relative_error: f64,
}

/// The adapter whose B·A is the best approximation of `tuned` − `base` in each module, by truncated singular value
/// decomposition, with its s = 1.
///
/// Modules without a difference get no adapter. Changed tensors that are no matrices go along whole: biases by
/// `bias: all`, others by `modules_to_save`.
///
/// # Errors
/// The checkpoints hold different tensors or shapes, they do not differ, a tensor cannot be computed with, or
/// `progress` was cancelled.
pub fn extract(
    base: &Checkpoint,
    tuned: &Checkpoint,
    options: ExtractOptions,
    progress: &Progress,
) -> Result<(Adapter, Vec<ExtractedModule>)> {
    if options.rank == 0 {
        return Err(Error::config("r", "must be at least 1"));
    }
    check_same_tensors(base, tuned)?;
    let modules: BTreeMap<String, LayerKind> =
        adaptable_modules(base).into_iter().map(|(path, kind)| (format!("{path}.weight"), kind)).collect();
    progress.start(base.tensors().values().map(|info| info.bytes()).sum());
    let mut extraction = Extraction { base, tuned, options, layers: BTreeMap::new(), report: Vec::new() };
    let mut whole = BTreeSet::new();
    for (name, info) in base.tensors() {
        progress.check()?;
        if info.dtype != tuned.info(name)?.dtype || !holds_same(name, base, tuned, progress)? {
            match modules.get(name) {
                Some(kind) => extraction.extract(name, *kind)?,
                None => {
                    whole.insert(name.clone());
                }
            }
        }
        progress.advance(info.bytes());
    }
    let Extraction { layers, report, .. } = extraction;
    if layers.is_empty() && whole.is_empty() {
        return Err(Error::NoMatch("the two checkpoints do not differ".into()));
    }
    let mut config = configuration(&layers, options.rank, base.model_config());
    let replaced = take_whole(&mut config, &whole, base, tuned)?;
    base.check_unchanged()?;
    tuned.check_unchanged()?;
    Ok((Adapter { config, layers, replaced, notes: Vec::new() }, report))
}

struct Extraction<'a> {
    base: &'a Checkpoint,
    tuned: &'a Checkpoint,
    options: ExtractOptions,
    layers: BTreeMap<String, AdapterLayer>,
    report: Vec<ExtractedModule>,
}

impl Extraction<'_> {
    fn extract(&mut self, name: &str, kind: LayerKind) -> Result<()> {
        let (base, tuned) = (self.base.tensor(name)?, self.tuned.tensor(name)?);
        let (rows, columns) = base.rows_and_columns();
        let mut difference: Vec<f64> = Vec::new();
        difference.try_reserve_exact(base.len()).map_err(|_| Error::OutOfMemory {
            bytes: 8 * base.len() as u64,
            purpose: format!("the difference of `{name}` in `f64`"),
        })?;
        for row in 0..rows {
            let range = row * columns..(row + 1) * columns;
            let (base, tuned) = (base.f32_range(range.clone()), tuned.f32_range(range));
            difference
                .extend(base.iter().zip(&*tuned).map(|(base, tuned)| f64::from(*tuned) - f64::from(*base)));
        }
        let shape = base.shape().to_vec();
        drop((base, tuned));
        let squares: f64 = difference.iter().map(|value| value * value).sum();
        if !squares.is_finite() {
            return Err(Error::tensor(name, "holds NaN or infinity"));
        }
        if squares == 0.0 {
            return Ok(());
        }
        let svd = truncated_svd(&difference, rows, columns, self.options.rank)?;
        let rank = svd.values.len();
        let roots: Vec<f64> = svd.values.iter().map(|value| value.sqrt()).collect();
        // [rows, rank] and [rank, columns] of the weight as it is stored, with what rounding makes of them.
        let rounded = |shape: [usize; 2], exact: Vec<f64>| {
            let mut factor = Tensor::zeros(self.options.dtype, &shape);
            round_into(&mut factor, &exact);
            factor
        };
        let exact = svd.left.iter().enumerate().map(|(i, value)| value * roots[i % rank]).collect();
        let left = rounded([rows, rank], exact);
        let exact = svd.right.iter().enumerate().map(|(i, value)| value * roots[i / columns]).collect();
        let right = rounded([rank, columns], exact);
        let doubles = |factor: &Tensor| factor.to_f32().into_iter().map(f64::from).collect::<Vec<f64>>();
        let left_over = squared_distance(&difference, [rows, columns], &doubles(&left), &doubles(&right));
        let (a, b) =
            if kind.is_input_major() { (transposed(&left), transposed(&right)) } else { (right, left) };
        let (mut a_shape, mut b_shape) = (vec![rank, a.len() / rank], vec![b.len() / rank, rank]);
        if kind == LayerKind::Convolution {
            a_shape = shape.clone();
            a_shape[0] = rank;
            b_shape.resize(shape.len(), 1);
        }
        let module = name.trim_end_matches(".weight").to_owned();
        let relative_error = (left_over / squares).sqrt();
        self.report.push(ExtractedModule {
            module: module.clone(),
            rank,
            norm: squares.sqrt(),
            relative_error,
        });
        let layer = AdapterLayer {
            a: a.reshape(&a_shape)?,
            b: b.reshape(&b_shape)?,
            bias: None,
            magnitude: None,
            embedding: kind == LayerKind::Embedding,
        };
        self.layers.insert(module, layer);
        Ok(())
    }
}

/// Whether a tensor is the same in both, bit for bit. Types and shapes are not looked at.
fn holds_same(name: &str, one: &Checkpoint, two: &Checkpoint, progress: &Progress) -> Result<bool> {
    let (one_info, two_info) = (one.info(name)?, two.info(name)?);
    let mut same = one_info.bytes() == two_info.bytes();
    if same {
        let mut position = two_info.range.start;
        let mut other = Vec::new();
        one.for_each_piece(name, |piece| {
            progress.check()?;
            other.resize(piece.len(), 0);
            two.shards()[two_info.shard].source().read(&mut other, position)?;
            position += piece.len() as u64;
            same = piece == other;
            Ok(same)
        })?;
    }
    Ok(same)
}

fn transposed(matrix: &Tensor) -> Tensor {
    let (rows, columns) = matrix.rows_and_columns();
    each_type!(matrix.values(), values => {
        let order = (0..columns).flat_map(|column| (0..rows).map(move |row| row * columns + column));
        Tensor::of(&[columns, rows], order.map(|index| values[index]).collect())
    })
}

fn check_same_tensors(base: &Checkpoint, tuned: &Checkpoint) -> Result<()> {
    for (name, info) in base.tensors() {
        match tuned.tensors().get(name) {
            None => return Err(Error::tensor(name, "the tuned checkpoint does not have it")),
            Some(other) if other.shape != info.shape => {
                return Err(Error::tensor(
                    name,
                    format!(
                        "has shape {:?} in the base, {:?} in the tuned checkpoint",
                        info.shape, other.shape
                    ),
                ));
            }
            Some(_) => {}
        }
    }
    match tuned.tensors().keys().find(|name| !base.tensors().contains_key(*name)) {
        Some(name) => Err(Error::tensor(name, "the base checkpoint does not have it")),
        None => Ok(()),
    }
}

fn configuration(
    layers: &BTreeMap<String, AdapterLayer>,
    rank: usize,
    model_config: &serde_json::Map<String, serde_json::Value>,
) -> AdapterConfig {
    let smaller = layers.iter().filter(|(_, layer)| layer.a.shape()[0] != rank);
    let patterns: Vec<(String, usize)> = smaller
        .map(|(module, layer)| (format!("^{}", module.replace('.', r"\.")), layer.a.shape()[0]))
        .collect();
    AdapterConfig {
        rank,
        alpha: rank as f64,
        alpha_pattern: patterns.iter().map(|(pattern, rank)| (pattern.clone(), *rank as f64)).collect(),
        rank_pattern: patterns,
        target_modules: Some(ModuleNames::List(layers.keys().cloned().collect())),
        fan_in_fan_out: is_transposed_type(model_config),
        ..AdapterConfig::default()
    }
}

/// Tensors that go along whole, with everything that PEFT expects beside them.
fn take_whole(
    config: &mut AdapterConfig,
    whole: &BTreeSet<String>,
    base: &Checkpoint,
    tuned: &Checkpoint,
) -> Result<BTreeMap<String, Tensor>> {
    let is_bias = |name: &String| name == "bias" || name.ends_with(".bias");
    let mut taken = BTreeSet::new();
    if whole.iter().any(is_bias) {
        config.bias = BiasMode::All;
        taken.extend(base.tensors().keys().filter(|name| is_bias(name)));
    }
    for name in whole.iter().filter(|name| !is_bias(name)) {
        let (module, _) = name.rsplit_once('.').ok_or_else(|| {
            Error::tensor(name, "differs, but it belongs to no module that an adapter could bring along")
        })?;
        config.modules_to_save.push(module.to_owned());
        let inside = format!("{module}.");
        let names = base.tensors().range(inside.clone()..).map(|(other, _)| other);
        taken.extend(names.take_while(|other| other.starts_with(&inside)));
    }
    config.modules_to_save.sort();
    config.modules_to_save.dedup();
    taken
        .into_iter()
        .map(|name| match float_type(tuned.info(name)?.dtype) {
            Some(_) => Ok((name.clone(), tuned.tensor(name)?)),
            None => Err(Error::tensor(name, "differs, but is not floating-point")),
        })
        .collect()
}
