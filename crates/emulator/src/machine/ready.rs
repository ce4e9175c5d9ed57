//! Threads that can run, and which of them runs next.

use crate::machine::block::WARP;
use crate::machine::schedule::{Random, ThreadOrder};
use std::collections::VecDeque;

/// How many choices a warp's priority lasts, on average.
const PRIORITY_LIFE: usize = 4096;

/// The ready threads of a block.
#[derive(Debug)]
pub(crate) struct ReadyThreads {
    order: ThreadOrder,
    /// One queue for all, or with priorities one for each warp.
    queues: Vec<VecDeque<u16>>,
    priorities: Vec<u32>,
    count: usize,
}

impl ReadyThreads {
    /// All threads of a block are ready.
    pub fn new(threads: usize, order: ThreadOrder, random: &mut Random) -> Self {
        let warps = threads.div_ceil(WARP);
        let queues = if order == ThreadOrder::RandomWarpPriorities { warps } else { 1 };
        let priorities = (0..warps).map(|_| random.next()).collect();
        let mut ready = ReadyThreads { order, queues: vec![VecDeque::new(); queues], priorities, count: 0 };
        (0..threads).for_each(|thread| ready.push(thread));
        ready
    }

    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    pub fn push(&mut self, thread: usize) {
        let queue = if self.queues.len() == 1 { 0 } else { thread / WARP };
        self.queues[queue].push_back(thread as u16);
        self.count += 1;
    }

    /// Takes the thread that runs next.
    pub fn pop(&mut self, random: &mut Random) -> Option<usize> {
        if self.count == 0 {
            return None;
        }
        self.count -= 1;
        let thread = match self.order {
            ThreadOrder::InOrder => self.queues[0].pop_front(),
            ThreadOrder::Random => {
                let choice = random.below(self.queues[0].len());
                self.queues[0].swap_remove_back(choice)
            }
            ThreadOrder::RandomWarpPriorities => {
                if random.below(PRIORITY_LIFE) == 0 {
                    let warp = random.below(self.priorities.len());
                    self.priorities[warp] = random.next();
                }
                let with_threads = self.queues.iter_mut().zip(&self.priorities);
                let highest = with_threads
                    .filter(|(queue, _)| !queue.is_empty())
                    .max_by_key(|(_, priority)| **priority);
                highest.and_then(|(queue, _)| queue.pop_front())
            }
        };
        thread.map(usize::from)
    }
}
