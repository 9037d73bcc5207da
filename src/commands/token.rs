//! `caisson token`: makes, lists and revokes tokens; beside a controller by its own records, elsewhere through it.

use std::time::Duration;

use caisson_controller::identity::authority::{Authority, AuthorityError};
use caisson_controller::identity::registry::{Book, LIFETIME, Registry, RegistryError, directory};
use caisson_model::outcome::Fault;
use caisson_proto::api::ApiError;
use caisson_proto::client::Client;
use caisson_proto::fleet::{FleetApi, NewToken, TokenKind, TokenView, TokenWish};
use serde_json::{Value, json};

use crate::cli::fleet::{self, Office, TokenAction};
use crate::commands::{runs, runtime, surroundings};
use crate::config::{Config, Flags};
use crate::embedded::CallError;
use crate::reach::Way;
use crate::report::{self, Exit, Explained, Failure};
use crate::view::json::time;
use crate::{clock, table};

/// How long a join token counts when nobody says otherwise; also the longest.
const JOIN: Duration = Duration::from_secs(15 * 60);
/// How long an API token counts when nobody says otherwise.
const API: Duration = Duration::from_secs(30 * 24 * 3600);

/// The records beside a controller cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot use the identity records")]
pub(crate) struct NoRecords(#[from] pub(crate) RegistryError);

impl Explained for NoRecords {
    fn fault(&self) -> Fault {
        Fault::Environment
    }

    fn help(&self) -> Option<String> {
        match &self.0 {
            RegistryError::Authority(AuthorityError::Missing(_)) => {
                Some("make an authority with `caisson controller init`, or name the controller with --controller".to_owned())
            }
            _ => None,
        }
    }
}

/// Where identities are administered.
pub(crate) enum Desk {
    /// By the records of a controller of this machine.
    Local(Registry),
    /// Through a controller.
    Remote(Box<Client>),
}

impl Desk {
    /// Finds it: the records where a directory is named or no controller is, else the controller. To be called in a runtime.
    pub(crate) async fn of(office: &Office) -> Result<Desk, Failure> {
        let (environment, root) = surroundings();
        let flags = Flags { state_dir: office.state_dir.clone(), reach: office.reach.clone(), ..Flags::default() };
        let config = Config::settle(&environment, root, flags)?;
        let records = directory(&config.state_dir.value.join("controller"));
        let token = config.token_file.value.is_some() || environment.contains_key(std::ffi::OsStr::new("CAISSON_TOKEN"));
        // Whoever can write the records needs no token; who has one means the controller that it is for.
        let beside = office.state_dir.is_some() || (Authority::exists(&records) && !token && office.reach.controller.is_none());
        if !beside && config.controller.value.is_some() {
            return Ok(Desk::Remote(Box::new(Way::of(&config, &environment)?.connect().await?)));
        }
        let store = environment.get(std::ffi::OsStr::new("CAISSON_STORE")).filter(|store| !store.is_empty());
        let book = store.map_or(Book::AsNoted, |store| Book::Database(store.to_string_lossy().into_owned()));
        Ok(Desk::Local(Registry::open(records, LIFETIME, book).await.map_err(NoRecords)?))
    }

    async fn create(&self, wish: TokenWish) -> Result<NewToken, ApiError> {
        match self {
            Desk::Local(registry) => registry.create_token("local".to_owned(), wish).await,
            Desk::Remote(client) => client.create_token(wish).await,
        }
    }

    async fn list(&self) -> Result<Vec<TokenView>, ApiError> {
        match self {
            Desk::Local(registry) => Ok(registry.roll().tokens()),
            Desk::Remote(client) => client.list_tokens().await,
        }
    }

    async fn revoke(&self, id: String) -> Result<(), ApiError> {
        match self {
            Desk::Local(registry) => registry.revoke_token("local".to_owned(), id).await,
            Desk::Remote(client) => client.revoke_token(id).await,
        }
    }
}

/// Does what is asked.
pub(crate) fn run(arguments: fleet::Token) -> Result<Exit, Failure> {
    let runtime = runtime()?;
    let result = runtime.block_on(async {
        match arguments.action {
            TokenAction::Create(create) => self::create(create).await,
            TokenAction::List(list) => self::list(list).await,
            TokenAction::Revoke(revoke) => {
                let desk = Desk::of(&revoke.office).await?;
                let failed = |source| CallError { act: format!("revoke token {}", revoke.id), source };
                desk.revoke(revoke.id.clone()).await.map_err(failed)?;
                if revoke.json {
                    let object = json!({ "type": "token", "id": revoke.id, "done": "revoked" });
                    return Ok(report::print(&format!("{object}\n")));
                }
                Ok(report::print(&format!("token {} revoked\n", revoke.id)))
            }
        }
    });
    runtime.shutdown_background();
    result
}

fn object(view: &TokenView) -> Value {
    json!({
        "type": "token",
        "id": view.id,
        "kind": kind(view),
        "name": view.name,
        "pool": (view.kind == TokenKind::Join).then_some(&view.pool),
        "scopes": view.scopes,
        "state": state(view),
        "created": time(Some(view.created)),
        "expires": time(Some(view.expires)),
        "used": time(view.used),
        "used_by": view.used_by,
        "revoked": time(view.revoked),
    })
}

fn kind(view: &TokenView) -> &'static str {
    match view.kind {
        TokenKind::Join => "join",
        TokenKind::Api => "api",
    }
}

fn state(view: &TokenView) -> &'static str {
    match (view.revoked, view.used) {
        (Some(_), _) => "revoked",
        (None, Some(_)) => "used",
        (None, None) if view.expires <= clock::now() => "expired",
        (None, None) => "valid",
    }
}

async fn create(create: fleet::TokenCreate) -> Result<Exit, Failure> {
    let desk = Desk::of(&create.office).await?;
    let join = create.scopes.is_empty();
    let wish = TokenWish {
        kind: if join { TokenKind::Join } else { TokenKind::Api },
        name: if join { create.agent.clone().unwrap_or_default() } else { create.name.clone() },
        pool: if join { create.pool.clone().unwrap_or_else(|| "default".to_owned()) } else { String::new() },
        scopes: create.scopes.clone(),
        lifetime: create.expires.unwrap_or(if join { JOIN } else { API }),
    };
    let made = desk.create(wish).await.map_err(|source| CallError { act: "make a token".to_owned(), source })?;
    if create.json {
        let mut object = object(&made.view);
        object["token"] = made.token.clone().into();
        return Ok(report::print(&format!("{object}\n")));
    }
    let until = runs::moment(made.view.expires);
    match join {
        true => report::note(&format!(
            "join token {} for one agent of pool {}, until {until} UTC; on its machine: caisson agent join --controller HOST:PORT --token -",
            made.view.id, made.view.pool
        )),
        false => report::note(&format!("API token {} with scope {}, until {until} UTC", made.view.id, made.view.scopes.join(", "))),
    }
    Ok(report::print(&format!("{}\n", made.token)))
}

async fn list(list: fleet::TokenList) -> Result<Exit, Failure> {
    let desk = Desk::of(&list.office).await?;
    let tokens = desk.list().await.map_err(|source| CallError { act: "list the tokens".to_owned(), source })?;
    if list.json {
        let text: String = tokens.iter().map(|view| format!("{}\n", object(view))).collect();
        return Ok(report::print(&text));
    }
    let rows: Vec<Vec<String>> = tokens
        .iter()
        .map(|view| {
            let of = if view.kind == TokenKind::Join { view.pool.clone() } else { view.scopes.join(",") };
            let used = view.used_by.as_ref().map(ToString::to_string).unwrap_or_default();
            vec![view.id.clone(), kind(view).to_owned(), view.name.clone(), of, state(view).to_owned(), runs::moment(view.expires), used]
        })
        .collect();
    Ok(report::print(&table::render(&["id", "kind", "name", "pool or scope", "state", "expires", "used by"], &rows)))
}
