//! The one way into an owned table for a person: the policy's scope becomes the query's condition.

use sea_orm::{
    ColumnTrait as _, Condition, EntityTrait, QueryFilter as _, Select, sea_query::Expr,
};

use crate::domain::policy::{Action, Resource, Scope, Viewer, scope};

/// An entity people may ask for.
pub trait Scoped: EntityTrait {
    const RESOURCE: Resource;

    /// The column with the owner; `None` for what nobody owns.
    fn owner() -> Option<Self::Column>;

    /// The column with the host it is on; `None` for what is on none.
    fn host() -> Option<Self::Column> {
        None
    }

    /// The rows `viewer` reaches for `action`.
    fn visible_to(viewer: Viewer, action: Action) -> Select<Self> {
        let nothing = || Condition::all().add(Expr::value(false));
        let condition = match scope(viewer, action, Self::RESOURCE) {
            Scope::Everything => Condition::all(),
            Scope::OwnedBy(user) => Self::owner().map_or_else(nothing, |column| {
                Condition::all().add(column.eq(user.uuid()))
            }),
            Scope::OnHost(host) => Self::host().map_or_else(nothing, |column| {
                Condition::all().add(column.eq(host.uuid()))
            }),
            Scope::Nothing => nothing(),
        };
        Self::find().filter(condition)
    }
}
