//! Streaming a checkpoint into a new directory, some of its tensors changed on the way.
//!
//! Tensors that stay the same are copied from file to file. The others are computed one at a time, while the one
//! before is being written: that bounds memory to a few tensors.

use super::adapter_files::TakenFiles;
use super::side_files::{copy_files, copy_side_files};
use crate::checkpoint::checksum::Checksum;
use crate::checkpoint::quantized::QuantizedWeight;
use crate::checkpoint::{Checkpoint, Outline, ShardWriter, quantized, write_synced};
use crate::error::AtPath;
use crate::files::NewDirectory;
use crate::progress::Progress;
use crate::tensor::{Dtype, Tensor, file_type, float_type};
use crate::{Error, Result};
use lora_kernels::DType;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::ScopedJoinHandle;

/// Bytes that are written before cancellation is looked at again, and before a sync is begun in the background:
/// otherwise everything would wait for the disk at the end.
const CHUNK: u64 = 64 << 20;

/// What becomes of a checkpoint.
#[derive(Debug)]
pub(crate) struct Rewrite<'a> {
    checkpoint: &'a Checkpoint,
    shards: Vec<OutputShard>,
    /// The new `config.json`, if it changes.
    pub model_config: Option<Map<String, Value>>,
    /// Files from an adapter's directory.
    pub taken_files: TakenFiles,
    /// Whether quantised weights stay so.
    requantize: bool,
    /// Whether to take checksums of the tensors that are copied.
    pub checksums: bool,
}

#[derive(Debug)]
struct OutputShard {
    file_name: String,
    metadata: BTreeMap<String, String>,
    outlines: Vec<Outline>,
    copied: Vec<bool>,
}

impl OutputShard {
    /// The parts of a quantised weight, the scale after what it scales.
    fn add_parts(&mut self, checkpoint: &Checkpoint, weight: &QuantizedWeight, computed: bool) {
        let beside = weight.beside.iter().filter_map(|name| Some((name, checkpoint.stored_info(name).ok()?)));
        let parts = weight.parts.iter().map(|(name, info)| (name, info, !computed));
        for (name, info, copied) in parts.chain(beside.map(|(name, info)| (name, info, true))) {
            self.copied.push(copied);
            self.outlines.push(Outline { name: name.clone(), dtype: info.dtype, shape: info.shape.clone() });
        }
    }
}

/// What is to change.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    /// Tensors that are computed.
    pub computed: BTreeSet<String>,
    /// Tensors that the checkpoint does not have.
    pub added: Vec<Outline>,
    /// Tensors that are left out.
    pub removed: BTreeSet<String>,
    /// Computed tensors that get another shape.
    pub resized: BTreeMap<String, Vec<usize>>,
    /// Whether quantised weights are written as such.
    pub requantize: bool,
    /// Type that all floating-point tensors get.
    pub dtype: Option<DType>,
}

/// What was written besides the computed tensors.
pub(crate) struct Written {
    /// Checksums of the copied tensors by name, if they are wanted.
    pub copied: BTreeMap<String, u64>,
    /// Files beside the checkpoint that were left, as they are of no known kind.
    pub not_copied: Vec<String>,
}

/// A tensor that was computed.
pub(crate) enum NewTensor {
    Numbers(Tensor),
    /// Numbers of eight bits.
    Codes(Dtype, Vec<usize>, Vec<u8>),
}

impl NewTensor {
    fn is(&self, outline: &Outline) -> bool {
        let (dtype, shape) = match self {
            NewTensor::Numbers(tensor) => (file_type(tensor.dtype()), tensor.shape()),
            NewTensor::Codes(dtype, shape, _) => (*dtype, shape.as_slice()),
        };
        (dtype, shape) == (outline.dtype, &outline.shape)
    }

    fn bytes(&self) -> &[u8] {
        match self {
            NewTensor::Numbers(tensor) => tensor.bytes(),
            NewTensor::Codes(_, _, bytes) => bytes,
        }
    }
}

enum Message {
    Begin(PathBuf, usize),
    Copy(String),
    Write(NewTensor),
    Finish,
}

impl<'a> Rewrite<'a> {
    pub fn new(checkpoint: &'a Checkpoint, changes: &Changes) -> Self {
        let mut shards: Vec<OutputShard> = checkpoint
            .shards()
            .iter()
            .map(|shard| {
                let mut output = OutputShard {
                    file_name: shard.file_name().to_owned(),
                    metadata: shard.metadata().clone(),
                    outlines: Vec::new(),
                    copied: Vec::new(),
                };
                for name in shard.names().iter().filter(|name| !changes.removed.contains(*name)) {
                    if let (Some(weight), true) = (checkpoint.quantized_weight(name), changes.requantize) {
                        output.add_parts(checkpoint, weight, changes.computed.contains(name));
                        continue;
                    }
                    let info = &checkpoint.tensors()[name];
                    let changes_type = float_type(info.dtype).is_some() && !checkpoint.keeps_type(name);
                    let wanted = changes.dtype.filter(|_| changes_type).map(file_type);
                    let dtype = wanted.unwrap_or(info.dtype);
                    let computed = changes.computed.contains(name) || checkpoint.is_computed(name);
                    output.copied.push(dtype == info.dtype && !computed);
                    let shape = changes.resized.get(name).unwrap_or(&info.shape).clone();
                    output.outlines.push(Outline { name: name.clone(), dtype, shape });
                }
                output
            })
            .collect();
        if let Some(last) = shards.last_mut() {
            last.copied.extend(changes.added.iter().map(|_| false));
            last.outlines.extend(changes.added.iter().cloned());
        }
        Rewrite {
            checkpoint,
            shards,
            model_config: None,
            taken_files: TakenFiles::default(),
            requantize: changes.requantize,
            checksums: false,
        }
    }

    /// Bytes of all tensors.
    pub fn bytes(&self) -> u64 {
        self.shards.iter().flat_map(|shard| &shard.outlines).map(Outline::bytes).sum()
    }

    /// Writes everything into `directory`. `compute` gives the new value of a tensor that is not copied.
    pub fn run(
        &self,
        directory: &NewDirectory,
        progress: &Progress,
        compute: &mut dyn FnMut(&Outline) -> Result<NewTensor>,
    ) -> Result<Written> {
        progress.start(self.bytes());
        let not_copied = self.copy_side_files(directory, progress)?;
        let (sender, receiver) = sync_channel(1);
        let copied = std::thread::scope(|scope| {
            let (handles, to_sync) = sync_channel(1);
            let syncer = scope.spawn(|| sync(to_sync));
            let writer = scope.spawn(|| self.write(receiver, handles, progress));
            let computed = self.send(directory.path(), progress, sender, compute);
            // A computation that stopped because the writer did is not the reason.
            let (written, synced) = (joined(writer), joined(syncer));
            written.and_then(|checksums| synced.and(computed).map(|()| checksums))
        })?;
        self.write_index(directory)?;
        Ok(Written { copied, not_copied })
    }

    fn send(
        &self,
        directory: &Path,
        progress: &Progress,
        sender: SyncSender<Message>,
        compute: &mut dyn FnMut(&Outline) -> Result<NewTensor>,
    ) -> Result<()> {
        for (index, shard) in self.shards.iter().enumerate() {
            let mut messages = vec![Message::Begin(directory.join(&shard.file_name), index)];
            for (outline, copied) in shard.outlines.iter().zip(&shard.copied) {
                progress.check()?;
                messages.push(if *copied {
                    Message::Copy(outline.name.clone())
                } else {
                    let tensor = compute(outline)?;
                    if !tensor.is(outline) {
                        return Err(Error::tensor(&outline.name, "was announced with another shape or type"));
                    }
                    Message::Write(tensor)
                });
                for message in messages.drain(..) {
                    if sender.send(message).is_err() {
                        return Ok(());
                    }
                }
            }
            messages.push(Message::Finish);
            for message in messages {
                if sender.send(message).is_err() {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    fn write(
        &self,
        receiver: Receiver<Message>,
        handles: SyncSender<(File, PathBuf)>,
        progress: &Progress,
    ) -> Result<BTreeMap<String, u64>> {
        let mut checksums = BTreeMap::new();
        let mut current: Option<ShardWriter> = None;
        for message in receiver {
            match (message, &mut current) {
                (Message::Begin(path, shard), current) => {
                    let shard = &self.shards[shard];
                    *current = Some(ShardWriter::create(&path, &shard.metadata, &shard.outlines)?);
                }
                (Message::Copy(name), Some(writer)) if self.checksums => {
                    let sum = self.copy_with_checksum(&name, writer, &handles, progress)?;
                    checksums.insert(name, sum);
                }
                (Message::Copy(name), Some(writer)) => {
                    let info = self.checkpoint.stored_info(&name)?.clone();
                    let source = self.checkpoint.shards()[info.shard].source();
                    let Range { mut start, end: last } = info.range;
                    while start < last {
                        progress.check()?;
                        let end = last.min(start + CHUNK);
                        writer.copy(source, start..end)?;
                        progress.advance(end - start);
                        start = end;
                        begin_sync(&handles, writer)?;
                    }
                }
                (Message::Write(tensor), Some(writer)) => {
                    for chunk in tensor.bytes().chunks(CHUNK as usize) {
                        progress.check()?;
                        writer.write(chunk)?;
                        progress.advance(chunk.len() as u64);
                        begin_sync(&handles, writer)?;
                    }
                }
                (Message::Finish, current) => {
                    if let Some(writer) = current.take() {
                        writer.finish()?;
                    }
                }
                (_, None) => {}
            }
        }
        Ok(checksums)
    }

    fn copy_with_checksum(
        &self,
        name: &str,
        writer: &mut ShardWriter,
        handles: &SyncSender<(File, PathBuf)>,
        progress: &Progress,
    ) -> Result<u64> {
        let info = self.checkpoint.info(name)?;
        let mut sum = Checksum::of_tensor(info.dtype, &info.shape);
        let mut since_sync = 0;
        self.checkpoint.for_each_piece(name, |piece| {
            progress.check()?;
            sum.add(piece);
            writer.write(piece)?;
            progress.advance(piece.len() as u64);
            since_sync += piece.len() as u64;
            if since_sync >= CHUNK {
                since_sync = 0;
                begin_sync(handles, writer)?;
            }
            Ok(true)
        })?;
        begin_sync(handles, writer)?;
        Ok(sum.finish())
    }

    fn copy_side_files(&self, directory: &NewDirectory, progress: &Progress) -> Result<Vec<String>> {
        if let Some(config) = &self.model_config {
            let text = format!("{:#}\n", Value::Object(config.clone()));
            write_synced(&directory.path().join("config.json"), text.as_bytes())?;
        }
        let left = match self.checkpoint.owns_directory() {
            true => {
                copy_files(&self.taken_files.directory, &self.taken_files.names, directory, progress)?;
                let dropped = &self.taken_files.dropped;
                copy_side_files(self.checkpoint.directory(), directory, dropped, progress)?
            }
            false => Vec::new(),
        };
        if self.checkpoint.is_dequantized() && !self.requantize {
            for path in quantized::SIDE_FILES.map(|name| directory.path().join(name)) {
                if path.exists() {
                    std::fs::remove_file(&path).at(&path)?;
                }
            }
        }
        Ok(left)
    }

    fn write_index(&self, directory: &NewDirectory) -> Result<()> {
        let Some(file_name) = self.checkpoint.index_file_name() else {
            return Ok(());
        };
        let mut metadata = self.checkpoint.index_metadata();
        metadata.insert("total_size".into(), json!(self.bytes()));
        let files: Map<String, Value> = self
            .shards
            .iter()
            .flat_map(|shard| {
                shard.outlines.iter().map(|outline| (outline.name.clone(), json!(shard.file_name)))
            })
            .collect();
        let index = json!({ "metadata": metadata, "weight_map": files });
        write_synced(&directory.path().join(file_name), format!("{index:#}\n").as_bytes())
    }
}

fn joined<T>(thread: ScopedJoinHandle<'_, Result<T>>) -> Result<T> {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Lets the syncing thread have the file, unless it is still busy.
fn begin_sync(handles: &SyncSender<(File, PathBuf)>, writer: &ShardWriter) -> Result<()> {
    // A full channel means that a sync is waiting already, a closed one that the syncing thread has an error to tell.
    let _ = handles.try_send((writer.handle()?, writer.path().to_owned()));
    Ok(())
}

fn sync(files: Receiver<(File, PathBuf)>) -> Result<()> {
    for (file, path) in files {
        file.sync_data().at(&path)?;
    }
    Ok(())
}
