//! Holds the tree to the floors of its design: a module uses only floors below it, and siblings do not see each other.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Floors from the ground up; modules in one row are siblings.
const FLOORS: &[&[&str]] = &[
    &["crypto"],
    &["wire"],
    &["net"],
    &["dns", "relay"],
    &["inbound", "outbound", "route"],
    &["config", "control"],
    &["app"],
    &["cli"],
    &["main", "lib"],
];

/// What pure floors must not touch: `wire` and `crypto` know no sockets, clocks or randomness.
const IMPURE: &[&str] = &[
    "tokio::",
    "socket2::",
    "rustix::",
    "rand::",
    "TcpStream",
    "UdpSocket",
    "Instant",
    "SystemTime",
];

fn floor(module: &str) -> Option<usize> {
    FLOORS.iter().position(|row| row.contains(&module))
}

/// The module of a source file: `src/net/linux.rs` and `src/net/mod.rs` are of `net`.
fn module(src: &Path, file: &Path) -> String {
    let inside = file.strip_prefix(src).unwrap();
    let first = inside
        .components()
        .next()
        .unwrap()
        .as_os_str()
        .to_str()
        .unwrap();
    first.trim_end_matches(".rs").to_owned()
}

/// How deep a file's module lies below the crate root: 0 for `lib.rs`, 1 for `net/mod.rs`, 2 for `net/linux.rs`.
fn depth(src: &Path, file: &Path) -> usize {
    let inside = file.strip_prefix(src).unwrap();
    let parts = inside.components().count();
    let name = inside.file_stem().unwrap();
    if name == "mod" || (parts == 1 && (name == "lib" || name == "main")) {
        parts - 1
    } else {
        parts
    }
}

/// Source text without comments and strings, so that a word in prose is not a path.
fn code(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        if rest.starts_with("//") {
            rest = rest.split_once('\n').map_or("", |(_, after)| after);
            out.push('\n');
        } else if rest.starts_with("/*") {
            rest = rest.split_once("*/").map_or("", |(_, after)| after);
        } else if c == '"' {
            let body = &rest[1..];
            let mut escaped = false;
            let end = body.find(|c| {
                let closes = c == '"' && !escaped;
                escaped = c == '\\' && !escaped;
                closes
            });
            rest = end.map_or("", |end| &body[end + 1..]);
        } else if rest.starts_with("'\"'") {
            rest = &rest[3..];
        } else {
            out.push(c);
            rest = &rest[c.len_utf8()..];
        }
    }
    out
}

/// Every module of the crate root that this file names: by `crate::`, by `ssr::`, or by enough `super::`.
fn mentions(code: &str, depth: usize) -> Vec<String> {
    let to_root = "super::".repeat(depth);
    let mut found = Vec::new();
    let mut at_path = |after: &str| {
        let after = after.trim_start();
        if let Some(group) = after.strip_prefix('{') {
            found.extend(group_heads(group));
        } else {
            found.extend(head(after));
        }
    };
    for root in ["crate::", "ssr::"] {
        for (at, _) in code.match_indices(root) {
            let before = code[..at].chars().next_back();
            if !before.is_some_and(|c| c.is_alphanumeric() || c == '_') {
                at_path(&code[at + root.len()..]);
            }
        }
    }
    if depth > 0 {
        for (at, _) in code.match_indices(&to_root) {
            if !code[..at].ends_with("super::") {
                at_path(&code[at + to_root.len()..]);
            }
        }
    }
    found
}

fn head(path: &str) -> Option<String> {
    let name: String = path
        .chars()
        .take_while(|c| c.is_alphanumeric() || *c == '_')
        .collect();
    (!name.is_empty() && name != "super" && name != "self").then_some(name)
}

/// The first names of a `{a::b, c::{d, e}}` group, whose opening brace is gone.
fn group_heads(group: &str) -> Vec<String> {
    let (mut level, mut heads, mut fresh) = (1, Vec::new(), true);
    for (at, c) in group.char_indices() {
        match c {
            '{' => level += 1,
            '}' => level -= 1,
            ',' if level == 1 => fresh = true,
            c if fresh && level == 1 && !c.is_whitespace() => {
                heads.extend(head(&group[at..]));
                fresh = false;
            }
            _ => {}
        }
        if level == 0 {
            break;
        }
    }
    heads
}

/// What is wrong with one file, in words.
fn violations(src: &Path, file: &Path, text: &str) -> Vec<String> {
    let from = module(src, file);
    let Some(here) = floor(&from) else {
        return vec![format!("{}: {from} is on no floor", file.display())];
    };
    let code = code(text);
    let mut wrong: Vec<_> = mentions(&code, depth(src, file))
        .into_iter()
        .filter(|to| *to != from && floor(to).is_some_and(|there| there >= here))
        .map(|to| format!("{}: {from} (floor {here}) uses {to}", file.display()))
        .collect();
    let is_test = file
        .components()
        .any(|part| part.as_os_str() == "tests" || part.as_os_str() == "tests.rs");
    if here < 2 && !is_test {
        let production = code.split("#[cfg(test)]").next().unwrap_or_default();
        let touched = IMPURE.iter().filter(|word| production.contains(**word));
        wrong.extend(touched.map(|word| format!("{}: {from} touches {word}", file.display())));
    }
    wrong
}

fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|ext| ext == "rs") {
            found.push(path);
        }
    }
}

fn tree() -> (PathBuf, Vec<PathBuf>) {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&src, &mut files);
    assert!(files.len() > 5, "the source tree is found");
    (src, files)
}

#[test]
fn no_module_uses_its_own_floor_or_one_above() {
    let (src, files) = tree();
    let wrong: Vec<_> = files
        .iter()
        .flat_map(|file| violations(&src, file, &fs::read_to_string(file).unwrap()))
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn no_file_is_longer_than_600_lines() {
    let (_, mut files) = tree();
    sources(
        &Path::new(env!("CARGO_MANIFEST_DIR")).join("tests"),
        &mut files,
    );
    let long: Vec<_> = files
        .iter()
        .map(|file| (file, fs::read_to_string(file).unwrap().lines().count()))
        .filter(|(_, lines)| *lines > 600)
        .collect();
    assert!(long.is_empty(), "{long:#?}");
}

#[test]
fn unsafe_code_is_confined_to_the_files_named_for_the_os() {
    let (src, files) = tree();
    for file in files {
        let inside = file.strip_prefix(&src).unwrap();
        let unsafe_used = code(&fs::read_to_string(&file).unwrap()).contains("unsafe {");
        assert!(
            !unsafe_used || inside == Path::new("net/linux.rs"),
            "unsafe in {}",
            inside.display()
        );
    }
}

#[test]
fn the_scanner_catches_every_way_to_look_up_or_sideways() {
    let src = Path::new("src");
    let finds = |file: &str, text: &str| violations(src, &src.join(file), text).len();
    for (file, text) in [
        ("wire/socks.rs", "use crate::net::Stream;"),
        (
            "wire/socks.rs",
            "use crate::{crypto::Method, net::{Stream, tcp}};",
        ),
        ("wire/socks.rs", "fn f() { crate::app::run() }"),
        ("wire/mod.rs", "use super::net::Stream;"),
        ("wire/socks.rs", "use super::super::net;"),
        ("dns/mod.rs", "use crate::relay::serve;"),
        ("relay/tcp.rs", "pub(crate) use crate::dns::Resolver;"),
        ("inbound/socks.rs", "use crate::outbound;"),
        ("config/mod.rs", "use crate::control;"),
        ("crypto/mod.rs", "use std::time::SystemTime;"),
        ("wire/mod.rs", "use tokio::net::TcpListener;"),
        ("attic/mod.rs", ""),
    ] {
        assert_eq!(finds(file, text), 1, "{file}: {text}");
    }
    for (file, text) in [
        ("net/mod.rs", "use crate::{crypto, wire::{self, Address}};"),
        ("net/tcp.rs", "use super::Stream; use super::super::wire;"),
        ("net/tcp.rs", "use crate::net::udp;"),
        (
            "wire/mod.rs",
            "// crate::net is above\n/// like [`crate::app`]\nfn f() {}",
        ),
        (
            "wire/mod.rs",
            "const TEXT: &str = \"crate::app\"; const QUOTE: char = '\"';",
        ),
        ("wire/ss/tests.rs", "use std::time::Instant;"),
        (
            "wire/mod.rs",
            "#[cfg(test)]\nmod tests { use rand::random; }",
        ),
        ("main.rs", "use ssr::cli;"),
        (
            "app/mod.rs",
            "use crate::{config, control, inbound, outbound, relay, dns, net, wire, crypto};",
        ),
    ] {
        assert_eq!(finds(file, text), 0, "{file}: {text}");
    }
}
