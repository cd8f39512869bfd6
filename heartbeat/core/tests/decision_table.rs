//! The decision table on paper is the one in the code.

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
