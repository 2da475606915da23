//! The addresses of engines that clusters and hosts name.

use crate::{
    error::AppError,
    tasks::clusters::{has_address, runs_machines},
};

/// The address of a cluster's engine, of a sort that engines of its kind are reached by.
pub(super) fn endpoint_of(provider: &str, text: &str) -> Result<String, AppError> {
    let refused = |reason: &str| AppError::Invalid {
        field: "endpoint",
        reason: reason.to_owned(),
    };
    if !has_address(provider) {
        return Err(refused("engines of this provider are the workers' own"));
    }
    if !runs_machines(provider) {
        return endpoint(text);
    }
    libvirt_uri(text)
        .then(|| text.to_owned())
        .ok_or_else(|| refused("qemu:///system or qemu+ssh://host/system is expected"))
}

/// Whether a text is a connection URI of libvirt with nothing in it that names a program or a file of the worker's host.
fn libvirt_uri(text: &str) -> bool {
    const WAYS: [&str; 6] = [
        "qemu",
        "qemu+unix",
        "qemu+ssh",
        "qemu+libssh2",
        "qemu+tls",
        "qemu+tcp",
    ];
    let is_plain = text.len() <= 256 && text.bytes().all(|byte| byte.is_ascii_graphic());
    let Ok(uri) = url::Url::parse(text) else {
        return false;
    };
    let is_name = |name: &str| !name.starts_with('-') && !name.contains('%');
    let names = [uri.host_str().unwrap_or_default(), uri.username()];
    is_plain
        && WAYS.contains(&uri.scheme())
        && matches!(uri.path(), "/system" | "/session")
        && names.into_iter().all(is_name)
        && uri.password().is_none()
        && uri.query_pairs().all(|(name, _)| name == "socket")
}

/// The address of an engine.
pub(super) fn endpoint(text: &str) -> Result<String, AppError> {
    let is_known = ["unix://", "tcp://", "http://"]
        .iter()
        .any(|scheme| text.starts_with(scheme) && text.len() > scheme.len());
    let is_plain = text.len() <= 256 && text.bytes().all(|byte| byte.is_ascii_graphic());
    if is_known && is_plain {
        return Ok(text.to_owned());
    }
    Err(AppError::Invalid {
        field: "endpoint",
        reason: "unix://… or tcp://… is expected".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_of_the_kind_of_its_engine() {
        for (provider, text) in [
            ("docker", "tcp://far:1"),
            ("libvirt", "qemu:///system"),
            ("libvirt", "qemu+ssh://root@far:22/system"),
            ("libvirt", "qemu:///system?socket=/run/libvirt/libvirt-sock"),
            ("libvirt", "qemu+tls://far/system"),
        ] {
            assert_eq!(endpoint_of(provider, text).ok().as_deref(), Some(text));
        }
        for (provider, text) in [
            ("docker", "qemu:///system"),
            ("libvirt", "tcp://far:1"),
            ("libvirt", "qemu+ext:///system?command=/bin/sh"),
            ("libvirt", "qemu+ssh://far/system?netcat=/bin/sh"),
            ("libvirt", "qemu+ssh://-oProxyCommand=sh/system"),
            ("libvirt", "qemu+ssh://far/"),
            ("qemu", "tcp://far:1"),
            ("simulated-machines", "tcp://far:1"),
        ] {
            assert!(endpoint_of(provider, text).is_err(), "{provider} {text}");
        }
    }
}
