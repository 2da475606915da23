//! The service from outside, one folder or file a theme. `tests/run.sh` runs them all.
#![expect(
    clippy::unwrap_used,
    reason = "a test ends at the first thing that is not as it should be"
)]

mod harness;

mod access;
mod accounts;
mod agent;
mod architecture;
mod attacks;
mod backup;
mod chaos;
mod configuration;
mod connection_logs;
mod containers;
mod docker;
mod drills;
mod fleet;
mod indexes;
mod lists;
mod live;
mod machines;
mod operators;
mod processes;
mod protocol;
mod providers;
mod queue;
mod readme;
mod reports;
mod schema;
mod shared;
mod simulation;
mod stores;
mod swarm;
mod tables;
mod telemetry;
mod virtual_machines;
