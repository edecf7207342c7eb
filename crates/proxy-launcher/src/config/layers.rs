//! Settings from a file, the environment and the command line, made into one environment.
//!
//! A key of the file is nothing but another name of a variable. So each layer only fills in variables, and
//! one reader checks them all. What came from elsewhere than the environment is remembered for messages.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::{OsStr, OsString},
    fmt, io,
    os::unix::ffi::{OsStrExt as _, OsStringExt as _},
    path::{Path, PathBuf},
};

use api::{
    contract::{self, env},
    environment::{Kind, Problem},
};
use toml::de::{DeTable, DeValue};

use super::{Surroundings, names};
use crate::jvm::secret_name;

/// Largest file with settings, or with a secret.
const FILE_MAX: usize = 64 * 1024;
/// Variables whose values must show nowhere; each can be read from a file.
pub(super) const SECRETS: [&str; 3] =
    [env::POSTGRES_PASSWORD, env::POSTGRES_URL, env::CASSANDRA_PASSWORD];

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// The code.
    Default,
    /// A file.
    File(PathBuf),
    /// The environment.
    Environment,
    /// The command line.
    Set,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path) => write!(f, "file {}", path.display()),
            Self::Environment => f.write_str("environment"),
            Self::Set => f.write_str("--set"),
        }
    }
}

/// Which layers there are above the defaults, apart from the environment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Above {
    /// A file that must exist.
    pub file: Option<PathBuf>,
    /// Keys and values, the strongest of all.
    pub set: Vec<(String, String)>,
}

/// All layers as one environment.
#[derive(Debug)]
pub(super) struct Layers {
    pub environment: BTreeMap<OsString, OsString>,
    /// Of variables that were not set in the environment.
    pub sources: BTreeMap<&'static str, Source>,
    pub problems: Vec<Problem>,
}

impl Layers {
    pub(super) fn new(
        environment: impl IntoIterator<Item = (OsString, OsString)>,
        above: &Above,
        surroundings: &Surroundings,
    ) -> Self {
        let environment = environment.into_iter().collect();
        let mut layers = Self { environment, sources: BTreeMap::new(), problems: Vec::new() };
        if let Some(path) = layers.file(above, surroundings) {
            layers.take_file(&path, surroundings);
        }
        for (key, value) in &above.set {
            match names::variable(key) {
                Some(variable) => layers.put(variable, value, Source::Set),
                None => layers.unknown(format!("--set {key}"), key, value),
            }
        }
        for secret in SECRETS {
            layers.take_secret(secret, surroundings);
        }
        layers.look_for_nul();
        layers
    }

    /// The source of a variable's value.
    pub(super) fn source(
        sources: &BTreeMap<&'static str, Source>,
        variable: &str,
        is_set: bool,
    ) -> Source {
        match sources.get(variable) {
            Some(source) => source.clone(),
            None if is_set => Source::Environment,
            None => Source::Default,
        }
    }

    fn file(&self, above: &Above, surroundings: &Surroundings) -> Option<PathBuf> {
        let by_variable = || self.environment.get(OsStr::new(names::CONFIG)).map(PathBuf::from);
        above.file.clone().or_else(by_variable).or_else(|| {
            let default = PathBuf::from(contract::LAUNCHER_CONFIG);
            (surroundings.exists)(&default).then_some(default)
        })
    }

    fn take_file(&mut self, path: &Path, surroundings: &Surroundings) {
        let name = path.display().to_string();
        let hint = "name a file of TOML with --config or CLOUDSTATE_LAUNCHER_CONFIG";
        let Some(bytes) = self.read(&name, path, hint, surroundings) else { return };
        let refused = match str::from_utf8(&bytes) {
            Err(_) => ("a byte that is no UTF-8".to_owned(), "text in UTF-8".to_owned()),
            Ok(text) => match DeTable::parse(text) {
                Ok(table) => return self.take_table(path, "", table.get_ref()),
                Err(error) => syntax(text, &error),
            },
        };
        self.problems.push(Problem {
            kind: Kind::FileParse,
            variable: name,
            value: refused.0,
            expected: refused.1,
            hint: "correct that line".to_owned(),
        });
    }

    fn take_table(&mut self, path: &Path, prefix: &str, table: &DeTable<'_>) {
        for (name, value) in table {
            let key = format!("{prefix}{}", name.get_ref());
            // As it stands in the file: nothing takes a number for another one.
            let text = match value.get_ref() {
                DeValue::Table(table) => {
                    self.take_table(path, &format!("{key}."), table);
                    continue;
                }
                DeValue::String(text) => text.to_string(),
                // Another radix stays one, and is refused where a plain number is wanted.
                DeValue::Integer(number) => number.to_string(),
                DeValue::Float(number) => number.as_str().to_owned(),
                DeValue::Boolean(switch) => switch.to_string(),
                DeValue::Datetime(time) => time.to_string(),
                DeValue::Array(_) => "[...]".to_owned(),
            };
            match names::variable(&key) {
                None => self.unknown(format!("{key} in {}", path.display()), &key, &text),
                // The environment is the stronger layer.
                Some(variable) if self.environment.contains_key(OsStr::new(variable)) => {}
                Some(variable) => self.put(variable, &text, Source::File(path.to_owned())),
            }
        }
    }

    fn put(&mut self, variable: &'static str, value: &str, source: Source) {
        self.environment.insert(variable.into(), value.into());
        self.sources.insert(variable, source);
    }

    /// `X_FILE` in place of `X`.
    fn take_secret(&mut self, secret: &'static str, surroundings: &Surroundings) {
        let by_file = format!("{secret}{}", env::FILE_SUFFIX);
        let Some(path) = self.environment.remove(OsStr::new(&by_file)) else { return };
        if self.environment.contains_key(OsStr::new(secret)) {
            self.problems.push(Problem {
                kind: Kind::ConflictingKeys,
                variable: format!("{secret} and {by_file}"),
                value: "hidden".to_owned(),
                expected: "one of them".to_owned(),
                hint: "leave the other one out".to_owned(),
            });
            return;
        }
        let path = PathBuf::from(path);
        let hint = format!("name a file that holds what {secret} would");
        let Some(mut bytes) = self.read(&by_file, &path, &hint, surroundings) else { return };
        if bytes.last() == Some(&b'\n') {
            bytes.pop();
        }
        self.environment.insert(secret.into(), OsString::from_vec(bytes));
        self.sources.insert(secret, Source::File(path));
    }

    fn read(
        &mut self,
        name: &str,
        path: &Path,
        hint: &str,
        surroundings: &Surroundings,
    ) -> Option<Vec<u8>> {
        let (kind, expected) = match (surroundings.read)(path, FILE_MAX + 1) {
            Ok(bytes) if bytes.len() <= FILE_MAX => return Some(bytes),
            Ok(_) => (Kind::FileTooLarge, format!("a file of at most {FILE_MAX} bytes")),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                (Kind::FileNotFound, "a file that exists".to_owned())
            }
            Err(error) => (Kind::FilePermission, format!("a file that can be read: {error}")),
        };
        self.problems.push(Problem {
            kind,
            variable: name.to_owned(),
            value: path.display().to_string(),
            expected,
            hint: hint.to_owned(),
        });
        None
    }

    fn unknown(&mut self, place: String, key: &str, value: &str) {
        let is_secret = secret_name(&format!("-{key}=")).is_some();
        self.problems.push(Problem {
            kind: Kind::UnknownKey,
            variable: place,
            value: if is_secret { "hidden" } else { value }.to_owned(),
            expected: "a known key".to_owned(),
            hint: format!("did you mean {}? see docs/environment.md", names::nearest(key)),
        });
    }

    /// Only files can hold one; no process could be given it.
    fn look_for_nul(&mut self) {
        let with_nul: BTreeSet<_> = self
            .sources
            .keys()
            .filter(|variable| self.environment[OsStr::new(variable)].as_bytes().contains(&0))
            .copied()
            .collect();
        for variable in with_nul {
            self.environment.remove(OsStr::new(variable));
            self.problems.push(Problem {
                kind: Kind::NulByte,
                variable: variable.to_owned(),
                value: "hidden".to_owned(),
                expected: "text without a NUL byte".to_owned(),
                hint: "take it out of the file".to_owned(),
            });
        }
    }
}

/// Where TOML breaks off, and what would have been right.
fn syntax(text: &str, error: &toml::de::Error) -> (String, String) {
    let at = error.span().map_or(text.len(), |span| span.start.min(text.len()));
    let before = &text[..text.floor_char_boundary(at)];
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    (format!("line {line}, column {column}"), format!("TOML: {}", error.message()))
}
