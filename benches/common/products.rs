//! The library's products that the design chooses between: β = 0, β = 1, and one product over K + r (for dX over N + r).

use super::matrices::Addresses;
use lora_kernels::DType;
use lora_kernels::cuda::step::{F32Math, Operand, Product};
use lora_measure::Problem;

/// Elements that padded rows are longer.
pub const ROOM: usize = 64;
/// Ranks of the products over K + r.
pub const RANKS: [usize; 3] = [16, 32, 64];

/// Matrices with room for an adapter: X [m, k + 64], W [n + 64, k + 64], dY [m, n + 64].
#[derive(Clone, Copy, Debug)]
pub struct Padded {
    pub x: u64,
    pub w: u64,
    pub dy: u64,
}

impl Padded {
    /// Elements of X, W and dY.
    pub fn elements(problem: Problem) -> [usize; 3] {
        let Problem { m, k, n, .. } = problem;
        [m * (k + ROOM), (n + ROOM) * (k + ROOM), m * (n + ROOM)]
    }
}

/// The products of one pass by name, that with β = 0 first: the others are compared with it.
pub type Family = Vec<(String, Product)>;

/// Forward: Y = [X|S]·[W;B]ᵀ, where W is stored [n, k] and B lies in the padding of its rows.
pub fn forward(layer: &Addresses, padded: &Padded) -> Family {
    let Problem { m, k, n, .. } = layer.problem;
    let dtype = layer.x.dtype;
    let plain = |accumulate| Product {
        a: stored(layer.x.address, m, k, k),
        b: transposed(stored(layer.w.address, n, k, k)),
        c: stored(layer.y.address, m, n, n),
        ..product(dtype, accumulate)
    };
    let over = |extra: usize| Product {
        a: stored(padded.x, m, k + extra, k + ROOM),
        b: transposed(stored(padded.w, n, k + extra, k + ROOM)),
        c: stored(layer.y.address, m, n, n),
        ..product(dtype, false)
    };
    family("forward", "k", plain, over)
}

/// dX = [dY|dS]·[W;A], where A lies below the last row of W.
pub fn backward(layer: &Addresses, padded: &Padded) -> Family {
    let Problem { m, k, n, .. } = layer.problem;
    let dtype = layer.x.dtype;
    let plain = |accumulate| Product {
        a: stored(layer.dy.address, m, n, n),
        b: stored(layer.w.address, n, k, k),
        c: stored(layer.dx.address, m, k, k),
        ..product(dtype, accumulate)
    };
    let over = |extra: usize| Product {
        a: stored(padded.dy, m, n + extra, n + ROOM),
        b: stored(padded.w, n + extra, k, k + ROOM),
        c: stored(layer.dx.address, m, k, k),
        ..product(dtype, false)
    };
    family("dx", "n", plain, over)
}

fn family(
    pass: &str,
    summed: &str,
    plain: impl Fn(bool) -> Product,
    over: impl Fn(usize) -> Product,
) -> Family {
    let mut family = vec![
        (format!("product_{pass}_beta0"), plain(false)),
        (format!("product_{pass}_beta1"), plain(true)),
        (format!("product_{pass}_padded"), over(0)),
    ];
    family.extend(RANKS.map(|r| (format!("product_{pass}_{summed}_plus_{r}"), over(r))));
    family
}

fn product(dtype: DType, accumulate: bool) -> Product {
    let nothing = stored(0, 0, 0, 0);
    Product { a: nothing, b: nothing, c: nothing, dtype, accumulate, f32_math: F32Math::Exact }
}

fn stored(address: u64, rows: usize, cols: usize, stride: usize) -> Operand {
    Operand { address, rows: rows as u64, cols: cols as u64, stride: stride as u64, transposed: false }
}

fn transposed(operand: Operand) -> Operand {
    Operand { rows: operand.cols, cols: operand.rows, transposed: !operand.transposed, ..operand }
}
