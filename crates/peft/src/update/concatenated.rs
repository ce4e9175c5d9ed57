//! A and B of one matrix as the kernels take them.

use super::Term;
use crate::Result;
use crate::checkpoint::LayerKind;
use lora_kernels::{Adapter as Factors, MatrixRef};
use std::borrow::Cow;
use std::ops::Range;

/// A and B of one matrix in `f32`, several adapters one after the other along the rank. One adapter in `f32` is borrowed.
#[derive(Debug)]
pub(crate) struct Concatenated<'a> {
    a: Cow<'a, [f32]>,
    b: Cow<'a, [f32]>,
    rank: usize,
    input: usize,
    output: usize,
    scale: f32,
}

/// A \[r, in\] and B \[out, r\] of one adapter.
struct Pair<'a> {
    a: Cow<'a, [f32]>,
    b: Cow<'a, [f32]>,
    rank: usize,
    scale: f64,
}

impl<'a> Pair<'a> {
    /// The expert is the slowest index of A's rows and the fastest of B's columns.
    fn new(term: &Term<'a>, slice: usize) -> Self {
        let (a, b) = (&term.layer.a, &term.layer.b);
        let experts = match term.site.kind {
            LayerKind::Experts | LayerKind::TransposedExperts => a.shape()[0] / term.site.rank,
            _ => 1,
        };
        // A swap may have left more rank than the site's.
        let rank = a.shape()[0] / experts;
        let size = a.len() / experts;
        let b = match experts {
            1 => b.f32_range(0..b.len()),
            experts => (slice..b.len()).step_by(experts).map(|index| b.at(index)).collect(),
        };
        let a = a.f32_range(slice * size..(slice + 1) * size);
        Pair { a, b, rank, scale: term.factor() }
    }
}

impl<'a> Concatenated<'a> {
    /// The factors of expert `slice`, or of the whole weight where there are no experts.
    pub fn new(terms: &[Term<'a>], slice: usize) -> Self {
        let mut pairs: Vec<Pair<'a>> = terms.iter().map(|term| Pair::new(term, slice)).collect();
        let rank = pairs.iter().map(|pair| pair.rank).sum();
        let input = pairs.first().map_or(0, |pair| pair.a.len() / pair.rank);
        let output = pairs.first().map_or(0, |pair| pair.b.len() / pair.rank);
        if pairs.len() == 1
            && let Some(Pair { a, b, scale, .. }) = pairs.pop()
        {
            return Concatenated { a, b, rank, input, output, scale: scale as f32 };
        }
        let a = pairs.iter().flat_map(|pair| pair.a.iter().copied()).collect();
        let mut b = Vec::with_capacity(output * rank);
        for row in 0..output {
            for pair in &pairs {
                let row = &pair.b[row * pair.rank..(row + 1) * pair.rank];
                b.extend(row.iter().map(|value| (f64::from(*value) * pair.scale) as f32));
            }
        }
        Concatenated { a, b: b.into(), rank, input, output, scale: 1.0 }
    }

    pub fn factors(&self) -> Result<Factors<'_>> {
        self.block(0..self.input, 0..self.output)
    }

    /// The factors of a block of the matrix.
    pub fn block(&self, inputs: Range<usize>, outputs: Range<usize>) -> Result<Factors<'_>> {
        let b = &self.b[outputs.start * self.rank..outputs.end * self.rank];
        Ok(Factors {
            a: MatrixRef::strided(&self.a[inputs.start..], self.rank, inputs.len(), self.input)?.t(),
            b: MatrixRef::new(b, outputs.len(), self.rank)?.t(),
            scale: self.scale,
        })
    }
}
