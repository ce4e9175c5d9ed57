//! `wgmma.fence` between other uses of registers and the products that take them.

use super::{Case, breaks, case, keeps};
use lora_emulator::FaultKind;

const RIGHT: Case = case("multiplies", 1, 128);

#[test]
fn products_take_fenced_registers() {
    let expected: Vec<u32> = (0..1024).map(|i| if i % 8 < 4 { i % 8 + 149 } else { i % 8 + 33 }).collect();
    keeps(&[RIGHT], &expected);
    for kernel in [
        "names_neither",
        "new_factor_after_the_fence",
        "new_accumulator_without_a_fence",
        "changes_factor_in_flight",
        "changes_accumulator_in_flight",
    ] {
        breaks(&[Case { kernel, ..RIGHT }], &[FaultKind::UnfencedRegisters]);
    }
}
