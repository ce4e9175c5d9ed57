//! `.aligned` instructions, which the lanes of a warp execute as one: barriers of the block and of the cluster. Hardware
//! counts warps there, not lanes. Lanes that have ended take no part.

use crate::fault::{FaultKind, RawFault};
use crate::machine::block::WARP;
use crate::machine::caller::Caller;
use crate::mechanisms::barrier;
use crate::memory::shadow::Site;

/// The instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Aligned {
    Barrier { id: u32, count: u32, wait: bool },
    ClusterArrive,
    ClusterWait,
}

impl std::fmt::Display for Aligned {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Aligned::Barrier { id: 0, count: 0, .. } => write!(f, "__syncthreads"),
            Aligned::Barrier { id, count, wait: true } => write!(f, "named barrier {id} for {count} threads"),
            Aligned::Barrier { id, count, wait: false } => {
                write!(f, "the arrival at named barrier {id} for {count} threads")
            }
            Aligned::ClusterArrive => write!(f, "the arrival at the cluster barrier"),
            Aligned::ClusterWait => write!(f, "the wait at the cluster barrier"),
        }
    }
}

/// Lanes that wait for the rest of their warp.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Gathering {
    instruction: Aligned,
    lanes: u32,
    /// Where the first of them is.
    site: Site,
}

impl Gathering {
    pub fn lanes(&self) -> u32 {
        self.lanes
    }

    /// In words, for a deadlock's report.
    pub fn describe(&self, warp: usize) -> String {
        format!("warp {warp}: lanes {:#010x} are at {}", self.lanes, self.instruction)
    }
}

/// The calling lane comes to the instruction. With the last one, the lanes that execute it; before that, `None`.
pub(crate) fn gather(caller: &mut Caller<'_>, instruction: Aligned) -> Result<Option<u32>, RawFault> {
    let (warp, lane) = (caller.thread / WARP, caller.thread % WARP);
    let (live, site) = (caller.block.live_lanes(warp), caller.launch.site(caller.pc));
    let divergence =
        |message: String, other: Option<Site>| Err(RawFault { kind: FaultKind::Divergence, message, other });
    let state = &mut caller.block.warps[warp];
    if let Some(other) = state.collectives.iter().find(|other| other.mask >> lane & 1 != 0) {
        return divergence(
            format!("{instruction}, while other lanes of the warp wait for this one in {}", other.kind),
            None,
        );
    }
    let gathering = state.gathering.get_or_insert(Gathering { instruction, lanes: 0, site });
    if gathering.instruction != instruction {
        let (lanes, other) = (gathering.lanes, gathering.instruction);
        return divergence(
            format!("{instruction}, while lanes {lanes:#010x} of the warp are at {other}"),
            Some(gathering.site),
        );
    }
    // The compiler may have copied the call: what counts is the source.
    let first = gathering.site;
    gathering.lanes |= 1 << lane;
    let lanes = gathering.lanes;
    if lanes == live {
        state.gathering = None;
    }
    if first != site && caller.launch.library.lines(first) != caller.launch.library.lines(site) {
        return divergence(
            format!("{instruction} in divergent lanes of a warp: the others are at another one"),
            Some(first),
        );
    }
    Ok((lanes == live).then_some(lanes))
}

/// A lane ended while others may have waited for it. `__syncthreads` goes on without it.
pub(crate) fn thread_ended(caller: &mut Caller<'_>) -> Result<(), RawFault> {
    let (warp, lane) = (caller.thread / WARP, caller.thread % WARP);
    let live = caller.block.live_lanes(warp);
    let Some(gathering) = caller.block.warps[warp].gathering else { return Ok(()) };
    match gathering.instruction {
        Aligned::Barrier { id, count: 0, wait } => {
            if gathering.lanes == live {
                caller.block.warps[warp].gathering = None;
                barrier::arrive_warp(caller, warp, live, (id, 0, wait))?;
            }
            Ok(())
        }
        instruction => Err(RawFault {
            kind: FaultKind::Divergence,
            message: format!(
                "lane {lane} ends while lanes {:#010x} of its warp are at {instruction}",
                gathering.lanes
            ),
            other: Some(gathering.site),
        }),
    }
}
