//! Files that stand where weights or a configuration should be and are something else: what they are, and the way out.

use super::SourceFile;
use crate::{Error, Result};

/// Bytes that are looked at.
const START: u64 = 512;

/// What a file with this beginning is instead; `None` if that is not known.
pub(crate) fn instead(start: &[u8]) -> Option<String> {
    // The header of a safetensors file, whose length may begin with any bytes.
    if start.get(8) == Some(&b'{') {
        return None;
    }
    if start.starts_with(b"version https://git-lfs.github.com/spec/") {
        let text = String::from_utf8_lossy(start);
        let size = text.lines().find_map(|line| line.strip_prefix("size ")?.trim().parse::<u64>().ok());
        let size = size.map_or_else(String::new, |size| format!(" of {size} bytes"));
        return Some(format!(
            "a Git LFS pointer: the file itself{size} was not downloaded; get it with `git lfs pull`, or download it from \
             where the repository is"
        ));
    }
    if start.starts_with(b"GGUF") {
        return Some(
            "a GGUF file, which is not read: merge into the safetensors checkpoint that it was made from, and convert the \
             result (llama.cpp's convert_hf_to_gguf.py)"
                .into(),
        );
    }
    if start.starts_with(b"PK\x03\x04") || matches!(start, [0x80, 2..=5, ..]) {
        return Some(
            "a file of torch.save, which can hold programs and is not read: load it where you trust it, and save the \
             tensors as safetensors (`save_pretrained`, or safetensors.torch.save_file)"
                .into(),
        );
    }
    let text = String::from_utf8_lossy(start).trim_start().to_lowercase();
    if text.starts_with("<!doctype html") || text.starts_with("<html") {
        return Some(
            "a web page: the download failed, perhaps for want of a login; download the file again".into(),
        );
    }
    None
}

/// Refuses a file that is known to be something else than what is looked for.
///
/// # Errors
/// [`Error::Malformed`] saying what the file is, or it cannot be read.
pub(crate) fn refuse(source: &SourceFile) -> Result<()> {
    let mut start = vec![0; source.len().min(START) as usize];
    source.read(&mut start, 0)?;
    match instead(&start) {
        Some(reason) => Err(Error::malformed(source.path(), reason)),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_file_is_is_told_by_its_beginning() {
        let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 123\n";
        let cases: [(&[u8], &str); 7] = [
            (pointer, "Git LFS pointer: the file itself of 123 bytes"),
            (&pointer[..50], "Git LFS pointer: the file itself was not"),
            (b"GGUF\x03\0\0\0", "GGUF"),
            (b"PK\x03\x04....", "torch.save"),
            (b"\x80\x02}q\0.", "torch.save"),
            (b"\n<!DOCTYPE html><html>", "web page"),
            (b"<html>", "web page"),
        ];
        for (start, words) in cases {
            let reason = instead(start).unwrap();
            assert!(reason.contains(words), "{reason}");
        }
        // The length of a header, then JSON; and JSON.
        for start in [
            &b"\x10\0\0\0\0\0\0\0{\"a\":"[..],
            b"{\"a\": 1}",
            b"",
            b"\x80\x09",
            b"\x80\x03\0\0\0\0\0\0{\"",
            b"PK\x03\x04\0\0\0\0{",
        ] {
            assert_eq!(instead(start), None, "{start:?}");
        }
    }
}
