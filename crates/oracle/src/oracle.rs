//! What each operation means, in plain f64 loops. Shares no code with the library.

use crate::dense::Dense;

/// Dropout as the caller asks for it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Dropout {
    pub probability: f32,
    pub seed: u64,
    pub offset: u64,
}

/// Philox4x32-10 as the paper's Figure 4 has it, on 64-bit integers.
pub fn philox(counter: [u32; 4], key: [u32; 2]) -> [u32; 4] {
    let [mut left0, mut right0, mut left1, mut right1] = counter.map(u64::from);
    let [mut key0, mut key1] = key.map(u64::from);
    const LOW: u64 = 0xFFFF_FFFF;
    for round in 0..10 {
        if round > 0 {
            key0 = (key0 + 0x9E37_79B9) & LOW;
            key1 = (key1 + 0xBB67_AE85) & LOW;
        }
        let product0 = left0 * 0xD251_1F53;
        let product1 = left1 * 0xCD9E_8D57;
        left0 = (product1 >> 32) ^ right0 ^ key0;
        left1 = (product0 >> 32) ^ right1 ^ key1;
        right0 = product1 & LOW;
        right1 = product0 & LOW;
    }
    [left0 as u32, right0 as u32, left1 as u32, right1 as u32]
}

impl Dropout {
    /// Of 65536 draws, those below this one are dropped.
    fn threshold(&self) -> u32 {
        let threshold = (f64::from(self.probability) * 65536.0).round() as u32;
        if threshold == 65536 { 65535 } else { threshold }
    }

    /// The factor on what is kept.
    pub fn keep_scale(&self) -> f64 {
        1.0 / (1.0 - f64::from(self.threshold()) / 65536.0)
    }

    pub fn keeps(&self, row: usize, col: usize) -> bool {
        let (low, high) = (|value: u64| value as u32, |value: u64| (value >> 32) as u32);
        let counter = [(col / 8) as u32, row as u32, low(self.offset), high(self.offset)];
        let words = philox(counter, [low(self.seed), high(self.seed)]);
        let word = words[(col % 8) / 2];
        let draw = if col.is_multiple_of(2) { word & 0xFFFF } else { word >> 16 };
        draw >= self.threshold()
    }
}

/// What X is multiplied by, element by element, before A: 0 or 1/(1-p).
pub fn mask(rows: usize, cols: usize, dropout: Option<Dropout>) -> Dense {
    Dense::from_fn(rows, cols, |i, j| match dropout {
        None => 1.0,
        Some(dropout) if dropout.keeps(i, j) => dropout.keep_scale(),
        Some(_) => 0.0,
    })
}

/// One layer's frozen weight and adapter.
pub struct Layer<'a> {
    pub w: &'a Dense,
    pub a: &'a Dense,
    pub b: &'a Dense,
    pub scale: f64,
}

/// S = s·(mask⊙X)·A.
pub fn shrink(x: &Dense, mask: &Dense, layer: &Layer<'_>) -> Dense {
    Dense::from_fn(x.rows, layer.a.cols, |m, k| {
        let mut sum = 0.0;
        for i in 0..x.cols {
            sum += mask.at(m, i) * x.at(m, i) * layer.a.at(i, k);
        }
        layer.scale * sum
    })
}

/// Y = X·W + S·B + bias.
pub fn forward(x: &Dense, mask: &Dense, layer: &Layer<'_>, bias: Option<&Dense>) -> Dense {
    let s = shrink(x, mask, layer);
    Dense::from_fn(x.rows, layer.w.cols, |m, j| {
        let mut sum = bias.map_or(0.0, |bias| bias.at(0, j));
        for i in 0..x.cols {
            sum += x.at(m, i) * layer.w.at(i, j);
        }
        for k in 0..s.cols {
            sum += s.at(m, k) * layer.b.at(k, j);
        }
        sum
    })
}

/// The gradients of one layer.
pub struct Gradients {
    pub dx: Dense,
    pub da: Dense,
    pub db: Dense,
    pub dbias: Dense,
}

/// All gradients, by the chain rule written out per element. dB is computed from `s` where it is given.
pub fn backward(x: &Dense, mask: &Dense, layer: &Layer<'_>, dy: &Dense, s: Option<&Dense>) -> Gradients {
    let Layer { w, a, b, scale } = layer;
    let rank = a.cols;
    let ds = Dense::from_fn(dy.rows, rank, |m, k| {
        let mut sum = 0.0;
        for j in 0..dy.cols {
            sum += dy.at(m, j) * b.at(k, j);
        }
        scale * sum
    });
    let recomputed = shrink(x, mask, layer);
    let s = s.unwrap_or(&recomputed);
    let dx = Dense::from_fn(dy.rows, w.rows, |m, i| {
        let mut frozen = 0.0;
        for j in 0..dy.cols {
            frozen += dy.at(m, j) * w.at(i, j);
        }
        let mut adapter = 0.0;
        for k in 0..rank {
            adapter += ds.at(m, k) * a.at(i, k);
        }
        frozen + mask.at(m, i) * adapter
    });
    let da = Dense::from_fn(a.rows, rank, |i, k| {
        let mut sum = 0.0;
        for m in 0..dy.rows {
            sum += mask.at(m, i) * x.at(m, i) * ds.at(m, k);
        }
        sum
    });
    let db = Dense::from_fn(rank, dy.cols, |k, j| {
        let mut sum = 0.0;
        for m in 0..dy.rows {
            sum += s.at(m, k) * dy.at(m, j);
        }
        sum
    });
    let dbias = Dense::from_fn(1, dy.cols, |_, j| (0..dy.rows).map(|m| dy.at(m, j)).sum());
    Gradients { dx, da, db, dbias }
}

/// Δ = s·A·B.
pub fn delta(a: &Dense, b: &Dense, scale: f64) -> Dense {
    Dense::from_fn(a.rows, b.cols, |i, j| {
        let mut sum = 0.0;
        for k in 0..a.cols {
            sum += a.at(i, k) * b.at(k, j);
        }
        scale * sum
    })
}
