//! A GraphQL service that manages app containers, with durable tasks and live updates.
pub mod app;
pub mod auth;
pub mod cli;
pub mod config;
pub mod domain;
pub mod error;
pub mod graphql;
pub mod live;
pub mod providers;
pub mod queue;
pub mod redis;
pub mod services;
pub mod store;
pub mod tasks;
pub mod telemetry;
pub mod web;
