//! A GraphQL service that manages app containers and virtual machines, with durable tasks and live updates.
//!
//! One direction: `web` → `graphql` → `services` → `store`; then, by the queue, `worker` → `tasks` → `providers` and
//! `store`. Nothing calls back up: results come back by the event bus. `tests/architecture.rs` keeps it so.
//!
//! # How to add
//!
//! | what | where |
//! |---|---|
//! | a table | a step in `migration/src`, `store/<noun>.rs` with `impl Scoped`, `graphql/<noun>.rs` |
//! | with a life cycle | also `domain/<noun>.rs`, its table of transitions |
//! | a mutation | a function in `services/<noun>.rs`, a resolver in `graphql/<noun>.rs`, who may in `graphql/access.rs`, a sample in `tests/access/samples.rs`, a test in `tests/` |
//! | a kind of task | `tasks/<kind>.rs` with its input and run, a line in [`tasks::registry`] |
//! | an engine | `providers/<engine>.rs`, a line in `providers/engines.rs` for its kind and one for how it is opened, the suite of `tests/providers.rs` (containers) or `tests/machines.rs` (virtual machines) run on it |
//! | a setting | its two lines in [`config::Settings`] or the group it belongs to |

// What runs on a host and talks for it to the server.
pub mod agent;
// Built once from settings and seams; started as web, worker or both; stopped in order.
pub mod app;
// Who somebody is. What they may do is `domain::policy`.
pub mod auth;
// Backups of the database: made, kept, tried, restored.
pub mod backup;
// The command line.
pub mod cli;
// Typed settings and where they come from.
pub mod config;
// The pure core: ids, states, values, policy. No I/O.
pub mod domain;
// The closed list of public errors.
pub mod error;
// What workers do for the fleet beside the tasks: listening, reconciling, looking after hosts and pools.
pub mod fleet;
// The one schema.
pub mod graphql;
// The event bus, and rows as streams.
pub mod live;
// Where large things are kept: a folder or an S3.
pub mod objects;
// Engines that run containers and virtual machines.
pub mod providers;
// The task engine.
pub mod queue;
// How this service talks to Redis.
pub mod redis;
// The door for people: authorise, validate, one transaction.
pub mod services;
// The truth: tables, their queries, the outbox.
pub mod store;
// The kinds of tasks.
pub mod tasks;
// Logs.
pub mod telemetry;
// HTTP, WebSockets, console, health.
pub mod web;
