//! Who has seen whose work: vector clocks of a block's threads.
//!
//! Each actor of a block (a thread, or an asynchronous engine on its behalf) counts its own releases. A thread's clock
//! says, for every actor, up to which count its work is visible to the thread. Threads that met in a barrier share one
//! vector, so that a barrier costs one vector and not one a thread.

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

/// What is visible of one block's work, and through it of other blocks'.
#[derive(Clone, Debug, Default)]
pub(crate) struct Vector {
    counts: Box<[u32]>,
    foreign: Vec<(u32, Rc<Vector>)>,
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
            self.join_foreign(*block, vector);
        }
    }

    fn join_foreign(&mut self, block: u32, vector: &Rc<Vector>) {
        match self.foreign.iter_mut().find(|(known, _)| *known == block) {
            None => self.foreign.push((block, vector.clone())),
            Some((_, mine)) if Rc::ptr_eq(mine, vector) => {}
            Some((_, mine)) => Rc::make_mut(mine).join(vector),
        }
    }

    fn covers(&self, other: &Vector) -> bool {
        other.foreign.is_empty() && self.counts.iter().zip(&other.counts).all(|(mine, theirs)| mine >= theirs)
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
    /// Whether the thread saw work of `actor`, of its own block, with this count when it made the stamp.
    pub fn sees(&self, actor: Actor, count: u32) -> bool {
        count != IN_FLIGHT && (actor.index() == self.index || self.seen.sees(actor.index(), count))
    }
}

/// Clocks accumulated in a synchronisation object: by block, because blocks have clocks of their own.
#[derive(Clone, Debug, Default)]
pub(crate) struct Released(Vec<(u32, Rc<Vector>)>);

impl Released {
    pub fn join(&mut self, other: &Released) {
        for (block, vector) in &other.0 {
            match self.0.iter_mut().find(|(known, _)| known == block) {
                None => self.0.push((*block, vector.clone())),
                Some((_, mine)) if Rc::ptr_eq(mine, vector) => {}
                Some((_, mine)) => Rc::make_mut(mine).join(vector),
            }
        }
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
    threads: Vec<Clock>,
    /// Releases of the asynchronous actors.
    asynchronous: [u32; ASYNCHRONOUS_ACTORS],
}

impl Clocks {
    pub fn new(block: u32, threads: usize) -> Self {
        let counts = vec![0; threads + ASYNCHRONOUS_ACTORS].into_boxed_slice();
        let nothing = Rc::new(Vector { counts, foreign: Vec::new() });
        let threads = (0..threads).map(|_| Clock { seen: nothing.clone(), own: 1 }).collect();
        Clocks { block, threads, asynchronous: [0; ASYNCHRONOUS_ACTORS] }
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
            return count != IN_FLIGHT
                && clock
                    .seen
                    .foreign
                    .iter()
                    .any(|(block, vector)| *block == actor.block() && vector.sees(actor.index(), count));
        }
        if actor.index() == thread { count != IN_FLIGHT } else { clock.seen.sees(actor.index(), count) }
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
        let vector = Self::merge(std::slice::from_ref(&stamp));
        Released(vector.into_iter().map(|vector| (self.block, vector)).collect())
    }

    /// The thread sees what a synchronisation object has gathered.
    pub fn acquire_released(&mut self, thread: usize, released: &Released) {
        for (block, vector) in &released.0 {
            if *block == self.block {
                self.acquire(thread, vector);
            } else {
                Rc::make_mut(&mut self.threads[thread].seen).join_foreign(*block, vector);
            }
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
        Released(vec![(self.block, Rc::new(Vector { counts, foreign: Vec::new() }))])
    }
}
