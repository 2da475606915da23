//! A life cycle is a table, so that it can be tested, printed and drawn.

use std::fmt::Debug;

/// A state with the complete table of what may follow it.
pub trait Machine: Copy + Eq + Debug + 'static {
    type Event: Copy + Eq + Debug + 'static;
    /// Every permitted step as (from, event, to); no pair of from and event stands in it twice.
    const TABLE: &'static [(Self, Self::Event, Self)];
    /// The states nothing leads out of by itself.
    const TERMINAL: &'static [Self];
    /// The steps out of an ended state that somebody may ask for.
    const REVIVALS: &'static [(Self, Self::Event, Self)] = &[];

    /// The state after `event`.
    ///
    /// # Errors
    /// [`IllegalTransition`] when the table has no such row.
    fn after(self, event: Self::Event) -> Result<Self, IllegalTransition> {
        Self::TABLE
            .iter()
            .chain(Self::REVIVALS)
            .find(|(from, on, _)| *from == self && *on == event)
            .map(|(.., to)| *to)
            .ok_or_else(|| IllegalTransition {
                from: shout(&self),
                event: format!("{event:?}").to_lowercase(),
            })
    }

    fn is_terminal(self) -> bool {
        Self::TERMINAL.contains(&self)
    }
}

/// Gives an enum the names the database keeps, both ways, from one list.
macro_rules! named {
    ($type:ident { $($variant:ident = $name:literal),* $(,)? }) => {
        impl $type {
            /// The name the database keeps.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }

            /// The variant of a kept name.
            pub fn parse(name: &str) -> Option<Self> {
                match name {
                    $($name => Some(Self::$variant),)*
                    _ => None,
                }
            }
        }
    };
}
pub(crate) use named;

/// The state's public name, as GraphQL writes it.
fn shout(state: &impl Debug) -> String {
    format!("{state:?}").to_uppercase()
}

/// A step that the life cycle does not know.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("cannot {event} while {from}")]
pub struct IllegalTransition {
    pub from: String,
    pub event: String,
}

#[cfg(test)]
pub mod laws {
    use super::Machine;

    /// Each state is reached from `start`, each can come to an end, no (state, event) stands twice.
    pub fn hold_for<M: Machine>(start: M) {
        for (index, (from, event, _)) in M::TABLE.iter().enumerate() {
            let twins = M::TABLE[index + 1..]
                .iter()
                .filter(|(f, e, _)| f == from && e == event)
                .count();
            assert_eq!(twins, 0, "{from:?} + {event:?} stands twice");
            assert!(
                !from.is_terminal(),
                "{from:?} is terminal and has a way out"
            );
        }
        for (from, event, to) in M::REVIVALS {
            assert!(from.is_terminal() && !to.is_terminal(), "{event:?} revives");
        }
        let mut reached = vec![start];
        let mut next = 0;
        while let Some(state) = reached.get(next).copied() {
            next += 1;
            for (_, _, to) in M::TABLE.iter().filter(|(from, ..)| *from == state) {
                if !reached.contains(to) {
                    reached.push(*to);
                }
            }
        }
        for (from, _, to) in M::TABLE {
            assert!(reached.contains(from), "{from:?} cannot be reached");
            assert!(reached.contains(to), "{to:?} cannot be reached");
        }
        let mut ending: Vec<M> = M::TERMINAL.to_vec();
        loop {
            let more: Vec<M> = M::TABLE
                .iter()
                .filter(|(f, _, t)| ending.contains(t) && !ending.contains(f))
                .map(|row| row.0)
                .collect();
            if more.is_empty() {
                break;
            }
            ending.extend(more);
        }
        for state in reached {
            assert!(ending.contains(&state), "{state:?} can never end");
        }
    }
}
