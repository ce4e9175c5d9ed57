//! The cases of the test matrix: every kernel over element types, ragged shapes, ranks and layouts.

use super::edges::Edge;
use super::{Case, products, weights};
use lora_kernels::DType;
use lora_kernels::cuda::F32Math;
use lora_kernels::ops::WriteMode;
use lora_kernels::restore::RestoreMethod;
use lora_oracle::ordered_sums::OrderedSum;
use lora_oracle::problem::{Arrangements, Layer, Problem};
use lora_oracle::run::Place;

/// All cases.
pub fn cases() -> Vec<Case> {
    let products =
        products().into_iter().flat_map(|case| [Case::Forward(case.clone()), Case::Backward(case)]);
    let updates = updates().into_iter().flat_map(|case| [Case::Update(case.clone()), Case::Delta(case)]);
    products
        .chain(updates)
        .chain(several_chunks_and_row_tiles())
        .chain(roundings())
        .chain(Edge::all().into_iter().map(Case::Edge))
        .collect()
}

/// A group of several chunks of dY, and more row tiles than stages: every chunk must load S again.
fn several_chunks_and_row_tiles() -> [Case; 1] {
    let problem = Problem::new(130, 1, 4160, 33).small_integers().saving_s();
    [Case::Backward(products::Case { problem, math: F32Math::Tf32, mode: WriteMode::Overwrite })]
}

fn roundings() -> Vec<Case> {
    let types = [DType::F16, DType::Bf16];
    let once = types
        .into_iter()
        .flat_map(|dtype| [8, 3].map(|in_features| Case::RoundedOnce { dtype, in_features }));
    OrderedSum::ALL.into_iter().map(Case::OrderedSum).chain(once).collect()
}

const RANKS: [usize; 8] = [1, 4, 5, 8, 24, 64, 128, 256];
const ROWS: [usize; 3] = [1, 63, 129];
/// Input and output features: off every tile, and (128, 72) on the vectors' boundaries.
const FEATURES: [[usize; 2]; 4] = [[37, 29], [130, 67], [128, 72], [65, 150]];
/// Element types of a layer and of its adapter, and the arithmetic.
const ARITHMETIC: [(DType, DType, F32Math); 6] = [
    (DType::F32, DType::F32, F32Math::Exact),
    (DType::F16, DType::F16, F32Math::Exact),
    (DType::Bf16, DType::F32, F32Math::Exact),
    (DType::F32, DType::F32, F32Math::Tf32),
    (DType::Bf16, DType::Bf16, F32Math::Exact),
    (DType::F16, DType::F32, F32Math::Exact),
];

/// Ranks by arithmetic in full. The other choices follow these two so that each meets every arithmetic, and every number
/// of rows meets every rank and every arrangement.
fn products() -> Vec<products::Case> {
    let mut cases = Vec::new();
    for (r, rank) in RANKS.into_iter().enumerate() {
        for (e, (dtype, adapter_dtype, math)) in ARITHMETIC.into_iter().enumerate() {
            let [inputs, outputs] = FEATURES[(r / 2 + e) % FEATURES.len()];
            let problem = Problem::new(ROWS[(r + 2 * e) % ROWS.len()], inputs, outputs, rank)
                .dtypes((dtype, adapter_dtype))
                .arranged(Arrangements::ALL[(r + e) % Arrangements::ALL.len()]);
            let problem = match (r / 3 + e) % 3 {
                0 => problem,
                1 => problem.bias(dtype),
                _ => problem.bias(DType::F32),
            };
            let problem = if (r + e / 3) % 2 == 0 { problem.dropout(0.5) } else { problem };
            let problem = if (r / 2 + e) % 2 == 0 { problem.saving_s() } else { problem };
            // Sums over many ranks are too large for whole numbers in bf16.
            let exact = math == F32Math::Tf32 || rank <= 64 && (r + e) % 2 == 1;
            let problem = if exact { problem.small_integers() } else { problem };
            let mode = if (r / 4 + e) % 2 == 0 { WriteMode::Overwrite } else { WriteMode::Accumulate };
            cases.push(products::Case { problem, math, mode });
        }
    }
    cases.extend(siblings());
    cases.extend(siblings_with_other_adapters());
    cases.extend(splits());
    cases.extend(tf32_roundings());
    cases.extend(joined());
    cases
}

/// One product over K + r: of padded weights in both orientations, with copies of X and dY by vectors and by elements, and with S
/// beside X.
fn joined() -> Vec<products::Case> {
    let mut cases = Vec::new();
    let arrangements =
        [Arrangements::Packed, Arrangements::Peft, Arrangements::Unaligned, Arrangements::Transposed];
    for (e, (dtype, adapter_dtype, math)) in ARITHMETIC.into_iter().enumerate() {
        for (index, [inputs, outputs]) in [[130, 67], [128, 136], [65, 150]].into_iter().enumerate() {
            let rank = [4, 24, 70][(e + index) % 3];
            let problem = Problem::new(ROWS[(e + index) % 3], inputs, outputs, rank)
                .dtypes((dtype, adapter_dtype))
                .arranged(arrangements[(e + index) % 4])
                .placed([Place::Padded, Place::BesideX][index % 2]);
            let problem = if (e + index) % 2 == 0 { problem.saving_s() } else { problem };
            // Dropout leaves the backward as it is.
            let problem = if index == 2 && e % 2 == 0 { problem.dropout(0.5) } else { problem };
            let is_exact = rank <= 24 && dtype != DType::Bf16 || math == F32Math::Tf32;
            let problem = if is_exact { problem.small_integers() } else { problem };
            let mode = if e % 2 == 0 { WriteMode::Overwrite } else { WriteMode::Accumulate };
            cases.push(products::Case { problem, math, mode });
        }
    }
    let layers = [(40, 8), (57, 3), (64, 40)].map(|(out_features, rank)| Layer { out_features, rank });
    for place in [Place::Padded, Place::BesideX] {
        let problem =
            Problem::new(70, 72, 40, 8).dtypes((DType::F16, DType::F16)).small_integers().saving_s();
        let problem = Problem { layers: layers.to_vec(), ..problem }.placed(place);
        cases.push(products::Case { problem, math: F32Math::Exact, mode: WriteMode::Overwrite });
    }
    cases
}

/// Values that TF32 has to round.
fn tf32_roundings() -> [products::Case; 2] {
    [8, 40].map(|rank| products::Case {
        problem: Problem::new(20, 70, 50, rank).dropout(0.25).saving_s(),
        math: F32Math::Tf32,
        mode: WriteMode::Overwrite,
    })
}

fn siblings() -> Vec<products::Case> {
    let mut cases = Vec::new();
    for (e, (dtype, adapter_dtype, math)) in ARITHMETIC.into_iter().enumerate() {
        let problem = Problem::new(65, 70, 40, 8).dtypes((dtype, adapter_dtype)).small_integers();
        let problem = Problem { arrangements: Arrangements::Mixed(e as u64), ..problem };
        let others = [(17, 3), (24, 40)].map(|(out_features, rank)| Layer { out_features, rank });
        let problem = Problem { layers: [problem.layers[0]].into_iter().chain(others).collect(), ..problem };
        let problem = if e % 2 == 0 { problem.dropout(0.5) } else { problem.saving_s().bias(dtype) };
        cases.push(products::Case { problem, math, mode: WriteMode::Overwrite });
    }
    // More than one launch of `pack` or `finalize` serves.
    let nine = (1..10).map(|rank| Layer { out_features: 16 + 8 * rank, rank }).collect();
    let problem = Problem { layers: nine, ..Problem::new(20, 80, 24, 1) };
    let problem = problem.dtypes((DType::Bf16, DType::Bf16)).small_integers().bias(DType::F32);
    cases.push(products::Case { problem, math: F32Math::Exact, mode: WriteMode::Accumulate });
    cases
}

/// Adapters of both types beside each other: the first layer's type is not that of all.
fn siblings_with_other_adapters() -> Vec<products::Case> {
    let case = |dtypes: (DType, DType), other, mode| {
        let layers = [(40, 8), (17, 3), (24, 5)].map(|(out_features, rank)| Layer { out_features, rank });
        let problem = Problem::new(20, 70, 40, 8).dtypes(dtypes).saving_s().small_integers();
        let problem = Problem { layers: layers.to_vec(), other_adapter_dtype: Some(other), ..problem };
        products::Case { problem, math: F32Math::Exact, mode }
    };
    vec![
        case((DType::Bf16, DType::Bf16), DType::F32, WriteMode::Accumulate),
        case((DType::F16, DType::F32), DType::F16, WriteMode::Overwrite),
    ]
}

/// Large enough in one dimension that the work along it is split between blocks: the columns of X, those of dY into
/// groups of several chunks, the rows of dY, those of X.
fn splits() -> Vec<products::Case> {
    let case = |problem: Problem, math| {
        let dtype = problem.dtype;
        let problem = problem.saving_s().bias(dtype).dropout(0.5);
        products::Case { problem, math, mode: WriteMode::Overwrite }
    };
    let mut cases: Vec<_> = [[3, 530, 9, 4], [530, 11, 20, 2], [270, 70, 5, 20]]
        .into_iter()
        .map(|[rows, inputs, outputs, rank]| {
            let problem = Problem::new(rows, inputs, outputs, rank).dtypes((DType::Bf16, DType::Bf16));
            case(problem, F32Math::Exact)
        })
        .collect();
    cases.push(case(Problem::new(2, 9, 4200, 33).small_integers(), F32Math::Tf32));
    cases
}

fn updates() -> Vec<weights::Case> {
    let places = [
        [(false, 0); 3],
        [(true, 0); 3],
        [(false, 3), (true, 1), (false, 2)],
        [(true, 3), (false, 1), (true, 2)],
    ];
    let shapes = [[64, 72], [67, 70], [1, 150], [129, 9]];
    let ranks = [[16, 8], [1, 24], [33, 5], [65, 4]];
    let mut cases = Vec::new();
    for (e, (dtype, adapters, _)) in
        ARITHMETIC.into_iter().filter(|(_, _, math)| *math == F32Math::Exact).enumerate()
    {
        for (n, place) in places.into_iter().enumerate() {
            let record = match (n + e) % 3 {
                0 => None,
                // Codes suit 16-bit weights.
                1 if dtype != DType::F32 => Some(RestoreMethod::Codes),
                _ => Some(RestoreMethod::Backup),
            };
            cases.push(weights::Case {
                shape: shapes[(n + e) % shapes.len()],
                ranks: ranks[(n + 2 * e) % ranks.len()],
                dtype,
                adapters,
                w: place[0],
                a: place[1],
                b: place[2],
                record,
                stochastic: dtype == DType::Bf16 && n % 2 == 1,
                report: (n / 2 + e) % 2 == 1,
                far: false,
            });
        }
    }
    cases
}
