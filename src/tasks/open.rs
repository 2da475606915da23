//! The kinds that can be asked for by name, with an input of one's own: those that touch nothing but themselves.

use sea_orm::JsonValue;

use super::{demo, noop};
use crate::{
    domain::value::Refused,
    error::AppError,
    store::tasks::{NewTask, TaskInput},
};

/// Their names.
pub const OPEN: [&str; 2] = [demo::Input::KIND, noop::Input::KIND];

/// The task of the open kind `kind` with `input`.
///
/// # Errors
/// Which of the two is wrong, as a field's name, and what is.
pub fn task(kind: &str, input: JsonValue) -> Result<NewTask, (&'static str, Refused)> {
    match kind {
        demo::Input::KIND => read::<demo::Input>(input).and_then(|input| {
            input.check().map_err(|refused| ("input", refused))?;
            into_task(input)
        }),
        noop::Input::KIND => read::<noop::Input>(input).and_then(into_task),
        _ => {
            let open = OPEN.join(", ");
            Err((
                "kind",
                Refused(format!(
                    "'{kind}' is not one of those to be asked for by name: {open}"
                )),
            ))
        }
    }
}

fn read<I: TaskInput>(input: JsonValue) -> Result<I, (&'static str, Refused)> {
    I::decode(I::VERSION, input).map_err(|problem| ("input", Refused(problem)))
}

fn into_task<I: TaskInput>(input: I) -> Result<NewTask, (&'static str, Refused)> {
    input
        .into_task(None, None)
        .map_err(|error: AppError| ("input", Refused(error.to_string())))
}
