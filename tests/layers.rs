//! Holds the tree to the floors of its design: a module uses only floors below it, and siblings do not see each other.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

#[path = "layers/circles.rs"]
mod circles;
#[path = "layers/source.rs"]
mod source;

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use source::Tree;

/// Floors from the ground up; modules in one row are siblings.
const FLOORS: &[&[&str]] = &[
    &["crypto", "limits"],
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

/// The part of the crate that a file below `src` is of: `net/linux.rs` and `net/mod.rs` are of `net`.
fn part(file: &Path) -> String {
    let first = file.iter().next().unwrap().to_str().unwrap();
    first.trim_end_matches(".rs").to_owned()
}

/// What is wrong with one file below `src`, in words.
fn violations(file: &Path, text: &str) -> Vec<String> {
    let from = part(file);
    let Some(here) = floor(&from) else {
        return vec![format!("{}: {from} is on no floor", file.display())];
    };
    let tokens = source::tokens(text);
    let mut tree = Tree::new(true);
    tree.add(file, &tokens);
    let mut used = BTreeSet::new();
    for (at, module) in &tree.modules {
        let imports = module.imports.iter().map(|import| &import.path);
        let paths = imports.chain(&module.paths);
        used.extend(paths.filter_map(|path| tree.absolute(at, path)?.first().cloned()));
    }
    let mut wrong: Vec<_> = used
        .iter()
        .filter(|to| **to != from && floor(to).is_some_and(|there| there >= here))
        .map(|to| format!("{}: {from} (floor {here}) uses {to}", file.display()))
        .collect();
    if here < 2 && !source::is_test(file) {
        let production = source::without_tests(&tokens).concat();
        let touched = IMPURE.iter().filter(|word| production.contains(**word));
        wrong.extend(touched.map(|word| format!("{}: {from} touches {word}", file.display())));
    }
    wrong
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The files of the program by their paths below `src`, with their text.
fn sources() -> Vec<(PathBuf, String)> {
    let src = root().join("src");
    let read = |file: PathBuf| {
        let text = fs::read_to_string(&file).unwrap();
        (file.strip_prefix(&src).unwrap().to_owned(), text)
    };
    let files: Vec<_> = source::files(&src).into_iter().map(read).collect();
    assert!(files.len() > 5, "the source tree is found");
    files
}

#[test]
fn every_module_of_the_floors_is_there() {
    for module in FLOORS.iter().copied().flatten() {
        let file = root().join("src").join(module);
        let is_there = file.join("mod.rs").is_file() || file.with_extension("rs").is_file();
        assert!(is_there, "there is no module {module}");
    }
}

#[test]
fn no_module_uses_its_own_floor_or_one_above() {
    let wrong: Vec<_> = sources()
        .iter()
        .flat_map(|(file, text)| violations(file, text))
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// What a `cfg` may ask for. The program is built for Linux; a small build leaves out what `[features]` of Cargo.toml names.
const CONDITIONS: &[&str] = &[
    "test",
    "debug_assertions",
    "not",
    "all",
    "any",
    "feature",
    "\"admin\"",
    "\"redis\"",
];

#[test]
fn no_code_is_for_systems_that_are_not_built() {
    let mut wrong = Vec::new();
    for (file, text) in sources() {
        for predicate in source::predicates(&source::tokens(&text)) {
            let is_sign = |token: &str| matches!(token, "(" | ")" | "," | "=");
            let is_known = |token: &String| is_sign(token) || CONDITIONS.contains(&token.as_str());
            if !predicate.iter().all(is_known) {
                wrong.push(format!("{}: {}", file.display(), predicate.concat()));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn no_file_is_longer_than_600_lines() {
    let files = source::files(&root().join("src")).into_iter();
    let long: Vec<_> = files
        .chain(source::files(&root().join("tests")))
        .map(|file| (fs::read_to_string(&file).unwrap().lines().count(), file))
        .filter(|(lines, _)| *lines > 600)
        .collect();
    assert!(long.is_empty(), "{long:#?}");
}

#[test]
fn unsafe_code_is_confined_to_the_files_named_for_the_os() {
    for (file, text) in sources() {
        let is_unsafe = source::tokens(&text).concat().contains("unsafe{");
        assert!(
            !is_unsafe || file == Path::new("net/linux.rs"),
            "unsafe in {}",
            file.display()
        );
    }
}

#[test]
fn the_scanner_catches_every_way_to_look_up_or_sideways() {
    let finds = |file: &str, text: &str| violations(Path::new(file), text).len();
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
        ("config/mod.rs", "use crate::app;"),
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
            "use crate::{config, inbound, outbound, relay, dns, net, wire, crypto};",
        ),
    ] {
        assert_eq!(finds(file, text), 0, "{file}: {text}");
    }
}
