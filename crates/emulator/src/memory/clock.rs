//! Who has seen whose work: vector clocks of a block's threads.
//!
//! Each actor of a block (a thread, or an asynchronous engine on its behalf) counts its own releases. A thread's clock
//! says, for every actor, up to which count its work is visible to the thread. Threads that met in a barrier share one
//! vector, so that a barrier costs one vector and not one a thread.
//!
//! Blocks are numbered on from launch to launch where kernels overlap (programmatic launch): what lies below the launch's
//! first block was done by kernels before it, and a thread sees it once it, or who it has met, has waited for them.

use std::rc::Rc;

/// Actors beside the threads: completed asynchronous work is attributed to one of these.
pub(crate) const ASYNCHRONOUS_ACTORS: usize = 64;

/// The count of work that nobody may rely on yet: an asynchronous operation in flight.
pub(crate) const IN_FLIGHT: u32 = u32::MAX;

/// Who accessed memory: a block of the grid and an actor in it, in 32 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Actor(u32);

impl Actor {
    const INDEX_BITS: u32 = 11;
    /// Blocks that a grid may have.
    pub const MAX_BLOCKS: u64 = 1 << (32 - Self::INDEX_BITS);

    pub fn new(block: u32, index: usize) -> Self {
        Actor(block << Self::INDEX_BITS | index as u32)
    }
    pub fn from_bits(bits: u32) -> Self {
        Actor(bits)
    }
    pub fn bits(self) -> u32 {
        self.0
    }
    pub fn block(self) -> u32 {
        self.0 >> Self::INDEX_BITS
    }
    pub fn index(self) -> usize {
        (self.0 & ((1 << Self::INDEX_BITS) - 1)) as usize
    }
}

/// How much of another block's work synchronisation makes visible.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reach {
    /// All of it.
    Everything,
    /// That its reads, and what it did through the asynchronous proxy, are over. Ordinary stores stay invisible: the
    /// synchronisation has block scope.
    NoStores,
}

/// What is visible of one block's work, and through it of other blocks'.
#[derive(Clone, Debug, Default)]
pub(crate) struct Vector {
    counts: Box<[u32]>,
    /// Other blocks, all of whose work up to these counts is visible.
    foreign: Vec<(u32, Rc<Vector>)>,
    /// Other blocks, whose work but for ordinary stores is known to be over.
    without_stores: Vec<(u32, Rc<Vector>)>,
    /// Whether the work of kernels before this one is visible.
    earlier_kernels: bool,
}

fn join_into(list: &mut Vec<(u32, Rc<Vector>)>, block: u32, vector: &Rc<Vector>) {
    match list.iter_mut().find(|(known, _)| *known == block) {
        None => list.push((block, vector.clone())),
        Some((_, mine)) if Rc::ptr_eq(mine, vector) => {}
        Some((_, mine)) => Rc::make_mut(mine).join(vector),
    }
}

fn any_sees(list: &[(u32, Rc<Vector>)], actor: Actor, count: u32) -> bool {
    count != IN_FLIGHT
        && list.iter().any(|(block, vector)| *block == actor.block() && vector.sees(actor.index(), count))
}

impl Vector {
    fn sees(&self, index: usize, count: u32) -> bool {
        self.counts[index] >= count
    }

    fn join(&mut self, other: &Vector) {
        for (mine, theirs) in self.counts.iter_mut().zip(&other.counts) {
            *mine = (*mine).max(*theirs);
        }
        for (block, vector) in &other.foreign {
            join_into(&mut self.foreign, *block, vector);
        }
        for (block, vector) in &other.without_stores {
            join_into(&mut self.without_stores, *block, vector);
        }
        self.earlier_kernels |= other.earlier_kernels;
    }

    fn covers(&self, other: &Vector) -> bool {
        other.foreign.is_empty()
            && other.without_stores.is_empty()
            && self.earlier_kernels >= other.earlier_kernels
            && self.counts.iter().zip(&other.counts).all(|(mine, theirs)| mine >= theirs)
    }
}

/// A thread's clock at an arrival.
#[derive(Clone, Debug)]
pub(crate) struct Stamp {
    index: usize,
    seen: Rc<Vector>,
    own: u32,
}

impl Stamp {
    /// Whether the thread saw this work of another block when it made the stamp.
    pub fn sees_foreign(&self, actor: Actor, count: u32) -> bool {
        any_sees(&self.seen.foreign, actor, count)
    }
}

/// Clocks accumulated in a synchronisation object: by block, because blocks have clocks of their own.
#[derive(Clone, Debug, Default)]
pub(crate) struct Released {
    everything: Vec<(u32, Rc<Vector>)>,
    without_stores: Vec<(u32, Rc<Vector>)>,
}

impl Released {
    pub fn join(&mut self, other: &Released) {
        for (block, vector) in &other.everything {
            join_into(&mut self.everything, *block, vector);
        }
        for (block, vector) in &other.without_stores {
            join_into(&mut self.without_stores, *block, vector);
        }
    }

    /// The same, released to another block with block scope only.
    pub fn without_stores(mut self) -> Released {
        for (block, vector) in std::mem::take(&mut self.everything) {
            join_into(&mut self.without_stores, block, &vector);
        }
        self
    }
}

#[derive(Debug)]
struct Clock {
    seen: Rc<Vector>,
    own: u32,
}

/// The clocks of one block.
#[derive(Debug)]
pub(crate) struct Clocks {
    block: u32,
    /// The launch's first block.
    first: u32,
    threads: Vec<Clock>,
    /// Releases of the asynchronous actors.
    asynchronous: [u32; ASYNCHRONOUS_ACTORS],
}

impl Clocks {
    /// Clocks of a block of a launch whose first block is `first`. Where the launch is programmatic, its threads do not see
    /// what earlier kernels did.
    pub fn new(block: u32, first: u32, programmatic: bool, threads: usize) -> Self {
        let counts = vec![0; threads + ASYNCHRONOUS_ACTORS].into_boxed_slice();
        let nothing = Rc::new(Vector { counts, earlier_kernels: !programmatic, ..Vector::default() });
        let threads = (0..threads).map(|_| Clock { seen: nothing.clone(), own: 1 }).collect();
        Clocks { block, first, threads, asynchronous: [0; ASYNCHRONOUS_ACTORS] }
    }

    /// Whether the work is of a kernel before this one.
    pub fn is_earlier(&self, actor: Actor) -> bool {
        actor.block() < self.first
    }

    /// The kernels before have ended, and the thread sees what they did.
    pub fn see_earlier_kernels(&mut self, thread: usize) {
        Rc::make_mut(&mut self.threads[thread].seen).earlier_kernels = true;
    }

    pub fn block(&self) -> u32 {
        self.block
    }

    /// The count that the thread's work carries now.
    pub fn now(&self, thread: usize) -> u32 {
        self.threads[thread].own
    }

    /// Whether work of `actor` with this count is done and visible to the thread.
    #[inline]
    pub fn sees(&self, thread: usize, actor: Actor, count: u32) -> bool {
        let clock = &self.threads[thread];
        if actor.block() != self.block {
            // All that a kernel did is done when it has ended.
            return if self.is_earlier(actor) {
                clock.seen.earlier_kernels
            } else {
                any_sees(&clock.seen.foreign, actor, count)
            };
        }
        if actor.index() == thread { count != IN_FLIGHT } else { clock.seen.sees(actor.index(), count) }
    }

    /// Whether work of `actor`, which is no ordinary store, is known to the thread to be over.
    pub fn sees_end(&self, thread: usize, actor: Actor, count: u32) -> bool {
        self.sees(thread, actor, count)
            || actor.block() != self.block
                && any_sees(&self.threads[thread].seen.without_stores, actor, count)
    }

    /// The thread's clock, for others to merge; what it does next is later than this.
    pub fn arrive(&mut self, thread: usize) -> Stamp {
        let clock = &mut self.threads[thread];
        let stamp = Stamp { index: thread, seen: clock.seen.clone(), own: clock.own };
        clock.own += 1;
        stamp
    }

    /// What all of these have seen and done.
    pub fn merge(stamps: &[Stamp]) -> Option<Rc<Vector>> {
        let first = stamps.first()?;
        let mut merged = (*first.seen).clone();
        let mut last = &first.seen;
        for stamp in stamps {
            if !Rc::ptr_eq(&stamp.seen, last) {
                merged.join(&stamp.seen);
                last = &stamp.seen;
            }
        }
        for stamp in stamps {
            let mine = &mut merged.counts[stamp.index];
            *mine = (*mine).max(stamp.own);
        }
        Some(Rc::new(merged))
    }

    /// The thread, whose stamp was merged into the vector and which has waited since, sees what it has.
    pub fn adopt(&mut self, thread: usize, vector: &Rc<Vector>) {
        self.threads[thread].seen = vector.clone();
    }

    /// The thread sees what the vector, of its own block, has.
    fn acquire(&mut self, thread: usize, vector: &Rc<Vector>) {
        let clock = &mut self.threads[thread];
        if Rc::ptr_eq(&clock.seen, vector) {
            return;
        }
        if vector.covers(&clock.seen) {
            clock.seen = vector.clone();
        } else {
            Rc::make_mut(&mut clock.seen).join(vector);
        }
    }

    /// Everything the thread has seen and done, for a synchronisation object.
    pub fn release(&mut self, thread: usize) -> Released {
        let stamp = self.arrive(thread);
        let mut released = Released::default();
        if let Some(vector) = Self::merge(std::slice::from_ref(&stamp)) {
            released.everything.clone_from(&vector.foreign);
            released.without_stores.clone_from(&vector.without_stores);
            released.everything.push((self.block, vector));
        }
        released
    }

    /// The thread sees what a synchronisation object has gathered. Work of its own block is visible in either case.
    pub fn acquire_released(&mut self, thread: usize, released: &Released, reach: Reach) {
        for (block, vector) in &released.everything {
            if *block == self.block {
                self.acquire(thread, vector);
                continue;
            }
            let seen = Rc::make_mut(&mut self.threads[thread].seen);
            match reach {
                Reach::Everything => join_into(&mut seen.foreign, *block, vector),
                Reach::NoStores => join_into(&mut seen.without_stores, *block, vector),
            }
        }
        for (block, vector) in released.without_stores.iter().filter(|(block, _)| *block != self.block) {
            join_into(&mut Rc::make_mut(&mut self.threads[thread].seen).without_stores, *block, vector);
        }
    }

    /// The actor that stands for an asynchronous engine.
    pub fn asynchronous_actor(&self, engine: usize) -> Actor {
        Actor::new(self.block, self.threads.len() + engine % ASYNCHRONOUS_ACTORS)
    }

    /// Counts a completion of an asynchronous engine.
    pub fn complete_asynchronous(&mut self, engine: usize) -> u32 {
        let count = &mut self.asynchronous[engine % ASYNCHRONOUS_ACTORS];
        *count += 1;
        *count
    }

    /// What those see who wait for all completions of an engine so far.
    pub fn release_asynchronous(&self, engine: usize) -> Released {
        let slot = engine % ASYNCHRONOUS_ACTORS;
        let mut counts = vec![0; self.threads.len() + ASYNCHRONOUS_ACTORS].into_boxed_slice();
        counts[self.threads.len() + slot] = self.asynchronous[slot];
        let vector = Rc::new(Vector { counts, ..Vector::default() });
        Released { everything: vec![(self.block, vector)], ..Released::default() }
    }
}
