//! The end of a shard that has found an invariant broken. It panics, in the middle of a turn; the
//! panic is caught where the turn began, what the shard still knows is written beside its log, and
//! the process ends as after any other panic.
//!
//! What was written lies in the data directory as `shard-N.halt`, for `p2pmap log inspect`. There
//! is one such file a shard, the latest: a node that is started again and again fills no disk.

use std::any::Any;
use std::cell::Cell;
use std::fs::File;
use std::io::{self, Write as _};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use super::fatal::{Fatal, FatalReason};
use crate::base::io_error::describe;
use crate::storage::halt::HaltDump;

thread_local! {
    /// Somebody on this thread's stack waits for its panics.
    static IS_CAUGHT: Cell<bool> = const { Cell::new(false) };
}

/// Whether a panic of this thread comes to whoever called [`catch`]; otherwise nobody will see it.
pub(super) fn is_caught() -> bool {
    cfg!(panic = "unwind") && IS_CAUGHT.get()
}

/// Does something; if it panics, returns what the panic said.
pub(super) fn catch<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    let outer = IS_CAUGHT.replace(true);
    // Whatever it has left half done is looked at once more, and never used again.
    let result = catch_unwind(AssertUnwindSafe(work));
    IS_CAUGHT.set(outer);
    result.map_err(|panic| text_of(&*panic).to_owned())
}

fn text_of(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic without a text")
}

/// Writes what is left of a shard that has stopped for this `reason`. Returns why the node must
/// end.
pub(super) fn leave(
    reason: &str,
    data_dir: &Path,
    dump: impl FnOnce() -> Option<HaltDump>,
) -> Fatal {
    // A shard that is wrong may be too wrong to say how it stands.
    let written = catch(|| dump().map(|dump| write(data_dir, &dump)));
    let left = match written {
        Ok(None) => String::new(),
        Ok(Some(Ok(path))) => {
            let path = path.display();
            format!("; what the shard knew is in {path}: see p2pmap log inspect {path}")
        }
        Ok(Some(Err(error))) => format!("; what it knew can't be written: {}", describe(&error)),
        Err(panic) => format!("; what it knew can't be told: {panic}"),
    };
    Fatal::new(FatalReason::Panic, format!("a broken invariant: {reason}{left}"))
}

fn write(data_dir: &Path, dump: &HaltDump) -> io::Result<PathBuf> {
    let path = data_dir.join(format!("shard-{}.halt", dump.shard));
    let mut file = File::create(&path)?;
    file.write_all(&dump.encode())?;
    file.sync_all()?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;
    use crate::base::ids::{BootEpoch, ShardId};
    use crate::base::time::Timestamp;
    use crate::runtime::fatal::exit_on_panic;

    /// Where the process that a test below starts leaves its dump.
    const FOLDER: &str = "HALT_TEST_FOLDER";
    /// Set if its panic is waited for.
    const IS_CAUGHT_THERE: &str = "HALT_TEST_IS_CAUGHT";

    fn dump(reason: &str) -> HaltDump {
        HaltDump {
            shard: ShardId(3),
            boot_epoch: BootEpoch(7),
            time: Timestamp(1),
            reason: reason.to_owned(),
            partitions: Vec::new(),
        }
    }

    fn read(folder: &Path) -> HaltDump {
        HaltDump::decode(&std::fs::read(folder.join("shard-3.halt")).unwrap()).unwrap()
    }

    #[test]
    fn what_panics_is_caught_with_what_it_says_and_the_latest_dump_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(catch(|| 5), Ok(5));
        for reason in ["I2 is broken", "I3 is broken"] {
            let said = catch(|| panic!("{reason}")).unwrap_err();
            let fatal = leave(&said, folder.path(), || Some(dump(&said)));
            assert_eq!(fatal.reason, FatalReason::Panic);
            assert!(fatal.message.contains(reason) && fatal.message.contains("shard-3.halt"));
            assert_eq!(read(folder.path()), dump(reason));
        }
        assert!(!is_caught());
    }

    #[test]
    fn dump_that_cannot_be_made_or_written_is_said_and_ends_the_node_as_well() {
        let folder = tempfile::tempdir().unwrap();
        let fatal = leave("I2", folder.path(), || panic!("too wrong"));
        assert!(fatal.message.contains("can't be told: too wrong"), "{fatal}");
        let fatal = leave("I2", &folder.path().join("nowhere"), || Some(dump("I2")));
        assert!(fatal.message.contains("can't be written"), "{fatal}");
        assert_eq!(leave("I2", folder.path(), || None).message, "a broken invariant: I2");
    }

    /// The panic hook ends the process unless somebody waits for the panic. This test runs itself
    /// again, in processes of their own.
    #[test]
    fn process_leaves_a_dump_before_it_ends_and_ends_at_once_where_nobody_waits() {
        if let Some(folder) = std::env::var_os(FOLDER) {
            panic_in(Path::new(&folder), std::env::var_os(IS_CAUGHT_THERE).is_some());
        }
        for is_caught in [true, false] {
            let folder = tempfile::tempdir().unwrap();
            let mut command = Command::new(std::env::current_exe().unwrap());
            let thread = std::thread::current();
            command.args([thread.name().unwrap(), "--exact"]).env(FOLDER, folder.path());
            if is_caught {
                command.env(IS_CAUGHT_THERE, "1");
            }
            let output = command.output().unwrap();
            let code = i32::from(FatalReason::Panic.exit_code());
            assert_eq!(output.status.code(), Some(code), "{output:?}");
            assert_eq!(folder.path().join("shard-3.halt").exists(), is_caught);
            if is_caught {
                assert_eq!(read(folder.path()), dump("partition 1: planted"));
            }
        }
    }

    fn panic_in(folder: &Path, is_caught: bool) -> ! {
        exit_on_panic();
        if is_caught {
            let said = catch(|| panic!("partition {}: planted", 1)).unwrap_err();
            let fatal = leave(&said, folder, || Some(dump(&said)));
            std::process::exit(i32::from(fatal.reason.exit_code()));
        }
        let _ = catch_unwind(|| panic!("planted"));
        std::process::exit(0);
    }
}
