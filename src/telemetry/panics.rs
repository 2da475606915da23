//! Panics stand in the log like everything else, in its form and with the ids of what was worked on.

use std::panic;

/// Has panics logged; `shows_by_default` has the library say them in its own way as well.
pub(super) fn log(shows_by_default: bool) {
    let before = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        let location = info.location().map(ToString::to_string);
        let message = info.payload_as_str().unwrap_or("no words");
        tracing::error!(
            target: "panic",
            code = "PANIC",
            location = location.as_deref(),
            error = message,
            "panicked"
        );
        if shows_by_default {
            before(info);
        }
    }));
}
