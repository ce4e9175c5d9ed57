//! The asynchronous proxy (TMA, wgmma) and ordinary stores: which of them a `fence.proxy.async` has made safe.
//!
//! The thread that stored must fence, after the store and before the barrier that tells others of it. A store to global
//! memory by another block needs a fence of the thread that starts the asynchronous access too, after it has learnt of it.
//! The end of a kernel fences everything.

use crate::machine::block::Block;
use crate::memory::clock::Actor;
use crate::memory::shadow::Access;
use std::collections::HashMap;

/// What a fence is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Space {
    Shared,
    Global,
}

/// The fences of a launch: by thread, the counts of its clock, ascending.
#[derive(Debug, Default)]
pub(crate) struct ProxyFences {
    shared: HashMap<u32, Vec<u32>>,
    global: HashMap<u32, Vec<u32>>,
}

impl ProxyFences {
    /// A thread of the block fences its stores so far.
    pub fn fence(&mut self, block: &mut Block, thread: usize, space: Space) {
        let actor = Actor::new(block.clocks.block(), thread);
        let count = block.clocks.now(thread);
        let stamp = block.clocks.arrive(thread);
        let fences = match space {
            Space::Shared => &mut self.shared,
            Space::Global => {
                block.threads[thread].at_global_fence = Some(stamp);
                &mut self.global
            }
        };
        fences.entry(actor.bits()).or_default().push(count);
    }

    /// Whether the asynchronous proxy may read or overwrite what `write` stored, as far as this thread knows.
    pub fn covers(&self, block: &Block, thread: usize, space: Space, write: &Access) -> bool {
        if write.kind.asynchronous_proxy || block.clocks.is_earlier(write.actor) {
            return true;
        }
        let fences = match space {
            Space::Shared => &self.shared,
            Space::Global => &self.global,
        };
        let Some(counts) = fences.get(&write.actor.bits()) else { return false };
        let next = counts.partition_point(|count| *count < write.count);
        let by_writer = counts.get(next).is_some_and(|count| block.clocks.sees(thread, write.actor, *count));
        let from_afar = space == Space::Global && write.actor.block() != block.clocks.block();
        let own = &block.threads[thread].at_global_fence;
        by_writer
            && (!from_afar || own.as_ref().is_some_and(|stamp| stamp.sees_foreign(write.actor, write.count)))
    }
}
