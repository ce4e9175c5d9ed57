//! Small operations that reach every part of a kernel.

use crate::operations::{Case, products, weights};
use lora_kernels::DType::{self, Bf16, F16, F32};
use lora_kernels::cuda::F32Math;
use lora_kernels::ops::WriteMode;
use lora_kernels::restore::RestoreMethod;
use lora_oracle::ordered_sums::OrderedSum;
use lora_oracle::problem::{Arrangements, Layer, Problem};
use lora_oracle::run::Place;

fn integers(rows: usize, inputs: usize, outputs: usize, rank: usize) -> Problem {
    Problem::new(rows, inputs, outputs, rank).dtypes((Bf16, Bf16)).small_integers()
}

fn forward(problem: Problem, math: F32Math) -> Case {
    Case::Forward(products::Case { problem, math, mode: WriteMode::Overwrite })
}

fn backward(problem: Problem, math: F32Math, mode: WriteMode) -> Case {
    Case::Backward(products::Case { problem, math, mode })
}

/// Several tiles and two splits along the input features, with dropout.
pub fn shrink() -> Vec<Case> {
    vec![
        forward(
            integers(70, 330, 20, 8).dropout(0.5).saving_s().arranged(Arrangements::Padded),
            F32Math::Exact,
        ),
        forward(integers(70, 130, 20, 8).saving_s().arranged(Arrangements::Unaligned), F32Math::Exact),
    ]
}

/// The products of f32 elements.
pub fn shrink_f32() -> Vec<Case> {
    [F32Math::Exact, F32Math::Tf32]
        .map(|math| forward(integers(20, 70, 9, 8).dtypes((F32, F32)).dropout(0.5).saving_s(), math))
        .to_vec()
}

/// Values that TF32 has to round.
pub fn shrink_tf32() -> Vec<Case> {
    vec![forward(Problem::new(20, 70, 9, 8).saving_s(), F32Math::Tf32)]
}

/// More ranks than a pass takes.
pub fn wide_forward() -> Vec<Case> {
    vec![forward(Problem::new(20, 70, 80, 100).dtypes((Bf16, Bf16)).saving_s(), F32Math::Exact)]
}

/// Several columns of tiles, with and without whole vectors.
pub fn expand() -> Vec<Case> {
    [Arrangements::Packed, Arrangements::Unaligned, Arrangements::Padded]
        .map(|arrangements| forward(integers(70, 20, 76, 8).bias(F32).arranged(arrangements), F32Math::Exact))
        .to_vec()
}

/// Dropout on the way out, added to what is there.
pub fn expand_backward() -> Vec<Case> {
    [Arrangements::Packed, Arrangements::Unaligned]
        .map(|arrangements| {
            let problem = integers(20, 72, 24, 8).saving_s().dropout(0.5).arranged(arrangements);
            backward(problem, F32Math::Exact, WriteMode::Accumulate)
        })
        .to_vec()
}

/// Several tiles of dY in both directions.
pub fn backward_dy() -> Vec<Case> {
    [integers(200, 9, 40, 8), integers(70, 9, 150, 8)]
        .map(|problem| backward(problem.saving_s().bias(Bf16), F32Math::Exact, WriteMode::Overwrite))
        .to_vec()
}

/// Enough rows of dY for two splits.
pub fn many_rows() -> Vec<Case> {
    let problem = Problem::new(530, 9, 20, 2).dtypes((Bf16, Bf16)).saving_s().bias(Bf16);
    vec![backward(problem, F32Math::Exact, WriteMode::Overwrite)]
}

/// Enough columns of dY for groups of two chunks.
pub fn many_columns() -> Vec<Case> {
    let problem = Problem::new(2, 9, 4200, 33).small_integers().saving_s();
    vec![backward(problem, F32Math::Tf32, WriteMode::Overwrite)]
}

/// Groups of two chunks, and more row tiles than stages.
pub fn many_columns_and_rows() -> Vec<Case> {
    let problem = Problem::new(130, 1, 4160, 33).small_integers().saving_s();
    vec![backward(problem, F32Math::Tf32, WriteMode::Overwrite)]
}

/// Two splits of the rows of X, with dropout.
pub fn backward_a() -> Vec<Case> {
    let problem = Problem::new(270, 70, 5, 8).dtypes((Bf16, Bf16)).saving_s().dropout(0.25);
    vec![backward(problem, F32Math::Exact, WriteMode::Overwrite)]
}

/// Copies of X and dY beside which S and dS go, with and without whole vectors, and with dropout.
pub fn copies() -> Vec<Case> {
    let problem = |rows, inputs, outputs| {
        Problem::new(rows, inputs, outputs, 8).dtypes((Bf16, Bf16)).placed(Place::Padded)
    };
    let (unaligned, problem) = (problem(20, 67, 67).arranged(Arrangements::Unaligned), problem(70, 130, 140));
    vec![
        forward(problem.clone().dropout(0.5), F32Math::Exact),
        forward(unaligned.clone(), F32Math::Exact),
        backward(problem.saving_s(), F32Math::Exact, WriteMode::Overwrite),
        backward(unaligned.saving_s(), F32Math::Exact, WriteMode::Accumulate),
    ]
}

/// More ranks than a pass takes: the first one copies.
pub fn wide_copies() -> Vec<Case> {
    let problem = Problem::new(20, 70, 80, 100).dtypes((Bf16, Bf16)).placed(Place::Padded);
    vec![forward(problem, F32Math::Exact)]
}

/// Three layers, with matrices that lie in every way.
pub fn siblings() -> Vec<Case> {
    let layers = [(40, 8), (17, 3), (24, 40)].map(|(out_features, rank)| Layer { out_features, rank });
    let problem = Problem { layers: layers.to_vec(), ..integers(20, 70, 40, 8) }.saving_s().bias(Bf16);
    let transposed = problem.clone().arranged(Arrangements::Transposed);
    vec![
        forward(problem.clone(), F32Math::Exact),
        forward(transposed.clone(), F32Math::Exact),
        backward(problem, F32Math::Exact, WriteMode::Accumulate),
        backward(transposed, F32Math::Exact, WriteMode::Overwrite),
    ]
}

/// Adapters of two types beside each other.
pub fn mixed_siblings() -> Vec<Case> {
    let layers = [(40, 8), (17, 3)].map(|(out_features, rank)| Layer { out_features, rank });
    let problem = integers(20, 70, 40, 8).saving_s();
    let problem = Problem { layers: layers.to_vec(), other_adapter_dtype: Some(F32), ..problem };
    vec![forward(problem.clone(), F32Math::Exact), backward(problem, F32Math::Exact, WriteMode::Accumulate)]
}

/// Gradients that are added to what is there, written as vectors and one by one.
pub fn rounded_once() -> Vec<Case> {
    let once = |dtype: DType| [8, 3].map(|in_features| Case::RoundedOnce { dtype, in_features });
    [once(Bf16), once(F16)].concat()
}

pub fn order_of_s() -> Vec<Case> {
    vec![Case::OrderedSum(OrderedSum::S)]
}

pub fn order_of_groups() -> Vec<Case> {
    vec![Case::OrderedSum(OrderedSum::GroupsOfDs)]
}

pub fn order_of_chunks() -> Vec<Case> {
    vec![Case::OrderedSum(OrderedSum::ChunksOfDs)]
}

pub fn order_of_da() -> Vec<Case> {
    vec![Case::OrderedSum(OrderedSum::Da)]
}

pub fn order_of_db() -> Vec<Case> {
    vec![Case::OrderedSum(OrderedSum::Db)]
}

pub fn order_of_dbias() -> Vec<Case> {
    vec![Case::OrderedSum(OrderedSum::Dbias)]
}

const AWKWARD: weights::Case = weights::Case {
    shape: [67, 70],
    ranks: [40, 3],
    dtype: Bf16,
    adapters: Bf16,
    w: (false, 3),
    a: (true, 1),
    b: (false, 2),
    record: None,
    stochastic: false,
    report: false,
    far: false,
};

/// A rank of two stages; shapes off every tile, in both orientations.
pub fn updates() -> Vec<Case> {
    let transposed = weights::Case { w: (true, 1), a: (false, 0), ..AWKWARD };
    vec![Case::Update(AWKWARD), Case::Update(transposed)]
}

pub fn stochastic_updates() -> Vec<Case> {
    vec![Case::Update(weights::Case { stochastic: true, ..AWKWARD })]
}

/// More columns and rows than a counter of 8 bits counts, in both orientations.
pub fn wide_stochastic_updates() -> Vec<Case> {
    let case =
        |shape, w| Case::Update(weights::Case { shape, ranks: [1, 1], w, stochastic: true, ..AWKWARD });
    vec![
        case([2, 300], (false, 0)),
        case([2, 300], (true, 0)),
        case([300, 2], (false, 0)),
        case([300, 2], (true, 0)),
    ]
}

/// Codes at the ends of their range.
pub fn far_updates() -> Vec<Case> {
    let record = Some(RestoreMethod::Codes);
    vec![Case::Update(weights::Case {
        shape: [4, 24],
        ranks: [1, 1],
        w: (false, 0),
        record,
        far: true,
        ..AWKWARD
    })]
}

pub fn recorded_updates() -> Vec<Case> {
    let recorded = weights::Case { record: Some(RestoreMethod::Codes), ..AWKWARD };
    let transposed = weights::Case { w: (true, 0), ..recorded.clone() };
    vec![Case::Update(recorded), Case::Update(transposed)]
}

pub fn measured_updates() -> Vec<Case> {
    vec![Case::Update(weights::Case { report: true, ..AWKWARD })]
}

pub fn deltas() -> Vec<Case> {
    vec![Case::Delta(weights::Case { dtype: F16, ..AWKWARD })]
}

/// Where the last bits of a sum show.
pub fn deltas_f32() -> Vec<Case> {
    vec![Case::Delta(weights::Case { dtype: F32, adapters: F32, ..AWKWARD })]
}

/// All cases.
pub fn all() -> Vec<Case> {
    let sets: [fn() -> Vec<Case>; 30] = [
        copies,
        wide_copies,
        shrink,
        shrink_f32,
        shrink_tf32,
        wide_forward,
        expand,
        expand_backward,
        backward_dy,
        many_rows,
        many_columns,
        many_columns_and_rows,
        backward_a,
        siblings,
        mixed_siblings,
        rounded_once,
        order_of_s,
        order_of_groups,
        order_of_chunks,
        order_of_da,
        order_of_db,
        order_of_dbias,
        updates,
        stochastic_updates,
        wide_stochastic_updates,
        far_updates,
        recorded_updates,
        measured_updates,
        deltas,
        deltas_f32,
    ];
    sets.into_iter().flat_map(|set| set()).collect()
}
