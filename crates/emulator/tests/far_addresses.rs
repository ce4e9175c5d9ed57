//! Every kernel where its matrices pass 2³¹ and 2³² elements. `mutants/far.rs` narrows the kernels' indices, one at a time.

mod operations;

use lora_emulator::{KernelLibrary, Schedule, available};
use operations::{Case, Device, far};

fn check(test: &str, bits: u32) {
    let Some(library) = available(test, KernelLibrary::standard()) else { return };
    let mut device = Device::new(library);
    for &what in far::What::ALL {
        Case::Far(far::Case { what, bits }).check(&mut device, &Schedule::matrix(2));
    }
}

#[test]
fn indices_beyond_two_to_the_31_do_not_turn_negative() {
    check("indices_beyond_two_to_the_31_do_not_turn_negative", 31);
}

#[test]
fn indices_beyond_two_to_the_32_do_not_wrap() {
    check("indices_beyond_two_to_the_32_do_not_wrap", 32);
}

/// The families of kernels that a launch starts; all but the arithmetic and the rank are the same code.
#[test]
fn every_kernel_goes_far() {
    let test = "every_kernel_goes_far";
    let Some(library) = available(test, KernelLibrary::standard()) else { return };
    let family = |name: &str| -> String {
        let words = name.split('_');
        words.take_while(|word| !["f16", "bf16", "f32", "tf32"].contains(word)).collect::<Vec<_>>().join("_")
    };
    let mut families: Vec<String> = library.kernel_names().map(family).collect();
    families.dedup();
    let mut device = Device::new(library);
    for &what in far::What::ALL {
        far::Case { what, bits: 31 }.run(&mut device);
    }
    let launched: Vec<String> = device.take_launched().iter().map(|name| family(name)).collect();
    for family in families.iter().filter(|family| *family != "weight_update_measured") {
        assert!(launched.contains(family), "{family} does not go far");
    }
}
