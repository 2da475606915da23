//! A GraphQL service that manages app containers, with durable tasks and live updates.
pub mod config;
pub mod domain;
pub mod error;
pub mod store;
