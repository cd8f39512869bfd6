//! What is to be done with which address. Pure.

use pollux_api::{
    error::{Code, RpcError},
    id::PoolId,
};
use pollux_platform::netlink::IfAddr;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

/// For whom an address is up that is not the controller's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Owner {
    /// A pool that is here.
    Pool(PoolId),
    /// The partner, which is off: nobody is served at it, and hosts learn that at once.
    Partner,
}

impl std::fmt::Display for Owner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Pool(pool) => write!(f, "pool {pool}, which is here"),
            Self::Partner => f.write_str("the partner, which is off"),
        }
    }
}

/// Whose each address is that this controller has up.
pub type Owners = BTreeMap<IfAddr, Owner>;

/// Steps from what is up to what should be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Steps {
    /// To be put up.
    pub add: Vec<IfAddr>,
    /// To be taken down.
    pub remove: Vec<IfAddr>,
}

/// After a start: what the record and the kernel make of each other.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Adoption {
    /// Recorded and up: stays.
    pub owners: Owners,
    /// Put up by the array and nobody's: to be removed.
    pub left: Vec<IfAddr>,
    /// Put up by somebody else: left alone.
    pub strangers: Vec<IfAddr>,
    /// Recorded, not up: the daemon died between the two. Whoever asked has had no answer and asks again.
    pub unfinished: Vec<IfAddr>,
}

/// The kernel's own: no pool has had it, and nobody outside reaches it.
fn is_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_loopback() || address.is_link_local(),
        IpAddr::V6(address) => address.is_loopback() || address.is_unicast_link_local(),
    }
}

/// Compares the record with what is up, and with what of it the array has `marked` as put up by it. `own` is the
/// controller's address, which belongs to no pool.
pub fn adopt(recorded: &Owners, up: &[IfAddr], marked: &[IfAddr], own: IpAddr) -> Adoption {
    let floating = up.iter().copied().filter(|addr| addr.address != own);
    let floating: BTreeSet<IfAddr> = floating
        .filter(|addr| recorded.contains_key(addr) || !is_local(addr.address))
        .collect();
    let (owners, unfinished): (Owners, Owners) =
        recorded.iter().partition(|(addr, _)| floating.contains(addr));
    let (left, strangers) = floating
        .into_iter()
        .filter(|addr| !owners.contains_key(addr))
        .partition(|addr| marked.contains(addr));
    Adoption {
        left,
        strangers,
        owners,
        unfinished: unfinished.into_keys().collect(),
    }
}

/// Steps that give `pool` exactly the addresses `wanted`, or why that cannot be.
pub fn raise(owners: &Owners, pool: PoolId, wanted: &[String], own: IpAddr) -> Result<Steps, RpcError> {
    let mut problems = Vec::new();
    let mut addresses = BTreeSet::new();
    for (index, text) in wanted.iter().enumerate() {
        match text.parse::<IfAddr>() {
            Err(what) => problems.push((index, what, "an address with its prefix length".to_owned())),
            Ok(addr) => match unusable(addr.address, own) {
                Some(why) => problems.push((
                    index,
                    format!("{addr} is {why}"),
                    "an address of its own".to_owned(),
                )),
                None => {
                    addresses.insert(addr);
                }
            },
        }
    }
    if !problems.is_empty() {
        let error = RpcError::new(
            Code::InvalidParams,
            "address.raise",
            "addresses that cannot be raised",
        );
        return Err(problems.into_iter().fold(error, |error, (index, what, remedy)| {
            error.problem(format!("addresses[{index}]"), what, remedy)
        }));
    }
    // The address alone counts: with another prefix it would still be the same door.
    for addr in &addresses {
        if let Some((taken, other)) = owners
            .iter()
            .find(|(up, owner)| up.address == addr.address && **owner != Owner::Pool(pool))
        {
            let what = format!("it belongs to {other}");
            return Err(
                RpcError::new(Code::Conflict, taken.to_string(), what).remedy(format!(
                    "lower it there first, or give pool {pool} another address"
                )),
            );
        }
    }
    let has: BTreeSet<IfAddr> = of(owners, Owner::Pool(pool)).collect();
    Ok(Steps {
        add: addresses.difference(&has).copied().collect(),
        remove: has.difference(&addresses).copied().collect(),
    })
}

/// Steps after which the partner's portal is answered for here.
pub fn stand_in(owners: &Owners, portal: IpAddr, own: IpAddr) -> Result<Steps, RpcError> {
    let refuse = |code, what: String, remedy: &str| {
        Err(RpcError::new(code, format!("portal {portal}"), what).remedy(remedy))
    };
    if let Some(why) = unusable(portal, own) {
        return refuse(
            Code::InvalidParams,
            format!("it is {why}"),
            "name the address of the partner's front port",
        );
    }
    if let Some((_, owner)) = owners
        .iter()
        .find(|(up, owner)| up.address == portal && **owner != Owner::Partner)
    {
        return refuse(
            Code::Conflict,
            format!("it belongs to {owner}"),
            "give the pool an address that is no controller's",
        );
    }
    // Of one machine only, so that no route follows it.
    let addr = IfAddr {
        address: portal,
        prefix: if portal.is_ipv4() { 32 } else { 128 },
    };
    let has: BTreeSet<IfAddr> = of(owners, Owner::Partner).collect();
    let wanted = BTreeSet::from([addr]);
    Ok(Steps {
        add: wanted.difference(&has).copied().collect(),
        remove: has.difference(&wanted).copied().collect(),
    })
}

/// Steps that leave an owner, or with `None` any, without an address.
pub fn lower(owners: &Owners, owner: Option<Owner>) -> Steps {
    let remove = match owner {
        Some(owner) => of(owners, owner).collect(),
        None => owners.keys().copied().collect(),
    };
    Steps {
        add: Vec::new(),
        remove,
    }
}

fn of(owners: &Owners, owner: Owner) -> impl Iterator<Item = IfAddr> {
    owners
        .iter()
        .filter(move |(_, other)| **other == owner)
        .map(|(addr, _)| *addr)
}

fn unusable(address: IpAddr, own: IpAddr) -> Option<&'static str> {
    if address == own {
        Some("the controller's own, which never moves")
    } else if address.is_unspecified() || address.is_loopback() || address.is_multicast() {
        Some("no address of one host")
    } else if let IpAddr::V6(v6) = address
        && v6.is_unicast_link_local()
    {
        Some("valid on one link only")
    } else if let IpAddr::V4(v4) = address
        && v4.is_broadcast()
    {
        Some("no address of one host")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const P: PoolId = PoolId::from_bytes([1; 16]);
    const Q: PoolId = PoolId::from_bytes([2; 16]);

    fn own() -> IpAddr {
        "10.78.0.1".parse().unwrap()
    }

    fn addr(text: &str) -> IfAddr {
        text.parse().unwrap()
    }

    fn owners(list: &[(&str, PoolId)]) -> Owners {
        list.iter()
            .map(|(text, pool)| (addr(text), Owner::Pool(*pool)))
            .collect()
    }

    fn texts(list: &[&str]) -> Vec<String> {
        list.iter().map(|text| (*text).to_owned()).collect()
    }

    #[test]
    fn raise_brings_exactly_what_is_wanted_and_is_idempotent() {
        let before = owners(&[("10.78.0.50/24", P), ("10.78.0.51/24", P), ("10.78.0.60/24", Q)]);
        let steps = raise(
            &before,
            P,
            &texts(&["10.78.0.51/24", "fd00::5/64", "fd00::5/64"]),
            own(),
        )
        .unwrap();
        assert_eq!(
            steps,
            Steps {
                add: vec![addr("fd00::5/64")],
                remove: vec![addr("10.78.0.50/24")]
            }
        );
        let same = raise(&before, P, &texts(&["10.78.0.50/24", "10.78.0.51/24"]), own()).unwrap();
        assert_eq!(same, Steps::default());
    }

    #[test]
    fn bad_addresses_are_all_named() {
        let wanted = texts(&[
            "10.78.0.50",
            "10.78.0.1/24",
            "224.0.0.1/4",
            "fe80::1/64",
            "127.0.0.1/8",
            "10.78.0.9/24",
        ]);
        let error = raise(&Owners::new(), P, &wanted, own()).unwrap_err();
        let paths: Vec<_> = error
            .data
            .problems
            .iter()
            .map(|problem| problem.path.as_str())
            .collect();
        assert_eq!(
            paths,
            [
                "addresses[0]",
                "addresses[1]",
                "addresses[2]",
                "addresses[3]",
                "addresses[4]"
            ]
        );
        assert!(error.data.problems[1].what.contains("own"), "{error}");
    }

    #[test]
    fn an_address_has_one_pool_whatever_its_prefix() {
        let before = owners(&[("10.78.0.60/24", Q)]);
        let error = raise(&before, P, &texts(&["10.78.0.60/32"]), own()).unwrap_err();
        assert!(
            error.is(Code::Conflict) && error.to_string().contains(&Q.to_string()),
            "{error}"
        );
    }

    #[test]
    fn lower_takes_one_pool_or_all() {
        let before = owners(&[("10.78.0.50/24", P), ("10.78.0.60/24", Q)]);
        assert_eq!(
            lower(&before, Some(Owner::Pool(Q))).remove,
            [addr("10.78.0.60/24")]
        );
        assert_eq!(lower(&before, None).remove.len(), 2);
        assert_eq!(lower(&Owners::new(), Some(Owner::Pool(P))), Steps::default());
    }

    #[test]
    fn the_partners_portal_is_taken_alone_and_never_from_a_pool() {
        let portal = "10.78.0.2".parse().unwrap();
        let steps = stand_in(&Owners::new(), portal, own()).unwrap();
        assert_eq!(steps.add, [addr("10.78.0.2/32")]);
        let up = Owners::from([(addr("10.78.0.2/32"), Owner::Partner)]);
        assert_eq!(stand_in(&up, portal, own()).unwrap(), Steps::default());
        assert_eq!(lower(&up, Some(Owner::Partner)).remove, [addr("10.78.0.2/32")]);
        // The portal has moved: the old one is given up.
        let moved = stand_in(&up, "10.78.0.3".parse().unwrap(), own()).unwrap();
        assert_eq!(moved.remove, [addr("10.78.0.2/32")]);
        assert!(stand_in(&up, own(), own()).unwrap_err().is(Code::InvalidParams));
        let pools = owners(&[("10.78.0.2/24", P)]);
        assert!(stand_in(&pools, portal, own()).unwrap_err().is(Code::Conflict));
        assert!(
            raise(&up, P, &texts(&["10.78.0.2/24"]), own())
                .unwrap_err()
                .is(Code::Conflict)
        );
    }

    #[test]
    fn adoption_tells_recorded_own_and_nobodys_apart() {
        let recorded = owners(&[("10.78.0.50/24", P), ("10.78.0.51/24", Q)]);
        let [mine, kept, stale, theirs] =
            ["10.78.0.1/24", "10.78.0.50/24", "10.78.0.98/24", "10.78.0.99/24"].map(addr);
        assert_eq!(
            adopt(
                &recorded,
                &[mine, kept, stale, theirs],
                &[mine, kept, stale],
                own()
            ),
            Adoption {
                owners: owners(&[("10.78.0.50/24", P)]),
                left: vec![stale],
                strangers: vec![theirs],
                unfinished: vec![addr("10.78.0.51/24")],
            }
        );
    }

    #[test]
    fn the_kernels_own_addresses_are_nobodys_strangers() {
        let up = [
            "127.0.0.1/8",
            "::1/128",
            "fe80::1/64",
            "169.254.7.7/16",
            "10.78.0.50/24",
        ]
        .map(addr);
        let adoption = adopt(&Owners::new(), &up, &up, own());
        assert_eq!(
            (adoption.left, adoption.strangers),
            (vec![addr("10.78.0.50/24")], vec![])
        );
    }
}
