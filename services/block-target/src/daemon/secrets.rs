//! The secrets of hosts: sealed in the configuration, opened by the keeper, in the clear in this memory only.
//!
//! ```text
//!  configuration --sealed--> Secrets --missing--> config.unseal
//!                              |  ^                    |
//!                 Admissions <-+  +------- clear ------+
//! ```
//!
//! Invariants: a host with a CHAP key is let in by that key or not at all, also while the key is not open yet or the
//! keeper is away; what was opened stays open as long as the configuration has it in this very form.

use crate::iscsi::chap::{Credential, Credentials};
use crate::iscsi::login::Admission;
use crate::target::Admissions;
use pollux_api::config::item::{Item, ItemId, Key, Purpose, Secret};
use pollux_api::config::{HostId, Kind, Tables};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A secret that has to be opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sealed {
    /// The item that has it.
    pub id: ItemId,
    /// As the configuration has it.
    pub secret: Secret,
}

/// What the configuration says of hosts and keys, and what of it is open.
#[derive(Debug, Default)]
pub struct Secrets {
    /// Names of the initiators, and the host they are of.
    hosts: Vec<(String, HostId)>,
    keys: BTreeMap<ItemId, Key>,
    /// The sealed form beside the clear one.
    open: BTreeMap<ItemId, (Secret, Secret)>,
}

/// A key by which hosts prove themselves or the target does.
fn of_chap(item: &Item) -> Option<&Key> {
    match item {
        Item::Key(key) if matches!(key.purpose, Purpose::Chap | Purpose::MutualChap) => Some(key),
        _ => None,
    }
}

impl Secrets {
    /// The configuration is this from now on.
    pub fn configure(&mut self, tables: &Tables) {
        let hosts = tables.hosts.values();
        self.hosts = hosts
            .flat_map(|host| host.iqns.iter().map(|iqn| (iqn.clone(), host.id)))
            .collect();
        let items = tables
            .items
            .get(&Kind::Key)
            .into_iter()
            .flat_map(BTreeMap::values);
        self.keys = items
            .filter_map(of_chap)
            .map(|key| (key.id, key.clone()))
            .collect();
        let keys = &self.keys;
        self.open
            .retain(|id, (sealed, _)| keys.get(id).is_some_and(|key| key.secret == *sealed));
    }

    /// What has to be opened.
    #[must_use]
    pub fn missing(&self) -> Vec<Sealed> {
        let closed = self.keys.values().filter(|key| !self.open.contains_key(&key.id));
        closed
            .map(|key| Sealed {
                id: key.id,
                secret: key.secret.clone(),
            })
            .collect()
    }

    /// One was opened. Of no use if the configuration has another by now.
    pub fn opened(&mut self, sealed: Sealed, clear: Secret) {
        let Sealed { id, secret } = sealed;
        if self.keys.get(&id).is_some_and(|key| key.secret == secret) {
            self.open.insert(id, (secret, clear));
        }
    }

    /// The key of a purpose for a host.
    fn key(&self, purpose: Purpose, host: Option<HostId>) -> Option<&Key> {
        let host = host.map(|host| host.to_string());
        let mut keys = self.keys.values();
        keys.find(|key| key.purpose == purpose && key.host == host)
    }

    fn credential(&self, key: &Key) -> Option<Credential> {
        let (_, clear) = self.open.get(&key.id)?;
        Some(Credential::new(key.user.clone(), clear.expose()))
    }

    fn admission(&self, host: HostId) -> Admission {
        let Some(key) = self.key(Purpose::Chap, Some(host)) else {
            return Admission::Open;
        };
        // The target's own key for this host, or else the one for all.
        let target = self.key(Purpose::MutualChap, Some(host));
        let target = target.or_else(|| self.key(Purpose::MutualChap, None));
        let target = target.map(|key| self.credential(key));
        let (Some(host), None | Some(Some(_))) = (self.credential(key), &target) else {
            return Admission::Locked;
        };
        let mut credentials = Credentials {
            host,
            target: target.flatten(),
        };
        if credentials.are_the_same() {
            // RFC 7143, 12.1.4: who has one secret for both directions lets a stranger have the target answer itself.
            tracing::error!(
                user = credentials.host.user,
                "the keys `chap` and `mutual_chap` of a host have the same secret: the target does not prove itself to it"
            );
            credentials.target = None;
        }
        Admission::Chap(Arc::new(credentials))
    }

    /// How the initiators of all hosts are let in.
    #[must_use]
    pub fn admissions(&self) -> Admissions {
        let of = |(iqn, host): &(String, HostId)| (iqn.clone(), self.admission(*host));
        self.hosts.iter().map(of).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pollux_api::config::{Hex, Host};

    const HOST: HostId = HostId(Hex([4; 16]));
    const CHAP: ItemId = ItemId(Hex([1; 16]));
    const MUTUAL: ItemId = ItemId(Hex([2; 16]));

    fn key(id: ItemId, purpose: Purpose, host: Option<HostId>, sealed: &str) -> Item {
        Item::Key(Key {
            name: format!("key-{id}"),
            purpose,
            user: format!("user-{}", id.0.0[0]),
            host: host.map(|host| host.to_string()),
            controller: None,
            secret: Secret::new(sealed),
            id,
        })
    }

    fn tables(keys: Vec<Item>) -> Tables {
        let mut tables = Tables::default();
        let iqns = vec!["iqn.h:1".to_owned(), "iqn.h:2".to_owned()];
        let row = Host {
            id: HOST,
            name: "h".into(),
            iqns,
        };
        tables.hosts.insert(HOST, row);
        let keys = keys.into_iter().map(|key| (key.id(), key));
        tables.items.insert(Kind::Key, keys.collect());
        tables
    }

    fn open_all(secrets: &mut Secrets, clear: &str) {
        for sealed in secrets.missing() {
            let text = format!("{clear}-{}", sealed.id);
            secrets.opened(sealed, Secret::new(text));
        }
    }

    #[test]
    fn a_key_locks_the_host_until_it_is_open_and_stays_open() {
        let mut secrets = Secrets::default();
        secrets.configure(&tables(vec![]));
        assert_eq!(secrets.admissions()["iqn.h:1"], Admission::Open);
        secrets.configure(&tables(vec![key(CHAP, Purpose::Chap, Some(HOST), "sealed:1:x")]));
        for iqn in ["iqn.h:1", "iqn.h:2"] {
            assert_eq!(secrets.admissions()[iqn], Admission::Locked);
        }
        open_all(&mut secrets, "clear");
        assert!(secrets.missing().is_empty());
        let open = secrets.admissions();
        assert!(
            matches!(&open["iqn.h:2"], Admission::Chap(of) if of.host.user == "user-1" && of.target.is_none())
        );
        // The same configuration again: nothing is asked for.
        secrets.configure(&tables(vec![key(CHAP, Purpose::Chap, Some(HOST), "sealed:1:x")]));
        assert_eq!(secrets.admissions(), open);
        // Another secret: locked until that is open; and a late answer for the former is of no use.
        let late = Sealed {
            id: CHAP,
            secret: Secret::new("sealed:1:x"),
        };
        secrets.configure(&tables(vec![key(CHAP, Purpose::Chap, Some(HOST), "sealed:1:y")]));
        secrets.opened(late, Secret::new("former"));
        assert_eq!(secrets.admissions()["iqn.h:1"], Admission::Locked);
    }

    #[test]
    fn the_target_has_a_key_for_one_host_or_for_all() {
        let mutual = |host| key(MUTUAL, Purpose::MutualChap, host, "sealed:1:m");
        let chap = || key(CHAP, Purpose::Chap, Some(HOST), "sealed:1:x");
        for host in [Some(HOST), None] {
            let mut secrets = Secrets::default();
            secrets.configure(&tables(vec![chap(), mutual(host)]));
            secrets.opened(secrets.missing().remove(0), Secret::new("one of two"));
            assert_eq!(secrets.admissions()["iqn.h:1"], Admission::Locked);
            open_all(&mut secrets, "clear");
            let admissions = secrets.admissions();
            let Admission::Chap(of) = &admissions["iqn.h:1"] else {
                panic!("{admissions:?}")
            };
            assert_eq!(
                of.target.as_ref().map(|target| target.user.as_str()),
                Some("user-2")
            );
        }
        let other = HostId(Hex([9; 16]));
        let mut secrets = Secrets::default();
        secrets.configure(&tables(vec![chap(), mutual(Some(other))]));
        open_all(&mut secrets, "clear");
        assert!(matches!(&secrets.admissions()["iqn.h:1"], Admission::Chap(of) if of.target.is_none()));
    }

    #[test]
    fn one_secret_for_both_directions_is_not_used_for_both() {
        let mut secrets = Secrets::default();
        let keys = vec![
            key(CHAP, Purpose::Chap, Some(HOST), "sealed:1:x"),
            key(MUTUAL, Purpose::MutualChap, None, "sealed:1:m"),
        ];
        secrets.configure(&tables(keys));
        for sealed in secrets.missing() {
            secrets.opened(sealed, Secret::new("the same for both"));
        }
        assert!(matches!(&secrets.admissions()["iqn.h:1"], Admission::Chap(of) if of.target.is_none()));
        assert!(!format!("{secrets:?}").contains("the same"));
    }

    #[test]
    fn other_keys_are_not_asked_for() {
        let mut secrets = Secrets::default();
        let nvme = key(CHAP, Purpose::NvmeDhChap, Some(HOST), "sealed:1:x");
        secrets.configure(&tables(vec![nvme]));
        assert!(secrets.missing().is_empty());
        assert_eq!(secrets.admissions()["iqn.h:1"], Admission::Open);
    }
}
