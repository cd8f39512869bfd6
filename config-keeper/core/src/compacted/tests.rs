use super::*;
use alloc::vec;
use alloc::vec::Vec;
use pollux_api::action::ActionId;
use pollux_api::config::{Host, HostId};
use pollux_api::id::Epoch;

fn host(number: u8, iqns: usize) -> Resource {
    Resource::Host(Host {
        id: HostId(Hex([number; 16])),
        name: format!("h{number}"),
        iqns: (0..iqns)
            .map(|at| format!("iqn.2026-01.test:{number}.{at}"))
            .collect(),
    })
}

fn entry(index: u64, rows: Vec<RowOp>) -> LogEntry {
    LogEntry {
        index,
        epoch: Epoch::new(index / 3),
        session: 1,
        action_id: ActionId::from_bytes([index as u8; 16]),
        request: Hex([0; 32]),
        rows,
        format: 1,
        previous: Hex([index as u8 - 1; 32]),
        hash: Hex([index as u8; 32]),
    }
}

/// Twelve hosts, of which one was changed and one is gone.
fn twelve() -> Compacted {
    let mut compacted = Compacted::default();
    for number in 1..=13 {
        compacted.take(&entry(u64::from(number), vec![RowOp::Put(host(number, 1))]));
    }
    compacted.take(&entry(
        14,
        vec![RowOp::Put(host(4, 3)), RowOp::Delete(host(9, 1).key())],
    ));
    compacted.take(&entry(15, vec![RowOp::Delete(host(9, 1).key())]));
    compacted
}

#[test]
fn the_digest_is_that_of_the_rows_whatever_way_led_to_them() {
    let compacted = twelve();
    assert_eq!(compacted.wrong(), None);
    assert_eq!((compacted.facts.rows, compacted.facts.length), (12, 15));
    let mut other = Compacted::default();
    for number in (1..=13).rev().filter(|number| *number != 9) {
        let iqns = if number == 4 { 3 } else { 1 };
        other.take(&entry(u64::from(number), vec![RowOp::Put(host(number, iqns))]));
    }
    assert_eq!(other.facts.digest, compacted.facts.digest);
}

#[test]
fn rows_that_are_not_those_that_were_written_are_found() {
    for change in [
        RowOp::Put(host(4, 2)),
        RowOp::Put(host(20, 1)),
        RowOp::Delete(host(1, 1).key()),
    ] {
        let mut compacted = twelve();
        compacted.tables.apply(&change);
        assert!(
            compacted.wrong().unwrap().contains("first 15 entries"),
            "{change:?}"
        );
    }
    let mut newer = twelve();
    newer.facts.format = FORMAT + 1;
    assert!(newer.wrong().unwrap().contains("upgrade it"));
}

#[test]
fn parts_make_the_whole_and_nothing_else_does() {
    let compacted = twelve();
    let mut parts = vec![];
    let mut after = None;
    loop {
        let part = compacted.part(after, 200);
        after = part.rows.last().map(Resource::key);
        let more = part.more;
        parts.push(part);
        if !more {
            break;
        }
    }
    assert!(parts.len() > 4);
    let all = |parts: &[CompactedPart]| {
        let mut arriving = None;
        for part in parts {
            match Arriving::take(arriving, part.clone())? {
                Ok(whole) => return Ok(Some(whole)),
                Err(some) => arriving = Some(some),
            }
        }
        Ok::<_, String>(None)
    };
    assert_eq!(all(&parts), Ok(Some(compacted.clone())));
    // Without its end it is no whole, and a part that is missing or comes twice is found.
    assert_eq!(all(&parts[..3]), Ok(None));
    let missing: Vec<_> = parts
        .iter()
        .enumerate()
        .filter(|(at, _)| *at != 2)
        .map(|(_, part)| part.clone())
        .collect();
    all(&missing).unwrap_err();
    let twice = [&parts[..2], &parts[1..]].concat();
    all(&twice).unwrap_err();
    let mut wrong = parts.clone();
    wrong[1].rows[0] = host(2, 7);
    all(&wrong).unwrap_err();
    // The giver has compacted more meanwhile: its rows begin anew.
    let mut later = compacted;
    later.take(&entry(16, vec![RowOp::Put(host(30, 1))]));
    let anew = [&parts[..2], &[later.part(None, 1 << 20)]].concat();
    assert_eq!(all(&anew), Ok(Some(later)));
}
