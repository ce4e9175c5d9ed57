//! In which order threads run, and when asynchronous work completes.

/// The order in which threads run between synchronisations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ThreadOrder {
    /// In the order in which they became ready: thread 0 first.
    InOrder,
    /// Any ready thread.
    Random,
    /// Threads of the warp with the highest priority; priorities are random and change now and then.
    RandomWarpPriorities,
}

/// When asynchronous copies and products complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Completion {
    /// As soon as they are issued.
    Eager,
    /// When somebody waits for them, and not before.
    Late,
    /// At a random time between the two.
    Random,
}

/// How an execution unfolds. The same schedule gives the same execution.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Schedule {
    /// The order in which threads run.
    pub threads: ThreadOrder,
    /// When asynchronous work completes.
    pub completion: Completion,
    /// Blocks of a grid that run side by side; more are started when these wait for others, as many as the device holds.
    pub resident_blocks: usize,
    /// For everything random: orders, completions, the base of dynamic shared memory.
    pub seed: u64,
}

impl Default for Schedule {
    fn default() -> Self {
        Schedule { threads: ThreadOrder::InOrder, completion: Completion::Eager, resident_blocks: 1, seed: 0 }
    }
}

impl Schedule {
    /// The schedules that a kernel should pass: in order with eager and with late completion, then `seeds` random ones.
    pub fn matrix(seeds: u64) -> Vec<Schedule> {
        let in_order = Schedule::default();
        let mut schedules = vec![in_order, Schedule { completion: Completion::Late, ..in_order }];
        schedules.extend((1..=seeds).map(Schedule::random));
        schedules
    }

    /// A random schedule. Odd seeds have warp priorities; every fourth runs three blocks side by side.
    pub fn random(seed: u64) -> Schedule {
        Schedule {
            threads: if seed % 2 == 1 { ThreadOrder::RandomWarpPriorities } else { ThreadOrder::Random },
            completion: if seed % 3 == 2 { Completion::Late } else { Completion::Random },
            resident_blocks: if seed.is_multiple_of(4) { 3 } else { 1 },
            seed,
        }
    }
}

impl std::fmt::Display for Schedule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Schedule { threads, completion, resident_blocks, seed } = self;
        write!(
            f,
            "Schedule {{ threads: ThreadOrder::{threads:?}, completion: Completion::{completion:?}, \
             resident_blocks: {resident_blocks}, seed: {seed} }}"
        )
    }
}

/// xorshift64* (Vigna, "An experimental exploration of Marsaglia's xorshift generators, scrambled", 2016).
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Random(seed.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub fn next(&mut self) -> u32 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 32) as u32
    }

    /// A number below `bound`, which is not 0.
    pub fn below(&mut self, bound: usize) -> usize {
        ((u64::from(self.next()) * bound as u64) >> 32) as usize
    }

    pub fn coin(&mut self) -> bool {
        self.next() & 1 != 0
    }
}
