//! The kinds that can be asked for by name, with an input of one's own: those that touch nothing but themselves.

use sea_orm::JsonValue;

use super::{demo, noop};
use crate::{
    error::{AppError, InField as _},
    store::tasks::{NewTask, TaskInput},
};

/// Their names.
pub const OPEN: [&str; 2] = [demo::Input::KIND, noop::Input::KIND];

/// The task of the open kind `kind` with `input`.
///
/// # Errors
/// Which of the two is wrong, and what is.
pub fn task(kind: &str, input: JsonValue) -> Result<NewTask, AppError> {
    match kind {
        demo::Input::KIND => {
            let input: demo::Input = read(input)?;
            input.check().in_field("input")?;
            input.into_task(None, None)
        }
        noop::Input::KIND => read::<noop::Input>(input)?.into_task(None, None),
        _ => {
            let open = OPEN.join(", ");
            Err(AppError::Invalid {
                field: "kind",
                reason: format!("'{kind}' is not one of those to be asked for by name: {open}"),
            })
        }
    }
}

fn read<I: TaskInput>(input: JsonValue) -> Result<I, AppError> {
    I::decode(I::VERSION, input).map_err(|reason| AppError::Invalid {
        field: "input",
        reason,
    })
}
