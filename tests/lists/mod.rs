//! The generic lists: the same answers from both databases, both ways of answering, and a plain model; and by an index.

mod added;
mod live;
mod model;
mod nested;
mod plans;
mod property;
mod together;
