//! The documents: README.md, docs/ and their companions.
//!
//! - Every config in them passes `ssr check`; every command runs, or says why it is not tried.
//! - `docs/config.md` has every key, `docs/troubleshooting.md` every warning and error of the log.
//!
//! `docs_examples.rs` runs the larger examples.

use crate::common::{admin::TOKEN, peers};
use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

pub(crate) const README: &str = include_str!("../README.md");
const CONFIG: &str = include_str!("../docs/config.md");
const TROUBLESHOOTING: &str = include_str!("../docs/troubleshooting.md");
const METHOD: &str = "2022-blake3-aes-256-gcm";

/// Every document: its path and its text.
fn documents() -> Vec<(PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let files = |directory: &Path| {
        fs::read_dir(directory)
            .unwrap()
            .map(|entry| entry.unwrap().path())
    };
    let is_document = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "md");
    let mut paths: Vec<PathBuf> = files(root)
        .chain(files(&root.join("docs")))
        .filter(is_document)
        .collect();
    paths.sort();
    let read = |path: PathBuf| {
        let text = fs::read_to_string(&path).unwrap();
        (path.strip_prefix(root).unwrap().to_owned(), text)
    };
    paths.into_iter().map(read).collect()
}

/// A fenced block of a document.
struct Block<'a> {
    /// The line before its fence.
    before: &'a str,
    language: &'a str,
    text: String,
}

fn blocks(document: &str) -> Vec<Block<'_>> {
    let mut found = Vec::new();
    let mut before = "";
    let mut lines = document.lines();
    while let Some(line) = lines.next() {
        if let Some(language) = line.strip_prefix("```") {
            let text = lines.by_ref().take_while(|line| *line != "```");
            let text = text.map(|line| format!("{line}\n")).collect();
            found.push(Block {
                before,
                language,
                text,
            });
        }
        before = line;
    }
    found
}

/// The blocks of one language.
pub(crate) fn texts(document: &str, language: &str) -> Vec<String> {
    let all = blocks(document).into_iter();
    all.filter(|block| block.language == language)
        .map(|block| block.text)
        .collect()
}

/// The configs of a document, with `key` in place of what it says of one.
pub(crate) fn configs(document: &str, key: &str) -> Vec<String> {
    let filled = |config: String| {
        config
            .replace("PASTE-YOUR-KEY-HERE", key)
            .replace("the same", key)
    };
    texts(document, "json").into_iter().map(filled).collect()
}

/// The commands of a document that begin so, without their comments.
pub(crate) fn commands(document: &str, begin: &str) -> Vec<String> {
    let lines = texts(document, "sh").concat();
    let lines = lines.lines().filter(|line| line.starts_with(begin));
    lines
        .map(|line| line.split(" # ").next().unwrap().trim().to_owned())
        .collect()
}

/// What is between two marks of an HTML comment, `<!-- begin: … -->`.
fn comment<'a>(line: &'a str, begin: &str) -> Option<&'a str> {
    let inside = line.strip_prefix("<!-- ")?.strip_suffix(" -->")?;
    inside.strip_prefix(begin)?.strip_prefix(": ")
}

pub(crate) fn genkey() -> String {
    let output = peers::ssr(&["genkey", "-m", METHOD]).output();
    String::from_utf8(output.unwrap().stdout)
        .unwrap()
        .trim()
        .to_owned()
}

/// Makes the certificate that configs of the documents name.
fn certificate(directory: &Path) {
    let made = rcgen::generate_simple_self_signed(vec!["cdn.example".to_owned()]).unwrap();
    fs::write(directory.join("cert.pem"), made.cert.pem()).unwrap();
    fs::write(directory.join("key.pem"), made.signing_key.serialize_pem()).unwrap();
}

#[test]
fn configs_of_the_documents_pass_the_check() {
    let directory = tempfile::tempdir().unwrap();
    certificate(directory.path());
    fs::write(directory.path().join("ads.txt"), "ads.example\n").unwrap();
    let key = genkey();
    let mut checked = 0;
    for (document, text) in documents() {
        for config in configs(&text, &key) {
            // Any hash is a pin; files of the documents are beside the config here.
            let config = config
                .replace("the pin", &"0".repeat(64))
                .replace("/etc/ssr/", "")
                .replace("/run/credentials/ssr.service/", "");
            let file = directory.path().join("config.json");
            fs::write(&file, &config).unwrap();
            let (anns, bobs) = (genkey(), genkey());
            let check = |role: &[&str]| {
                let mut check = peers::ssr(&["check", "-c", "config.json"]);
                check.args(role).current_dir(directory.path());
                check.env("ANNS_KEY", &anns).env("BOBS_KEY", &bobs);
                check.env("ADMIN_TOKEN", TOKEN);
                check.output().unwrap()
            };
            // A file of `ssr local` with TLS lacks what `ssr server` needs.
            let one = ["server", "local", "forward"].map(|role| check(&["--role", role]));
            let stderr = String::from_utf8_lossy(&check(&[]).stderr).into_owned();
            let passes = one.iter().any(|output| output.status.success());
            assert!(passes, "{}: {config}{stderr}", document.display());
            checked += 1;
        }
    }
    assert!(checked > 8, "the blocks were not found");
}

#[test]
fn commands_of_the_documents_run_or_say_why_not() {
    let examples = include_str!("docs_examples.rs");
    let directory = tempfile::tempdir().unwrap();
    let key = genkey();
    fs::write(
        directory.path().join("config.json"),
        &configs(README, &key)[0],
    )
    .unwrap();
    let binary = Path::new(env!("CARGO_BIN_EXE_ssr")).parent().unwrap();
    let path = std::env::var("PATH").unwrap();
    for (document, text) in documents() {
        for block in blocks(&text) {
            if block.language != "sh" {
                continue;
            }
            let at = format!("{}:\n{}", document.display(), block.text);
            if let Some(reason) = comment(block.before, "not tried") {
                assert!(reason.len() > 20, "{at}");
                continue;
            }
            if let Some(test) = comment(block.before, "tried by") {
                assert!(examples.contains(&format!("fn {test}()")), "{at}");
                continue;
            }
            let mut command = Command::new("bash");
            command
                .args(["-euo", "pipefail", "-c", &block.text])
                .current_dir(directory.path())
                .env("PATH", format!("{}:{path}", binary.display()));
            let Output { status, stderr, .. } = command.output().unwrap();
            assert!(status.success(), "{at}{}", String::from_utf8_lossy(&stderr));
        }
    }
}

#[test]
fn introduction_stays_short() {
    assert!(README.lines().count() <= 150);
}

#[test]
fn links_of_the_documents_lead_somewhere() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for (document, text) in documents() {
        for link in text.split("](").skip(1) {
            let link = link.split(')').next().unwrap();
            if link.starts_with("http") {
                continue;
            }
            let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = match file {
                "" => root.join(&document),
                file => root.join(&document).parent().unwrap().join(file),
            };
            let at = document.display();
            let there = fs::read_to_string(&target).unwrap_or_else(|_| panic!("{at}: no {link}"));
            let anchors = there.lines().filter(|line| line.starts_with('#'));
            let mut anchors = anchors.map(|line| {
                let title = line.trim_start_matches('#').trim().to_lowercase();
                let kept = |c: &char| c.is_alphanumeric() || matches!(c, ' ' | '-');
                title
                    .chars()
                    .filter(kept)
                    .collect::<String>()
                    .replace(' ', "-")
            });
            assert!(
                anchor.is_empty() || anchors.any(|a| a == anchor),
                "{at}: no {link}"
            );
        }
    }
}

#[test]
fn source_files_that_the_documents_name_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for (document, text) in documents() {
        for word in text.split('`') {
            let is_path = word.ends_with(".rs") && !word.contains(['*', ' ', '\n']);
            let exists = [root.to_owned(), root.join("src")]
                .iter()
                .any(|from| from.join(word).is_file());
            assert!(!is_path || exists, "{}: no {word}", document.display());
        }
    }
}

/// The keys of the tables of `docs/config.md`, each with the sections that the comment above its table names.
fn keys_of_the_document() -> BTreeSet<(&'static str, &'static str)> {
    let mut sections = "";
    let mut keys = BTreeSet::new();
    for line in CONFIG.lines() {
        if let Some(names) = comment(line, "keys") {
            sections = names;
        } else if let Some(row) = line.strip_prefix("| `") {
            let cell = row.split(" | ").next().unwrap();
            for key in cell.split("`, `") {
                let key = key.trim_end_matches('`');
                keys.extend(sections.split(", ").map(|section| (section, key)));
            }
        } else if !line.is_empty() && !line.starts_with('|') {
            sections = "";
        }
    }
    // Tables without such a comment are of something else.
    keys.retain(|(section, _)| !section.is_empty());
    keys
}

#[test]
fn every_key_of_the_config_is_in_its_document() {
    let written = keys_of_the_document();
    let known: BTreeSet<_> = ssr::config::documented_keys().into_iter().collect();
    let missing: Vec<_> = known.difference(&written).collect();
    let unknown: Vec<_> = written.difference(&known).collect();
    assert!(
        missing.is_empty() && unknown.is_empty(),
        "docs/config.md lacks {missing:?} and has {unknown:?}"
    );
}

#[test]
fn every_limit_is_in_its_document() {
    let mut files = Vec::new();
    sources(
        &Path::new(env!("CARGO_MANIFEST_DIR")).join("src"),
        &mut files,
    );
    for file in files.iter().filter(|file| file.ends_with("limits.rs")) {
        let code = fs::read_to_string(file).unwrap();
        let constants = code
            .lines()
            .filter_map(|line| line.strip_prefix("pub const "));
        for name in constants.map(|rest| rest.split(':').next().unwrap()) {
            let at = file.display();
            assert!(
                CONFIG.contains(&format!("`{name}`")),
                "docs/config.md lacks {name} of {at}"
            );
        }
    }
}

#[test]
fn every_status_is_in_its_document() {
    let mut files = Vec::new();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    sources(&root.join("src"), &mut files);
    for file in files {
        let code = fs::read_to_string(&file).unwrap();
        let counted = code.split(".fail(\"").skip(1);
        let function = code.split(" fn status(").nth(1).unwrap_or_default();
        let function = function.split("\n    }\n").next().unwrap();
        for rest in counted.chain(function.split("=> \"").skip(1)) {
            let status = rest.split('"').next().unwrap();
            let at = file.display();
            assert!(
                TROUBLESHOOTING.contains(&format!("`{status}`")),
                "{at}: {status}"
            );
        }
    }
}

/// The messages of `tracing::warn!` and `tracing::error!` in Rust code, each in the pieces between its placeholders.
fn complaints(code: &str) -> Vec<Vec<String>> {
    let code = code.split("#[cfg(test)]\nmod tests").next().unwrap();
    let mut found = Vec::new();
    for (at, name) in code
        .match_indices("warn!(")
        .chain(code.match_indices("error!("))
    {
        if code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_') {
            continue;
        }
        let message = last_literal(&code[at + name.len()..]);
        let pieces = message
            .split('{')
            .enumerate()
            .map(|(index, piece)| match index {
                0 => piece,
                _ => piece.split_once('}').map_or("", |(_, rest)| rest),
            });
        let pieces = pieces.map(|piece| piece.trim().to_owned());
        found.push(pieces.filter(|piece| piece.len() > 3).collect());
    }
    found
}

/// The last string of a macro's arguments that is no value of a field.
fn last_literal(code: &str) -> String {
    let (mut depth, mut last, mut named) = (1, String::new(), false);
    let mut chars = code.chars();
    while let Some(c) = chars.next() {
        match c {
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => depth -= 1,
            ',' if depth == 1 => named = false,
            '=' if depth == 1 => named = true,
            '"' => {
                let mut text = String::new();
                while let Some(c) = chars.next() {
                    match c {
                        '"' => break,
                        '\\' => match chars.next() {
                            Some('\n') => chars = chars.as_str().trim_start().chars(),
                            Some(c) => text.push(c),
                            None => {}
                        },
                        c => text.push(c),
                    }
                }
                if depth == 1 && !named {
                    last = text;
                }
            }
            _ => {}
        }
        if depth == 0 {
            break;
        }
    }
    last
}

fn sources(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

#[test]
fn every_warning_and_error_of_the_log_is_in_its_document() {
    let mut files = Vec::new();
    sources(
        &Path::new(env!("CARGO_MANIFEST_DIR")).join("src"),
        &mut files,
    );
    let mut missing = Vec::new();
    let mut count = 0;
    for file in files {
        for message in complaints(&fs::read_to_string(&file).unwrap()) {
            count += 1;
            if !message.iter().all(|piece| TROUBLESHOOTING.contains(piece)) {
                missing.push(format!("{}: {}", file.display(), message.join(" … ")));
            }
        }
    }
    assert!(count > 10, "the messages were not found");
    assert!(
        missing.is_empty(),
        "docs/troubleshooting.md lacks\n{}",
        missing.join("\n")
    );
}
