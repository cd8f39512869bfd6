//! Fault matrix, H: the configuration.

use pollux_api::chassis::PowerAction;
use pollux_api::config::{Kind, List, Listing, Op, Resource};
use pollux_api::error::Code;
use pollux_api::id::ControllerId::{A, B};
use pollux_pair::Result;
use pollux_pair::rig::{BOOT, MOVE};
use pollux_pair::stage::Stage;
use pollux_pair::wait::{that, wait_for};

#[test]
fn h1_change_during_takeover() -> Result<()> {
    let Some(mut stage) = Stage::set(|_| {}) else {
        return Ok(());
    };
    let alpha = stage.pool_of(A).id;
    let change = |name: &str| {
        vec![Op::CreateHost {
            name: name.into(),
            iqns: vec![format!("iqn.2026-01.test:{name}")],
        }]
    };
    let before = change("before");
    stage
        .array
        .change(A, before)
        .expect("a joined array takes changes");
    let cut = stage.array.power(A, PowerAction::Off)?;
    // In the middle of it: done, or refused with a reason; never half.
    let during = stage.array.change(B, change("during"));
    if let Err(refused) = &during {
        let told = refused.is(Code::ConfigLocked) || refused.is(Code::InDoubt) || refused.is_transient();
        assert!(told && !refused.data.what.is_empty(), "{refused:?}");
    }
    stage.wait_taken(B, alpha)?;
    stage.array.power(A, PowerAction::On)?;
    stage.array.wait_joined(MOVE + BOOT)?;
    wait_for("both controllers list the same hosts", MOVE, || {
        let names = |at| -> std::result::Result<Vec<String>, String> {
            let list: Listing = stage
                .array
                .call(
                    at,
                    pollux_api::config::LIST,
                    &List {
                        kind: Kind::Host,
                        stale_ok: false,
                    },
                )
                .map_err(|e| e.to_string())?;
            Ok(list
                .rows
                .into_iter()
                .filter_map(|row| match row {
                    Resource::Host(host) => Some(host.name),
                    _ => None,
                })
                .collect())
        };
        let (a, b) = (names(A)?, names(B)?);
        that(a == b, || format!("a {a:?}, b {b:?}"))?;
        that(a.iter().any(|name| name == "before"), || {
            format!("an acknowledged change is lost: {a:?}")
        })?;
        that(during.is_err() || a.iter().any(|name| name == "during"), || {
            format!("a change acknowledged in the takeover is lost: {a:?}")
        })
    })?;
    stage.judge(cut.began_ns)?.expect_clean();
    Ok(())
}

/// As an operator does it: write the configuration out, edit it, look at the difference, bring it in, and take it back.
#[test]
fn h_the_configuration_is_edited_as_a_text_and_taken_back() -> Result<()> {
    let Some(stage) = Stage::set(|plan| plan.array.disks = 5) else {
        return Ok(());
    };
    let said = |arguments: &[&str], code: i32, words: &[&str]| {
        let (exit, said) = stage.pollux(arguments, "");
        assert_eq!(exit, Some(code), "{arguments:?}: {said}");
        for word in words {
            assert!(said.contains(word), "{arguments:?}: `{word}` is not in: {said}");
        }
        said
    };
    let index = || {
        stage
            .array
            .config(A)
            .map(|status| status.acknowledged_length)
            .unwrap()
    };
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("array.toml");
    let file = file.to_str().unwrap();
    let begin = index();
    said(&["config", "export", file], 0, &["are in"]);
    said(&["config", "import", file], 0, &["says already"]);
    let exported = std::fs::read_to_string(file).unwrap();
    // One thing of each: a volume grows, a host is renamed, another is made; a pool on the spare disk, with a volume that
    // has to wait for it.
    let shelf = stage.array.enclosure_status()?;
    let used: Vec<_> = [A, B]
        .iter()
        .flat_map(|who| stage.pool_of(*who).disks.clone())
        .collect();
    let spare = shelf
        .disks
        .iter()
        .find(|disk| !disk.quorum && !used.contains(&disk.index));
    let spare = spare.expect("five data disks, four of them in pools").index.get();
    let grown = exported.replacen("size = \"32MiB\"", "size = \"40MiB\"", 1);
    let grown = grown
        .replace("name = \"rig\"", "name = \"rack\"")
        .replace("host = \"rig\"", "host = \"rack\"");
    assert_ne!(grown, exported, "the rig is not what this test edits");
    let edited = grown
        + &format!(
            "\n[[pool]]\nname = \"gamma\"\nclass = \"ordinary\"\nhome = \"b\"\nredundancy = \"single\"\ndisks = [{spare}]\n\
             \n[[volume]]\nname = \"late\"\npool = \"gamma\"\nsize = \"16MiB\"\n\
             \n[[host]]\nname = \"guest\"\niqns = [\"iqn.2026-01.test:guest\"]\n\
             \n[[mapping]]\nvolume = \"late\"\nhost = \"guest\"\n"
        );
    std::fs::write(file, &edited).unwrap();
    let difference = [
        "~ host rack  name rig -> rack",
        "size 32MiB -> 40MiB",
        "+ host guest",
        "+ pool gamma",
    ];
    said(
        &["config", "import", file, "--dry-run"],
        0,
        &[&difference[..], &["nothing was done"]].concat(),
    );
    // Nobody to ask: nothing is done.
    said(&["config", "import", file], 2, &["not confirmed"]);
    assert_eq!(index(), begin);
    said(
        &["config", "import", file, "--yes"],
        0,
        &[&difference[..], &["+ volume late", "+ mapping late@guest"]].concat(),
    );
    said(&["config", "import", file], 0, &["says already"]);
    let begin_text = begin.to_string();
    let last = index();
    said(
        &["config", "diff", &begin_text],
        0,
        &["+ volume late", "~ host rack  name rig -> rack"],
    );
    said(
        &["config", "diff", &last.to_string(), &begin_text],
        0,
        &["- volume late", "~ host rig  name rack -> rig"],
    );
    said(
        &["config", "history", "--after", &begin_text],
        0,
        &["+ host guest", "epoch"],
    );
    // Back again: data would go, and that is said and not done without being asked for.
    said(
        &["config", "rollback", &begin_text, "--yes"],
        2,
        &["volume late", "--discard-data"],
    );
    assert_eq!(index(), last, "what was refused changed something");
    let back = ["- host guest", "~ host rig  name rack -> rig", "keeps its 40MiB"];
    said(&["config", "rollback", &begin_text, "--dry-run"], 0, &back);
    std::fs::write(file, exported.replacen("size = \"32MiB\"", "size = \"40MiB\"", 1)).unwrap();
    said(
        &["config", "import", file, "--yes"],
        2,
        &["volume late", "--discard-data"],
    );
    assert_eq!(index(), last);
    said(
        &["config", "import", file, "--yes", "--discard-data"],
        0,
        &["- pool gamma", "~ host rig  name rack -> rig"],
    );
    let report: pollux_api::config::Verified = stage
        .array
        .call(B, pollux_api::config::VERIFY, &())
        .expect("it can be checked");
    assert!(report.problems.is_empty(), "{report:?}");
    // Every problem of a bad text at once, with its field.
    std::fs::write(
        file,
        exported
            .replace("pool = \"alpha\"", "pool = \"omega\"")
            .replace("32MiB", "1MiB"),
    )
    .unwrap();
    said(
        &["config", "import", file, "--yes"],
        1,
        &["omega", "a volume does not shrink"],
    );
    Ok(())
}
