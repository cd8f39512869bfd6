//! The repository keeps its rules; and each rule finds what it is there for.

use pollux_tidy::report::Report;
use pollux_tidy::{Dependency, File, Finding, Package, RULES, Repository, Target, check};
use std::path::PathBuf;

#[test]
fn the_repository_keeps_its_rules() {
    let repository = Repository::read().unwrap();
    assert!(
        repository.files.len() > 50 && repository.packages.len() > 30,
        "it was not read"
    );
    let found = check(&repository);
    let text: Vec<String> = found
        .iter()
        .flat_map(|(rule, findings)| findings.iter().map(move |finding| format!("{rule}: {finding}")))
        .collect();
    assert!(text.is_empty(), "{}", text.join("\n"));
}

/// A small house in which everything is in its place.
fn house() -> Repository {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let package = |name: &str, folder: &str, dependencies: &[&str]| Package {
        name: name.into(),
        version: "0.1.0".into(),
        license: Some("Apache-2.0".into()),
        manifest_path: root.join(folder).join("Cargo.toml"),
        dependencies: dependencies
            .iter()
            .map(|name| Dependency {
                name: (*name).into(),
                kind: None,
            })
            .collect(),
        targets: vec![Target {
            src_path: root.join(folder).join("src/lib.rs"),
        }],
        source: None,
    };
    let folders = [
        ("pollux-api", "rpc-router/api", &["serde"][..]),
        ("pollux-heartbeat-core", "heartbeat/core", &["pollux-api"]),
        ("pollux-platform", "services/platform", &["pollux-api"]),
        ("pollux-runtime", "services/runtime", &["pollux-platform"]),
        (
            "pollux-heartbeat",
            "heartbeat",
            &["pollux-runtime", "pollux-heartbeat-core"],
        ),
        ("pollux-alua", "alua", &["pollux-runtime"]),
        (
            "pollux-sim",
            "tests/sim",
            &["pollux-heartbeat", "pollux-heartbeat-core"],
        ),
        ("pollux-networks", "tests/networks", &["pollux-platform"]),
    ];
    let mut files = vec![
        file("deny.toml", "[licenses]\nallow = [\"Apache-2.0\", \"MIT\"]\n"),
        file(
            "Cargo.toml",
            "[workspace.dependencies]\n# Ours.\npollux-api = { path = \"x\" }\n# serde: encodings.\nserde = \"1\"\n",
        ),
    ];
    for (_, folder, _) in folders {
        files.push(file(
            &format!("{folder}/Cargo.toml"),
            "[lints]\nworkspace = true\n",
        ));
        files.push(file(
            &format!("{folder}/src/lib.rs"),
            "#![no_std]\nfn f() {\n    g();\n}\n",
        ));
    }
    let packages = folders
        .map(|(name, folder, dependencies)| package(name, folder, dependencies))
        .into();
    Repository {
        root,
        target: PathBuf::new(),
        files,
        packages,
    }
}

fn file(path: &str, text: &str) -> File {
    File {
        path: path.into(),
        text: text.into(),
    }
}

/// What `rule` finds in a house that was changed.
fn found(rule: &str, change: impl FnOnce(&mut Repository)) -> Vec<Finding> {
    let mut house = house();
    change(&mut house);
    let (_, check) = RULES
        .iter()
        .find(|(name, _)| *name == rule)
        .expect("a rule of this name");
    check(&house)
}

fn one(rule: &str, place: &str, change: impl FnOnce(&mut Repository)) {
    let findings = found(rule, change);
    assert_eq!(findings.len(), 1, "{rule}: {findings:?}");
    assert!(findings[0].place.starts_with(place), "{rule}: {findings:?}");
}

fn depend(house: &mut Repository, from: &str, to: &str, kind: Option<&str>) {
    let package = house
        .packages
        .iter_mut()
        .find(|package| package.name == from)
        .expect("a package of this name");
    package.dependencies.push(Dependency {
        name: to.into(),
        kind: kind.map(Into::into),
    });
}

fn write(house: &mut Repository, path: &str, text: &str) {
    house.files.retain(|file| file.path != path);
    house.files.push(file(path, text));
}

#[test]
fn a_house_in_order_has_no_findings() {
    assert_eq!(check(&house()), vec![]);
}

#[test]
fn dependencies_against_the_direction_are_found() {
    for (from, to, place) in [
        ("pollux-alua", "pollux-heartbeat", "alua/"),
        ("pollux-alua", "pollux-heartbeat-core", "alua/"),
        ("pollux-runtime", "pollux-alua", "services/runtime/"),
        ("pollux-platform", "pollux-runtime", "services/platform/"),
        ("pollux-alua", "pollux-sim", "alua/"),
    ] {
        one("direction", place, |house| depend(house, from, to, None));
    }
    one("direction", "alua/", |house| {
        depend(house, "pollux-alua", "pollux-sim", Some("dev"))
    });
    one("direction", "alua/", |house| {
        depend(house, "pollux-alua", "pollux-heartbeat", Some("dev"))
    });
    one("direction", "alua/", |house| {
        depend(house, "pollux-alua", "pollux-networks", None)
    });
    assert_eq!(
        found("direction", |house| depend(
            house,
            "pollux-alua",
            "pollux-networks",
            Some("dev")
        )),
        vec![]
    );
    assert_eq!(
        found("direction", |house| depend(
            house,
            "pollux-sim",
            "pollux-alua",
            None
        )),
        vec![]
    );
}

#[test]
fn a_core_that_reaches_for_the_world_is_found() {
    one("purity", "heartbeat/core/Cargo.toml", |house| {
        depend(house, "pollux-heartbeat-core", "tokio", None)
    });
    one("purity", "heartbeat/core/Cargo.toml", |house| {
        depend(house, "pollux-heartbeat-core", "pollux-platform", None)
    });
    assert_eq!(
        found("purity", |house| depend(
            house,
            "pollux-heartbeat-core",
            "proptest",
            Some("dev")
        )),
        vec![]
    );
    one("purity", "heartbeat/core/src/lib.rs", |house| {
        write(house, "heartbeat/core/src/lib.rs", "fn f() {}\n")
    });
    one("purity", "heartbeat/core/src/x.rs:1", |house| {
        write(house, "heartbeat/core/src/x.rs", "extern crate std;\n")
    });
    let tests = "#[cfg(test)]\nextern crate std;\n";
    assert_eq!(
        found("purity", |house| write(house, "heartbeat/core/src/x.rs", tests)),
        vec![]
    );
}

#[test]
fn a_manifest_without_lints_is_found() {
    one("lints", "alua/Cargo.toml", |house| {
        write(house, "alua/Cargo.toml", "[package]\n")
    });
    let own = "# Unsafe here: reasons beside.\n[lints.rust]\n[lints.clippy]\nundocumented_unsafe_blocks = \"deny\"\n";
    assert_eq!(
        found("lints", |house| write(house, "alua/Cargo.toml", own)),
        vec![]
    );
    one("lints", "alua/Cargo.toml", |house| {
        write(house, "alua/Cargo.toml", own.split_once('\n').unwrap().1)
    });
}

#[test]
fn a_dependency_without_a_reason_is_found() {
    for text in [
        "[workspace.dependencies]\nserde = \"1\"\n",
        "[workspace.dependencies]\n# toml: files.\ntoml = \"1\"\nserde = \"1\"\n",
    ] {
        one("reasons", "Cargo.toml:", |house| write(house, "Cargo.toml", text));
    }
    let two = "[workspace.dependencies]\n# serde, serde_json: encodings.\nserde = \"1\"\nserde_json = \"1\"\n[profile.dev]\nx = 1\n";
    assert_eq!(found("reasons", |house| write(house, "Cargo.toml", two)), vec![]);
}

#[test]
fn a_file_that_nothing_leads_to_is_found() {
    one("dead files", "alua/src/x.rs", |house| {
        write(house, "alua/src/x.rs", "")
    });
    let reached = |house: &mut Repository| {
        write(
            house,
            "alua/src/lib.rs",
            "pub mod x;\n#[cfg(test)]\nmod tests;\n#[path = \"odd/name.rs\"]\npub(crate) mod y;\n",
        );
        for path in [
            "alua/src/x.rs",
            "alua/src/x/inner.rs",
            "alua/src/tests/mod.rs",
            "alua/src/odd/name.rs",
        ] {
            write(
                house,
                path,
                if path.ends_with("x.rs") {
                    "mod inner;\n"
                } else {
                    ""
                },
            );
        }
    };
    assert_eq!(found("dead files", reached), vec![]);
}

#[test]
fn leftovers_and_paths_of_one_machine_are_found() {
    for marker in [
        concat!("// TO", "DO later"),
        concat!("// FIX", "ME"),
        concat!("todo", "!()"),
        concat!("// X", "XX"),
    ] {
        one("markers", "alua/src/lib.rs:1", |house| {
            write(house, "alua/src/lib.rs", marker)
        });
    }
    assert_eq!(
        found("markers", |house| write(
            house,
            "alua/src/lib.rs",
            concat!("// AUTO", "TO", "DOS")
        )),
        vec![]
    );
    for path in [concat!("/ho", "me/me/x"), concat!("/ro", "ot/x")] {
        one("machines", "alua/src/lib.rs:1", |house| {
            write(house, "alua/src/lib.rs", path)
        });
    }
    assert_eq!(
        found("machines", |house| write(
            house,
            "alua/src/lib.rs",
            concat!("/usr/ho", "me/")
        )),
        vec![]
    );
}

#[test]
fn what_is_too_long_to_read_is_found() {
    let function = format!("fn f() {{\n{}}}\n", "    g();\n".repeat(200));
    one("lengths", "alua/src/lib.rs:1", |house| {
        write(house, "alua/src/lib.rs", &function)
    });
    one("lengths", "alua/src/lib.rs:2", |house| {
        write(house, "alua/src/lib.rs", &format!("\n// {}\n", "x".repeat(200)))
    });
    one("lengths", "alua/src/lib.rs", |house| {
        write(house, "alua/src/lib.rs", &"\n".repeat(2100))
    });
    let two = format!("fn f() {{\n{0}}}\n\nfn g() {{\n{0}}}\n", "    g();\n".repeat(120));
    assert_eq!(
        found("lengths", |house| write(house, "alua/src/lib.rs", &two)),
        vec![]
    );
}

#[test]
fn links_and_promises_that_lead_nowhere_are_found() {
    let readme = |text: &'static str| move |house: &mut Repository| write(house, "README.md", text);
    one("links", "README.md:2", readme("\n[x](src/gone.rs)\n"));
    one(
        "links",
        "README.md:1",
        readme("[`no_such_test`](tests/rules.rs)\n"),
    );
    let good = "[`the_repository_keeps_its_rules`](tests/rules.rs) [site](https://example.org) [here](#x)\n```\n[x](gone)\n```\n";
    assert_eq!(found("links", readme(good)), vec![]);
}

#[test]
fn a_licence_that_is_not_on_the_list_is_found() {
    let foreign = |licence: Option<&'static str>| {
        move |house: &mut Repository| {
            let (name, license) = ("x".into(), licence.map(Into::into));
            house.packages.push(Package {
                name,
                license,
                source: Some("registry".into()),
                ..Package::default()
            });
        }
    };
    one("licences", "x", foreign(Some("GPL-3.0-only")));
    one("licences", "x", foreign(None));
    assert_eq!(found("licences", foreign(Some("GPL-3.0-only OR MIT"))), vec![]);
    one("licences", "deny.toml", |house| {
        write(house, "deny.toml", "[licenses]\n")
    });
}

#[test]
fn results_and_skips_are_picked_out_of_the_output_of_tests() {
    let mut report = Report::default();
    let shown: Vec<&str> = [
        "test result: ok. 12 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.95s",
        "test a_controller_takes_over ... ok",
        "test a_disk_is_lost ... FAILED",
        "successes:",
        "---- a_host_writes stdout ----",
        "SKIPPED: libiscsi.so.7 is not installed: apt install libiscsi7",
        "3 passed the gate",
        "failures:",
        "---- a_disk_is_lost stdout ----",
        "no second copy",
        "test result: FAILED. 3 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.19s",
    ]
    .into_iter()
    .filter(|line| report.read(line))
    .collect();
    assert_eq!((report.passed, report.failed, report.ignored), (15, 2, 1));
    assert_eq!(
        report.skipped,
        ["a_host_writes: libiscsi.so.7 is not installed: apt install libiscsi7"]
    );
    assert!(shown.contains(&"no second copy") && shown.contains(&"test a_disk_is_lost ... FAILED"));
    assert!(!shown.contains(&"3 passed the gate") && !shown.iter().any(|line| line.ends_with(" ... ok")));
}

#[test]
fn the_output_of_nextest_is_read_as_well() {
    let mut report = Report::default();
    let shown: Vec<&str> = [
        "        PASS [   0.009s] ( 28/378) pollux-host tests::many_in_flight",
        "        FAIL [   0.010s] ( 29/378) pollux-host tests::too_long",
        "     Summary [   5.2s] 24 tests run: 23 passed, 1 failed, 4 skipped",
        "        PASS [   0.009s] ( 28/378) pollux-host tests::many_in_flight",
        "    SKIPPED: no tgtd",
        "    test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 15 filtered out; finished in 0.00s",
        "        FAIL [   0.010s] ( 29/378) pollux-host tests::too_long",
        "    left: 3, right: 4",
        "    test result: FAILED. 0 passed; 1 failed; 0 ignored; 0 measured; 15 filtered out; finished in 0.00s",
    ]
    .into_iter()
    .filter(|line| report.read(line))
    .collect();
    assert_eq!((report.passed, report.failed, report.ignored), (23, 1, 4));
    assert_eq!(report.skipped, ["pollux-host tests::many_in_flight: no tgtd"]);
    assert_eq!(shown.len(), 6, "{shown:#?}");
    assert!(shown.contains(&"    left: 3, right: 4"));
}
