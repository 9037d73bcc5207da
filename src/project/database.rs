//! What the text of settings says of the database: its kind, and by which name, user and address it is reached.

/// The database of the settings.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Engine {
    /// A file, or memory.
    #[default]
    Sqlite,
    /// PostgreSQL.
    Postgres(Server),
    /// PostgreSQL with PostGIS.
    Postgis(Server),
    /// MySQL or MariaDB.
    Mysql(Server),
    /// Something else.
    Other(String),
}

/// How the settings reach a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Server {
    /// The database.
    pub(crate) name: String,
    /// Who asks.
    pub(crate) user: String,
    /// By which password.
    pub(crate) password: String,
    /// Where; not empty.
    pub(crate) host: String,
    /// The port.
    pub(crate) port: String,
    /// Variables of the environment that the settings read these from and have no default for.
    pub(crate) variables: Vec<(String, String)>,
}

/// The address at which a server of a test listens.
const HOST: &str = "127.0.0.1";

/// How far behind `ENGINE` the other keys of the same database may stand, in lines.
const LINES: usize = 14;

/// Reads the settings; `files` are the module's own text first, then what it imports.
pub(super) fn engine(files: &[String]) -> Engine {
    let whole = files.join("\n");
    if whole.contains("DATABASE_URL") {
        return match () {
            () if whole.contains("postgis") => Engine::Postgis(Server::of_url()),
            () if whole.contains("django.contrib.postgres") => Engine::Postgres(Server::of_url()),
            () => Engine::Sqlite,
        };
    }
    // What the settings say themselves counts before what they import.
    for text in files {
        let found: Vec<(String, &str)> = text.match_indices("ENGINE").filter_map(|(at, _)| backend(text, at)).collect();
        // Where a branch of the settings takes SQLite, the environment of a test has it.
        if found.iter().any(|(name, _)| matches!(kind(name), "sqlite3" | "spatialite")) {
            return Engine::Sqlite;
        }
        if let Some((name, rest)) = found.into_iter().next() {
            let keys: String = rest.lines().take(LINES).collect::<Vec<_>>().join("\n");
            return match kind(&name) {
                "postgresql" | "postgresql_psycopg2" | "psqlextra" => Engine::Postgres(Server::of(&keys, "5432")),
                "postgis" => Engine::Postgis(Server::of(&keys, "5432")),
                "mysql" => Engine::Mysql(Server::of(&keys, "3306")),
                _ => Engine::Other(name),
            };
        }
    }
    Engine::Sqlite
}

fn kind(name: &str) -> &str {
    let last = name.rsplit('.').next().unwrap_or_default();
    if last == "backend" { name.rsplit('.').nth(1).unwrap_or_default() } else { last }
}

/// The backend that `ENGINE` at this place names, and the text behind it.
fn backend(text: &str, at: usize) -> Option<(String, &str)> {
    let quoted = text[..at].ends_with(['"', '\'']);
    let rest = text[at + "ENGINE".len()..].strip_prefix(['"', '\'']).filter(|_| quoted)?;
    let rest = rest.trim_start_matches([']', ' ']);
    let value = rest.strip_prefix(':').or_else(|| rest.strip_prefix('='))?;
    let line = value.trim_start().lines().next().unwrap_or_default();
    let name = literals(line).into_iter().rev().find(|literal| literal.contains('.') && !literal.contains(' '))?;
    Some((name, value))
}

impl Server {
    /// The server of the URL that a test gets.
    fn of_url() -> Server {
        let words = ["test", "test", "test", HOST, "5432"].map(str::to_owned);
        let [name, user, password, host, port] = words;
        Server { name, user, password, host, port, variables: Vec::new() }
    }

    /// The URL by which settings reach it that read one.
    pub(crate) fn url(&self, scheme: &str) -> String {
        format!("{scheme}://{}:{}@{}:{}/{}", self.user, self.password, self.host, self.port, self.name)
    }

    /// What the keys behind `ENGINE` say.
    fn of(keys: &str, port: &str) -> Server {
        let mut variables: Vec<(String, String)> = Vec::new();
        let mut value = |key: &str, usual: &str| -> Option<String> {
            let line = ["\"", "'"].iter().find_map(|quote| {
                let (_, rest) = keys.split_once(&format!("{quote}{key}{quote}"))?;
                let rest = rest.trim_start_matches([']', ' ']);
                Some(rest.strip_prefix(':').or_else(|| rest.strip_prefix('='))?.lines().next().unwrap_or_default())
            })?;
            let (asks, said) = (line.contains("env") || line.contains("config("), literals(line));
            let number: String = line.trim().chars().take_while(char::is_ascii_digit).collect();
            let found = match (asks, said.as_slice()) {
                (true, [_, default, ..]) => default.clone(),
                (true, [name]) => {
                    variables.push((name.clone(), usual.to_owned()));
                    usual.to_owned()
                }
                (_, [value, ..]) => value.clone(),
                (_, []) => number,
            };
            Some(found).filter(|found| !found.is_empty())
        };
        // Who names no user is the user that runs the test.
        let user = value("USER", "test").unwrap_or_else(|| "runner".to_owned());
        Server {
            name: value("NAME", "test").unwrap_or_else(|| "test".to_owned()),
            password: value("PASSWORD", "test").unwrap_or_default(),
            host: value("HOST", HOST).unwrap_or_else(|| HOST.to_owned()),
            port: value("PORT", port).unwrap_or_else(|| port.to_owned()),
            user,
            variables,
        }
    }
}

/// The texts between quotes of a line of Python.
fn literals(line: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut rest = line;
    while let Some(at) = rest.find(['"', '\'', '#']) {
        let quote = &rest[at..=at];
        if quote == "#" {
            break;
        }
        let Some((text, after)) = rest[at + 1..].split_once(quote) else { break };
        found.push(text.to_owned());
        rest = after;
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kind_is_read_from_whatever_names_it() {
        let postgres = |text: &str| matches!(engine(&[text.to_owned()]), Engine::Postgres(_));
        assert!(postgres("DATABASES = {'default': {'ENGINE': 'django.db.backends.postgresql'}}"));
        assert!(postgres("DATABASES = {\"default\": {\"ENGINE\": os.environ.get(\"DB_ENGINE\", \"django.db.backends.postgresql\"),"));
        assert!(postgres("X = env('DATABASE_URL')\nINSTALLED_APPS = ['django.contrib.postgres']"));
        for text in [
            "if x == 'pg':\n  D = {'ENGINE': 'django.db.backends.postgresql'}\nelse:\n  D = {'ENGINE': 'django.db.backends.sqlite3'}",
            "D = {'ENGINE': os.environ.get('ENGINE', 'django.db.backends.sqlite3')}",
            "D = {'ENGINE': os.environ.get('DB_ENGINE')}",
            "SEARCH_ENGINE = 'a.b'",
        ] {
            assert_eq!(engine(&[text.to_owned()]), Engine::Sqlite, "{text}");
        }
        assert_eq!(engine(&["D = {'ENGINE': 'mssql.x'}".to_owned()]), Engine::Other("mssql.x".into()));
        // A file of its own for tests wins over the base that it imports.
        let files = ["D = {'ENGINE': 'django.db.backends.sqlite3'}", "D = {'ENGINE': 'django.db.backends.postgresql'}"];
        assert_eq!(engine(&files.map(str::to_owned)), Engine::Sqlite);
    }

    #[test]
    fn the_server_is_where_the_settings_look_for_it() {
        let text = "DATABASES = {\n 'default': {\n  'ENGINE': 'django.db.backends.postgresql',\n  'NAME': 'shop',\n  'USER': os.environ.get('DB_USER', 'anna'),\n  'PASSWORD': os.environ['DB_PASSWORD'],\n  'HOST': os.getenv('DB_HOST', 'db'),\n  'PORT': 5433,\n }\n}\n";
        let Engine::Postgres(server) = engine(&[text.to_owned()]) else { unreachable!("it is Postgres") };
        let expected = Server {
            name: "shop".into(),
            user: "anna".into(),
            password: "test".into(),
            host: "db".into(),
            port: "5433".into(),
            variables: vec![("DB_PASSWORD".into(), "test".into())],
        };
        assert_eq!(server, expected);
        let Engine::Mysql(server) = engine(&["D = {'ENGINE': 'django.db.backends.mysql', 'NAME': 'x'}".to_owned()]) else {
            unreachable!("it is MySQL")
        };
        assert_eq!((server.user.as_str(), server.port.as_str(), server.host.as_str()), ("runner", "3306", HOST));
    }
}
