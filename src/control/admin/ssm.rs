//! The Shadowsocks Server Management API v1 (Shadowsocks-NET, 2023-1), for programs that know it: users and what they have used, at
//! `/server/v1`, and at `/NAME/server/v1` where several servers have users.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Query, Request, State};
use axum::http::{Response, StatusCode};
use axum::response::IntoResponse as _;
use axum::routing::get;
use schemars::{JsonSchema, SchemaGenerator};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use zeroize::Zeroizing;

use super::context::{Context, body};
use super::edit::kept;
use super::model::Problem;
use super::reply::{self, Refused, Reply};
use crate::relay::users::{Change, Limits, Member, NewUser, Stats, Table, TableError};

type Shared = State<Arc<Context>>;

/// The server.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct ServerInfo {
    /// The program.
    server: &'static str,
    /// The version of this API.
    api_version: &'static str,
}

/// A user, as it is added.
#[derive(Serialize, Deserialize, JsonSchema)]
pub(super) struct Credential {
    /// Its name.
    username: String,
    /// Its key in base64, or under AEAD-2017 methods its password.
    #[serde(rename = "uPSK")]
    key: String,
}

/// The users of a server.
#[derive(Serialize, JsonSchema)]
pub(super) struct Credentials {
    users: Vec<Credential>,
}

/// What is changed of a user.
#[derive(Serialize, Deserialize, JsonSchema)]
pub(super) struct NewKey {
    /// As in a user.
    #[serde(rename = "uPSK")]
    key: String,
}

/// What was used since the process began or the figures were cleared.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Used {
    /// Datagrams to clients.
    downlink_packets: u64,
    /// Payload bytes to clients.
    downlink_bytes: u64,
    /// Datagrams from clients.
    uplink_packets: u64,
    /// Payload bytes from clients.
    uplink_bytes: u64,
    /// TCP streams that began.
    tcp_sessions: u64,
    /// UDP associations that began.
    udp_sessions: u64,
}

impl From<Stats> for Used {
    fn from(stats: Stats) -> Self {
        Self {
            downlink_packets: stats.packets_down,
            downlink_bytes: stats.down,
            uplink_packets: stats.packets_up,
            uplink_bytes: stats.up,
            tcp_sessions: stats.tcp,
            udp_sessions: stats.udp,
        }
    }
}

/// A user, with what it has used.
#[derive(Serialize, JsonSchema)]
pub(super) struct Details {
    #[serde(flatten)]
    user: Credential,
    #[serde(flatten)]
    used: Used,
}

/// What a user has used.
#[derive(Serialize, JsonSchema)]
pub(super) struct UserStats {
    /// Its name.
    username: String,
    #[serde(flatten)]
    used: Used,
}

/// What all users have used, and each.
#[derive(Serialize, JsonSchema)]
pub(super) struct ServerStats {
    #[serde(flatten)]
    all: Used,
    users: Vec<UserStats>,
}

/// The server of a path; none: the only one.
#[derive(Deserialize)]
struct OfServer {
    server: Option<String>,
}

/// The user of a path, too.
#[derive(Deserialize)]
struct OfUser {
    server: Option<String>,
    username: String,
}

#[derive(Deserialize)]
struct Clear {
    clear: Option<String>,
}

/// Its routes.
pub(super) fn routes() -> Router<Arc<Context>> {
    let mut router = Router::new();
    for base in ["/server/v1", "/{server}/server/v1"] {
        router = router
            .route(base, get(info))
            .route(&format!("{base}/"), get(info))
            .route(&format!("{base}/users"), get(list).post(add))
            .route(
                &format!("{base}/users/{{username}}"),
                // What the document calls PATCH is PUT in sing-box.
                get(details).patch(change).put(change).delete(remove),
            )
            .route(&format!("{base}/stats"), get(stats));
    }
    router
}

async fn info(State(context): Shared, Path(of): Path<OfServer>) -> Reply {
    server(&context, of.server.as_deref())?;
    reply::json(&ServerInfo {
        server: concat!("ssr ", env!("CARGO_PKG_VERSION")),
        api_version: "v1",
    })
}

async fn list(State(context): Shared, Path(of): Path<OfServer>) -> Reply {
    let table = with_users(&context, of.server.as_deref())?;
    let users = table
        .list()
        .iter()
        .map(|member| credential(member))
        .collect();
    reply::json(&Credentials { users })
}

async fn add(
    State(context): Shared,
    Path(of): Path<OfServer>,
    request: Request,
) -> Result<StatusCode, Refused> {
    let table = with_users(&context, of.server.as_deref())?;
    let Credential { username, key } = body(request).await?;
    let added = table.add(NewUser {
        name: username.clone(),
        password: Zeroizing::new(key),
        limits: Limits::default(),
        next_hop: None,
    });
    added.map_err(|error| refused(&error))?;
    kept(&context).await?;
    tracing::info!(user = %username.escape_debug(), server = %table.server, "admin: a user was added or changed");
    Ok(StatusCode::CREATED)
}

async fn details(State(context): Shared, Path(of): Path<OfUser>) -> Reply {
    let table = with_users(&context, of.server.as_deref())?;
    let member = find(&table, &of.username)?;
    reply::json(&Details {
        user: credential(&member),
        used: member.user.stats().into(),
    })
}

async fn change(
    State(context): Shared,
    Path(of): Path<OfUser>,
    request: Request,
) -> Result<StatusCode, Refused> {
    let table = with_users(&context, of.server.as_deref())?;
    let member = find(&table, &of.username)?;
    let NewKey { key } = body(request).await?;
    if *member.stated.password == key {
        let error = "the user has this uPSK already";
        return Err(Refused::new(StatusCode::BAD_REQUEST, error, ""));
    }
    let change = Change {
        password: Some(Zeroizing::new(key)),
        limits: None,
    };
    let changed = table.change(&of.username, change);
    changed.map_err(|error| refused(&error))?;
    kept(&context).await?;
    tracing::info!(user = %of.username.escape_debug(), server = %table.server, "admin: a user was added or changed");
    Ok(StatusCode::NO_CONTENT)
}

async fn remove(State(context): Shared, Path(of): Path<OfUser>) -> Result<Response<Body>, Refused> {
    let table = with_users(&context, of.server.as_deref())?;
    let removed = table.remove(&of.username);
    removed.map_err(|error| refused(&error))?;
    kept(&context).await?;
    tracing::info!(user = %of.username.escape_debug(), server = %table.server, "admin: a user was removed");
    Ok(StatusCode::NO_CONTENT.into_response())
}

async fn stats(
    State(context): Shared,
    Path(of): Path<OfServer>,
    Query(asked): Query<Clear>,
) -> Reply {
    let table = server(&context, of.server.as_deref())?;
    let clears = asked.clear.as_deref() == Some("true");
    let (mut all, mut users) = (Stats::default(), Vec::new());
    for user in table.users() {
        let stats = if clears {
            user.clear_stats()
        } else {
            user.stats()
        };
        all = all.and(&stats);
        users.extend(user.name().map(|name| UserStats {
            username: name.to_owned(),
            used: stats.into(),
        }));
    }
    reply::json(&ServerStats {
        all: all.into(),
        users,
    })
}

/// Its paths in the description, for the only server with users.
pub(super) fn paths(schemas: &mut SchemaGenerator) -> Map<String, Value> {
    let info = schemas.subschema_for::<ServerInfo>().to_value();
    let users = schemas.subschema_for::<Credentials>().to_value();
    let user = schemas.subschema_for::<Credential>().to_value();
    let details = schemas.subschema_for::<Details>().to_value();
    let key = schemas.subschema_for::<NewKey>().to_value();
    let stats = schemas.subschema_for::<ServerStats>().to_value();
    let problem = schemas.subschema_for::<Problem>().to_value();
    let content = |schema: &Value| json!({"application/json": {"schema": schema}});
    let call = |summary: &str, status: &str, answer: Option<&Value>, body: Option<&Value>| {
        let mut good = json!({"description": "Done."});
        let mut call = json!({"summary": summary});
        if let Some(answer) = answer {
            good["content"] = content(answer);
        }
        if let Some(body) = body {
            call["requestBody"] = json!({"required": true, "content": content(body)});
        }
        let failed = json!({"description": "Why not.", "content": content(&problem)});
        call["responses"] = json!({status: good, "default": failed});
        call
    };
    let parameter = |name: &str, place: &str, summary: &str| json!({"name": name, "in": place, "required": place == "path", "description": summary, "schema": {"type": "string"}});
    let paths = json!({
        "/server/v1": {"get": call("SSM: the program", "200", Some(&info), None)},
        "/server/v1/users": {
            "get": call("SSM: the users and their keys", "200", Some(&users), None),
            "post": call("SSM: add a user", "201", None, Some(&user)),
        },
        "/server/v1/users/{username}": {
            "parameters": [parameter("username", "path", "The name.")],
            "get": call("SSM: a user and what it has used", "200", Some(&details), None),
            "patch": call("SSM: give a user another key", "204", None, Some(&key)),
            "delete": call("SSM: remove a user, and end its sessions", "204", None, None),
        },
        "/server/v1/stats": {
            "parameters": [parameter("clear", "query", "`true`: the figures begin anew.")],
            "get": call("SSM: what was used", "200", Some(&stats), None),
        },
    });
    match paths {
        Value::Object(paths) => paths,
        _ => Map::new(),
    }
}

/// The server of this name; without one, the only one with users, or the only one.
fn server(context: &Context, name: Option<&str>) -> Result<Arc<Table>, Refused> {
    let mut tables = context.facts.counters.users.tables();
    match name {
        Some(name) => tables.retain(|table| *table.server == *name),
        None if tables.len() > 1 => tables.retain(|table| table.nameless().is_none()),
        None => {}
    }
    let hint =
        "with several servers, the path is `/NAME/server/v1`; `/api/v1/servers` has their names";
    let refused = |error| Err(Refused::new(StatusCode::NOT_FOUND, error, hint));
    match (tables.pop(), tables.is_empty()) {
        (Some(table), true) => Ok(table),
        (Some(_), false) => refused("several servers are meant"),
        (None, _) => refused("there is no such server here"),
    }
}

/// The same, if it has users.
fn with_users(context: &Context, name: Option<&str>) -> Result<Arc<Table>, Refused> {
    let table = server(context, name)?;
    match table.nameless() {
        None => Ok(table),
        Some(_) => Err(refused(&TableError::OneKey)),
    }
}

fn find(table: &Table, name: &str) -> Result<Arc<Member>, Refused> {
    let found = table.find(name);
    found.ok_or_else(|| refused(&TableError::Unknown))
}

fn credential(member: &Member) -> Credential {
    Credential {
        username: member.stated.name.clone(),
        key: member.stated.password.to_string(),
    }
}

fn refused(error: &TableError) -> Refused {
    let status = match error {
        TableError::Unknown | TableError::OneKey => StatusCode::NOT_FOUND,
        TableError::Name
        | TableError::NameTaken
        | TableError::Password(_)
        | TableError::PasswordTaken
        | TableError::TooMany => StatusCode::BAD_REQUEST,
    };
    Refused::new(status, error.to_string(), "")
}
