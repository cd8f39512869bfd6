use super::*;
use crate::bench::{A, params};
use alloc::string::ToString;

#[test]
fn parameters_that_contradict_each_other_are_refused_and_named() {
    let with = |change: fn(&mut Params)| {
        let mut params = params(A, 1);
        change(&mut params);
        Core::new(params, Instant::ZERO).map(|_| ())
    };
    let disks = |numbers: &[u16]| numbers.iter().copied().map(DiskIndex::new).collect::<Vec<_>>();
    let mut given = params(A, 1);
    for numbers in [&[0][..], &[0, 1, 2], &[4, 3, 2, 1, 0]] {
        given.disks = disks(numbers);
        let core = Core::new(given.clone(), Instant::ZERO).unwrap();
        assert_eq!(core.majority(), numbers.len() / 2 + 1);
    }
    for numbers in [&[][..], &[0, 1], &[0, 1, 2, 3], &[0, 1, 2, 3, 4, 5], &[0, 1, 0]] {
        given.disks = disks(numbers);
        let bad = Core::new(given.clone(), Instant::ZERO).unwrap_err();
        assert_eq!(bad, BadParams::Disks(disks(numbers)));
        assert!(bad.to_string().contains("expected 1, 3 or 5"), "{bad}");
    }
    let bad = with(|params| params.incarnation = Incarnation::new(0)).unwrap_err();
    assert!(
        bad == BadParams::Incarnation && bad.to_string().contains("number 1"),
        "{bad}"
    );
    let bad = with(|params| params.timing.beat = Duration::ZERO).unwrap_err();
    assert!(
        matches!(bad, BadParams::Timing(_)) && bad.to_string().contains("h > 0"),
        "{bad}"
    );
}

#[test]
fn a_majority_of_five_is_reached_by_the_third_best() {
    let mut given = params(A, 1);
    given.disks = (0..5).map(DiskIndex::new).collect();
    let mut core = Core::new(given, Instant::ZERO).unwrap();
    let best = |core: &Core| core.majority_of(|disk| disk.slot_submitted);
    let at = Instant::from_nanos;
    for (disk, submitted) in [3_u64, 9, 5].into_iter().enumerate() {
        assert_eq!(best(&core), None, "{disk} of five");
        core.disks[disk].slot_submitted = Some(at(submitted));
    }
    assert_eq!(best(&core), Some(at(3)));
    core.disks[3].slot_submitted = Some(at(7));
    assert_eq!(best(&core), Some(at(5)));
}
