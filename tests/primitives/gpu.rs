//! GPU 0 against the recording: a test for each kernel, so that one that fails or hangs takes no other with it.

use super::cases::{CASES, Case};
use super::images::{architecture, image};
use super::recording::{compare, recorded};
use super::sources::asked;
use cudarc::driver::sys::{self, CUdevice_attribute_enum as Attribute, CUresult};
use cudarc::driver::{CudaContext, CudaModule, CudaStream, DevicePtr, DevicePtrMut, DriverError, result};
use cudarc::nvrtc::Ptx;
use lora_emulator::{Swizzle, TensorMap};
use std::ffi::c_void;
use std::sync::{Arc, Mutex};

/// Each reason once, straight to standard error: the test harness swallows what passing tests print.
fn announce_skip(reason: String) {
    use std::io::Write;
    static ANNOUNCED: Mutex<Vec<String>> = Mutex::new(Vec::new());
    let mut announced = ANNOUNCED.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    if !announced.contains(&reason) {
        let rule = "=".repeat(78);
        let _ = writeln!(std::io::stderr(), "\n{rule}\nSKIPPED primitives on a GPU: {reason}\n{rule}");
        announced.push(reason);
    }
}

/// What the driver makes of a map.
fn encode(map: &TensorMap) -> Result<[u8; 128], String> {
    map.encode()?;
    assert_eq!(map.element_bytes, 2);
    let swizzle = match map.swizzle {
        Swizzle::None => sys::CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_NONE,
        Swizzle::Bytes32 => sys::CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_32B,
        Swizzle::Bytes64 => sys::CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_64B,
        Swizzle::Bytes128 => sys::CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_128B,
    };
    let mut encoded = sys::CUtensorMap { opaque: [0; 16] };
    // SAFETY: the arrays have as many elements as two dimensions need (strides one fewer), and outlive the call; the
    // address is not followed.
    let status = unsafe {
        sys::cuTensorMapEncodeTiled(
            &mut encoded,
            sys::CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_UINT16,
            2,
            map.address as *mut c_void,
            [map.columns, map.rows].as_ptr(),
            [map.row_bytes].as_ptr(),
            [map.box_columns, map.box_rows].as_ptr(),
            [1, 1].as_ptr(),
            sys::CUtensorMapInterleave::CU_TENSOR_MAP_INTERLEAVE_NONE,
            swizzle,
            sys::CUtensorMapL2promotion::CU_TENSOR_MAP_L2_PROMOTION_NONE,
            sys::CUtensorMapFloatOOBfill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
        )
    };
    if status != CUresult::CUDA_SUCCESS {
        return Err(format!("cuTensorMapEncodeTiled: {status:?} for {map:?}"));
    }
    Ok(bytemuck::cast(encoded.opaque))
}

fn run(stream: &Arc<CudaStream>, module: &Arc<CudaModule>, case: &Case) -> Result<Vec<u32>, DriverError> {
    let function = module.load_function(case.kernel)?;
    let input = stream.clone_htod(&case.input.words())?;
    let mut output = stream.alloc_zeros::<u32>(case.output_words)?;
    {
        let (input, _input_guard) = input.device_ptr(stream);
        let (output, _output_guard) = output.device_ptr_mut(stream);
        let mut arguments = case.arguments(input, output, encode).unwrap_or_else(|error| panic!("{error}"));
        let (grid, block) = ((case.blocks, 1, 1), (case.threads, 1, 1));
        let mut parameters = [arguments.as_mut_ptr().cast::<c_void>()];
        // SAFETY: the kernel's only parameter is a struct of these bytes, which the driver copies; its addresses are
        // those of live buffers with the number of words that the case says.
        unsafe {
            result::launch_kernel(
                function.cu_function(),
                grid,
                block,
                case.shared_bytes,
                stream.cu_stream(),
                &mut parameters,
            )?;
        }
    }
    let words = stream.clone_dtoh(&output)?;
    stream.synchronize()?;
    Ok(words)
}

/// Runs the kernel if the device has its instructions, or says why it cannot begin.
fn compare_with_device(kernel: &str) -> Result<(), String> {
    let case = CASES.iter().find(|case| case.kernel == kernel).expect("the kernel is a case");
    lora_kernels::cuda::availability().map_err(|error| error.to_string())?;
    let context = CudaContext::new(0).map_err(|error| error.to_string())?;
    let attribute =
        |which| context.attribute(which).map(i32::unsigned_abs).unwrap_or_else(|error| panic!("{error}"));
    let capability = (
        attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR),
        attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR),
    );
    if !case.file.runs_on(capability) {
        let name = case.file.name();
        announce_skip(format!("a GPU of {} has not all instructions of {name}", architecture(capability)));
        return Ok(());
    }
    let module = context
        .load_module(Ptx::from_binary(image(case.file, capability)?))
        .unwrap_or_else(|error| panic!("loading {}: {error}", case.file.name()));
    let words = run(&context.default_stream(), &module, case).unwrap_or_else(|error| panic!("{error}"));
    compare(kernel, &words, &recorded(), &architecture(capability));
    Ok(())
}

fn check(kernel: &str) {
    if let Err(reason) = compare_with_device(kernel) {
        assert!(!asked("LORA_KERNELS_REQUIRE_GPU"), "LORA_KERNELS_REQUIRE_GPU=1, but {reason}");
        announce_skip(reason);
    }
}

macro_rules! kernel_tests {
    ($($kernel:ident)+) => {
        $(#[test]
        fn $kernel() {
            check(stringify!($kernel));
        })+

        #[test]
        fn every_kernel_has_a_test() {
            let mut tested = [$(stringify!($kernel)),+];
            let mut kernels: Vec<_> = CASES.iter().map(|case| case.kernel).collect();
            tested.sort_unstable();
            kernels.sort_unstable();
            assert_eq!(kernels, tested);
        }
    };
}

kernel_tests! {
    cp_async_whole
    cp_async_partial
    global_stores
    ldmatrix_of_four
    ldmatrix_of_four_transposed
    ldmatrix_of_two
    ldmatrix_of_two_transposed
    mma_bf16
    mma_f16
    mma_tf32
    rounding_to_tf32
    named_barrier
    stmatrix_of_four
    stmatrix_of_four_transposed
    stmatrix_of_two
    stmatrix_of_two_transposed
    mbarrier_phases
    tma_box
    tma_box_swizzled_32
    tma_box_swizzled_64
    tma_box_swizzled_128
    tma_multicast
    cluster_neighbours
    grid_dependency
    wgmma_8_f16
    wgmma_16_bf16
    wgmma_32_f16_registers
    wgmma_64_bf16_registers
    wgmma_64_f16_transposed
    wgmma_64_bf16
    wgmma_128_f16_transposed
    wgmma_256_bf16
    moved_registers
    moved_registers_in_cluster
}
