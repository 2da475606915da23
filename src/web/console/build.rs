//! Builds the console with npm when npm is there, so that it can be put inside the binary.
//!
//! Without npm, or when its build fails, the binary serves a page that loads GraphiQL from a CDN. `CONSOLE=cdn` asks
//! for that; with `CONSOLE=<folder>` the console is the one that stands there already.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
    process::Command,
};

const SOURCE: &str = "src/web/console";

fn main() -> io::Result<()> {
    println!("cargo::rerun-if-changed={SOURCE}");
    println!("cargo::rerun-if-changed=migration/src");
    println!("cargo::rerun-if-env-changed=CONSOLE");
    println!("cargo::rustc-check-cfg=cfg(console_embedded)");
    let out = PathBuf::from(
        env::var_os("OUT_DIR").ok_or_else(|| io::Error::other("OUT_DIR is not set"))?,
    );
    let built = out.join("console");
    println!("cargo::rustc-env=CONSOLE_DIR={}", built.display());
    if built.exists() {
        fs::remove_dir_all(&built)?;
    }
    let choice = env::var("CONSOLE").unwrap_or_default();
    if choice.starts_with('/') {
        // Somebody who names one does not want another: it is there or the build ends.
        copy(Path::new(&choice), &built)?;
        println!("cargo::rustc-cfg=console_embedded");
    } else if choice != "cdn"
        && Path::new(SOURCE).join("package-lock.json").exists()
        && is_there("npm")
    {
        match build(&out.join("console-build"), &built) {
            Ok(()) => println!("cargo::rustc-cfg=console_embedded"),
            Err(error) => println!("cargo::warning=the console is not embedded: {error}"),
        }
    }
    fs::create_dir_all(&built)
}

fn is_there(program: &str) -> bool {
    Command::new(program)
        .arg("--version")
        .output()
        .is_ok_and(|output| output.status.success())
}

/// Copies the sources aside, so that nothing is written into the checkout, and builds there.
fn build(work: &Path, built: &Path) -> io::Result<()> {
    copy(Path::new(SOURCE), work)?;
    npm(
        work,
        built,
        &[
            "ci",
            "--no-audit",
            "--no-fund",
            "--prefer-offline",
            "--fetch-retries=1",
        ],
    )?;
    npm(work, built, &["run", "build"])?;
    if built.join("index.html").exists() {
        Ok(())
    } else {
        Err(io::Error::other("npm left no index.html"))
    }
}

fn npm(work: &Path, built: &Path, arguments: &[&str]) -> io::Result<()> {
    let output = Command::new("npm")
        .args(arguments)
        .current_dir(work)
        .env("OUT_DIR_CONSOLE", built)
        .output()?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let last = said
        .lines()
        .rev()
        .find(|line| !line.trim().is_empty())
        .unwrap_or_default();
    Err(io::Error::other(format!(
        "npm {} failed: {last}",
        arguments.join(" ")
    )))
}

fn copy(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let name = entry.file_name();
        if name == "node_modules" || name == "dist" {
            continue;
        }
        let target = to.join(&name);
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}
