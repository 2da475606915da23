//! How a machine is, by what libvirt says of its domain and by what was written into it.
//!
//! Two elements of ours are in a domain's metadata: `record`, which is written with the domain itself, and `phase`, which
//! says how the machine was last put to rest or started. libvirt forgets why a domain has ended when its daemon does.

use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Serialize};

use super::{
    virsh::{NO_DOMAIN, Virsh, failed, said},
    xml::{escaped, text_of},
};
use crate::{
    domain::{Id, id::VirtualMachine},
    providers::{Instance, ProviderError, Status, instance_name},
};

const RECORD: &str = "urn:main-webserver:record";
pub(super) const PHASE: &str = "urn:main-webserver:phase";
/// What becomes of the code of a process nobody has waited for.
const UNKNOWN_CODE: i64 = -1;
/// How many machines are asked for at once.
const AT_ONCE: usize = 64;

/// What is known of a machine beside its disk.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) generation: i32,
    pub(super) deployment: String,
    /// Port inside → port of the host.
    pub(super) ports: BTreeMap<u16, u16>,
    /// The address of the host those are reached at.
    pub(super) ip: Option<String>,
    /// What its console says when it is up.
    pub(super) ready_text: Option<String>,
    /// How often it has been started; the last of them may be about to happen.
    pub(super) starts: u32,
    /// Where in the console's log its last start begins.
    pub(super) log_start: u64,
}

/// How a machine was last put to rest or started.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Phase {
    /// Never started.
    Created,
    /// Running; when it does not, it has ended by itself.
    Started,
    /// Its end was in order, or ours.
    Off,
}

impl Phase {
    const ALL: [(Self, &str); 3] = [
        (Self::Created, "created"),
        (Self::Started, "started"),
        (Self::Off, "off"),
    ];

    /// As it is written: of which start it is told, and what.
    pub(super) fn of(self, starts: u32) -> String {
        let named = Self::ALL.iter().find(|(phase, _)| *phase == self);
        format!("{starts} {}", named.map_or("", |(_, name)| name))
    }

    fn read(text: &str, starts: u32) -> Option<Self> {
        let (of, name) = text.split_once(' ')?;
        let of_this = of.parse() == Ok(starts);
        let named = Self::ALL.iter().find(|(_, known)| *known == name);
        named.filter(|_| of_this).map(|(phase, _)| *phase)
    }
}

/// The metadata of a domain.
pub(super) fn metadata(record: &Record, phase: Phase) -> Result<String, ProviderError> {
    let text = serde_json::to_string(record)
        .map_err(|error| failed(format!("its record cannot be written: {error}")))?;
    Ok(format!(
        "<metadata><record:main xmlns:record='{RECORD}'>{}</record:main><phase:main xmlns:phase='{PHASE}'>{}</phase:main></metadata>",
        escaped(&text),
        phase.of(record.starts)
    ))
}

/// What a domain does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Doing {
    Running,
    /// It stands still, and is to go on by itself.
    Waiting,
    /// It stands still for good: its kernel has panicked, or its disk fails.
    Broken,
    /// It has no process; whether its guest has ended in order.
    Nothing {
        in_order: bool,
    },
}

impl Doing {
    /// By libvirt's numbers (`virDomainState` and the reasons of each).
    const fn of(state: u64, reason: u64) -> Self {
        match (state, reason) {
            // Running, blocked, and one whose guest has ended a moment ago.
            (1 | 2 | 4, _) => Self::Running,
            // Paused for an error of the disk, a watchdog, a crash.
            (3, 5 | 6 | 10) | (6, _) => Self::Broken,
            (5, 1) => Self::Nothing { in_order: true },
            (5, _) => Self::Nothing { in_order: false },
            _ => Self::Waiting,
        }
    }
}

/// A machine as it was found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Found {
    pub(super) id: Id<VirtualMachine>,
    pub(super) record: Record,
    pub(super) phase: Phase,
    pub(super) doing: Doing,
}

impl Found {
    pub(super) const fn has_process(&self) -> bool {
        !matches!(self.doing, Doing::Nothing { .. })
    }

    /// How one without a process is; `None` for one that has one.
    pub(super) const fn rest(&self) -> Option<Status> {
        match (self.doing, self.phase) {
            (Doing::Running | Doing::Waiting | Doing::Broken, _) => None,
            (Doing::Nothing { .. }, Phase::Created) => Some(Status::Created),
            (Doing::Nothing { .. }, Phase::Off) | (Doing::Nothing { in_order: true }, _) => {
                Some(Status::Off)
            }
            (Doing::Nothing { in_order: false }, Phase::Started) => {
                Some(Status::Exited { code: UNKNOWN_CODE })
            }
        }
    }

    pub(super) fn instance(&self, status: Status) -> Instance<VirtualMachine> {
        let record = &self.record;
        Instance {
            id: self.id,
            generation: record.generation,
            deployment: Some(record.deployment.clone()),
            node: None,
            handle: format!("{}.{}", instance_name(self.id), record.generation),
            status,
            // What is outside reaches it by its ports alone.
            ip: record.ip.clone().filter(|_| self.has_process()),
            ports: if self.has_process() {
                record.ports.clone()
            } else {
                BTreeMap::new()
            },
        }
    }
}

/// The machine, if there is one. The record of one that runs is that of its start.
pub(super) async fn find(
    virsh: &Virsh,
    id: Id<VirtualMachine>,
) -> Result<Option<Found>, ProviderError> {
    let name = instance_name(id);
    let script = format!("domstats --raw --state {name}; dumpxml {name}");
    let output = virsh.run(&[&script], None).await?;
    if !output.is_success() && NO_DOMAIN.iter().any(|text| output.stderr.contains(text)) {
        return Ok(None);
    }
    let text = said(&output)?;
    match read(&text).pop() {
        Some(found) => Ok(Some(found)),
        // It may have been removed between the two.
        None if !output.stderr.is_empty() => Ok(None),
        None => Err(failed(format!("{name} is a domain without a record"))),
    }
}

/// All machines of ours, whatever deployment's.
pub(super) async fn all(virsh: &Virsh) -> Result<Vec<Found>, ProviderError> {
    let names = virsh.ask(&["list", "--all", "--name"]).await?;
    let ours: Vec<_> = names
        .lines()
        .map(str::trim)
        .filter(|name| id_of(name).is_some())
        .collect();
    let mut found = Vec::new();
    for names in ours.chunks(AT_ONCE) {
        let looks = names.iter().map(|name| format!("; dumpxml {name}"));
        let script = format!("domstats --raw --state{}", looks.collect::<String>());
        // One that is gone meanwhile is no failure of the others.
        let output = virsh.run(&[&script], None).await?;
        if !output.is_success() && !NO_DOMAIN.iter().any(|text| output.stderr.contains(text)) {
            said(&output)?;
        }
        found.extend(read(&output.text()));
    }
    Ok(found)
}

/// The id in a domain's name.
pub(super) fn id_of(name: &str) -> Option<Id<VirtualMachine>> {
    Id::parse(name.strip_prefix("main-")?)
}

/// Reads what `domstats --raw --state` and then `dumpxml` say. Whatever is not ours is passed over.
fn read(text: &str) -> Vec<Found> {
    let mut doing = HashMap::new();
    let (mut name, mut state) = (None, 0);
    // A domain's own texts may look like the lines before the domains.
    let states = text.split("<domain type").next().unwrap_or_default();
    for line in states.lines() {
        let line = line.trim();
        if let Some(rest) = line.strip_prefix("Domain: '") {
            name = id_of(rest.trim_end_matches('\''));
        } else if let Some(rest) = line.strip_prefix("state.state=") {
            state = rest.parse().unwrap_or_default();
        } else if let Some(rest) = line.strip_prefix("state.reason=") {
            let reason = rest.parse().unwrap_or_default();
            doing.extend(name.map(|id| (id, Doing::of(state, reason))));
        }
    }
    let domains = text.split("\n</domain>").filter_map(|xml| {
        let xml = &xml[xml.rfind("<domain type")?..];
        let id = id_of(&text_of(xml, "name")?)?;
        let record: Record = serde_json::from_str(&text_of(xml, "record:main")?).ok()?;
        let phase = text_of(xml, "phase:main");
        let phase = phase.and_then(|text| Phase::read(&text, record.starts));
        Some(Found {
            id,
            phase: phase.unwrap_or(Phase::Started),
            doing: *doing.get(&id)?,
            record,
        })
    });
    domains.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> Record {
        Record {
            generation: 2,
            deployment: "a <b> & 'c'".to_owned(),
            ports: BTreeMap::from([(8080, 40_000)]),
            ip: None,
            ready_text: Some("up\n</domain>".to_owned()),
            starts: 3,
            log_start: 9,
        }
    }

    #[test]
    fn a_machine_is_read_from_what_libvirt_says() {
        let id = Id::new(uuid::Uuid::from_u128(7));
        let name = instance_name(id);
        let said = |state: u32, reason: u32, phase| {
            let metadata = metadata(&record(), phase).unwrap();
            let domain =
                format!("<domain type='qemu'>\n  <name>{name}</name>\n  {metadata}\n</domain>\n");
            format!(
                "Domain: 'other'\n  state.state=1\n  state.reason=1\nDomain: '{name}'\n  state.state={state}\n  \
                 state.reason={reason}\n\n<domain type='kvm'>\n  <name>other</name>\n</domain>\n\n{domain}\n"
            )
        };
        let rest = |state, reason, phase| {
            let found = read(&said(state, reason, phase)).pop().unwrap();
            assert_eq!((found.id, &found.record), (id, &record()));
            found.rest()
        };
        assert_eq!(rest(1, 1, Phase::Off), None);
        assert_eq!(rest(6, 1, Phase::Started), None);
        assert_eq!(rest(5, 1, Phase::Started), Some(Status::Off));
        assert_eq!(rest(5, 2, Phase::Off), Some(Status::Off));
        assert_eq!(
            rest(5, 0, Phase::Started),
            Some(Status::Exited { code: -1 })
        );
        assert_eq!(rest(5, 0, Phase::Created), Some(Status::Created));
    }

    #[test]
    fn what_was_told_of_another_start_says_nothing_of_this_one() {
        assert_eq!(Phase::read("3 off", 3), Some(Phase::Off));
        assert_eq!(Phase::read("2 off", 3), None);
    }
}
