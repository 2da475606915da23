//! Real machines, through GraphQL.
