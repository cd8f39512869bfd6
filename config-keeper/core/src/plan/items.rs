//! The rules of items: what one of a kind must be, and what no two of a kind may have in common.

use super::{Planner, bits, network};
use alloc::borrow::ToOwned;
use alloc::collections::BTreeSet;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::net::IpAddr;
use pollux_api::config::item::{self, Item, ItemId, Purpose, Rule, Share, reference};
use pollux_api::config::{Hex, Resource};
use pollux_api::id::DiskIndex;

/// Longest text of a setting (bytes).
const TEXT_MAX: usize = 1024;
/// Most members of a list in an item.
const LIST_MAX: usize = 1000;
/// Longest name of an interface (bytes; IFNAMSIZ of Linux, less the end).
const INTERFACE_MAX: usize = 15;
/// Minutes from one snapshot to the next, and 31 days.
const EVERY: core::ops::RangeInclusive<u32> = 5..=44_640;

impl Planner<'_> {
    /// Makes an item what is asked.
    pub(super) fn set(&mut self, asked: &Item) {
        let (before, kind) = (self.problems.len(), asked.kind());
        let mut row = asked.clone();
        let by_id = (!row.id().is_none())
            .then(|| self.book.find(kind, &row.id().to_string()))
            .flatten();
        let present = by_id.or_else(|| {
            self.book
                .find(kind, row.name())
                .filter(|found| found.name() == Some(row.name()))
        });
        let present = present.and_then(|found| match found {
            Resource::Item(item) => Some(item),
            _ => None,
        });
        if present
            .as_ref()
            .is_none_or(|present| present.name() != row.name())
        {
            self.item_name(&row);
        }
        *row.id_mut() = match &present {
            Some(present) => present.id(),
            None => ItemId(Hex(self.identity())),
        };
        let mut links = Vec::new();
        for link in row.links() {
            let found = self.find(&format!("item.{}", link.field), link.kind, link.which);
            if let Some(found) = found {
                *link.which = reference(&found.key());
            }
            links.push((link.field, link.which.clone()));
        }
        self.no_twice(&links);
        self.check(&mut row);
        if self.refuse(before, kind, asked.name()) && present.as_ref() != Some(&row) {
            self.put(Resource::Item(row));
        }
    }

    fn item(&mut self, field: &str, what: &str, remedy: &str) {
        self.wrong(&format!("item.{field}"), what, remedy);
    }

    /// The name of a new item, or a new name.
    fn item_name(&mut self, row: &Item) {
        let (from, kind) = (self.problems.len(), row.kind());
        self.name(kind, row.name());
        for problem in &mut self.problems[from..] {
            problem.path = problem.path.replace("].name", "].item.name");
        }
    }

    /// Each reference of a list once.
    fn no_twice(&mut self, links: &[(String, String)]) {
        if links.len() > LIST_MAX {
            let what = format!("{} references", links.len());
            self.item("", &what, &format!("at most {LIST_MAX}"));
        }
        let mut seen = BTreeSet::new();
        for (field, which) in links {
            let list = field.split_once('[').map(|(list, _)| list);
            if list.is_some_and(|list| !seen.insert((list, which))) {
                self.item(field, "it is listed twice", "each once");
            }
        }
    }

    fn check(&mut self, row: &mut Item) {
        let others: Vec<Item> = match row.kind() {
            // Of these there may be many, and none excludes another.
            pollux_api::config::Kind::Snapshot | pollux_api::config::Kind::FileSystem => Vec::new(),
            kind => {
                let rows = self.tables().items.get(&kind).into_iter().flatten();
                let rows = rows.filter(|(id, _)| **id != row.id());
                rows.map(|(_, item)| item.clone()).collect()
            }
        };
        match row {
            Item::Controller(item) => self.controller(item, &others),
            Item::Network(item) => self.network_item(item, &others),
            Item::Port(item) => self.port(item, &others),
            Item::Disk(item) => {
                let taken = |other: &&Item| matches!(other, Item::Disk(other) if other.slot == item.slot);
                self.only_one("slot", others.iter().find(taken));
                self.slot(item.slot);
            }
            Item::HostGroup(item) => {
                if item.hosts.is_empty() {
                    self.item("hosts", "there is none", "at least one host");
                }
            }
            Item::Schedule(item) => {
                if item.volumes.is_empty() && item.file_systems.is_empty() {
                    self.item(
                        "volumes",
                        "there is nothing to take snapshots of",
                        "at least one volume or file system",
                    );
                }
                if !EVERY.contains(&item.every_minutes) {
                    let want = format!("{} to {} minutes", EVERY.start(), EVERY.end());
                    self.item("every_minutes", &item.every_minutes.to_string(), &want);
                }
                if item.offset_minutes >= 24 * 60 {
                    self.item(
                        "offset_minutes",
                        &item.offset_minutes.to_string(),
                        "0 to 1439, minutes after midnight UTC",
                    );
                }
                if !(1..=1000).contains(&item.keep) {
                    self.item("keep", &item.keep.to_string(), "1 to 1000 snapshots");
                }
            }
            Item::Snapshot(item) => {
                if item.volume.is_some() == item.file_system.is_some() {
                    self.item(
                        "volume",
                        "a snapshot is of one thing",
                        "either a volume or a file system",
                    );
                }
                if item.taken_ms == 0 {
                    self.item("taken_ms", "0", "when it was taken, ms since 1970 UTC");
                }
            }
            Item::FileSystem(item) => {
                if let Some(quota) = item
                    .quota_bytes
                    .filter(|quota| *quota < (1 << 20) || *quota < item.reserved_bytes)
                {
                    let want = format!(
                        "at least 1 MiB, and not below the {} that are reserved",
                        item.reserved_bytes
                    );
                    self.item("quota_bytes", &quota.to_string(), &want);
                }
            }
            Item::Share(item) => self.share(item),
            Item::AccessRole(item) => {
                for (at, service) in item.services.iter().enumerate() {
                    self.word(&format!("services[{at}]"), service);
                }
            }
            Item::User(item) => {
                if item.full_name.as_ref().is_some_and(|name| name.len() > TEXT_MAX) {
                    self.item(
                        "full_name",
                        "it is too long",
                        &format!("at most {TEXT_MAX} bytes"),
                    );
                }
                if item.password.as_ref().is_some_and(|secret| !secret.is_sealed()) {
                    self.item("password", "it is not sealed", "ask the keeper, which seals it");
                }
            }
            Item::Token(item) => {
                if item.digest == Hex::default() {
                    self.item("digest", "zero", "the BLAKE3 digest of the token");
                }
                let taken =
                    |other: &&Item| matches!(other, Item::Token(other) if other.digest == item.digest);
                self.only_one("digest", others.iter().find(taken));
            }
            Item::Key(item) => self.key(item, &others),
            Item::Policy(item) => self.policy(item, &others),
            Item::Settings(item) => {
                self.word("service", &item.service);
                let same =
                    |other: &&Item| matches!(other, Item::Settings(other) if other.service == item.service);
                self.only_one("service", others.iter().find(same));
                if item.values.len() > 100 {
                    self.item(
                        "values",
                        &format!("there are {}", item.values.len()),
                        "at most 100",
                    );
                }
                for (name, value) in &item.values {
                    if !word(name) || value.len() > TEXT_MAX {
                        let what = format!("`{}` with {} bytes", name.escape_default(), value.len());
                        self.item(
                            "values",
                            &what,
                            "a name of letters, digits and `_`, and at most 1024 bytes",
                        );
                    }
                }
            }
        }
    }

    fn controller(&mut self, item: &item::Controller, others: &[Item]) {
        let taken =
            |other: &&Item| matches!(other, Item::Controller(other) if other.controller == item.controller);
        self.only_one("controller", others.iter().find(taken));
        if !label(&item.hostname) {
            let what = format!("`{}` is no name of a machine", item.hostname.escape_default());
            self.item(
                "hostname",
                &what,
                "1 to 63 letters, digits or `-`, `-` neither first nor last",
            );
        }
        for (at, server) in item.dns.iter().enumerate() {
            self.ip(&format!("dns[{at}]"), server);
        }
        for (at, server) in item.ntp.iter().enumerate() {
            self.machine(&format!("ntp[{at}]"), server);
        }
        if let Some(server) = &item.syslog {
            let right = server.rsplit_once(':');
            let right = right
                .is_some_and(|(name, port)| machine(name) && port.parse::<u16>().is_ok_and(|port| port > 0));
            if !right {
                self.item(
                    "syslog",
                    &format!("`{}`", server.escape_default()),
                    "host:port, as in logs.example.com:6514",
                );
            }
        }
    }

    fn network_item(&mut self, item: &mut item::Network, others: &[Item]) {
        let parsed = subnet(&item.subnet);
        match parsed {
            None => self.item(
                "subnet",
                &format!("`{}` is no network", item.subnet.escape_default()),
                "its first address with its prefix length, as in 10.78.0.0/24 or fd00::/64",
            ),
            Some((ip, prefix)) => item.subnet = format!("{ip}/{prefix}"),
        }
        if let Some((ip, prefix)) = parsed {
            let own = network(ip, prefix);
            if let Some(gateway) = item.gateway.clone() {
                let inside = gateway.parse::<IpAddr>().ok().filter(|gateway| {
                    gateway.is_ipv4() == ip.is_ipv4()
                        && own.is_some_and(|(first, last)| (first..=last).contains(&bits(*gateway)))
                });
                match inside {
                    Some(gateway) => item.gateway = Some(gateway.to_string()),
                    None => self.item(
                        "gateway",
                        &format!("`{}` is no address of {}", gateway.escape_default(), item.subnet),
                        "an address inside the network",
                    ),
                }
            }
            let overlaps = |other: &&Item| {
                let Item::Network(other) = other else { return false };
                let their = subnet(&other.subnet).filter(|(other, _)| other.is_ipv4() == ip.is_ipv4());
                let their = their.and_then(|(ip, prefix)| network(ip, prefix));
                own.zip(their)
                    .is_some_and(|(own, their)| own.0 <= their.1 && their.0 <= own.1)
            };
            if let Some(other) = others.iter().find(overlaps) {
                let what = format!("{} overlaps network `{}`", item.subnet, other.name());
                self.item("subnet", &what, "a network that overlaps no other");
            }
        }
        if let Some(vlan) = item.vlan.filter(|vlan| !(1..=4094).contains(vlan)) {
            self.item("vlan", &vlan.to_string(), "1 to 4094 (IEEE 802.1Q), or none");
        }
        if !(1280..=9216).contains(&item.mtu) {
            self.item("mtu", &item.mtu.to_string(), "1280 to 9216 bytes");
        }
    }

    fn port(&mut self, item: &mut item::Port, others: &[Item]) {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '@');
        let name = &item.interface;
        if name.is_empty() || name.len() > INTERFACE_MAX || !name.chars().all(plain) {
            let what = format!("`{}` is no name of an interface", name.escape_default());
            self.item(
                "interface",
                &what,
                "1 to 15 letters, digits, `.`, `_`, `-` or `@`",
            );
        }
        let taken = |other: &&Item| matches!(other, Item::Port(other) if (other.controller, &other.interface) == (item.controller, &item.interface));
        self.only_one("interface", others.iter().find(taken));
        item.serves.sort_unstable();
        item.serves.dedup();
        let of = item.network.clone().and_then(|id| self.network_of(&id));
        match item.address.clone() {
            Some(address) => {
                if let Some(address) = self.port_address(&address, of, others) {
                    item.address = Some(address);
                }
            }
            None if !item.serves.is_empty() && item.enabled => {
                self.item(
                    "serves",
                    "the port has no address",
                    "an address, or nothing that is served",
                );
            }
            None => {}
        }
    }

    fn key(&mut self, item: &item::Key, others: &[Item]) {
        if !item.secret.is_sealed() {
            self.item("secret", "it is not sealed", "ask the keeper, which seals it");
        }
        let (host, user) = match item.purpose {
            Purpose::Chap | Purpose::NvmeDhChap => (true, item.purpose == Purpose::Chap),
            Purpose::MutualChap => (false, true),
            Purpose::Bmc | Purpose::Directory | Purpose::Mail => (false, true),
        };
        if host && item.host.is_none() {
            self.item("host", "there is none", "the host that proves itself by it");
        }
        if user && item.user.is_empty() || item.user.len() > 255 {
            self.item("user", &format!("{} bytes", item.user.len()), "1 to 255 bytes");
        }
        if (item.purpose == Purpose::Bmc) != item.controller.is_some() {
            self.item(
                "controller",
                "only the key of a baseboard controller has one",
                "a or b for `bmc`, none otherwise",
            );
        }
        let same = |other: &&Item| {
            matches!(other, Item::Key(other) if (other.purpose, &other.host, other.controller)
                == (item.purpose, &item.host, item.controller))
        };
        self.only_one("purpose", others.iter().find(same));
    }

    fn policy(&mut self, item: &item::Policy, others: &[Item]) {
        let sort = item.rule.sort();
        let same = |other: &&Item| matches!(other, Item::Policy(other) if other.rule.sort() == sort);
        self.only_one("rule", others.iter().find(same));
        match &item.rule {
            Rule::Giveback { after_seconds, .. } if *after_seconds > 7 * 24 * 3600 => {
                self.item(
                    "rule.after_seconds",
                    &after_seconds.to_string(),
                    "at most 604,800 (a week)",
                );
            }
            Rule::Alarms {
                pool_free_percent,
                mail,
            } => {
                if !(1..=50).contains(pool_free_percent) {
                    self.item(
                        "rule.pool_free_percent",
                        &pool_free_percent.to_string(),
                        "1 to 50 percent",
                    );
                }
                for (at, address) in mail.iter().enumerate() {
                    let right = address
                        .split_once('@')
                        .is_some_and(|(user, host)| !user.is_empty() && machine(host));
                    if !right || address.len() > 254 {
                        let what = format!("`{}` is no mail address", address.escape_default());
                        self.item(&format!("rule.mail[{at}]"), &what, "user@host");
                    }
                }
            }
            Rule::Giveback { .. } | Rule::Timing { .. } | Rule::HostMoves { .. } => {}
        }
    }

    fn only_one(&mut self, field: &str, other: Option<&Item>) {
        if let Some(other) = other {
            let what = format!("{} `{}` has that already", other.kind(), other.name());
            self.item(field, &what, "another, or change that one");
        }
    }

    fn slot(&mut self, slot: DiskIndex) {
        let pools = self.tables().pools.values();
        let user = pools
            .filter(|pool| pool.disks.contains(&slot))
            .map(|pool| pool.name.clone())
            .next();
        if self.site.quorum.contains(&slot) {
            let what = format!("{slot} carries the quorum area");
            self.item("slot", &what, "a disk that is not a quorum disk");
        } else if !self.site.disks.is_empty() && !self.site.disks.contains(&slot) {
            self.item(
                "slot",
                &format!("the shelf has no {slot}"),
                "a slot that holds a disk",
            );
        } else if let Some(user) = user {
            let what = format!("{slot} belongs to pool `{user}`");
            self.item("slot", &what, "a disk that is in no pool");
        }
    }

    /// First and last address of a network and whether it is IPv4, by its identity.
    fn network_of(&self, id: &str) -> Option<(String, IpAddr, u8)> {
        match self.book.find(pollux_api::config::Kind::Network, id) {
            Some(Resource::Item(Item::Network(network))) => {
                let (ip, prefix) = subnet(&network.subnet)?;
                Some((network.subnet, ip, prefix))
            }
            _ => None,
        }
    }

    /// The canonical spelling of a port's own address.
    fn port_address(
        &mut self,
        text: &str,
        of: Option<(String, IpAddr, u8)>,
        others: &[Item],
    ) -> Option<String> {
        let from = self.problems.len();
        let parsed = text.split_once('/');
        let parsed =
            parsed.and_then(|(ip, prefix)| Some((ip.parse::<IpAddr>().ok()?, prefix.parse::<u8>().ok()?)));
        let Some((ip, prefix)) = parsed.filter(|(ip, prefix)| network(*ip, *prefix).is_some()) else {
            let what = format!("`{}` is no address", text.escape_default());
            self.item(
                "address",
                &what,
                "an address with its prefix length, as in 10.78.0.1/24",
            );
            return None;
        };
        if let Some((subnet, first, length)) = of {
            let inside = first.is_ipv4() == ip.is_ipv4()
                && network(ip, length).map(|range| range.0) == Some(bits(first));
            if !inside || length != prefix {
                self.item(
                    "address",
                    &format!("{ip}/{prefix} is not in {subnet}"),
                    &format!("an address of {subnet}"),
                );
            }
        }
        let same = |other: &str| {
            other
                .split_once('/')
                .and_then(|(ip, _)| ip.parse::<IpAddr>().ok())
                == Some(ip)
        };
        let user = others
            .iter()
            .find(|other| matches!(other, Item::Port(port) if port.address.as_deref().is_some_and(same)));
        if let Some(user) = user {
            self.item(
                "address",
                &format!("{ip} is that of port `{}`", user.name()),
                "an address that is free",
            );
        }
        if self.tables().addresses.values().any(|row| same(&row.cidr)) {
            self.item(
                "address",
                &format!("{ip} moves with a pool"),
                "an address that is free",
            );
        }
        (self.problems.len() == from).then(|| format!("{ip}/{prefix}"))
    }

    fn share(&mut self, item: &Share) {
        let parts = item
            .path
            .strip_prefix('/')
            .map(|rest| rest.split('/').filter(|part| !part.is_empty()));
        let right = parts.is_some_and(|mut parts| parts.all(|part| part != "." && part != ".."))
            && !item.path.contains('\0')
            && item.path.len() <= TEXT_MAX;
        if !right {
            let what = format!("`{}` is no folder", item.path.escape_default());
            self.item(
                "path",
                &what,
                "a path from the file system's root, without `.` and `..`, as in /projects",
            );
        }
        if item.nfs.is_none() && item.smb.is_none() {
            self.item("nfs", "neither NFS nor SMB serves it", "at least one of both");
        }
        if let Some(nfs) = &item.nfs {
            if nfs.clients.is_empty() || nfs.clients.len() > LIST_MAX {
                self.item(
                    "nfs.clients",
                    &format!("there are {}", nfs.clients.len()),
                    "1 to 1000; `*` is everybody",
                );
            }
            for (at, client) in nfs.clients.iter().enumerate() {
                let right = client.who == "*"
                    || client.who.parse::<IpAddr>().is_ok()
                    || subnet(&client.who).is_some();
                if !right {
                    let what = format!("`{}` is nobody", client.who.escape_default());
                    self.item(
                        &format!("nfs.clients[{at}].who"),
                        &what,
                        "an address, a network as 10.0.0.0/8, or *",
                    );
                }
            }
            let known = |version: &u8| matches!(version, 3 | 4);
            if nfs.versions.is_empty() || !nfs.versions.iter().all(known) {
                self.item("nfs.versions", &format!("{:?}", nfs.versions), "3, 4 or both");
            }
        }
        if let Some(smb) = &item.smb
            && smb.users.is_empty()
            && !smb.guest
        {
            self.item(
                "smb.users",
                "there is none, and guests may not",
                "at least one user, or guest = true",
            );
        }
    }

    fn ip(&mut self, field: &str, text: &str) {
        if text.parse::<IpAddr>().is_err() {
            self.item(
                field,
                &format!("`{}` is no address", text.escape_default()),
                "an IPv4 or IPv6 address",
            );
        }
    }

    fn machine(&mut self, field: &str, text: &str) {
        if !machine(text) {
            let what = format!("`{}` is neither a name nor an address", text.escape_default());
            self.item(field, &what, "as time.example.com or 192.0.2.1");
        }
    }

    fn word(&mut self, field: &str, text: &str) {
        if !word(text) {
            let what = format!("`{}` is no name of a service", text.escape_default());
            self.item(field, &what, "letters, digits, `_` and `-`, as in the reference");
        }
    }
}

fn word(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    !text.is_empty() && text.len() <= pollux_api::config::NAME_MAX && text.chars().all(plain)
}

/// A label of a name (RFC 1123, 2.1).
fn label(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '-';
    (1..=63).contains(&text.len())
        && text.chars().all(plain)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

fn machine(text: &str) -> bool {
    text.parse::<IpAddr>().is_ok() || text.len() <= 253 && text.split('.').all(label)
}

/// A network: its first address and its prefix length.
fn subnet(text: &str) -> Option<(IpAddr, u8)> {
    let (ip, prefix) = text.split_once('/')?;
    let (ip, prefix) = (ip.parse::<IpAddr>().ok()?, prefix.parse::<u8>().ok()?);
    let (first, _) = network(ip, prefix)?;
    (bits(ip) == first).then_some((ip, prefix))
}

/// What a secret in the clear must be, before it is sealed; otherwise what would be right.
///
/// # Errors
/// What would be right.
pub fn secret_is_right(item: &Item, clear: &str) -> Result<(), String> {
    let (least, most) = match item {
        Item::Key(key) => match key.purpose {
            // RFC 7143, 12.1.4: CHAP secrets of less than 96 bits need IPsec.
            Purpose::Chap | Purpose::MutualChap => (12, 255),
            _ => (1, 255),
        },
        _ => (8, 255),
    };
    if (least..=most).contains(&clear.len()) {
        Ok(())
    } else {
        Err(format!("{least} to {most} bytes").to_owned())
    }
}

#[cfg(test)]
mod tests;
