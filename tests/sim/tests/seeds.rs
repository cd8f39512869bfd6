//! A first helping of seeds, for every build; `cargo run -p pollux-sim --release -- --seeds N` plays more.

#[test]
fn two_hundred_seeds_hold_every_invariant() {
    let mut total = pollux_sim::Total::default();
    for seed in 0..200 {
        if let Err(failure) = pollux_sim::run(seed, &mut total) {
            panic!("{failure}");
        }
    }
    println!("{total}");
    // Every kind of fault struck.
    let unstruck = total.unstruck();
    assert!(unstruck.is_empty(), "{}", unstruck.join(", "));
    // And every cell of state and event was visited, or it is said why not.
    let unexplained = total.unexplained();
    assert!(unexplained.is_empty(), "{}", unexplained.join("\n"));
}

#[test]
fn the_same_seed_is_the_same_play() {
    let (first, _) = pollux_sim::replay(7);
    let (second, _) = pollux_sim::replay(7);
    assert!(first.len() > 1_000);
    assert_eq!(first, second);
}
