//! From times of candidates to rankings, as JSON.

use super::launch::Candidate;
use super::steps::Use;
use lora_measure::Problem;
use lora_measure::record::rounded;
use serde_json::{Value, json};

/// What became of a candidate.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// Lower quartile, median and upper quartile in microseconds.
    Right([f64; 3]),
    /// Not timed: it could not be launched, or gave other results than the planner's kernel.
    Wrong(String),
    /// Not in this build.
    NotCompiled,
}

/// All candidates for one use of a kernel on one problem.
#[derive(Clone, Debug)]
pub struct Contest {
    pub problem: Problem,
    pub used: Use,
    /// What the planner's launch must move.
    pub bytes: u64,
    pub entries: Vec<Entry>,
}

/// A candidate and its verdict.
#[derive(Clone, Debug)]
pub struct Entry {
    pub kernel: String,
    pub splits: u32,
    pub groups: u32,
    pub blocks: u32,
    pub slab_bytes: usize,
    pub is_planned: bool,
    pub verdict: Verdict,
}

impl Entry {
    pub fn new(candidate: &Candidate, verdict: Verdict) -> Self {
        Entry {
            kernel: candidate.launch.kernel.symbol().into(),
            splits: candidate.splits,
            groups: candidate.groups,
            blocks: candidate.launch.grid[0],
            slab_bytes: candidate.slab_bytes(),
            is_planned: candidate.is_planned,
            verdict,
        }
    }

    fn median(&self) -> Option<f64> {
        match self.verdict {
            Verdict::Right([_, median, _]) => Some(median),
            Verdict::Wrong(_) | Verdict::NotCompiled => None,
        }
    }
}

impl Contest {
    /// Right candidates, the fastest first.
    pub fn ranked(&self) -> Vec<(&Entry, f64)> {
        let timed = self.entries.iter().filter_map(|entry| Some((entry, entry.median()?)));
        let mut ranked: Vec<_> = timed.collect();
        ranked.sort_by(|(_, left), (_, right)| left.total_cmp(right));
        ranked
    }

    /// Median of the planner's own launch.
    pub fn planned(&self) -> Option<f64> {
        self.entries.iter().find(|entry| entry.is_planned).and_then(Entry::median)
    }

    fn json(&self, copy_gb_per_s: f64) -> Value {
        let Problem { m, k, n, r } = self.problem;
        let planned = self.planned();
        let variants = self.ranked().into_iter().map(|(entry, median)| {
            let Verdict::Right([low, _, high]) = entry.verdict else { unreachable!("it has a median") };
            let speed = self.bytes as f64 / median / 1e3;
            json!({
                "kernel": entry.kernel,
                "splits": entry.splits,
                "groups": entry.groups,
                "blocks": entry.blocks,
                "slab_bytes": entry.slab_bytes,
                "planned": entry.is_planned,
                "microseconds": rounded(median, 3),
                "microseconds_quartiles": [rounded(low, 3), rounded(high, 3)],
                "of_copy": rounded(speed / copy_gb_per_s, 3),
                "to_planned": planned.map(|planned| rounded(median / planned, 3)),
            })
        });
        let variants: Vec<_> = variants.collect();
        let wrong = self.entries.iter().filter_map(|entry| match &entry.verdict {
            Verdict::Wrong(why) => Some(json!({
                "kernel": entry.kernel, "splits": entry.splits, "groups": entry.groups, "why": why,
            })),
            Verdict::Right(_) | Verdict::NotCompiled => None,
        });
        let wrong: Vec<_> = wrong.collect();
        let missing = self.entries.iter().filter(|entry| entry.verdict == Verdict::NotCompiled);
        let mut missing: Vec<_> = missing.map(|entry| &entry.kernel).collect();
        missing.dedup();
        json!({
            "operation": self.used.operation,
            "pass": self.used.pass,
            "p": rounded(f64::from(self.used.probability), 3),
            "m": m, "k": k, "n": n, "r": r,
            "bytes": self.bytes,
            "variants": variants,
            "wrong": wrong,
            "not_compiled": missing,
        })
    }
}

/// A kernel over all problems of one use.
#[derive(Clone, Debug, PartialEq)]
pub struct Standing {
    pub kernel: String,
    /// Geometric mean of the times, each with the kernel's best cut, over those of the planner's launch.
    pub to_planned: f64,
    /// On so many problems it was right.
    pub problems: usize,
    /// Problem and cut: splits and groups.
    pub cuts: Vec<(String, u32, u32)>,
}

/// The kernels of one use and rank, the best first. Only kernels that were right wherever they were tried take part.
pub fn standings(contests: &[&Contest]) -> Vec<Standing> {
    let mut kernels: Vec<&str> = Vec::new();
    for entry in contests.iter().flat_map(|contest| &contest.entries) {
        if !kernels.contains(&entry.kernel.as_str()) {
            kernels.push(&entry.kernel);
        }
    }
    let mut standings: Vec<_> = kernels.into_iter().filter_map(|kernel| standing(kernel, contests)).collect();
    standings.sort_by(|left, right| left.to_planned.total_cmp(&right.to_planned));
    standings
}

fn standing(kernel: &str, contests: &[&Contest]) -> Option<Standing> {
    let entries = |contest: &Contest| {
        contest.entries.iter().filter(|entry| entry.kernel == kernel).cloned().collect::<Vec<_>>()
    };
    let is_wrong = |entry: &Entry| entry.median().is_none();
    if contests.iter().any(|contest| entries(contest).iter().any(is_wrong)) {
        return None;
    }
    let (mut logarithms, mut cuts) = (Vec::new(), Vec::new());
    for contest in contests {
        let ranked = contest.ranked();
        let best = ranked.iter().find(|(entry, _)| entry.kernel == kernel);
        let (Some(&(entry, median)), Some(planned)) = (best, contest.planned()) else { continue };
        logarithms.push((median / planned).ln());
        cuts.push((contest.problem.to_string(), entry.splits, entry.groups));
    }
    let problems = logarithms.len();
    (problems > 0).then(|| Standing {
        kernel: kernel.to_string(),
        to_planned: (logarithms.iter().sum::<f64>() / problems as f64).exp(),
        problems,
        cuts,
    })
}

/// Adds rankings and overall winners to where the numbers come from.
pub fn document(mut origin: Value, copy_gb_per_s: f64, contests: &[Contest]) -> Value {
    origin["copy_gb_per_s"] = json!(rounded(copy_gb_per_s, 1));
    origin["rankings"] = contests.iter().map(|contest| contest.json(copy_gb_per_s)).collect();
    origin["winners"] = groups(contests).into_iter().filter_map(|group| winner(&group)).collect();
    origin
}

/// Contests of the same use with the same candidates: ranks of one pass have kernels of their own.
pub fn groups(contests: &[Contest]) -> Vec<Vec<&Contest>> {
    let mut groups: Vec<Vec<&Contest>> = Vec::new();
    for contest in contests {
        let kernel = |contest: &Contest| contest.entries.first().map(|entry| entry.kernel.clone());
        let fits =
            |group: &&mut Vec<&Contest>| group[0].used == contest.used && kernel(group[0]) == kernel(contest);
        match groups.iter_mut().find(fits) {
            Some(group) => group.push(contest),
            None => groups.push(vec![contest]),
        }
    }
    groups
}

fn winner(group: &[&Contest]) -> Option<Value> {
    let standings = standings(group);
    let first = standings.first()?;
    let cuts = first
        .cuts
        .iter()
        .map(|(problem, splits, groups)| json!({ "problem": problem, "splits": splits, "groups": groups }));
    let all = standings.iter().map(|standing| {
        json!({
            "kernel": standing.kernel,
            "to_planned": rounded(standing.to_planned, 3),
            "problems": standing.problems,
        })
    });
    let (used, cuts, all) = (group[0].used, cuts.collect::<Vec<_>>(), all.collect::<Vec<_>>());
    Some(json!({
        "operation": used.operation,
        "pass": used.pass,
        "p": rounded(f64::from(used.probability), 3),
        "planned_kernel": group[0].entries.first().map(|entry| &entry.kernel),
        "kernel": first.kernel,
        "to_planned": rounded(first.to_planned, 3),
        "problems": first.problems,
        "cuts": cuts,
        "standings": all,
    }))
}
