//! A GraphQL service that manages app containers, with durable tasks and live updates.
pub mod config;
pub mod domain;
pub mod error;
pub mod live;
pub mod providers;
pub mod queue;
pub mod redis;
pub mod store;
