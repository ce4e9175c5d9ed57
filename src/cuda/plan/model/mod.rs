//! What steps cost: bytes, instructions and launches, counted from the steps themselves; and a model of the time they take, whose
//! numbers are in `constants.rs`. Routes are chosen by the counts alone, the times are for tables.

mod constants;
mod counts;

pub use constants::{Card, H100, H200};
pub use counts::{Counts, bytes};

use super::super::step::Step;
use crate::DType;

/// Modelled seconds of the steps of a layer of `dtype` on a card, launched from a graph.
pub fn seconds(steps: &[Step], dtype: DType, card: &Card) -> f64 {
    steps.iter().map(|step| step_seconds(step, dtype, card)).sum()
}

fn step_seconds(step: &Step, dtype: DType, card: &Card) -> f64 {
    let counts = Counts::of(std::slice::from_ref(step), dtype);
    let moving = counts.bytes as f64 / card.copy_bytes_per_second;
    let busy = match step {
        Step::Product(product) => {
            let flops = 2.0 * product.c.rows as f64 * product.c.cols as f64 * product.a.cols as f64;
            // The library reads the old C in an epilogue that hides a part of it.
            let read = if product.accumulate { (product.c.rows * product.c.cols) as f64 } else { 0.0 };
            let exposed =
                card.exposed_read_of_c * read * product.dtype.size() as f64 / card.copy_bytes_per_second;
            moving.max(flops / card.product_flops_per_second + exposed)
        }
        Step::Launch(_) | Step::Zero(_) => {
            moving.max(counts.instructions as f64 / card.instructions_per_second)
        }
    };
    busy + card.launch_seconds
}
