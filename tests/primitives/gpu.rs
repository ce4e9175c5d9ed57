//! GPU 0 against the recording: a test for each kernel, so that one that fails or hangs takes no other with it.

use super::cases::{CASES, Case};
use super::images::{architecture, image};
use super::recording::{compare, recorded};
use super::sources::asked;
use cudarc::driver::sys::{self, CUdevice_attribute_enum as Attribute, CUresult};
use cudarc::driver::{
    CudaContext, CudaFunction, CudaModule, CudaStream, DevicePtr, DevicePtrMut, DriverError,
};
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

/// Launches a kernel, which may start before the one before it has ended if it is `programmatic`.
///
/// # Safety
/// The kernel takes one struct of these bytes, which are right for it.
unsafe fn launch(
    stream: &CudaStream,
    function: &CudaFunction,
    case: &Case,
    programmatic: bool,
    arguments: &mut [u8],
) -> Result<(), DriverError> {
    // More than 48 KiB must be asked for.
    function.set_attribute(
        sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES,
        case.shared_bytes as i32,
    )?;
    let mut attribute = sys::CUlaunchAttribute {
        id: sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION,
        pad: [0; 4],
        value: sys::CUlaunchAttributeValue { programmaticStreamSerializationAllowed: 1 },
    };
    let config = sys::CUlaunchConfig {
        gridDimX: case.blocks,
        gridDimY: 1,
        gridDimZ: 1,
        blockDimX: case.threads,
        blockDimY: 1,
        blockDimZ: 1,
        sharedMemBytes: case.shared_bytes,
        hStream: stream.cu_stream(),
        attrs: &mut attribute,
        numAttrs: u32::from(programmatic),
    };
    let mut parameters = [arguments.as_mut_ptr().cast::<c_void>()];
    // SAFETY: the configuration names as many attributes as there are, all of this outlives the call, and the driver copies
    // the parameter.
    unsafe {
        sys::cuLaunchKernelEx(&config, function.cu_function(), parameters.as_mut_ptr(), std::ptr::null_mut())
    }
    .result()
}

fn run(stream: &Arc<CudaStream>, module: &Arc<CudaModule>, case: &Case) -> Result<Vec<u32>, DriverError> {
    let input = stream.clone_htod(&case.input.words())?;
    let mut output = stream.alloc_zeros::<u32>(case.output_words)?;
    {
        let (input, _input_guard) = input.device_ptr(stream);
        let (output, _output_guard) = output.device_ptr_mut(stream);
        let mut arguments = case.arguments(input, output, encode).unwrap_or_else(|error| panic!("{error}"));
        for kernel in case.after.into_iter().chain([case.kernel]) {
            let programmatic = case.after.is_some() && kernel == case.kernel;
            // SAFETY: the kernel's only parameter is a struct of these bytes; its addresses are those of live buffers with
            // the number of words that the case says.
            unsafe { launch(stream, &module.load_function(kernel)?, case, programmatic, &mut arguments)? };
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
    tma_box_right_of_all
    tma_box_above_all
    tma_multicast
    tma_multicast_ragged
    stmatrix_to_swizzled_box
    tma_reads_stored_words
    multicast_ring
    cluster_handover
    cluster_of_227_kib
    programmatic_second
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
    many_live_values_in_cluster
    tiles_256_bf16
    tiles_256_bf16_turned
    two_groups_in_flight
    warpgroups_in_turn
}
