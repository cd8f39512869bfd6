//! The partner's power through a real fence agent and a real IPMI session: `fence_ipmilan` and `ipmitool` against the BMC of
//! OpenIPMI's simulator, whose chassis keeps its power in a file.

use pollux_api::chassis::PowerState;
use pollux_api::id::{ArrayId, ControllerId};
use pollux_platform::lines::CallError;
use pollux_platform::power::{ChassisBmc, PowerControl};
use pollux_runtime::ControllerConfig;
use std::net::{Ipv4Addr, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tokio::net::UnixDatagram;
use tokio::time::timeout;

const LIMIT: Duration = Duration::from_secs(120);
const AGENT: &str = "/usr/sbin/fence_ipmilan";

/// What is missing here; none: nothing.
fn missing() -> Option<&'static str> {
    let needed = [
        ("/usr/bin/ipmi_sim", "openipmi"),
        (AGENT, "fence-agents"),
        ("/usr/bin/ipmitool", "ipmitool"),
    ];
    let absent = needed
        .into_iter()
        .find(|(program, _)| !Path::new(program).exists());
    absent.map(|(_, package)| package)
}

struct Running(Child);

impl Running {
    fn signal(&self, name: &str) {
        let pid = self.0.id().to_string();
        assert!(
            Command::new("kill")
                .arg(name)
                .arg(pid)
                .status()
                .unwrap()
                .success()
        );
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have been killed by the test.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A BMC on the loopback interface, and `enclosured` of the partner that uses it.
struct World {
    dir: tempfile::TempDir,
    port: u16,
    bmc: Running,
    _daemon: Option<Running>,
}

fn script(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        // Free until the simulator takes it; where somebody else is quicker, it ends and the test says so.
        let port = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let at = dir.path().display();
        std::fs::write(dir.path().join("power"), "1\n").unwrap();
        // `ADDRESS get|set|check NAME [VALUE] ...`, as ipmi_lan(5) says.
        script(
            &dir.path().join("chassis"),
            &format!(
                "#!/bin/sh\ncd {at}\necho \"$*\" >> asked\nshift\nverb=$1\nshift\nwhile [ $# -gt 0 ]; do\n\
                 case $verb/$1 in\n  get/power) echo \"power:$(cat power)\";;\n  get/*) echo \"$1:0\";;\n  \
                 set/power) [ -e stuck ] || echo \"$2\" > power; shift;;\n  set/*) shift;;\nesac\nshift\ndone\n"
            ),
        );
        let auths = ["callback", "user", "operator", "admin"];
        let auths: String = auths
            .iter()
            .map(|who| format!("  allowed_auths_{who} none md5\n"))
            .collect();
        let lan = format!(
            "name \"partner\"\nset_working_mc 0x20\nstartlan 1\n  addr 127.0.0.1 {port}\n  priv_limit admin\n{auths}  \
             guid a123456789abcdefa123456789abcdef\nendlan\nchassis_control \"{at}/chassis 0x20\"\n\
             user 1 true \"\" \"\" user 10 none md5\nuser 2 true \"pollux\" \"s3cret\" admin 10 none md5\n"
        );
        std::fs::write(dir.path().join("lan.conf"), lan).unwrap();
        let emulator = "mc_setbmc 0x20\nmc_add 0x20 0 no-device-sdrs 0x23 9 8 0x9f 0x1291 0xf02 persist_sdr\nmc_enable 0x20\n";
        std::fs::write(dir.path().join("emulator"), emulator).unwrap();
        let bmc = Command::new("/usr/bin/ipmi_sim")
            .arg("-n")
            .arg("-c")
            .arg(dir.path().join("lan.conf"))
            .arg("-f")
            .arg(dir.path().join("emulator"))
            .arg("-s")
            .arg(dir.path().join("state"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        World {
            dir,
            port,
            bmc: Running(bmc),
            _daemon: None,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn power(&self) -> String {
        std::fs::read_to_string(self.path("power"))
            .unwrap()
            .trim()
            .to_owned()
    }

    /// The daemon with this password and deadline; heartbeat's client of it.
    async fn enclosured(&mut self, password: &str, deadline_s: u64) -> ChassisBmc {
        self._daemon = None;
        let dir = self.path(&format!("controller-{password}-{deadline_s}"));
        std::fs::create_dir(&dir).unwrap();
        let addresses = [Ipv4Addr::new(127, 0, 0, 1), Ipv4Addr::new(127, 0, 0, 2)];
        let array = ArrayId::from_bytes([7; 16]);
        let config = ControllerConfig::on_loopback(ControllerId::A, array, &dir, addresses);
        std::fs::write(dir.join("controller.toml"), config.render()).unwrap();
        std::fs::write(dir.join("password"), password).unwrap();
        std::fs::set_permissions(dir.join("password"), std::fs::Permissions::from_mode(0o600)).unwrap();
        let enclosure = format!(
            "[bmc]\nagent = \"{AGENT}\"\npassword_file = \"{}/password\"\ndeadline_s = {deadline_s}\narguments = \
             {{ ip = \"127.0.0.1\", ipport = \"{}\", username = \"pollux\", lanplus = \"1\", cipher = \"3\", verbose = \"1\" }}\n",
            dir.display(),
            self.port
        );
        std::fs::write(dir.join("enclosure.toml"), enclosure).unwrap();
        let notify = UnixDatagram::bind(dir.join("notify")).unwrap();
        let daemon = Command::new(env!("CARGO_BIN_EXE_enclosured"))
            .arg("--config")
            .arg(dir.join("controller.toml"))
            .arg("--enclosure")
            .arg(dir.join("enclosure.toml"))
            .env("NOTIFY_SOCKET", dir.join("notify"))
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        self._daemon = Some(Running(daemon));
        let mut said = [0; 64];
        let length = timeout(LIMIT, notify.recv(&mut said)).await.unwrap().unwrap();
        assert_eq!(&said[..length], b"READY=1");
        ChassisBmc::new(&config.paths.bmc)
    }
}

fn refusal<T: std::fmt::Debug>(result: Result<T, CallError>) -> String {
    match result.unwrap_err() {
        CallError::Refused { error, .. } => error.to_string(),
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn power_of_a_bmc_is_asked_cut_and_confirmed_and_what_is_not_known_is_said_to_be() {
    if let Some(package) = missing() {
        return eprintln!("SKIPPED: apt install {package}");
    }
    let mut world = World::new();
    let mut control = world.enclosured("s3cret", 30).await;
    // The simulator may still be starting: until it answers, nothing is known.
    let end = Instant::now() + LIMIT;
    while let Err(error) = control.partner(LIMIT).await {
        assert!(Instant::now() < end, "{error}");
    }
    let began = Instant::now();
    assert_eq!(control.partner(LIMIT).await.unwrap().power, PowerState::On);
    let asked = began.elapsed();
    let began = Instant::now();
    assert_eq!(control.partner_off(LIMIT).await.unwrap().power, PowerState::Off);
    eprintln!("a question {asked:?}, a cut {:?}", began.elapsed());
    assert_eq!(world.power(), "0");
    assert_eq!(control.partner(LIMIT).await.unwrap().power, PowerState::Off);
    assert_eq!(control.partner_on(LIMIT).await.unwrap().power, PowerState::On);
    assert_eq!(world.power(), "1");

    // A wrong password is an error in words that hide it, and no state.
    let mut wrong = world.enclosured("wr0ng", 30).await;
    let said = refusal(wrong.partner(LIMIT).await);
    assert!(
        said.contains("Unable to establish IPMI v2") && !said.contains("wr0ng"),
        "{said}"
    );
    assert!(refusal(wrong.partner_off(LIMIT).await).contains("Unable to"));
    assert_eq!(world.power(), "1");

    // Off is what the status confirms: a chassis that says yes and does nothing is not off.
    std::fs::write(world.path("stuck"), "").unwrap();
    let mut control = world.enclosured("s3cret", 5).await;
    refusal(control.partner_off(LIMIT).await);
    assert_eq!(control.partner(LIMIT).await.unwrap().power, PowerState::On);
    std::fs::remove_file(world.path("stuck")).unwrap();

    // One that does not answer in time is not known, and neither is one that is gone.
    world.bmc.signal("-STOP");
    let began = Instant::now();
    assert!(refusal(control.partner(LIMIT).await).contains("no end within 5 s"));
    assert!(began.elapsed() >= Duration::from_secs(5));
    world.bmc.signal("-KILL");
    refusal(control.partner(LIMIT).await);
    refusal(control.partner_off(LIMIT).await);
    assert_eq!(world.power(), "1");
}
