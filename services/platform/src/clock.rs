//! The two clocks on which the array measures. Neither is set by anybody: wall clocks decide nothing.

use nix::time::{ClockId, clock_gettime};

/// Nanoseconds of CLOCK_MONOTONIC. Every process of a controller, and in the software enclosure both controllers and
/// the enclosure itself, read the same clock, so that stamps of different processes can be laid side by side.
/// It stands still while the machine is suspended.
pub fn monotonic_ns() -> u64 {
    read(ClockId::CLOCK_MONOTONIC)
}

/// Nanoseconds of CLOCK_BOOTTIME: as [`monotonic_ns`], but time in suspend counts. A difference between the two that
/// grew means that this machine was paused, which voids every promise made by waiting.
pub fn boottime_ns() -> u64 {
    read(ClockId::CLOCK_BOOTTIME)
}

fn read(clock: ClockId) -> u64 {
    // Both clocks exist on every kernel that this crate supports, and the pointer is the library's own.
    let time = clock_gettime(clock).expect("CLOCK_MONOTONIC and CLOCK_BOOTTIME can always be read");
    time.tv_sec() as u64 * 1_000_000_000 + time.tv_nsec() as u64
}

#[cfg(test)]
mod tests {
    #[test]
    fn clocks_go_forward_together() {
        let (m, b) = (super::monotonic_ns(), super::boottime_ns());
        assert!(
            m > 0 && b >= m,
            "time in suspend is never negative: monotonic {m}, boottime {b}"
        );
        assert!(super::monotonic_ns() >= m);
    }
}
