//! Programmatic launch: what a kernel may do before it has waited for the kernels before it.

use crate::machine::caller::Caller;

/// `griddepcontrol.wait`: the kernels before have ended, and their writes are visible.
pub(crate) fn wait(caller: &mut Caller<'_>) {
    caller.launch.waited_for_earlier = true;
    caller.block.clocks.see_earlier_kernels(caller.thread);
}
