//! The one clock of the host: CLOCK_MONOTONIC in nanoseconds.
//!
//! Every stamp that leaves this program is on the clock that the array's own journals use, so that
//! a pause seen here can be laid over a fault noted there. `std::time::Instant` is the same clock
//! but hides its value.

/// Nanoseconds of CLOCK_MONOTONIC.
pub fn now_ns() -> u64 {
    let mut ts = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `ts` is a valid, writable timespec for the whole call, and CLOCK_MONOTONIC exists on
    // every Linux; the call keeps no pointer.
    let rc = unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut ts) };
    assert_eq!(rc, 0, "CLOCK_MONOTONIC is always readable");
    ts.tv_sec as u64 * 1_000_000_000 + ts.tv_nsec as u64
}

/// Milliseconds as the clock's unit.
pub const fn ms(n: u64) -> u64 {
    n * 1_000_000
}

/// The step of a loop that looks at a state until a deadline.
pub(crate) fn pause(milliseconds: u64) {
    std::thread::sleep(std::time::Duration::from_millis(milliseconds));
}

#[cfg(test)]
mod tests {
    #[test]
    fn never_goes_back() {
        let a = super::now_ns();
        assert!(super::now_ns() >= a);
        assert!(a > 0);
    }
}
