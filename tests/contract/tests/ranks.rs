//! Calls are one-way streets, and the map of them is true: what services call is what they declare.

use contract::sources::{FOLDERS, calls};
use pollux_api::contract::{Kind, SERVICES, Service, method, service};
use pollux_api::rank;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

fn owner(method: &str) -> &'static Service {
    service(method.split_once('.').unwrap().0).unwrap()
}

#[test]
fn services_call_what_they_declare_and_declare_what_they_call() {
    for (name, folder) in FOLDERS {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(folder);
        let found = calls(name, &folder).unwrap();
        let declared: BTreeSet<&str> = service(name)
            .unwrap()
            .calls
            .iter()
            .copied()
            .filter(|method| owner(method).name != *name)
            .collect();
        assert_eq!(
            found,
            declared,
            "{name}: what {} names, and `calls` in its contract",
            folder.display()
        );
    }
    // Every service that registers is looked at.
    let looked: BTreeSet<&str> = FOLDERS.iter().map(|(name, _)| *name).collect();
    let register: BTreeSet<&str> = SERVICES
        .iter()
        .map(|service| service.name)
        .filter(|name| rank::of(name).is_some())
        .collect();
    assert_eq!(looked, register);
}

#[test]
fn what_the_partner_may_call_is_what_it_calls() {
    for service in SERVICES {
        let peers: BTreeSet<&str> = service
            .methods
            .iter()
            .filter(|method| method.peer)
            .map(|method| method.name)
            .collect();
        let own: BTreeSet<&str> = service
            .calls
            .iter()
            .copied()
            .filter(|name| owner(name).name == service.name)
            .collect();
        if service.name != pollux_api::router::Contract::SERVICE.name {
            assert_eq!(peers, own, "{}", service.name);
        }
    }
}

#[test]
fn nobody_waits_in_a_circle() {
    // Requests that are waited for, from service to service; the partner's service of the same name is another one.
    let mut waits: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for caller in SERVICES {
        for name in caller.calls {
            let declared = method(name).unwrap();
            let callee = owner(name);
            if declared.kind == Kind::Request && callee.name != caller.name {
                assert!(
                    rank::may_call(caller.rank, callee.rank, false),
                    "{} calls {name}",
                    caller.name
                );
                waits.entry(caller.name).or_default().insert(callee.name);
            }
        }
    }
    // Whoever waits for nobody is taken away, until nobody is left: a circle would stay.
    let mut left: BTreeSet<&str> = SERVICES.iter().map(|service| service.name).collect();
    loop {
        let free = |name: &&&str| waits.get(**name).is_none_or(|on| on.is_disjoint(&left));
        let gone: BTreeSet<&str> = left.iter().filter(free).copied().collect();
        if gone.is_empty() {
            break;
        }
        left = left.difference(&gone).copied().collect();
    }
    assert!(left.is_empty(), "they wait for each other: {left:?}");
    assert!(
        waits["heartbeat"].contains("alua") && waits["alua"].contains("target"),
        "{waits:?}"
    );
}
