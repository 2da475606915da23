//! Ports of this host that a machine's are forwarded from.

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, TcpListener},
};

use super::ProviderError;

/// A free port of the host for each of the guest's, those of `before` where they are still free.
pub(super) fn free(
    engine: &'static str,
    inside: &[u16],
    address: IpAddr,
    before: &BTreeMap<u16, u16>,
) -> Result<BTreeMap<u16, u16>, ProviderError> {
    let rejected = |why| ProviderError::Rejected { engine, why };
    if !inside.is_empty() && address.is_ipv6() {
        let why = format!("ports are forwarded from IPv4 addresses only, not from {address}");
        return Err(rejected(why));
    }
    // Held until all are found, so that none is found twice.
    let mut held = Vec::new();
    let mut found = BTreeMap::new();
    for port in inside {
        let known = before.get(port).copied();
        let listener = known
            .and_then(|known| TcpListener::bind((address, known)).ok())
            .map_or_else(|| TcpListener::bind((address, 0)), Ok);
        let opened = listener.and_then(|listener| {
            let outside = listener.local_addr()?.port();
            held.push(listener);
            Ok(outside)
        });
        let outside = opened.map_err(|error| match error.kind() {
            io::ErrorKind::AddrNotAvailable => {
                rejected(format!("{address} is no address of this host"))
            }
            _ => ProviderError::Quota {
                engine,
                why: format!("no port of {address} could be had: {error}"),
            },
        })?;
        found.insert(*port, outside);
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_kept_while_it_is_free() {
        let local = IpAddr::from([127, 0, 0, 1]);
        let first = free("qemu", &[80, 443], local, &BTreeMap::new()).unwrap();
        assert_ne!(first[&80], first[&443]);
        assert_eq!(free("qemu", &[80, 443], local, &first).unwrap(), first);
        let _taken = TcpListener::bind((local, first[&80])).unwrap();
        assert_ne!(free("qemu", &[80], local, &first).unwrap()[&80], first[&80]);
    }
}
