//! Operations that lanes of a warp do together. The last lane to arrive does the work for all.

use crate::fault::{FaultKind, RawFault};
use crate::machine::block::{WARP, Waiting};
use crate::machine::caller::{Caller, Flow};
use crate::mechanisms::{ldmatrix, mma, registers};
use crate::memory::clock::{Clocks, Stamp};

/// The operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CollectiveKind {
    SyncWarp,
    Shuffle,
    Ballot,
    Match,
    Mma(mma::Operands),
    LdMatrix { matrices: u32, transposed: bool },
    StMatrix { matrices: u32, transposed: bool },
    SetMaxRegisters(registers::Request),
}

impl std::fmt::Display for CollectiveKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            CollectiveKind::SyncWarp => "__syncwarp",
            CollectiveKind::Shuffle => "a shuffle",
            CollectiveKind::Ballot => "a vote",
            CollectiveKind::Match => "__match_any_sync",
            CollectiveKind::Mma(_) => "mma.sync",
            CollectiveKind::LdMatrix { .. } => "ldmatrix",
            CollectiveKind::StMatrix { .. } => "stmatrix",
            CollectiveKind::SetMaxRegisters(_) => "setmaxnreg",
        })
    }
}

/// What a lane brings: values, or addresses of its registers.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Operand {
    pub values: [u64; 3],
    pub pc: usize,
}

/// Lanes gathering for an operation.
#[derive(Debug)]
pub(crate) struct Collective {
    pub kind: CollectiveKind,
    pub mask: u32,
    arrived: u32,
    pub operands: [Operand; WARP],
    /// Clocks at arrival; only `__syncwarp` orders memory.
    stamps: Vec<Stamp>,
}

impl Collective {
    /// Lanes that take part.
    pub fn lanes(&self) -> impl Iterator<Item = usize> + use<> {
        let mask = self.mask;
        (0..WARP).filter(move |lane| mask >> lane & 1 != 0)
    }

    /// In words, for a deadlock's report.
    pub fn describe(&self, warp: usize) -> String {
        format!("warp {warp}: lanes {:#010x} of {:#010x} arrived at {}", self.arrived, self.mask, self.kind)
    }
}

/// The calling lane joins an operation of the lanes in `mask`. Results are in the lanes' `result`.
pub(crate) fn join(
    caller: &mut Caller<'_>,
    kind: CollectiveKind,
    mask: u32,
    values: [u64; 3],
) -> Result<Flow, RawFault> {
    let (warp, lane) = (caller.thread / WARP, caller.thread % WARP);
    let divergence = |message: String| RawFault::new(FaultKind::Divergence, message);
    if mask >> lane & 1 == 0 {
        return Err(divergence(format!("{kind}: lane {lane} is not in its own mask {mask:#010x}")));
    }
    let ended = mask & !caller.block.live_lanes(warp);
    if ended != 0 {
        return Err(divergence(format!(
            "{kind}: mask {mask:#010x} names lanes {ended:#010x}, which have ended or do not exist"
        )));
    }
    let collectives = &caller.block.warps[warp].collectives;
    // Lanes of this operation already wait for the caller in another one, and the caller will wait for them here.
    let same = |other: &Collective| other.kind == kind && other.mask == mask;
    if let Some(other) = collectives
        .iter()
        .find(|other| !same(other) && other.mask >> lane & 1 != 0 && other.arrived & mask != 0)
    {
        return Err(divergence(format!(
            "{kind} with mask {mask:#010x}, while lanes {:#010x} wait in {} with mask {:#010x}",
            other.arrived, other.kind, other.mask
        )));
    }
    if let Some(gathering) = caller.block.warps[warp].gathering.filter(|other| other.lanes() & mask != 0) {
        return Err(divergence(format!("{kind} with mask {mask:#010x}, while {}", gathering.describe(warp))));
    }
    let collectives = &mut caller.block.warps[warp].collectives;
    let position = collectives.iter().position(same).unwrap_or_else(|| {
        collectives.push(Collective {
            kind,
            mask,
            arrived: 0,
            operands: [Operand::default(); WARP],
            stamps: Vec::new(),
        });
        collectives.len() - 1
    });
    let collective = &mut collectives[position];
    collective.arrived |= 1 << lane;
    collective.operands[lane] = Operand { values, pc: caller.pc };
    if kind == CollectiveKind::SyncWarp {
        collective.stamps.push(caller.block.clocks.arrive(caller.thread));
    }
    if collective.arrived != mask {
        caller.wait(Waiting::Warp { kind, mask });
        return Ok(Flow::Suspend);
    }
    let collective = caller.block.warps[warp].collectives.swap_remove(position);
    execute(caller, warp, &collective)?;
    for other in collective.lanes().filter(|other| *other != lane) {
        caller.block.wake(warp * WARP + other);
    }
    Ok(Flow::Continue)
}

/// A lane ended: operations that wait for it never complete.
pub(crate) fn thread_ended(caller: &mut Caller<'_>) -> Result<(), RawFault> {
    let (warp, lane) = (caller.thread / WARP, caller.thread % WARP);
    match caller.block.warps[warp].collectives.iter().find(|other| other.mask >> lane & 1 != 0) {
        None => Ok(()),
        Some(other) => Err(RawFault {
            kind: FaultKind::Divergence,
            message: format!(
                "lane {lane} ends while lanes {:#010x} wait for it in {} with mask {:#010x}",
                other.arrived, other.kind, other.mask
            ),
            other: Some(caller.launch.site(other.operands[other.arrived.trailing_zeros() as usize].pc)),
        }),
    }
}

fn execute(caller: &mut Caller<'_>, warp: usize, collective: &Collective) -> Result<(), RawFault> {
    let value = |lane: usize| collective.operands[lane].values[0];
    let first = warp * WARP;
    match collective.kind {
        CollectiveKind::SyncWarp => {
            if let Some(vector) = Clocks::merge(&collective.stamps) {
                for lane in collective.lanes() {
                    caller.block.clocks.adopt(first + lane, &vector);
                }
            }
        }
        CollectiveKind::Shuffle => {
            for lane in collective.lanes() {
                let source = collective.operands[lane].values[1] as usize % WARP;
                if collective.mask >> source & 1 == 0 {
                    return Err(RawFault::new(
                        FaultKind::Divergence,
                        format!(
                            "a shuffle reads lane {source}, which is not in the mask {:#010x}",
                            collective.mask
                        ),
                    ));
                }
                caller.block.threads[first + lane].result = value(source);
            }
        }
        CollectiveKind::Ballot => {
            let votes = collective.lanes().fold(0, |votes, lane| votes | value(lane) << lane);
            for lane in collective.lanes() {
                caller.block.threads[first + lane].result = votes;
            }
        }
        CollectiveKind::Match => {
            for lane in collective.lanes() {
                let equal = collective.lanes().filter(|other| value(*other) == value(lane));
                caller.block.threads[first + lane].result = equal.fold(0, |mask, other| mask | 1 << other);
            }
        }
        CollectiveKind::SetMaxRegisters(request) => registers::execute(caller, warp, request)?,
        CollectiveKind::Mma(operands) => {
            caller.launch.work.tensor_core_operations += mma::execute(operands, collective);
        }
        CollectiveKind::LdMatrix { matrices, transposed } => {
            ldmatrix::load(caller, warp, collective, matrices as usize, transposed)?;
        }
        CollectiveKind::StMatrix { matrices, transposed } => {
            ldmatrix::store(caller, warp, collective, matrices as usize, transposed)?;
        }
    }
    Ok(())
}
