//! The life of a host: a machine that runs containers.

use super::{Machine, machine::named};

/// Where a host stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HostStatus {
    /// It has a credential and has not been heard of yet.
    Registered,
    /// It is heard of, and takes containers.
    Healthy,
    /// It has been silent for a while; nobody knows how its containers are.
    Stale,
    /// It takes no new containers, and those it has are leaving.
    Draining,
    /// It has gone, or been silent for so long that what it had is made anew elsewhere.
    Dead,
}

/// What happens to a host.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HostEvent {
    Heard,
    Silent,
    Drain,
    Lost,
    Registered,
    /// A machine that was about to go is still there.
    Returned,
}

named!(HostStatus {
    Registered = "registered",
    Healthy = "healthy",
    Stale = "stale",
    Draining = "draining",
    Dead = "dead",
});

impl Machine for HostStatus {
    type Event = HostEvent;
    const TERMINAL: &'static [Self] = &[Self::Dead];
    const TABLE: &'static [(Self, HostEvent, Self)] = {
        use HostEvent as E;
        use HostStatus as S;
        &[
            (S::Registered, E::Heard, S::Healthy),
            (S::Registered, E::Drain, S::Draining),
            (S::Registered, E::Lost, S::Dead),
            (S::Registered, E::Registered, S::Registered),
            (S::Healthy, E::Silent, S::Stale),
            (S::Healthy, E::Drain, S::Draining),
            (S::Healthy, E::Lost, S::Dead),
            (S::Healthy, E::Registered, S::Registered),
            (S::Stale, E::Heard, S::Healthy),
            (S::Stale, E::Drain, S::Draining),
            (S::Stale, E::Lost, S::Dead),
            (S::Stale, E::Registered, S::Registered),
            (S::Draining, E::Lost, S::Dead),
            (S::Draining, E::Returned, S::Healthy),
            (S::Draining, E::Registered, S::Registered),
        ]
    };
    // A machine that was given up may come back, with a new registration or by being heard of again.
    const REVIVALS: &'static [(Self, HostEvent, Self)] = &[
        (Self::Dead, HostEvent::Heard, Self::Healthy),
        (Self::Dead, HostEvent::Registered, Self::Registered),
    ];
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_life_of_a_host_is_sound() {
        crate::domain::machine::laws::hold_for(HostStatus::Registered);
    }
}
