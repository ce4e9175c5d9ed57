//! What a launch asks for, in the emulator's terms.

use crate::mechanisms::tensor_map::{Swizzle, TensorMap};
use lora_kernels::cuda::{step::Launch, tensor_map};

/// Blocks of a cluster that every device with clusters takes.
const PORTABLE_CLUSTER: u32 = 8;

/// Blocks of the grid.
pub(crate) fn blocks(launch: &Launch) -> u64 {
    launch.grid.iter().map(|&extent| u64::from(extent)).product()
}

/// Blocks of a cluster, where the kernel's file declares so many.
pub(crate) fn cluster(launch: &Launch, declared: u32) -> Result<u32, String> {
    let declared = declared.max(1);
    let [cluster, 1, 1] = launch.cluster else {
        return Err(format!("clusters of {:?}, where the emulator has them along x", launch.cluster));
    };
    // A launch that says nothing leaves it to the declaration.
    if cluster != 1 && declared != 1 && declared != cluster {
        return Err(format!("clusters of {cluster} blocks, where the kernel declares {declared}"));
    }
    let blocks = cluster.max(declared);
    if blocks > PORTABLE_CLUSTER {
        return Err(format!(
            "clusters of {blocks} blocks, where devices need not take more than {PORTABLE_CLUSTER}"
        ));
    }
    Ok(blocks)
}

/// The arguments with the tensor maps in their places.
pub(crate) fn arguments(launch: &Launch) -> Result<Vec<u8>, String> {
    let mut arguments = launch.arguments.clone();
    for (place, map) in &launch.tensor_maps {
        let encoded = matrix_map(map)?.encode()?;
        let space = arguments.get_mut(*place..).and_then(|rest| rest.get_mut(..encoded.len()));
        let space =
            space.ok_or_else(|| format!("a tensor map at byte {place} does not fit the arguments"))?;
        space.copy_from_slice(&encoded);
    }
    Ok(arguments)
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
