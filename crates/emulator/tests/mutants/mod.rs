//! Planted faults: one change of a kernel's text each.

pub mod cases;
mod far;
mod products;
mod roundings;
mod weights;

/// A fault to plant.
#[derive(Clone, Copy, Debug)]
pub struct Mutant {
    /// What is wrong, in words.
    pub fault: &'static str,
    /// The kernel file that is compiled anew.
    pub kernel: &'static str,
    /// File, text that occurs in it once, and what takes its place.
    pub changes: &'static [(&'static str, &'static str, &'static str)],
    /// The kernels of the file that the operations launch; the others are left out.
    pub launched: &'static [&'static str],
    /// Operations that must show the fault, one of them.
    pub cases: fn() -> Vec<crate::operations::Case>,
}

/// All of them.
pub fn all() -> impl Iterator<Item = &'static Mutant> {
    products::MUTANTS.iter().chain(roundings::MUTANTS).chain(weights::MUTANTS).chain(far::MUTANTS)
}
