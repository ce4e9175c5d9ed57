//! Which of two plans of an operation is taken.

use super::Plan;
use super::model::Counts;
use crate::DType;

/// The joined plan where it is better by every count, and otherwise the one whose parts lie apart. Nothing is measured yet: what is
/// more of one and less of another stays off.
pub(super) fn better(joined: Plan, apart: Plan, dtype: DType) -> Plan {
    let [ours, theirs] = [&joined, &apart].map(|plan| Counts::of(&plan.steps, dtype));
    if ours.is_better_than(&theirs) { joined } else { apart }
}
