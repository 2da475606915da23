//! The generic layer under every list of the schema.
//!
//! An entity is declared once ([`noun`]), beside its noun's file; from that come its object type ([`row`]), its filter and its
//! orders ([`filter`], [`order`]), its connection ([`connection`]), its aggregates ([`aggregate`]), and its fields at the top
//! ([`lists`]). A selection of declared fields is compiled ([`select`]) into one statement ([`statement`], [`read`]) whose
//! rows (`found`) are written out as text (`page`), and one more for each level of lists below rows (`below`); any other goes
//! through resolvers to the same answer.

mod added;
pub mod aggregate;
mod below;
pub mod cell;
mod condition;
pub mod connection;
pub mod filter;
mod found;
pub mod lists;
pub mod live;
pub mod noun;
pub mod order;
mod page;
pub mod pattern;
pub mod read;
pub mod ready;
pub mod row;
pub mod select;
pub mod statement;
