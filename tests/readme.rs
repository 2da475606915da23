//! The README's session does what the README says, as pasted.

use tokio::process::Command;

use crate::harness::{Ground, process::Process};

#[tokio::test]
async fn the_readmes_session_works_as_pasted() {
    let readme = include_str!("../README.md");
    let session = readme
        .split("```sh\n")
        .nth(1)
        .unwrap()
        .split("```")
        .next()
        .unwrap();
    let ground = Ground::new().await.with("LOG", "warn");
    let serve = Process::start(&ground, "serve").await;
    let here = session.replace("localhost:7730", &serve.address.unwrap().to_string());
    let output = Command::new("bash")
        .args(["-c", &here])
        .output()
        .await
        .unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    for words in [
        r#""viewer":{"name":"Ada","role":"USER"}"#,
        r#""state":"QUEUED""#,
        r#""state":"SUCCEEDED","progress":100"#,
        r#""container":{"state":"RUNNING","provider":"simulated""#,
        "simulates busybox:1.37",
        r#""containerUpdated":{"state":"DELETED"}"#,
    ] {
        assert!(
            said.contains(words),
            "{words} is missing in:\n{said}\n{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    assert!(!said.contains("errors"), "{said}");
    assert_eq!(serve.end("-INT").await.code(), Some(0));
    ground.clear().await;
}
