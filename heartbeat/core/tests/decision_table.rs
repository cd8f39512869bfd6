//! The decision table and the timelines on paper are those in the code.

use pollux_heartbeat_core::{Profile, Timing};

#[test]
fn the_table_is_the_one_that_is_kept() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/decision-table.md");
    let now = pollux_heartbeat_core::table::markdown();
    if std::env::var_os("POLLUX_BLESS").is_some() {
        std::fs::write(path, &now).expect("decision-table.md is written");
    }
    let kept = std::fs::read_to_string(path).expect("decision-table.md is there");
    assert!(
        kept == now,
        "{path} differs from src/table.rs: run this test with POLLUX_BLESS=1 and read the diff"
    );
}

#[test]
fn the_timelines_are_those_that_are_kept() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../README.md");
    let (begin, end) = ("; a test compares -->\n", "<!-- end -->");
    let kept = std::fs::read_to_string(path).expect("heartbeat/README.md is there");
    let (head, rest) = kept.split_once(begin).expect("the timelines have a beginning");
    let (between, tail) = rest.split_once(end).expect("and an end");
    let one = |profile: Profile| {
        format!(
            "\nProfile `{}`:\n\n```\n{}```\n",
            profile.name(),
            Timing::derive(profile).timeline()
        )
    };
    let now: String = Profile::ALL.into_iter().map(one).collect();
    let now = format!("{now}\n");
    if std::env::var_os("POLLUX_BLESS").is_some() {
        std::fs::write(path, format!("{head}{begin}{now}{end}{tail}")).expect("README.md is written");
        return;
    }
    assert!(
        between == now,
        "{path} differs from src/timing.rs: run this test with POLLUX_BLESS=1 and read the diff"
    );
}
