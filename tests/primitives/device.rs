//! GPU 0 against the recording.

use super::cases::{CASES, Case, File};
use super::recording::{compare, recorded};
use super::sources::{asked, primitives, root};
use cudarc::driver::sys::{self, CUdevice_attribute_enum as Attribute, CUresult};
use cudarc::driver::{CudaContext, CudaModule, CudaStream, DevicePtr, DevicePtrMut, DriverError, result};
use cudarc::nvrtc::Ptx;
use lora_emulator::{Swizzle, TensorMap};
use std::ffi::c_void;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;

/// Straight to standard error: the test harness swallows what passing tests print.
fn announce_skip(test: &str, reason: &dyn std::fmt::Display) {
    use std::io::Write;
    let rule = "=".repeat(78);
    let _ = writeln!(std::io::stderr(), "\n{rule}\nSKIPPED {test}: {reason}\n{rule}");
}

/// `9, 0` is `sm_90a`: without the letter, Hopper's compiler leaves out wgmma and setmaxnreg.
fn architecture((major, minor): (u32, u32)) -> String {
    let suffix = if (major, minor) == (9, 0) { "a" } else { "" };
    format!("sm_{major}{minor}{suffix}")
}

/// Machine code of a file for the device, or why there is none.
fn compile(file: File, capability: (u32, u32)) -> Result<Vec<u8>, String> {
    let nvcc = std::env::var_os("NVCC").filter(|path| !path.is_empty()).unwrap_or_else(|| "nvcc".into());
    let image: PathBuf =
        std::env::temp_dir().join(format!("lora-primitives-{}-{}.cubin", std::process::id(), file.name()));
    let mut command = Command::new(&nvcc);
    command.args(["--cubin", "-std=c++17", "-arch"]).arg(architecture(capability));
    command.arg("-I").arg(root().join("kernels")).arg("-o").arg(&image).arg(primitives().join(file.name()));
    let output = command.output().map_err(|error| {
        format!("{} did not start ({error}); set NVCC to NVIDIA's compiler", nvcc.display())
    })?;
    assert!(output.status.success(), "{command:?}\n{}", String::from_utf8_lossy(&output.stderr));
    let code = std::fs::read(&image).map_err(|error| format!("{}: {error}", image.display()));
    // A file left behind does no harm.
    let _ = std::fs::remove_file(&image);
    code
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

/// Compiles and runs what the device can, or says why it cannot begin.
fn compare_with_device() -> Result<(), String> {
    lora_kernels::cuda::availability().map_err(|error| error.to_string())?;
    let recording = recorded();
    let context = CudaContext::new(0).map_err(|error| error.to_string())?;
    let attribute =
        |which| context.attribute(which).map(i32::unsigned_abs).unwrap_or_else(|error| panic!("{error}"));
    let capability = (
        attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR),
        attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR),
    );
    let stream = context.default_stream();
    for file in File::ALL {
        if !file.runs_on(capability) {
            announce_skip(
                file.name(),
                &format_args!("a GPU of {} has not all of it", architecture(capability)),
            );
            continue;
        }
        let code = compile(file, capability)?;
        let module = context
            .load_module(Ptx::from_binary(code))
            .unwrap_or_else(|error| panic!("loading {}: {error}", file.name()));
        for case in CASES.iter().filter(|case| case.file == file) {
            let words =
                run(&stream, &module, case).unwrap_or_else(|error| panic!("{}: {error}", case.kernel));
            compare(case.kernel, &words, &recording, &architecture(capability));
        }
    }
    Ok(())
}

#[test]
fn primitives_on_a_cuda_device_give_what_was_recorded() {
    if let Err(reason) = compare_with_device() {
        assert!(!asked("LORA_KERNELS_REQUIRE_GPU"), "LORA_KERNELS_REQUIRE_GPU=1, but {reason}");
        announce_skip("primitives on a GPU", &reason);
    }
}

#[test]
fn kernels_are_compiled_for_the_device() {
    assert_eq!(architecture((8, 0)), "sm_80");
    assert_eq!(architecture((9, 0)), "sm_90a");
    assert_eq!(architecture((12, 0)), "sm_120");
    let files = |capability| File::ALL.map(|file| file.runs_on(capability));
    assert_eq!(files((8, 9)), [true, false, false]);
    assert_eq!(files((9, 0)), [true, true, true]);
    assert_eq!(files((10, 0)), [true, true, false]);
}
