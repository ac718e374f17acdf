//! The description of the API (OpenAPI 3.0).

use schemars::generate::{SchemaGenerator, SchemaSettings};
use serde_json::{Map, Value, json};

use super::model::{LogLevel, Problem, Reloaded, Server, SessionInfo, Status, UserInfo, UserLink};
use super::settings::NewSettings;
use super::ssm;

/// The description, of what this version answers.
#[must_use]
pub fn document() -> Value {
    let mut schemas = SchemaSettings::openapi3().into_generator();
    let paths = paths(&mut schemas);
    let components = schemas.take_definitions(true);
    json!({
        "openapi": "3.0.3",
        "info": {
            "title": "ssr",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "The admin API of ssr.",
            "license": {"name": "MIT"},
        },
        "servers": [{"url": "/"}],
        "security": [{"token": []}, {}],
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    })
}

fn paths(schemas: &mut SchemaGenerator) -> Value {
    let status = schemas.subschema_for::<Status>().to_value();
    let users = schemas.subschema_for::<Vec<UserInfo>>().to_value();
    let sessions = schemas.subschema_for::<Vec<SessionInfo>>().to_value();
    let servers = schemas.subschema_for::<Vec<Server>>().to_value();
    let link = schemas.subschema_for::<UserLink>().to_value();
    let reloaded = schemas.subschema_for::<Reloaded>().to_value();
    let level = schemas.subschema_for::<LogLevel>().to_value();
    let settings = schemas.subschema_for::<NewSettings>().to_value();
    let problem = schemas.subschema_for::<Problem>().to_value();
    let object = json!({"type": "object"});
    let text = json!({"type": "string"});
    let call = |summary: &str, answer: Option<(&str, &Value)>, body: Option<&Value>| {
        let content = |kind: &str, schema: &Value| json!({kind: {"schema": schema}});
        let good = match answer {
            Some((kind, schema)) => {
                json!({"200": {"description": "Done.", "content": content(kind, schema)}})
            }
            None => json!({"204": {"description": "Done."}}),
        };
        let mut responses = good.as_object().cloned().unwrap_or_default();
        let failed =
            json!({"description": "Why not.", "content": content("application/json", &problem)});
        responses.insert("default".to_owned(), failed);
        let mut call = json!({"summary": summary, "responses": responses});
        if let (Some(body), Some(call)) = (body, call.as_object_mut()) {
            let content = content("application/json", body);
            let body = json!({"required": true, "content": content});
            call.insert("requestBody".to_owned(), body);
        }
        call
    };
    let json_of = |schema| Some(("application/json", schema));
    let parameter = |name: &str, place: &str, summary: &str| json!({"name": name, "in": place, "required": place == "path", "description": summary, "schema": {"type": "string"}});
    let name = parameter("name", "path", "The name.");
    let of_user = json!([
        name,
        parameter("server", "query", "The server, where several have users."),
        parameter(
            "host",
            "query",
            "The public address of the server, for the link."
        ),
    ]);
    let mut paths = Map::new();
    let mut add = |path: &str, parameters: Option<&Value>, calls: Value| {
        let mut calls = calls;
        if let (Some(parameters), Some(calls)) = (parameters, calls.as_object_mut()) {
            calls.insert("parameters".to_owned(), parameters.clone());
        }
        paths.insert(path.to_owned(), calls);
    };
    let get = call("What the process is and does", json_of(&status), None);
    add("/api/v1/status", None, json!({"get": get}));
    let get = call("The users", json_of(&users), None);
    add("/api/v1/users", None, json!({"get": get}));
    let put = call("Add or change a user", json_of(&link), Some(&settings));
    let delete = call("Remove a user, and end its sessions", None, None);
    add(
        "/api/v1/users/{name}",
        Some(&of_user),
        json!({"put": put, "delete": delete}),
    );
    let get = call("What a client of the user needs", json_of(&link), None);
    add(
        "/api/v1/users/{name}/link",
        Some(&of_user),
        json!({"get": get}),
    );
    let get = call("The sessions that run", json_of(&sessions), None);
    add("/api/v1/sessions", None, json!({"get": get}));
    let id = json!([parameter("id", "path", "The number of the session.")]);
    let delete = call("End a session", None, None);
    add(
        "/api/v1/sessions/{id}",
        Some(&id),
        json!({"delete": delete}),
    );
    let get = call("The servers", json_of(&servers), None);
    add("/api/v1/servers", None, json!({"get": get}));
    let put = call("Use this server from now on", json_of(&servers), None);
    let delete = call(
        "Choose servers by the config again",
        json_of(&servers),
        None,
    );
    let name = json!([name]);
    add(
        "/api/v1/servers/{name}/active",
        Some(&name),
        json!({"put": put, "delete": delete}),
    );
    let get = call("What failed, and why", json_of(&object), None);
    add("/api/v1/failures", None, json!({"get": get}));
    let post = call("Read the config again", json_of(&reloaded), None);
    add("/api/v1/reload", None, json!({"post": post}));
    let put = call("Set how much is logged", json_of(&level), Some(&level));
    add("/api/v1/log", None, json!({"put": put}));
    let get = call("This description", json_of(&object), None);
    add("/api/v1/openapi.json", None, json!({"get": get}));
    let get = call("Figures for Prometheus", Some(("text/plain", &text)), None);
    add("/metrics", None, json!({"get": get}));
    paths.extend(ssm::paths(schemas));
    paths.into()
}
