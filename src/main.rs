//! argv → cli; nothing else.

#[tokio::main]
async fn main() -> std::process::ExitCode {
    main_webserver::cli::run().await
}
