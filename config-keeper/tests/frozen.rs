//! Databases as older versions of the program left them: each is opened by this one, says what it said, and goes on.
//!
//! `frozen/vN.db` was written by the program whose schema had version N (the second out of the first, by its upgrade), and
//! is never written again. The same seven
//! changes are in each: two pools of which one is ready, volumes, a host, a mapping, an address, a resize, a rename, a
//! deletion.

use pollux_api::action::ActionId;
use pollux_api::config::{Change, EpochRecord, Kind, Op, Resource, SetEpoch};
use pollux_api::id::{ArrayId, ControllerId, Epoch, Incarnation};
use pollux_config_core::keeper::{Answer, Effect, Event, Keeper};
use pollux_config_core::plan::Site;
use pollux_config_keeper::store::{Opened, Report, Store};
use rusqlite::Connection;
use std::path::{Path, PathBuf};

const ARRAY: ArrayId = ArrayId::from_bytes([7; 16]);
/// Of the seven changes, by the program that made them.
const HASH: &str = "275f35ef4e359fa55f0e2d8b5df92f2c49cdfb0259d3c84c6b7fd38fff0fe9c1";

fn copy_of(version: usize, folder: &Path) -> PathBuf {
    let frozen = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/frozen/v{version}.db"));
    let path = folder.join("config.db");
    std::fs::copy(frozen, &path).unwrap();
    path
}

fn user_version(path: &Path) -> i64 {
    let connection = Connection::open(path).unwrap();
    connection
        .pragma_query_value(None, "user_version", |row| row.get(0))
        .unwrap()
}

#[test]
fn the_database_of_every_older_version_is_opened_and_goes_on() {
    let newest = {
        let folder = tempfile::tempdir().unwrap();
        drop(Store::open(&folder.path().join("new.db"), ARRAY).unwrap());
        usize::try_from(user_version(&folder.path().join("new.db"))).unwrap()
    };
    assert!(newest > 1, "there is no older version");
    for version in 1..newest {
        let folder = tempfile::tempdir().unwrap();
        let path = copy_of(version, folder.path());
        let (store, Opened { loaded, .. }) = Store::open(&path, ARRAY).unwrap();
        assert_eq!((loaded.entries.len(), loaded.acknowledged), (7, 7));
        let mut keeper = Keeper::load(ControllerId::A, None, Site::default(), loaded).unwrap();
        assert_eq!(keeper.hash_at(7).unwrap().to_string(), HASH);
        for (kind, name) in [
            (Kind::Pool, "tank"),
            (Kind::Pool, "bulk"),
            (Kind::Volume, "one"),
            (Kind::Host, "web-1"),
            (Kind::Mapping, "one@web-1"),
            (Kind::Address, "10.78.0.50"),
        ] {
            assert!(keeper.find(kind, name).is_some(), "{kind} {name}");
        }
        assert_eq!(keeper.tables().rows().count(), 6, "and nothing else");
        assert!(
            matches!(keeper.find(Kind::Volume, "one"), Some(Resource::Volume(one)) if one.size_bytes == 1 << 31)
        );

        // It goes on: what the old program could have changed is changed, and stands there the next time.
        let (sender, reports) = std::sync::mpsc::channel();
        let writer = store.spawn(move |report| drop(sender.send(report)));
        let record = EpochRecord {
            epoch: Epoch::new(4),
            members: vec![(ControllerId::A, Incarnation::new(2))],
            open: true,
            base_length: 7,
            base_hash: keeper.hash_at(7).unwrap(),
            quorum: Vec::new(),
        };
        let set = SetEpoch {
            record,
            lock: None,
            incarnation: None,
        };
        keeper.handle(Event::SetEpoch { request: 1, set });
        let op = Op::Delete {
            kind: Kind::Pool,
            which: "bulk".into(),
        };
        let change = Change {
            ops: vec![op],
            expected_index: None,
            dry_run: false,
        };
        let mut done = None;
        let mut effects = keeper.handle(Event::Change {
            request: 2,
            action: ActionId::from_bytes([9; 16]),
            change,
        });
        while done.is_none() {
            for effect in std::mem::take(&mut effects) {
                match effect {
                    Effect::Store { serial, job } => writer.job(serial, job),
                    Effect::Answer { answer, .. } => done = Some(answer.unwrap()),
                    _ => {}
                }
            }
            if done.is_none() {
                match reports.recv().unwrap() {
                    Report::Stored(serial) => effects = keeper.handle(Event::Stored { serial }),
                    Report::Room(_) => {}
                    Report::Failed(what) => panic!("{what}"),
                }
            }
        }
        assert!(matches!(done, Some(Answer::Changed(changed)) if changed.index == 8));
        drop(writer);
        let (_store, Opened { loaded, .. }) = Store::open(&path, ARRAY).unwrap();
        assert_eq!(loaded.entries.len(), 8);
        assert_eq!(
            loaded.entries[6].hash.to_string(),
            HASH,
            "history is not written again"
        );

        // As it was stands beside it, for whoever has to go back to the old program.
        let kept = path.with_extension(format!("db.v{version}"));
        assert_eq!(user_version(&kept), i64::try_from(version).unwrap());
        let rows: i64 = Connection::open(&kept)
            .unwrap()
            .query_row("SELECT count(*) FROM log", [], |row| row.get(0))
            .unwrap();
        assert_eq!(rows, 7);
    }
}
