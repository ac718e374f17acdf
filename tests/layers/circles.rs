//! Finds the files that import each other in a circle.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use super::source::{self, Tree};

/// Circles that are still allowed, each by its files. To be emptied; a part of a circle is allowed with the whole.
const KNOWN: &[&[&str]] = &[
    &["src/config/file.rs", "src/config/scalar.rs"],
    &[
        "src/config/forwards.rs",
        "src/config/locals.rs",
        "src/config/logging.rs",
        "src/config/meaning.rs",
        "src/config/options.rs",
        "src/config/reverse.rs",
        "src/config/servers.rs",
        "src/config/transport.rs",
        "src/config/websocket.rs",
    ],
    &["src/config/load.rs", "src/config/mod.rs"],
    &[
        "src/crypto/aead.rs",
        "src/crypto/key.rs",
        "src/crypto/method.rs",
    ],
    &["src/relay/udp/association.rs", "src/relay/udp/mod.rs"],
    &[
        "src/wire/address.rs",
        "src/wire/error.rs",
        "src/wire/socks.rs",
    ],
    &["src/wire/reverse.rs", "src/wire/reverse/payload.rs"],
    &[
        "src/wire/ss/keys.rs",
        "src/wire/ss/packet.rs",
        "src/wire/ss/packet/subkeys.rs",
    ],
    &[
        "benches/load/allocations.rs",
        "benches/load/forwards.rs",
        "benches/load/goals.rs",
        "benches/load/link_works.rs",
        "benches/load/main.rs",
        "benches/load/plan.rs",
        "benches/load/process.rs",
        "benches/load/proxies.rs",
        "benches/load/report.rs",
        "benches/load/reverses.rs",
        "benches/load/run.rs",
        "benches/load/syscalls.rs",
        "benches/load/targets.rs",
        "benches/load/tcp_works.rs",
        "benches/load/udp_works.rs",
    ],
];

/// By file, the files that it uses something of, and one path of each.
type Uses = BTreeMap<PathBuf, BTreeMap<PathBuf, String>>;

/// What each file uses. A `pub use` counts only where the file uses the name itself.
fn uses(tree: &Tree) -> Uses {
    let mut uses = Uses::new();
    for (from, module) in &tree.modules {
        let imports = module
            .imports
            .iter()
            .filter(|import| !import.public || module.words.contains(&import.name))
            .map(|import| (&import.path, import.name == "*"));
        let paths = module.paths.iter().map(|path| (path, false));
        for (path, everything) in imports.chain(paths) {
            let definer = tree.absolute(from, path).and_then(|path| {
                if everything {
                    return tree.modules.get(&path).map(|module| module.file.clone());
                }
                tree.definer(&path).map(Path::to_owned)
            });
            if let Some(file) = definer
                && file != module.file
            {
                let used = uses.entry(module.file.clone()).or_default();
                used.entry(file).or_insert_with(|| path.join("::"));
            }
        }
    }
    uses
}

/// The sets of files from each of which every other can be reached.
fn circles(uses: &Uses) -> BTreeSet<BTreeSet<PathBuf>> {
    let reached = |from: &Path| {
        let (mut found, mut open) = (BTreeSet::new(), vec![from.to_owned()]);
        while let Some(file) = open.pop() {
            for next in uses.get(&file).into_iter().flat_map(BTreeMap::keys) {
                if found.insert(next.clone()) {
                    open.push(next.clone());
                }
            }
        }
        found
    };
    let all: BTreeMap<_, _> = uses.keys().map(|file| (file, reached(file))).collect();
    let circle = |from: &PathBuf| {
        let back = |to: &&PathBuf| all.get(to).is_some_and(|reached| reached.contains(from));
        all[from].iter().filter(back).cloned().collect()
    };
    let circles = uses.keys().map(circle);
    circles
        .filter(|circle: &BTreeSet<_>| !circle.is_empty())
        .collect()
}

/// A circle in words: each file in it, what it uses of the others, and by which path.
fn described(circle: &BTreeSet<PathBuf>, uses: &Uses) -> String {
    let mut text = String::new();
    for from in circle {
        text += &format!("\n  {}", from.display());
        for (to, path) in uses[from].iter().filter(|(to, _)| circle.contains(*to)) {
            text += &format!("\n    -> {} by {path}", to.display());
        }
    }
    text
}

fn read(root: &Path) -> Tree {
    let mut tree = Tree::new(root.join("lib.rs").is_file());
    for file in source::files(root) {
        if !source::is_test(&file) {
            let tokens = source::tokens(&fs::read_to_string(&file).unwrap());
            let inside = file.strip_prefix(root).unwrap();
            tree.add(inside, &source::without_tests(&tokens));
        }
    }
    tree
}

#[test]
fn no_files_import_each_other_in_a_circle() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut wrong = String::new();
    for folder in ["src", "benches/load"] {
        let uses = uses(&read(&root.join(folder)));
        assert!(uses.len() > 5, "{folder} is found");
        for circle in circles(&uses) {
            let within = |known: &&&[&str]| {
                let is_known = |file: &PathBuf| {
                    let file = Path::new(folder).join(file);
                    known.iter().any(|known| Path::new(known) == file)
                };
                circle.iter().all(is_known)
            };
            if !KNOWN.iter().any(|known| within(&known)) {
                wrong += &format!("\n{folder}:{}", described(&circle, &uses));
            }
        }
    }
    assert!(wrong.is_empty(), "files in circles:{wrong}");
}

/// The circles of a tree of files with these texts, each as its files in one line.
fn found(files: &[(&str, &str)]) -> Vec<String> {
    let mut tree = Tree::new(true);
    for (file, text) in files {
        let tokens = source::tokens(text);
        tree.add(Path::new(file), &source::without_tests(&tokens));
    }
    let line = |circle: BTreeSet<PathBuf>| {
        let files: Vec<_> = circle.iter().map(|file| file.to_str().unwrap()).collect();
        files.join(" ")
    };
    circles(&uses(&tree)).into_iter().map(line).collect()
}

#[test]
fn circle_is_found_by_whichever_path_it_goes() {
    let b = ("net/b.rs", "pub struct B; use super::a::A;");
    let root = ("net/mod.rs", "mod a; mod b; pub use b::B;");
    for a in [
        "pub struct A; use super::b::B;",
        "pub struct A; use crate::net::b::B;",
        "pub struct A; use super::{c::C, b::{B as Other}};",
        "pub struct A; use super::B;",
        "pub struct A; use super::super::net::B;",
        "pub struct A; fn f() { super::b::B::new() }",
        "pub struct A; use super::b; fn f(b: b::B) {}",
        "pub struct A; use super::b::{self as other}; fn f(b: other::B) {}",
        "pub struct A; mod inner { use super::super::b::B; }",
        "pub struct A; use super::b::*;",
        "const QUOTE: char = '\"'; pub struct A; use super::B; const TEXT: &str = r#\"a\"b\"#;",
    ] {
        assert_eq!(
            found(&[root, ("net/a.rs", a), b]),
            ["net/a.rs net/b.rs"],
            "{a}"
        );
    }
}

#[test]
fn child_that_uses_what_its_user_defines_is_a_circle() {
    let child = ("net/a.rs", "use super::Error; pub struct A;");
    for parent in [
        "mod a; pub struct Error; use a::A;",
        "mod a; pub struct Error; fn f() { a::A::new() }",
        "mod a; pub struct Error; pub use a::A; fn f() -> A {}",
    ] {
        let circles = found(&[("net/mod.rs", parent), child]);
        assert_eq!(circles, ["net/a.rs net/mod.rs"], "{parent}");
    }
    let longer = found(&[
        ("net/mod.rs", "mod a; mod b; pub use b::B;"),
        ("net/a.rs", "use super::B; pub struct A;"),
        ("net/b.rs", "use super::c::C; pub struct B;"),
        ("net/c.rs", "use crate::net::a::A; pub struct C;"),
    ]);
    assert_eq!(longer, ["net/a.rs net/b.rs net/c.rs"]);
}

#[test]
fn what_is_no_circle_is_let_be() {
    for (parent, a, b) in [
        // Only passed on by the parent.
        (
            "mod a; mod b; pub use a::A; pub use b::B;",
            "use super::B; pub struct A;",
            "pub struct B;",
        ),
        // Defined by the parent, which only passes the child on.
        (
            "mod a; pub struct Error; pub use a::A;",
            "use super::Error; pub struct A;",
            "",
        ),
        // For tests only.
        (
            "mod a; mod b;",
            "pub struct A; #[cfg(test)] mod tests { use super::super::b::B; }",
            "pub struct B; use super::a::A;",
        ),
        // In words only.
        (
            "mod a; mod b;",
            "/// [`super::b::B`]\npub struct A; const TEXT: &str = \"use super::b::B;\";",
            "pub struct B; use super::a::A;",
        ),
        // Of another crate.
        (
            "mod a; mod b;",
            "use tokio::b::B; pub struct A;",
            "pub struct B; use super::a::A;",
        ),
    ] {
        let files = [("net/mod.rs", parent), ("net/a.rs", a), ("net/b.rs", b)];
        assert_eq!(found(&files), [""; 0], "{parent} {a} {b}");
    }
}
