//! Which cores this process may run on: checked before an executor is pinned to one, so that a
//! container's smaller CPU set is a clear line and not a failure deep in the runtime.

use std::fmt;

use super::config::value::Cores;

/// A core that was asked for and can't be had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlacementError {
    /// The core.
    pub core: u16,
    /// The cores that the process may run on; empty if the kernel doesn't say.
    pub allowed: Vec<usize>,
}

impl fmt::Display for PlacementError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let allowed: Vec<String> = self.allowed.iter().map(ToString::to_string).collect();
        write!(
            f,
            "cores: core {} is not available to this process; it may run on {}",
            self.core,
            if allowed.is_empty() { "none that are known".to_owned() } else { allowed.join(",") }
        )
    }
}

impl std::error::Error for PlacementError {}

/// Checks that the process may run on all of `cores`.
///
/// # Errors
/// The first core on which it may not.
pub fn check(cores: &Cores) -> Result<(), PlacementError> {
    let ids = core_affinity::get_core_ids().unwrap_or_default();
    check_against(cores, ids.into_iter().map(|core| core.id).collect())
}

fn check_against(cores: &Cores, allowed: Vec<usize>) -> Result<(), PlacementError> {
    match cores.numbers().iter().find(|core| !allowed.contains(&usize::from(**core))) {
        Some(core) => Err(PlacementError { core: *core, allowed }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn core_outside_the_process_affinity_is_refused_by_number() {
        let cores = Cores::parse("2-3").unwrap();
        assert_eq!(check_against(&cores, vec![1, 2, 3]), Ok(()));
        let refused = check_against(&cores, vec![0, 2]).unwrap_err();
        assert_eq!(
            refused.to_string(),
            "cores: core 3 is not available to this process; it may run on 0,2"
        );
    }

    #[test]
    fn this_process_may_run_somewhere() {
        let here = core_affinity::get_core_ids().unwrap()[0].id;
        assert_eq!(check(&Cores::parse(&here.to_string()).unwrap()), Ok(()));
    }
}
