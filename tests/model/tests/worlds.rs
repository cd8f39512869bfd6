//! The smallest worlds, for every build; `cargo model` searches the rest.

#[test]
fn every_promise_holds_in_every_state_of_the_smallest_worlds() {
    for name in ["reservations", "power", "watchdog", "ports"] {
        let world = pollux_model::ALL.iter().find(|world| world.name == name);
        let world = world.unwrap_or_else(|| panic!("no world {name}"));
        let report = world.search(1_000_000);
        if let Some(found) = &report.counterexample {
            panic!("{name}: {found}");
        }
        assert!(report.complete, "{name}: {} states are not all", report.states);
        assert!(
            report.states > 1_000,
            "{name}: a search of {} states saw nothing",
            report.states
        );
    }
}

#[test]
fn a_search_that_gives_up_says_so() {
    let world = &pollux_model::ALL[0];
    let report = world.search(100);
    assert!(!report.complete && report.counterexample.is_none());
}
