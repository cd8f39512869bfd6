//! Real time for the few threads whose delay looks like death.
//!
//! The writer of the slot and the loop that decides must run while the machine is saturated, or a living controller
//! looks dead. Where the system does not permit it, the caller is told why and says so to the operator.

use nix::sys::resource::{Resource, getrlimit};

/// What of real time could not be had, and why. Empty means that all of it was.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shortfall {
    /// SCHED_RR refused.
    pub scheduling: Option<String>,
    /// Memory not locked.
    pub memory: Option<String>,
}

impl Shortfall {
    /// Both parts in one sentence, or nothing when real time is complete.
    pub fn describe(&self) -> Result<(), String> {
        match (&self.scheduling, &self.memory) {
            (None, None) => Ok(()),
            (Some(one), None) | (None, Some(one)) => Err(one.clone()),
            (Some(one), Some(two)) => Err(format!("{one}; {two}")),
        }
    }
}

/// Puts the calling thread under SCHED_RR at `priority` (1 to 99, higher runs first).
pub fn schedule_current_thread(priority: u8) -> Result<(), String> {
    let parameters = libc::sched_param {
        sched_priority: i32::from(priority),
    };
    // A child must not inherit it: what a daemon starts has no claim to real time.
    let policy = libc::SCHED_RR | libc::SCHED_RESET_ON_FORK;
    // SAFETY: thread 0 is the caller and `parameters` outlives the call; nothing else is touched.
    let result = unsafe { libc::sched_setscheduler(0, policy, &parameters) };
    if result == 0 {
        return Ok(());
    }
    let error = std::io::Error::last_os_error();
    let limit = getrlimit(Resource::RLIMIT_RTPRIO).map_or("unknown".to_owned(), |(soft, _)| soft.to_string());
    Err(format!(
        "SCHED_RR priority {priority} is not permitted ({error}; RLIMIT_RTPRIO is {limit}): \
         grant CAP_SYS_NICE or LimitRTPRIO={priority}"
    ))
}

/// Locks the memory of the process, present and future. Refuses where the limit could later make an allocation fail:
/// a daemon that dies of its own memory lock is worse than one that may be paged out.
pub fn lock_memory() -> Result<(), String> {
    let (soft, _) = getrlimit(Resource::RLIMIT_MEMLOCK).map_err(|e| format!("RLIMIT_MEMLOCK: {e}"))?;
    if soft != nix::libc::RLIM_INFINITY && !has_capability(CAP_IPC_LOCK) {
        return Err(format!(
            "memory is not locked (RLIMIT_MEMLOCK is {soft} bytes): grant CAP_IPC_LOCK or LimitMEMLOCK=infinity"
        ));
    }
    use nix::sys::mman::{MlockAllFlags, mlockall};
    mlockall(MlockAllFlags::MCL_CURRENT | MlockAllFlags::MCL_FUTURE).map_err(|e| {
        format!("memory is not locked (mlockall: {e}): grant CAP_IPC_LOCK or LimitMEMLOCK=infinity")
    })
}

/// Both, for the calling thread. Never fails; says what is missing.
pub fn enter(priority: u8) -> Shortfall {
    Shortfall {
        scheduling: schedule_current_thread(priority).err(),
        memory: lock_memory().err(),
    }
}

/// Number of CAP_IPC_LOCK, from linux/capability.h.
const CAP_IPC_LOCK: u32 = 14;

/// True when the process has the capability towards the whole machine. Within a user namespace a process may hold
/// every capability and still none that counts for real time, so the answer there is no.
fn has_capability(number: u32) -> bool {
    let own = std::fs::read_link("/proc/self/ns/user").ok();
    // The inode of the initial user namespace is fixed: PROC_USER_INIT_INO in linux/proc_ns.h.
    if own.is_none_or(|name| name.as_os_str() != "user:[4026531837]") {
        return false;
    }
    let Ok(status) = std::fs::read_to_string("/proc/self/status") else {
        return false;
    };
    status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .is_some_and(|mask| mask >> number & 1 == 1)
}

#[cfg(test)]
mod tests {
    #[test]
    fn what_is_refused_is_explained() {
        // On a thread of its own, so that the test runner keeps its ordinary scheduling.
        let outcome = std::thread::spawn(|| super::schedule_current_thread(10))
            .join()
            .unwrap();
        if let Err(reason) = outcome {
            assert!(reason.contains("LimitRTPRIO=10"), "{reason}");
        }
        let both = super::Shortfall {
            scheduling: Some("a".into()),
            memory: Some("b".into()),
        };
        assert_eq!(both.describe(), Err("a; b".into()));
        assert_eq!(super::Shortfall::default().describe(), Ok(()));
    }
}
