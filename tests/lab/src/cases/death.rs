//! Deaths: of a controller, of its kernel, of a daemon, and in the middle of a takeover.

use super::care::back_one_by_one;
use super::{Claims, FAULT, audit, pool_of};
use crate::array::{Array, JOIN, MOVE, POOLS};
use crate::error::{Error, Result};
use crate::host::{Host, Load};
use crate::lab::Lab;
use crate::machine::LOOK;
use crate::topology::Node;
use crate::wait::{last, wait_for};

/// The daemons of a controller, in the order in which they are killed: who is asked comes before who asks.
const DAEMONS: [&str; 9] = [
    "enclosured",
    "lvmd",
    "rpc-routerd",
    "config-keeperd",
    "pool-managerd",
    "block-targetd",
    "aluad",
    "addressd",
    "heartbeatd",
];

/// A1.
pub(super) fn power_cut(lab: &mut Lab) -> Result<()> {
    lab.cut_power(Node::A)?;
    taken_by_b(lab)?;
    lab.power_on(Node::A)?;
    lab.machine(Node::A)?.wait_up().map(drop)
}

fn taken_by_b(lab: &Lab) -> Result<()> {
    let pool = pool_of(Node::A);
    Array::of(lab).wait_owner(pool, Node::B, MOVE)?;
    Host::of(lab)?.wait_progress()?;
    audit::address_answers(lab, pool, Node::B)
}

/// F5: as A1, when as many commands are under way as the host keeps.
pub(super) fn deep_queue(lab: &mut Lab) -> Result<()> {
    Host::of(lab)?.wait_in_flight(pool_of(Node::A), Load::DEEP.depth * 3 / 4)?;
    power_cut(lab)
}

/// A2: the kernel writes nothing more and starts anew by itself.
pub(super) fn panic(lab: &mut Lab) -> Result<()> {
    let a = lab.machine(Node::A)?;
    let before = a.boot()?;
    // Of a unit of its own: what asked for it would wait for an answer that cannot come.
    a.run("systemd-run --no-block sh -c 'echo c > /proc/sysrq-trigger'")?;
    taken_by_b(lab)?;
    a.wait_rebooted(&before)
}

/// A3.
pub(super) fn hang(lab: &mut Lab) -> Result<()> {
    let a = lab.machine(Node::A)?;
    a.hang(true)?;
    taken_by_b(lab)?;
    last(FAULT);
    a.hang(false)?;
    wait_for("a notices that it was replaced", JOIN, || {
        Array::of(lab).has_given_up(pool_of(Node::A), Node::A)
    })?;
    // Nobody keeps the time of a machine that stood still.
    a.set_clock()
}

/// A4: the deadest of the living. Neither its slot nor the wire moves, and everything else on the controller goes on, until the
/// watchdog, which nobody pets, resets it.
pub(super) fn stopped_heartbeat(lab: &mut Lab) -> Result<()> {
    let a = lab.machine(Node::A)?;
    let before = a.boot()?;
    if !audit::connects(lab, Node::A)? {
        return Err(Error::step(
            "connect to a",
            "it does not answer before its heartbeat is stopped",
        ));
    }
    // Else the service manager may notice first, and the next heartbeat goes on where this one stood still.
    a.run("systemctl service-watchdogs no && systemctl kill --kill-whom=main --signal=STOP heartbeatd")?;
    // Its targets and its kernel live, and what they say to hosts goes nowhere once the lease of their replies is over.
    wait_for(
        "a's target says nothing to hosts any more",
        MOVE,
        || match audit::connects(lab, Node::A) {
            Ok(false) => Ok(()),
            Ok(true) => Err("it takes connections".into()),
            Err(error) => Err(error.to_string()),
        },
    )?;
    let still = a.try_run("cat /proc/sys/kernel/random/boot_id", LOOK);
    if still.is_ok_and(|said| said.out.trim() == before.trim()) {
        println!("a4: silent, while its kernel and its targets live");
    } else {
        println!("a4: the watchdog was quicker than the question whether its targets are silent");
    }
    taken_by_b(lab)?;
    audit::address_is_only_at(lab, pool_of(Node::A), Node::B)?;
    a.wait_rebooted(&before)
}

/// A5: no pool moves.
pub(super) fn killed_daemons(lab: &mut Lab) -> Result<()> {
    let (a, claims) = (lab.machine(Node::A)?, Claims::of(lab)?);
    for daemon in DAEMONS {
        let main = format!("systemctl show --property=MainPID --value {daemon}");
        let before = a.run(&main)?;
        a.run(&format!("systemctl kill --kill-whom=main --signal=KILL {daemon}"))?;
        wait_for(&format!("{daemon} runs again"), JOIN, || {
            let now = a.run(&main).map_err(|error| error.to_string())?;
            let running = !matches!(now.trim(), "0" | "") && now != before;
            if running {
                Ok(())
            } else {
                Err(format!("its process is {}", now.trim()))
            }
        })?;
        Array::of(lab).wait_joined()?;
        Host::of(lab)?.wait_progress()?;
        claims.hold(lab)?;
    }
    Ok(())
}

/// A8: who goes in good order is neither waited for nor fenced.
pub(super) fn reboot(lab: &mut Lab) -> Result<()> {
    let (a, since) = (lab.machine(Node::A)?, Host::of(lab)?.now_ms()?);
    let before = a.boot()?;
    a.try_run("systemctl reboot", LOOK).map(drop).or_else(gone)?;
    taken_by_b(lab)?;
    if let Some(taken) = super::longest(&Array::of(lab).timeline()?, since)
        && taken.text.contains("detect")
    {
        return Err(Error::broken("a good-bye is not waited out", taken.text));
    }
    a.wait_rebooted(&before)
}

/// Stops the array's part on a controller, and gives what outlives a boot there a disk of its own, which is not mounted
/// afterwards. What only lives as long as a boot is gone; the programs are in memory, as after a boot that read them.
const APART: &str = "set -e
systemctl stop pollux.target
find /run/pollux -name incarnation -delete
if mountpoint --quiet /var/lib/pollux; then
  umount /var/lib/pollux
else
  mkfs.ext4 -q /dev/vdc
  mount /dev/vdc /mnt
  cp --archive /var/lib/pollux/. /mnt/
  umount /mnt
  echo '/dev/vdc /var/lib/pollux ext4 defaults 0 0' >> /etc/fstab
  systemctl daemon-reload
fi
cat /usr/libexec/pollux/* > /dev/null
sync";

/// Waits, in a machine that is about to be put away, until the clock on its board has run on without it; then it is its second
/// life. Nobody has to enter it for that, which takes an emulated processor two seconds. Who says that this is another life begins,
/// with what it needs: one processor has to start all of them.
const AWAKE: &str = "
clock='cat /sys/class/rtc/rtc0/since_epoch'
before=$(($($clock) - $(cut -d. -f1 /proc/uptime)))
systemd-run --collect --unit=lab-awake --setenv=BEFORE=$before sh -c '
clock() { cat /sys/class/rtc/rtc0/since_epoch; }
until [ $(($(clock) - $(cut -d. -f1 /proc/uptime))) -gt $((BEFORE + 2)) ]; do sleep 0.1; done
date --set=@$(clock)
mount /var/lib/pollux && systemctl start enclosured rpc-routerd config-keeperd heartbeatd && systemctl start pollux.target'";

/// How often A9 is tried: whether a machine is back before its partner's verdict is a matter of a second here.
const ATTEMPTS: u32 = 3;

/// A9: the controller is back before its partner calls it dead.
pub(super) fn reset(lab: &mut Lab) -> Result<()> {
    let mut seen = String::new();
    for _ in 0..ATTEMPTS {
        match back_before_the_verdict(lab)? {
            None => return Ok(()),
            Some(phases) => seen = phases,
        }
        Array::of(lab).wait_home()?;
        Host::of(lab)?.wait_progress()?;
    }
    Err(Error::step(
        "come back before the partner's verdict",
        format!("this machine is too slow for it: {seen}"),
    ))
}

/// An emulated processor boots for longer than any detection takes, so what comes back is a machine that was kept when it had
/// just booted, and has nothing mounted that was written since. Too late, it says what its partner has done.
fn back_before_the_verdict(lab: &mut Lab) -> Result<Option<String>> {
    let a = lab.machine(Node::A)?;
    a.run_within(APART, MOVE)?;
    a.run(AWAKE)?;
    let kept = lab.keep(Node::A)?;
    lab.power_on(Node::A)?;
    lab.machine(Node::A)?.wait_up()?;
    Array::of(lab).wait_joined()?;
    Array::of(lab).wait_home()?;
    Host::of(lab)?.wait_progress()?;

    let since = Host::of(lab)?.now_ms()?;
    lab.cut_power(Node::A)?;
    lab.power_on_as(kept)?;
    let a = lab.machine(Node::A)?;
    a.ssh().forget();
    wait_for("a lives its second life", JOIN, || {
        a.ssh().connect(LOOK).map_err(|error| error.to_string())?;
        let said = a.run("systemctl is-active pollux.target || true");
        match said.map_err(|error| error.to_string())?.trim() {
            "active" => Ok(()),
            other => Err(other.to_owned()),
        }
    })?;
    Array::of(lab).wait_joined()?;
    let taken = super::longest(&Array::of(lab).timeline()?, since);
    let detected = taken.filter(|phases| phases.text.contains("detect"));
    Ok(detected.map(|phases| phases.text))
}

/// A12: the taker dies when it has begun to arbitrate, claim, fence, import and publish; the one who was dead comes back first and finds what is half done.
pub(super) fn taker_dies(lab: &mut Lab) -> Result<()> {
    let pool = pool_of(Node::A);
    let status = Array::of(lab).status(Node::B);
    let known = status.map_err(|seen| Error::step("find the pool's identity", seen))?;
    let id = known
        .pools
        .iter()
        .find(|listed| listed.name.as_deref() == Some(pool.name))
        .map(|listed| listed.pool)
        .ok_or_else(|| Error::step("find the pool's identity", format!("{} is not listed", pool.name)))?;
    // What heartbeat says when it begins to arbitrate, and of a pool on its way to a new owner.
    let pool = ["claiming", "fencing", "importing", "publishing"].map(|state| format!("pool {id}: {state}"));
    for said in ["epoch [0-9]* is proposed".to_owned()].into_iter().chain(pool) {
        let before = lab.panics(Node::B);
        lab.machine(Node::B)?.panic_at("heartbeatd", &said)?;
        lab.cut_power(Node::A)?;
        wait_for(&format!("b dies when it says: {said}"), MOVE, || {
            if lab.panics(Node::B) > before {
                Ok(())
            } else {
                Err("it lives".into())
            }
        })?;
        lab.cut_power(Node::B)?;
        for node in [Node::A, Node::B] {
            lab.power_on(node)?;
            lab.machine(node)?.wait_up()?;
        }
        Array::of(lab).wait_joined()?;
        Array::of(lab).wait_home()?;
        Host::of(lab)?.wait_progress()?;
    }
    Ok(())
}

/// Both lose their power at once, and one of them comes back alone: it may serve what both had, by the disks, which say that nobody
/// has gone on without it.
pub(super) fn both_and_one_is_back(lab: &mut Lab) -> Result<()> {
    for node in Node::CONTROLLERS {
        lab.cut_power(node)?;
    }
    back_one_by_one(lab, Node::A)
}

/// A11: both lose their power and come back in the same second; each finds the pools free.
pub(super) fn both_at_once(lab: &mut Lab) -> Result<()> {
    for node in Node::CONTROLLERS {
        lab.cut_power(node)?;
    }
    for node in Node::CONTROLLERS {
        lab.power_on(node)?;
    }
    for node in Node::CONTROLLERS {
        lab.machine(node)?.wait_up()?;
    }
    let array = Array::of(lab);
    array.wait_joined()?;
    for pool in POOLS {
        let serving: Vec<Node> = Node::CONTROLLERS
            .into_iter()
            .filter(|node| array.serves(pool, *node).is_ok())
            .collect();
        if serving.len() > 1 {
            return Err(Error::broken(
                "one owner at every instant",
                format!("{}: {serving:?}", pool.name),
            ));
        }
    }
    Ok(())
}

/// The connection ends with the machine, which is what was asked for.
fn gone(error: Error) -> Result<()> {
    if error.to_string().contains("ssh:") {
        Ok(())
    } else {
        Err(error)
    }
}
