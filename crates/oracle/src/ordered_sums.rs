//! Sums cut into ranges, whose parts must be added in the order that the kernels document: ranges ascending, each from its
//! own zero. The numbers are of very different magnitude, so that another order gives other bits.

use crate::device::{TestDevice, Tested};
use crate::matrix::{Arrangement, Matrix};
use crate::random::Random;
use crate::run::{
    self, AdapterArguments, BackwardArguments, BackwardLayer, ForwardArguments, ForwardLayer, Gradient, Place,
};
use lora_kernels::DType::F32;
use lora_kernels::ops::WriteMode;

/// A sum that the CUDA backend cuts. The lengths give several ranges each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OrderedSum {
    /// S, over the input features: ranges of 128.
    S,
    /// dS, over the output features: a group for every 256.
    GroupsOfDs,
    /// dS, over so many output features that a group adds three chunks of 128.
    ChunksOfDs,
    /// dA, over the tokens: ranges of 128.
    Da,
    /// dB, over the tokens: ranges of 256; two terms in each.
    Db,
    /// dbias: within a range, the upper halves of tiles, then the lower ones.
    Dbias,
}

impl OrderedSum {
    pub const ALL: [OrderedSum; 6] = [
        OrderedSum::S,
        OrderedSum::GroupsOfDs,
        OrderedSum::ChunksOfDs,
        OrderedSum::Da,
        OrderedSum::Db,
        OrderedSum::Dbias,
    ];

    /// Panics unless the device gives the bits of the documented order. Returns what it gave.
    pub fn check<D: TestDevice>(self, device: &Tested<D>) -> Vec<u8> {
        match self {
            OrderedSum::S => input_features(device),
            OrderedSum::GroupsOfDs => output_features(device, 2048, 20, 256, 1),
            OrderedSum::ChunksOfDs => output_features(device, 66 * 128, 33, 128, 3),
            OrderedSum::Da => tokens_of_x(device),
            OrderedSum::Db | OrderedSum::Dbias => tokens_of_dy(device, self),
        }
    }
}

fn matrix(rows: usize, cols: usize, value: impl FnMut(usize, usize) -> f64) -> Matrix {
    Matrix::from_fn(F32, rows, cols, Arrangement::default(), value)
}

fn unwritten(rows: usize, cols: usize) -> Matrix {
    Matrix::poisoned(F32, rows, cols, Arrangement::default())
}

fn gradient(rows: usize, cols: usize) -> Option<Gradient> {
    Some(Gradient { matrix: unwritten(rows, cols), mode: WriteMode::Overwrite })
}

/// A number of any of 24 magnitudes where `chosen`, otherwise zero.
fn scattered(random: &mut Random, chosen: bool) -> f64 {
    if chosen { f64::from((random.symmetric() * 2f64.powi(random.below(24) as i32)) as f32) } else { 0.0 }
}

fn sum(parts: impl IntoIterator<Item = f32>) -> f32 {
    parts.into_iter().fold(0.0, |sum, part| sum + part)
}

/// Each element of `found` is the sum of its parts in their order, and that order shows.
fn assert_sums(name: &str, found: &Matrix, parts: impl Fn(usize, usize) -> Vec<f32>) -> Vec<u8> {
    let mut shows = false;
    for i in 0..found.rows {
        for j in 0..found.cols {
            let parts = parts(i, j);
            let (expected, backwards) = (sum(parts.iter().copied()), sum(parts.iter().rev().copied()));
            let value = found.get(i, j) as f32;
            assert!(
                value.to_bits() == expected.to_bits(),
                "`{name}`[{i}, {j}] is {value:e}, in the documented order {expected:e}, backwards {backwards:e}"
            );
            shows |= expected.to_bits() != backwards.to_bits();
        }
    }
    assert!(shows, "`{name}`: these numbers do not show the order");
    found.data.bytes().to_vec()
}

fn column(matrix: &Matrix, j: usize, rows: impl Iterator<Item = usize>) -> Vec<f32> {
    rows.map(|i| matrix.get(i, j) as f32).collect()
}

fn input_features<D: TestDevice>(device: &Tested<D>) -> Vec<u8> {
    let (rows, features, rank) = (9, 1024, 3);
    let mut random = Random::new(11);
    let x = matrix(rows, features, |_, k| scattered(&mut random, k % 128 == 5));
    let adapter = AdapterArguments {
        a: matrix(features, rank, |_, _| 1.0),
        b: matrix(rank, 1, |_, _| 0.0),
        scale: 1.0,
    };
    let layer = ForwardLayer {
        w: matrix(features, 1, |_, _| 0.0),
        adapter,
        bias: None,
        y: unwritten(rows, 1),
        s: Some(unwritten(rows, rank)),
    };
    let mut arguments = ForwardArguments { x, dropout: None, projections: vec![layer], place: Place::Apart };
    run::forward(device, &mut arguments).expect("a valid forward");
    let (x, s) = (&arguments.x, arguments.projections[0].s.as_ref().expect("asked for"));
    assert_sums("s", s, |i, _| (5..features).step_by(128).map(|k| x.get(i, k) as f32).collect())
}

/// X is the identity, so that dA is dS.
fn output_features<D: TestDevice>(
    device: &Tested<D>,
    features: usize,
    rank: usize,
    chunk: usize,
    chunks_per_group: usize,
) -> Vec<u8> {
    let rows = 2;
    let mut random = Random::new(12);
    let dy = matrix(rows, features, |_, j| scattered(&mut random, j % chunk == 7));
    let layer = BackwardLayer {
        w: matrix(rows, features, |_, _| 0.0),
        adapter: AdapterArguments {
            a: matrix(rows, rank, |_, _| 0.0),
            b: matrix(rank, features, |_, _| 1.0),
            scale: 1.0,
        },
        dy,
        s: None,
        da: gradient(rows, rank),
        db: None,
        dbias: None,
    };
    let x = matrix(rows, rows, |i, j| if i == j { 1.0 } else { 0.0 });
    let layer = backward(device, x, layer);
    let da = &layer.da.as_ref().expect("asked for").matrix;
    assert_sums("ds", da, |i, _| {
        let terms: Vec<f32> = (7..features).step_by(chunk).map(|j| layer.dy.get(i, j) as f32).collect();
        terms.chunks(chunks_per_group).map(|group| sum(group.iter().copied())).collect()
    })
}

fn tokens_of_x<D: TestDevice>(device: &Tested<D>) -> Vec<u8> {
    let (rows, features) = (1024, 12);
    let mut random = Random::new(13);
    let x = matrix(rows, features, |i, _| scattered(&mut random, i % 128 == 9));
    let layer = BackwardLayer {
        w: matrix(features, 1, |_, _| 0.0),
        adapter: AdapterArguments {
            a: matrix(features, 1, |_, _| 0.0),
            b: matrix(1, 1, |_, _| 1.0),
            scale: 1.0,
        },
        dy: matrix(rows, 1, |_, _| 1.0),
        s: None,
        da: gradient(features, 1),
        db: None,
        dbias: None,
    };
    let layer = backward(device, x.clone(), layer);
    let da = &layer.da.as_ref().expect("asked for").matrix;
    assert_sums("da", da, |k, _| column(&x, k, (9..rows).step_by(128)))
}

fn tokens_of_dy<D: TestDevice>(device: &Tested<D>, which: OrderedSum) -> Vec<u8> {
    let (rows, features, rank) = (1024, 10, 2);
    // The second lies in the lower half of the range's first tile.
    let (upper, lower) = (3, 40);
    let mut random = Random::new(14);
    let layer = BackwardLayer {
        w: matrix(1, features, |_, _| 0.0),
        adapter: AdapterArguments {
            a: matrix(1, rank, |_, _| 0.0),
            b: matrix(rank, features, |_, _| 0.0),
            scale: 1.0,
        },
        dy: matrix(rows, features, |i, _| scattered(&mut random, [upper, lower].contains(&(i % 256)))),
        s: Some(matrix(rows, rank, |_, _| 1.0)),
        da: None,
        db: if which == OrderedSum::Db { gradient(rank, features) } else { None },
        dbias: if which == OrderedSum::Dbias { gradient(1, features) } else { None },
    };
    let layer = backward(device, matrix(rows, 1, |_, _| 0.0), layer);
    let ranges = (0..rows).step_by(256);
    let pair = |start: usize, j: usize| column(&layer.dy, j, [start + upper, start + lower].into_iter());
    match (&layer.db, &layer.dbias) {
        (Some(db), _) => {
            assert_sums("db", &db.matrix, |_, j| ranges.clone().map(|start| sum(pair(start, j))).collect())
        }
        (_, Some(dbias)) => assert_sums("dbias", &dbias.matrix, |_, j| {
            ranges.clone().flat_map(|start| pair(start, j)).collect()
        }),
        _ => unreachable!("one of them is asked for"),
    }
}

fn backward<D: TestDevice>(device: &Tested<D>, x: Matrix, layer: BackwardLayer) -> BackwardLayer {
    let mut arguments = BackwardArguments {
        x: Some(x),
        dropout: None,
        dx: None,
        projections: vec![layer],
        place: Place::Apart,
    };
    run::backward(device, &mut arguments).expect("a valid backward");
    arguments.projections.remove(0)
}
