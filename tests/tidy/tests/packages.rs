//! The packages: what is in them, what Debian's own judges say, and what happens on a system that they come to and leave.

use pollux_tidy::debian::{Debs, PACKAGES, What, read_install};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};

/// Bound of everything that another program does here but the making of a Debian.
const WITHIN: Duration = Duration::from_secs(300);
/// Bound of the making of a Debian: some 90 packages over the network, unpacked on a machine that has other work.
const DEBIAN_WITHIN: Duration = Duration::from_secs(900);

/// How exposed each unit may be, in tenths, as `systemd-analyze security` counts (0 to 100; below 20 it says OK, below 10
/// SAFE). What is worse than its figure has lost a wall.
const EXPOSURE: [(&str, u32); 13] = [
    ("pollux-gate", 15),
    ("pollux-disarm", 5),
    ("pollux-leave", 5),
    ("pollux-machine", 12),
    ("rpc-routerd", 14),
    ("enclosured", 28),
    ("lvmd", 20),
    ("config-keeperd", 5),
    ("pool-managerd", 7),
    ("block-targetd", 14),
    ("aluad", 5),
    ("addressd", 20),
    ("heartbeatd", 21),
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .nth(2)
        .unwrap()
        .to_owned()
}

/// Folder of the programs of this build: the one above that of the tests.
fn programs() -> PathBuf {
    std::env::current_exe()
        .unwrap()
        .ancestors()
        .nth(2)
        .unwrap()
        .to_owned()
}

fn has(program: &str) -> bool {
    Command::new(program)
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok()
}

/// What is missing for packages to be made here.
fn missing() -> Option<String> {
    for program in ["dpkg-deb", "dpkg-shlibdeps", "strip"] {
        if !has(program) {
            return Some(format!(
                "{program} is not installed: apt install dpkg-dev binutils"
            ));
        }
    }
    let install = fs::read_to_string(root().join("packaging/pollux/install")).unwrap();
    for item in read_install(&install).unwrap() {
        if let What::Program(name) = item.what
            && !programs().join(&name).exists()
        {
            return Some(format!("{name} is not built: cargo build --workspace --bins"));
        }
    }
    None
}

/// Runs a program with a bound; ends it, and the test, when it takes longer.
fn run(command: &mut Command, within: Duration) -> Output {
    let folder = tempfile::tempdir().unwrap();
    let (out, err) = (folder.path().join("out"), folder.path().join("err"));
    let mut child: Child = command
        .stdin(Stdio::null())
        .stdout(fs::File::create(&out).unwrap())
        .stderr(fs::File::create(&err).unwrap())
        .spawn()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let end = Instant::now() + within;
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if Instant::now() > end {
            child.kill().unwrap();
            child.wait().unwrap();
            let said = fs::read_to_string(&err).unwrap();
            panic!("{command:?} did not end within {within:?}: {said}");
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    Output {
        status,
        stdout: fs::read(&out).unwrap(),
        stderr: fs::read(&err).unwrap(),
    }
}

fn text(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

fn good(command: &mut Command) -> String {
    let output = run(command, WITHIN);
    assert!(
        output.status.success(),
        "{command:?}: {}: {}",
        output.status,
        text(&output)
    );
    text(&output)
}

/// Packages of both versions, in a folder that goes with the last test that needs it.
struct Made {
    _folder: tempfile::TempDir,
    files: BTreeMap<(&'static str, &'static str), PathBuf>,
}

/// The packages, made once for all tests that run at the same time.
fn packages() -> Arc<Made> {
    static MADE: Mutex<Weak<Made>> = Mutex::new(Weak::new());
    let mut made = MADE.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(made) = made.upgrade() {
        return made;
    }
    let folder = tempfile::tempdir_in(programs()).unwrap();
    let mut files = BTreeMap::new();
    for (name, version) in [("old", "0.0.9"), ("new", "0.1.0")] {
        let debs = Debs {
            root: root(),
            programs: programs(),
            out: folder.path().join(name),
            version: Some(version.into()),
            quick: true,
        };
        let built = debs.build().unwrap();
        files.extend(
            PACKAGES
                .into_iter()
                .zip(built)
                .map(|(package, file)| ((package, name), file)),
        );
    }
    let fresh = Arc::new(Made {
        _folder: folder,
        files,
    });
    *made = Arc::downgrade(&fresh);
    fresh
}

/// A package laid out in a folder.
fn unpacked(package: &'static str) -> tempfile::TempDir {
    let folder = tempfile::tempdir_in(programs()).unwrap();
    good(
        Command::new("dpkg-deb")
            .arg("--extract")
            .arg(&packages().files[&(package, "new")])
            .arg(folder.path()),
    );
    folder
}

#[test]
fn packages_hold_what_they_declare_and_the_same_twice() {
    if let Some(why) = missing() {
        return eprintln!("SKIPPED: {why}");
    }
    let made = packages();
    let tree = unpacked("pollux");
    let install = fs::read_to_string(root().join("packaging/pollux/install")).unwrap();
    for item in read_install(&install).unwrap() {
        let file = tree.path().join(&item.place);
        let mode = fs::metadata(&file)
            .unwrap_or_else(|error| panic!("{}: {error}", item.place))
            .permissions()
            .mode();
        if !matches!(item.what, What::Made(_)) {
            assert_eq!(mode & 0o777, item.mode, "{}", item.place);
        }
    }
    let page = tree.path().join("usr/share/man/man1/pollux-switchover.1.gz");
    assert!(page.exists(), "no manual page of pollux switchover");
    let fields = good(
        Command::new("dpkg-deb")
            .arg("--field")
            .arg(&made.files[&("pollux", "new")]),
    );
    assert!(fields.contains("Depends: libc6 (>= "), "{fields}");
    assert!(fields.contains("Version: 0.1.0\n"), "{fields}");
    // Every daemon of a unit is in the package, at the place where the unit looks for it.
    for entry in fs::read_dir(tree.path().join("usr/lib/systemd/system")).unwrap() {
        let unit = fs::read_to_string(entry.unwrap().path()).unwrap();
        for line in unit.lines().filter_map(|line| line.strip_prefix("ExecStart=/")) {
            let program = line.split(' ').next().unwrap();
            assert!(tree.path().join(program).exists(), "{program}");
        }
    }
    let again = tempfile::tempdir_in(programs()).unwrap();
    let debs = Debs {
        root: root(),
        programs: programs(),
        out: again.path().to_owned(),
        version: Some("0.1.0".into()),
        quick: true,
    };
    for (package, file) in PACKAGES.into_iter().zip(debs.build().unwrap()) {
        let same = fs::read(&file).unwrap() == fs::read(&made.files[&(package, "new")]).unwrap();
        assert!(same, "{package}: two packages of the same programs differ");
    }
}

#[test]
fn the_version_is_that_of_the_workspace() {
    let manifest: toml::Table = fs::read_to_string(root().join("Cargo.toml"))
        .unwrap()
        .parse()
        .unwrap();
    let version = manifest["workspace"]["package"]["version"].as_str().unwrap();
    let changelog = fs::read_to_string(root().join("packaging/changelog")).unwrap();
    assert!(
        changelog.starts_with(&format!("pollux ({version}) ")),
        "packaging/changelog does not begin with version {version}"
    );
}

#[test]
fn debians_judge_finds_no_error() {
    if let Some(why) = missing() {
        return eprintln!("SKIPPED: {why}");
    }
    if !has("lintian") {
        return eprintln!("SKIPPED: lintian is not installed: apt install lintian");
    }
    let made = packages();
    for package in PACKAGES {
        let mut command = Command::new("lintian");
        command.args([
            "--fail-on",
            "error,warning",
            "--allow-root",
            "--tag-display-limit=0",
        ]);
        let output = run(command.arg(&made.files[&(package, "new")]), WITHIN);
        assert!(output.status.success(), "{package}: {}", text(&output));
    }
}

/// The units of the package in a root of their own, with what they refer to.
fn units() -> tempfile::TempDir {
    let tree = unpacked("pollux");
    let system = tree.path().join("usr/lib/systemd/system");
    for target in [
        "sysinit",
        "basic",
        "shutdown",
        "local-fs",
        "network-pre",
        "network",
        "network-online",
        "multi-user",
    ] {
        let name = format!("{target}.target");
        fs::write(system.join(name), format!("[Unit]\nDescription={target}\n")).unwrap();
    }
    tree
}

#[test]
fn units_are_what_systemd_understands() {
    if let Some(why) = missing() {
        return eprintln!("SKIPPED: {why}");
    }
    if !has("systemd-analyze") {
        return eprintln!("SKIPPED: systemd-analyze is not installed: apt install systemd");
    }
    let tree = units();
    let verify = |units: &[String]| {
        let mut command = Command::new("systemd-analyze");
        command
            .args(["verify", "--man=no"])
            .arg(format!("--root={}", tree.path().display()))
            .args(units);
        run(&mut command, WITHIN)
    };
    let names: Vec<String> = EXPOSURE
        .iter()
        .map(|(name, _)| format!("{name}.service"))
        .collect();
    let mut all = names;
    all.push("pollux.target".into());
    let output = verify(&all);
    assert!(
        output.status.success() && text(&output).is_empty(),
        "{}",
        text(&output)
    );
    // It would have said so.
    let unit = tree
        .path()
        .join("usr/lib/systemd/system")
        .join("heartbeatd.service");
    let wrong = fs::read_to_string(&unit)
        .unwrap()
        .replace("Restart=always", "Restart=sometimes");
    fs::write(&unit, wrong).unwrap();
    assert!(text(&verify(&["heartbeatd.service".into()])).contains("sometimes"));
}

#[test]
fn units_are_no_more_exposed_than_the_readme_says() {
    if let Some(why) = missing() {
        return eprintln!("SKIPPED: {why}");
    }
    if !has("systemd-analyze") {
        return eprintln!("SKIPPED: systemd-analyze is not installed: apt install systemd");
    }
    let tree = units();
    let readme = fs::read_to_string(root().join("systemd/README.md")).unwrap();
    for (name, worst) in EXPOSURE {
        let mut command = Command::new("systemd-analyze");
        command
            .args(["security", "--offline=true", "--no-pager"])
            .arg(format!("--root={}", tree.path().display()))
            .arg(format!("{name}.service"));
        let said = good(&mut command);
        let figure = said.lines().find_map(|line| {
            line.split_once("exposure level for ")?
                .1
                .split_whitespace()
                .nth(1)
        });
        let figure = figure.unwrap_or_else(|| panic!("{name}: no figure in {said}"));
        let tenths: u32 = figure.replace('.', "").parse().unwrap();
        assert!(
            tenths <= worst,
            "{name}: {figure}; it may be {}.{}",
            worst / 10,
            worst % 10
        );
        let row = readme
            .lines()
            .find(|line| line.contains(&format!("[{name}]({name}.service)")));
        let row = row.unwrap_or_else(|| panic!("systemd/README.md has no row of {name}"));
        let told = format!("| {}.{} |", worst / 10, worst % 10);
        assert!(
            row.ends_with(&told),
            "systemd/README.md says {row}; right would be {told}"
        );
    }
    let units = fs::read_dir(root().join("systemd")).unwrap();
    let daemons = units.filter(|unit| {
        unit.as_ref()
            .unwrap()
            .path()
            .extension()
            .is_some_and(|kind| kind == "service")
    });
    assert_eq!(daemons.count(), EXPOSURE.len(), "a unit has no figure");
}

/// A clean Debian; or why there is none.
fn debian() -> Result<PathBuf, String> {
    static MADE: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    MADE.get_or_init(make_debian).clone()
}

/// Made once and kept beside the build.
fn make_debian() -> Result<PathBuf, String> {
    let me = good(Command::new("id").arg("-u"));
    if me.trim() != "0" {
        return Err("a chroot needs root".into());
    }
    if !has("mmdebstrap") {
        return Err("mmdebstrap is not installed: apt install mmdebstrap".into());
    }
    let kept = programs().join("debian-13-dbus.tar");
    if kept.exists() {
        return Ok(kept);
    }
    let mirror = mirror().ok_or("no Debian archive among this machine's sources of packages")?;
    // Two tests that are processes of their own may make one each; the last one is kept.
    let fresh = kept.with_extension(format!("{}.tar", std::process::id()));
    let output = run(
        Command::new("mmdebstrap")
            .args([
                "--variant=minbase",
                "--include=systemd,dbus",
                "--dpkgopt=force-unsafe-io",
                "trixie",
            ])
            .arg(&fresh)
            .arg(format!("deb {mirror} trixie main")),
        DEBIAN_WITHIN,
    );
    if !output.status.success() {
        return Err(format!(
            "no Debian 13 can be made here: {}",
            text(&output).lines().last().unwrap_or_default()
        ));
    }
    fs::rename(&fresh, &kept).unwrap();
    Ok(kept)
}

/// Where this machine has Debian from.
fn mirror() -> Option<String> {
    let mut files = vec![PathBuf::from("/etc/apt/sources.list")];
    files.extend(
        fs::read_dir("/etc/apt/sources.list.d")
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path()),
    );
    let texts = files
        .iter()
        .filter_map(|file| fs::read_to_string(file).ok())
        .collect::<Vec<_>>();
    let words = texts
        .iter()
        .flat_map(|text| text.lines().filter(|line| !line.trim_start().starts_with('#')));
    let mut words = words
        .flat_map(str::split_whitespace)
        .map(|word| word.trim_end_matches('/'));
    words
        .find(|word| word.starts_with("http") && word.ends_with("/debian"))
        .map(str::to_owned)
}

/// A system of its own in a folder, without a running systemd but with one that writes down what it is asked.
struct Chroot {
    folder: tempfile::TempDir,
    packages: Arc<Made>,
}

impl Chroot {
    fn new(debian: &Path) -> Self {
        let folder = tempfile::tempdir_in(programs()).unwrap();
        good(
            Command::new("tar")
                .arg("--extract")
                .arg("--file")
                .arg(debian)
                .arg("--directory")
                .arg(folder.path()),
        );
        // What runs stands in /running, what is refused in /refused; what is asked is written down in /asked. Links are
        // made by the real one.
        let script = r#"#!/bin/sh
for last; do :; done
case " $* " in
*" is-active "*) exec grep -qx "$last" /running ;;
*" is-enabled "* | *" enable "* | *" preset "* | *" unmask "*) SYSTEMD_OFFLINE=1 exec systemctl.real "$@" ;;
esac
deed=$(echo "$*" | sed 's/--[a-z]* *//g')
echo "$deed" >> /asked
[ ! -e /refused ] || [ "$deed" != "$(cat /refused)" ]
"#;
        let systemctl = folder.path().join("usr/bin/systemctl");
        fs::rename(&systemctl, systemctl.with_extension("real")).unwrap();
        fs::write(&systemctl, script).unwrap();
        fs::set_permissions(&systemctl, fs::Permissions::from_mode(0o755)).unwrap();
        let chroot = Self {
            folder,
            packages: packages(),
        };
        fs::create_dir_all(chroot.path("run/systemd/system")).unwrap();
        chroot.write("running", "");
        // Both would change this machine's kernel, of which there is one: its settings, and a file of its /proc.
        chroot.write("usr/lib/systemd/systemd-sysctl", "#!/bin/sh\n");
        let folders = fs::read_to_string(root().join("packaging/pollux/tmpfiles.conf")).unwrap();
        let folders: Vec<&str> = folders.lines().filter(|line| line.starts_with("d ")).collect();
        chroot.write("etc/tmpfiles.d/pollux.conf", &format!("{}\n", folders.join("\n")));
        chroot
    }

    fn path(&self, inside: &str) -> PathBuf {
        self.folder.path().join(inside)
    }

    fn write(&self, inside: &str, text: &str) {
        let path = self.path(inside);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn output(&self, words: &[&str]) -> Output {
        // Namespaces of its own: what is mounted or left running in it ends with the command.
        let proc = format!("--mount-proc={}", self.path("proc").display());
        let mut command = Command::new("unshare");
        command
            .args(["--mount", "--pid", "--fork", "--kill-child", &proc, "chroot"])
            .arg(self.folder.path())
            .args(words)
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("DEBIAN_FRONTEND", "noninteractive")
            .env("LC_ALL", "C.UTF-8");
        run(&mut command, WITHIN)
    }

    fn good(&self, words: &[&str]) -> String {
        let output = self.output(words);
        assert!(output.status.success(), "{words:?}: {}", text(&output));
        text(&output)
    }

    fn install(&self, which: (&'static str, &'static str)) -> Output {
        let inside = format!("{}.deb", which.1);
        fs::copy(&self.packages.files[&which], self.path(&inside)).unwrap();
        self.output(&["dpkg", "--force-unsafe-io", "--install", &format!("/{inside}")])
    }

    /// What systemd was asked of our units since the last time, in order.
    fn asked(&self) -> Vec<String> {
        let asked = fs::read_to_string(self.path("asked")).unwrap_or_default();
        self.write("asked", "");
        let ours = |unit: &str| {
            unit == "pollux.target" || DAEMONS.iter().any(|daemon| unit == format!("{daemon}.service"))
        };
        let is_deed = |line: &&str| line.split_once(' ').is_some_and(|(_, unit)| ours(unit));
        asked.lines().filter(is_deed).map(str::to_owned).collect()
    }
}

const DAEMONS: [&str; 9] = [
    "rpc-routerd",
    "enclosured",
    "lvmd",
    "config-keeperd",
    "pool-managerd",
    "block-targetd",
    "aluad",
    "addressd",
    "heartbeatd",
];

#[test]
fn a_controller_is_installed_upgraded_removed_and_purged_on_a_clean_debian() {
    if let Some(why) = missing() {
        return eprintln!("SKIPPED: {why}");
    }
    let debian = match debian() {
        Ok(debian) => debian,
        Err(why) => return eprintln!("SKIPPED: {why}"),
    };
    let chroot = Chroot::new(&debian);

    // It comes: a user, folders that are its own, one target that is enabled, programs that run.
    let output = chroot.install(("pollux", "old"));
    assert!(output.status.success(), "{}", text(&output));
    assert!(text(&output).contains("next: pollux setup"), "{}", text(&output));
    assert_eq!(chroot.asked(), ["start pollux.target"]);
    let owner = chroot.good(&[
        "stat",
        "--format=%U %G %a",
        "/var/lib/pollux",
        "/var/lib/pollux/keys",
        "/run/pollux",
    ]);
    assert_eq!(owner, "pollux pollux 700\npollux pollux 700\npollux pollux 750\n");
    assert!(
        chroot
            .path("etc/systemd/system/multi-user.target.wants/pollux.target")
            .is_symlink()
    );
    assert!(chroot.good(&["pollux", "--version"]).contains("pollux"));
    let refused = chroot.output(&[
        "/usr/libexec/pollux/heartbeatd",
        "--config",
        "/etc/pollux/controller.toml",
    ]);
    assert_eq!(refused.status.code(), Some(78), "{}", text(&refused));
    assert!(
        chroot.good(&["dpkg", "--verify", "pollux"]).is_empty(),
        "files differ from what the package says"
    );

    // It is upgraded: one daemon after the other, heartbeat last; what does not run is not started.
    chroot.write("etc/pollux/controller.toml", "its own\n");
    chroot.write("var/lib/pollux/keys/pairing.key", "secret\n");
    let running = |left_out: &str| {
        let running = DAEMONS
            .iter()
            .filter(|daemon| **daemon != left_out)
            .map(|daemon| format!("{daemon}.service\n"));
        running.chain(["pollux.target\n".to_owned()]).collect::<String>()
    };
    chroot.write("running", &running("aluad"));
    let output = chroot.install(("pollux", "new"));
    assert!(output.status.success(), "{}", text(&output));
    let mut expected: Vec<String> = DAEMONS
        .iter()
        .filter(|daemon| **daemon != "aluad")
        .map(|daemon| format!("try-restart {daemon}.service"))
        .collect();
    expected.push("start pollux.target".into());
    assert_eq!(chroot.asked(), expected);

    // A daemon that does not come back ends it, before heartbeat is touched; the repair goes on from there.
    chroot.write("running", &running(""));
    chroot.write("refused", "try-restart block-targetd.service");
    let output = chroot.install(("pollux", "new"));
    assert!(!output.status.success(), "{}", text(&output));
    assert!(
        text(&output).contains("block-targetd did not come back"),
        "{}",
        text(&output)
    );
    assert_eq!(
        chroot.asked().last().map(String::as_str),
        Some("try-restart block-targetd.service")
    );
    fs::remove_file(chroot.path("refused")).unwrap();
    chroot.good(&["dpkg", "--configure", "--pending"]);
    assert!(
        chroot
            .asked()
            .contains(&"try-restart heartbeatd.service".to_owned())
    );

    // It is removed: stopped, and everything that was written stays.
    chroot.good(&["dpkg", "--remove", "pollux"]);
    assert_eq!(chroot.asked(), ["stop pollux.target"]);
    assert!(!chroot.path("usr/bin/pollux").exists());
    for kept in ["etc/pollux/controller.toml", "var/lib/pollux/keys/pairing.key"] {
        assert!(chroot.path(kept).exists(), "{kept} is gone after a removal");
    }

    // It is purged, and says what it deletes.
    let said = chroot.good(&["dpkg", "--purge", "pollux"]);
    for gone in ["/var/lib/pollux", "/etc/pollux"] {
        assert!(said.contains(&format!("deleting {gone}\n")), "{said}");
        assert!(!chroot.path(&gone[1..]).exists(), "{gone} is left after a purge");
    }
    assert!(
        !chroot
            .path("etc/systemd/system/multi-user.target.wants/pollux.target")
            .is_symlink()
    );
    // And can come again.
    let output = chroot.install(("pollux", "new"));
    assert!(output.status.success(), "{}", text(&output));
}

#[test]
fn an_administrator_who_has_disabled_it_keeps_it_disabled() {
    if let Some(why) = missing() {
        return eprintln!("SKIPPED: {why}");
    }
    let debian = match debian() {
        Ok(debian) => debian,
        Err(why) => return eprintln!("SKIPPED: {why}"),
    };
    let chroot = Chroot::new(&debian);
    let link = "etc/systemd/system/multi-user.target.wants/pollux.target";
    assert!(chroot.install(("pollux", "old")).status.success());
    fs::remove_file(chroot.path(link)).unwrap();
    assert!(chroot.install(("pollux", "new")).status.success());
    assert!(
        !chroot.path(link).is_symlink(),
        "the upgrade has enabled it again"
    );
}
