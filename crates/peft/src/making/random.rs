//! Random numbers for new adapters: a seed gives the same numbers on every machine.

use rand_chacha::rand_core::Rng;

/// Uniform in \[0, 1).
pub(crate) fn uniform(random: &mut impl Rng) -> f64 {
    (random.next_u64() >> 11) as f64 / 2f64.powi(53)
}

/// Standard normal (Box and Muller, Annals of Mathematical Statistics 1958).
pub(crate) fn normal(random: &mut impl Rng) -> f64 {
    let radius = (-2.0 * (1.0 - uniform(random)).ln()).sqrt();
    radius * (std::f64::consts::TAU * uniform(random)).cos()
}
