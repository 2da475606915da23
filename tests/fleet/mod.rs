//! The fleet on simulated engines: containers' lives, warm pools, clusters, hosts, and the differences that are mended. The same on
//! real engines is in `docker.rs`, `swarm.rs` and `agent.rs`.

mod clusters;
mod hosts;
mod life;
mod logs;
mod plan;
pub mod pools;
mod reconcile;
