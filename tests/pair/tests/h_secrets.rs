//! Secrets in the configuration, and the log in a backup, with whole arrays and the operator's command.

use pollux_api::chassis::PowerAction;
use pollux_api::config::item::{Item, Secret};
use pollux_api::config::{self, Kind, Resource, Unseal, Unsealed};
use pollux_api::error::Code;
use pollux_api::id::ControllerId::{A, B};
use pollux_pair::Result;
use pollux_pair::rig::MOVE;
use pollux_pair::stage::Stage;
use pollux_pair::wait::{that, wait_for};
use std::path::{Path, PathBuf};

/// Long and odd enough to stand nowhere by chance.
const PASSWORD: &str = "correct-horse-Xq7-battery";
const CHAP: &str = "chap-Zw9-of-the-host";

fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let kind = entry.file_type().expect("a kind of file");
        if kind.is_dir() {
            files(&entry.path(), found);
        } else if kind.is_file() {
            found.push(entry.path());
        }
    }
}

/// Every file of the array in which one of these texts stands.
fn holding(stage: &Stage, needles: &[&str]) -> Vec<PathBuf> {
    let mut all = Vec::new();
    files(stage.array.directory(), &mut all);
    assert!(all.len() > 20, "there are only {} files", all.len());
    all.retain(|path| {
        // What vanishes while it is looked for holds nothing.
        let bytes = std::fs::read(path).unwrap_or_default();
        needles.iter().any(|needle| {
            bytes
                .windows(needle.len())
                .any(|piece| piece == needle.as_bytes())
        })
    });
    all
}

fn secret_of(stage: &Stage, at: pollux_api::id::ControllerId, kind: Kind, name: &str) -> Secret {
    let get = config::Get {
        kind,
        which: name.to_owned(),
        stale_ok: true,
    };
    let row: Resource = stage.array.call(at, config::GET, &get).expect("it is there");
    let Resource::Item(mut item) = row else {
        panic!("{row:?}")
    };
    item.secrets()[0].1.clone()
}

#[test]
fn h_a_secret_is_in_no_file_no_answer_and_no_log_in_the_clear() -> Result<()> {
    let Some(stage) = Stage::set(|_| {}) else {
        return Ok(());
    };
    let told = std::cell::RefCell::new(String::new());
    let said = |arguments: &[&str], input: &str, code: i32| {
        let (exit, said) = stage.pollux(arguments, input);
        assert_eq!(exit, Some(code), "{arguments:?}: {said}");
        told.borrow_mut().push_str(&said);
        said
    };
    // On the command line everybody could read it.
    let refused = said(
        &["config", "set", "user", "ada", "level=admin", "password=short"],
        "",
        2,
    );
    assert!(refused.contains("password=@FILE"), "{refused}");
    // Too short, and refused before it is sealed.
    let refused = said(
        &["config", "set", "user", "ada", "level=admin", "password=@-"],
        "short\n",
        1,
    );
    assert!(refused.contains("8 to 255 bytes"), "{refused}");
    said(
        &[
            "config",
            "set",
            "user",
            "ada",
            "level=admin",
            "password=@-",
            "--dry-run",
        ],
        PASSWORD,
        0,
    );
    said(
        &["config", "set", "user", "ada", "level=admin", "password=@-"],
        PASSWORD,
        0,
    );
    let line = format!("{CHAP}\n");
    said(
        &[
            "--on",
            "b",
            "config",
            "set",
            "key",
            "rig-chap",
            "purpose=chap",
            "user=rig",
            "host=rig",
            "secret=@-",
        ],
        &line,
        0,
    );
    // Everything that shows the configuration.
    let folder = tempfile::tempdir().unwrap();
    let (text, backup) = (folder.path().join("array.toml"), folder.path().join("backup"));
    let (text, backup) = (text.to_str().unwrap(), backup.to_str().unwrap());
    for arguments in [
        &["config", "show"][..],
        &["--json", "config", "show"],
        &["config", "list", "user"],
        &["config", "get", "key", "rig-chap"],
        &["--json", "config", "history"],
        &["config", "history"],
        &["config", "diff", "0"],
        &["config", "export", text],
        &["config", "backup", backup],
        &["config", "verify"],
        &["status"],
    ] {
        said(arguments, "", 0);
    }
    for file in [text, backup] {
        told.borrow_mut()
            .push_str(&std::fs::read_to_string(file).unwrap());
    }
    let told = told.borrow().clone();
    assert!(told.contains(Secret::SEALED), "the sealed form is exported");
    // The sealed form is taken back as it is.
    assert_eq!(stage.pollux(&["config", "import", text], "").0, Some(0));
    for needle in [PASSWORD, CHAP] {
        assert!(!told.contains(needle), "{needle} was said");
    }
    // Both controllers have the same sealed form, and the keys that open it, in one file that nobody else can read.
    for (kind, name) in [(Kind::User, "ada"), (Kind::Key, "rig-chap")] {
        wait_for("both controllers show the secret", MOVE, || {
            let (a, b) = (secret_of(&stage, A, kind, name), secret_of(&stage, B, kind, name));
            that(a == b && a.is_sealed(), || "they differ".to_owned())
        })?;
    }
    let keys = |who: &str| std::fs::read(stage.array.directory().join(who).join("keys/seal.keys")).unwrap();
    assert_eq!(keys("a"), keys("b"));
    let held = holding(&stage, &[PASSWORD, CHAP]);
    assert!(held.is_empty(), "in the clear in {held:?}");
    // The search finds what is there: the sealed form stands in both databases.
    let sealed = holding(&stage, &[Secret::SEALED]);
    for who in ["a", "b"] {
        let var = stage.array.directory().join(who).join("var");
        assert!(sealed.iter().any(|path| path.starts_with(&var)), "{sealed:?}");
    }
    // Nobody but the service that uses it is given one.
    let unseal = Unseal {
        kind: Kind::Key,
        which: "rig-chap".to_owned(),
        field: "secret".to_owned(),
    };
    let refused = stage
        .array
        .call::<_, Unsealed>(A, config::UNSEAL, &unseal)
        .unwrap_err();
    assert!(refused.is(Code::NotPermitted), "{refused:?}");
    // The other controller has them when it is alone.
    let before = secret_of(&stage, B, Kind::Key, "rig-chap");
    stage.array.power(A, PowerAction::Off)?;
    assert_eq!(secret_of(&stage, B, Kind::Key, "rig-chap"), before);
    Ok(())
}

#[test]
fn h_every_kind_is_set_shown_exported_and_taken_back() -> Result<()> {
    let Some(stage) = Stage::set(|_| {}) else {
        return Ok(());
    };
    let said = |arguments: &[&str], code: i32, words: &[&str]| {
        let (exit, said) = stage.pollux(arguments, "a secret that is long enough\n");
        assert_eq!(exit, Some(code), "{arguments:?}: {said}");
        for word in words {
            assert!(said.contains(word), "{arguments:?}: `{word}` is not in: {said}");
        }
        said
    };
    let begin = stage
        .array
        .config(A)
        .expect("status")
        .acknowledged_length
        .to_string();
    let volume = {
        let list = config::List {
            kind: Kind::Volume,
            stale_ok: true,
        };
        let listing: config::Listing = stage.array.call(A, config::LIST, &list).expect("volumes");
        listing.rows[0].name().expect("a name").clone()
    };
    let volumes = format!("volumes=[\"{volume}\"]");
    let pool = stage.pool_of(A).name.clone();
    let on_pool = format!("pool={pool}");
    let of_volume = format!("volume={volume}");
    let settings: [&[&str]; 15] = [
        &[
            "controller",
            "a",
            "controller=a",
            "hostname=array-a",
            "ntp=[\"time.example.com\"]",
        ],
        &["network", "front", "subnet=10.80.0.0/24", "vlan=7"],
        &[
            "port",
            "a1",
            "controller=a",
            "interface=ens1",
            "network=front",
            "address=10.80.0.2/24",
            "serves=[\"nfs\"]",
        ],
        &["host-group", "cluster", "hosts=[\"rig\"]"],
        &["file-system", "home", &on_pool, "quota_bytes=1073741824"],
        &["schedule", "hourly", &volumes, "every_minutes=60", "keep=24"],
        &[
            "snapshot",
            "first",
            &of_volume,
            "taken_ms=1800000000000",
            "schedule=hourly",
        ],
        &[
            "access-role",
            "helpdesk",
            "level=operator",
            "services=[\"config\"]",
        ],
        &["user", "ada", "level=admin", "role=helpdesk", "password=@-"],
        &[
            "share",
            "projects",
            "file_system=home",
            "path=/projects",
            "smb.users=[\"ada\"]",
            "smb.access=read_write",
        ],
        &[
            "token",
            "backup",
            "user=ada",
            "digest=1111111111111111111111111111111111111111111111111111111111111111",
        ],
        &["key", "chap", "purpose=chap", "user=rig", "host=rig", "secret=@-"],
        &[
            "policy",
            "giveback",
            "rule.sort=giveback",
            "rule.automatic=true",
            "rule.after_seconds=60",
        ],
        &[
            "settings",
            "target",
            "service=block-target",
            "values.queue=\"32\"",
        ],
        &["disk", "shelf-0", "slot=99", "role=reserved"],
    ];
    for (number, fields) in settings.iter().enumerate() {
        let mut arguments = vec!["config", "set"];
        arguments.extend(*fields);
        if fields[0] == "disk" {
            // There is no such slot.
            said(&arguments, 1, &["the shelf has no disk-99"]);
        } else {
            // Either controller takes it.
            let on = if number % 2 == 0 { "a" } else { "b" };
            said(
                &[&["--on", on][..], &arguments].concat(),
                0,
                &["done: index", fields[1]],
            );
            said(&["config", "get", fields[0], fields[1]], 0, &["name = "]);
        }
    }
    said(
        &["config", "set", "share", "projects", "colour=red"],
        2,
        &["colour"],
    );
    said(
        &["config", "delete", "user", "ada"],
        1,
        &["is in use by", "share `projects`"],
    );
    said(
        &["config", "delete", "file-system", "home"],
        2,
        &["--discard-data"],
    );
    said(&["config", "list", "nonsense"], 2, &["host_group"]);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("array.toml");
    let file = file.to_str().unwrap();
    said(&["config", "export", file], 0, &[]);
    said(&["config", "import", file], 0, &["says already"]);
    let last = stage
        .array
        .config(A)
        .expect("status")
        .acknowledged_length
        .to_string();
    let lost = [
        "- file_system home",
        "- share projects",
        "- user ada",
        "data of file_system home is lost",
    ];
    said(&["config", "rollback", &begin, "--dry-run"], 0, &lost);
    said(
        &["config", "rollback", &begin, "--yes", "--discard-data"],
        0,
        &["- network front"],
    );
    // And back: what was sealed opens again, nothing is asked twice.
    said(
        &["config", "import", file, "--yes"],
        0,
        &["+ share projects", "+ key chap"],
    );
    said(&["config", "diff", &last], 0, &["share projects"]);
    said(&["config", "import", file], 0, &["says already"]);
    said(&["config", "verify"], 0, &["controller a: ", "controller b: "]);
    let Item::Key(_) = (match stage.array.call::<_, Resource>(
        B,
        config::GET,
        &config::Get {
            kind: Kind::Key,
            which: "chap".into(),
            stale_ok: false,
        },
    ) {
        Ok(Resource::Item(item)) => item,
        other => panic!("{other:?}"),
    }) else {
        panic!("no key");
    };
    Ok(())
}
