//! `cargo debs`: the Debian packages, from programs that are built already.
//!
//! What a package holds stands in `packaging/NAME/`: `control` (with `@places@` that are filled in here), `install` (one
//! line for each file: mode, what, where), and the maintainer's scripts. This module lays the files out in a folder and
//! has `dpkg-deb` pack it; what the programs need of the system is found by `dpkg-shlibdeps`, never written by hand.
//!
//! The same programs and the same changelog give the same package, byte for byte: times are those of the changelog.
//!
//! It must never pack a file that `install` does not name.

use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The packages, by their folders in `packaging/`.
pub const PACKAGES: [&str; 2] = ["pollux", "pollux-host"];

/// Cargo's packages whose programs are in them.
pub const PROGRAMS: [&str; 10] = [
    "pollux-rpc-router",
    "pollux-enclosure",
    "pollux-lvm",
    "pollux-heartbeat",
    "pollux-config-keeper",
    "pollux-pool-manager",
    "pollux-alua",
    "pollux-block-target",
    "pollux-address",
    "pollux-shell",
];

/// Scripts that dpkg runs.
const SCRIPTS: [&str; 4] = ["preinst", "postinst", "prerm", "postrm"];

/// From what, and whereto.
#[derive(Clone, Debug)]
pub struct Debs {
    /// The repository.
    pub root: PathBuf,
    /// Folder of the built programs, `target/release`.
    pub programs: PathBuf,
    /// Folder that gets the packages, `target/debian`.
    pub out: PathBuf,
    /// The version; without it, that of the changelog.
    pub version: Option<String>,
    /// Packed with little effort, for packages that nobody keeps: a tenth of the time, half as large again.
    pub quick: bool,
}

/// Why there is no package.
#[derive(Debug)]
pub struct NotPacked(String);

impl fmt::Display for NotPacked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for NotPacked {}

fn at(path: &Path) -> impl FnOnce(io::Error) -> NotPacked + use<'_> {
    move |error| NotPacked(format!("{}: {error}", path.display()))
}

/// One line of `install`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// Permissions.
    pub mode: u32,
    /// What.
    pub what: What,
    /// Where, from the root of the system.
    pub place: String,
}

/// Where a file comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// A built program.
    Program(String),
    /// Made by the programs: manual pages, completions.
    Made(String),
    /// A file of the repository.
    File(String),
    /// An empty folder.
    Folder,
}

/// Reads an `install` file.
///
/// # Errors
/// The line, and what it should be.
pub fn read_install(text: &str) -> Result<Vec<Item>, String> {
    let mut items = vec![];
    for (number, line) in text.lines().enumerate() {
        let words: Vec<&str> = line.split_whitespace().collect();
        if words.is_empty() || words[0].starts_with('#') {
            continue;
        }
        let wrong = || {
            format!(
                "line {}: {line:?} is not MODE WHAT WHERE, as in 0644 README.md usr/share/doc/x/README.md",
                number + 1
            )
        };
        let [mode, what, place] = words[..] else {
            return Err(wrong());
        };
        let mode = u32::from_str_radix(mode, 8).map_err(|_| wrong())?;
        if mode > 0o777 || place.starts_with('/') || place.split('/').any(|part| part == "..") {
            return Err(wrong());
        }
        let what = match what.split_once(':') {
            Some(("bin", name)) => What::Program(name.into()),
            Some(("made", name)) => What::Made(name.into()),
            Some(_) => return Err(wrong()),
            None if what == "dir" => What::Folder,
            None => What::File(what.into()),
        };
        items.push(Item {
            mode,
            what,
            place: place.into(),
        });
    }
    Ok(items)
}

impl Debs {
    /// Makes every package. Answers their files.
    ///
    /// # Errors
    /// What is missing, or what a tool said.
    pub fn build(&self) -> Result<Vec<PathBuf>, NotPacked> {
        // dpkg-shlibdeps is called in a folder of its own: every path has to hold from there, too.
        let out = std::path::absolute(&self.out).map_err(at(&self.out))?;
        let scratch = out.join("tree");
        if scratch.exists() {
            fs::remove_dir_all(&scratch).map_err(at(&scratch))?;
        }
        fs::create_dir_all(&scratch).map_err(at(&scratch))?;
        let epoch = self.changelog("Timestamp")?;
        let version = match &self.version {
            Some(version) => version.clone(),
            None => self.changelog("Version")?,
        };
        let mut packages = vec![];
        for name in PACKAGES {
            packages.push(self.pack(name, &version, &epoch, &scratch)?);
        }
        fs::remove_dir_all(&scratch).map_err(at(&scratch))?;
        Ok(packages)
    }

    /// A field of the newest entry of the changelog.
    fn changelog(&self, field: &str) -> Result<String, NotPacked> {
        let file = self.root.join("packaging/changelog");
        let mut command = Command::new("dpkg-parsechangelog");
        command.arg("--file").arg(file).args(["--show-field", field]);
        Ok(said(&mut command)?.trim().to_owned())
    }

    fn pack(&self, name: &str, version: &str, epoch: &str, scratch: &Path) -> Result<PathBuf, NotPacked> {
        let source = self.root.join("packaging").join(name);
        let read = |file: &str| {
            let path = source.join(file);
            fs::read_to_string(&path).map_err(at(&path))
        };
        let items = read_install(&read("install")?)
            .map_err(|error| NotPacked(format!("packaging/{name}/install: {error}")))?;
        let tree = scratch.join(name);
        self.lay_out(&items, &tree, scratch)?;
        let document = tree.join("usr/share/doc").join(name);
        fs::create_dir_all(&document).map_err(at(&document))?;
        for (from, to) in [("changelog", "changelog"), ("copyright", "copyright")] {
            copy(&self.root.join("packaging").join(from), &document.join(to), 0o644)?;
        }
        compress(&document.join("changelog"))?;

        let programs: Vec<&Item> = items
            .iter()
            .filter(|item| matches!(item.what, What::Program(_)))
            .collect();
        let template = read("control")?;
        let architecture = if template.contains("@arch@") {
            said(Command::new("dpkg").arg("--print-architecture"))?
                .trim()
                .to_owned()
        } else {
            "all".to_owned()
        };
        let libraries = if programs.is_empty() {
            String::new()
        } else {
            libraries(&programs, &tree, scratch)?
        };
        let control = template
            .replace("@arch@", &architecture)
            .replace("@version@", version)
            .replace("@size@", &kibibytes(&tree).map_err(at(&tree))?.to_string())
            .replace("@shlibs@", &libraries);
        if let Some(line) = control.lines().find(|line| line.matches('@').count() > 1) {
            return Err(NotPacked(format!(
                "packaging/{name}/control: {line:?} has a place that nothing fills"
            )));
        }
        self.debian(&source, &tree, &items, &control)?;
        let file = self.out.join(format!("{name}_{version}_{architecture}.deb"));
        let mut command = Command::new("dpkg-deb");
        command
            .args(["--root-owner-group"])
            .args(if self.quick { &["-Zgzip", "-z1"][..] } else { &[] })
            .arg("--build")
            .arg(&tree)
            .arg(&file)
            .env("SOURCE_DATE_EPOCH", epoch);
        said(&mut command)?;
        Ok(file)
    }

    /// Puts every file where it goes.
    fn lay_out(&self, items: &[Item], tree: &Path, scratch: &Path) -> Result<(), NotPacked> {
        let made = scratch.join("made");
        if items.iter().any(|item| matches!(item.what, What::Made(_))) && !made.exists() {
            self.make(&made)?;
        }
        for Item { mode, what, place } in items {
            let to = tree.join(place);
            if let What::Folder = what {
                fs::create_dir_all(&to).map_err(at(&to))?;
                fs::set_permissions(&to, fs::Permissions::from_mode(*mode)).map_err(at(&to))?;
                continue;
            }
            match what {
                What::Program(name) => {
                    let from = self.programs.join(name);
                    copy(&from, &to, *mode)?;
                    said(
                        Command::new("strip")
                            .args(["--strip-unneeded", "--remove-section=.comment"])
                            .arg(&to),
                    )?;
                }
                What::Made(name) if made.join(name).is_dir() => {
                    let from = made.join(name);
                    let mut pages: Vec<PathBuf> = fs::read_dir(&from)
                        .and_then(|entries| entries.map(|entry| entry.map(|e| e.path())).collect())
                        .map_err(at(&from))?;
                    pages.sort();
                    for page in pages {
                        let page_to = to.join(page.file_name().unwrap_or_default());
                        copy(&page, &page_to, *mode)?;
                        compress(&page_to)?;
                    }
                }
                What::Made(name) => copy(&made.join(name), &to, *mode)?,
                What::File(name) => copy(&self.root.join(name), &to, *mode)?,
                What::Folder => {}
            }
        }
        Ok(())
    }

    /// What `pollux` says of its own words: manual pages, completions.
    fn make(&self, made: &Path) -> Result<(), NotPacked> {
        fs::create_dir_all(made).map_err(at(made))?;
        let program = self.programs.join("pollux");
        said(Command::new(&program).arg("manual").arg(made.join("man")))?;
        for shell in ["bash", "zsh", "fish"] {
            let script = said(Command::new(&program).args(["completion", shell]))?;
            let file = made.join(format!("pollux.{shell}"));
            fs::write(&file, script).map_err(at(&file))?;
        }
        Ok(())
    }

    /// The folder `DEBIAN`: what dpkg itself reads.
    fn debian(&self, source: &Path, tree: &Path, items: &[Item], control: &str) -> Result<(), NotPacked> {
        let sums = md5sums(tree)?;
        let debian = tree.join("DEBIAN");
        fs::create_dir_all(&debian).map_err(at(&debian))?;
        fs::set_permissions(&debian, fs::Permissions::from_mode(0o755)).map_err(at(&debian))?;
        let write = |name: &str, text: &str| {
            let path = debian.join(name);
            fs::write(&path, text).map_err(at(&path))?;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).map_err(at(&path))
        };
        write("control", control)?;
        write("md5sums", &sums)?;
        // Every file in /etc is the administrator's as soon as it is there (policy, 10.7.3).
        let configuration: String = items
            .iter()
            .filter(|item| item.place.starts_with("etc/") && item.what != What::Folder)
            .map(|item| format!("/{}\n", item.place))
            .collect();
        if !configuration.is_empty() {
            write("conffiles", &configuration)?;
        }
        for script in SCRIPTS {
            let from = source.join(script);
            if from.exists() {
                copy(&from, &debian.join(script), 0o755)?;
            }
        }
        Ok(())
    }
}

/// What the system must have for the programs to run, as `dpkg-shlibdeps` says.
fn libraries(programs: &[&Item], tree: &Path, scratch: &Path) -> Result<String, NotPacked> {
    let folder = scratch.join("shlibs");
    let control = folder.join("debian/control");
    fs::create_dir_all(folder.join("debian")).map_err(at(&folder))?;
    // It wants to be called in a source package.
    fs::write(&control, "Source: pollux\n\nPackage: pollux\nArchitecture: any\n").map_err(at(&control))?;
    let mut command = Command::new("dpkg-shlibdeps");
    command.current_dir(&folder).arg("-O");
    for item in programs {
        command.arg("-e").arg(tree.join(&item.place));
    }
    let answer = said(&mut command)?;
    let depends = answer
        .lines()
        .find_map(|line| line.strip_prefix("shlibs:Depends="));
    depends
        .map(str::to_owned)
        .ok_or_else(|| NotPacked(format!("dpkg-shlibdeps names no libraries: {answer}")))
}

/// Runs a program and answers what it printed.
fn said(command: &mut Command) -> Result<String, NotPacked> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.output().map_err(|error| {
        NotPacked(format!(
            "cannot run {name}: {error}; built programs: `cargo debs` without --programs; tools: `apt install dpkg-dev binutils gzip`"
        ))
    })?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        let error = String::from_utf8_lossy(&output.stderr);
        Err(NotPacked(format!("{name}: {}: {}", output.status, error.trim())))
    }
}

fn copy(from: &Path, to: &Path, mode: u32) -> Result<(), NotPacked> {
    let folder = to.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder).map_err(at(folder))?;
    fs::copy(from, to).map_err(at(from))?;
    fs::set_permissions(to, fs::Permissions::from_mode(mode)).map_err(at(to))
}

/// Compresses a file in place, without its name and time: policy 12.3, and the same bytes every time.
fn compress(path: &Path) -> Result<(), NotPacked> {
    said(
        Command::new("gzip")
            .args(["--best", "--no-name", "--force"])
            .arg(path),
    )
    .map(drop)
}

/// Every file below a folder, in order.
fn files(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = vec![];
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(files(&path)?);
        } else {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

fn kibibytes(tree: &Path) -> io::Result<u64> {
    let mut sum = 0;
    for file in files(tree)? {
        sum += fs::metadata(file)?.len().div_ceil(1024);
    }
    Ok(sum)
}

fn md5sums(tree: &Path) -> Result<String, NotPacked> {
    let mut command = Command::new("md5sum");
    command.current_dir(tree);
    for file in files(tree).map_err(at(tree))? {
        let inside = file.strip_prefix(tree).unwrap_or(&file);
        // dpkg --verify knows those in /etc by itself.
        if !inside.starts_with("etc") {
            command.arg(inside);
        }
    }
    said(&mut command)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_install_file_is_read_or_its_line_named() {
        let text = "# mode what where\n0755 bin:pollux usr/bin/pollux\n\n0644 made:man usr/share/man/man1\n\
                    0644 a/b.conf etc/b.conf\n0755 dir etc/x\n";
        let whats: Vec<What> = read_install(text)
            .unwrap()
            .into_iter()
            .map(|item| item.what)
            .collect();
        assert_eq!(
            whats,
            [
                What::Program("pollux".into()),
                What::Made("man".into()),
                What::File("a/b.conf".into()),
                What::Folder
            ]
        );
        for wrong in [
            "0644 a",
            "0844 a b",
            "7777 a b",
            "0644 a /b",
            "0644 a ../b",
            "0644 x:a b",
            "0644 a b c",
        ] {
            let error = read_install(&format!("\n{wrong}")).unwrap_err();
            assert!(
                error.starts_with("line 2:") && error.contains("MODE WHAT WHERE"),
                "{wrong}: {error}"
            );
        }
    }
}
