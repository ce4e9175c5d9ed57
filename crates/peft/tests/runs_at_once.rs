//! Runs that write to different places in one directory that is not there yet.

use lora_peft::files::NewDirectory;
use std::sync::Barrier;

/// Each makes the directories around its own, and may remove them again while another is about to use them.
#[test]
fn directories_that_several_runs_make_are_no_obstacle() {
    const RUNS: usize = 3;
    let directory = tempfile::tempdir().unwrap();
    for round in 0..100 {
        let around = directory.path().join(round.to_string()).join("below");
        let start = Barrier::new(RUNS);
        std::thread::scope(|scope| {
            for run in 0..RUNS {
                let (out, start) = (around.join(run.to_string()), &start);
                scope.spawn(move || {
                    start.wait();
                    drop(NewDirectory::create(&out).unwrap());
                });
            }
        });
    }
}
