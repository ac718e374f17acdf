//! What callers change: users, sessions, the server that is used.

use std::sync::Arc;

use axum::extract::{Path, Query, Request, State};
use axum::http::StatusCode;
use axum::http::header::HOST;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use fast_qr::convert::svg::SvgBuilder;
use fast_qr::qr::QRBuilder;
use serde::Deserialize;
use zeroize::Zeroizing;

use super::context::{Context, body};
use super::model::{self, LinkOf, UserLink};
use super::reply::{Refused, Reply, json};
use super::settings::NewSettings;
use crate::crypto::Family;
use crate::limits::MAX_LISTED_SESSIONS;
use crate::relay::users::{Change, NewUser, Table, TableError};

type Shared = State<Arc<Context>>;

/// What may stand behind the path of a user.
#[derive(Deserialize)]
pub(super) struct Where {
    /// The server, where several have users.
    server: Option<String>,
    /// The public address of the server, for the link.
    host: Option<String>,
}

/// `PUT /api/v1/users/NAME`.
pub(super) async fn put_user(
    State(context): Shared,
    Path(name): Path<String>,
    Query(place): Query<Where>,
    request: Request,
) -> Reply {
    let host = host(&place, &request);
    let new: NewSettings = body(request).await?;
    let table = table(&context, &name, place.server.as_deref())?;
    let known = table.find(&name);
    let before = known.as_ref().map(|member| member.user.limits());
    let limits = new.limits(before.unwrap_or_default()).map_err(wrong)?;
    let password = new.password.map(Zeroizing::new);
    let done = match known {
        Some(_) => {
            let limits = Some(limits);
            table.change(&name, Change { password, limits })
        }
        None => {
            let password = match password {
                Some(password) => password,
                None => made(&table)?,
            };
            table.add(NewUser {
                name: name.clone(),
                password,
                limits,
                next_hop: None,
            })
        }
    };
    done.map_err(|error| refused(&error))?;
    kept(&context).await?;
    tracing::info!(user = %name.escape_debug(), server = %table.server, "admin: a user was added or changed");
    json(&link_of(&context, &table, &name, &host)?)
}

/// `DELETE /api/v1/users/NAME`.
pub(super) async fn delete_user(
    State(context): Shared,
    Path(name): Path<String>,
    Query(place): Query<Where>,
) -> Result<StatusCode, Refused> {
    let table = table(&context, &name, place.server.as_deref())?;
    table.remove(&name).map_err(|error| refused(&error))?;
    kept(&context).await?;
    tracing::info!(user = %name.escape_debug(), server = %table.server, "admin: a user was removed");
    Ok(StatusCode::NO_CONTENT)
}

/// Waits until a change is kept beyond this process, where `admin.state` says so.
pub(super) async fn kept(context: &Context) -> Result<(), Refused> {
    let kept = context.facts.counters.users.keep().await;
    kept.map_err(|error| {
        let hint = "the change holds until the process ends";
        Refused::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string(), hint)
    })
}

/// `GET /api/v1/users/NAME/link`.
pub(super) async fn link(
    State(context): Shared,
    Path(name): Path<String>,
    Query(place): Query<Where>,
    request: Request,
) -> Reply {
    let host = host(&place, &request);
    let table = table(&context, &name, place.server.as_deref())?;
    json(&link_of(&context, &table, &name, &host)?)
}

/// `GET /api/v1/sessions`.
pub(super) async fn sessions(State(context): Shared) -> Reply {
    let (list, _) = context.facts.counters.users.sessions(MAX_LISTED_SESSIONS);
    let describe = |session| model::session(session, context.facts.reason.as_ref());
    json(&list.into_iter().map(describe).collect::<Vec<_>>())
}

/// `DELETE /api/v1/sessions/ID`.
pub(super) async fn close(
    State(context): Shared,
    Path(id): Path<String>,
) -> Result<StatusCode, Refused> {
    let id = id.parse().ok();
    match id.is_some_and(|id| context.facts.counters.users.close(id)) {
        true => Ok(StatusCode::NO_CONTENT),
        false => Err(missing("there is no such session: it may have ended")),
    }
}

/// `PUT /api/v1/servers/NAME/active`.
pub(super) async fn choose(State(context): Shared, Path(name): Path<String>) -> Reply {
    prefer(&context, Some(&name))?;
    tracing::info!(server = %name.escape_debug(), "admin: a server was chosen");
    json(&model::servers(&context.facts))
}

/// `DELETE /api/v1/servers/NAME/active`.
pub(super) async fn unchoose(State(context): Shared, Path(name): Path<String>) -> Reply {
    let servers = model::servers(&context.facts);
    if !servers.iter().any(|one| one.name == name && one.chosen) {
        return Err(missing("this server is not chosen"));
    }
    prefer(&context, None)?;
    tracing::info!("admin: servers are chosen by the config again");
    json(&model::servers(&context.facts))
}

fn prefer(context: &Context, name: Option<&str>) -> Result<(), Refused> {
    let Some(servers) = &context.facts.servers else {
        let error = "this process does not choose servers";
        return Err(Refused::new(StatusCode::CONFLICT, error, "ask `ssr local`"));
    };
    match servers.now().prefer(name) {
        true => Ok(()),
        false => Err(missing("there is no server of this name")),
    }
}

/// The server that has, or is to have, a user.
fn table(context: &Context, name: &str, server: Option<&str>) -> Result<Arc<Table>, Refused> {
    let tables = context.facts.counters.users.tables();
    let mut named: Vec<_> = tables
        .into_iter()
        .filter(|table| server.is_none_or(|server| *table.server == *server))
        .collect();
    if named.len() > 1 && named.iter().any(|table| table.find(name).is_some()) {
        named.retain(|table| table.find(name).is_some());
    }
    let is_ambiguous = named.len() > 1;
    match named.pop() {
        None => Err(missing("there is no such server with users here")),
        Some(_) if is_ambiguous => {
            let error = "several servers are meant";
            let hint = "name one: `?server=NAME`";
            Err(Refused::new(StatusCode::CONFLICT, error, hint))
        }
        Some(table) => Ok(table),
    }
}

/// A new password.
fn made(table: &Table) -> Result<Zeroizing<String>, Refused> {
    let length = match table.method.family() {
        Family::Aead2022 => table.method.key_len(),
        _ => 32,
    };
    let mut bytes = Zeroizing::new(vec![0; length]);
    rand::TryRng::try_fill_bytes(&mut rand::rngs::SysRng, &mut bytes).map_err(|_| {
        let error = "the system gives no random bytes";
        Refused::new(StatusCode::INTERNAL_SERVER_ERROR, error, "")
    })?;
    Ok(Zeroizing::new(STANDARD.encode(&*bytes)))
}

/// A user with its link.
fn link_of(context: &Context, table: &Table, name: &str, host: &str) -> Result<UserLink, Refused> {
    let member = table
        .find(name)
        .ok_or_else(|| refused(&TableError::Unknown))?;
    let own = &member.stated.password;
    let password = match table.method.family() {
        Family::Aead2022 => {
            let key = table.load().accounts.key().to_base64();
            Zeroizing::new(format!("{}:{}", &*key, &**own))
        }
        _ => own.clone(),
    };
    let link = (context.actions.link)(&LinkOf {
        server: &table.server,
        method: table.method,
        password: &password,
        name,
        host,
    });
    let qr = link.as_ref().and_then(|link| {
        let code = QRBuilder::new(link.as_str()).build().ok()?;
        Some(SvgBuilder::default().to_str(&code))
    });
    Ok(UserLink {
        name: name.to_owned(),
        server: table.server.to_string(),
        password: own.to_string(),
        link: link.map(|link| link.to_string()),
        qr,
    })
}

/// The public address of the server: what the caller says, or where it has reached the API.
fn host(place: &Where, request: &Request) -> String {
    if let Some(host) = &place.host {
        return host.clone();
    }
    let host = request.headers().get(HOST);
    let host = host.and_then(|host| host.to_str().ok()).unwrap_or_default();
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
    name.trim_matches(['[', ']']).to_owned()
}

fn missing(error: &str) -> Refused {
    Refused::new(StatusCode::NOT_FOUND, error, "")
}

fn wrong(error: String) -> Refused {
    Refused::new(StatusCode::BAD_REQUEST, error, "")
}

fn refused(error: &TableError) -> Refused {
    let status = match error {
        TableError::Unknown => StatusCode::NOT_FOUND,
        TableError::Name | TableError::Password(_) => StatusCode::BAD_REQUEST,
        TableError::OneKey
        | TableError::NameTaken
        | TableError::PasswordTaken
        | TableError::TooMany => StatusCode::CONFLICT,
    };
    Refused::new(status, error.to_string(), "")
}
