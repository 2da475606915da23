//! The one place where an error becomes GraphQL.

use async_graphql::{Context, Error, ErrorExtensionValues, Pos, Response, ServerError};

use crate::{
    domain::{entropy::secret_bytes, keyring::hex},
    error::{AppError, StoreError},
};

/// An error on its way to a client.
pub struct Coded<'a>(pub &'a AppError);

impl From<Coded<'_>> for Error {
    fn from(Coded(error): Coded<'_>) -> Self {
        let mut shown = match error {
            AppError::Internal(source) => {
                let reference = hex(&secret_bytes::<6>());
                tracing::error!(
                    reference,
                    code = "INTERNAL",
                    error = chain(&**source),
                    "internal error"
                );
                Self::new(format!("internal error, reference {reference}"))
            }
            other => Self::new(other.to_string()),
        };
        let mut extensions = ErrorExtensionValues::default();
        extensions.set("code", error.code());
        if let Some(field) = error.field() {
            extensions.set("field", field);
        }
        if let AppError::RateLimited { retry_after } = error {
            extensions.set("retryAfterSeconds", retry_after.as_secs().max(1));
        }
        shown.extensions = Some(extensions);
        shown
    }
}

impl From<Coded<'_>> for ServerError {
    fn from(error: Coded<'_>) -> Self {
        let mut shown = Error::from(error).into_server_error(Pos::default());
        shown.locations.clear();
        shown
    }
}

/// The response to what is not executed.
pub fn refusal(error: &AppError) -> Response {
    Response::from_errors(vec![ServerError::from(Coded(error))])
}

impl From<AppError> for Error {
    fn from(error: AppError) -> Self {
        Coded(&error).into()
    }
}

impl From<StoreError> for Error {
    fn from(error: StoreError) -> Self {
        AppError::from(error).into()
    }
}

fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |cause| cause.source());
    causes
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(": ")
}

/// Gives the value of a nullable field that may fail: null with the error beside it, so that its siblings survive.
pub fn nullable<T>(ctx: &Context<'_>, result: Result<T, impl Into<Error>>) -> Option<T> {
    match result {
        Ok(value) => Some(value),
        Err(error) => {
            let error = ctx.set_error_path(error.into().into_server_error(ctx.item.pos));
            ctx.add_error(error);
            None
        }
    }
}

/// Gives a code to the errors the library makes itself: a request it cannot read, check or fit into the limits.
pub fn with_codes(mut response: Response) -> Response {
    for error in &mut response.errors {
        let extensions = error
            .extensions
            .get_or_insert_with(ErrorExtensionValues::default);
        if extensions.get("code").is_none() {
            extensions.set("code", "BAD_USER_INPUT");
        }
    }
    response
}
