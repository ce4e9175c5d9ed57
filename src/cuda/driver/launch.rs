//! From a launch to the driver's call: arguments, tensor maps and attributes.

use super::failure;
use crate::cuda::step::Launch;
use crate::cuda::tensor_map::{Fill, MOST_DIMENSIONS, Swizzle, TensorMap};
use crate::{DType, Result};
use cudarc::driver::sys::{
    self, CUlaunchAttribute, CUlaunchAttributeID, CUlaunchAttributeValue, CUlaunchConfig, CUtensorMap,
    CUtensorMapDataType, CUtensorMapFloatOOBfill, CUtensorMapInterleave, CUtensorMapL2promotion,
    CUtensorMapSwizzle,
};
use cudarc::driver::{CudaFunction, CudaStream, result};
use std::ffi::c_void;

/// Writes the launch's arguments to `to`, with its tensor maps in their places.
pub fn encode_arguments(launch: &Launch, to: &mut Vec<u8>) -> Result<()> {
    to.clear();
    to.extend_from_slice(&launch.arguments);
    for (place, map) in &launch.tensor_maps {
        to[*place..][..TensorMap::BYTES].copy_from_slice(&encode(map)?);
    }
    Ok(())
}

/// Launches with arguments that [`encode_arguments`] wrote for this launch.
pub fn launch(function: &CudaFunction, stream: &CudaStream, launch: &Launch, arguments: &[u8]) -> Result<()> {
    let (mut attributes, count) = attributes(launch);
    let [[grid_x, grid_y, grid_z], block] = [launch.grid, [launch.kernel.threads(), 1, 1]];
    let mut parameters = [arguments.as_ptr().cast_mut().cast::<c_void>()];
    if count == 0 {
        // SAFETY: the function's module is kept alive by its handle. Its only parameter is the struct whose bytes the planner wrote,
        // as many as the struct has; the driver copies them before the call returns. That the addresses in them are live is what
        // the callers of the engine vouch for.
        return unsafe {
            result::launch_kernel(
                function.cu_function(),
                (grid_x, grid_y, grid_z),
                block.into(),
                launch.shared_bytes,
                stream.cu_stream(),
                &mut parameters,
            )
        }
        .map_err(failure::driver("cuLaunchKernel"));
    }
    let [x, y, z] = block;
    let config = CUlaunchConfig {
        gridDimX: grid_x,
        gridDimY: grid_y,
        gridDimZ: grid_z,
        blockDimX: x,
        blockDimY: y,
        blockDimZ: z,
        sharedMemBytes: launch.shared_bytes,
        hStream: stream.cu_stream(),
        attrs: attributes.as_mut_ptr(),
        numAttrs: count,
    };
    // SAFETY: as above; the first `count` attributes are there, and outlive the call.
    unsafe {
        sys::cuLaunchKernelEx(&config, function.cu_function(), parameters.as_mut_ptr(), std::ptr::null_mut())
    }
    .result()
    .map_err(failure::driver("cuLaunchKernelEx"))
}

/// Attributes, and how many there are.
fn attributes(launch: &Launch) -> ([CUlaunchAttribute; 2], u32) {
    let unused = CUlaunchAttribute {
        id: CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_IGNORE,
        pad: [0; 4],
        value: CUlaunchAttributeValue { pad: [0; 64] },
    };
    let (mut attributes, mut count) = ([unused; 2], 0);
    if launch.cluster != [1, 1, 1] {
        let [x, y, z] = launch.cluster;
        let attribute = &mut attributes[count];
        attribute.id = CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION;
        attribute.value.clusterDim = sys::CUlaunchAttributeValue_union__bindgen_ty_1 { x, y, z };
        count += 1;
    }
    if launch.programmatic {
        let attribute = &mut attributes[count];
        attribute.id = CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION;
        attribute.value.programmaticStreamSerializationAllowed = 1;
        count += 1;
    }
    (attributes, count as u32)
}

/// What `cuTensorMapEncodeTiled` takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Encoding {
    dtype: CUtensorMapDataType,
    dimensions: u32,
    extents: [u64; MOST_DIMENSIONS],
    strides: [u64; MOST_DIMENSIONS - 1],
    box_extents: [u32; MOST_DIMENSIONS],
    swizzle: CUtensorMapSwizzle,
    fill: CUtensorMapFloatOOBfill,
}

fn encoding(map: &TensorMap) -> Encoding {
    Encoding {
        dtype: match map.dtype {
            DType::F32 => CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_FLOAT32,
            DType::F16 => CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_FLOAT16,
            DType::Bf16 => CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
        },
        dimensions: map.dimensions as u32,
        extents: map.extents,
        strides: map.strides,
        box_extents: map.box_extents,
        swizzle: match map.swizzle {
            Swizzle::None => CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_NONE,
            Swizzle::Bytes32 => CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_32B,
            Swizzle::Bytes64 => CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_64B,
            Swizzle::Bytes128 => CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_128B,
        },
        fill: match map.fill {
            Fill::Zeros => CUtensorMapFloatOOBfill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
            Fill::Nans => CUtensorMapFloatOOBfill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NAN_REQUEST_ZERO_FMA,
        },
    }
}

fn encode(map: &TensorMap) -> Result<[u8; TensorMap::BYTES]> {
    map.check()?;
    let Encoding { dtype, dimensions, extents, strides, box_extents, swizzle, fill } = encoding(map);
    // Aligned to 64 bytes, as the driver wants it.
    let mut encoded = CUtensorMap { opaque: [0; 16] };
    // SAFETY: the arrays have as many elements as the driver reads for up to five dimensions, and outlive the call; the address is
    // not followed. The crate needs a driver of CUDA 12 or later where a launch has tensor maps: they are for compute capability
    // 9.0, and no driver before it knows all of its instructions.
    unsafe {
        sys::cuTensorMapEncodeTiled(
            &mut encoded,
            dtype,
            dimensions,
            map.address as *mut c_void,
            extents.as_ptr(),
            strides.as_ptr(),
            box_extents.as_ptr(),
            [1; MOST_DIMENSIONS].as_ptr(),
            CUtensorMapInterleave::CU_TENSOR_MAP_INTERLEAVE_NONE,
            swizzle,
            CUtensorMapL2promotion::CU_TENSOR_MAP_L2_PROMOTION_NONE,
            fill,
        )
    }
    .result()
    .map_err(failure::driver("cuTensorMapEncodeTiled"))?;
    Ok(bytemuck::cast(encoded.opaque))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Error;
    use crate::cuda::kernel::Kernel;

    const MAP: TensorMap = TensorMap::matrix(DType::Bf16, 0x1000, [100, 72], 144, [8, 64]);

    fn plain() -> Launch {
        Launch::new(Kernel::new("folder/file.cu", "kernel", 128), [4, 1, 1], 0, vec![7; 256])
    }

    #[test]
    fn a_plain_launch_has_no_attributes() {
        assert_eq!(attributes(&plain()).1, 0);
    }

    #[test]
    fn clusters_and_programmatic_launches_are_attributes() {
        let (list, count) = attributes(&Launch { cluster: [2, 1, 1], programmatic: true, ..plain() });
        assert_eq!(count, 2);
        assert_eq!(list[0].id, CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION);
        assert_eq!(list[1].id, CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION);
        // SAFETY: the fields were written, and all bits are valid numbers.
        let (cluster, allowed) =
            unsafe { (list[0].value.clusterDim, list[1].value.programmaticStreamSerializationAllowed) };
        assert_eq!(([cluster.x, cluster.y, cluster.z], allowed), ([2, 1, 1], 1));

        let (list, count) = attributes(&Launch { programmatic: true, ..plain() });
        assert_eq!(count, 1);
        assert_eq!(list[0].id, CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION);
    }

    #[test]
    fn a_map_is_described_innermost_dimension_first() {
        let map = TensorMap { swizzle: Swizzle::Bytes128, fill: Fill::Nans, ..MAP };
        let expected = Encoding {
            dtype: CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
            dimensions: 2,
            extents: [72, 100, 1, 1, 1],
            strides: [144, 0, 0, 0],
            box_extents: [64, 8, 1, 1, 1],
            swizzle: CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_128B,
            fill: CUtensorMapFloatOOBfill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NAN_REQUEST_ZERO_FMA,
        };
        assert_eq!(encoding(&map), expected);
    }

    #[test]
    fn a_map_that_the_hardware_does_not_take_never_reaches_the_driver() {
        let launch = Launch { tensor_maps: vec![(64, TensorMap { address: 8, ..MAP })], ..plain() };
        let mut arguments = Vec::new();
        assert!(matches!(encode_arguments(&launch, &mut arguments), Err(Error::InvalidValue { .. })));
    }

    #[test]
    fn the_next_launch_leaves_nothing_of_the_last() {
        let mut arguments = vec![1; 999];
        encode_arguments(&plain(), &mut arguments).expect("no tensor maps");
        assert_eq!(arguments, [7; 256]);
        assert_eq!(size_of::<CUtensorMap>(), TensorMap::BYTES);
        assert!(align_of::<CUtensorMap>() >= TensorMap::ALIGNMENT);
    }
}
