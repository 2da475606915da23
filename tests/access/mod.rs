//! Who sees what: the schema against its declarations, every operation against every viewer, every list against the rows.

mod declarations;
mod filters;
mod lists;
mod operations;
mod printed;
mod rows;
mod samples;
mod scene;
