//! Builds the stub that every executable starts with: `runtime`'s `sparkc-stub`, by a nested cargo
//! with profile `stub`, copied to `OUT_DIR` for `include_bytes!`.
//!
//! The nested target folder lies beside the profile folders of the outer build, so that debug and
//! release builds share it. Paths are mapped out of the stub, so its bytes do not name the machine.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

fn main() {
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("set by cargo"));
    let manifest = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("set by cargo"));
    let workspace = manifest.parent().expect("the crate lies in the workspace").to_path_buf();
    for source in ["runtime/src", "runtime/Cargo.toml", "tensor/src", "tensor/Cargo.toml"] {
        println!("cargo::rerun-if-changed={}", workspace.join(source).display());
    }
    println!("cargo::rerun-if-changed=build.rs");
    // OUT_DIR is TARGET/PROFILE/build/PACKAGE/out.
    let target = out.ancestors().nth(4).expect("cargo's layout of OUT_DIR").join("stub");
    let binary = build(&workspace, &target);
    std::fs::copy(&binary, out.join("sparkc-stub")).expect("the stub was built");
}

/// Runs the nested build and returns the binary.
fn build(workspace: &Path, target: &Path) -> PathBuf {
    let mut command = Command::new(env::var_os("CARGO").expect("set by cargo"));
    // What the outer cargo set for this crate would mislead the inner one.
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy().into_owned();
        let outer = text.starts_with("CARGO_PKG_")
            || text.starts_with("CARGO_CFG_")
            || text.starts_with("CARGO_FEATURE_")
            || text.starts_with("CARGO_MANIFEST_")
            || text.starts_with("CARGO_PROFILE_")
            || text.starts_with("DEP_");
        if outer {
            command.env_remove(&name);
        }
    }
    for name in [
        "CARGO_ENCODED_RUSTFLAGS",
        "CARGO_BUILD_TARGET",
        "CARGO_BUILD_RUSTFLAGS",
        "CARGO_TARGET_DIR",
        "CARGO_PRIMARY_PACKAGE",
        "RUSTFLAGS",
        "RUSTC_WORKSPACE_WRAPPER",
        "OPT_LEVEL",
        "DEBUG",
        "PROFILE",
        "OUT_DIR",
    ] {
        command.env_remove(name);
    }
    let mut flags = vec![format!("--remap-path-prefix={}=/sparkc", workspace.display())];
    let home = env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| env::var_os("HOME").map(|h| PathBuf::from(h).join(".cargo")));
    flags.extend(home.map(|h| format!("--remap-path-prefix={}=/cargo", h.display())));
    command
        .current_dir(workspace)
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}"))
        .args(["build", "--quiet", "--profile", "stub"])
        .args(["--package", "sparkc-runtime", "--bin", "sparkc-stub"])
        .arg("--target-dir")
        .arg(target);
    if workspace.join("Cargo.lock").exists() {
        command.arg("--locked");
    }
    let (host, triple) = (env::var("HOST"), env::var("TARGET"));
    let mut folder = target.to_path_buf();
    if let (Ok(host), Ok(triple)) = (host, triple)
        && host != triple
    {
        command.args(["--target", &triple]);
        folder.push(triple);
    }
    let status = command.status().expect("cargo runs");
    assert!(status.success(), "the nested build of sparkc-stub failed: {status}");
    folder.join("stub").join(format!("sparkc-stub{}", env::consts::EXE_SUFFIX))
}
