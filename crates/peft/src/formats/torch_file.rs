//! Files that `torch.save` wrote since torch 1.6: a zip archive with a pickle that describes tensors, and their bytes.

use super::pickle::{self, ElementType, Stored};
use crate::error::{Error, Result};
use crate::tensor::Tensor;
use half::{bf16, f16};
use std::collections::{BTreeMap, HashMap};
use std::io::{Cursor, Read};
use std::path::Path;
use std::rc::Rc;
use zip::ZipArchive;

const WAY_OUT: &str = "load it with `torch.load(…, weights_only=True)` and save the tensors with \
                       `safetensors.torch.save_file`, an adapter's as adapter_model.safetensors";

fn refused(reason: &str) -> Error {
    Error::malformed(
        Path::new(""),
        format!("a file of torch's whose tensors are not read: {reason}; {WAY_OUT}"),
    )
}

/// The tensors of a dictionary.
pub(super) fn tensors(bytes: &[u8]) -> Result<BTreeMap<String, Tensor>> {
    if !bytes.starts_with(b"PK\x03\x04") {
        return Err(match bytes.starts_with(&[0x80, 2]) {
            true => refused("it has the format from before torch 1.6"),
            false => Error::malformed(
                Path::new(""),
                format!("not a file of torch's: it is no zip archive; {WAY_OUT}"),
            ),
        });
    }
    let mut archive = ZipArchive::new(Cursor::new(bytes)).map_err(|error| refused(&error.to_string()))?;
    let named = |ending: &str, archive: &ZipArchive<_>| {
        let is_named = |name: &&str| name.split_once('/').is_some_and(|(_, rest)| rest == ending);
        archive.file_names().find(is_named).map(str::to_owned)
    };
    let description = named("data.pkl", &archive).ok_or_else(|| refused("it has no data.pkl"))?;
    let folder = description.trim_end_matches("data.pkl").to_owned();
    let order = named("byteorder", &archive);
    if let Some(order) = order
        && entry(&mut archive, &order, bytes.len())? != b"little"
    {
        return Err(refused("it was written on a machine whose numbers begin with their largest byte"));
    }
    let pickle = entry(&mut archive, &description, bytes.len())?;
    let found = pickle::read(&pickle).map_err(|reason| refused(&reason))?;
    let mut storages: HashMap<Rc<str>, Vec<u8>> = HashMap::new();
    let mut tensors = BTreeMap::new();
    for (name, stored) in found {
        let key = &stored.storage.key;
        if !storages.contains_key(key) {
            // Storages are shared by few tensors, and those follow each other.
            storages.clear();
            storages
                .insert(Rc::clone(key), entry(&mut archive, &format!("{folder}data/{key}"), bytes.len())?);
        }
        let tensor = read(&name, &stored, &storages[key])?;
        if !tensor.is_finite() {
            return Err(Error::tensor(name, "holds NaN or infinity"));
        }
        if tensors.insert(name.clone(), tensor).is_some() {
            return Err(Error::tensor(name, "found twice"));
        }
    }
    Ok(tensors)
}

/// The bytes of a file in the archive, which has no more than `limit`: torch does not compress.
fn entry(archive: &mut ZipArchive<Cursor<&[u8]>>, name: &str, limit: usize) -> Result<Vec<u8>> {
    let mut file = archive.by_name(name).map_err(|error| refused(&format!("`{name}` in it: {error}")))?;
    if file.size() > limit as u64 {
        return Err(refused(&format!("`{name}` in it would be larger than the file")));
    }
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).map_err(|error| refused(&format!("`{name}` in it: {error}")))?;
    Ok(bytes)
}

fn read(name: &str, stored: &Stored, bytes: &[u8]) -> Result<Tensor> {
    let places = places(stored).ok_or_else(|| Error::tensor(name, "lies outside its storage"))?;
    let shape = &stored.shape;
    fn values<const N: usize, T>(bytes: &[u8], places: &[usize], value: fn([u8; N]) -> T) -> Option<Vec<T>> {
        let one = |&place: &usize| {
            let start = place.checked_mul(N)?;
            bytes.get(start..start.checked_add(N)?)?.try_into().ok().map(value)
        };
        places.iter().map(one).collect()
    }
    let tensor = match stored.storage.element {
        ElementType::F32 => {
            values(bytes, &places, f32::from_le_bytes).map(|values| Tensor::of(shape, values))
        }
        ElementType::F16 => {
            values(bytes, &places, f16::from_le_bytes).map(|values| Tensor::of(shape, values))
        }
        ElementType::Bf16 => {
            values(bytes, &places, bf16::from_le_bytes).map(|values| Tensor::of(shape, values))
        }
        // α.
        ElementType::F64 if places.len() == 1 => {
            values(bytes, &places, |bytes| f64::from_le_bytes(bytes) as f32)
                .map(|values| Tensor::of(shape, values))
        }
        ElementType::I64 if places.len() == 1 => {
            values(bytes, &places, |bytes| i64::from_le_bytes(bytes) as f32)
                .map(|values| Tensor::of(shape, values))
        }
        ElementType::I32 if places.len() == 1 => {
            values(bytes, &places, |bytes| i32::from_le_bytes(bytes) as f32)
                .map(|values| Tensor::of(shape, values))
        }
        _ => return Err(Error::tensor(name, "holds other numbers than float32, float16 or bfloat16")),
    };
    tensor.ok_or_else(|| Error::tensor(name, "its storage is shorter than it says"))
}

/// Where a tensor's elements lie in its storage, in the order of its shape; `None` if one lies outside.
fn places(stored: &Stored) -> Option<Vec<usize>> {
    let count = stored.shape.iter().try_fold(1usize, |product, size| product.checked_mul(*size))?;
    if count > stored.storage.elements {
        return None;
    }
    if count == 0 {
        return Some(Vec::new());
    }
    let mut last = stored.offset;
    for (size, stride) in stored.shape.iter().zip(&stored.strides) {
        last = last.checked_add((size - 1).checked_mul(*stride)?)?;
    }
    if last >= stored.storage.elements {
        return None;
    }
    let mut places = vec![stored.offset];
    for (size, stride) in stored.shape.iter().zip(&stored.strides) {
        places =
            places.iter().flat_map(|place| (0..*size).map(move |index| place + index * stride)).collect();
    }
    Some(places)
}
