//! Times on the stream, from which the host and the cache are kept out.
//!
//! Before the first mark of each measurement the GPU is given other work, long enough that all that is measured is queued
//! behind it: neither the latency of the first launch nor the host's pace enters the time. That work reads a buffer beyond
//! the size of the last-level cache, so that measurements find nothing of theirs in it, and leaves nothing to be written
//! back.

use super::device::Device;
use anyhow::{Context, Result};
use lora_kernels::cuda::arguments::weights::Sums;
use lora_kernels::cuda::cudarc::driver::sys::CUevent_flags;
use lora_kernels::cuda::cudarc::driver::{CudaEvent, CudaSlice, CudaStream, DevicePtr};
use lora_kernels::cuda::driver::DriverExecutor;
use lora_kernels::cuda::executor::Executor;
use lora_kernels::cuda::plan::weights;
use lora_kernels::cuda::step::Step;
use lora_kernels::memory::RawBuffer;
use lora_kernels::{DType, Layout, MatrixRef};
use std::sync::Arc;

/// More than this much other work does not help: the host is waited for whatever is put before it.
const MOST_REPEATS: usize = 64;

/// Marks the stream's time.
pub struct Timer {
    stream: Arc<CudaStream>,
    executor: DriverExecutor,
    filler: Step,
    repeats: usize,
    late: usize,
    measured: usize,
    _memory: [CudaSlice<f32>; 2],
}

impl Timer {
    pub fn new(device: &Device) -> Result<Self> {
        let stream = device.stream.clone();
        let elements = (4 * device.cache_bytes).max(256 << 20) / 4;
        let memory = [device.zeros::<f32>(elements)?, device.zeros::<f32>(size_of::<Sums>() / 4)?];
        let [read, sums] = [0, 1].map(|index| memory[index].device_ptr(&stream).0);
        let buffer = RawBuffer { address: read, len: elements, dtype: DType::F32 };
        let matrix = MatrixRef::from_buffer(buffer, Layout::packed(elements / 1024, 1024)?)?;
        let mut timer = Timer {
            executor: DriverExecutor::new(stream.clone())?,
            filler: weights::weight_fingerprint(matrix, sums),
            repeats: 1,
            late: 0,
            measured: 0,
            _memory: memory,
            stream,
        };
        // Loads the kernel.
        timer.fill()?;
        timer.stream.synchronize()?;
        Ok(timer)
    }

    /// Milliseconds that each of `parts` takes, enqueued one after the other. `enqueue` is called again with more time
    /// where the host was too slow.
    pub fn parts(&mut self, parts: usize, mut enqueue: impl FnMut(usize) -> Result<()>) -> Result<Vec<f64>> {
        loop {
            self.fill()?;
            let mut marks = vec![self.mark()?];
            for part in 0..parts {
                enqueue(part)?;
                marks.push(self.mark()?);
            }
            let was_late = marks[0].try_is_complete()?;
            self.stream.synchronize().context("the measured work")?;
            if was_late && self.repeats < MOST_REPEATS {
                self.repeats *= 2;
                continue;
            }
            self.measured += 1;
            self.late += usize::from(was_late);
            let times = marks.windows(2).map(|pair| Ok(f64::from(pair[0].elapsed_ms(&pair[1])?)));
            return times.collect();
        }
    }

    /// Milliseconds of all that is enqueued.
    pub fn time(&mut self, mut enqueue: impl FnMut() -> Result<()>) -> Result<f64> {
        Ok(self.parts(1, |_| enqueue())?[0])
    }

    /// Measurements, and how many of them began before the host had queued everything: those may hold gaps.
    pub fn late(&self) -> (usize, usize) {
        (self.late, self.measured)
    }

    fn fill(&mut self) -> Result<()> {
        for _ in 0..self.repeats {
            self.executor.run(&self.filler)?;
        }
        Ok(())
    }

    fn mark(&self) -> Result<CudaEvent> {
        Ok(self.stream.record_event(Some(CUevent_flags::CU_EVENT_DEFAULT))?)
    }
}
