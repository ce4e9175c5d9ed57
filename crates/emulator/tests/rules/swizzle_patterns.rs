//! Swizzled tiles start where the pattern does.

use super::{Case, breaks, case, keeps};
use lora_emulator::FaultKind;
use lora_kernels::cuda::tensor_map::Swizzle;

#[test]
fn boxes_start_with_the_pattern() {
    for (swizzle, pattern) in [(Swizzle::Bytes128, 1024), (Swizzle::Bytes64, 512), (Swizzle::Bytes32, 256)] {
        let at = |n| Case { n, shared_bytes: 4096, swizzle, ..case("loads_a_tile", 1, 64) };
        keeps(&[at(pattern)], &[256, 257, 258, 259]);
        for off in [128, pattern / 2, pattern + 128] {
            if !off.is_multiple_of(pattern) {
                breaks(&[at(off)], &[FaultKind::Misaligned]);
            }
        }
    }
    let plain = Case { n: 128, shared_bytes: 4096, ..case("loads_a_tile", 1, 64) };
    keeps(&[plain], &[256, 257]);
}

#[test]
fn factors_start_with_the_pattern_or_a_step_along_k_after_it() {
    let at = |kernel, n| Case { n, shared_bytes: 16384, ..case(kernel, 1, 128) };
    for (kernel, row) in [("multiplies_128", 128), ("multiplies_64", 64), ("multiplies_32", 32)] {
        for n in [0, row - 32, 8 * row] {
            keeps(&[at(kernel, n)], &[16; 512]);
        }
        for n in [row, 4 * row, 7 * row] {
            breaks(&[at(kernel, n)], &[FaultKind::Misaligned]);
        }
    }
    keeps(&[at("multiplies_128_transposed", 2048)], &[16; 512]);
    for n in [64, 128] {
        breaks(&[at("multiplies_128_transposed", n)], &[FaultKind::Misaligned]);
    }
}
