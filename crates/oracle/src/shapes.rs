//! The shapes that tests go through.

use crate::device::Size;
use crate::problem::{Layer, Problem};

/// Single layers: M of 1, a little under and a little over a tile, K and N off every tile, ranks from 1 to 512.
pub fn single_layers(size: Size) -> Vec<Problem> {
    let small: &[[usize; 4]] = &[
        [1, 1, 1, 1],
        [1, 20, 36, 4],
        [5, 7, 3, 1],
        [17, 33, 19, 5],
        [63, 65, 40, 8],
        [65, 16, 48, 24],
        [9, 24, 32, 64],
        [3, 17, 24, 128],
        [20, 24, 36, 70],
    ];
    let full: &[[usize; 4]] = &[
        [1, 300, 130, 8],
        [63, 130, 70, 8],
        [64, 64, 64, 64],
        [129, 65, 257, 4],
        [129, 200, 120, 24],
        [300, 33, 19, 16],
        [33, 96, 40, 128],
        [20, 40, 48, 256],
        [9, 24, 33, 512],
        [70, 80, 72, 130],
    ];
    let chosen = match size {
        Size::Small => small.iter().chain(&full[..0]),
        Size::Full => small.iter().chain(full),
    };
    chosen.map(|&[rows, inputs, outputs, rank]| Problem::new(rows, inputs, outputs, rank)).collect()
}

/// One shape off every tile.
pub fn ragged(size: Size) -> Problem {
    match size {
        Size::Small => Problem::new(19, 37, 29, 5),
        Size::Full => Problem::new(67, 131, 93, 20),
    }
}

/// Query, key and value projections: three layers of different widths and ranks.
pub fn siblings(size: Size) -> Problem {
    let mut problem = ragged(size);
    problem.layers = vec![
        Layer { out_features: problem.layers[0].out_features, rank: problem.layers[0].rank },
        Layer { out_features: 17, rank: 8 },
        Layer { out_features: 24, rank: 3 },
    ];
    problem
}
