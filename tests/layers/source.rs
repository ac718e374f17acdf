//! Reads Rust source as far as the rules need it: tokens, modules, what they define and what they name.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// The names and signs of a source text, with `::` as one sign. Comments and characters are left out; a string is one
/// token with its quotes.
pub(crate) fn tokens(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let len = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |at| at + 2)
        } else if let Some(len) = string(rest) {
            found.push(rest[..len].to_owned());
            len
        } else if c == '\'' {
            character(rest)
        } else if rest.starts_with("::") {
            found.push("::".to_owned());
            2
        } else if is_name(c) {
            let len = rest.find(|c| !is_name(c)).unwrap_or(rest.len());
            found.push(rest[..len].to_owned());
            len
        } else {
            if !c.is_whitespace() {
                found.push(c.to_string());
            }
            c.len_utf8()
        };
        rest = &rest[len..];
    }
    found
}

fn is_name(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// The length of the string that `text` begins with, if it does.
fn string(text: &str) -> Option<usize> {
    let prefix = text.len() - text.trim_start_matches(['b', 'c', 'r']).len();
    let hashes = text[prefix..].len() - text[prefix..].trim_start_matches('#').len();
    let is_raw = text[..prefix].ends_with('r');
    let open = prefix + hashes;
    if prefix > 2 || !text[open..].starts_with('"') || (hashes > 0 && !is_raw) {
        return None;
    }
    let body = &text[open + 1..];
    let end = if is_raw {
        body.find(&format!("\"{}", "#".repeat(hashes)))?
    } else {
        let mut escaped = false;
        body.find(|c| {
            let closes = c == '"' && !escaped;
            escaped = c == '\\' && !escaped;
            closes
        })?
    };
    Some(open + 1 + end + 1 + hashes)
}

/// The length of the character, or of the quote of the lifetime, that `text` begins with.
fn character(text: &str) -> usize {
    let mut chars = text.char_indices().skip(1);
    match (chars.next(), chars.next()) {
        (Some((_, '\\')), Some((at, escaped))) => {
            let from = at + escaped.len_utf8();
            text[from..].find('\'').map_or(1, |end| from + end + 1)
        }
        (Some(_), Some((at, '\''))) => at + 1,
        _ => 1,
    }
}

/// The same tokens without the items that are built for tests only.
pub(crate) fn without_tests(tokens: &[String]) -> Vec<String> {
    let mut kept = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        if let Some(predicate) = attribute(&tokens[at..], "cfg")
            && predicate.contains(&"test".to_owned())
            && !predicate.contains(&"not".to_owned())
        {
            at += item(&tokens[at..]);
        } else {
            kept.push(tokens[at].clone());
            at += 1;
        }
    }
    kept
}

/// What stands in the brackets of `#[name(…)]`, if `tokens` begin with it.
fn attribute<'a>(tokens: &'a [String], name: &str) -> Option<&'a [String]> {
    let begins = ["#", "[", name, "("];
    let matches = tokens.len() > 4 && tokens.iter().zip(begins).all(|(is, must)| is == must);
    matches.then(|| &tokens[4..group(tokens, 1) - 2])
}

/// Every predicate of a `cfg`, `cfg_attr` or `cfg!`.
pub(crate) fn predicates(tokens: &[String]) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    for at in 0..tokens.len() {
        let open = match tokens[at].as_str() {
            "cfg" | "cfg_attr" => {
                at + 1 + usize::from(tokens.get(at + 1).is_some_and(|t| t == "!"))
            }
            _ => continue,
        };
        if tokens.get(open).is_none_or(|token| token != "(") {
            continue;
        }
        let mut inside = tokens[open + 1..group(tokens, open) - 1].to_vec();
        if tokens[at] == "cfg_attr" {
            let mut level = 0;
            let end = inside.iter().position(|token| {
                level += i32::from(token == "(") - i32::from(token == ")");
                level == 0 && token == ","
            });
            inside.truncate(end.unwrap_or(inside.len()));
        }
        found.push(inside);
    }
    found
}

/// The position behind the bracket that closes the one at `open`.
fn group(tokens: &[String], open: usize) -> usize {
    let mut level = 0;
    for (at, token) in tokens.iter().enumerate().skip(open) {
        match token.as_str() {
            "(" | "[" | "{" => level += 1,
            ")" | "]" | "}" => level -= 1,
            _ => {}
        }
        if level == 0 {
            return at + 1;
        }
    }
    tokens.len()
}

/// The length of the item, with its attributes, that `tokens` begin with.
fn item(tokens: &[String]) -> usize {
    let mut at = 0;
    while at < tokens.len() {
        match tokens[at].as_str() {
            ";" => return at + 1,
            "{" => return group(tokens, at),
            ")" | "]" | "}" => return at,
            "(" | "[" => at = group(tokens, at),
            _ => at += 1,
        }
    }
    at
}

/// A name that a `use` brings into a module.
pub(crate) struct Import {
    /// `*` for everything.
    pub(crate) name: String,
    pub(crate) path: Vec<String>,
    /// Whether others may use it from here.
    pub(crate) public: bool,
}

/// A module: a file of its own, or a part of one.
#[derive(Default)]
pub(crate) struct Module {
    pub(crate) file: PathBuf,
    pub(crate) items: BTreeSet<String>,
    pub(crate) imports: Vec<Import>,
    /// Paths outside `use`.
    pub(crate) paths: Vec<Vec<String>>,
    /// Names outside `use`.
    pub(crate) words: BTreeSet<String>,
}

/// The modules of a crate by their paths.
pub(crate) struct Tree {
    /// Whether the crate is the library, which its program and others call `ssr`.
    is_library: bool,
    pub(crate) modules: BTreeMap<Vec<String>, Module>,
}

impl Tree {
    pub(crate) fn new(is_library: bool) -> Self {
        Self {
            is_library,
            modules: BTreeMap::new(),
        }
    }

    /// Adds a file by its path below the crate's root file, which is `lib.rs` of a library and else `main.rs`. A library's
    /// `main.rs` stands beside it.
    pub(crate) fn add(&mut self, file: &Path, tokens: &[String]) {
        let mut path: Vec<String> = file
            .with_extension("")
            .iter()
            .map(|part| part.to_str().unwrap().to_owned())
            .collect();
        let root = if self.is_library { "lib" } else { "main" };
        if path.last().is_some_and(|last| last == "mod") || path == [root] {
            path.pop();
        }
        let mut reader = Reader {
            tokens,
            at: 0,
            file,
            tree: self,
        };
        reader.module(path);
    }

    /// A path that stands in the module `from`, as seen from the root of the crate; `None` for other crates.
    pub(crate) fn absolute(&self, from: &[String], path: &[String]) -> Option<Vec<String>> {
        self.absolute_within(from, path, 16)
    }

    fn absolute_within(
        &self,
        from: &[String],
        path: &[String],
        most: usize,
    ) -> Option<Vec<String>> {
        let (first, rest) = path.split_first()?;
        let joined = |base: &[String], rest: &[String]| [base, rest].concat();
        match first.as_str() {
            "crate" => return Some(rest.to_vec()),
            "ssr" if self.is_library => return Some(rest.to_vec()),
            "self" => return Some(joined(from, rest)),
            "super" => {
                let supers = path.iter().take_while(|name| *name == "super").count();
                let base = &from[..from.len().checked_sub(supers)?];
                return Some(joined(base, &path[supers..]));
            }
            _ => {}
        }
        let module = self.modules.get(from)?;
        if self.modules.contains_key(&joined(from, &path[..1])) || module.items.contains(first) {
            return Some(joined(from, path));
        }
        let import = module
            .imports
            .iter()
            .find(|import| import.name == *first && import.path != path)?;
        let base = self.absolute_within(from, &import.path, most.checked_sub(1)?)?;
        Some(joined(&base, rest))
    }

    /// The file that defines what an absolute path names; `None` for a module as a whole.
    pub(crate) fn definer(&self, path: &[String]) -> Option<&Path> {
        self.definer_within(path, 16)
    }

    fn definer_within(&self, path: &[String], most: usize) -> Option<&Path> {
        let most = most.checked_sub(1)?;
        let depth = (0..path.len())
            .take_while(|at| self.modules.contains_key(&path[..=*at]))
            .count();
        let (here, rest) = path.split_at(depth);
        let module = self.modules.get(here)?;
        let (name, behind) = rest.split_first()?;
        if module.items.contains(name) {
            return Some(&module.file);
        }
        let imported = module
            .imports
            .iter()
            .find(|import| import.name == *name)
            .and_then(|import| {
                let base = self.absolute(here, &import.path)?;
                self.definer_within(&[&base, behind].concat(), most)
            });
        let all = || {
            let globs = module.imports.iter().filter(|import| import.name == "*");
            globs
                .filter_map(|import| self.absolute(here, &import.path))
                .filter(|base| {
                    self.modules
                        .get(base)
                        .is_some_and(|m| m.items.contains(name))
                })
                .find_map(|base| self.definer_within(&[&base, rest].concat(), most))
        };
        imported.or_else(all).or(Some(&module.file))
    }
}

struct Reader<'a> {
    tokens: &'a [String],
    at: usize,
    file: &'a Path,
    tree: &'a mut Tree,
}

impl Reader<'_> {
    fn token(&self, ahead: usize) -> &str {
        self.tokens.get(self.at + ahead).map_or("", String::as_str)
    }

    /// Reads a module to its closing brace, or to the end of the file.
    fn module(&mut self, path: Vec<String>) {
        let mut module = Module {
            file: self.file.to_owned(),
            ..Module::default()
        };
        let (mut level, mut public) = (0, false);
        while self.at < self.tokens.len() {
            let was_public = std::mem::take(&mut public);
            match self.token(0) {
                "{" => level += 1,
                "}" if level == 0 => break,
                "}" => level -= 1,
                "pub" => {
                    public = true;
                    if self.token(1) == "(" {
                        self.at = group(self.tokens, self.at + 1) - 1;
                    }
                }
                "mod" if self.token(2) == "{" => {
                    let inner = [path.as_slice(), &[self.token(1).to_owned()]].concat();
                    self.at += 3;
                    self.module(inner);
                }
                "use" => {
                    self.at += 1;
                    self.imports(&mut Vec::new(), was_public, &mut module.imports);
                    continue;
                }
                "fn" | "struct" | "enum" | "trait" | "type" | "const" | "static" | "union"
                    if level == 0 =>
                {
                    module.items.insert(self.token(1).to_owned());
                }
                "macro_rules" => {
                    module.items.insert(self.token(2).to_owned());
                }
                name if name.starts_with(is_name) => {
                    self.path(&mut module);
                    continue;
                }
                _ => {}
            }
            self.at += 1;
        }
        self.tree.modules.insert(path, module);
    }

    /// Reads a name and what is joined to it.
    fn path(&mut self, module: &mut Module) {
        let mut path = vec![self.token(0).to_owned()];
        let joined = self.at > 0 && matches!(self.tokens[self.at - 1].as_str(), "::" | ".");
        self.at += 1;
        while self.token(0) == "::" && self.token(1).starts_with(is_name) {
            path.push(self.token(1).to_owned());
            self.at += 2;
        }
        if !joined {
            module.words.insert(path[0].clone());
            if path.len() > 1 {
                module.paths.push(path);
            }
        }
    }

    /// Reads a tree of a `use` behind `prefix`, with the sign that ends it.
    fn imports(&mut self, prefix: &mut Vec<String>, public: bool, found: &mut Vec<Import>) {
        let depth = prefix.len();
        let mut name = None;
        while self.at < self.tokens.len() {
            let token = self.token(0).to_owned();
            self.at += 1;
            match token.as_str() {
                "{" => {
                    while !matches!(self.token(0), "}" | "") {
                        self.imports(prefix, public, found);
                    }
                    self.at += 1;
                    name = None;
                    prefix.truncate(depth);
                }
                "}" => {
                    self.at -= 1;
                    break;
                }
                "as" => {
                    name = Some(self.token(0).to_owned());
                    self.at += 1;
                }
                "," | ";" => break,
                "::" => {}
                "self" if !prefix.is_empty() => name = prefix.last().cloned(),
                "*" => name = Some(token),
                _ => {
                    name = Some(token.clone());
                    prefix.push(token);
                }
            }
        }
        if let Some(name) = name {
            let path = prefix.clone();
            found.push(Import { name, path, public });
        }
        prefix.truncate(depth);
    }
}

/// Every Rust file in `dir`.
pub(crate) fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else if path.extension().is_some_and(|ext| ext == "rs") {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// Whether a file holds tests only.
pub(crate) fn is_test(file: &Path) -> bool {
    file.iter()
        .any(|part| part == "tests" || part == "tests.rs")
}
