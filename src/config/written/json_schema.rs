//! The JSON Schema of the config, for editors: made from the structs that it is read into.

use serde_json::{Map, Value, json};

use super::schema::{Fate, KINDS, Kind, accepts, child, fate, keys, shorthand};

/// A value of each type, and the type's name.
fn samples() -> [(Value, &'static str); 9] {
    [
        (json!(true), "boolean"),
        (json!(1), "integer"),
        (json!(0.5), "number"),
        (json!("x"), "string"),
        (json!("1"), "string"),
        (json!("127.0.0.1:1"), "string"),
        (json!([]), "array"),
        (json!({}), "object"),
        (json!(null), "null"),
    ]
}

/// The JSON Schema (2020-12) of the config.
#[must_use]
pub fn json_schema() -> Value {
    let definitions: Map<String, Value> = KINDS
        .iter()
        .filter(|(kind, ..)| *kind != Kind::Top)
        .map(|(kind, name, _)| (reference(name), object(*kind)))
        .collect();
    let mut schema = json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "The config of ssr",
        "$defs": definitions,
    });
    if let (Value::Object(schema), Value::Object(top)) = (&mut schema, object(Kind::Top)) {
        schema.extend(top);
    }
    schema
}

fn reference(name: &str) -> String {
    name.replace(' ', "_")
}

fn reference_to(kind: Kind) -> Value {
    let found = KINDS.iter().find(|(one, ..)| *one == kind);
    let name = found.map(|(_, name, _)| reference(name));
    json!({"$ref": format!("#/$defs/{}", name.unwrap_or_default())})
}

fn object(kind: Kind) -> Value {
    let properties: Map<String, Value> = keys(kind)
        .map(|key| (key.to_owned(), property(kind, key)))
        .collect();
    // Such keys are comments.
    json!({
        "type": "object",
        "properties": properties,
        "patternProperties": {"^(_|//)": {}},
        "additionalProperties": false,
    })
}

fn property(kind: Kind, key: &str) -> Value {
    match fate(kind, key) {
        Fate::Alias(other) => property(kind, other),
        Fate::NoEffect(reason) | Fate::Withdrawn(reason) => {
            json!({"description": reason, "deprecated": true})
        }
        Fate::Known | Fate::Silent | Fate::Unknown => value(kind, key),
    }
}

/// What a value may be: the types that are read, with objects described by themselves.
fn value(kind: Kind, key: &str) -> Value {
    let mut types: Vec<&str> = samples()
        .iter()
        .filter(|(sample, _)| accepts(kind, key, sample))
        .map(|(_, name)| *name)
        .collect();
    types.dedup();
    if types.contains(&"number") {
        types.retain(|name| *name != "integer");
    }
    let inner = child(kind, key);
    if KINDS.iter().all(|(one, ..)| *one != inner.element()) {
        return json!({ "type": types });
    }
    let item = reference_to(inner.element());
    let others = types
        .iter()
        .filter(|name| !matches!(**name, "array" | "object"))
        .map(|name| json!({ "type": name }));
    let mut any: Vec<Value> = others.collect();
    let listed = match shorthand(inner) {
        Some((_, list)) => Some(reference_to(list.element())),
        None => (!inner.is_object()).then(|| item.clone()),
    };
    any.extend(listed.map(|item| json!({"type": "array", "items": item})));
    if inner.is_object() || types.contains(&"object") {
        any.push(item);
    }
    json!({ "anyOf": any })
}
