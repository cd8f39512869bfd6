use super::*;

/// What a reader makes of one byte, and that nothing is left.
fn of<T>(bytes: &[u8], read: impl Fn(&mut Reader<'_>) -> Parsed<T>) -> Parsed<T> {
    let mut reader = Reader(bytes);
    let value = read(&mut reader)?;
    assert!(reader.0.is_empty());
    Ok(value)
}

#[test]
fn a_flag_is_one_of_two_bytes() {
    assert_eq!(of(&[0], |bytes| bytes.flag()), Ok(false));
    assert_eq!(of(&[1], |bytes| bytes.flag()), Ok(true));
    assert!((2..=255).all(|byte| of(&[byte], |bytes| bytes.flag()) == Err(Malformed)));
    assert_eq!(of(&[], |bytes| bytes.flag()), Err(Malformed));
}

#[test]
fn a_count_is_at_most_what_there_may_be() {
    for (byte, max) in [(0, 0), (3, 3), (3, 4)] {
        assert_eq!(of(&[byte], |bytes| bytes.count(max)), Ok(usize::from(byte)));
    }
    assert_eq!(of(&[4], |bytes| bytes.count(3)), Err(Malformed));
}

#[test]
fn a_role_and_a_mode_are_written_as_they_are_read_and_no_other_byte_is_either() {
    let roles = [
        Role::Starting,
        Role::Waiting,
        Role::Serving,
        Role::Releasing,
        Role::Dying,
        Role::Left,
    ];
    let advert = |role| {
        let mut bytes = Writer::default();
        bytes.advert(&Advert {
            role,
            ..Advert::default()
        });
        bytes.0
    };
    for role in roles {
        assert_eq!(
            of(&advert(role), |bytes| bytes.advert()).map(|read| read.role),
            Ok(role)
        );
    }
    let at =
        (0..advert(Role::Starting).len()).find(|at| advert(Role::Starting)[*at] != advert(Role::Dying)[*at]);
    let mut bytes = advert(Role::Starting);
    for byte in 6..=255 {
        bytes[at.unwrap()] = byte;
        assert_eq!(of(&bytes, |bytes| bytes.advert()), Err(Malformed));
    }
    let record = |mode| {
        let mut bytes = Writer::default();
        bytes.record(&Record {
            mode,
            ..Record::genesis(crate::bench::set())
        });
        bytes.0
    };
    let (open, sealed) = (record(Mode::Open), record(Mode::Sealed));
    assert_eq!(
        of(&open, |bytes| bytes.record()).map(|read| read.mode),
        Ok(Mode::Open)
    );
    assert_eq!(
        of(&sealed, |bytes| bytes.record()).map(|read| read.mode),
        Ok(Mode::Sealed)
    );
    let at = (0..open.len()).find(|at| open[*at] != sealed[*at]).unwrap();
    let mut bytes = open;
    for byte in 2..=255 {
        bytes[at] = byte;
        assert_eq!(of(&bytes, |bytes| bytes.record()), Err(Malformed));
    }
}

/// One encoding for each value: an absent member has no incarnation.
#[test]
fn an_absent_member_with_an_incarnation_is_malformed() {
    let mut bytes = Writer::default();
    bytes.record(&Record {
        members: Members::alone(ControllerId::A, Incarnation::new(5)),
        ..Record::genesis(crate::bench::set())
    });
    let read = of(&bytes.0, |bytes| bytes.record()).unwrap();
    assert_eq!(
        (
            read.members.get(ControllerId::A),
            read.members.get(ControllerId::B)
        ),
        (Some(Incarnation::new(5)), None)
    );
    // Epoch 8, member a 9, then the flag of b and its incarnation.
    let mut wrong = bytes.0;
    assert_eq!(wrong[17], 0, "b is absent");
    wrong[18] = 1;
    assert_eq!(of(&wrong, |bytes| bytes.record()), Err(Malformed));
}

#[test]
fn a_letter_keeps_every_field() {
    let letter = Letter {
        from: Incarnation::new(1),
        to: Incarnation::new(2),
        epoch: Epoch::new(3),
        consent: true,
        invite: true,
        asks: alloc::vec![PoolId::from_bytes([4; 16])],
        gifts: alloc::vec![(PoolId::from_bytes([5; 16]), Generation::new(6))],
    };
    let mut bytes = Writer::default();
    bytes.letter(&letter);
    assert_eq!(of(&bytes.0, |bytes| bytes.letter()), Ok(letter));
}
