//! What a signal handler does with outputs that are being written. One test, because it is about the whole process.

use lora_peft::Error;
use lora_peft::files::{NewDirectory, remove_all};
use std::sync::atomic::{AtomicBool, Ordering};

#[test]
fn all_that_is_unfinished_is_removed_and_nothing_is_finished_meanwhile() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let listing = || std::fs::read_dir(directory.path()).unwrap().count();

    // Dropped or finished, it is not for `remove_all` any more.
    drop(NewDirectory::create(&path("dropped")).unwrap());
    NewDirectory::create(&path("finished")).unwrap().commit().unwrap();
    drop(remove_all());
    assert!(path("finished").is_dir());
    assert_eq!(listing(), 1);

    // One is filled by another thread, one lies in directories that were made for it, one would replace what is there, one
    // is about to be put in place.
    let filled = NewDirectory::create(&path("filled")).unwrap();
    let nested = NewDirectory::create(&path("new/nested")).unwrap();
    std::fs::write(path("finished").join("file"), "old").unwrap();
    let replacing = NewDirectory::replace(&path("finished")).unwrap();
    let ready = NewDirectory::create(&path("ready")).unwrap();
    let (stop, removed) = (AtomicBool::new(false), AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for index in 0.. {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                let _ = std::fs::write(filled.path().join(index.to_string()), "x");
            }
        });
        while std::fs::read_dir(filled.path()).unwrap().count() < 10 {
            std::thread::yield_now();
        }
        let all = remove_all();
        let committing = scope.spawn(|| {
            let result = ready.commit();
            assert!(removed.load(Ordering::SeqCst), "not before the handler is done");
            result
        });
        std::thread::sleep(std::time::Duration::from_millis(20));
        assert_eq!(listing(), 1);
        removed.store(true, Ordering::SeqCst);
        drop(all);
        assert!(matches!(committing.join().unwrap(), Err(Error::Io { .. })));
        stop.store(true, Ordering::Relaxed);
    });
    drop((filled, nested, replacing));
    assert_eq!(listing(), 1);
    assert_eq!(std::fs::read(path("finished").join("file")).unwrap(), b"old");
}
