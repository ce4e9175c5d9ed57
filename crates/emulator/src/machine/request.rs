//! What a launch asks for, in the emulator's terms.

use crate::mechanisms::tensor_map::{Swizzle, TensorMap};
use lora_kernels::cuda::step::Launch;
use lora_kernels::cuda::tensor_map;
use std::borrow::Cow;

/// Blocks of the grid.
pub(crate) fn blocks(launch: &Launch) -> u64 {
    launch.grid.iter().map(|&extent| u64::from(extent)).product()
}

/// Blocks of a cluster, where the kernel declares so many. All 1 leaves it to the declaration.
pub(crate) fn cluster(launch: &Launch, declared: u32) -> Result<u32, String> {
    let [asked, 1, 1] = launch.cluster else {
        return Err(format!("clusters of {:?} blocks: here they lie along x", launch.cluster));
    };
    let declared = declared.max(1);
    if declared > 1 && asked > 1 && declared != asked {
        return Err(format!("clusters of {asked} blocks, where the kernel declares {declared}"));
    }
    Ok(declared.max(asked))
}

/// The arguments of a checked launch, with the tensor maps in them.
pub(crate) fn filled_arguments(launch: &Launch) -> Result<Cow<'_, [u8]>, String> {
    let mut bytes = Cow::Borrowed(&launch.arguments[..]);
    for (place, map) in &launch.tensor_maps {
        let encoded = matrix_map(map)?.encode()?;
        bytes.to_mut()[*place..][..encoded.len()].copy_from_slice(&encoded);
    }
    Ok(bytes)
}

/// The map of a matrix: the emulator has no others.
fn matrix_map(map: &tensor_map::TensorMap) -> Result<TensorMap, String> {
    if map.dimensions != 2 || map.fill != tensor_map::Fill::Zeros {
        return Err(format!("a tensor map that is not of a matrix filled up with zeros: {map:?}"));
    }
    Ok(TensorMap {
        address: map.address,
        element_bytes: map.dtype.size() as u32,
        columns: map.extents[0],
        rows: map.extents[1],
        row_bytes: map.strides[0],
        box_columns: map.box_extents[0],
        box_rows: map.box_extents[1],
        swizzle: match map.swizzle {
            tensor_map::Swizzle::None => Swizzle::None,
            tensor_map::Swizzle::Bytes32 => Swizzle::Bytes32,
            tensor_map::Swizzle::Bytes64 => Swizzle::Bytes64,
            tensor_map::Swizzle::Bytes128 => Swizzle::Bytes128,
        },
    })
}
